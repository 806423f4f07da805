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


# Speed-ups.

SPREAD = 0.03


def paired_times(
    rng: np.random.Generator, effect: float, n: int
) -> tuple[list[float], list[float]]:
    """Times of n pairs: pairs share what the machine does; a true ratio a/b of 1 + effect."""
    shared = rng.normal(3, 0.2, size=n)
    a = np.exp(shared + rng.normal(0, SPREAD / 2**0.5, size=n) + np.log1p(effect))
    b = np.exp(shared + rng.normal(0, SPREAD / 2**0.5, size=n))
    return list(a), list(b)


def within_binomial(hits: int, trials: int, share: float) -> bool:
    """Whether a count is one of the 99.9 % that a true share gives."""
    low, high = scipy_stats.binom.interval(0.999, trials, share)
    return bool(low <= hits <= high)


def test_a_paired_ratio_is_the_geometric_mean_and_scipy_s_test() -> None:
    a, b = paired_times(np.random.default_rng(1), 0.05, 12)
    found = stats.paired_ratio(a, b)
    assert found["ratio"]["value"] == pytest.approx(
        scipy_stats.gmean(a) / scipy_stats.gmean(b), rel=1e-12
    )
    exact = scipy_stats.ttest_1samp(np.log(np.divide(a, b)), 0)
    assert found["p_value"] == pytest.approx(exact.pvalue)
    t_interval = exact.confidence_interval(0.95)
    assert np.log([found["ratio_t"]["low"], found["ratio_t"]["high"]]) == pytest.approx(t_interval)
    assert found["p_wilcoxon"] == scipy_stats.wilcoxon(np.log(a) - np.log(b)).pvalue
    bca = scipy_stats.bootstrap(
        (np.log(np.divide(a, b)),), np.mean, method="BCa", n_resamples=20_000,
        rng=np.random.default_rng(9),
    ).confidence_interval  # fmt: skip
    width = bca.high - bca.low
    assert np.log(found["ratio"]["low"]) == pytest.approx(bca.low, abs=0.04 * width)
    assert np.log(found["ratio"]["high"]) == pytest.approx(bca.high, abs=0.04 * width)


def test_an_unpaired_ratio_is_welch_s_test() -> None:
    rng = np.random.default_rng(2)
    a, b = np.exp(rng.normal(0.1, 0.05, size=9)), np.exp(rng.normal(0, 0.01, size=14))
    found = stats.unpaired_ratio(a, b)
    exact = scipy_stats.ttest_ind(np.log(a), np.log(b), equal_var=False)
    assert found["p_value"] == pytest.approx(exact.pvalue)
    assert found["n"] == [9, 14]
    assert found["ratio"]["low"] < found["ratio"]["value"] < found["ratio"]["high"]
    bca = scipy_stats.bootstrap(
        (np.log(a), np.log(b)), lambda x, y, axis: x.mean(axis) - y.mean(axis), method="BCa",
        n_resamples=20_000, rng=np.random.default_rng(4),
    ).confidence_interval  # fmt: skip
    width = bca.high - bca.low
    assert np.log(found["ratio"]["low"]) == pytest.approx(bca.low, abs=0.05 * width)
    assert np.log(found["ratio"]["high"]) == pytest.approx(bca.high, abs=0.05 * width)


@pytest.mark.parametrize("n", [10, 16])
def test_three_percent_are_found_as_often_as_claimed(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats, "RESAMPLES", 9)
    rng, trials = np.random.default_rng(n), 500
    claimed = stats.power(0.03, spread=SPREAD, n=n)
    assert 0.7 < claimed < 0.99
    found = sum(
        stats.paired_ratio(*paired_times(rng, 0.03, n))["p_value"] < 0.05 for _ in range(trials)
    )
    assert within_binomial(found, trials, claimed)
    # Welch's test on the same pairs can't take out what both runs shared, and finds next to none.
    unpaired = sum(
        stats.unpaired_ratio(*paired_times(rng, 0.03, n))["p_value"] < 0.05 for _ in range(100)
    )
    assert unpaired / 100 < 0.2


def test_false_alarms_come_at_alpha(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "RESAMPLES", 9)
    rng, trials = np.random.default_rng(8), 600
    paired, welch, same = [], [], []
    for _ in range(trials):
        paired.append(stats.paired_ratio(*paired_times(rng, 0.0, 10))["p_value"])
        x, y = np.exp(rng.normal(0, SPREAD, size=(2, 10)))
        welch.append(stats.unpaired_ratio(x, y)["p_value"])
        trend = np.exp(np.linspace(0, 0.5, 20) + rng.normal(0, SPREAD, size=20))
        outcome = stats.control(list(trend))
        assert outcome is not None
        same.append(outcome["p_value"])
    for alpha in (0.05, 0.2):
        assert within_binomial(sum(p < alpha for p in paired), trials, alpha)
        assert within_binomial(sum(p < alpha for p in welch), trials, alpha)
        # A steady trend adds to the spread of turned pairs, never to their mean.
        assert sum(p < alpha for p in same) / trials < alpha


