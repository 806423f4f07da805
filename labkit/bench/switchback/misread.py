"""Show how wrong tests find differences between identical runs.

The baseline ran twice in every round, as A and as A'. Whatever a test says about *these two* is an
error, and which of them was called A is chance. So the names can be drawn again: in every round
they are swapped or not, by a coin. Each drawing is a made-up experiment without any difference,
from real measurements of this very machine; an honest test at α = 5 % raises an alarm in 5 of 100.

    runs, paired       what labkit does
    steps as runs      every step counts as a repetition of its own (Welch's t-test)
    looking early      after every further pair: stop at the first p < 0.05

Steps of a run resemble each other, so their number promises a certainty that isn't there. And a
test that is repeated until it succeeds succeeds more often than once.

The other two mistakes don't need a coin: one side after the other instead of in turns, and warm-up
steps left in. `mistakes` works them out beside the honest ratio.

Sources: Hurlbert 1984, "Pseudoreplication and the Design of Ecological Field Experiments"; Armitage
et al. 1969, "Repeated Significance Tests on Accumulating Data".
"""

import math
from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

from labkit.bench.paired import BASELINE, CONTROL, Run, times

Steps = list[list[float]]
"""The step times of every round's run."""


def _steps(runs: Sequence[Run], arm: str) -> Steps:
    ours = sorted((run for run in runs if run["arm"] == arm), key=lambda run: run["round"])
    return [run["seconds"] for run in ours]


def paired_runs(a: Steps, b: Steps) -> float:
    """Return the p-value of a paired t-test of the log medians."""
    import numpy as np
    from scipy import stats as scipy_stats

    return float(scipy_stats.ttest_rel(*(np.log([np.median(s) for s in x]) for x in (a, b))).pvalue)


def steps_as_runs(a: Steps, b: Steps) -> float:
    """Return the p-value when every step counts as a measurement of its own: wrong."""
    import numpy as np
    from scipy import stats as scipy_stats

    return float(
        scipy_stats.ttest_ind(*(np.log(np.concatenate(x)) for x in (a, b)), equal_var=False).pvalue
    )


def looking_early(a: Steps, b: Steps) -> float:
    """Return the smallest p-value met when testing again after every pair from the third: wrong."""
    return min(paired_runs(a[:n], b[:n]) for n in range(min(3, len(a)), len(a) + 1))


TESTS: dict[str, Callable[[Steps, Steps], float]] = {
    "runs, paired": paired_runs,
    "steps as runs": steps_as_runs,
    "looking early": looking_early,
}


def false_alarms(
    runs: Sequence[Run], *, trials: int = 400, alpha: float = 0.05, seed: int = 0
) -> list[dict[str, Any]]:
    """Draw the names of A and A' again and again; return how often each test raises an alarm.

    Rows: test, alarms (share of trials with p < alpha), low and high (95 % interval of the share).
    """
    import numpy as np
    from scipy import stats as scipy_stats

    a, b = _steps(runs, BASELINE), _steps(runs, CONTROL)
    rng = np.random.default_rng(seed)
    counts = dict.fromkeys(TESTS, 0)
    for _ in range(trials):
        swapped = rng.random(len(a)) < 0.5
        first = [y if swap else x for x, y, swap in zip(a, b, swapped, strict=True)]
        second = [x if swap else y for x, y, swap in zip(a, b, swapped, strict=True)]
        for name, test in TESTS.items():
            counts[name] += test(first, second) < alpha
    rows = []
    for name, count in counts.items():
        interval = scipy_stats.binomtest(count, trials).proportion_ci()
        rows.append({"test": name, "alarms": count / trials,
                     "low": float(interval.low), "high": float(interval.high)})  # fmt: skip
    return rows


def mistakes(runs: Sequence[Run], candidate: str) -> list[dict[str, Any]]:
    """Return ratios of the same runs, worked out well and badly.

    Rows: how, ratio. "A first, A' later" compares the baseline's first half with its control's
    second half: the same thing before and after. "with warm-up" is a mean over all steps.
    """

    def with_warm_up(arm: str) -> float:
        ours = [run for run in runs if run["arm"] == arm]
        return mean(mean([*run["warmup_seconds"], *run["seconds"]]) for run in ours)

    base, again = times(runs, BASELINE), times(runs, CONTROL)
    half = len(base) // 2
    pairs = [x / y for x, y in zip(base, times(runs, candidate), strict=True)]

    def ratio(x: Sequence[float], y: Sequence[float]) -> float:
        return math.exp(mean(map(math.log, x)) - mean(map(math.log, y)))

    return [
        {"how": "paired runs in turns", "ratio": ratio(base, times(runs, candidate))},
        {"how": "with warm-up", "ratio": with_warm_up(BASELINE) / with_warm_up(candidate)},
        {"how": "the luckiest pair", "ratio": max(pairs)},
        {"how": "the unluckiest pair", "ratio": min(pairs)},
        {"how": "A and A' in turns", "ratio": ratio(base, again)},
        {"how": "A first, A' later", "ratio": ratio(base[:half], again[half:])},
    ]


def draw_false_alarms(ax: Any, rows: Sequence[dict[str, Any]], *, alpha: float = 0.05) -> str:
    """Draw the share of false alarms of each test with its interval; return the alt text."""
    names = [row["test"] for row in rows]
    values = [100 * row["alarms"] for row in rows]
    below = [v - 100 * row["low"] for v, row in zip(values, rows, strict=True)]
    above = [100 * row["high"] - v for v, row in zip(values, rows, strict=True)]
    ax.barh(names, values, xerr=[below, above], color="#0072B2", height=0.6,
            error_kw={"ecolor": "#333333", "capsize": 3})  # fmt: skip
    ax.axvline(100 * alpha, color="black", linewidth=1, linestyle="--")
    ax.text(100 * alpha + 0.5, -0.62, f"what it promises: {100 * alpha:g} %", va="bottom")
    ax.invert_yaxis()
    ax.set_xlim(0, max(20.0, *(1.15 * (v + x) for v, x in zip(values, above, strict=True))))
    ax.set_xlabel("experiments without a difference in which one is found (%)")
    ax.grid(axis="y", visible=False)
    said = "; ".join(f"{name} {value:.0f} %" for name, value in zip(names, values, strict=True))
    return f"Share of false alarms of three tests on runs that do not differ: {said}."


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Return how much of the spread lies between runs: share of variance, runs, steps a run."""
    import numpy as np

    logs = [np.log(s) for arm in (BASELINE, CONTROL) for s in _steps(runs, arm)]
    within = float(np.mean([x.var(ddof=1) for x in logs if len(x) > 1] or [0.0]))
    between = float(np.var([x.mean() for x in logs], ddof=1))
    return {"between": between / (between + within), "runs": len(logs), "steps": len(logs[0])}
