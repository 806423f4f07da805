"""Drive the GPU that is measured, or a CPU that stands in for it in a rehearsal.

Everything a part asks of a device goes through `Card`, so a rehearsal takes every line that a
measurement takes. What a rehearsal measures says nothing.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from labkit.errors import LabkitError


@dataclass(frozen=True, kw_only=True)
class Card:
    """A CUDA device, or with `rehearsal` the CPU in its place."""

    rehearsal: bool = False

    @property
    def target(self) -> str:
        """The device's name for torch and for `StepSettings.target`: cuda or cpu."""
        return "cpu" if self.rehearsal else "cuda"

    def describe(self) -> dict[str, Any]:
        """Return name, capability, memory and driver of the device. Bytes."""
        if not self.rehearsal:  # only on a card
            return _facts()
        return {"name": "a rehearsal on the CPU", "compute_capability": None,
                "memory_bytes": 32 * 2**30, "multiprocessors": 1, "cuda": None}  # fmt: skip

    def synchronize(self) -> None:
        """Wait until the device has done everything it was given."""
        import torch

        if not self.rehearsal:  # only on a card
            torch.cuda.synchronize()

    def empty_cache(self) -> None:
        """Let the caching allocator give back what it holds."""
        import gc

        import torch

        gc.collect(0 if self.rehearsal else 2)
        torch.cuda.empty_cache()  # does nothing without CUDA

    def limit(self, memory_bytes: int | None) -> None:
        """Let this process allocate no more than so many bytes; None takes the limit away."""
        import torch

        if not self.rehearsal:  # only on a card
            whole = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, (memory_bytes or whole) / whole))

    def seconds(self, work: Callable[[], object], calls: int) -> float:
        """Return the time of one call of `work`, from so many made one after the other.

        On CUDA between two events, so that Python's own time counts only where the device waits
        for it.
        """
        if not self.rehearsal:  # only on a card
            return _between_events(work, calls)
        began = time.perf_counter()
        for _ in range(calls):
            work()
        return (time.perf_counter() - began) / calls

    def replayed(self, step: Callable[[], object]) -> Callable[[], object]:
        """Return `step` as a CUDA graph: the same kernels, without Python between them.

        A layer's step is a dozen launches, and what Python needs for them is more than a small
        layer's kernels take; in a long training step they overlap, in a benchmark they do not.
        """
        return step if self.rehearsal else _graph_of(step)


def _facts() -> dict[str, Any]:  # only on a card
    import torch

    found = torch.cuda.get_device_properties(0)
    return {
        "name": found.name,
        "compute_capability": [found.major, found.minor],
        "memory_bytes": found.total_memory,
        "multiprocessors": found.multi_processor_count,
        "cuda": torch.version.cuda,
    }


def _between_events(work: Callable[[], object], calls: int) -> float:  # only on a card
    import torch

    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    for _ in range(calls):
        work()
    after.record()
    torch.cuda.synchronize()
    return before.elapsed_time(after) / 1000 / calls


def _graph_of(step: Callable[[], object]) -> Callable[[], object]:  # only on a card
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def out_of_memory(error: BaseException) -> bool:
    """Say whether an error is the device's memory running out."""
    import torch

    return isinstance(error, torch.OutOfMemoryError)


def require() -> None:
    """Raise LabkitError when torch sees no CUDA device."""
    import torch

    if not torch.cuda.is_available():
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = f" (CUDA_VISIBLE_DEVICES={hidden!r})" if hidden is not None else ""
        raise LabkitError(
            f"there is no CUDA device here{why}: run this on a machine with one, or --rehearse it"
        )
