"""Every byte of a step, by storage: when it came, when it went, and what it was for.

A tensor is a view of a storage; memory belongs to storages. `StorageTracker` is a dispatch mode:
it sees the result of every operation below autograd, notes storages it has not seen, and learns
of their end through a weak reference. It works on fake tensors and on real ones alike.

What a storage was for can only be said afterwards: a gradient is a temporary result until it
becomes some parameter's `.grad`, and an activation is whatever the forward pass made that is
still there when the backward pass begins. So the tracker keeps a log and `replay` reads it:

    weights              frozen and trained weights of the model, and its buffers
    added_weights        what a parameter-efficient method trains
    weight_copies        weights cast to the compute type by autocast, kept for backward
    gradients            storages that became a .grad
    optimizer_state      storages the optimizer keeps
    activations          made in forward, still there at the start of backward
    logits_and_loss      made by the head and the loss, in forward and in backward
    optimizer_temporary  made and released by the optimizer step
    temporary            everything else, library workspaces included
    inputs               token ids, labels, mask

The peak of a step is the highest sum at one moment, never the sum of the parts' own peaks.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

PARTS = (
    "weights", "added_weights", "weight_copies", "gradients", "optimizer_state", "activations",
    "logits_and_loss", "optimizer_temporary", "temporary", "inputs",
)  # fmt: skip

_ADD = torch.ops.aten.add.Tensor
_DEVICE = torch.ops.prim.device.default
_META = torch.device("meta")
_CAST = torch.ops.aten._to_copy.default

# Bytes that an operation takes inside itself, as a function of its arguments.
Workspace = Callable[..., int]


@dataclass(frozen=True, kw_only=True)
class Window:
    """One phase of a step: its highest moment, and what there was at that moment. Bytes."""

    name: str
    peak_bytes: int
    parts: dict[str, int]
    """bytes of each part at the highest moment; they add up to `peak_bytes`"""
    maxima: dict[str, int]
    """highest value of each part on its own within the window"""
    operation: str
    """the operation that reached the peak"""


class StorageTracker(TorchDispatchMode):
    """Log storages as they come and go while operations run under it.

    `round_to` is the allocator's granularity in bytes; `workspaces` maps operations to what they
    take inside themselves, for kernels other than the ones that run here.
    """

    def __init__(
        self, *, round_to: int = 1, workspaces: Mapping[Any, Workspace] | None = None
    ) -> None:
        super().__init__()
        self.round_to = round_to
        self.workspaces = workspaces or {}
        self.sizes: list[int] = []
        self.operations: list[str] = []
        self.born_in: list[int] = []
        self.given: dict[int, str] = {}
        self.events: list[tuple[int, bool]] = []  # (storage, came)
        self.sums: dict[int, int] = {}  # a sum of gradients -> its first addend
        self.marks: list[tuple[str, int]] = [("start", 0)]
        self._ids: dict[int, tuple[int, weakref.ref]] = {}
        self._operation = "start"

    def mark(self, name: str) -> None:
        """Begin the window `name`."""
        self.marks.append((name, len(self.events)))

    def watch(self, tensors: Iterable[torch.Tensor | None], part: str) -> None:
        """Say what the storages of `tensors` are for, whether they are known already or not."""
        for tensor in tensors:
            if isinstance(tensor, torch.Tensor) and tensor.device.type != "meta":
                self.given[self._see(tensor)] = part

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is _DEVICE and isinstance(args[0], FakeTensor):
            # Asked for more often than all operations together; passed on, it costs as much as one.
            fake = args[0]
            return _META if fake.fake_mode.in_kernel_invocation else fake.fake_device
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self._operation = str(function)
            number = self._see(result)
            if torch.is_grad_enabled():
                if function is _CAST and self._part_of(args[0]) in ("weights", "added_weights"):
                    self.given.setdefault(number, "weight_copies")
            elif function is _ADD and not args[0]._is_view():
                self.sums[number] = self._see(args[0])
        elif isinstance(result, tuple | list):
            self._operation = str(function)
            for each in result:
                if isinstance(each, torch.Tensor):
                    self._see(each)
        if function in self.workspaces and (size := self.workspaces[function](*args)):
            storage = self._came(size)
            self.events.append((storage, False))
        return result

    def _part_of(self, tensor: torch.Tensor) -> str | None:
        known = self._ids.get(tensor.untyped_storage()._cdata)
        return self.given.get(known[0]) if known else None

    def _see(self, tensor: torch.Tensor) -> int:
        storage = tensor.untyped_storage()
        known = self._ids.get(storage._cdata)
        if known is not None:
            return known[0]
        number = self._came(storage.nbytes())
        key = storage._cdata
        self._ids[key] = (number, weakref.ref(storage, lambda _: self._went(key)))
        return number

    def _came(self, size: int) -> int:
        number = len(self.sizes)
        self.sizes.append(-(-size // self.round_to) * self.round_to)
        self.operations.append(self._operation)
        self.born_in.append(len(self.marks) - 1)
        self.events.append((number, True))
        return number

    def _went(self, key: int) -> None:
        number, _ = self._ids.pop(key)
        self.events.append((number, False))


def _events_as_run(tracker: StorageTracker) -> list[tuple[int, bool]]:
    """Return the log as autograd runs on tensors that are not fake.

    Where several gradients of one tensor meet, autograd adds into the first one if nobody else
    holds it, but never into a fake one (`accumulate` in torch/csrc/autograd/input_buffer.cpp). A
    first addend that goes right after its sum came is such a case: let it go before. A view is not:
    it holds its base. That of a tied table in float32 is one, its product's transpose; under
    autocast it is a cast's new tensor.
    """
    events = list(tracker.events)
    for index, (number, came) in enumerate(events[:-1]):
        if came and number in tracker.sums:
            addend = (tracker.sums[number], False)
            after = index + 1
            while after < len(events) and not events[after][1]:
                if events[after] == addend:
                    events[index], events[after] = events[after], events[index]
                    break
                after += 1
    return events


def replay(tracker: StorageTracker) -> list[Window]:
    """Return the windows of one step from a tracker's log, from its forward pass to its end."""
    names = [name for name, _ in tracker.marks]
    begin, end = names.index("forward"), names.index("end")
    parts = _parts(tracker, names)
    sizes = tracker.sizes
    events = _events_as_run(tracker)
    starts = [position for _, position in tracker.marks]

    live = dict.fromkeys(PARTS, 0)
    for number, came in events[: starts[begin]]:
        live[parts[number]] += sizes[number] if came else -sizes[number]
    windows = []
    for index in range(begin, end):
        total = highest = sum(live.values())
        at_peak, maxima, operation = dict(live), dict(live), "start of the phase"
        for number, came in events[starts[index] : starts[index + 1]]:
            change = sizes[number] if came else -sizes[number]
            part = parts[number]
            live[part] += change
            total += change
            if live[part] > maxima[part]:
                maxima[part] = live[part]
            if total > highest:
                highest, at_peak, operation = total, dict(live), tracker.operations[number]
        windows.append(
            Window(
                name=names[index],
                peak_bytes=highest,
                parts=at_peak,
                maxima=maxima,
                operation=operation,
            )
        )
    return windows


def _parts(tracker: StorageTracker, names: list[str]) -> list[str]:
    """Return what each storage was for, by number."""
    backward = next(i for i, name in enumerate(names) if name.startswith("backward"))
    alive = set()
    for number, came in tracker.events[: tracker.marks[backward][1]]:
        alive.add(number) if came else alive.discard(number)
    parts = []
    for number in range(len(tracker.sizes)):
        name = names[tracker.born_in[number]]
        if number in tracker.given:
            part = tracker.given[number]
        elif name in ("loss", "backward.head"):
            part = "logits_and_loss"
        elif name == "optimizer":
            part = "optimizer_temporary"
        elif number in alive and name.startswith("forward"):
            part = "activations"
        else:
            part = "temporary"
        parts.append(part)
    return parts
