"""What the whole process of a training step needs, and the largest batch it can have under a limit.

A limit counts everything a process holds, so tensors are not enough:

    needed(B) = held + outside + max(traced peak(B), loading)

* `held`: interpreter, libraries, thread stacks, and what they made on a tiny step. A process that
  is started for it says so; it depends on the method's libraries and not on the model.
* `outside`: what a real step takes besides its tensors. Python's objects, compiled kernels and
  half-filled heap pages come to `HEAP_BYTES`, and each thread has buffers of its own. Blocks below
  128 KiB, such as an adapter's matrices with their gradients and Adam's states, lie in a heap that
  gives nothing back from its middle: half of their bytes come on top (`heap_gap_bytes`).
* `loading`: the weights and, in 16 bit, a copy of the largest one while it is converted. Training
  needs more than that, unless almost nothing is trained on very short samples.

Where the peak is not in the loss, a process that computes in 16 bit was seen to take up to a
quarter of the embedding table in float32 more than its tensors, at the end of the backward pass.
Why is not known; twice that is left for it. In float32 it does not happen.

**The largest batch.** needed(B) rises with B, on a line between the places where the peak moves to
another phase of the step. So the next batch to trace is where the line through the two nearest
traces meets the limit: three or four traces instead of a bisection's eight.
"""

import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from labkit.errors import LabkitError
from labkit.machine.datasheets import GIB
from labkit.machine.hardware import thread_count
from labkit.memory.architectures import adapted, added_matrices, shape_of
from labkit.memory.estimates import needed
from labkit.memory.process.isolated import DONE, run_in_process
from labkit.memory.settings import BYTES, StepSettings
from labkit.memory.step.imports import import_libraries

HEAP_BYTES = 38 * 2**20
THREAD_BYTES = 3 * 2**20
SMALL_BYTES = 128 * 2**10
"""Blocks below this lie in the heap: the threshold of `point.EXACT`."""
LOSS = ("loss", "backward.head")
"""Windows of a trace in which the largest tensors are logits."""
LARGEST_BATCH = 1 << 20


def process_needs(settings: StepSettings) -> tuple[int, int]:
    """Return the traced peak of a step, and what its whole process needs, in bytes.

    Raises `LabkitError` for settings that cannot be traced or run.
    """
    found = traced(settings)
    if settings.target == "cuda":
        return found.peak, needed(found.peak, settings)
    largest = largest_weight_bytes(settings)
    if settings.dtype == "float32":  # nothing is converted, and nothing unexplained was seen
        largest = 0
    loading = found.weights + 2 * largest
    tensors = max(found.loss_peak, found.other_peak + largest, loading)
    return found.peak, held_bytes(settings) + outside_bytes() + heap_gap_bytes(settings) + tensors


def outside_bytes() -> int:
    """Return what a step takes besides its tensors, whatever it trains."""
    return HEAP_BYTES + THREAD_BYTES * thread_count()


def heap_gap_bytes(settings: StepSettings) -> int:
    """Return what the gaps between small blocks take: half of what an adapter keeps in them."""
    shape = shape_of(settings)
    if shape is None or not adapted(shape, settings):
        return 0
    item = BYTES[settings.added_dtype]
    sizes = [rows * columns for rows, columns in added_matrices(shape, settings)]
    small = sum(size for size in sizes if size * item < SMALL_BYTES)
    share = small / (sum(sizes) or 1)
    return round(traced(settings).trained * share / 2)


@dataclass(frozen=True, kw_only=True)
class Traced:
    """What a trace says of a step that its process has to hold. Bytes."""

    peak: int
    loss_peak: int
    """in the loss and the head, forward and backward"""
    other_peak: int
    weights: int
    trained: int
    """what a method adds, its gradients, and the optimizer's state"""


def traced(settings: StepSettings) -> Traced:
    """Trace a step, once a process."""
    return _traced(_as_text(settings))


