"""Build the rules of the lessons (`lessons/rules_NN.py`) from shared parts.

A rule sees the parsed answer and the student's records and yields findings. It never knows a
"right" number: it recomputes from the records what the answer claims, or checks that the parts
of an answer fit together. What it says names the contradiction and not the number, so that a
student looks again instead of copying.

Measured values are compared within `CLOSE` (a student rounds); a change of memory counts as one
above `CHANGE`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal

from labkit.runs import measurements, records
from labkit.runs.records import DEFAULTS, RunRecord

CLOSE = 0.05
COUNTED = 0.01
"""what a count may be rounded by: one that was copied, and not measured with a clock"""
CHANGE = 0.03
FEWEST_WORDS = 8
BEYOND = 1e30  # no byte, second or operation that anybody counts

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """One sentence about an answer."""

    kind: Literal["consistent", "contradicts", "missing"]
    text: str


@dataclass(kw_only=True)
class Evidence:
    """What a student measured; `used` collects the runs that a rule looked at."""

    runs: list[RunRecord] = field(default_factory=records.records)
    """every run, oldest first, finished or not"""
    sweeps: list[dict[str, Any]] = field(default_factory=lambda: sweep_points())
    """points of batch-size sweeps, as `labkit sweep` keeps them"""
    measurements: list[dict[str, Any]] = field(default_factory=measurements.read_all)
    """what lessons measured outside runs, as `labkit.runs.measurements` keeps it, oldest first"""
    here: bool = True
    """the student's own machine, where models can be looked at; False when others grade"""
    used: list[RunRecord] = field(default_factory=list)
    used_points: bool = False
    used_measurements: list[dict[str, Any]] = field(default_factory=list)

    @property
    def points(self) -> list[dict[str, Any]]:
        """The points of the sweeps, for a rule that looks at them."""
        self.used_points = True
        return self.sweeps

    def measured(self, kind: str) -> list[dict[str, Any]]:
        """Return the measurements of one kind, the latest last, for a rule that looks at them."""
        found = [each for each in self.measurements if each.get("kind") == kind]
        self.used_measurements += [each for each in found if each not in self.used_measurements]
        return found

    def values_of(self, kind: str, **runs: RunRecord) -> list[dict[str, Any]]:
        """Return what was measured of one kind for these runs, each by its part in it."""
        return [
            each["values"] for each in self.measured(kind)
            if all(each["settings"].get(part) == run.name for part, run in runs.items())
        ]  # fmt: skip

    @property
    def records(self) -> list[RunRecord]:
        """Every finished run, oldest first."""
        return [record for record in self.runs if record.status == "done"]

    def pairs(self, setting: str) -> Iterator[tuple[RunRecord, RunRecord]]:
        """Yield pairs of runs, lower value first, that differ in `setting` alone."""
        alike: dict[str, list[RunRecord]] = {}
        for record in self.records:
            rest = {k: v for k, v in cost_settings(record).items() if k != setting}
            alike.setdefault(json.dumps(rest, sort_keys=True, default=str), []).append(record)
        for group in alike.values():
            for one, other in combinations(group, 2):
                if one.config.get(setting) != other.config.get(setting):
                    low, high = sorted((one, other), key=lambda run: _order(run.config[setting]))
                    self.used += [low, high]
                    yield low, high


def sweep_points() -> list[dict[str, Any]]:
    """Return the readable points of the sweeps in the run folder, each as its file has it."""
    found = []
    for path in sorted(records.runs_dir().glob("*/point-*.json")):
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(value, dict) and isinstance(value.get("settings"), dict):
            found.append(value)
    return found


# Settings that change no step's cost. The number of steps is not among them: which batches a run
# sees decides how long its longest sample is.
IRRELEVANT = {"name", "report_to", "save_steps", "eval_steps", "keep_weights"}
IRRELEVANT |= {"max_eval_samples"}
LEARNING = {"learning_rate", "warmup_steps", "lr_scheduler_type", "weight_decay"}
IRRELEVANT |= LEARNING


def cost_settings(run: RunRecord) -> dict[str, Any]:
    """Return what can change the cost of a step: settings, model and data, these by content."""
    stated = {**DEFAULTS, **run.config}  # a record is older than some settings
    settings = {k: v for k, v in stated.items() if k not in IRRELEVANT}
    return settings | {"model": run.model.get("sha256"), "data": run.data.get("sha256")}


