"""Rules of lesson 04: what int8 costs in noise and gains in speed, held against what was measured.

The study of the first sitting and the benchmark of the third leave measurements:

    int8-layers   {"layers": [{layer, x_absmax, x_rms, w_absmax, w_rms, y_row_db, …}],
                   "gradient_layers": the same of a few layers, over more tokens,
                   "weight_gradients": {layer: [{tokens, precision, snr_db, …}]}}
    int8-step     {baseline_seconds, switchback_seconds, ratio and control {value, low, high},
                   control_p_value, …}

They may come from somebody else's hand: what is not the number it should be counts as not measured.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from labkit.checkpoints.rules import (
    Evidence,
    Finding,
    Values,
    compare,
    positive,
    quotient,
    reasoned,
)

Measured = Mapping[str, Any]
Check = Callable[[Values, Measured], Iterator[Finding]]
Rule = Callable[[Values, Evidence], Iterator[Finding]]

ROUNDED_DB = 0.6
"""A student rounds decibels to whole ones."""
ROUNDED_RATIO = 0.015
ALPHA = 0.05
FASTEST_RATE = 16.0
"""No unit multiplies int8 so many times faster than 16 bit."""


def _number(place: Any, *path: str) -> float | None:
    """Return the number at a path of keys, None where there is none."""
    for key in path:
        place = place.get(key) if isinstance(place, Mapping) else None
    usable = isinstance(place, int | float) and not isinstance(place, bool)
    return float(place) if usable and math.isfinite(place) else None


def _rows(found: Any) -> list[Mapping[str, Any]]:
    """Return the mappings of a list; of anything else nothing."""
    return [row for row in found if isinstance(row, Mapping)] if isinstance(found, list) else []


def decibels(name: str, claimed: float | None, measured: float | None, source: str) -> Iterator:
    """Yield a finding about decibels, which may be zero or less, against what `source` gives."""
    if claimed is None:
        return
    if measured is None:
        yield Finding("missing", f"{name} cannot be checked: {source} was not measured")
    elif abs(claimed - measured) <= ROUNDED_DB:
        yield Finding("consistent", f"{name} is {source}")
    else:
        side = "above" if claimed > measured else "below"
        yield Finding("contradicts", f"{name} is {side} {source}")


def held_against(kind: str) -> Callable[[Check], Rule]:
    """Make a rule of a check of one measurement; of several, the one that the answer fits best."""

    def rule_of(check: Check) -> Rule:
        def rule(values: Values, evidence: Evidence) -> Iterator[Finding]:
            latest_first = [each["values"] for each in reversed(evidence.measured(kind))]
            tried = [list(check(values, measured)) for measured in latest_first or [{}]]
            yield from min(tried, key=_misfit)
            yield from reasoned(values)

        rule.__doc__ = check.__doc__
        return rule

    return rule_of


def _misfit(findings: list[Finding]) -> tuple[int, int]:
    kinds = [finding.kind for finding in findings]
    return kinds.count("contradicts"), kinds.count("missing")


def _layer(layer: str | None, study: Measured, of: str = "layers") -> Measured:
    """Return what a study has of a layer; nothing where it has none."""
    rows = _rows(study.get(of))
    return next((row for row in rows if row.get("layer") == layer), {})


def _known(layer: str | None, study: Measured, row: Any, what: str) -> Iterator[Finding]:
    """Say that a layer was watched, that it wasn't, or that there was no study."""
    if layer is None:
        return
    if not study:
        yield Finding("missing", f"layer cannot be checked: {what} is not measured yet")
    elif not row:
        yield Finding("contradicts", f"layer is none that was watched for {what}")
    else:
        yield Finding("consistent", "the layer is one that you measured")


