"""The meter against steps whose batches, times and allocations are known."""

import json
import types
from typing import Any

import pytest
import torch

from labkit.machine import meter as measure
from labkit.machine.cpu_allocator import live_tensor_bytes
from labkit.machine.meter import WARMUP_STEPS, Meter

MIB = 2**20


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A clock that stands still unless a test moves it."""
    now = types.SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now.seconds)
    return now


def step(
    meter: Meter, clock: Any, number: int, *, seconds: float, tokens: int = 10, padded: int = 12,
    samples: int = 2,
) -> None:  # fmt: skip
    meter.begin_step()
    meter.see_batch(tokens, padded=padded, samples=samples)
    clock.seconds += seconds
    meter.end_step(number, 1.0)


def measured_step(meter: Meter, number: int, padded: int, work: Any) -> dict[str, Any]:
    meter.begin_step()
    meter.see_batch(1, padded=padded, samples=1)
    work()
    return meter.end_step(number, 1.0)


def allocate(*mebibytes: int) -> None:
    """Hold this many MiB at once, one tensor each, and release them."""
    held = [torch.empty(size * MIB, dtype=torch.uint8) for size in mebibytes]
    del held


def test_peak_is_live_tensors_plus_what_the_step_holds_at_once() -> None:
    meter = Meter()
    weight = torch.zeros(7 * MIB, dtype=torch.uint8)
    before = live_tensor_bytes()
    entry = measured_step(meter, 1, 10, lambda: (allocate(3, 2), allocate(4)))
    assert entry["peak_bytes"] == before + 5 * MIB
    assert meter.summary()["peak_bytes"]["allocated"] == before + 5 * MIB
    assert before >= weight.nbytes


def test_peak_of_a_run_is_that_of_its_largest_step() -> None:
    meter = Meter()
    before = live_tensor_bytes()
    measured_step(meter, 1, 20, lambda: allocate(2))
    measured_step(meter, 2, 10, lambda: allocate(6))
    measured_step(meter, 3, 15, lambda: allocate(3))
    assert meter.summary()["peak_bytes"]["allocated"] == before + 6 * MIB


def test_after_the_first_only_a_larger_batch_is_recorded() -> None:
    meter = Meter()
    recorded = [
        "peak_bytes" in measured_step(meter, number, padded, lambda: None)
        for number, padded in enumerate([30, 10, 10, 8, 12, 11, 30], start=1)
    ]
    #                   first  second
    assert recorded == [True, True, False, False, True, False, True]


def test_gradient_accumulation_counts_all_batches_and_records_the_largest() -> None:
    meter = Meter()
    before = live_tensor_bytes()
    for number in (1, 2):
        meter.begin_step()
        meter.see_batch(5, padded=8, samples=1)
        allocate(1)
        meter.see_batch(7, padded=16, samples=3)
        allocate(2)
        entry = meter.end_step(number, 1.0)
    assert (entry["tokens"], entry["padded_tokens"], entry["samples"]) == (12, 24, 4)
    assert entry["peak_bytes"] == before + 2 * MIB


def test_a_real_step_s_peak_is_the_sum_of_its_known_parts() -> None:
    """Weights, gradients, momentum and one temporary of plain SGD, added up by hand."""
    weight = torch.nn.Parameter(torch.ones(MIB))
    before = live_tensor_bytes()
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, foreach=False)
    meter = Meter()

    def training_step() -> None:
        weight.sum().backward()
        optimizer.step()
        weight.grad = None

    for number in (1, 2):
        measured_step(meter, number, 10, training_step)
    # In the first step the gradient, and its copy that becomes the momentum; in the second the
    # momentum and a gradient; scalars of the sum and its gradient beside them.
    expected = before + 2 * weight.nbytes
    assert expected <= meter.summary()["peak_bytes"]["allocated"] <= expected + 64


def test_resident_set_is_the_step_s_own_peak() -> None:
    meter = Meter()
    measured_step(meter, 1, 1, lambda: torch.ones(64 * MIB, dtype=torch.uint8).sum())
    first = meter.summary()["peak_bytes"]["rss"]
    # An evaluation between two steps does not count, whatever it takes.
    evaluation = torch.ones(512 * MIB, dtype=torch.uint8)
    del evaluation
    measured_step(meter, 2, 1, lambda: None)
    second = meter.summary()["peak_bytes"]["rss"]
    assert first is not None and second is not None
    assert 64 * MIB < first <= second < first + 400 * MIB


def test_where_the_kernel_keeps_no_peak_it_is_null(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "reset_peak_rss", lambda: False)
    meter = Meter()
    measured_step(meter, 1, 1, lambda: None)
    assert meter.summary()["peak_bytes"]["rss"] is None


def test_evaluation_inside_the_window_is_refused() -> None:
    meter = Meter()
    meter.evaluation_begins()
    meter.begin_step()
    with pytest.raises(RuntimeError, match="evaluation began inside"):
        meter.evaluation_begins()
    meter.abandon_step()
    with pytest.raises(RuntimeError, match="outside a step"):
        meter.see_batch(1, padded=1, samples=1)
    with pytest.raises(RuntimeError, match="ended before it began"):
        meter.end_step(1, 1.0)


def test_an_abandoned_step_stops_the_recorder() -> None:
    meter = Meter()
    meter.begin_step()
    meter.see_batch(1, padded=1, samples=1)
    assert torch.autograd._profiler_enabled()
    meter.abandon_step()
    assert not torch.autograd._profiler_enabled()
    assert meter.steps == []


def test_speed_leaves_out_warm_up_and_recorded_steps(clock: Any) -> None:
    meter = Meter()
    for number in range(1, WARMUP_STEPS + 1):
        step(meter, clock, number, seconds=50.0)
    step(meter, clock, 4, seconds=2.0, tokens=100, samples=4)
    step(meter, clock, 5, seconds=90.0, tokens=999, padded=500)  # larger, so recorded
    step(meter, clock, 6, seconds=3.0, tokens=200, samples=6)
    step(meter, clock, 7, seconds=5.0, tokens=300, samples=8)
    summary = meter.summary()
    assert summary["tokens_per_second"] == pytest.approx(600 / 10)
    assert summary["samples_per_second"] == pytest.approx(18 / 10)
    assert summary["step_seconds_median"] == pytest.approx(3.0)
    assert summary["train_seconds"] == pytest.approx(3 * 50 + 2 + 90 + 3 + 5)


def test_a_run_in_three_sessions_is_summed_up_as_in_one(
    clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each session's first steps are slow; the largest batch, and the peak, were in the first."""
    peaks = iter([900, 500, 300])
    steps: list[dict[str, Any]] = []
    monkeypatch.setattr(measure, "reset_peak_rss", lambda: True)
    for session in range(3):
        meter, held = Meter(json.loads(json.dumps(steps))), next(peaks)
        monkeypatch.setattr(measure, "peak_rss", lambda held=held: held)
        for number in range(1, WARMUP_STEPS + 5):
            slow = number <= WARMUP_STEPS
            step(meter, clock, number, seconds=50.0 if slow else 2.0, tokens=100)
        steps = meter.steps
        assert meter.summary()["peak_bytes"]["rss"] == 900
        assert meter.summary()["tokens_per_second"] == pytest.approx(50)
        assert sum("cold" in each for each in steps) == (session + 1) * WARMUP_STEPS
    assert Meter(steps).summary()["peak_bytes"]["rss"] == 900
    assert Meter(steps).summary()["peak_bytes"]["allocated"] == meter.peak_allocated


