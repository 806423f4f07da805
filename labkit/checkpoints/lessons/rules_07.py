"""Rules of lesson 07: what preference tuning moves, what it gains, and what its reference costs."""

import math
import statistics
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from labkit.checkpoints.lessons.intervals import compared
from labkit.checkpoints.rules import (
    LEARNING,
    Evidence,
    Finding,
    Values,
    closest,
    compare,
    differences,
    finished,
    number,
    one_model,
    peak_allocated,
    positive,
    reasoned,
)
from labkit.runs.records import DEFAULTS, RunRecord
from labkit.runs.task_results import LAST_STEPS
from labkit.runs.task_settings import PREFERENCES, reference_of

MIB = 2**20
BILLION = 1e9
BYTES = {"16 bits": 2.0, "8 bits": 1.0, "4 bits": 0.5}
STORED = {"float32": 4, "bfloat16": 2}
EQUAL = 0.02
"""of a reward: below, neither answer moved further"""
FIRST_LOSS = 1e-3
LESS_THAN_MB = 0.03
"""of an amount in MiB; in MB it is 5 % more"""
QUANTISED = 0.15
"""what scales and unquantised embeddings add to the bits of a weight"""


def moved(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 07.1: first loss, last margin, what it means, and which answer moved further."""
    run: RunRecord | None = values["run"]
    yield from _preference_run("run", run)
    last = _rewards(run)
    if run is not None and run.losses:
        yield from compare("first_loss", values["first_loss"], run.losses[0],
                           "that of the record", 0, least=FIRST_LOSS)  # fmt: skip
    margin = last["margins"] if last else None
    yield from compare("margin", values["margin"], margin, "the mean margin of the last ten steps",
                       least=0.006)  # fmt: skip
    beta = run and number(run.config, "beta")
    if values["margin"] is not None and beta and abs(values["margin"] / beta) < 60:
        factor = math.exp(values["margin"] / beta)
        # A margin that was rounded to two places has its rounding raised to a power.
        within = 0.05 + 0.006 / beta
        yield from compare("odds_factor", values["odds_factor"], factor,
                           "what margin and beta give", within)  # fmt: skip
    if values["moved_further"] is not None and last is not None:
        gap = abs(last["chosen"]) - abs(last["rejected"])
        further = "chosen" if gap > 0 else "rejected"
        if values["moved_further"] == further or abs(gap) <= EQUAL:
            yield Finding("consistent", "moved_further has the larger mean reward, up or down")
        else:
            yield Finding("contradicts", "moved_further has the smaller mean reward, up or down")
    yield from reasoned(values)


def reference(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 07.3: what a copy of the model took beside its adapter switched off."""
    off, copy = values["off_run"], values["copy_run"]
    for name, run, wanted in (("off_run", off, "adapter_off"), ("copy_run", copy, "copy")):
        yield from _preference_run(name, run)
        if run is not None and _reference(run) != wanted:
            yield Finding("contradicts", f"{name} has not reference: {wanted}")
    yield from one_model(off_run=off, copy_run=copy)
    yield from positive(values, "copy_mib", "share_of_weights", "large_parameters", "large_copy_gb")
    if off is not None and copy is not None:
        if elsewhere := sorted(differences(off, copy) - {"reference", "model"}):
            yield Finding("contradicts", "off_run and copy_run differ in more than their "
                          f"reference: {', '.join(elsewhere)}")  # fmt: skip
        alone, copied = peak_allocated(off), peak_allocated(copy)
        cost = None if alone is None or copied is None else (copied - alone) / MIB
        yield from compare("copy_mib", values["copy_mib"], cost, "the difference of the two peaks",
                           LESS_THAN_MB)  # fmt: skip
        parameters = number(off.summary, "total_parameters")
        trained = number(off.summary, "trainable_parameters")
        if values["copy_mib"] is not None and parameters and trained is not None:
            size = STORED.get(str(off.summary.get("arithmetic")), STORED["float32"])
            share = values["copy_mib"] * MIB / (size * (parameters - trained))
            yield from compare("share_of_weights", values["share_of_weights"], share,
                               "copy_mib over the weights in the type of the run")  # fmt: skip
    if None not in (values["large_parameters"], values["large_bits"], values["large_copy_gb"]):
        expected = values["large_parameters"] * BYTES[values["large_bits"]]
        yield from compare(
            "large_copy_gb", values["large_copy_gb"], expected,
            "large_parameters times the bytes of each",
            0.05 if values["large_bits"] == "16 bits" else QUANTISED,
        )  # fmt: skip
    yield from reasoned(values)


def held_back(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 07.4: how far two runs with different beta went, and how long their answers became."""
    low, high = values["low_run"], values["high_run"]
    for name, run in (("low_run", low), ("high_run", high)):
        yield from _preference_run(name, run)
    yield from one_model(low_run=low, high_run=high)
    if low is not None and high is not None:
        rates = {key for key in LEARNING if low.config.get(key) != high.config.get(key)}
        if elsewhere := sorted((differences(low, high) | rates) - {"beta", "model"}):
            yield Finding("contradicts", "low_run and high_run differ in more than beta: "
                          f"{', '.join(elsewhere)}")  # fmt: skip
        betas = [number(run.config, "beta") or 0.0 for run in (low, high)]
        if not betas[0] < betas[1]:
            yield Finding("contradicts", "low_run has not the lower beta of the two")
    for side, run in (("low", low), ("high", high)):
        last, beta = _rewards(run), run and number(run.config, "beta")
        nats = -last["rejected"] / beta if last and beta else None
        yield from compare(f"{side}_nats", values[f"{side}_nats"], nats,
                           "minus the mean reward of rejected answers, divided by beta",
                           0.06, least=0.06)  # fmt: skip
        if run is not None and values[f"{side}_words"] is not None:
            kept = [number(each, "words") for each in evidence.values_of("answers_of", run=run)]
            each = [list(compare(f"{side}_words", values[f"{side}_words"], words,
                                 "your measurement")) for words in kept]  # fmt: skip
            yield from closest(each, f"answers of {side}_run")
    lower, higher = values["low_nats"], values["high_nats"]
    if None not in (values["went_further"], lower, higher):
        further = "lower beta" if lower > higher else "higher beta"
        if values["went_further"] == further or lower == higher:
            yield Finding("consistent", "went_further is the run with more nats")
        else:
            yield Finding("contradicts", "went_further is the run with fewer nats")
    yield from reasoned(values)


def _preference_run(name: str, run: RunRecord | None) -> Iterator[Finding]:
    yield from finished(name, run)
    if run is not None and run.config.get("task") != PREFERENCES:
        yield Finding("contradicts", f"{name} is not a run with task: {PREFERENCES}")


def _reference(run: RunRecord) -> Any:
    stated = {**DEFAULTS, **run.config}
    given = {name: str(stated[name]) for name in ("task", "method", "reference")}
    return reference_of(SimpleNamespace(**given))


def _rewards(run: RunRecord | None) -> dict[str, float] | None:
    """Return the mean rewards of a run's last steps; None where its record has none."""
    steps = run.steps[-LAST_STEPS:] if run is not None else []
    found: dict[str, float] = {}
    for name in ("chosen", "rejected", "margins"):
        each = [number(step["rewards"], name) for step in steps
                if isinstance(step.get("rewards"), dict)]  # fmt: skip
        if not steps or len(each) < len(steps) or None in each:
            return None
        found[name] = statistics.fmean(value for value in each if value is not None)
    return found


RULES = {"07.1": moved, "07.2": compared, "07.3": reference, "07.4": held_back}
