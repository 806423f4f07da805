"""The recorder against sizes known from the code that allocates them."""

import pytest
import torch

from labkit.errors import LabkitError
from labkit.machine.cpu_allocator import CpuRecorder, _summarise, live_tensor_bytes

MIB = 2**20


def peak_of(function, *, prime=0):
    """What is recorded of a function, after `prime` runs whose records are thrown away."""
    for _ in range(prime + 1):
        with CpuRecorder() as recorder:
            function()
    return recorder.peak


def test_peak_counts_what_lives_together_and_not_what_was_released():
    def work():
        first = torch.empty(3 * MIB, dtype=torch.uint8)
        second = torch.empty(2 * MIB, dtype=torch.uint8)
        del first
        third = torch.empty(1 * MIB, dtype=torch.uint8)
        del second, third

    peak = peak_of(work)
    assert peak.peak_bytes - peak.start_bytes == 5 * MIB
    assert peak.end_bytes == peak.start_bytes
    assert [live - peak.start_bytes for _, live in peak.timeline] == [
        3 * MIB, 5 * MIB, 2 * MIB, 3 * MIB, 1 * MIB, 0,
    ]  # fmt: skip


def test_temporaries_inside_an_operation_count():
    # A sort by key allocates its index result inside the operator, before any tensor is returned.
    x = torch.rand(MIB)
    peak = peak_of(lambda: torch.sort(x).values.sum())
    assert peak.peak_bytes - peak.start_bytes >= MIB * (4 + 8)


def test_start_is_every_live_storage_once_with_gradients():
    before = live_tensor_bytes()
    weight = torch.nn.Parameter(torch.zeros(MIB))
    view = weight.detach()[: MIB // 2]
    (weight * 1.0).sum().backward()
    assert live_tensor_bytes() - before == 2 * 4 * MIB
    assert view.numel() == MIB // 2
    assert peak_of(lambda: None).peak_bytes == before + 2 * 4 * MIB


def test_a_primed_training_step_returns_to_where_it_started():
    net = torch.nn.Linear(256, 256)
    optimizer = torch.optim.AdamW(net.parameters(), foreach=True)
    x = torch.randn(8, 256)

    def step():
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()

    peak = peak_of(step, prime=1)
    parameters = 4 * sum(p.numel() for p in net.parameters())
    assert peak.end_bytes == peak.start_bytes == live_tensor_bytes()
    # The last step's gradients are released first, so the start already holds one set of them;
    # on top comes the copy that foreach=True makes of the second moment's root.
    assert parameters <= peak.peak_bytes - peak.start_bytes < 1.1 * parameters


def profiler_peak(function):
    """The whole profiler, operators and all: its own running total of live bytes."""

    def memory_events(nodes):
        for node in nodes:
            if node.name == "[memory]":
                yield node.start_time_ns, node.extra_fields
            yield from memory_events(node.children)

    with torch.autograd.profiler.profile(profile_memory=True, use_kineto=True) as profiled:
        function()
    events = sorted(
        memory_events(profiled.kineto_results.experimental_event_tree()), key=lambda e: e[0]
    )
    before = events[0][1].total_allocated - events[0][1].alloc_size
    return max(event.total_allocated for _, event in events) - before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_agrees_with_the_profiler_that_records_everything(dtype):
    net = torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dtype=dtype)
    x = torch.randn(2, 32, 64, dtype=dtype)

    def step():
        net.zero_grad()
        torch.nn.functional.mse_loss(net(x), x).backward()

    ours = peak_of(step, prime=2)
    assert ours.peak_bytes - ours.start_bytes == profiler_peak(step) > 0


def test_marks_fall_between_allocations_and_cost_nothing():
    with CpuRecorder() as recorder:
        first = torch.empty(100, dtype=torch.uint8)
        recorder.mark("middle")
        second = torch.empty(200, dtype=torch.uint8)
        del first, second
    peak = recorder.peak
    assert peak.marks == {"middle": 1}
    assert peak.peak_bytes - peak.start_bytes == 300


def test_refuses_to_run_inside_a_profiler():
    with (
        torch.profiler.profile(profile_memory=True),
        pytest.raises(LabkitError, match="profiler is already running"),
    ):
        peak_of(lambda: None)


def test_the_profiler_is_off_again_after_an_error():
    with pytest.raises(ZeroDivisionError):
        peak_of(lambda: 1 / 0)
    assert not torch.autograd._profiler_enabled()
    assert peak_of(lambda: None).timeline == ()


def test_what_another_thread_released_counts_no_longer_when_its_address_is_used_again():
    events = [(1, 100, 7), (2, 50, 8), (3, 100, 7), (4, -100, 7), (5, 10, 7)]
    found = _summarise(events, 1000, [])
    assert found.timeline == ((0, 1100), (1, 1150), (2, 1150), (3, 1050), (4, 1060))
    assert (found.peak_bytes, found.end_bytes) == (1150, 1060)
