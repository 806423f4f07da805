"""What a record of `labkit bench gpu` says of each claim: records made up, and the real one."""

import json
from pathlib import Path
from typing import Any

import pytest

from labkit.bench.gpu import reading, report
from labkit.machine.datasheets import find

COMMITTED = Path(__file__).parents[3] / "data" / "results" / "gpu.json"


def record(**parts: dict[str, Any]) -> dict[str, Any]:
    """Return a record with these parts' results; underscores in a part's name are spaces."""
    named = {
        name.replace("__", ", ").replace("_", " "): {"outcome": "done", "results": results}
        for name, results in parts.items()
    }
    return {"card": {"name": "a card"}, "versions": {"torch": "2"}, "rehearsal": False,
            "parts": named}  # fmt: skip


def verdicts(found: dict[str, Any]) -> dict[str, bool | None]:
    claims = report.claims(found)
    json.dumps(claims, allow_nan=False)
    report.render({**found, "claims": claims})
    return {claim["claim"]: claim["met"] for claim in claims}


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def layer(ratio: float, wide: int, narrow: int, tokens: int = 32768) -> dict[str, Any]:
    row = {"ratio": interval(ratio), "a_a": interval(1.0)}
    return {"tokens": tokens, "in_features": wide, "out_features": narrow, "mode": "full",
            "baseline": "eager", "rows": {"tensor": row, "row": row}}  # fmt: skip


def test_an_empty_record_claims_nothing() -> None:
    assert verdicts(record()) == {}
    assert verdicts(record(small_models={"x": {"out_of_memory": True}, "y": {"error": "no"},
                                         "z": {"skipped": "peft"}})) == {}  # fmt: skip


@pytest.mark.parametrize(("errors", "met"), [
    ((0.0, 0.01, -0.02), True), ((0.0, 0.01, 0.081), False), ((0.04, 0.04, 0.0), False),
    ((0.029, -0.029, 0.07), True), ((0.0, 0.0, -0.09), False),
])  # fmt: skip
def test_memory_is_judged_by_the_median_and_the_worst(errors: Any, met: bool) -> None:
    traces = {str(i): {"traced_bytes": 1000 * (1 + e), "predicted_seconds": [None, None]}
              for i, e in enumerate(errors)}  # fmt: skip
    row = {"allocated_bytes": 1000, "reserved_bytes": 1100, "step_seconds": 1.0, "gap": None}
    found = record(traces=traces, small_models={str(i): row for i in range(len(errors))})
    assert verdicts(found) == {"peak memory: traced against allocated": met}
    assert report.memory_rows(found)[0]["reserved_over_allocated"] == pytest.approx(0.1)


@pytest.mark.parametrize(("predicted", "met"), [(5, True), (6, True), (7, False)])
def test_a_largest_batch_may_be_too_low_and_never_too_high(predicted: int, met: bool) -> None:
    rows = {"a": {"predicted": predicted, "measured": 6}, "b": {"skipped": "no peft"}}
    assert verdicts(record(largest_batch=rows)) == {"largest batch, a": met}


def test_kernels_are_exact_only_when_all_kinds_were_compared() -> None:
    fine = {"cases": 6, "faults": []}
    every = {"quantize_rowwise float32": fine, "product float32": fine, "layer float32": fine}
    claim = "kernels equal the reference"
    assert verdicts(record(kernels__exact=every)) == {claim: True}
    spoilt = {**every, "product float32": {"cases": 6, "faults": [{}]}}
    assert verdicts(record(kernels__exact=spoilt)) == {claim: False}
    part = record(kernels__exact={"quantize_rowwise float32": fine})
    assert verdicts(part) == {claim: None}
    assert "6 of 6 cases; not compared: product, layer" in report.claims(part)[0]["figure"]


@pytest.mark.parametrize(("ratio", "met"), [(1.38, True), (1.36, False)])
def test_layers_are_judged_by_both_directions_together(ratio: float, met: bool) -> None:
    rows = {"up": layer(ratio, 2048, 8192), "down": layer(ratio, 8192, 2048),
            "few": layer(9.0, 2048, 8192, tokens=8192),
            "wide": layer(9.0, 4096, 16384)}  # fmt: skip
    found = verdicts(record(kernels__speed=rows))
    assert set(found.values()) == {met} and len(found) == 2
    assert verdicts(record(kernels__speed={"up": rows["up"]})) == {}


@pytest.mark.parametrize(("seconds", "met"), [(1.5, True), (2.1, False), (0.9, False)])
def test_step_times_are_judged_by_the_range(seconds: float, met: bool) -> None:
    row = {"allocated_bytes": 10, "reserved_bytes": None, "step_seconds": seconds, "gap": 0.01}
    traces = {"x": {"traced_bytes": 10, "predicted_seconds": [1.0, 2.0]}}
    found = verdicts(record(traces=traces, **{"8b": {"x": row}}))
    assert found["step times within the predicted range"] is met


