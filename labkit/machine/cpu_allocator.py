"""Peak memory of a function on the CPU, to the byte.

CUDA's caching allocator keeps its own statistics; the CPU allocator does not. But every
allocation and release of a tensor's storage on the CPU is reported to PyTorch's profiler when it
runs with `profile_memory=True`: pointer, size, and a running total. That is what the allocator
was really asked for, including temporaries that live and die inside one operation, which no
tool that only sees tensors can know.

A profile of one training step holds tens of thousands of operators, which cost time and memory
we do not want to add to what we measure. The operators are recorded through `RecordFunction`,
the allocations are not, so we switch `RecordFunction` off and keep only the allocations: a few
milliseconds and a few hundred bytes per thousand of them.

Two limits follow from how the profiler counts:

* It knows nothing of blocks that were allocated before it was first switched on, and drops their
  release without a word. `start_bytes` counts those blocks by walking the live tensors instead;
  a step that was recorded once beforehand has what it leaves for the next one to release
  (gradients, optimizer state) known by then.
* It follows one thread. PyTorch's CPU backward runs in the thread that calls it, so a training
  step is complete; allocations of other threads (data loaders) are not seen. Nor are releases: a
  thread that sends may be the last to hold a buffer. That one was released shows at the latest when
  its address is given out again, and counts from then on.

Sources: `c10/core/CPUAllocator.cpp` (`ProfiledCPUMemoryReporter`), `torch.autograd.profiler`.
"""

import gc
import os
from dataclasses import dataclass, field
from typing import Any, Self

# Kineto prints a line on stderr each time a profile starts and stops, at a level above "error",
# and the allocator warns of the releases it cannot know; a notebook that measures each step must
# not be littered with them. The second is only read when torch is first imported.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

import torch
from torch.autograd.profiler import profile

from labkit.errors import LabkitError


@dataclass(frozen=True, kw_only=True)
class Peak:
    """What the tensor allocator held while something ran. All sizes in bytes.

    `peak_bytes` and `end_bytes` include the `start_bytes` that live tensors held at the start.
    `timeline` is one `(nanoseconds since the start, live bytes)` pair per allocation or release,
    the live bytes being those just after it. `marks` gives, for each name passed to
    `CpuRecorder.mark`, the index in the timeline at which it was set.
    """

    peak_bytes: int
    start_bytes: int
    end_bytes: int
    timeline: tuple[tuple[int, int], ...] = field(repr=False)
    marks: dict[str, int] = field(default_factory=dict)


def live_tensor_bytes() -> int:
    """Return the bytes of all CPU storages that Python can reach, each counted once.

    Gradients are followed from their parameters, because C++ may hold them alone. What only an
    autograd graph holds is not found: call this where no graph is alive.
    """
    storages: dict[int, int] = {}
    # Not `isinstance`: it asks lazy module proxies for their class and makes them import.
    tensors = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    for tensor in tensors:
        gradient = tensor.grad if tensor.is_leaf else None
        for each in (tensor, gradient):
            if each is None or each.device.type != "cpu" or each.layout is not torch.strided:
                continue
            if type(each).__module__ == "torch._subclasses.fake_tensor":
                continue
            try:
                storage = each.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
            except (RuntimeError, NotImplementedError):  # a subclass without a storage of its own
                continue
    storages.pop(0, None)
    return sum(storages.values())


class CpuRecorder:
    """Record the CPU allocator between `start()` and `stop()`, or inside a `with` block.

    The result is `recorder.peak`. Recorders do not nest, and none runs inside another profiler.
    """

    peak: Peak

    def __init__(self) -> None:
        self._profile: Any = None
        self._marks: list[tuple[str, torch.Tensor]] = []

    def start(self) -> Self:
        if torch.autograd._profiler_enabled():
            raise LabkitError(
                "a profiler is already running in this thread: stop it before measuring memory"
            )
        self._start_bytes = live_tensor_bytes()
        self._profile = profile(profile_memory=True, use_kineto=True)
        self._profile.__enter__()
        torch._C._autograd._enable_record_function(False)
        return self

    def mark(self, name: str) -> None:
        """Set a mark in the timeline: an allocation of one byte, found again by its pointer.

        Profiler clocks are not exact enough to place a moment between two allocations; an
        allocation is. Marked bytes are taken out of the result again.
        """
        self._marks.append((name, torch.empty(1, dtype=torch.uint8)))

    def stop(self) -> Peak:
        torch._C._autograd._enable_record_function(True)
        self._profile.__exit__(None, None, None)
        events = [
            (event.start_time_ns, event.extra_fields.alloc_size, event.extra_fields.ptr)
            for event in self._profile.kineto_results.experimental_event_tree()
            if event.name == "[memory]" and event.extra_fields.device.type == "cpu"
        ]
        self._profile = None
        self.peak = _summarise(events, self._start_bytes, self._marks)
        self._marks = []
        return self.peak

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()


def _summarise(
    events: list[tuple[int, int, int]],
    start_bytes: int,
    marked: list[tuple[str, torch.Tensor]],
) -> Peak:
    # A mark is alive until the end, so the last allocation at its address is the mark itself.
    mark_of_pointer = {tensor.data_ptr(): name for name, tensor in marked}
    mark_at: dict[int, str] = {}
    for index in range(len(events) - 1, -1, -1):
        _, size, pointer = events[index]
        if size == 1 and pointer in mark_of_pointer:
            mark_at[index] = mark_of_pointer.pop(pointer)

    held: dict[int, int] = {}
    live = peak = start_bytes
    first = events[0][0] if events else 0
    timeline: list[tuple[int, int]] = []
    marks: dict[str, int] = {}
    for index, (nanoseconds, size, pointer) in enumerate(events):
        if index in mark_at:
            marks[mark_at[index]] = len(timeline)
            continue
        live += size - held.pop(pointer, 0) if size > 0 else size
        if size > 0:
            held[pointer] = size
        else:
            held.pop(pointer, None)
        peak = max(peak, live)
        timeline.append((nanoseconds - first, live))
    return Peak(
        peak_bytes=peak,
        start_bytes=start_bytes,
        end_bytes=live,
        timeline=tuple(timeline),
        marks=marks,
    )
