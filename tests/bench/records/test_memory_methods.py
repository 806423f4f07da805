"""The record of every method's memory: what a run's own model takes is what is traced."""

from pathlib import Path
from typing import Any

import pytest

from labkit.bench.records import memory_methods
from labkit.memory.measured import measure_step
from labkit.memory.trace.tracing import trace
from labkit.models.tiny import build_tiny


@pytest.mark.parametrize("kind", memory_methods.VARIANTS, ids=lambda kind: next(iter(kind)))
def test_a_run_s_own_model_takes_what_is_traced(tmp_path: Path, kind: dict[str, Any]) -> None:
    """Starts that change the base included: they leave nothing behind that training would hold."""
    model = build_tiny("tiny-llama", tmp_path / "tiny", intermediate_size=192)
    _, size = memory_methods.SIZES[0]
    config = memory_methods.run_of(str(model), kind, size)
    settings = memory_methods.step_of(config)
    real = measure_step(memory_methods.trained_step(config, settings)).peak_bytes
    assert trace(settings).peak_bytes == pytest.approx(real, rel=0.01)
