"""Quantify the uncertainty of scores, speed-ups and claims of equivalence.

**A score** is a mean over questions. Questions on one report are not independent (a table that is
misread is misread for all of them), so whole reports are resampled: the cluster bootstrap.

**A speed-up** is a ratio of times. The unit is the *run*: steps of one run share its memory layout,
its neighbours and its temperature, so a thousand of them are one measurement. Ratios multiply,
so logarithms are averaged, and what comes out is a geometric mean:

    r_i = a_i / b_i        ratio = exp(mean log r_i)        t = mean(log r) · √n / sd(log r)

Runs that were made in pairs, one after the other, are tested as pairs; what slows the machine
down for both then cancels. The interval is the bias-corrected and accelerated bootstrap (BCa). With
ten pairs it is a little too narrow (normal samples: it holds the truth in about 91 of 100, not
95), so the verdict is the test's and not the interval's.

**No difference** can't be shown by p > 0.05: too few runs never find anything. Two ways remain.
`power` says how often a difference of a given size would have been found. `equivalence` turns the
burden round: it starts from "they differ by the margin or more" and rejects that on both sides
(two one-sided tests). An **A/A control** compares a thing with itself and must find nothing.

Sources: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapters 8 and 14; Holm
1979, "A simple sequentially rejective multiple test procedure"; Schuirmann 1987 (two one-sided
tests); McNemar 1947. The tests themselves are scipy's and statsmodels'.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypedDict

RESAMPLES = 9_999
FEWEST_TO_RESAMPLE = 6
"""Below it there are too few distinct resamples: the t interval is given instead."""


class Interval(TypedDict):
    """A figure and its confidence interval."""

    value: float
    low: float
    high: float


def mean_interval(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the mean of `values` in [0, 1] and its interval.

    `clusters` says which values belong together. Where all clusters agree, resampling would
    claim certainty; the exact binomial interval (Clopper and Pearson 1934) is given instead.
    """
    import numpy as np
    from scipy import stats

    n = len(values)
    mean = sum(values) / n
    sums, counts = map(np.array, cluster_sums(values, clusters))
    if np.ptp(sums / counts) == 0 or len(sums) < 3:
        exact = stats.binomtest(round(mean * n), n).proportion_ci(confidence)
        return {"value": mean, "low": float(exact.low), "high": float(exact.high)}
    # BCa is undefined in rare degenerate samples.
    low, high = ratio_interval(sums, counts, confidence=confidence, seed=seed) or (mean, mean)
    return {"value": mean, "low": low, "high": high}