def differences(one: RunRecord, other: RunRecord) -> set[str]:
    """Return what can change the cost of a step and differs between two runs."""
    first, second = cost_settings(one), cost_settings(other)
    return {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)}


def _order(value: Any) -> float:
    """Return what "more" of a setting means: numbers and switches as they are, types by bytes."""
    known = {"bfloat16": 2.0, "float32": 4.0}
    return float(value) if isinstance(value, int | float) else known.get(str(value), 0.0)


def one_model(**runs: RunRecord | None) -> Iterator[Finding]:
    """Require that compared runs started from the same weights."""
    given = {name: run for name, run in runs.items() if run is not None}
    if len({run.model.get("sha256") for run in given.values()}) > 1:
        models = ", ".join(f"{name} of {run.model.get('name')}" for name, run in given.items())
        yield Finding("contradicts", f"the runs are of different models: {models}")


def close(claimed: float, measured: float, within: float = CLOSE, *, least: float = 0.0) -> bool:
    """Return whether a claimed value is the measured one, within a student's rounding.

    `within` is a share of the measured value, `least` an amount that is always allowed.
    """
    return abs(claimed - measured) <= max(within * abs(measured), least) + 1e-12


def compare(
    name: str, claimed: float | None, measured: float | None, source: str, within: float = CLOSE,
    *, least: float = 0.0,
) -> Iterator[Finding]:  # fmt: skip
    """Yield a finding about one number against the one that `source` gives, by `close`."""
    if claimed is None:
        return
    if measured is None:
        yield Finding("missing", f"{name} cannot be checked: {source} was not measured")
    elif close(claimed, measured, within, least=least):
        yield Finding("consistent", f"{name} is {source}")
    else:
        side = "above" if claimed > measured else "below"
        yield Finding("contradicts", f"{name} is {side} {source}")


def reasoned(values: Values) -> Iterator[Finding]:
    """Require an explanation; a person grades what it says."""
    text = values.get("explanation")
    if text is None:
        return
    if len(set(text.lower().split())) < FEWEST_WORDS:
        yield Finding("missing", "explanation: a reason, in a sentence or two")
    else:
        yield Finding("consistent", "an explanation is there (a person reads it)")


def quotient(values: Values, name: str, over: str, under: str, times: float = 1.0) -> Iterator:
    """Check that one field is the quotient of two others."""
    if None in (values[name], values[over], values[under]) or not values[under]:
        return
    measured = times * values[over] / values[under]
    yield from compare(name, values[name], measured, f"what {over} and {under} give")


def positive(values: Values, *names: str) -> Iterator[Finding]:
    """Refuse quantities that cannot be zero or less."""
    for name in names:
        if values[name] is not None and values[name] <= 0:
            yield Finding("contradicts", f"{name} is not above zero")


def finished(name: str, run: RunRecord | None) -> Iterator[Finding]:
    """Refuse a named run that did not come to its end."""
    if run is not None and run.status != "done":
        yield Finding("contradicts", f"{name} is not finished: its record says {run.status}")


def a_run(name: str, run: RunRecord | None, method: str) -> Iterator[Finding]:
    """Check that a named run is finished and of the method that is asked about."""
    yield from finished(name, run)
    if run is not None and run.config.get("method") != method:
        yield Finding("contradicts", f"{name} is not a run with method: {method}")


def closest(candidates: Sequence[Sequence[Finding]], what: str) -> Iterator[Finding]:
    """Yield the findings about the measurement that an answer fits best, the latest of equals.

    `candidates` are the findings for each measurement, oldest first. Without any, the evidence is
    missing: the lesson's cell was not run, or its file not handed in.
    """
    if not candidates:
        yield Finding("missing", f"no measurement of {what} is kept: run the lesson's cell for it")
        return
    kinds = [[each.kind for each in found] for found in candidates]
    wrong = [(found.count("contradicts"), found.count("missing")) for found in kinds]
    yield from candidates[min(range(len(wrong)), key=lambda place: (*wrong[place], -place))]


def peak_allocated(run: RunRecord) -> float | None:
    """Return a run's peak of allocated bytes; None where it did not live to write it down."""
    return number(run.summary.get("peak_bytes") or {}, "allocated")


def number(values: Mapping[str, Any], name: str) -> float | None:
    """Return a number of a measurement; None where a damaged file has none."""
    found = values.get(name)
    return float(found) if isinstance(found, int | float) and abs(found) < BEYOND else None