def test_training_is_reported_whatever_it_is() -> None:
    row = {"ratio": interval(0.9), "a_a": interval(1.0), "batch_size": 4, "seq_len": 8}
    assert verdicts(record(training={"x": row})) == {"training step, x": None}


def test_the_committed_record_says_what_its_figures_say() -> None:
    found = json.loads(COMMITTED.read_text())
    assert not found["rehearsal"] and find(found["card"]["name"]).name == "h200"
    assert report.claims(found) == found["claims"]
    rows = [row for row in report.memory_rows(found) if "relative_error" in row]
    assert len(rows) == 18 and max(abs(row["relative_error"]) for row in rows) < 0.001
    # The process that compared the kernels ended before products and layers came out.
    assert found["parts"]["kernels, exact"]["outcome"] == "died with code 1"
    met = {claim["claim"]: claim["met"] for claim in found["claims"]}
    assert met["kernels equal the reference"] is None
    assert met["layer step, dim 2048, 32,768 tokens, one scale a tensor"] is False


def parts(card: str, **seconds: float) -> dict[str, Any]:
    rows = {"64 tokens 8→32 parts": {"seconds": seconds}, "64 tokens 32→8 parts": {"error": "no"}}
    return {**record(kernels__speed=rows), "card": {"name": card}}


def test_the_share_of_peak_and_what_an_equal_share_would_give() -> None:
    # An H200's datasheet: 989.5 TFLOP/s in bfloat16, 1,979 TOP/s in int8, without sparsity.
    whole = 2 * 64 * 8 * 32 / 989.5e12
    bf16 = {f"bf16_{product}": whole / 0.8 for product in ("y", "dx", "dw")}
    int8 = {f"int8_{product}": whole / 2 / 0.6 for product in ("y", "dx")}
    free = dict.fromkeys(reading.QUANTIZING, 0.0)
    found = parts("NVIDIA H200", **bf16, **int8, **free)
    (row,) = reading.layer_parts(found, width=8, tokens=64)
    assert row["layer"] == "8→32" and row["quantizing"] == 0
    assert (row["bf16_share"], row["int8_share"]) == pytest.approx((0.8, 0.6))
    # At equal shares a ceiling is reached: three products against half, half and one.
    assert row["at_equal_share"] == pytest.approx(1.5)
    assert row["of_parts"] == pytest.approx(3 / (2 * 0.8 / 2 / 0.6 + 1))
    assert reading.layer_parts({**found, "card": {"name": "no such"}}, width=8, tokens=64) == []
    assert reading.layer_parts(None, width=8, tokens=64) == []


def test_published_timings_give_the_same_shares(tmp_path: Path) -> None:
    # An A100's datasheet: 312 TFLOP/s in 16 bit, 624 TOP/s in int8. Another size is left out.
    milliseconds = 1e3 * 2 * 64 * 8 * 32 / 312e12
    timed = {f"fp16_{product}": milliseconds / 0.8 for product in ("y", "dx", "dw")}
    timed |= {f"int8_{product}_row": milliseconds / 2 / 0.6 for product in ("y", "dx")}
    timed |= {f"int8_{product}_tensor": 1.0 for product in ("y", "dx")}
    timed |= dict.fromkeys(reading.QUANTIZING, 0.0)
    size = {"in_features": 8, "out_features": 32, "tokens": 64, "milliseconds": timed}
    (tmp_path / "published.json").write_text(
        json.dumps({"a100_layer": {"rows": [size, {**size, "tokens": 128}]}})
    )
    (row,) = reading.published_parts(tmp_path / "published.json", width=8, tokens=64)
    assert (row["bf16_share"], row["int8_share"]) == pytest.approx((0.8, 0.6))
    assert row["at_equal_share"] == pytest.approx(1.5) and "A100" in row["card"]


def test_a_lesson_says_what_was_not_run_or_what_a_card_said(tmp_path: Path) -> None:
    none = reading.read(tmp_path / "gpu.json")
    assert none is None and reading.lines(none, "peak") == [reading.NOT_RUN]
    assert reading.step_rows(none) == []
    found = reading.read()
    assert found == json.loads(COMMITTED.read_text())
    said = reading.lines(found, "largest batch")
    assert "H200" in said[0] and len(said) == 7
    assert all(line.startswith("holds") for line in said[1:])
    rows = reading.step_rows(found)
    assert len(rows) == 18 and all(abs(row["error"]) < 0.001 for row in rows)


def test_a_check_that_ended_in_an_error_is_named_and_claims_nothing() -> None:
    sound = {name: {"cases": 2, "faults": []} for name in report.CHECKED}
    claim = "kernels equal the reference"
    assert verdicts(record(kernels__exact=sound))[claim] is True
    broken = record(kernels__exact={**sound, "layer float16": {"error": "ValueError: no"}})
    assert verdicts(broken)[claim] is None
    (said,) = (c["figure"] for c in report.claims(broken) if c["claim"] == claim)
    assert "layer float16" in said