def test_what_was_not_measured_is_null(clock: Any) -> None:
    meter = Meter()
    empty = meter.summary()
    assert empty["tokens_per_second"] is empty["step_seconds_median"] is None
    assert empty["peak_bytes"] == {"allocated": None, "reserved": None, "rss": None}
    for number in range(1, WARMUP_STEPS + 1):
        step(meter, clock, number, seconds=1.0)
    warm_up_alone = meter.summary()
    assert warm_up_alone["tokens_per_second"] is warm_up_alone["step_seconds_median"] is None
    assert warm_up_alone["peak_bytes"]["reserved"] is None


def test_a_resumed_run_keeps_its_steps_and_warms_up_again(clock: Any) -> None:
    before = Meter()
    for number in range(1, 6):
        step(before, clock, number, seconds=2.0, tokens=10)
    resumed = Meter(before.steps)
    for number in range(6, 12):
        slow = number < 6 + WARMUP_STEPS
        step(resumed, clock, number, seconds=100.0 if slow else 4.0, tokens=10)
    assert [entry["step"] for entry in resumed.steps] == list(range(1, 12))
    # Steps 4 and 5 of the first process, 9 to 11 of the second.
    assert resumed.summary()["tokens_per_second"] == pytest.approx(50 / (2 * 2 + 3 * 4))
    assert resumed.summary()["step_seconds_median"] == pytest.approx(4.0)
    assert len(before.steps) == 5


def test_a_resumed_run_keeps_the_peak_from_before() -> None:
    first = Meter()
    before = live_tensor_bytes()
    measured_step(first, 1, 20, lambda: allocate(9))
    resumed = Meter(first.steps)
    measured_step(resumed, 2, 10, lambda: allocate(1))
    assert resumed.summary()["peak_bytes"]["allocated"] == before + 9 * MIB


def test_time_spent_starting_the_recorder_is_not_the_step_s(
    clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from labkit.machine import cpu_allocator

    start = cpu_allocator.CpuRecorder.start

    def slow_start(self: Any) -> Any:
        clock.seconds += 30.0
        return start(self)

    monkeypatch.setattr(cpu_allocator.CpuRecorder, "start", slow_start)
    meter = Meter()
    step(meter, clock, 1, seconds=1.5)
    assert meter.steps[0]["seconds"] == pytest.approx(1.5)


def test_on_cuda_a_peak_between_steps_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's statistics replaced by a stand-in that keeps a peak until it is reset."""
    held = {"now": 0, "peak": 0}

    def hold(size: int) -> None:
        held["now"], held["peak"] = size, max(held["peak"], size)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: held["peak"])
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 2 * held["peak"])
    monkeypatch.setattr(
        torch.cuda, "reset_peak_memory_stats", lambda: held.update(peak=held["now"])
    )
    meter = Meter()
    measured_step(meter, 1, 1, lambda: (hold(50), hold(10)))
    hold(900)  # an evaluation
    hold(10)
    measured_step(meter, 2, 1, lambda: (hold(40), hold(10)))
    peaks = meter.summary()["peak_bytes"]
    assert (peaks["allocated"], peaks["reserved"]) == (50, 100)