def test_the_interval_of_ten_pairs_covers_what_the_essay_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stats, "RESAMPLES", 999)
    rng, trials, bca, t = np.random.default_rng(12), 800, 0, 0
    for _ in range(trials):
        found = stats.paired_ratio(*paired_times(rng, 0.05, 10))
        bca += found["ratio"]["low"] <= 1.05 <= found["ratio"]["high"]
        t += found["ratio_t"]["low"] <= 1.05 <= found["ratio_t"]["high"]
    assert within_binomial(bca, trials, 0.91)
    assert not within_binomial(bca, trials, 0.95)
    assert within_binomial(t, trials, 0.95)


def test_few_pairs_get_the_interval_of_the_test() -> None:
    found = stats.paired_ratio([1.1, 1.2, 1.15], [1.0, 1.0, 1.02])
    assert found["ratio"] == found["ratio_t"]


def test_an_a_a_control_turns_every_other_pair() -> None:
    found = stats.control([1.0, 2.0, 3.0, 5.0])
    assert found is not None
    assert found["ratio"]["value"] == pytest.approx((1 / 2 * 5 / 3) ** 0.5)
    assert stats.control([1.0, 2.0, 3.0]) is None


@pytest.mark.parametrize("test", [stats.paired_ratio, stats.unpaired_ratio])
def test_what_cannot_be_compared_is_refused(test) -> None:
    with pytest.raises(ValueError, match="at least two"):
        test([1.0], [1.0])
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not a positive number"):
            test([1.0, bad], [1.0, 2.0])
    with pytest.raises(ValueError, match="same"):
        test([2.0, 2.0, 2.0], [1.0, 1.0, 1.0])


def test_holm_is_the_step_down_written_out() -> None:
    p_values = [0.012, 0.2, 0.001, 0.03]
    order = sorted(range(4), key=lambda i: p_values[i])
    expected, so_far = [0.0] * 4, 0.0
    for rank, i in enumerate(order):
        so_far = max(so_far, min(1.0, (4 - rank) * p_values[i]))
        expected[i] = so_far
    assert stats.holm(p_values) == pytest.approx(expected)
    assert stats.holm([0.04]) == [0.04]


# Quality.


def reports(
    rng: np.random.Generator, count: int, change: float
) -> tuple[list[float], list[float], list[int]]:
    """Answers of two models to six questions on each report, alike within a report."""
    a, b, clusters = [], [], []
    for report in range(count):
        easy = rng.beta(2, 2)
        shift = rng.choice([-1, 1]) * 0.15 + change
        for _ in range(6):
            a.append(float(rng.random() < easy))
            b.append(float(rng.random() < min(max(easy + shift, 0), 1)))
            clusters.append(report)
    return a, b, clusters


def test_without_clusters_equivalence_is_statsmodels_tost() -> None:
    from statsmodels.stats.weightstats import ttost_paired

    rng = np.random.default_rng(3)
    a = rng.normal(0.5, 0.2, size=80)
    b = a + rng.normal(0.01, 0.1, size=80)
    found = stats.equivalence(list(a), list(b), margin=0.03)
    assert found["p_value"] == pytest.approx(ttost_paired(b, a, -0.03, 0.03)[0])
    assert found["equivalent"] == (found["p_value"] < 0.05)


def test_with_clusters_the_error_is_statsmodels_cluster_robust_one() -> None:
    import statsmodels.api as sm

    a, b, clusters = reports(np.random.default_rng(4), 30, 0.1)
    fit = sm.OLS(np.subtract(b, a), np.ones(len(a))).fit(
        cov_type="cluster", cov_kwds={"groups": np.array(clusters)}, use_t=True
    )
    found = stats.paired_difference(a, b, clusters)
    assert found["difference"]["value"] == pytest.approx(fit.params[0])
    assert found["p_value"] == pytest.approx(fit.pvalues[0])
    low, high = fit.conf_int()[0]
    assert found["difference"]["low"] == pytest.approx(low)
    assert found["difference"]["high"] == pytest.approx(high)
    assert found["clusters"] == 30
    one_sided = stats.equivalence(a, b, margin=0.2, clusters=clusters)["difference"]
    low, high = fit.conf_int(alpha=0.1)[0]
    assert (one_sided["low"], one_sided["high"]) == (pytest.approx(low), pytest.approx(high))


