"""Hold the results of a batch-size sweep, points and the largest batch, and render them as text.

`sweep` makes them and `plots` draws them. A quantity that was not measured is None, never 0. The
tokens of a step are those of all devices and of all accumulated passes, so that points of different
variants can be compared by throughput.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from labkit.machine.datasheets import GIB
from labkit.memory.process.isolated import DONE
from labkit.memory.settings import StepSettings

PREDICTED = "predicted"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One point of a sweep. Bytes and seconds; None is not measured."""

    settings: StepSettings
    status: str
    """done, out of memory, or predicted for a device that is not here"""
    predicted_peak_bytes: int
    predicted_process_bytes: int
    """the predicted peak with what process, driver and allocator need besides"""
    memory_limit_bytes: int | None
    """what it ran under; for a predicted point what the device has"""
    peak_bytes: int | None = None
    """highest of what tensors held"""
    process_peak_bytes: int | None = None
    """highest of what the whole process held, looked at a hundred times a second"""
    resident_bytes: int | None = None
    """highest resident set of the process, before anything was recorded"""
    reserved_bytes: int | None = None
    """highest of what the caching allocator held from the card; None on a CPU, which has none"""
    device_used_bytes: int | None = None
    """in use on the card after the steps, as nvidia-smi shows it; None on a CPU"""
    step_seconds: float | None = None
    steps: int = 0
    """timed steps, of which `step_seconds` is the median"""
    predicted_step_seconds: tuple[float, float] | None = None
    detail: str = ""

    @property
    def batch_size(self) -> int:
        return self.settings.batch_size

    @property
    def samples(self) -> int:
        """Samples of one optimizer step, on all devices."""
        settings = self.settings
        return settings.batch_size * settings.gradient_accumulation_steps * settings.num_gpus

    @property
    def tokens(self) -> int:
        """Tokens of one optimizer step."""
        return self.samples * self.settings.seq_len

    @property
    def tokens_per_second(self) -> float | None:
        return self.tokens / self.step_seconds if self.step_seconds else None

    @property
    def fits(self) -> bool:
        """Whether it ran, or where nothing was run, whether it should."""
        if self.status == PREDICTED and self.memory_limit_bytes:
            return self.predicted_process_bytes <= self.memory_limit_bytes
        return self.status == DONE

    def epoch_seconds(self, samples: int) -> float | None:
        """Return the time of one pass over `samples`."""
        if self.step_seconds is None:
            return None
        return math.ceil(samples / self.samples) * self.step_seconds

    def to_json(self, *, samples: int | None = None) -> dict[str, Any]:
        """Return plain values, derived ones included."""
        speed = self.tokens_per_second
        return {
            **dataclasses.asdict(self),
            "batch_size": self.batch_size,
            "fits": self.fits,
            "tokens_per_second": speed,
            "seconds_per_token": 1 / speed if speed else None,
            "epoch_seconds": self.epoch_seconds(samples) if samples else None,
        }


@dataclass(frozen=True, kw_only=True)
class Largest:
    """The largest batch under a limit; 0 when not one sample fits, None when not measured."""

    settings: StepSettings
    memory_limit_bytes: int
    predicted: int
    measured: int | None = None
    points: tuple[Point, ...] = ()

    @property
    def holds(self) -> bool | None:
        """Whether the prediction keeps its promise.

        It is the measured one, or lower by one sample or by a tenth of a large batch, and
        never higher.
        """
        if self.measured is None:
            return None
        below = max(1, self.measured // 10)
        return self.measured - below <= self.predicted <= self.measured

    def to_json(self) -> dict[str, Any]:
        """Return plain values; of the points only what was run and how it ended."""
        return {
            "memory_limit_bytes": self.memory_limit_bytes,
            "predicted": self.predicted,
            "measured": self.measured,
            "holds": self.holds,
            "gradient_checkpointing": self.settings.gradient_checkpointing,
            "gradient_accumulation_steps": self.settings.gradient_accumulation_steps,
            "tried": [
                {"batch_size": each.batch_size, "status": each.status, "detail": each.detail,
                 "predicted_process_bytes": each.predicted_process_bytes}
                for each in self.points
            ],
        }  # fmt: skip


def render(points: Sequence[Point], *, samples: int | None = None) -> str:
    """Return points as a text table; `samples` adds the time of an epoch."""
    columns = f"{'batch':>6}{'accum.':>7}{'ckpt':>5}{'predicted GiB':>15}{'measured GiB':>14}"
    columns += f"{'tokens/s':>10}{'ms/token':>10}" + (f"{'min/epoch':>11}" if samples else "")
    lines = [columns]
    for point in points:
        settings, speed = point.settings, point.tokens_per_second
        measured = point.status if point.fits or point.status != PREDICTED else "does not fit"
        if point.peak_bytes:
            measured = f"{point.peak_bytes / GIB:.3f}"
        cells = [
            f"{settings.batch_size:>6}{settings.gradient_accumulation_steps:>7}",
            f"{'yes' if settings.gradient_checkpointing else 'no':>5}",
            f"{point.predicted_peak_bytes / GIB:>15.3f}{measured:>14}",
            f"{speed:>10,.0f}{1000 / speed:>10.2f}" if speed else f"{'–':>10}{'–':>10}",
        ]
        if samples:
            epoch = point.epoch_seconds(samples)
            cells.append(f"{epoch / 60:>11.1f}" if epoch else f"{'–':>11}")
        lines.append("".join(cells))
    return "\n".join(lines)


def say(point: Point) -> str:
    """Return one line about a point, for those who wait."""
    settings, words = point.settings, [f"batch {point.batch_size}"]
    if settings.gradient_checkpointing:
        words.append("checkpointing")
    if settings.gradient_accumulation_steps > 1:
        words.append(f"{settings.gradient_accumulation_steps} accumulated")
    text = f"{', '.join(words)}: predicted {point.predicted_peak_bytes / GIB:.2f} GiB"
    text += f", {point.predicted_process_bytes / GIB:.2f} with its process; {point.status}"
    if point.tokens_per_second:
        text += f", {point.tokens_per_second:,.0f} tokens/s"
    return text


def say_largest(found: Largest) -> str:
    """Return one line about a largest batch."""
    limit = f"under {found.memory_limit_bytes / GIB:.2f} GiB"
    checkpointing = " with checkpointing" if found.settings.gradient_checkpointing else ""
    measured = "not measured" if found.measured is None else f"measured {found.measured}"
    return f"largest batch {limit}{checkpointing}: predicted {found.predicted}, {measured}"
