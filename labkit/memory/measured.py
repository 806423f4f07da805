"""The same table from a real step: on the CPU to the byte, on CUDA from its allocator.

The step is the one that `trace` runs, on tensors that have storages. Weights are random, which
changes no size. Two steps run: the first leaves the optimizer state behind and is not measured.

On the CPU the peak is what the tensor allocator was asked for (`labkit.machine.cpu_allocator`),
temporaries inside operations included. On CUDA it is `max_memory_allocated`, of which the allocator
reserves more (`max_memory_reserved`), and the driver takes its part on top: three different numbers
that published figures often do not tell apart.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from labkit.console import quiet
from labkit.errors import LabkitError
from labkit.machine.cpu_allocator import CpuRecorder
from labkit.memory.settings import StepSettings
from labkit.memory.step.build import build_step, load_config
from labkit.memory.step.training_step import Step


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a real step took. Bytes."""

    settings: StepSettings
    peak_bytes: int
    start_bytes: int
    """held before the step: weights and optimizer state, and the batch"""
    parts: dict[str, int]
    """parts that can be told apart from outside: those that tensors hold between steps"""
    phases: dict[str, int] = field(default_factory=dict)
    """highest moment of each phase, on the CPU"""
    reserved_bytes: int | None = None
    """what CUDA's caching allocator took from the device at most"""


def real_step(settings: StepSettings) -> Step:
    """Return the step of `settings` on tensors that have storages, weights random.

    Raises `LabkitError` when the target is CUDA and there is none.
    """
    device = settings.target
    if device == "cuda" and not torch.cuda.is_available():
        raise LabkitError("there is no CUDA device here: measure with target cpu, or trace")

    def allocate(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        tensor = torch.empty(tuple(shape), dtype=dtype, device=device)
        # Any values do, but denormal ones would slow every product down.
        return tensor.normal_(0, 0.02) if dtype.is_floating_point else tensor.zero_()

    with quiet():
        return build_step(settings, load_config(settings), allocate)


def step_peak(step: Step) -> int:
    """Return the peak of one more run of `step`, in bytes of its target's allocator."""
    if step.settings.target == "cuda":
        return _on_cuda(step).peak_bytes
    with CpuRecorder() as recorder:
        step.run(accumulated=1)
    return recorder.peak.peak_bytes


def measure(settings: StepSettings) -> Measured:
    """Run two real steps of `settings` on its target and measure the second.

    Raises `LabkitError` when the target is CUDA and there is none.
    """
    return measure_step(real_step(settings))


def measure_step(step: Step) -> Measured:
    """Run a step twice and measure the second run; the step can be run again afterwards."""
    with quiet():
        if step.settings.target == "cuda":
            step.run(accumulated=1)
            return _on_cuda(step)
        return _on_cpu(step)


def _on_cpu(step: Step) -> Measured:
    with CpuRecorder():
        step.run(accumulated=1)
    before = _held(step)
    with CpuRecorder() as recorder:
        step.run(recorder.mark, accumulated=1)
    peak = recorder.peak
    moments = [live for _, live in peak.timeline]
    # What was alive before the step besides it (another model in a notebook) is not its own.
    foreign = peak.start_bytes - sum(before.values())
    marks = [*sorted(peak.marks.items(), key=lambda item: item[1]), ("", len(moments))]
    phases = {
        name: max(moments[max(begin - 1, 0) : end], default=peak.start_bytes) - foreign
        for (name, begin), (_, end) in itertools.pairwise(marks)
    }
    return Measured(
        settings=step.settings,
        peak_bytes=peak.peak_bytes - foreign,
        start_bytes=peak.start_bytes - foreign,
        parts=before,
        phases=phases,
    )


def _on_cuda(step: Step) -> Measured:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = torch.cuda.memory_allocated()
    step.run(accumulated=1)
    torch.cuda.synchronize()
    return Measured(
        settings=step.settings,
        peak_bytes=torch.cuda.max_memory_allocated(),
        start_bytes=start,
        parts=_held(step),
        reserved_bytes=torch.cuda.max_memory_reserved(),
    )


def _held(step: Step) -> dict[str, int]:
    """Return the bytes of what stays between steps, by part, each storage counted once."""
    trainable = step.trainable()
    frozen = [p for p in step.model.parameters() if not p.requires_grad]
    states = [t for state in step.optimizer.state.values() for t in state.values()]
    added = "weights" if step.settings.tuner.trains_base else "added_weights"
    groups: list[tuple[str, list]] = [
        ("weights", [*frozen, *step.model.buffers(), *step.of_reference()]),
        (added, trainable),
        ("optimizer_state", states),
        ("inputs", [*step.inputs.values(), step.labels]),
    ]
    seen: set[int] = set()
    held: dict[str, int] = {}
    for part, tensors in groups:
        for tensor in tensors:
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                held[part] = held.get(part, 0) + storage.nbytes()
    return held