@held_against("int8-layers")
def outlier_factor(values: Values, study: Measured) -> Iterator[Finding]:
    """Check 04.1: the study's absmax and spread; 10 log10(12 · 127² / factor²), less 3 dB."""
    row = _layer(values["layer"], study)
    yield from _known(values["layer"], study, row, "the study of the layers")
    yield from positive(values, "absmax", "spread", "outlier_factor")
    if row and values["group"] is not None:
        group = values["group"].lower()
        for name, key in (("absmax", "absmax"), ("spread", "rms")):
            source = f"that of {values['group']} in your study"
            yield from compare(name, values[name], _number(row, f"{group}_{key}"), source)
    yield from quotient(values, "outlier_factor", "absmax", "spread")
    factor = values["outlier_factor"]
    if factor and factor > 0:
        allowed = 10 * math.log10(12 * 127**2 / factor**2) - 10 * math.log10(2)
        yield from decibels("snr_db", values["snr_db"], allowed, "what the formula gives")


@held_against("int8-layers")
def weight_gradient(values: Values, study: Measured) -> Iterator[Finding]:
    """Check 04.2: decibels of dW at two counts of tokens, and which side of Y they end on."""
    layer, few, many = (values[name] for name in ("layer", "tokens_few", "tokens_many"))
    row = _layer(layer, study, "gradient_layers")
    gradients = study.get("weight_gradients")
    table = gradients.get(layer) if isinstance(gradients, Mapping) else None
    yield from _known(layer, study, row and table, "weight gradients in int8")
    if None not in (few, many) and many <= few:
        yield Finding("contradicts", "tokens_many is not above tokens_few")
    measured: dict[Any, float | None] = {
        _number(each, "tokens"): _number(each, "snr_db")
        for each in _rows(table) if each.get("precision") == "int8"
    }  # fmt: skip
    for name, count in (("tokens_few", few), ("tokens_many", many)):
        if measured and count is not None and count not in measured:
            yield Finding("contradicts", f"{name} is no count that was measured for this layer")
    for name, count in (("few_db", few), ("many_db", many)):
        if count in measured:
            source = f"that of your study at {name.replace('_db', '')} tokens"
            yield from decibels(name, values[name], measured[count], source)
    if None not in (values["few_db"], values["many_db"]):
        lost = values["few_db"] - values["many_db"]
        yield from decibels("lost_db", values["lost_db"], lost, "few_db less many_db")
    if row:
        source = "that of Y in your study"
        yield from decibels("y_db", values["y_db"], _number(row, "y_row_db"), source)
    yield from _side(values)


def _side(values: Values) -> Iterator[Finding]:
    if None in (values["side"], values["many_db"], values["y_db"]):
        return
    apart = values["many_db"] - values["y_db"]
    if apart and (values["side"] == "above Y") != (apart > 0):
        yield Finding("contradicts", "side is not what many_db and y_db say")
    else:
        yield Finding("consistent", "the side follows from many_db and y_db")


@held_against("int8-layers")
def lost_decibels(values: Values, study: Measured) -> Iterator[Finding]:
    """Check 04.3: the study's SNRs, the layer that loses most; 10 dB are a factor of ten."""
    row = _layer(values["layer"], study)
    yield from _known(values["layer"], study, row, "the study of the layers")
    of, (rows, tensor, lost) = (
        values["product"],
        (values[name] for name in ("row_db", "tensor_db", "lost_db")),
    )
    if row and of is not None:
        for name, scale in (("row_db", "row"), ("tensor_db", "tensor")):
            measured = _number(row, f"{of.lower()}_{scale}_db")
            yield from decibels(name, values[name], measured, f"that of {of} in your study")
        mine = _lost(row, of)
        others = [
            each for other in _rows(study["layers"]) if (each := _lost(other, of)) is not None
        ]
        if mine is not None and max(others) > mine + ROUNDED_DB:
            yield Finding(
                "contradicts", f"layer is not the one whose {of} loses most in your study"
            )
    if None not in (rows, tensor):
        yield from decibels("lost_db", lost, rows - tensor, "row_db less tensor_db")
    if lost is not None and abs(lost) < 1000:
        factor = 10 ** (lost / 10)
        yield from compare("noise_factor", values["noise_factor"], factor, "what lost_db means")


