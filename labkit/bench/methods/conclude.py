"""Conclude from a grid of runs which methods differ from the reference, with intervals.

Every arm answers the same questions, so what is compared is the difference of a question's scores.
Two things make a mean of those differences uncertain: other reports would have been asked, and
other seeds would have trained other weights. An interval over questions alone takes two seeds of
one method for two methods, far more often than in one case of twenty. So both count:

    V = V_reports + 2·σ²/S

V_reports is the cluster-robust variance of the mean difference over the S seeds that both arms
have, and σ² what a seed moves the score of an arm by. Three seeds of two arms say little about it,
so it is pooled over all arms with several seeds: the mean square of their means m_ks without the
means of arm and seed, less what comes of answering questions by chance,

    σ² = Σ(m_ks − m_k − m_s + m)² / (K − 1)(S − 1) − V_both

V_both is the variance of a seed's mean that is left without the means of seed and report, which is
in V_reports already. It is taken that seeds move all methods alike, those with one seed too. The
degrees of freedom are Satterthwaite's with the mean square as it is, which is on the safe side
where σ² comes out as 0. A test makes many data sets without a difference and counts alarms.

Shape suffixes: K arms, S seeds, Q questions, R reports.

Sources: Satterthwaite 1946; Searle, Casella and McCulloch 1992, "Variance Components", chapter 4;
Holm 1979.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from labkit import stats
from labkit.stats import Interval

ALPHA = 0.05
Scores = Sequence[Sequence[float]]
"""A row for each seed, in it a score for each question."""


@dataclass(frozen=True, kw_only=True)
class SeedVariance:
    """What a seed moves the mean score of an arm by, squared."""

    variance: float
    mean_square: float
    """with what comes of answering by chance"""
    freedom: int


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much an arm differs from the reference, as a fraction."""

    difference: Interval
    p_value: float
    seeds: int
    """that both have"""


def seed_variance(arms: Sequence[Scores], clusters: Sequence[Hashable]) -> SeedVariance | None:
    """Return the variance of seeds, pooled over arms of as many seeds each; None for one seed.

    Row s of every arm is of the same seed; `clusters` are the reports of the questions.
    """
    import numpy as np

    if not arms or len(arms[0]) < 2:
        return None
    place = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    member_QR = np.eye(len(place))[[place[name] for name in clusters]]
    sums_KSR = np.array(arms, dtype=float) @ member_QR
    sizes_R, total = member_QR.sum(axis=0), len(clusters)
    count, seeds, groups = sums_KSR.shape
    mean_KS = sums_KSR.sum(axis=2) / total
    rest_KS = mean_KS - mean_KS.mean(axis=1, keepdims=True)
    freedom = seeds - 1
    if count > 1:  # what a seed does to all arms is no difference between them
        rest_KS = rest_KS - rest_KS.mean(axis=0)
        freedom *= count - 1
    mean_square = float((rest_KS**2).sum() / freedom)
    seen_KSR = (mean_KS - mean_KS.mean(axis=1, keepdims=True))[:, :, None] * sizes_R
    left_KSR = sums_KSR - sums_KSR.mean(axis=1, keepdims=True) - seen_KSR
    both = 0.0
    if groups > 1:
        both = float((left_KSR**2).sum() / count * groups / (groups - 1) / (seeds - 1) / total**2)
    return SeedVariance(variance=max(0.0, mean_square - both), mean_square=mean_square,
                        freedom=freedom)  # fmt: skip


