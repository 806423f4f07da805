"""The committed record of all comparisons: what the issue asks, held on it, and still what we get.

Formulas and time ranges are computed afresh for every row, traces and real steps for some.
"""

import json
import statistics

import pytest

from labkit.bench.records import memory_validation
from labkit.memory.formula import analytic
from labkit.memory.measured import measure
from labkit.memory.settings import StepSettings
from labkit.memory.trace.tracing import trace

RECORD = json.loads((memory_validation.DATA / "results" / "memory_validation.json").read_text())
ROWS, SUMMARY = RECORD["rows"], RECORD["summary"]
MIB = 2**20


def settings_of(row: dict, target: str) -> StepSettings:
    fields = ("model", "method", "gradient_checkpointing", "batch_size", "seq_len")
    given = {name: row[name] for name in fields}
    if "attention" in row:
        given |= {"attention": row["attention"], "dtype": "float32"}
    return StepSettings(**given, target=target)


def test_the_summary_is_that_of_the_rows():
    assert set(ROWS) == set(SUMMARY) == set(memory_validation.KINDS)
    for name, rows in ROWS.items():
        assert memory_validation.summary(rows) == SUMMARY[name]


def test_traced_against_measured():
    rows = ROWS["measured"]
    for key, least in (("method", 2), ("gradient_checkpointing", 2), ("batch_size", 3),
                       ("seq_len", 2), ("model", 7)):  # fmt: skip
        assert len({row[key] for row in rows}) >= least
    assert "smollm2-135m-instruct" in {row["model"] for row in rows}
    assert statistics.median(abs(row["error"]) for row in rows) <= 0.03
    for row in rows:
        apart = abs(row["traced_bytes"] - row["measured_bytes"])
        assert apart <= max(0.05 * row["measured_bytes"], MIB)


def test_float32_is_predicted_as_well():
    rows = ROWS["float32"]
    kinds = {(r["method"], r["gradient_checkpointing"], r["attention"]) for r in rows}
    assert len(kinds) == 8
    for key, least in (("batch_size", 3), ("model", 5)):
        assert len({row[key] for row in rows}) >= least
    assert "smollm2-135m-instruct" in {row["model"] for row in rows}
    errors = [abs(row["traced_bytes"] / row["measured_bytes"] - 1) for row in rows]
    assert statistics.median(errors) <= 0.03 and max(errors) <= 0.05
    large = [row for row in rows if row["model"] == "smollm2-135m-instruct"]
    formulas = [abs(row["analytic_bytes"] / row["measured_bytes"] - 1) for row in large]
    assert statistics.median(formulas) <= 0.08 and max(formulas) <= 0.15


def test_float32_traces_and_steps_are_still_those_of_the_record():
    tiny = [row for row in ROWS["float32"] if row["model"].startswith("tiny-")]
    for row in tiny[3::13]:
        settings = settings_of(row, "cpu")
        assert trace(settings).peak_bytes == row["traced_bytes"]
        assert analytic(settings).peak_bytes == row["analytic_bytes"]
        assert measure(settings).peak_bytes == pytest.approx(row["measured_bytes"], rel=0.01)


def test_traced_against_published():
    compared = [row for row in ROWS["published"] if row["error"] is not None]
    assert len(compared) >= 17
    for row in compared:
        assert row["explain"] or abs(row["error"]) <= 0.08
        assert row["error"] == pytest.approx(row["traced"] / row["published"] - 1, abs=2e-4)


def test_analytic_against_traced():
    errors = [abs(row["error"]) for row in ROWS["analytic"]]
    assert len(errors) >= 150
    assert statistics.median(errors) <= 0.08 and max(errors) <= 0.15


def test_time_ranges():
    rows = ROWS["time"]
    assert sum(row["held"] for row in rows) >= 0.8 * len(rows)
    assert all(row["high_seconds"] <= 2.5 * row["low_seconds"] for row in rows)


def test_formulas_and_ranges_are_still_those_of_the_record():
    for row in ROWS["analytic"]:
        assert analytic(settings_of(row, "cuda")).peak_bytes == row["analytic_bytes"]
    assert json.loads(json.dumps(list(memory_validation.time_rows()))) == ROWS["time"]
    table = json.loads((memory_validation.DATA / "memory_published.json").read_text())["rows"]
    assert [row["peak"] for row in table] == [row["published"] for row in ROWS["published"]]


def test_traces_and_steps_are_still_those_of_the_record():
    tiny = [row for row in ROWS["measured"] if row["model"].startswith("tiny-")]
    for row in tiny[5::29]:
        settings = settings_of(row, "cpu")
        assert trace(settings).peak_bytes == row["traced_bytes"]
        # What the allocator is asked for depends on nothing but the step.
        assert measure(settings).peak_bytes == pytest.approx(row["measured_bytes"], rel=0.01)
    for row in ROWS["analytic"][7::40]:
        assert trace(settings_of(row, "cuda")).peak_bytes == row["traced_bytes"]


def test_a_record_is_written_with_a_line_for_each_row(tmp_path):
    found = memory_validation.record({"time": list(memory_validation.time_rows())})
    memory_validation.write(found, tmp_path / "deep" / "record.json")
    text = (tmp_path / "deep" / "record.json").read_text()
    assert json.loads(text) == json.loads(json.dumps(found))
    assert text.count('"published_seconds"') == len(found["rows"]["time"])
    assert sum('"published_seconds"' in line for line in text.splitlines()) == len(ROWS["time"])