def test_equivalence_errs_in_alpha_of_repetitions_and_the_naive_one_in_more() -> None:
    """At a true difference of the margin itself, equivalence may be claimed in 5 %."""
    rng, trials, wrong, naive = np.random.default_rng(6), 1000, 0, 0
    for _ in range(trials):
        shifts = rng.normal(0.05, 0.06, size=40)
        a = rng.random(240)
        b = a + np.repeat(shifts, 6) + rng.normal(0, 0.02, size=240)
        clusters = np.repeat(np.arange(40), 6)
        wrong += stats.equivalence(list(a), list(b), margin=0.05, clusters=list(clusters))[
            "equivalent"
        ]
        naive += stats.equivalence(list(a), list(b), margin=0.05)["equivalent"]
    assert within_binomial(wrong, trials, 0.05)
    assert naive / trials > 0.15


def test_answers_that_never_differ_prove_as_much_as_their_number_allows() -> None:
    """None of n differing: the share that differs is below 1 - 0.05^(1/n)."""
    few, many = [1.0] * 20, [1.0, 0.0] * 100
    assert not stats.equivalence(few, few, margin=0.02)["equivalent"]
    found = stats.equivalence(many, many, margin=0.02)
    assert found["equivalent"]
    assert found["p_value"] == pytest.approx(0.98**200)
    assert found["difference"]["high"] == pytest.approx(1 - 0.05 ** (1 / 200))
    assert stats.paired_difference(many, many)["p_value"] == 1.0


def test_differences_without_spread_prove_as_much_as_their_number_allows() -> None:
    """All wrong against all right: the sign test's p, and an interval that has a width."""
    two = stats.paired_difference([0.0] * 2, [1.0] * 2)
    assert two["p_value"] == 0.5
    # Of two alike, 97.5 % of which share would be seen once in forty? The others may be worse.
    share = 0.025**0.5
    assert two["difference"]["low"] == pytest.approx(share - (1 - share))
    assert two["difference"]["high"] == two["difference"]["value"] == 1.0
    clusters = ["a", "a", "b", "b", "c", "c"]
    of_three = stats.paired_difference([0.0] * 6, [1.0] * 6, clusters)
    assert (of_three["clusters"], of_three["p_value"]) == (3, 0.25)
    assert stats.paired_difference([0.0] * 10, [1.0] * 10)["p_value"] == 2**-9
    for size in (0.001, 0.1, 0.4, 1.0, 3.0):
        for count in (2, 5, 6, 12, 900):
            for sign in (1, -1):
                one = stats.paired_difference([0.0] * count, [sign * size] * count)
                low, high = one["difference"]["low"], one["difference"]["high"]
                assert low <= sign * size <= high
                assert (one["p_value"] < 0.05) is (low > 0 or high < 0)
    found = stats.equivalence([0.5] * 2, [0.51] * 2, margin=0.02)
    assert not found["equivalent"] and found["p_value"] == pytest.approx((0.98 / 0.99) ** 2)
    for count in (100, 200, 400):
        for size in (0.0, 0.005, -0.012, 0.019):
            near = stats.equivalence([0.5] * count, [0.5 + size] * count, margin=0.02)
            inside = near["difference"]["low"] > -0.02 and near["difference"]["high"] < 0.02
            assert near["equivalent"] is inside
    assert stats.equivalence([0.5] * 900, [0.51] * 900, margin=0.02)["equivalent"]
    assert stats.equivalence([0.0] * 900, [0.5] * 900, margin=0.02)["p_value"] == 1.0


def test_mcnemar_is_a_binomial_test_of_the_disagreements() -> None:
    a = [1, 1, 1, 1, 1, 0, 0, 1, 0, 1]
    b = [1, 0, 0, 0, 0, 1, 0, 1, 0, 0]
    found = stats.mcnemar(a, b)
    assert (found["only_a"], found["only_b"], found["n"]) == (5, 1, 10)
    assert found["p_value"] == pytest.approx(scipy_stats.binomtest(1, 6, 0.5).pvalue)
    assert stats.mcnemar(a, a)["p_value"] == 1.0


def test_one_cluster_and_a_margin_that_is_no_share_are_refused() -> None:
    with pytest.raises(ValueError, match="at least two"):
        stats.equivalence([1.0, 0.0], [1.0, 1.0], margin=0.1, clusters=["a", "a"])
    with pytest.raises(ValueError, match="margin is a share"):
        stats.equivalence([1.0, 0.0], [1.0, 1.0], margin=2.0)


def test_one_cluster_has_no_bootstrap_interval() -> None:
    assert stats.ratio_interval([3.0], [4.0], method="percentile") is None
