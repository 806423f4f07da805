"""How sure a measured number is.

A score over questions is a mean, and a mean of a sample has an interval. Questions on the same
report are not independent (a table that is misread is misread for all of them), so whole reports
are resampled: the cluster bootstrap. The interval is the bias-corrected and accelerated one.

Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapters 8 and 14;
`scipy.stats.bootstrap`.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence

RESAMPLES = 9_999


def mean_interval(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """Return {value, low, high}: the mean of `values` in [0, 1] and its interval.

    `clusters` says which values belong together. Where all clusters agree, resampling would
    claim certainty; the exact binomial interval (Clopper and Pearson 1934) is given instead.
    """
    import numpy as np
    from scipy import stats

    n = len(values)
    mean = sum(values) / n
    groups: dict[Hashable, list[float]] = defaultdict(list)
    for value, cluster in zip(values, clusters, strict=True):
        groups[cluster].append(value)
    sums = np.array([sum(group) for group in groups.values()])
    counts = np.array([len(group) for group in groups.values()])
    if np.ptp(sums / counts) == 0 or len(groups) < 3:
        exact = stats.binomtest(round(mean * n), n).proportion_ci(confidence)
        return {"value": mean, "low": float(exact.low), "high": float(exact.high)}

    def ratio(s: np.ndarray, c: np.ndarray, axis: int) -> np.ndarray:
        return s.sum(axis=axis) / c.sum(axis=axis)

    interval = stats.bootstrap(
        (sums, counts), ratio, paired=True, vectorized=True, n_resamples=RESAMPLES,
        confidence_level=confidence, rng=np.random.default_rng(seed), batch=1000,
    ).confidence_interval  # fmt: skip
    low, high = float(interval.low), float(interval.high)
    if not (low == low and high == high):  # BCa is undefined in rare degenerate samples
        low = high = mean
    return {"value": mean, "low": low, "high": high}
