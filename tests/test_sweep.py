"""Points run in processes of their own, running out of memory is a result, and prediction holds."""

import json

import pytest

from labkit import sweep as sweeping
from labkit.errors import LabkitError
from labkit.memory.point import DONE, OUT_OF_MEMORY, run_in_process
from labkit.memory.settings import StepSettings
from labkit.sweep import largest_batch, predict_largest, process_bytes, render, sweep

GIB = 2**30


def settings_for(**fields):
    given = {"model": "tiny-llama", "target": "cpu", "batch_size": 2, "seq_len": 16, **fields}
    return StepSettings(**given)


@pytest.fixture
def simulated(monkeypatch):
    """Points without processes: 1 GiB for the process, and what the trace says, to the byte."""
    calls = []

    def run(settings, *, limit, steps):
        calls.append(settings)
        from labkit.memory.trace import trace

        peak = trace(settings).peak_bytes
        if limit is not None and GIB + peak > limit:
            return {"status": OUT_OF_MEMORY, "detail": "can't allocate memory"}
        return {"status": DONE, "detail": "", "peak_bytes": peak, "step_seconds": 0.5,
                "besides_bytes": GIB}  # fmt: skip

    monkeypatch.setattr(sweeping, "run_in_process", run)
    return calls


def test_a_real_point_runs_out_of_memory_without_taking_anything_along():
    free = run_in_process(settings_for(), limit=None, steps=1)
    assert free["status"] == DONE
    assert free["step_seconds"] > 0 and free["peak_bytes"] > 0
    # Below what the process itself held, so whatever it is that fails, it is memory.
    low = run_in_process(settings_for(), limit=free["besides_bytes"] // 2, steps=1)
    assert low["status"] == OUT_OF_MEMORY
    assert low["detail"]


def test_a_sweep_predicts_first_and_stops_a_variant_where_memory_ends(simulated, tmp_path):
    peak = sweeping.process_needs(settings_for(batch_size=4), 0)[0]
    points = list(
        sweep(
            "tiny-llama", batch_sizes=(1, 2, 4, 8, 16), directory=tmp_path, seq_len=16,
            memory_limit=GIB + peak, variants=({}, {"gradient_checkpointing": True}),
        )
    )  # fmt: skip
    plain = [p for p in points if not p.settings.gradient_checkpointing]
    again = [p for p in points if p.settings.gradient_checkpointing]
    assert [p.status for p in plain] == [DONE, DONE, DONE, OUT_OF_MEMORY]
    assert again[0].status == DONE
    for point in points:
        assert point.predicted_process_bytes > GIB
        assert point.tokens == point.batch_size * 16
    done = plain[0]
    assert done.tokens_per_second == pytest.approx(16 / 0.5)
    assert done.epoch_seconds(101) == pytest.approx(101 * 0.5)
    text = render(points, samples=100)
    assert OUT_OF_MEMORY in text and "min/epoch" in text


def test_a_sweep_that_was_stopped_goes_on(simulated, tmp_path):
    def go():
        return list(sweep("tiny-llama", batch_sizes=(1, 2), directory=tmp_path, seq_len=16))

    first = go()
    calls = len(simulated)
    assert go() == first
    assert len(simulated) == calls
    files = list(tmp_path.glob("point-*.json"))
    assert len(files) == 2
    assert {"status", "step_seconds", "tokens_per_second", "seconds_per_token"} <= set(
        json.loads(files[0].read_text())
    )


@pytest.mark.parametrize("batch", [1, 3, 7, 19])
def test_predicted_is_measured_or_a_little_lower_and_never_higher(simulated, tmp_path, batch):
    peak = sweeping.process_needs(settings_for(batch_size=batch), 0)[0]
    result = largest_batch(
        "tiny-llama", memory_limit=GIB + round(1.001 * peak), directory=tmp_path, seq_len=16
    )
    assert result.measured == batch
    assert result.measured - max(1, batch // 10) <= result.predicted <= result.measured
    assert {point.batch_size for point in result.points} >= {batch, batch + 1}


def test_a_limit_below_the_weights_is_one_sentence(simulated, tmp_path):
    settings = settings_for(model="smollm2-135m-instruct")
    with pytest.raises(LabkitError, match=r"below what smollm2-135m-instruct and its process hold"):
        predict_largest(settings, tmp_path, limit=GIB + 100_000)
    with pytest.raises(LabkitError, match="memory_limit must be above 0"):
        list(sweep("tiny-llama", memory_limit=0, directory=tmp_path))


def test_what_a_process_takes_is_measured_once(simulated, tmp_path):
    assert process_bytes(settings_for(), tmp_path) == GIB
    assert process_bytes(settings_for(batch_size=8), tmp_path) == GIB
    assert len(simulated) == 1
