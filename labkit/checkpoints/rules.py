"""The parts that the rules of the lessons are built from (`lessons/rules_NN.py`).

A rule sees the parsed answer and the student's records and yields findings. It never knows a
"right" number: it recomputes from the records what the answer claims, or checks that the parts
of an answer fit together. What it says names the contradiction and not the number, so that a
student looks again instead of copying.

Measured values are compared within `CLOSE` (a student rounds); a change of memory counts as one
above `CHANGE`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any, Literal

from labkit import results
from labkit.results import RunRecord

CLOSE = 0.05
CHANGE = 0.03
FEWEST_WORDS = 8

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """One sentence about an answer."""

    kind: Literal["consistent", "contradicts", "missing"]
    text: str


@dataclass
class Evidence:
    """The student's finished runs; `used` collects those that a rule looked at."""

    used: list[RunRecord] = field(default_factory=list)

    @cached_property
    def records(self) -> list[RunRecord]:
        """Every finished run, oldest first."""
        return [record for record in results.records() if record.status == "done"]

    def pairs(self, setting: str) -> Iterator[tuple[RunRecord, RunRecord]]:
        """Yield pairs of runs, lower value first, whose settings differ in `setting` alone."""
        for one, other in combinations(self.records, 2):
            if one.model.get("sha256") != other.model.get("sha256"):
                continue
            if differences(one, other) == {setting}:
                low, high = sorted((one, other), key=lambda run: _order(run.config[setting]))
                self.used += [low, high]
                yield low, high


# Settings that change no step's cost. The number of steps is not among them: which batches a run
# sees decides how long its longest sample is.
IRRELEVANT = {"name", "report_to", "save_steps", "eval_steps", "keep_weights"}
IRRELEVANT |= {"learning_rate", "warmup_steps", "lr_scheduler_type", "weight_decay"}


def differences(one: RunRecord, other: RunRecord) -> set[str]:
    """Return the settings that can change a step's cost and differ between two runs."""
    keys = (set(one.config) | set(other.config)) - IRRELEVANT
    return {key for key in keys if one.config.get(key) != other.config.get(key)}


def _order(value: Any) -> float:
    """Return what "more" of a setting means: numbers and switches as they are, types by bytes."""
    return {"bfloat16": 2.0, "float32": 4.0}.get(value) or float(value)


def close(claimed: float, measured: float) -> bool:
    """Return whether a claimed value is the measured one, within a student's rounding."""
    return abs(claimed - measured) <= CLOSE * abs(measured) + 1e-12


def compare(name: str, claimed: float | None, measured: float | None, source: str) -> Iterator:
    """Yield a finding about one number against the one that `source` gives."""
    if claimed is None:
        return
    if measured is None:
        yield Finding("missing", f"{name} cannot be checked: {source} was not measured")
    elif close(claimed, measured):
        yield Finding("consistent", f"{name} is {source}")
    else:
        side = "above" if claimed > measured else "below"
        yield Finding("contradicts", f"{name} is {side} {source}")


def reasoned(values: Values) -> Iterator[Finding]:
    """Ask for an explanation that is one: a person grades what it says."""
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


def a_run(name: str, run: RunRecord | None, method: str) -> Iterator[Finding]:
    """Check that a named run is finished and of the method that is asked about."""
    if run is None:
        return
    if run.status != "done":
        yield Finding("contradicts", f"{name} is not finished: its record says {run.status}")
    if run.config.get("method") != method:
        yield Finding("contradicts", f"{name} is not a run with method: {method}")