def difference(
    a: Scores, b: Scores, clusters: Sequence[Hashable], seeds: SeedVariance | None,
    *, alpha: float = ALPHA,
) -> Difference:  # fmt: skip
    """Return the mean of b - a over seeds and questions, its interval and p-value.

    Row s of both is of the same seed. Without `seeds` the interval is over questions alone: of
    these trained weights, not of their methods. ValueError for fewer than two reports.
    """
    from scipy import stats as distributions

    means = [[fmean(column) for column in zip(*side, strict=True)] for side in (a, b)]
    over_questions = stats.paired_difference(means[0], means[1], clusters, alpha=alpha)
    mean, error, groups = stats.clustered_difference(means[0], means[1], clusters)
    of_seeds, raw = (
        (2 * each / len(a) for each in (seeds.variance, seeds.mean_square)) if seeds else (0.0, 0.0)
    )
    variance = error**2 + of_seeds
    if seeds is None or error == 0:  # also the exact bound of answers that are all the same
        return Difference(difference=over_questions["difference"], seeds=len(a),
                          p_value=over_questions["p_value"])  # fmt: skip
    freedom = variance**2 / (error**4 / (groups - 1) + raw**2 / seeds.freedom)
    wide = float(distributions.t.ppf(1 - alpha / 2, freedom)) * math.sqrt(variance)
    p_value = float(2 * distributions.t.sf(abs(mean) / math.sqrt(variance), freedom))
    return Difference(difference={"value": mean, "low": mean - wide, "high": mean + wide},
                      p_value=p_value, seeds=len(a))  # fmt: skip


def conclude(found: Mapping[str, Any], *, alpha: float = ALPHA) -> list[dict[str, Any]]:
    """Return a row for each arm of a record, all of it computed from the record's measurements.

    arm, reason (why it has no runs, or null), seeds, rate, em, f1 {value, low, high}, difference
    (of em, arm minus reference), p_value, p_holm, verdict; forgetting {bits_per_byte, before,
    change {value, low, high}, p_value, p_holm}; choice {before, after}; what it took: peak_bytes,
    step_seconds, relative_step, tokens, trained_parameters, saved_bytes, search_seconds, pareto
    {peak_bytes, saved_bytes} (whether nothing is both smaller and better).
    """
    against = next(arm for arm in found["arms"] if arm["arm"] == found["against"])
    rows = [_row(arm, against, found, alpha=alpha) for arm in found["arms"]]
    others = [row for row in rows if row["p_value"] is not None]
    for row, p_holm in zip(others, stats.holm([r["p_value"] for r in others]) if others else [],
                           strict=True):  # fmt: skip
        row["p_holm"] = p_holm
        row["verdict"] = verdict(row["difference"]["value"], p_holm, alpha=alpha)
    forgot = [row["forgetting"] for row in rows if row["forgetting"]]
    for part, p_holm in zip(forgot, stats.holm([f["p_value"] for f in forgot]) if forgot else [],
                            strict=True):  # fmt: skip
        part["p_holm"] = p_holm
    done = [row for row in rows if row["em"]]
    for size in ("peak_bytes", "saved_bytes"):
        best = front([(row[size], row["em"]["value"]) for row in done])
        for row, on_it in zip(done, best, strict=True):
            row["pareto"][size] = on_it
    return rows


