"""The formula of two stacks against their trace, where the committed record has no row.

The record's steps are padded, with dropout and fused attention. These are without one of them.
"""

import itertools
from pathlib import Path
from typing import Any

import pytest

from labkit.bench.records.memory_methods import write_small_t5
from labkit.memory.formula import analytic
from labkit.memory.settings import StepSettings
from labkit.memory.trace.tracing import trace

METHODS = ("full", "lora", "ia3", "bottleneck", "prefix", "prompt")
CHANGES: dict[str, dict[str, Any]] = {
    "no dropout": {"config_overrides": {"dropout_rate": 0.0}, "padding": True},
    "no padding": {"padding": False},
    "eager": {"attention": "eager", "padding": True},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5")
    write_small_t5(folder)
    return folder


@pytest.mark.parametrize(("method", "change", "target"),
                         itertools.product(METHODS, CHANGES, ("cpu", "cuda")))  # fmt: skip
def test_formula_against_trace(method: str, change: str, target: Any, model: Path) -> None:
    settings = StepSettings(
        model=str(model), method=method, batch_size=32, seq_len=89, target_len=3, target=target,
        dtype="float32", **CHANGES[change],
    )  # fmt: skip
    formula = analytic(settings)
    assert formula is not None
    assert formula.peak_bytes == pytest.approx(trace(settings).peak_bytes, rel=0.08)
