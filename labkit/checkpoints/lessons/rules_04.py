"""Rules of lesson 04: what int8 costs in noise and gains in speed, by the lesson's formulas."""

import math
from collections.abc import Iterator

from labkit.checkpoints.rules import (
    Evidence,
    Finding,
    Values,
    compare,
    positive,
    quotient,
    reasoned,
)


def outlier_factor(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 04.1: absmax over spread; 10 log10(12 · 127² / factor²), less 3 dB for two operands."""
    yield from positive(values, "absmax", "spread", "outlier_factor")
    yield from quotient(values, "outlier_factor", "absmax", "spread")
    factor = values["outlier_factor"]
    if factor and factor > 0:
        allowed = 10 * math.log10(12 * 127**2 / factor**2) - 10 * math.log10(2)
        yield from compare("snr_db", values["snr_db"], allowed, "what the formula gives")
    yield from reasoned(values)


def wrong_signs(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 04.2: more tokens, more wrong signs; 16 bits have fewer."""
    few, many = values["int8_few_percent"], values["int8_many_percent"]
    yield from positive(values, "tokens_few", "tokens_many", "int8_few_percent", "growth")
    yield from quotient(values, "growth", "int8_many_percent", "int8_few_percent")
    if None not in (values["tokens_few"], values["tokens_many"]):
        if values["tokens_many"] <= values["tokens_few"]:
            yield Finding("contradicts", "tokens_many is not above tokens_few")
        elif None not in (few, many) and many <= few:
            yield Finding("contradicts", "int8_many_percent is not above int8_few_percent")
    sixteen = values["sixteen_bit_percent"]
    if None not in (many, sixteen) and sixteen >= many:
        yield Finding("contradicts", "sixteen_bit_percent is not below int8_many_percent")
    yield from reasoned(values)


def lost_decibels(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 04.3: the loss is a difference of decibels, and 10 dB are a factor of ten."""
    row, tensor, lost = (values[name] for name in ("row_db", "tensor_db", "lost_db"))
    if None not in (row, tensor):
        yield from compare("lost_db", lost, row - tensor, "row_db less tensor_db")
    if lost is not None:
        factor = 10 ** (lost / 10)
        yield from compare("noise_factor", values["noise_factor"], factor, "what lost_db means")
    yield from reasoned(values)


def ceilings(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 04.4: two of three matmuls at the rate of int8, or two of two."""
    yield from positive(values, "rate")
    rate = values["rate"]
    if rate and rate > 0:
        full = 3 / (2 / rate + 1)
        source = "three products over two in int8 and one in 16 bit"
        yield from compare("full_ceiling", values["full_ceiling"], full, source)
        source = "two products over two in int8"
        yield from compare("frozen_ceiling", values["frozen_ceiling"], rate, source)
    yield from reasoned(values)


def speed_up(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 04.5: a ratio of times, in its interval; a verdict that interval and control allow."""
    yield from positive(values, "baseline_seconds", "switchback_seconds", "low", "control_low")
    yield from quotient(values, "ratio", "baseline_seconds", "switchback_seconds")
    for names in (("low", "ratio", "high"), ("control_low", "control_high")):
        known = [values[name] for name in names if values[name] is not None]
        if known != sorted(known):
            yield Finding("contradicts", f"{', '.join(names)} are not in ascending order")
    said = values["verdict"]
    ends = [values[name] for name in ("low", "high", "control_low", "control_high")]
    if said is not None and None not in ends:
        allowed = "faster" if ends[0] > 1 else "slower" if ends[1] < 1 else "no difference found"
        holds = ends[2] <= 1 <= ends[3]
        if said not in (allowed, "cannot be told"):
            yield Finding("contradicts", "verdict is not what low and high say")
        elif holds and said == "cannot be told":
            yield Finding("contradicts", "verdict gives up although the control holds 1")
        elif not holds and said != "cannot be told":
            yield Finding("contradicts", "verdict trusts a machine whose control misses 1")
        else:
            yield Finding("consistent", "the verdict follows from the interval and the control")
    yield from reasoned(values)


RULES = {
    "04.1": outlier_factor, "04.2": wrong_signs, "04.3": lost_decibels, "04.4": ceilings,
    "04.5": speed_up,
}  # fmt: skip
