"""Show how wrong tests find differences between identical runs.

The same program runs in twenty processes. Which ten of them are called A and which ten A' is
chance, so the names can be drawn again and again: every drawing is an experiment in which there is
nothing to find, made of real measurements of this very machine. An honest test at α = 5 % raises an
alarm in 5 of 100.

    runs              a process counts once, with the median of its steps (Welch's t-test)
    steps as runs     every step counts as a repetition of its own
    looking early     runs, tested again after every further one of each: stop at the first p < 0.05

Steps of a process resemble each other: it lies in one place in memory, and whatever else ran just
then ran beside all of them. With m steps a run and a share ρ of their variance between runs, the
test that counts steps takes its uncertainty for smaller than it is, by a factor of √(1 + (m - 1)·ρ)
(Kish's design effect). So it grows worse the longer one measures.

Other mistakes don't need a draw: warm-up steps left in, one side after the other instead of in
turns, the luckiest pair. `mistakes` works them out beside the honest ratio.

Sources: Hurlbert 1984, "Pseudoreplication and the Design of Ecological Field Experiments"; Kish
1965, "Survey Sampling"; Armitage et al. 1969, "Repeated Significance Tests on Accumulating Data".
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from labkit.bench import paired
from labkit.bench.paired import BASELINE, CONTROL, Ledger, Plan, Run, Say, times
from labkit.console import say as print_line

Steps = list[list[float]]
"""The step times of every run."""

SMALL_LAYER = {"tokens": 256, "in_features": 512, "out_features": 512, "mode": "full"}
COUNTS = (1, 2, 5, 10, 20, 50, 100)
FIRST_LOOK = 3
"""runs of each side before which nobody looks"""


def same_program(
    *, output_dir: Path, runs: int = 20, steps: int = 100, say: Say = print_line
) -> Steps:
    """Time the step of one small `nn.Linear` in many processes; return the steps of each.

    Kept in output_dir/same_program.json as they come, like the benchmarks'.
    """
    plan = replace(Plan(), warmup=5, steps=steps, max_steps=steps)
    settings = {"case": SMALL_LAYER, "runs": runs, "steps": steps}
    ledger = Ledger(output_dir / "same_program.json", settings=settings)
    for number in range(runs):
        if ledger.get(str(number)) is None:
            (timed,) = paired.in_fresh_process(
                "labkit.bench.switchback.layers:measure_round", say=say, case=SMALL_LAYER,
                plan=plan, kinds=["float32"],
            )  # fmt: skip
            ledger.put(str(number), timed["seconds"])
            if (number + 1) % 10 == 0:
                say(f"[{number + 1}/{runs}] processes of the same program")
    return [ledger.get(str(number)) for number in range(runs)]


def between(steps: Steps) -> float:
    """Return the share of the variance of log times that lies between runs."""
    import numpy as np

    logs = np.log(np.array(steps))
    within = float(logs.var(axis=1, ddof=1).mean())
    # The variance of means holds a part of the variance within.
    apart = max(0.0, float(logs.mean(axis=1).var(ddof=1)) - within / logs.shape[1])
    return apart / (apart + within)


def of_runs(a: Any, b: Any) -> float:
    """Return the p-value where a run counts once: a and b [runs, steps] of log times."""
    import numpy as np
    from scipy import stats as scipy_stats

    medians = (np.median(x, axis=1) for x in (a, b))
    return float(scipy_stats.ttest_ind(*medians, equal_var=False).pvalue)


def steps_as_runs(a: Any, b: Any) -> float:
    """Return the p-value where every step counts as a repetition of its own: wrong."""
    from scipy import stats as scipy_stats

    return float(scipy_stats.ttest_ind(a.ravel(), b.ravel(), equal_var=False).pvalue)


def looking_early(a: Any, b: Any) -> float:
    """Return the smallest p-value met when testing again after every further run: wrong."""
    return min(of_runs(a[:n], b[:n]) for n in range(min(FIRST_LOOK, len(a)), len(a) + 1))


TESTS: dict[str, Callable[[Any, Any], float]] = {
    "runs": of_runs,
    "steps as runs": steps_as_runs,
    "looking early": looking_early,
}


def false_alarms(
    steps: Steps, *, trials: int = 400, alpha: float = 0.05, seed: int = 0
) -> list[dict[str, Any]]:
    """Draw names for runs of one program again and again; return how often each test cries.

    Rows, for each test and each count of steps a run that is looked at: test, steps, alarms (share
    of trials with p < alpha), low and high (95 % interval of the share).
    """
    import numpy as np
    from scipy import stats as scipy_stats

    logs, half = np.log(np.array(steps)), len(steps) // 2
    rows = []
    for count in [n for n in COUNTS if n <= logs.shape[1]]:
        rng = np.random.default_rng(seed)
        found = dict.fromkeys(TESTS, 0)
        for _ in range(trials):
            order = rng.permutation(len(steps))
            first, second = (logs[some, :count] for some in (order[:half], order[half : 2 * half]))
            for name, test in TESTS.items():
                found[name] += test(first, second) < alpha
        for name, number in found.items():
            interval = scipy_stats.binomtest(number, trials).proportion_ci()
            rows.append({"test": name, "steps": count, "alarms": number / trials,
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


def luckiest_control(rows: Sequence[dict[str, Any]]) -> tuple[float, str]:
    """Return the largest ratio of a pair of A and A' in rows of `grid.switchback`, and its size."""
    found = []
    for row in rows:
        ratios = [x / y for x, y in zip(row["times"]["baseline"], row["times"]["again"],
                                        strict=True)]  # fmt: skip
        size = f"{row['tokens']:,} tokens {row['in_features']}→{row['out_features']} {row['mode']}"
        found += [(max(max(ratios), 1 / min(ratios)), size)]
    return max(found)


def draw_false_alarms(ax: Any, rows: Sequence[dict[str, Any]], *, alpha: float = 0.05) -> str:
    """Draw each test's share of false alarms against the steps of a run; return the alt text."""
    said = []
    for name in dict.fromkeys(row["test"] for row in rows):
        mine = [row for row in rows if row["test"] == name]
        counts = [row["steps"] for row in mine]
        (line,) = ax.plot(counts, [100 * row["alarms"] for row in mine], label=name)
        low, high = ([100 * row[end] for row in mine] for end in ("low", "high"))
        ax.fill_between(counts, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        said.append(f"{name} {100 * mine[-1]['alarms']:.0f} %")
    ax.axhline(100 * alpha, color="black", linewidth=1, linestyle="--", marker="",
               label=f"what a test promises: {100 * alpha:g} %")  # fmt: skip
    counts = sorted({row["steps"] for row in rows})
    ax.set_xscale("log")
    ax.set_xticks(counts, [str(n) for n in counts])
    ax.minorticks_off()
    ax.set_ylim(bottom=0)
    ax.set(xlabel="steps that are timed in a run", ylabel="nothing to find, and found (%)")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return (f"Share of false alarms of three tests on runs of one program, against the steps timed "
            f"in a run; with {counts[-1]}: {', '.join(said)}.")  # fmt: skip
