"""The trace against the real allocator, to the byte, for every architecture."""

import statistics

import pytest

from labkit.memory.measured import measure
from labkit.memory.settings import StepSettings
from labkit.memory.trace.tracing import trace


@pytest.mark.parametrize(
    "model", ["tiny-llama", "tiny-gemma", "tiny-phi", "tiny-bloom", "tiny-t5", "tiny-mamba"]
)
def test_traced_is_measured(model):
    errors = []
    length = 8 if model == "tiny-mamba" else 24  # a scan in Python takes its time
    for method, checkpointing in (("full", False), ("lora", True)):
        settings = StepSettings(
            model=model, method=method, gradient_checkpointing=checkpointing,
            batch_size=4, seq_len=length, target="cpu",
        )  # fmt: skip
        traced, real = trace(settings).peak_bytes, measure(settings).peak_bytes
        errors.append(abs(traced / real - 1))
    assert statistics.median(errors) <= 0.03
    assert max(errors) <= 0.05
