"""What elementwise kernels of a CPU take inside themselves, against the allocator's own count."""

from collections.abc import Callable

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from labkit.machine.cpu_allocator import CpuRecorder
from labkit.memory.trace import cpu_paths
from labkit.memory.trace.tracker import StorageTracker, replay

Operation = Callable[[torch.Tensor, torch.Tensor], object]
SHAPE = (64, 192)


@pytest.mark.parametrize(
    "types",
    [
        (torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32), (torch.float16, torch.bfloat16),
    ],
)  # fmt: skip
@pytest.mark.parametrize("operation", [torch.add, torch.sub, torch.mul, torch.div])
def test_operands_of_two_types_are_copied_to_the_common_one(
    operation: Operation, types: tuple[torch.dtype, torch.dtype]
) -> None:
    one, other = (torch.ones(SHAPE, dtype=dtype) for dtype in types)
    held = one.nbytes + other.nbytes
    with CpuRecorder() as recorder:
        operation(one, other)
    taken = recorder.peak.peak_bytes - recorder.peak.start_bytes
    with FakeTensorMode(), StorageTracker(workspaces=cpu_paths.workspaces()) as tracker:
        one, other = (torch.ones(SHAPE, dtype=dtype) for dtype in types)
        tracker.watch([one, other], "weights")
        for mark in ("forward", "backward.head", "optimizer", "end"):
            tracker.mark(mark)
            if mark == "forward":
                operation(one, other)
    forward = replay(tracker)[0]
    assert forward.peak_bytes - held == taken
