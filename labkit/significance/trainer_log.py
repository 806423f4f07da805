"""Read the time of a training from the logs of Trainer and of other loggers.

A Trainer logs `train_runtime` when training ends, and only then: a `trainer_state.json` that was
saved before (in a checkpoint, say) has none. One that was resumed after its end has an entry for
each session, and they add up; the rate and the FLOPs of the last one are those of the whole, for
the Trainer divides all samples by the last session's time.

Tables are read as well: a Trainer's metrics with their names in the first line, `_runtime` of a
run exported from Weights & Biases (seconds since its start), and `Wall time` of a curve exported
from TensorBoard (from its first point to its last).
"""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError

MOST_CSV_BYTES = 2**26
LARGEST = 1e300
"""of numbers that are calculated with: JSON has whole ones that no float holds"""
CLOCKS = ("train_runtime", "_runtime", "wall time")


class NoTime(LabkitError):
    """A log without the time of its training, which another file may have."""


def training(file: Path, values: Any) -> dict[str, Any]:
    """Return {seconds, step, epoch, flos, samples, batch, clock, notes} of one training.

    `values` is a state with `log_history`, the list in it, the metrics of a training, or the rows
    of a table. Raises LabkitError where no time was logged, or two trainings were.
    """
    state = values if isinstance(values, dict) else {}
    history = values if isinstance(values, list) else state.get("log_history")
    entries = [entry for entry in (history or [state]) if isinstance(entry, dict)]
    sessions = _sessions(file, entries)
    if not sessions:
        raise NoTime(
            f"{file} has no train_runtime: it was saved before the training's time was logged, "
            "which usually stands in train_results.json or all_results.json of the training's "
            "output folder"
        )
    last = sessions[-1]
    rate = last.get("train_samples_per_second")
    return {
        "seconds": sum(_seconds(file, s["train_runtime"]) for s in sessions),
        "step": _known(last.get("step", state.get("global_step"))),
        "epoch": _known(last.get("epoch")),
        "flos": _known(last.get("total_flos")),
        "samples": float(rate) * _seconds(file, last["train_runtime"])
        if isinstance(rate, int | float) and _positive(rate) else None,
        "batch": _known(state.get("train_batch_size")),
        "clock": last.get("clock", "train_runtime"),
        "notes": _broken(file, entries) + _resumed(file, sessions),
    }  # fmt: skip


def _sessions(file: Path, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the entries with a time, one a session; the same one written twice counts once."""
    found: list[dict[str, Any]] = []
    for entry in entries:
        step, before = (_known(e.get("step")) for e in (entry, found[-1] if found else {}))
        if step is not None and before is not None and step < before:
            raise LabkitError(
                f"{file} holds more than one training (a train_runtime at step {before:g} and "
                f"after it an entry at step {step:g}): give each a file of its own"
            )
        # A training that is resumed after its end logs a time again, of no steps.
        if entry.get("train_runtime") is not None and entry not in found[-1:]:
            found.append(entry)
    return found


def _seconds(file: Path, value: Any) -> float:
    if not _positive(value):
        raise LabkitError(f"{file}: its time is {value!r}, not a number of seconds above 0")
    return float(value)


def _known(value: Any) -> float | None:
    """Return a number that can be compared; None for anything else that a log may have there."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if number and abs(value) <= LARGEST else None


def _positive(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value <= LARGEST


def _broken(file: Path, entries: list[dict[str, Any]]) -> list[str]:
    steps = [_known(entry.get("step")) for entry in entries
             for loss in (entry.get("loss"),)
             if isinstance(loss, float) and not math.isfinite(loss)]  # fmt: skip
    if not steps:
        return []
    return [f"{file}: the loss is not a number at {len(steps)} of the logged steps (first at step "
            f"{steps[0]}), so its time is that of a training that failed"]  # fmt: skip


def _resumed(file: Path, sessions: list[dict[str, Any]]) -> list[str]:
    if len(sessions) == 1:
        return []
    return [f"{file}: {len(sessions)} sessions of one training, their times added"]


def read_table(file: Path) -> list[dict[str, Any]] | None:
    """Read a logger's CSV into entries as a Trainer logs them; None where it is no log.

    Raises NoTime for the log of a training that has no time in it.
    """
    with file.open("rb") as handle:
        content = handle.read(MOST_CSV_BYTES + 1)
    if len(content) > MOST_CSV_BYTES:
        return None
    text = content.decode(json.detect_encoding(content), errors="replace")
    try:
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error:
        return None
    names = [name.strip().lower().removeprefix("train/") for name in rows[0]] if rows else []
    entries: list[dict[str, Any]] = [
        {name: _number(cell) for name, cell in zip(names, row, strict=False) if cell.strip()}
        for row in rows[1:]
    ]
    if "train_runtime" in names:
        return entries
    times = [e[clock] for clock in CLOCKS[1:] for e in entries if _positive(e.get(clock))]
    if len(times) > 1:
        clock = next(name for name in CLOCKS[1:] if name in names)
        seconds = max(times) - (min(times) if clock == "wall time" else 0)
        steps = [e[key] for key in ("global_step", "step", "_step") for e in entries
                 if _positive(e.get(key))]  # fmt: skip
        end = {"train_runtime": seconds, "step": max(steps, default=None), "clock": clock}
        return [*({k: v for k, v in e.items() if k in ("loss", "step")} for e in entries), end]
    if "step" in names and any("loss" in name for name in names):
        raise NoTime(
            f"{file} logs losses but no time: labkit looks for a column train_runtime, _runtime "
            "(Weights & Biases) or Wall time (TensorBoard)"
        )
    return None


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
