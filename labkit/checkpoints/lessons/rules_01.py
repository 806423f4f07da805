"""Rules of lesson 01: bytes that follow from a model's sizes, and three columns that agree."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from labkit.checkpoints.rules import (
    COUNTED,
    Evidence,
    Finding,
    Values,
    closest,
    compare,
    number,
    positive,
    reasoned,
)
from labkit.errors import LabkitError

GIB, GB = 2**30, 1e9
RULE, MEETING = 18, 16
"""bytes per parameter that the rule counts, and those of them that are there at the same time"""
# Weight, gradient and two moments; 8-bit AdamW has two float32 scales per block of 256 besides.
EIGHT_BIT = 2 + 2 + 1 + 1
APART = 0.10
POINT = 0.1  # percentage points that an error may be rounded by
SEVERAL_BILLION = 10**9
"""the smallest model that 01.3 takes"""
KEPT = "what was kept for these settings"
NAMED_PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer state": "optimizer_state",
    "activations": "activations",
    "logits and loss": "logits_and_loss",
}
"""the parts that question 01.3 offers, and what the formula calls them"""


def rule_of_18(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 01.1: 18 bytes per parameter, the 16 that meet, in three units; and 8-bit moments."""
    names = ("parameters", "rule_bytes", "states_bytes", "states_gb", "states_gib")
    yield from positive(values, *names, "eight_bit_bytes_per_parameter")
    if values["model"] is not None:
        counted, findings = _parameters(values["model"])
        yield from findings
        if counted:
            source = "the count of the model's configuration"
            yield from compare("parameters", values["parameters"], counted, source, COUNTED)
    parameters, states = values["parameters"], values["states_bytes"]
    if parameters:
        yield from compare("rule_bytes", values["rule_bytes"], RULE * parameters, "the rule of 18")
        source = "what is there of the rule at the same time"
        yield from compare("states_bytes", states, MEETING * parameters, source)
    if states:
        yield from _within("states_gb", values["states_gb"], states / GB)
        yield from _within("states_gib", values["states_gib"], states / GIB)
    if values["line_that_leaves"] == "copy":
        yield Finding("consistent", "line_that_leaves is gone when the last gradient comes")
    elif values["line_that_leaves"] is not None:
        yield Finding("contradicts", "line_that_leaves is there when the optimizer steps")
    source = "what weights, gradients and two moments take"
    yield from compare(
        "eight_bit_bytes_per_parameter", values["eight_bit_bytes_per_parameter"], EIGHT_BIT, source
    )
    yield from reasoned(values)