def verdict(difference: float, p_holm: float, *, alpha: float = ALPHA) -> str:
    """Return what a test says, in words: no difference found is not no difference."""
    if p_holm >= alpha:
        return "not told apart"
    return "better" if difference > 0 else "worse"


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return for each (cost, score) whether no other costs as little and scores as much."""
    return [
        not any(
            cost <= mine[0] and score >= mine[1] and (cost, score) != mine for cost, score in points
        )
        for mine in points
    ]


def _row(
    arm: Mapping[str, Any], against: Mapping[str, Any], found: Mapping[str, Any], *, alpha: float
) -> dict[str, Any]:
    runs, reports = arm["runs"], found["reports"]
    row: dict[str, Any] = {
        "arm": arm["arm"], "reason": arm["reason"], "seeds": len(runs), "rate": None, "em": None,
        "f1": None, "difference": None, "f1_difference": None, "p_value": None, "p_holm": None,
        "verdict": "", "forgetting": None, "choice": None, "peak_bytes": None,
        "step_seconds": None, "relative_step": None, "tokens": None, "trained_parameters": None,
        "saved_bytes": None, "search_seconds": None, "pareto": {},
    }  # fmt: skip
    if not runs:
        return row
    for metric in ("em", "f1"):
        each = [fmean(column) for column in zip(*(scores(run, metric) for run in runs),
                                                strict=True)]  # fmt: skip
        row[metric] = stats.mean_interval(each, reports)
    if arm is not against:
        for metric, name in (("f1", "f1_difference"), ("em", "difference")):
            if (compared := _compare(against, arm, metric, found, alpha=alpha)) is not None:
                row[name], row["p_value"] = compared.difference, compared.p_value
    seconds = {run["seed"]: run["step_seconds"] for run in runs if run["step_seconds"]}
    theirs = {run["seed"]: run["step_seconds"] for run in against["runs"]}
    ratios = [seconds[seed] / theirs[seed] for seed in seconds if theirs.get(seed)]
    row |= {
        "rate": arm["search"]["chosen"],
        "peak_bytes": max(run["peak_bytes"] for run in runs),
        "step_seconds": median(seconds.values()) if seconds else None,
        "relative_step": median(ratios) if ratios else None,
        "tokens": runs[0]["tokens"],
        "trained_parameters": runs[0]["trained_parameters"],
        "saved_bytes": runs[0]["saved_bytes"],
        "search_seconds": sum(tried["seconds"] for tried in arm["search"]["tried"]),
        "forgetting": _forgetting(runs, found["base"]["general_text"], alpha=alpha),
        "choice": _choice(runs, found["base"]["tables_choice"]),
    }
    return row


def scores(run: Mapping[str, Any], metric: str) -> list[float]:
    """Return em or f1 of each question, as a record keeps them."""
    kept = run[metric]
    return [float(digit) for digit in kept] if isinstance(kept, str) else [float(f) for f in kept]


def _compare(
    a: Mapping[str, Any], b: Mapping[str, Any], metric: str, found: Mapping[str, Any],
    *, alpha: float,
) -> Difference | None:  # fmt: skip
    """Compare two arms on the seeds that both have; None where there is no such seed."""
    kept = [_by_seed(arm, metric) for arm in found["arms"]]
    most = max((side.keys() for side in kept), key=len)
    several = [list(side.values()) for side in kept if len(side) > 1 and side.keys() == most]
    sides = _by_seed(a, metric), _by_seed(b, metric)
    common = [seed for seed in sides[0] if seed in sides[1]]
    if not common:
        return None
    first, second = ([side[seed] for seed in common] for side in sides)
    return difference(first, second, found["reports"], seed_variance(several, found["reports"]),
                      alpha=alpha)  # fmt: skip


def _by_seed(arm: Mapping[str, Any], metric: str) -> dict[int, list[float]]:
    runs = sorted(arm["runs"], key=lambda run: run["seed"])
    return {run["seed"]: scores(run, metric) for run in runs}


def _forgetting(
    runs: Sequence[Mapping[str, Any]], before: Sequence[Sequence[float]], *, alpha: float
) -> dict[str, Any]:
    """Return bits per byte of general text before and after, and the change, paired by passage.

    `before` and a run's `general_text` are [log p, bytes] of each passage. Seeds are averaged: the
    interval is over passages.
    """
    units = [size for _, size in before]
    base = [-log_p / math.log(2) for log_p, _ in before]
    after = [-fmean(run["general_text"][i][0] for run in runs) / math.log(2)
             for i in range(len(before))]  # fmt: skip
    tested = stats.paired_difference(base, after, alpha=alpha, weights=units)
    return {"before": sum(base) / sum(units), "bits_per_byte": sum(after) / sum(units),
            "change": tested["difference"], "p_value": tested["p_value"],
            "p_holm": None}  # fmt: skip


def _choice(runs: Sequence[Mapping[str, Any]], before: str) -> dict[str, float] | None:
    """Return the share of right choices before and after, of the runs that were asked."""
    after = [fmean(map(int, run["tables_choice"])) for run in runs if run["tables_choice"]]
    if not after or not before:
        return None
    return {"before": fmean(map(int, before)), "after": fmean(after)}
