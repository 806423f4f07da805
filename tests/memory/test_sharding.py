"""Sharded states against the figures of the ZeRO paper and against one another."""

import dataclasses

import pytest

from labkit.errors import LabkitError
from labkit.memory.formula import analytic
from labkit.memory.settings import StepSettings
from labkit.memory.sharding import Sizes, state_bytes
from labkit.memory.trace.tracing import trace, trace_shardings

PAPER = Sizes(total=7_500_000_000, trainable=7_500_000_000, layer=200_000_000, root=100_000_000)


@pytest.mark.parametrize(
    ("sharding", "gigabytes"), [("zero1", 31.4), ("zero2", 16.6), ("zero3", 1.9)]
)
def test_figure_1_of_the_zero_paper(sharding, gigabytes):
    """7.5 billion parameters on 64 devices, mixed precision with Adam (K = 12)."""
    settings = StepSettings(model="tiny-llama", method="full", sharding=sharding, num_gpus=64)
    states = state_bytes(settings, PAPER)
    total = sum(states[name] for name in ("weights", "gradients", "optimizer_state"))
    assert total / 1e9 == pytest.approx(gigabytes, abs=0.05)


def test_fsdp2_shards_sixteen_bytes_or_eight():
    for master, each in ((None, 16), (False, 8)):
        settings = StepSettings(
            model="tiny-llama", method="full", sharding="fsdp2", num_gpus=8, master_weights=master
        )
        states = state_bytes(settings, PAPER)
        total = sum(states[name] for name in ("weights", "gradients", "optimizer_state"))
        assert total == each * PAPER.total // 8


def test_stages_one_and_two_save_a_frozen_base_nothing():
    one = StepSettings(model="llama-3-8b", method="lora", sharding="zero2", num_gpus=8)
    three = StepSettings(model="llama-3-8b", method="lora", sharding="zero3", num_gpus=8)
    assert analytic(one).parts["weights"] > 16e9
    assert analytic(three).parts["weights"] < 2.1e9


def test_full_fine_tuning_of_8b_on_four_cards():
    """The course's question: 8 billion parameters do not fit on one 40 GB card, and do on four."""
    shared = {"model": "llama-3-8b", "method": "full", "batch_size": 1, "seq_len": 1024,
              "gradient_checkpointing": True, "loss": "chunked"}  # fmt: skip
    alone = trace(StepSettings(**shared)).peak_bytes
    sharded = trace(StepSettings(**shared, num_gpus=4, sharding="fsdp2"))
    assert alone > 100 * 2**30
    assert sharded.peak_bytes < 40 * 2**30
    assert sharded.parts["weights"] == 4 * 8_030_261_248 // 4
    # Nothing is gathered while shards are stepped.
    optimizer = next(w for w in sharded.windows if w.name == "optimizer")
    assert optimizer.parts["sharding_buffers"] == 0


def test_data_parallel_copies_exchange_gradients_through_buckets_of_their_size():
    one = StepSettings(model="tiny-llama", method="full")
    two = StepSettings(model="tiny-llama", method="full", num_gpus=2)
    for column in (analytic, trace):
        alone, several = column(one), column(two)
        assert several.parts["sharding_buffers"] == 4 * alone.trainable_parameters
        assert several.peak_bytes - alone.peak_bytes == 4 * alone.trainable_parameters


def test_shardings_traced_together_are_those_traced_alone():
    settings = StepSettings(model="tiny-llama", method="full", num_gpus=4, seq_len=64)
    together = trace_shardings(settings, ["zero1", "zero3", "fsdp2"])
    for name, found in together.items():
        assert found == trace(dataclasses.replace(settings, sharding=name))
    with pytest.raises(LabkitError, match="by itself"):
        trace_shardings(settings, ["none"])
