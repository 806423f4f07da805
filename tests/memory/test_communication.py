"""What devices exchange: against the ZeRO paper, and against a ring that counts what it sends."""

import dataclasses

import pytest

from labkit.machine.datasheets import DEVICES
from labkit.machine.links import LINKS, SHARE
from labkit.memory.architectures import shape_of
from labkit.memory.communication import Exchange, exchange, seconds
from labkit.memory.settings import StepSettings
from labkit.memory.sharding import Sizes
from labkit.memory.step_time import exchanged, step_seconds, step_traffic_bytes

SIZES = Sizes(total=1200, trainable=1200, layer=300, root=300)


def step(sharding: str, n: int = 4, **choices: object) -> StepSettings:
    return StepSettings(model="tiny-llama", method="full", sharding=sharding, num_gpus=n,
                        **choices)  # fmt: skip


def ring(pieces: int, elements: int, *, rounds: int) -> int:
    """Count the elements that each device of a ring sends in so many rounds of N - 1 turns."""
    assert elements % pieces == 0
    return sum(elements // pieces for _ in range(rounds) for _ in range(pieces - 1))


@pytest.mark.parametrize(
    ("sharding", "rounds"), [("none", 2), ("zero1", 2), ("zero2", 2), ("zero3", 3)]
)
@pytest.mark.parametrize("n", [2, 4, 6])
def test_a_ring_sends_two_or_three_times_the_weights(sharding, rounds, n):
    """Section 7 of the ZeRO paper: 2Ψ without and with stages 1 and 2, 3Ψ with stage 3."""
    settings = step(sharding, n, dtype="float32")
    sent = 4 * ring(n, SIZES.total, rounds=rounds)
    assert exchange(settings, SIZES).total == pytest.approx(sent, rel=1e-12)


def test_fsdp2_keeps_what_is_outside_the_layers_between_the_passes():
    zero3, fsdp2 = (exchange(step(name), SIZES).gathered for name in ("zero3", "fsdp2"))
    assert zero3 - fsdp2 == 2 * 3 / 4 * SIZES.root


def test_fsdp2_sends_gradients_in_the_type_of_the_weights_that_are_stepped():
    """Three times the bytes of the weights, and once more for gradients in four bytes."""
    reduced = {name: exchange(step(name), SIZES).reduced for name in ("zero3", "fsdp2")}
    assert reduced["fsdp2"] == 2 * reduced["zero3"] == 4 * 3 / 4 * SIZES.trainable
    pure = exchange(step("fsdp2", master_weights=False), SIZES)
    assert pure.reduced == reduced["zero3"]


def test_accumulation_repeats_what_is_not_kept():
    names = ("none", "zero1", "zero2", "zero3")
    once, four = (
        {name: exchange(step(name, gradient_accumulation_steps=times), SIZES) for name in names}
        for times in (1, 4)
    )
    assert four["none"] == once["none"] and four["zero1"] == once["zero1"]
    assert four["zero2"] == Exchange(
        gathered=once["zero2"].gathered, reduced=4 * once["zero2"].reduced
    )
    assert four["zero3"].total == 4 * once["zero3"].total


def test_adapters_are_cheap_to_exchange_until_their_base_is_sharded():
    lora = StepSettings(model="llama-3-8b", method="lora", num_gpus=8)
    shape = shape_of(lora)
    alone = exchanged(shape, lora)
    third = exchanged(shape, dataclasses.replace(lora, sharding="zero3"))
    assert alone.gathered == 0 and alone.total < 0.3e9  # 42 million elements in fp32, twice
    assert third.gathered > 2 * 2 * 7 / 8 * 8.03e9  # the frozen base, for both passes


def test_time_is_hidden_at_best_and_added_at_worst():
    card, link = DEVICES["a100-40gb"], LINKS["nvlink-3"]
    settings = StepSettings(model="llama-3-8b", method="full", sharding="fsdp2", num_gpus=4,
                            batch_size=4, seq_len=2048)  # fmt: skip
    shape = shape_of(settings)
    fast, slow = seconds(exchanged(shape, settings), link)
    assert slow / fast == pytest.approx(SHARE[0] / SHARE[1])
    alone, together = (step_seconds(shape, settings, card, each) for each in (None, link))
    assert fast < alone[0] == together[0]
    assert together[1] == pytest.approx(alone[1] + slow)
    # Over a slow link a small batch waits for the weights, whatever the card can do.
    small = dataclasses.replace(settings, batch_size=1, seq_len=128)
    low, _ = step_seconds(shape, small, card, LINKS["pcie-4"])
    assert low == pytest.approx(seconds(exchanged(shape, small), LINKS["pcie-4"])[0])
    one = dataclasses.replace(settings, sharding="none", num_gpus=1)
    assert step_seconds(shape, one, card, link) == step_seconds(shape, one, card)


def test_each_device_steps_its_share():
    whole, eighth = (
        StepSettings(model="llama-3-8b", method="full", sharding=sharding, num_gpus=n,
                     master_weights=False, seq_len=128)
        for sharding, n in (("none", 1), ("fsdp2", 8))
    )  # fmt: skip
    shape = shape_of(whole)
    saved = step_traffic_bytes(shape, whole) - step_traffic_bytes(shape, eighth)
    # Two moments read and written, weights and gradients read and written: 7 × 2 bytes.
    assert saved == pytest.approx(7 / 8 * 14 * 8.03e9, rel=0.01)