def three_columns(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 01.2: three peaks as measured, the formula's own, trace near measurement, the error."""
    columns = [values[f"{name}_bytes"] for name in ("analytic", "traced", "measured")]
    yield from positive(values, "batch_size", "seq_len", "analytic_bytes", "traced_bytes",
                        "measured_bytes")  # fmt: skip
    given = [values[name] for name in ("model", "method", "batch_size", "seq_len")]
    if None not in given and min(given[2:]) > 0:
        try:
            formulas = _peaks(*given)
        except LabkitError as error:
            yield Finding("contradicts", f"model: {error}")
        else:
            claimed = values["analytic_bytes"]
            # A peak for a processor, in either type, and one for a card: each is right somewhere.
            nearest = min(formulas, key=lambda each: abs(each - (claimed or 0)))
            yield from compare("analytic_bytes", claimed, nearest, "what the formulas give")
    yield from _as_kept(values, evidence)
    analytic, traced, measured = columns
    if traced and measured:
        if abs(traced / measured - 1) > APART:
            yield Finding("contradicts", "traced_bytes and measured_bytes are far apart")
        else:
            yield Finding("consistent", "trace and measurement agree")
    if analytic and traced and measured and values["worst_error_percent"] is not None:
        worst = 100 * max(abs(analytic / measured - 1), abs(traced / measured - 1))
        if abs(values["worst_error_percent"] - worst) > POINT + 0.05 * worst:
            yield Finding("contradicts", "worst_error_percent is not what the three peaks give")
        else:
            yield Finding("consistent", "worst_error_percent is what the three peaks give")
    yield from reasoned(values)


def _as_kept(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Hold trace and measurement against what the lesson kept for these settings."""
    asked = ("model", "method", "batch_size", "seq_len")
    settings = {name: values[name] for name in asked if values[name] is not None}
    kept = evidence.measured("step_memory")
    alike = [
        each["values"]
        for each in kept
        if isinstance(each.get("settings"), dict)
        and all(each["settings"].get(name) == value for name, value in settings.items())
    ]
    names = ("traced_bytes", "measured_bytes")
    yield from closest(
        [
            [
                finding
                for name in names
                for finding in compare(name, values[name], number(found, name), KEPT)
            ]
            for found in alike
        ],
        "a step with these settings",
    )


def what_fits(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 01.3: the largest batch by formula, and the largest part with that batch."""
    yield from positive(values, "seq_len")
    asked = ("model", "device", "method", "gradient_checkpointing", "loss", "seq_len")
    claimed = values["largest_batch_size"]
    if None not in [values[name] for name in asked] and values["seq_len"] > 0:
        choices = {name: values[name] for name in ("device", "method", "loss", "seq_len")}
        choices["gradient_checkpointing"] = values["gradient_checkpointing"] == "on"
        yield from _fitted(values["model"], claimed, values["largest_part"], choices)
    yield from reasoned(values)


def _fitted(
    model: str, claimed: int | None, part: str | None, choices: dict[str, Any]
) -> Iterator[Finding]:
    from labkit.memory.calculator import fit, parameters_of

    try:
        if parameters_of(model) < SEVERAL_BILLION:
            yield Finding("contradicts", "model has less than a billion parameters")
        most = fit(model, **choices).largest_batch_size
        parts = fit(model, **choices, batch_size=max(1, claimed or most)).parts
    except LabkitError as error:
        yield Finding("contradicts", str(error))
        return
    if claimed is not None:
        # Where not even one sample fits, one is no rounding of none.
        slack = max(1, most // 10) if most else 0
        if abs(claimed - most) <= slack:
            yield Finding("consistent", "largest_batch_size is what the formulas fit on that card")
        else:
            side = "more" if claimed > most else "less"
            yield Finding(
                "contradicts", f"largest_batch_size is {side} than the formulas fit on that card"
            )
    if part is not None:
        # What an operation makes for itself is none of the answers, and can be as large as any.
        named = {name: parts.get(key, 0) for name, key in NAMED_PARTS.items()}
        if named[part] >= 0.9 * max(named.values()):
            yield Finding("consistent", "largest_part takes most there")
        else:
            yield Finding("contradicts", "largest_part takes less there than another part")


def _parameters(model: str) -> tuple[int | None, list[Finding]]:
    from labkit.memory.architectures import parameters, shape_of
    from labkit.memory.settings import StepSettings

    try:
        shape = shape_of(StepSettings(model=model, method="full"))
    except LabkitError as error:
        return None, [Finding("contradicts", f"model: {error}")]
    return (parameters(shape) if shape else None), []


def _peaks(model: str, method: str, batch_size: int, seq_len: int) -> list[int]:
    from labkit.memory.formula import analytic
    from labkit.memory.settings import StepSettings

    found = []
    step = StepSettings(model=model, method=method, batch_size=batch_size, seq_len=seq_len)
    here = replace(step, target="cpu")
    for each in (here, replace(here, dtype="float32"), step):
        formula = analytic(each)
        if formula is None:
            raise LabkitError(f"{model} has an architecture without formulas")
        found.append(formula.peak_bytes)
    return found


def _within(name: str, claimed: float | None, measured: float) -> Iterator[Finding]:
    """Compare closely: GB and GiB are seven percent apart, and telling them apart is the point."""
    if claimed is None:
        return
    if abs(claimed - measured) <= 0.02 * measured:
        yield Finding("consistent", f"{name} is states_bytes in that unit")
    else:
        yield Finding("contradicts", f"{name} is not states_bytes in that unit")


RULES = {"01.1": rule_of_18, "01.2": three_columns, "01.3": what_fits}
