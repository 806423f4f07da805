"""Leave settings out one at a time: what each saves of a step's memory, and what it costs in time.

Two settings that save memory can hide each other: with gradient checkpointing the activations are
small, and a shorter sample saves little more. So the question "what does this setting do?" has an
answer only beside all the others. This asks it from the top: everything is on, and each row takes
one thing back. The step is traced on a device that need not be here, and timed by its arithmetic.

Each row is kept as a measurement of the kind `left_out`, for the checkpoint of lesson 03.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from labkit.machine.datasheets import GIB
from labkit.memory.estimates import LABELS, Estimate, estimate, find_device, settings_for
from labkit.runs import measurements

KIND = "left_out"
ALL_ON = "everything on"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One step: what was left out, its peak on one device in bytes, its least time in seconds."""

    label: str
    peak_bytes: int
    at_peak: dict[str, int]
    """what there is at the peak, by name, in bytes; adds up to it"""
    step_seconds: float
    largest_batch_size: int | None
    fits: bool

    @property
    def largest_part(self) -> str:
        """The name of the largest part at the peak, as a table shows it."""
        return LABELS[max(self.at_peak, key=lambda name: self.at_peak[name])]


def leave_one_out(
    model: str,
    *,
    device: str,
    on: Mapping[str, Any],
    left_out: Mapping[str, Mapping[str, Any]],
) -> Iterator[Row]:
    """Yield the step with everything on, then one row for each entry of `left_out`.

    `on` are fields of `StepSettings` and `left_out` maps the name of a setting to the fields that
    take it back, such as `{"checkpointing": {"gradient_checkpointing": False}}`. Each row is one
    trace, some seconds. Raises LabkitError for settings that cannot be, before anything is traced.
    """
    card = find_device(device)
    plan = {ALL_ON: dict(on), **{label: {**on, **change} for label, change in left_out.items()}}
    for choices in plan.values():
        settings_for(card, model, **choices)

    def rows() -> Iterator[Row]:
        for label, choices in plan.items():
            row = row_of(label, estimate(model, device=device, **choices))
            keep(row, model=model, device=device, on=on, without=left_out.get(label, {}))
            yield row

    return rows()


def row_of(label: str, result: Estimate) -> Row:
    """Return the row of an estimate."""
    traced = result.peak_bytes["traced"]
    assert traced is not None and result.step_seconds is not None
    return Row(
        label=label, peak_bytes=traced, at_peak=result.at_peak, fits=result.fits,
        step_seconds=result.step_seconds[0], largest_batch_size=result.largest_batch_size,
    )  # fmt: skip


def keep(row: Row, **settings: Any) -> None:
    """Keep a row as a measurement."""
    values = {**dataclasses.asdict(row), "largest_part": row.largest_part}
    # Worked out, not taken: "seconds" in a name is for times that no two students share.
    values["least_time_s"] = values.pop("step_seconds")
    measurements.keep(KIND, values, label=row.label, **settings)


def render(rows: list[Row]) -> str:
    """Return rows as a text table: peak, difference from the first, time against the first."""
    first = rows[0]
    width = max(len("left out"), *(len(row.label) for row in rows))
    lines = [f"{'left out':<{width}}  peak GiB  more GiB    time  largest batch  largest part"]
    for row in rows:
        more = (row.peak_bytes - first.peak_bytes) / GIB
        lines.append(
            f"{row.label:<{width}}{row.peak_bytes / GIB:>10.1f}{more:>+10.1f}"
            f"{row.step_seconds / first.step_seconds:>7.2f}×{row.largest_batch_size!s:>15}"
            f"  {row.largest_part}"
        )
    return "\n".join(lines)
