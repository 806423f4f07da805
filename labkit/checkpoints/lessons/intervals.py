"""Rules about a difference with its interval, which several lessons ask for."""

from collections.abc import Iterator
from typing import Any

from labkit.checkpoints.rules import Evidence, Finding, Values, close, number, reasoned

TENTH = 0.06
"""of a percentage point, as a student rounds it"""
THOUSANDTH = 0.0006
"""of a bit per byte"""


def in_interval(
    value: float | None, ends: tuple[float | None, float | None], what: str, *, within: float
) -> Iterator[Finding]:
    """Require the ends of an interval in order, and its value between them."""
    low, high = ends
    if low is None or high is None:
        return
    if low > high:
        yield Finding("contradicts", f"{what}_low is above {what}_high")
    elif value is not None and not low - within <= value <= high + within:
        yield Finding("contradicts", f"the {what} does not lie within its interval")


def as_kept(
    values: Values, fields: dict[str, str], kept: list[dict[str, Any]], what: str, *, within: float
) -> Iterator[Finding]:
    """Hold each field against the measurements that are kept; any of them will do."""
    if not kept:
        yield Finding("missing", f"no {what} is kept: run the lesson's cell for it")
        return
    for field, name in fields.items():
        if values[field] is None:
            continue
        measured = [found for each in kept if (found := number(each, name)) is not None]
        if any(close(values[field], m, least=within) for m in measured):
            yield Finding("consistent", f"{field} is that of your {what}")
        else:
            yield Finding("contradicts", f"{field} is not that of your {what}")


def as_interval_says(
    values: Values, ends: tuple[float | None, float | None], *, above: str, below: str,
    within: float,
) -> Iterator[Finding]:  # fmt: skip
    """Require the verdict of an interval: above zero, below it, or not told apart.

    An end that is rounded to zero may have stood on either side of it.
    """
    low, high = ends
    if values["verdict"] is None or low is None or high is None:
        return
    said = {verdict for verdict, may_be in (
        (above, low > 0 or abs(low) < within), (below, high < 0 or abs(high) < within),
        ("not told apart", low < within and high > -within),
    ) if may_be}  # fmt: skip
    if values["verdict"] in said:
        yield Finding("consistent", "verdict is what the interval says")
    else:
        yield Finding("contradicts", "verdict is not what the interval says")


def compared(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check a difference of two runs and its interval; they may have begun at different weights."""
    runs = values["first_run"], values["second_run"]
    if None not in runs and runs[0].name == runs[1].name:
        yield Finding("contradicts", "first_run and second_run are the same run")
    ends = values["difference_low"], values["difference_high"]
    yield from in_interval(values["difference"], ends, "difference", within=TENTH)
    if None not in runs:
        kept = evidence.values_of("difference", first=runs[0], second=runs[1])
        fields = {"difference": "value", "difference_low": "low", "difference_high": "high"}
        yield from as_kept(values, fields, kept, "comparison of these two runs", within=TENTH)
    yield from as_interval_says(values, ends, above="second is better", below="first is better",
                                within=TENTH)  # fmt: skip
    yield from reasoned(values)
