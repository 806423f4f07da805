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
from labkit.inference.compare import compare_predictions, compare_scores, difference_interval

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


@pytest.fixture(scope="module")
def compared(samples: list[tatqa.Sample]) -> comparing.Paired:
    rng = np.random.default_rng(1)
    return compare_predictions(samples, {
        "weak": predict(samples, lambda i, s: rng.random() < 0.3),
        "strong": predict(samples, lambda i, s: rng.random() < 0.7),
        "spans": predict(samples, lambda i, s: s.question.answer_type == "span"),
    })  # fmt: skip


def test_differences_are_counted_by_hand(
    samples: list[tatqa.Sample], compared: comparing.Paired
) -> None:
    rng = np.random.default_rng(1)
    weak = predict(samples, lambda i, s: rng.random() < 0.3)
    strong = predict(samples, lambda i, s: rng.random() < 0.7)
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


def test_holm_s_correction_is_statsmodels_(compared: comparing.Paired) -> None:
    from statsmodels.stats.multitest import multipletests

    raw = [pair.groups["all"].p_mcnemar for pair in compared.pairs]
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


def test_the_interval_is_scipy_s_bootstrap_over_clusters() -> None:
    rng = np.random.default_rng(3)
    clusters, values = [], []
    for cluster in range(60):
        shift = rng.normal(0.1, 0.3)
        for _ in range(rng.integers(3, 8)):
            clusters.append(cluster)
            values.append(float(np.clip(round(shift + rng.normal(0, 0.3)), -1, 1)))
    sums = np.array([sum(v for v, k in zip(values, clusters, strict=True) if k == c)
                     for c in range(60)])  # fmt: skip
    counts = np.array([clusters.count(c) for c in range(60)])
    exact = scipy_stats.bootstrap(
        (sums, counts), lambda s, c, axis: s.sum(axis=axis) / c.sum(axis=axis), paired=True,
        vectorized=True, method="percentile", rng=np.random.default_rng(9),
    ).confidence_interval  # fmt: skip
    found = difference_interval(values, clusters)
    width = exact.high - exact.low
    assert found["value"] == pytest.approx(np.mean(values))
    assert found["low"] == pytest.approx(exact.low, abs=0.05 * width)
    assert found["high"] == pytest.approx(exact.high, abs=0.05 * width)
    # Taking questions as independent would be surer than the data allow.
    alone = difference_interval(values, range(len(values)))
    assert alone["high"] - alone["low"] < 0.9 * width


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
        "n", "difference", "f1_difference", "only_a", "only_b", "p_mcnemar", "p_clustered",
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