def ratio_interval(
    sums: Any, counts: Any, *, method: str = "BCa", confidence: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """Return the bootstrap interval of sum(sums) / sum(counts), whole clusters resampled.

    `sums` and `counts` [clusters] belong together; `method` is scipy's. None where it is undefined,
    as for a single cluster.
    """
    if len(sums) < 2:
        return None

    def ratio(s: Any, c: Any, axis: int) -> Any:
        return s.sum(axis=axis) / c.sum(axis=axis)

    return _bootstrap((sums, counts), ratio, paired=True, method=method, alpha=1 - confidence,
                      seed=seed, batch=1000)  # fmt: skip


def paired_ratio(
    a: Sequence[float], b: Sequence[float], *, alpha: float = 0.05, seed: int = 0
) -> dict[str, Any]:
    """Compare times that were measured in pairs: is a[i] / b[i] different from 1?

    Returns test, n, ratio {value, low, high} (geometric mean of a/b, BCa at 1 - alpha), ratio_t
    (the interval of the t-test), p_value (paired t-test of the logarithms), p_wilcoxon (the same
    question without assuming a shape) and spread (standard deviation of log a/b).

    Raises ValueError for fewer than two pairs, a time that is not positive, or no spread at all.
    """
    import numpy as np
    from scipy import stats

    logs = _logs(a) - _logs(b)
    if float(np.ptp(logs)) < 1e-12:
        raise ValueError("all pairs have the same ratio, so they were not measured separately")
    test = stats.ttest_rel(_logs(a), _logs(b))
    mean = float(logs.mean())
    t_low, t_high = test.confidence_interval(1 - alpha)
    low, high = float(t_low), float(t_high)
    if len(logs) >= FEWEST_TO_RESAMPLE:
        low, high = _bca((_logs(a), _logs(b)), paired=True, alpha=alpha, seed=seed) or (low, high)
    return {
        "test": "paired t-test of log ratios",
        "n": len(logs),
        "ratio": _exponents(mean, low, high),
        "ratio_t": _exponents(mean, float(t_low), float(t_high)),
        "p_value": float(test.pvalue),
        "p_wilcoxon": float(stats.wilcoxon(logs).pvalue),
        "spread": float(logs.std(ddof=1)),
    }


def unpaired_ratio(
    a: Sequence[float], b: Sequence[float], *, alpha: float = 0.05, seed: int = 0
) -> dict[str, Any]:
    """Compare times that were not measured in pairs: Welch's t-test of their logarithms.

    Returns what `paired_ratio` returns, with n as [of a, of b], no p_wilcoxon, and as `spread` the
    one that paired ratios would need for the same uncertainty. Raises ValueError as it does.
    """
    from scipy import stats

    la, lb = _logs(a), _logs(b)
    if la.std() + lb.std() < 1e-12:
        raise ValueError("the runs of each side all took the same time, to the last digit")
    test = stats.ttest_ind(la, lb, equal_var=False)
    mean = float(la.mean() - lb.mean())
    t_low, t_high = test.confidence_interval(1 - alpha)
    low, high = float(t_low), float(t_high)
    if min(len(la), len(lb)) >= FEWEST_TO_RESAMPLE:
        low, high = _bca((la, lb), paired=False, alpha=alpha, seed=seed) or (low, high)
    return {
        "test": "Welch's t-test of log times",
        "n": [len(la), len(lb)],
        "ratio": _exponents(mean, low, high),
        "ratio_t": _exponents(mean, float(t_low), float(t_high)),
        "p_value": float(test.pvalue),
        "p_wilcoxon": None,
        "spread": math.sqrt(la.var(ddof=1) + lb.var(ddof=1)),
    }


def control(times: Sequence[float], *, alpha: float = 0.05) -> dict[str, Any] | None:
    """Compare runs of one side with each other, an A/A control; None for fewer than four runs.

    Neighbours in time become pairs, in turn as (first, second) and (second, first), so a machine
    that grows slower and slower does not look like a difference.
    """
    pairs = [tuple(times[i : i + 2]) for i in range(0, len(times) - 1, 2)]
    turned = [pair[::-1] if i % 2 else pair for i, pair in enumerate(pairs)]
    if len(turned) < 2:
        return None
    return paired_ratio([first for first, _ in turned], [second for _, second in turned],
                        alpha=alpha)  # fmt: skip


def power(effect: float, *, spread: float, n: int | Sequence[int], alpha: float = 0.05) -> float:
    """Return how often a t-test finds a true ratio of 1 + effect.

    `spread` and `n` are those of `paired_ratio` or `unpaired_ratio` (noncentral t distribution; for
    unpaired runs with equal variances).
    """
    from statsmodels.stats.power import TTestIndPower, TTestPower

    size = math.log1p(effect) / spread
    if isinstance(n, int):
        found = TTestPower().power(effect_size=size, nobs=n, alpha=alpha)
    else:
        first, second = n
        found = TTestIndPower().power(size * 2**0.5, first, alpha, ratio=second / first)
    # Far from zero the noncentral t distribution comes out as nan.
    return 1.0 if math.isnan(found) else float(found)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for asking several questions at once (Holm's step-down).

    Rejecting where the adjusted value is below alpha errs anywhere at all in at most alpha of
    repetitions.
    """
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(p_values, method="holm")[1]]


def paired_difference(
    a: Sequence[float],
    b: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    alpha: float = 0.05,
    weights: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Test whether the mean of b - a differs from 0, over items that both sides answered.

    With `weights` (words of a text, say) a and b are sums over that many units each, and the mean
    is that of a unit: the sum of b - a over the sum of the weights.

    Items of one cluster (a report) count together; the error is the cluster-robust one of a mean,
    with t of clusters - 1 degrees of freedom. Returns test, n, clusters, difference {value, low,
    high} and p_value. Where all clusters differ by the same, `_without_spread` gives the interval
    of scores in [0, 1], and p_value is the least alpha at which it leaves out 0.
    """
    from scipy import stats

    mean, error, groups = clustered_difference(a, b, clusters, weights)
    if error == 0:
        low, high = _without_spread(mean, groups, alpha / 2)
        p_value = min(1.0, 2 * (1 + min(1.0, abs(mean))) ** -groups)
    else:
        width = float(stats.t.ppf(1 - alpha / 2, groups - 1)) * error
        low, high = mean - width, mean + width
        p_value = float(2 * stats.t.sf(abs(mean) / error, groups - 1))
    return {
        "test": "clustered t-test of paired differences",
        "n": len(a),
        "clusters": groups,
        "difference": {"value": mean, "low": low, "high": high},
        "p_value": p_value,
    }


def equivalence(
    a: Sequence[float],
    b: Sequence[float],
    *,
    margin: float,
    clusters: Sequence[Hashable] | None = None,
    alpha: float = 0.05,
) -> dict[str, Any]:
    """Show that two scores differ by less than `margin`: two one-sided tests, paired by item.

    Returns test, n, clusters, margin, difference {value, low, high} (b - a, at 1 - 2 alpha:
    equivalent is the same as this interval lying inside the margin), p_value, equivalent. Where no
    item differs there is no spread to go by: had a share `margin` of the clusters differed, none of
    G would show it in (1 - margin)^G of repetitions (`_without_spread`).

    Raises ValueError unless 0 < margin < 1.
    """
    from scipy import stats

    if not 0 < margin < 1:
        raise ValueError(f"a margin is a share between 0 and 1, not {margin}")
    mean, error, groups = clustered_difference(a, b, clusters)
    if error == 0:
        low, high = _without_spread(mean, groups, alpha)
        p_value = 1.0 if abs(mean) >= margin else ((1 - margin) / (1 - abs(mean))) ** groups
    else:
        width = float(stats.t.ppf(1 - alpha, groups - 1)) * error
        low, high = mean - width, mean + width
        above = stats.t.sf((mean + margin) / error, groups - 1)
        below = stats.t.cdf((mean - margin) / error, groups - 1)
        p_value = float(max(above, below))
    return {
        "test": "two one-sided t-tests of paired differences",
        "n": len(a),
        "clusters": groups,
        "margin": margin,
        "difference": {"value": mean, "low": low, "high": high},
        "p_value": p_value,
        "equivalent": p_value < alpha,
    }


def mcnemar(a: Sequence[bool | float], b: Sequence[bool | float]) -> dict[str, Any]:
    """Test paired right and wrong answers (1 and 0): exact, from the items where they disagree.

    Returns test, n, only_a (right only in a), only_b, p_value.
    """
    from statsmodels.stats.contingency_tables import mcnemar as exact_mcnemar

    table = [[0, 0], [0, 0]]
    for right_a, right_b in zip(a, b, strict=True):
        table[1 - int(right_a)][1 - int(right_b)] += 1
    p_value = 1.0 if table[0][1] + table[1][0] == 0 else exact_mcnemar(table, exact=True).pvalue
    return {
        "test": "McNemar's exact test",
        "n": len(a),
        "only_a": table[0][1],
        "only_b": table[1][0],
        "p_value": float(p_value),
    }


def cluster_sums(
    values: Sequence[float], clusters: Sequence[Hashable]
) -> tuple[list[float], list[int]]:
    """Return the sum and the number of the values of each cluster."""
    groups: dict[Hashable, list[float]] = defaultdict(list)
    for value, cluster in zip(values, clusters, strict=True):
        groups[cluster].append(value)
    return [sum(group) for group in groups.values()], [len(group) for group in groups.values()]


def clustered_difference(
    a: Sequence[float],
    b: Sequence[float],
    clusters: Sequence[Hashable] | None,
    weights: Sequence[float] | None = None,
) -> tuple[float, float, int]:
    """Return mean of b - a, its cluster-robust standard error, and the number of clusters."""
    differences = [float(y) - float(x) for x, y in zip(a, b, strict=True)]
    n = len(differences)
    names = range(n) if clusters is None else clusters
    sums, counts = cluster_sums(differences, names)
    units = counts if weights is None else cluster_sums(weights, names)[0]
    groups = len(sums)
    if groups < 2:
        raise ValueError(f"{groups} cluster cannot show a spread: at least two are needed")
    total = math.fsum(units)
    mean = math.fsum(differences) / total
    squares = math.fsum((s - mean * u) ** 2 for s, u in zip(sums, units, strict=True))
    error = math.sqrt(groups / (groups - 1) * squares) / total
    return mean, 0.0 if error < 1e-12 else error, groups


def _without_spread(mean: float, groups: int, alpha: float) -> tuple[float, float]:
    """Return the interval of a difference of scores that all clusters share; alpha on each side.

    Had a share w of clusters differed otherwise, at most from -1 to 1, none of G would show it in
    (1 - w)^G of repetitions; that w moves the mean by w(1 + mean) down, or by w(1 - mean) up.
    """
    share, furthest = 1 - alpha ** (1 / groups), max(1.0, abs(mean))
    return mean - share * (furthest + mean), mean + share * (furthest - mean)


def _logs(times: Sequence[float]) -> Any:
    import numpy as np

    values = np.asarray(times, dtype=float)
    if len(values) < 2:
        raise ValueError(f"{len(values)} run cannot show a spread: at least two are needed")
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError("a time is not a positive number")
    return np.log(values)


def _bca(
    logs: tuple[Any, Any], *, paired: bool, alpha: float, seed: int
) -> tuple[float, float] | None:
    """Return the BCa interval of the difference of mean logarithms, where it is defined."""

    def difference(x: Any, y: Any, axis: int) -> Any:
        return x.mean(axis=axis) - y.mean(axis=axis)

    return _bootstrap(logs, difference, paired=paired, method="BCa", alpha=alpha, seed=seed)


def _bootstrap(
    samples: tuple[Any, ...], statistic: Callable[..., Any], *, paired: bool, method: str,
    alpha: float, seed: int, batch: int | None = None,
) -> tuple[float, float] | None:  # fmt: skip
    """Return scipy's bootstrap interval at 1 - alpha, or None where it is undefined."""
    import warnings

    import numpy as np
    from scipy import stats

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        interval = stats.bootstrap(
            samples, statistic, paired=paired, vectorized=True, method=method, batch=batch,
            n_resamples=RESAMPLES, confidence_level=1 - alpha, rng=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
    low, high = float(interval.low), float(interval.high)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def _exponents(mean: float, low: float, high: float) -> Interval:
    return {"value": math.exp(mean), "low": math.exp(low), "high": math.exp(high)}