def _lost(row: Measured, product: str) -> float | None:
    with_row, with_one = (_number(row, f"{product.lower()}_{s}_db") for s in ("row", "tensor"))
    return None if with_row is None or with_one is None else with_row - with_one


def ceilings(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 04.4: the datasheet's rate; two of three matmuls at the rate of int8, or two of two."""
    yield from positive(values, "rate")
    rate = values["rate"]
    sheet = _rate(values["card"]) if values["card"] is not None else None
    if sheet is not None:
        yield from compare("rate", rate, sheet, "that of the card's datasheet")
    elif rate is not None and rate > FASTEST_RATE:
        yield Finding("contradicts", "rate is above that of any unit there is")
    if rate and rate > 0:
        full = 3 / (2 / rate + 1)
        source = "three products over two in int8 and one in 16 bit"
        yield from compare("full_ceiling", values["full_ceiling"], full, source)
        source = "two products over two in int8"
        yield from compare("frozen_ceiling", values["frozen_ceiling"], rate, source)
    yield from reasoned(values)


def _rate(card: str) -> float | None:
    """Return how many times faster int8 is on a card, by its datasheet; None without one."""
    from labkit.errors import LabkitError
    from labkit.machine import datasheets

    try:
        flops = datasheets.find(card).flops
    except LabkitError:
        return None
    half = flops.get("bfloat16") or flops.get("float16")
    return flops["int8"] / half if half and "int8" in flops else None


SECONDS = ("baseline_seconds", "switchback_seconds")
RATIOS = {
    "ratio": ("ratio", "value"), "low": ("ratio", "low"), "high": ("ratio", "high"),
    "control_low": ("control", "low"), "control_high": ("control", "high"),
}  # fmt: skip


@held_against("int8-step")
def speed_up(values: Values, latest: Measured) -> Iterator[Finding]:
    """Check 04.5: the benchmark's numbers, and a verdict that interval and control allow."""
    yield from positive(values, *SECONDS, "low", "control_low")
    for name in SECONDS:
        yield from compare(name, values[name], _number(latest, name), "that of your benchmark")
    for name, path in RATIOS.items():
        measured = _number(latest, *path)
        if values[name] is not None and measured is not None:
            if abs(values[name] - measured) <= ROUNDED_RATIO * measured:
                yield Finding("consistent", f"{name} is that of your benchmark")
            else:
                side = "above" if values[name] > measured else "below"
                yield Finding("contradicts", f"{name} is {side} that of your benchmark")
        elif values[name] is not None:
            yield Finding("missing", f"{name} cannot be checked: no step was benchmarked here")
    yield from _verdict(values, latest)


def _verdict(values: Values, latest: Measured) -> Iterator[Finding]:
    said = values["verdict"]
    ends = [values[name] for name in ("low", "high", "control_low", "control_high")]
    if said is None or None in ends:
        return
    allowed = {"faster" if ends[0] > 1 else "slower" if ends[1] < 1 else "no difference found"}
    # The interval of few pairs is a little narrow: the test may find nothing where it misses 1,
    # and may let a control pass that it won't.
    found, p_value = (_number(latest, name) for name in ("p_value", "control_p_value"))
    if found is not None and found >= ALPHA:
        allowed.add("no difference found")
    passes = ends[2] <= 1 <= ends[3] or (p_value is not None and p_value >= ALPHA)
    holds = ends[2] <= 1 <= ends[3]
    if said not in allowed | {"cannot be told"}:
        yield Finding("contradicts", "verdict is not what low and high say")
    elif holds and said == "cannot be told":
        yield Finding("contradicts", "verdict gives up although the control holds 1")
    elif not passes and said != "cannot be told":
        yield Finding("contradicts", "verdict trusts a machine whose control misses 1")
    else:
        yield Finding("consistent", "the verdict follows from the interval and the control")


RULES = {
    "04.1": outlier_factor, "04.2": weight_gradient, "04.3": lost_decibels, "04.4": ceilings,
    "04.5": speed_up,
}  # fmt: skip
