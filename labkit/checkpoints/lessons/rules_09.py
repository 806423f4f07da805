"""Rules of lesson 09: what a build counted, whether cleaning pays, bands and rows, and a leak."""

from collections.abc import Iterator

from labkit.checkpoints.lessons.intervals import (
    TENTH,
    THOUSANDTH,
    as_interval_says,
    as_kept,
    in_interval,
)
from labkit.checkpoints.rules import (
    COUNTED,
    Evidence,
    Finding,
    Values,
    closest,
    compare,
    differences,
    finished,
    number,
    one_model,
    positive,
    reasoned,
)
from labkit.runs.records import RunRecord

HUNDREDTH = 0.006
"""of a probability"""
MOST_BANDS, MOST_ROWS = 10**6, 10**4
COUNTS = {"texts_read": "read", "removed_by_filters": "removed", "exact_duplicates": "exact",
          "near_duplicates": "near", "kept": "kept"}  # fmt: skip


def built(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 09.1: the counts add up and are those of a build."""
    yield from positive(values, "texts_read")
    counts = [values[name] for name in COUNTS]
    if None not in counts:
        read, *gone, kept = counts
        if min(counts) < 0 or read - sum(gone) != kept:
            yield Finding("contradicts", "what was read, less removed and duplicates, is not kept")
        else:
            yield Finding("consistent", "read, removed, duplicates and kept add up")
    if values["kept"] is not None and values["texts_read"]:
        share = 100 * values["kept"] / values["texts_read"]
        yield from compare("survived", values["survived"], share,
                           "the share that kept and texts_read give", 0,
                           least=10 * TENTH)  # fmt: skip
    yield from closest(
        [
            [found for name, key in COUNTS.items()
             for found in compare(name, values[name], number(each["values"], key),
                                  "what your build counted", COUNTED / 10)]
            for each in evidence.measured("build")
        ],
        "a build",
    )  # fmt: skip
    yield from reasoned(values)


def pays(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 09.2: bits and interval of two runs that read as many tokens of different text."""
    first, second = values["first_run"], values["second_run"]
    yield from _of_data_alone(first_run=first, second_run=second)
    yield from positive(values, "bits_first", "bits_second")
    ends = values["difference_low"], values["difference_high"]
    if None not in (values["bits_first"], values["bits_second"]):
        change = values["bits_second"] - values["bits_first"]
        yield from in_interval(change, ends, "difference", within=2 * THOUSANDTH)
    if first is not None and second is not None:
        kept = evidence.values_of("cleaning", first=first, second=second)
        fields = {"bits_first": "first", "bits_second": "second", "difference_low": "low",
                  "difference_high": "high"}  # fmt: skip
        yield from as_kept(values, fields, kept, "comparison of these two runs", within=THOUSANDTH)
    yield from as_interval_says(values, ends, above="first is better", below="second is better",
                                within=THOUSANDTH)  # fmt: skip
    yield from reasoned(values)


def bands(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 09.3: 1 - (1 - s^r)^b at two likenesses, where it is one half, and the error."""
    yield from positive(values, "bands", "rows")
    b, r = values["bands"], values["rows"]
    # Nothing is compared beyond, so such an answer must not pass for one that agrees.
    for name, most in (("bands", MOST_BANDS), ("rows", MOST_ROWS)):
        if values[name] is not None and values[name] > most:
            yield Finding("contradicts", f"{name} is more than any signature has")
    if b is not None and r is not None and 0 < b <= MOST_BANDS and 0 < r <= MOST_ROWS:
        for name, s in (("found_at_80", 0.8), ("found_at_50", 0.5)):
            expected = 1 - (1 - s**r) ** b
            yield from compare(name, values[name], expected, "what bands and rows give", 0,
                               least=HUNDREDTH)  # fmt: skip
        half = (1 - 0.5 ** (1 / b)) ** (1 / r)
        yield from compare("half_at", values["half_at"], half, "what bands and rows give", 0,
                           least=HUNDREDTH)  # fmt: skip
        error = (0.8 * 0.2 / (b * r)) ** 0.5
        yield from compare("error_at_80", values["error_at_80"], error,
                           "that of so many places", 0, least=HUNDREDTH / 2)  # fmt: skip
    yield from reasoned(values)


def leaked(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 09.4: right choices of two runs, on planted items and on others."""
    clean, leak = values["clean_run"], values["leaked_run"]
    yield from _of_data_alone(clean_run=clean, leaked_run=leak)
    scores = ("planted_clean", "planted_leaked", "others_clean", "others_leaked")
    for name in scores:
        if values[name] is not None and not 0 <= values[name] <= 100:
            yield Finding("contradicts", f"{name} is no share in percent")
    ends = values["change_low"], values["change_high"]
    if None not in (values["planted_clean"], values["planted_leaked"]):
        change = values["planted_leaked"] - values["planted_clean"]
        yield from in_interval(change, ends, "change", within=2 * TENTH)
    if clean is not None and leak is not None:
        kept = evidence.values_of("leak", clean=clean, leaked=leak)
        fields = {**{name: name for name in scores}, "change_low": "low", "change_high": "high"}
        yield from as_kept(values, fields, kept, "comparison of these two runs", within=TENTH)
    yield from as_interval_says(values, ends, above="the leak raised the score",
                                below="the leak lowered the score", within=TENTH)  # fmt: skip
    yield from reasoned(values)


def _of_data_alone(**runs: RunRecord | None) -> Iterator[Finding]:
    """Require two finished runs of one model and the same settings on different data."""
    for name, run in runs.items():
        yield from finished(name, run)
    yield from one_model(**runs)
    (first_name, first), (second_name, second) = runs.items()
    if first is None or second is None:
        return
    between = differences(first, second)
    if "data" not in between:
        yield Finding("contradicts", f"{first_name} and {second_name} read the same data")
    if elsewhere := sorted(between - {"data", "model", "seed"}):
        yield Finding("contradicts", f"{first_name} and {second_name} differ in more than their "
                      f"data: {', '.join(elsewhere)}")  # fmt: skip


RULES = {"09.1": built, "09.2": pays, "09.3": bands, "09.4": leaked}
