"""What sharding gathers and copies, moment by moment, counted by hand from the engines' source."""

import dataclasses

import pytest

from labkit.memory.buffers import Moment, buffers, gradients, moment_of, most, shard
from labkit.memory.settings import StepSettings
from labkit.memory.sharding import Sizes, state_bytes

LAYERS = 10
SMALL = Sizes(total=1_200_000, trainable=1_200_000, layer=100_000, root=200_000, layers=LAYERS,
              weight=90_000, tied=True)  # fmt: skip
LARGE = Sizes(total=8_000_000_000, trainable=8_000_000_000, layer=700_000_000,
              root=1_000_000_000, layers=LAYERS, weight=60_000_000)  # fmt: skip


def step(sharding, dtype="float32", **changes):
    return StepSettings(model="tiny-llama", method="full", sharding=sharding, num_gpus=4,
                        dtype=dtype, **changes)  # fmt: skip


@pytest.mark.parametrize(("moment", "elements"), [
    (Moment("embedding"), 2 * 200_000),
    (Moment("forward", 3), 200_000 + 2 * 100_000),
    (Moment("loss"), 200_000 + 100_000),
    (Moment("head"), 200_000 + 100_000),
    (Moment("backward", 9), 200_000 + 2 * 100_000),  # no layer after it has gradients on the way
    (Moment("backward", 5), 200_000 + 3 * 100_000),
    (Moment("backward", 0), 200_000 + 2 * 100_000),  # nor is there one before it to fetch
    (Moment("end"), 200_000 + 100_000),
    (Moment("reduction"), 200_000),
    (Moment("optimizer"), 0),
])  # fmt: skip
def test_fully_shard_gathers_a_layer_and_copies_it(moment, elements):
    assert buffers(step("fsdp2"), SMALL, moment) == 4 * elements


def test_gradients_of_sixteen_bits_are_sent_in_thirty_two():
    masters = step("fsdp2", "bfloat16")
    none = dataclasses.replace(masters, master_weights=False)
    last, middle = Moment("backward", 9), Moment("backward", 5)
    for settings, bytes_sent in ((masters, 4), (none, 2)):
        more = buffers(settings, SMALL, middle) - buffers(settings, SMALL, last)
        assert more == bytes_sent * 100_000


def test_layers_that_are_done_leave_shards_of_gradients_and_the_root_none():
    settings, whole = step("fsdp2"), 4 * (200_000 + 4 * 100_000)
    found = gradients(settings, SMALL, whole, Moment("backward", 6))  # 7, 8 and 9 are done
    assert found == 4 * (200_000 + 100_000 + 3 * 100_000 / 4)
    assert gradients(settings, SMALL, 4 * SMALL.total, Moment("optimizer")) == SMALL.total


def test_stages_one_and_two_have_a_bucket_from_the_first_gradient_on():
    for sharding in ("zero1", "zero2"):
        for phase, elements in (("forward", 0), ("loss", 0), ("head", 0), ("backward", 1_200_000)):
            assert buffers(step(sharding), SMALL, Moment(phase)) == 4 * elements
        # A tied head's gradient waits for the embedding's; another one goes into the bucket.
        untied = dataclasses.replace(SMALL, tied=False)
        assert buffers(step(sharding), untied, Moment("head")) == 4 * 1_200_000
        assert buffers(step(sharding, "bfloat16"), LARGE, Moment("backward", 2)) == 2 * 5 * 10**8
    # In stage 2 a gradient is in the bucket once it is whole; in stage 1 it stays beside it.
    for sharding, kept in (("zero1", 500_000), ("zero2", 0)):
        assert gradients(step(sharding), SMALL, 4 * 500_000, Moment("backward", 6)) == 4 * kept


def test_stage_three_has_all_of_a_small_model_and_a_part_of_a_large_one():
    forward, bucket = Moment("forward", 9), 4 * 1_200_000
    # All of it is fetched at once, into a buffer and out of it.
    assert buffers(step("zero3"), SMALL, forward) == bucket + 4 * 2 * 1_200_000
    assert buffers(step("zero3"), SMALL, Moment("backward", 9)) == bucket + 4 * 1_200_000
    assert buffers(step("zero3"), SMALL, Moment("backward", 4)) == bucket + 4 * 700_000
    assert buffers(step("zero3"), SMALL, Moment("reduction")) == 2 * bucket
    # What may be whole is whole, and beside it what is left is fetched.
    small = dataclasses.replace(SMALL, small=300_000)
    assert buffers(step("zero3"), small, forward) == bucket + 4 * (300_000 + 2 * 900_000)
    # Of 8 billion, the layer's weight, one that is fetched ahead, and the buffer that came in.
    gathered = buffers(step("zero3", "bfloat16"), LARGE, Moment("forward", 3)) - 2 * 5 * 10**8
    assert gathered == 2 * 3 * 60_000_000


def test_stage_three_holds_shards_of_gradients_from_the_start():
    for phase in ("forward", "loss", "head", "backward"):
        assert gradients(step("zero3"), SMALL, 0, Moment(phase)) == 1_200_000


def test_deepspeed_steps_with_two_copies_of_the_gradients():
    for sharding, stepped, bucket in (("zero2", 2 * 10**9, 0), ("zero3", 10**9, 10**9)):
        found = buffers(step(sharding, "bfloat16"), LARGE, Moment("optimizer"))
        assert found == bucket + (2 + 4) * stepped


def test_the_end_is_the_embeddings_gradient_or_the_sending_of_all():
    parts = dict.fromkeys(("weights", "added_weights", "optimizer_state", "optimizer_temporary",
                           "activations", "inputs"), 0)  # fmt: skip
    parts |= {"gradients": 4 * 1_200_000, "temporary": 0}
    for temporary, sent in ((0, True), (10**9, False)):
        found = shard(step("zero3"), SMALL, parts | {"temporary": temporary}, Moment("end"))
        assert found["temporary"] == temporary
        assert (found["sharding_buffers"] == 2 * 4 * 1_200_000) is sent


@pytest.mark.parametrize(("window", "index", "stacks", "moment"), [
    ("forward", None, 1, Moment("embedding")),
    ("forward.0", 3, 1, Moment("forward", 3)),
    ("loss", None, 1, Moment("loss")),
    ("reference", None, 1, Moment("loss")),
    ("backward.head", None, 1, Moment("head")),
    ("backward.1", 2, 2, Moment("backward", 6)),
    ("backward.embedding.0.0", None, 2, Moment("end")),
    ("backward.embedding.1.0", None, 2, Moment("backward", 5)),
    ("optimizer", None, 1, Moment("optimizer")),
])  # fmt: skip
def test_windows_of_a_trace_are_moments(window, index, stacks, moment):
    assert moment_of(window, index, depth=10, stacks=stacks) == moment


def test_the_most_of_each_part_is_that_of_its_own_moment():
    parts = dict.fromkeys(("weights", "added_weights", "optimizer_state", "optimizer_temporary"), 0)
    found = most(step("zero2"), SMALL, parts | {"gradients": 4 * SMALL.total})
    assert found["gradients"] == SMALL.total  # as they are stepped: a quarter of 4 bytes each
    assert found["sharding_buffers"] == 4 * SMALL.total


def test_states_are_what_is_left_without_buffers():
    assert set(state_bytes(step("zero3"), SMALL)) == {"weights", "added_weights", "gradients",
                                                      "optimizer_state"}  # fmt: skip
