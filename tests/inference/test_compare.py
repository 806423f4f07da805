"""Comparisons over a split against counting by hand, scipy, and simulation."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from labkit import plots
from labkit.datasets import tatqa
from labkit.datasets.score import score_answer
from labkit.errors import LabkitError
from labkit.inference import compare as comparing
from labkit.inference import evaluate as evaluation
from labkit.inference.compare import compare_predictions, compare_scores

pytestmark = pytest.mark.usefixtures("runs")
WRONG: list[Any] = [["no such thing"], "million"]


@pytest.fixture(scope="module")
def samples() -> list[tatqa.Sample]:
    return tatqa.samples(tatqa.load("tables", "test"))[:150]


def right(sample: tatqa.Sample) -> list[Any]:
    return [list(sample.question.answer), sample.question.scale]


def predict(
    samples: list[tatqa.Sample], is_right: Callable[[int, tatqa.Sample], bool]
) -> dict[str, list[Any]]:
    return {s.question.uid: right(s) if is_right(i, s) else WRONG for i, s in enumerate(samples)}


def weak_and_strong(samples: list[tatqa.Sample]) -> tuple[dict[str, list[Any]], ...]:
    """Return what two models answer, of which one is right three times of ten, one seven times."""
    rng = np.random.default_rng(1)
    return tuple(predict(samples, lambda i, s, share=share: rng.random() < share)
                 for share in (0.3, 0.7))  # fmt: skip


@pytest.fixture(scope="module")
def compared(samples: list[tatqa.Sample]) -> comparing.Paired:
    weak, strong = weak_and_strong(samples)
    return compare_predictions(samples, {
        "weak": weak,
        "strong": strong,
        "spans": predict(samples, lambda i, s: s.question.answer_type == "span"),
    })  # fmt: skip


def test_differences_are_counted_by_hand(
    samples: list[tatqa.Sample], compared: comparing.Paired
) -> None:
    weak, strong = weak_and_strong(samples)
    assert [(p.a, p.b) for p in compared.pairs] == [
        ("weak", "strong"), ("weak", "spans"), ("strong", "spans")]  # fmt: skip
    groups = compared.pairs[0].groups
    for name, group in groups.items():
        chosen = [s for s in samples if name in ("all", s.question.answer_type,
                                                 s.question.answer_from)]  # fmt: skip
        a = [score_answer(*weak[s.question.uid], s.question) for s in chosen]
        b = [score_answer(*strong[s.question.uid], s.question) for s in chosen]
        assert group.n == len(chosen)
        only_a = sum(x[0] > y[0] for x, y in zip(a, b, strict=True))
        only_b = sum(y[0] > x[0] for x, y in zip(a, b, strict=True))
        assert (group.only_a, group.only_b) == (only_a, only_b)
        assert group.difference["value"] == pytest.approx((only_b - only_a) / len(chosen))
        f1 = np.mean([y[1] - x[1] for x, y in zip(a, b, strict=True)])
        assert group.f1_difference["value"] == pytest.approx(f1)
        exact = scipy_stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
        assert group.p_mcnemar == pytest.approx(exact)
    types = {s.question.answer_type for s in samples}
    sources = {s.question.answer_from for s in samples}
    assert set(groups) == {"all"} | types | sources
    assert sum(groups[t].n for t in types) == len(samples)
    assert sum(groups[t].n for t in sources) == len(samples)


def test_holm_s_correction_is_statsmodels_of_the_p_values_by_reports(
    compared: comparing.Paired,
) -> None:
    from statsmodels.stats.multitest import multipletests

    raw = [pair.groups["all"].p_clustered for pair in compared.pairs]
    assert [pair.p_holm for pair in compared.pairs] == pytest.approx(
        multipletests(raw, method="holm")[1]
    )


def test_a_real_difference_is_found_and_a_model_equals_itself(
    samples: list[tatqa.Sample], compared: comparing.Paired
) -> None:
    found = compared.pairs[0].groups["all"]
    assert found.difference["low"] > 0 and found.p_mcnemar < 1e-4
    same = predict(samples, lambda i, s: i % 2 == 0)
    row = compare_predictions(samples, {"a": same, "b": same}).pairs[0].groups["all"]
    assert row.difference["value"] == 0 and row.p_mcnemar == 1
    # Never differing on 150 questions does not show that they never differ.
    assert -1 < row.difference["low"] < 0 < row.difference["high"] < 1


def test_the_other_order_is_the_other_sign(samples: list[tatqa.Sample]) -> None:
    a = predict(samples, lambda i, s: i % 3 == 0)
    b = predict(samples, lambda i, s: i % 2 == 0)
    there = compare_predictions(samples, {"a": a, "b": b}).pairs[0].groups
    back = compare_predictions(samples, {"b": b, "a": a}).pairs[0].groups
    for name, row in there.items():
        assert back[name].difference["value"] == pytest.approx(-row.difference["value"])
        assert back[name].p_mcnemar == pytest.approx(row.p_mcnemar)
        assert back[name].only_a == row.only_b


def test_interval_and_p_value_are_statsmodels_cluster_robust_ones_and_agree(
    samples: list[tatqa.Sample], compared: comparing.Paired
) -> None:
    import statsmodels.api as sm

    weak, strong = weak_and_strong(samples)
    for name, group in compared.pairs[0].groups.items():
        chosen = [s for s in samples if name in ("all", s.question.answer_type,
                                                 s.question.answer_from)]  # fmt: skip
        reports = np.unique([s.report.uid for s in chosen], return_inverse=True)[1]
        scores = [[score_answer(*given[s.question.uid], s.question) for s in chosen]
                  for given in (weak, strong)]  # fmt: skip
        for place, found in enumerate((group.difference, group.f1_difference)):
            values = np.array([y[place] - x[place] for x, y in zip(*scores, strict=True)])
            exact = sm.OLS(values, np.ones(len(values))).fit(
                cov_type="cluster", cov_kwds={"groups": reports}, use_t=True
            )
            ends = np.clip(exact.conf_int(0.05)[0], -1, 1)
            assert (found["low"], found["high"]) == pytest.approx(tuple(ends))
            if place == 0:
                assert group.p_clustered == pytest.approx(exact.pvalues[0])
        out = not group.difference["low"] <= 0 <= group.difference["high"]
        assert out is (group.p_clustered < 0.05)
        assert group.reports == len(set(reports))


@pytest.mark.parametrize("count", [2, 3, 5, 25])
def test_wins_on_one_report_are_no_sure_difference(samples: list[tatqa.Sample], count: int) -> None:
    names = list(dict.fromkeys(s.report.uid for s in samples))[:count]
    asked = [s for s in samples if s.report.uid in names]
    (pair,) = compare_predictions(asked, {
        "a": predict(asked, lambda i, s: False),
        "b": predict(asked, lambda i, s: s.report.uid == names[0]),
    }).pairs  # fmt: skip
    found = pair.groups["all"]
    assert found.only_b == sum(s.report.uid == names[0] for s in asked) and found.only_a == 0
    # Of `count` reports one is won: t is 1, whatever their number, where all are of one size.
    assert pair.p_holm == found.p_clustered > 0.3
    assert found.difference["low"] < 0 < found.difference["high"]


def test_one_report_says_nothing_of_others(samples: list[tatqa.Sample]) -> None:
    asked = [s for s in samples if s.report.uid == samples[0].report.uid]
    wrong, all_right = predict(asked, lambda i, s: False), predict(asked, lambda i, s: True)
    found = compare_predictions(asked, {"a": wrong, "b": all_right, "c": wrong})
    for pair in found.pairs:
        assert pair.p_holm is None
        for row in pair.groups.values():
            assert (row.reports, row.p_clustered) == (1, None)
            assert (row.difference["low"], row.difference["high"]) == (-1, 1)
    assert found.pairs[0].groups["all"].difference["value"] == 1
    comparison = comparing.Comparison(data="d", split="test", models=["a", "b", "c"], scores={},
                                      **vars(found))  # fmt: skip
    shown = comparing.render(comparison)
    assert "b minus a (one report: no test)" in shown and "+100.0 (one report)" in shown
    assert "nan" not in shown and "None" not in shown
    assert json.loads(json.dumps(comparison.to_json(), allow_nan=False))["pairs"][0]["p_holm"] is (
        None
    )


def test_questions_on_reports_of_their_own_are_tested_by_mcnemar(
    samples: list[tatqa.Sample],
) -> None:
    asked = list({s.report.uid: s for s in samples}.values())
    (pair,) = compare_predictions(asked, {
        "a": predict(asked, lambda i, s: i % 5 == 0), "b": predict(asked, lambda i, s: i % 3 == 0),
    }).pairs  # fmt: skip
    found = pair.groups["all"]
    exact = scipy_stats.binomtest(found.only_a, found.only_a + found.only_b).pvalue
    assert pair.p_holm == pytest.approx(exact)


def test_disagreements_are_questions_some_have_right_and_some_wrong(
    samples: list[tatqa.Sample], compared: comparing.Paired
) -> None:
    rows = compared.disagreements
    kinds = [row["gold"]["answer_type"] for row in rows]
    assert set(kinds) == {s.question.answer_type for s in samples}
    assert max(kinds.count(kind) for kind in kinds) == comparing.EXAMPLES_PER_TYPE
    for row in rows:
        sample = samples[row["sid"]]
        assert row["uid"] == sample.question.uid
        assert {a["em"] for a in row["answers"]} == {0, 1}
        for answer in row["answers"]:
            assert (answer["em"], answer["f1"]) == score_answer(
                answer["values"], answer["scale"], sample.question
            )


@pytest.fixture
def models(
    tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[str], list[str]]:
    """Two models that answer by a rule, and the list of what was asked."""
    names = [str(tiny_model("tiny-llama")), str(tiny_model("tiny-phi"))]
    asked: list[str] = []

    def generate(model: str, examples: Any, task: Any, **options: Any) -> list[str]:
        asked.append(model)
        every = 2 + names.index(model)
        return [e.answer if i % every == 0 else "wrong" for i, e in enumerate(examples)]

    monkeypatch.setattr(evaluation, "_generate", generate)
    return names, asked


def test_models_are_compared_by_name_and_evaluations_are_kept(
    models: tuple[list[str], list[str]], few_reports: Path
) -> None:
    names, asked = models
    found = compare_scores([*names, names[0]], data=str(few_reports), quiet=True)
    given = found.to_json()
    assert json.loads(json.dumps(given, allow_nan=False)) == given
    assert set(given) == {"data", "split", "n", "models", "scores", "pairs", "disagreements"}
    assert set(given["pairs"][0]) == {"a", "b", "p_holm", "groups"}
    assert set(given["pairs"][0]["groups"]["all"]) == {
        "n", "reports", "difference", "f1_difference", "only_a", "only_b", "p_mcnemar",
        "p_clustered",
    }  # fmt: skip
    assert given["scores"] == {name: found.scores[name].to_json() for name in names}
    assert found.models == names and asked == names
    for name in names:
        assert found.scores[name].model == name
    compare_scores(names, data=str(few_reports), quiet=True)
    assert asked == names
    a, b = (found.scores[name].metrics["em"]["value"] for name in names)
    assert found.pairs[0].groups["all"].difference["value"] == pytest.approx(b - a)
    shown = comparing.render(found)
    assert all(name in shown for name in names) and "where they disagree" in shown
    figure, alt = plots.paired_differences(found.pairs)
    assert f"{100 * (b - a):+.0f} points" in alt
    assert len(figure.axes) == 1
    assert plots.png(figure, alt=alt).startswith(b"\x89PNG")


def test_majority_can_be_compared(models: tuple[list[str], list[str]], few_reports: Path) -> None:
    names, _ = models
    found = compare_scores(["majority", names[0]], data=str(few_reports), quiet=True)
    assert found.pairs[0].a == "majority"


@pytest.mark.parametrize(
    ("given", "message"),
    [([], "two models or more"), (["tiny-llama"], "two models or more"),
     (["tiny-llama", "tiny-llama"], "two models or more"),
     (["tiny-llama", "nothing"], "neither a folder with a model"),
     (["nothing", "majority"], "neither a folder with a model")],
)  # fmt: skip
def test_what_cannot_be_compared_is_one_sentence_before_anything_runs(
    given: list[str], message: str, models: tuple[list[str], list[str]], few_reports: Path
) -> None:
    with pytest.raises(LabkitError, match=message):
        compare_scores(given, data=str(few_reports), quiet=True)
    assert models[1] == []
