"""The committed record of every method's memory: the bounds held on it, and still what we get."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from labkit.bench.records import memory_methods
from labkit.bench.records.memory_validation import DATA, summary
from labkit.memory.formula import analytic
from labkit.memory.measured import measure_step
from labkit.memory.settings import StepSettings
from labkit.memory.trace.tracing import trace
from labkit.models.tiny import build_tiny

RECORD = json.loads((DATA / "results" / "memory_methods.json").read_text())
ROWS = RECORD["rows"]
FIGURES = ("traced_bytes", "measured_bytes", "analytic_bytes", "error", "refused")
SIDES = FIGURES[:3]


def key(row: dict[str, Any]) -> str:
    return json.dumps({k: v for k, v in row.items() if k not in FIGURES}, sort_keys=True)


def compared(part: str) -> list[dict[str, Any]]:
    return [row for row in ROWS[part] if row["error"] is not None]


def test_the_summary_is_that_of_the_rows() -> None:
    assert set(ROWS) == set(RECORD["summary"]) == set(memory_methods.KINDS)
    assert RECORD["command"] == memory_methods.COMMAND
    for name, rows in ROWS.items():
        assert summary(rows) == RECORD["summary"][name]
        for row in compared(name):
            known, other = (row[k] for k in SIDES if k in row)
            above, below = (known, other) if "measured_bytes" in row else (other, known)
            assert row["error"] == pytest.approx(above / below - 1, abs=1e-5)


def test_every_method_on_every_base_has_a_row_or_a_reason() -> None:
    """No cell is empty: what cannot be says why, in one sentence."""
    kinds, bases = len(memory_methods.kinds()), len(memory_methods.bases())
    rows = ROWS["trained"]
    cells = {key(row) for row in rows}
    assert len(cells) == len(rows) == len(memory_methods.SIZES) * kinds * bases
    assert sum(row["model"] == "embedded" for row in rows) == kinds * bases
    refused = [row for row in rows if row["error"] is None]
    assert all("\n" not in row["refused"] and len(row["refused"]) > 40 for row in refused)
    first = [row for row in refused if row["model"] == "tiny"]
    first = [row for row in first if not row.get("gradient_checkpointing")]
    # DoRA on 8 bits, and starts that change plain weights on the three quantised bases.
    assert len(first) == 1 + 2 * 3


def test_traced_against_what_training_takes() -> None:
    for part, least in (("trained", 60), ("built", 20)):
        errors = [abs(row["error"]) for row in compared(part)]
        assert len(errors) >= least
        assert statistics.median(errors) <= 0.03 and max(errors) <= 0.05


def test_formula_against_trace() -> None:
    rows = compared("analytic")
    assert len(rows) >= 60 and {"llama-3-8b", "t5-large"} <= {row["model"] for row in rows}
    assert max(abs(row["error"]) for row in rows) <= 0.08


def test_formula_against_trace_where_few_layers_hide_nothing() -> None:
    """A three-layer T5: what one layer makes, and which stack makes it, is a large part of all."""
    rows = compared("small_t5")
    assert [key(row) for row in rows] == [
        key({"model": memory_methods.SMALL_T5, **choices})
        for choices in memory_methods.small_t5_grid()
    ]
    assert len(rows) >= 100 and {row["method"] for row in rows} >= {"full", "prefix", "prompt"}
    assert statistics.median(abs(row["error"]) for row in rows) <= 0.03
    assert max(abs(row["error"]) for row in rows) <= 0.08


def test_the_small_t5_s_formulas_and_some_traces_are_those_of_the_record(tmp_path: Path) -> None:
    memory_methods.write_small_t5(tmp_path)
    rows = compared("small_t5")
    for number, row in enumerate(rows):
        choices = {k: v for k, v in row.items() if k not in (*FIGURES, "model")}
        settings = StepSettings(model=str(tmp_path), **choices)
        found = analytic(settings)
        assert found is not None and found.peak_bytes == row["analytic_bytes"]
        if number % 20 == 7:
            assert trace(settings).peak_bytes == row["traced_bytes"]


def test_formulas_and_some_traces_are_still_those_of_the_record() -> None:
    rows = compared("analytic")
    for row in rows:
        choices = {k: v for k, v in row.items() if k not in FIGURES}
        found = analytic(StepSettings(**choices))
        assert found is not None and found.peak_bytes == row["analytic_bytes"]
    for row in rows[5::40]:
        choices = {k: v for k, v in row.items() if k not in FIGURES}
        assert trace(StepSettings(**choices)).peak_bytes == row["traced_bytes"]


def test_t5_large_fits_an_a100_whole_as_well_as_by_a_prefix() -> None:
    """The notes that this course grew from say that only the prefix does."""
    rows = ROWS["t5_large"]
    assert max(abs(row["error"]) for row in rows) <= 0.08
    for row in rows:
        asked = ("model", "method", "batch_size", "seq_len", "target_len", "padding")
        found = analytic(StepSettings(**{name: row[name] for name in asked}))
        assert found is not None and found.peak_bytes == row["analytic_bytes"]
    whole, prefix = ([row for row in rows if row["method"] == name] for name in ("full", "prefix"))
    assert len(whole) == len(prefix) == 6 and all(row["fits"] for row in prefix)
    for one, other in zip(whole, prefix, strict=True):
        assert one["fits"] is (one["largest_batch_size"] >= one["batch_size"])
        assert other["traced_bytes"] < one["traced_bytes"] / 2
        assert other["largest_batch_size"] > one["largest_batch_size"]


@pytest.mark.parametrize("kind", memory_methods.VARIANTS, ids=lambda kind: next(iter(kind)))
def test_a_run_s_own_model_takes_what_is_traced(tmp_path: Path, kind: dict[str, Any]) -> None:
    """Starts that change the base included: they leave nothing behind that training would hold."""
    model = build_tiny("tiny-llama", tmp_path / "tiny", intermediate_size=192)
    _, size = memory_methods.SIZES[0]
    config = memory_methods.run_of(str(model), kind, size)
    settings = memory_methods.step_of(config)
    real = measure_step(memory_methods.trained_step(config, settings)).peak_bytes
    assert trace(settings).peak_bytes == pytest.approx(real, rel=0.01)
