"""Batch sizes one after another: what each costs, how fast it is, and the largest that fits.

Each point runs in a process of its own, so that running out of memory is a result and not a dead
kernel, and prediction comes first: a point's memory is traced before it is measured.

Memory grows with the batch B as `constant + B · slope`: weights, gradients and optimizer state do
not care, activations and logits do. Throughput B·s/t(B) rises while the step waits for
something that does not grow with B (launching operations, reading the weights, the optimizer
step) and saturates when the arithmetic itself is what takes the time: from there on a larger batch
costs memory and buys nothing.

**Under a limit** the whole process counts, so the prediction is

    needed(B) = process + traced peak(B) + what the kernels of the step take outside tensors

where `process` is what an empty run of a tiny model holds besides its tensors: interpreter,
libraries, thread stacks. How a limit is set and kept is in `memory.point`. On CUDA it is a share of
the card (`torch.cuda.set_per_process_memory_fraction`).
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError
from labkit.hardware import GIB, memory_limit_bytes
from labkit.memory.estimates import find_device, needed, settings_for
from labkit.memory.point import DONE, FAILED, OUT_OF_MEMORY, run_in_process
from labkit.memory.settings import StepSettings
from labkit.results import versions, write_json

# What products on a CPU take besides their tensors, as a share of the traced peak: reordered
# operands of oneDNN, the rounding of each block to pages.
OUTSIDE_TENSORS = 0.015


@dataclass(frozen=True, kw_only=True)
class Point:
    """One point of a sweep. Bytes and seconds; None is not measured."""

    settings: StepSettings
    status: str
    """done, out of memory, or failed"""
    predicted_peak_bytes: int
    predicted_process_bytes: int
    """the predicted peak with what the process needs besides"""
    memory_limit_bytes: int | None
    peak_bytes: int | None = None
    step_seconds: float | None = None
    detail: str = ""

    @property
    def batch_size(self) -> int:
        return self.settings.batch_size

    @property
    def tokens(self) -> int:
        """Tokens of one optimizer step."""
        settings = self.settings
        return settings.batch_size * settings.seq_len * settings.gradient_accumulation_steps

    @property
    def tokens_per_second(self) -> float | None:
        return self.tokens / self.step_seconds if self.step_seconds else None

    def epoch_seconds(self, samples: int) -> float | None:
        """Return the time of one pass over `samples`."""
        if self.step_seconds is None:
            return None
        each = self.settings.batch_size * self.settings.gradient_accumulation_steps
        return math.ceil(samples / each) * self.step_seconds

    def to_json(self) -> dict[str, Any]:
        """Return plain values, derived ones included."""
        return {
            **dataclasses.asdict(self),
            "tokens_per_second": self.tokens_per_second,
            "seconds_per_token": self.step_seconds / self.tokens if self.step_seconds else None,
        }


@dataclass(frozen=True, kw_only=True)
class Largest:
    """The largest batch under a limit, predicted and measured; 0 when not even one sample fits."""

    predicted: int
    measured: int
    memory_limit_bytes: int
    points: tuple[Point, ...] = field(repr=False)


def sweep(
    model: str,
    *,
    batch_sizes: Sequence[int] = (1, 2, 4, 8, 16),
    directory: str | Path = "runs/sweep",
    device: str = "cpu",
    memory_limit: int | None = None,
    variants: Sequence[dict[str, Any]] = ({},),
    steps: int = 3,
    **choices: Any,
) -> Iterator[Point]:
    """Yield a point for each variant and batch size, measured now or read from `directory`.

    `choices` are fields of `StepSettings`, `variants` changes to them such as
    `{"gradient_checkpointing": True}`. A point that was measured before with the same settings and
    versions is read, so a sweep that was stopped goes on. After the first point of a
    variant that runs out of memory the larger ones are not tried. Raises `LabkitError` for
    unknown settings and for a limit below the weights.
    """
    limit = _limit(memory_limit, device)
    for variant in variants:
        for batch_size in sorted(batch_sizes):
            settings = settings_for(
                find_device(device), model, batch_size=batch_size, **{**choices, **variant}
            )
            point = run_point(settings, Path(directory), limit=limit, steps=steps)
            yield point
            if point.status == OUT_OF_MEMORY:
                break


def largest_batch(
    model: str,
    *,
    memory_limit: int,
    directory: str | Path = "runs/sweep",
    device: str = "cpu",
    **choices: Any,
) -> Largest:
    """Find the largest batch that fits under `memory_limit` bytes: by prediction, then by running.

    The measured one is found by bisection, starting from the prediction. Raises `LabkitError`
    when the limit is below what weights and process take.
    """
    settings = settings_for(find_device(device), model, batch_size=1, **choices)
    folder = Path(directory)
    predicted = predict_largest(settings, folder, limit=memory_limit)
    points: dict[int, Point] = {}

    def runs(batch_size: int) -> bool:
        if batch_size not in points:
            changed = dataclasses.replace(settings, batch_size=batch_size)
            points[batch_size] = run_point(changed, folder, limit=memory_limit, steps=1)
        return points[batch_size].status == DONE

    fits, fails = 0, max(1, predicted)
    while runs(fails):
        fits, fails = fails, fails + max(1, fails // 10)
    while fails - fits > 1:
        middle = (fits + fails) // 2
        fits, fails = (middle, fails) if runs(middle) else (fits, middle)
    return Largest(
        predicted=predicted,
        measured=fits,
        memory_limit_bytes=memory_limit,
        points=tuple(points[each] for each in sorted(points)),
    )


def predict_largest(settings: StepSettings, directory: Path, *, limit: int) -> int:
    """Return the largest batch whose traced step fits under `limit` bytes with its process."""
    process = process_bytes(settings, directory)

    def fits(batch_size: int) -> bool:
        changed = dataclasses.replace(settings, batch_size=batch_size)
        return process_needs(changed, process)[1] <= limit

    if not fits(1):
        least = process_needs(settings, process)[1]
        held = _held_bytes(settings) + process
        if limit < held:
            raise LabkitError(
                f"memory_limit {limit / GIB:.2f} GiB is below what {settings.model} and its "
                f"process hold between steps ({held / GIB:.2f} GiB): one sample needs "
                f"{least / GIB:.2f} GiB"
            )
        return 0
    most = 1
    while fits(2 * most):
        most *= 2
    beyond = 2 * most
    while beyond - most > 1:
        middle = (most + beyond) // 2
        most, beyond = (middle, beyond) if fits(middle) else (most, middle)
    return most


def process_needs(settings: StepSettings, process: int) -> tuple[int, int]:
    """Return the traced peak of a step, and what its whole process needs."""
    from labkit.memory.trace import trace

    peak = trace(settings).peak_bytes
    if settings.target == "cuda":
        return peak, needed(peak, settings)
    return peak, round(process + peak * (1 + OUTSIDE_TENSORS))


def process_bytes(settings: StepSettings, directory: Path) -> int:
    """Return what a process takes besides its tensors, from an empty run of a tiny model.

    It depends on the libraries a method imports, not on the model; it is measured once.
    """
    if settings.target == "cuda":
        return 0
    probe = StepSettings(
        model="tiny-llama", method=settings.method, batch_size=1, seq_len=8, target="cpu",
        optim=settings.optim, gradient_checkpointing=settings.gradient_checkpointing,
    )  # fmt: skip
    file = directory / f"process-{_key(probe, None, 1)}.json"
    if file.is_file():
        return int(json.loads(file.read_text())["besides_bytes"])
    result = run_in_process(probe, limit=None, steps=1)
    if result["status"] != DONE:
        raise LabkitError(f"a tiny model cannot be trained here: {result['detail']}")
    write_json(file, result)
    return int(result["besides_bytes"])


def run_point(settings: StepSettings, directory: Path, *, limit: int | None, steps: int) -> Point:
    """Return one point: predicted, then measured in a process of its own, or read if it was."""
    file = directory / f"point-{_key(settings, limit, steps)}.json"
    if file.is_file():
        values = json.loads(file.read_text())
        names = {each.name for each in dataclasses.fields(Point)} - {"settings"}
        return Point(settings=settings, **{name: values[name] for name in names})
    peak, need = process_needs(settings, process_bytes(settings, directory))
    result = run_in_process(settings, limit=limit, steps=steps)
    if result["status"] == FAILED:
        raise LabkitError(f"a step of {settings.model} failed: {result['detail']}")
    point = Point(
        settings=settings,
        status=result["status"],
        predicted_peak_bytes=peak,
        predicted_process_bytes=need,
        memory_limit_bytes=limit,
        peak_bytes=result.get("peak_bytes"),
        step_seconds=result.get("step_seconds"),
        detail=result.get("detail", ""),
    )
    write_json(file, point.to_json())
    return point


def render(points: Sequence[Point], *, samples: int | None = None) -> str:
    """Return points as a text table; `samples` adds the time of an epoch."""
    columns = f"{'batch':>6}{'accum.':>7}{'ckpt':>6}{'predicted GiB':>15}{'measured GiB':>14}"
    columns += f"{'tokens/s':>10}{'ms/token':>10}" + (f"{'min/epoch':>11}" if samples else "")
    lines = [columns]
    for point in points:
        settings, speed = point.settings, point.tokens_per_second
        measured = f"{point.peak_bytes / GIB:.3f}" if point.peak_bytes else point.status
        cells = [
            f"{settings.batch_size:>6}{settings.gradient_accumulation_steps:>7}",
            f"{'yes' if settings.gradient_checkpointing else 'no':>6}",
            f"{point.predicted_peak_bytes / GIB:>15.3f}{measured:>14}",
            f"{speed:>10,.0f}{1000 / speed:>10.2f}" if speed else f"{'–':>10}{'–':>10}",
        ]
        if samples:
            epoch = point.epoch_seconds(samples)
            cells.append(f"{epoch / 60:>11.1f}" if epoch else f"{'–':>11}")
        lines.append("".join(cells))
    return "\n".join(lines)


def _held_bytes(settings: StepSettings) -> int:
    from labkit.memory.trace import trace

    parts = trace(settings).parts
    return sum(parts[name] for name in ("weights", "added_weights", "optimizer_state"))


def _limit(given: int | None, device: str) -> int | None:
    """Return the limit in bytes: what was asked for, else this process's control group's."""
    if given is not None:
        if given <= 0:
            raise LabkitError(f"memory_limit must be above 0 bytes, got {given}")
        return given
    return memory_limit_bytes() if device == "cpu" else None


def _key(settings: StepSettings, limit: int | None, steps: int) -> str:
    content = [dataclasses.asdict(settings), limit, steps, versions()]
    text = json.dumps(content, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