@lru_cache(maxsize=512)
def _traced(text: str) -> Traced:
    import_libraries()
    from labkit.memory.trace.tracing import trace

    result = trace(StepSettings(**json.loads(text)))
    peaks = {window.name: window.peak_bytes for window in result.windows}
    in_loss = max((peak for name, peak in peaks.items() if name in LOSS), default=0)
    parts = result.parts
    return Traced(
        peak=result.peak_bytes,
        loss_peak=in_loss,
        other_peak=max((peak for name, peak in peaks.items() if name not in LOSS), default=0),
        weights=parts["weights"],
        trained=parts["added_weights"] + parts["gradients"] + parts["optimizer_state"],
    )


def largest_weight_bytes(settings: StepSettings) -> int:
    """Return the bytes of the largest weight in the compute type."""
    shape = shape_of(settings)
    if shape is None:  # an architecture without formulas: a bound that hardly any exceeds
        return traced(settings).weights // 2
    width = max(shape.hidden * shape.vocab, shape.hidden * shape.mlp)
    return BYTES[settings.dtype] * width


def held_bytes(settings: StepSettings) -> int:
    """Return what a process holds that has imported and started everything, without a model."""
    neutral = dataclasses.replace(
        settings, model="tiny-llama", batch_size=1, seq_len=8, labelled_tokens=None,
        gradient_accumulation_steps=1, config_overrides={}, lora_r=4,
        lora_target_modules=("all-linear",), num_virtual_tokens=4,
    )  # fmt: skip
    return _held(_as_text(neutral), os.environ.get("OMP_NUM_THREADS"))


@lru_cache(maxsize=64)
def _held(text: str, threads: str | None) -> int:
    result = run_in_process(StepSettings(**json.loads(text)), limit=None, steps=0)
    if result["status"] != DONE or not result.get("held_bytes"):
        raise LabkitError(f"a step of a tiny model cannot be run here: {result['detail']}")
    return int(result["held_bytes"])


def predict_largest(settings: StepSettings, *, limit: int) -> int:
    """Return the largest batch whose process fits under `limit` bytes; 0 when not one sample fits.

    Raises `LabkitError` when the limit is below what the process and the weights take.
    """

    def need(batch_size: int) -> int:
        return process_needs(dataclasses.replace(settings, batch_size=batch_size))[1]

    if need(1) > limit:
        check_limit(settings, limit=limit)
        return 0
    return largest_under(need, limit)


def check_limit(settings: StepSettings, *, limit: int) -> None:
    """Raise `LabkitError` when `limit` is below what the process and the weights take."""
    one = dataclasses.replace(settings, batch_size=1)
    held = traced(one).weights + (held_bytes(one) if one.target == "cpu" else 0)
    if limit < held:
        raise LabkitError(
            f"memory limit {limit / GIB:.2f} GiB is below what the weights of {settings.model} and "
            f"the process take ({held / GIB:.2f} GiB): a step with one sample needs "
            f"{process_needs(one)[1] / GIB:.2f} GiB"
        )


def largest_under(need: Callable[[int], int], limit: int) -> int:
    """Return the largest batch of which `need` is at most `limit`; `need(1)` is, and it rises."""
    fits, beyond = (1, need(1)), (0, 0)
    guess = 2
    while guess <= LARGEST_BATCH:
        here = need(guess)
        if here <= limit:
            before, fits = fits, (guess, here)
        else:
            before, beyond = beyond, (guess, here)
        other = beyond if beyond[0] else before
        if beyond[0] - fits[0] == 1:
            break
        slope = (other[1] - fits[1]) / (other[0] - fits[0])
        meets = fits[0] + int((limit - fits[1]) / slope) if slope > 0 else 2 * fits[0]
        # Where the line says that this one is the last, its neighbour has to prove it.
        guess = max(meets, fits[0] + 1)
        if beyond[0]:
            guess = min(guess, beyond[0] - 1)
    return fits[0]


def _as_text(settings: StepSettings) -> str:
    values: dict[str, Any] = dataclasses.asdict(settings)
    return json.dumps(values, sort_keys=True, default=list)
