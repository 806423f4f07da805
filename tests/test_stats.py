"""Intervals against scipy's own, against coverage they promise, and where resampling fails."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from labkit import stats
from labkit.stats import mean_interval


def width(interval: dict[str, float]) -> float:
    return interval["high"] - interval["low"]


def test_with_clusters_of_one_it_is_scipy_s_bca_interval_of_the_mean() -> None:
    values = np.random.default_rng(1).binomial(1, 0.3, size=80).astype(float)
    exact = scipy_stats.bootstrap(
        (values,), np.mean, method="BCa", n_resamples=stats.RESAMPLES, rng=np.random.default_rng(7)
    ).confidence_interval
    found = mean_interval(list(values), range(80))
    assert found["value"] == pytest.approx(values.mean())
    # Two random resamplings of 9,999 agree to a fraction of the interval's width.
    assert found["low"] == pytest.approx(exact.low, abs=0.05 * width(found))
    assert found["high"] == pytest.approx(exact.high, abs=0.05 * width(found))


def test_with_clusters_it_is_a_bootstrap_of_whole_clusters() -> None:
    """A plain percentile bootstrap, written out, over reports of unlike size."""
    rng = np.random.default_rng(3)
    sizes = rng.integers(2, 9, size=60)
    groups = [rng.binomial(1, rng.beta(2, 2), size=size).astype(float) for size in sizes]
    means = []
    for _ in range(4000):
        chosen = [groups[i] for i in rng.integers(0, len(groups), size=len(groups))]
        means.append(np.concatenate(chosen).mean())
    low, high = np.percentile(means, [2.5, 97.5])
    values = [v for group in groups for v in group]
    clusters = [i for i, group in enumerate(groups) for _ in group]
    found = mean_interval(values, clusters)
    assert found["value"] == pytest.approx(np.mean(values))
    assert found["low"] == pytest.approx(low, abs=0.1 * (high - low))
    assert found["high"] == pytest.approx(high, abs=0.1 * (high - low))


def test_the_interval_covers_the_truth_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 samples of 60 reports with correlated answers: about 95 % of intervals hold the mean.

    Ignoring the clusters, far fewer do; that is what the clusters are for.
    """
    monkeypatch.setattr(stats, "RESAMPLES", 999)
    rng = np.random.default_rng(5)
    truth, covered, naive = 0.5, 0, 0
    for _ in range(200):
        groups = [rng.binomial(1, rng.beta(0.5, 0.5), size=6).astype(float) for _ in range(60)]
        values = [v for group in groups for v in group]
        clusters = [i for i, group in enumerate(groups) for _ in group]
        found = mean_interval(values, clusters)
        covered += found["low"] <= truth <= found["high"]
        alone = mean_interval(values, range(len(values)))
        naive += alone["low"] <= truth <= alone["high"]
    # Two and a half standard errors of a share of 95 % in 200.
    assert 0.95 - 0.039 <= covered / 200 <= 0.95 + 0.039
    assert naive / 200 < 0.85


def test_questions_that_stand_and_fall_together_widen_the_interval() -> None:
    truth = list(np.random.default_rng(2).binomial(1, 0.5, size=50).astype(float))
    values = [v for v in truth for _ in range(6)]
    together = mean_interval(values, [i for i in range(50) for _ in range(6)])
    alone = mean_interval(values, range(300))
    # The sample is really one of 50, so the interval is wider by about the root of six.
    assert width(together) == pytest.approx(6**0.5 * width(alone), rel=0.1)
    fifty = mean_interval(truth, range(50))
    assert together["low"] == pytest.approx(fifty["low"], abs=0.02)
    assert together["high"] == pytest.approx(fifty["high"], abs=0.02)


@pytest.mark.parametrize(("value", "n"), [(0.0, 30), (1.0, 30), (1.0, 1), (0.0, 600)])
def test_where_all_agree_it_is_clopper_and_pearson(value: float, n: int) -> None:
    """None of n right: the upper limit is the share at which that happens in 2.5 % of samples."""
    found = mean_interval([value] * n, range(n))
    limit = 0.025 ** (1 / n)
    low, high = (limit, 1.0) if value else (0.0, 1 - limit)
    assert found["value"] == value
    assert found["low"] == pytest.approx(low, abs=1e-9)
    assert found["high"] == pytest.approx(high, abs=1e-9)


def test_where_all_reports_agree_it_does_not_claim_certainty() -> None:
    """Half of every report right: resampling reports would give 50 % each time."""
    found = mean_interval([0.0, 1.0] * 10, [i for i in range(10) for _ in range(2)])
    exact = scipy_stats.binomtest(10, 20).proportion_ci(0.95)
    assert (found["low"], found["high"]) == pytest.approx((exact.low, exact.high))


def test_two_reports_are_too_few_to_resample() -> None:
    found = mean_interval([1.0, 1.0, 0.0], ["a", "a", "b"])
    assert found["low"] < 0.2 and found["high"] > 0.95


def test_more_confidence_is_wider_and_the_same_input_the_same() -> None:
    values = [float(i % 3 == 0) for i in range(60)]
    intervals = [mean_interval(values, range(60), confidence=c) for c in (0.8, 0.95, 0.99)]
    assert width(intervals[0]) < width(intervals[1]) < width(intervals[2])
    assert intervals[1] == mean_interval(values, range(60))


def test_values_and_clusters_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="zip"):
        mean_interval([1.0, 0.0], ["a"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(0, 6)),
        min_size=1, max_size=25,
    )
)  # fmt: skip
def test_an_interval_holds_its_mean_and_stays_in_range(rows: list[tuple[float, int]]) -> None:
    found = mean_interval([v for v, _ in rows], [c for _, c in rows])
    assert found["value"] == pytest.approx(sum(v for v, _ in rows) / len(rows))
    assert -1e-9 <= found["low"] <= found["value"] + 1e-9
    assert found["value"] - 1e-9 <= found["high"] <= 1 + 1e-9
