"""Compare models over a whole split, paired by question: which is better, and is that significant?

Two models that answer the same questions are compared question by question, which cancels how
hard each question is. For every pair, overall and within each answer type and source:

* **The size**: mean of (score of b - score of a), with a 95 % interval. Questions on one report
  share its table, so the t-test behind it counts reports (the error is cluster-robust); the
  interval leaves out 0 where `p_clustered`, of the same test, is below 0.05.
* **McNemar's test** looks only at the questions that one model has right and the other wrong: if
  neither is better, each side wins half of them, as a coin does. It takes questions as
  independent, so it is the one to go by only where each is on a report of its own.
* **Many pairs, many chances**: with k models there are k(k-1)/2 pairs, so their p-values on all
  questions are also given after Holm's correction.

A group on a handful of reports shows little, and its interval says so. One report says nothing of
others: its interval is all that is possible, and it has no p-value.

Sources: McNemar 1947; Holm 1979; Cameron and Miller 2015, "A Practitioner's Guide to
Cluster-Robust Inference".
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from labkit import stats
from labkit.datasets import tatqa
from labkit.datasets.registry import reports
from labkit.datasets.score import score_answer
from labkit.datasets.tatqa import Sample
from labkit.errors import LabkitError
from labkit.inference.evaluate import MAJORITY, Evaluation, evaluate, interval
from labkit.inference.generate import model_path
from labkit.stats import Interval

EXAMPLES_PER_TYPE = 2


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How two models differ on `n` questions: b - a, as fractions."""

    n: int
    reports: int
    difference: Interval
    f1_difference: Interval
    only_a: int
    """questions that only a has right"""
    only_b: int
    p_mcnemar: float
    p_clustered: float | None
    """None where all questions are on one report"""

    @property
    def p_value(self) -> float | None:
        """Return the p-value to go by: McNemar's where each question is on its own report."""
        return self.p_mcnemar if self.reports == self.n > 1 else self.p_clustered


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two models, compared on all questions and on each answer type and source."""

    a: str
    b: str
    groups: dict[str, Difference]
    p_holm: float | None
    """None where all questions are on one report"""


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Predictions compared on `n` questions, two by two."""

    n: int
    pairs: list[Pair]
    disagreements: list[dict[str, Any]]
    """{sid, uid, question, gold, answers}"""


@dataclass(frozen=True, kw_only=True)
class Comparison(Paired):
    """Models compared over a split."""

    data: str
    split: str
    models: list[str]
    scores: dict[str, Evaluation]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON of `labkit infer --all`."""
        scores = {name: found.to_json() for name, found in self.scores.items()}
        return {"data": self.data, "split": self.split, "models": self.models, "scores": scores,
                "n": self.n, "pairs": [dataclasses.asdict(pair) for pair in self.pairs],
                "disagreements": self.disagreements}  # fmt: skip


def compare_scores(
    models: Sequence[str],
    *,
    data: str = "tables",
    split: str = "test",
    max_samples: int | None = None,
    dtype: str = "auto",
    fresh: bool = False,
    quiet: bool = False,
) -> Comparison:
    """Compare models (names, runs, folders or 'majority') over a split.

    Evaluations are kept and used again.

    Raises:
        LabkitError: fewer than two models, or one that is not there.
    """
    models = list(dict.fromkeys(models))
    if len(models) < 2:
        raise LabkitError("a comparison needs two models or more: name another one")
    for name in models:
        if name != MAJORITY:
            model_path(name)
    samples = tatqa.samples(reports(data, split))[:max_samples]
    outcomes = {
        name: evaluate(name, data=data, split=split, max_samples=max_samples, dtype=dtype,
                       fresh=fresh, quiet=quiet)
        for name in models
    }  # fmt: skip
    predictions = {
        name: json.loads(Path(outcome.predictions).read_text(encoding="utf-8"))
        for name, outcome in outcomes.items()
    }
    found = compare_predictions(samples, predictions)
    return Comparison(data=data, split=split, models=models, scores=outcomes, **vars(found))


def compare_predictions(
    samples: Sequence[Sample], predictions: dict[str, dict[str, list[Any]]]
) -> Paired:
    """Compare predictions {label: {uid: [values, scale]}} on the same samples."""
    scores: dict[str, list[tuple[float, float]]] = {name: [] for name in predictions}
    for name, given in predictions.items():
        for sample in samples:
            values, scale = given[sample.question.uid]
            scores[name].append(score_answer(values, scale, sample.question))
    pairs = list(combinations(predictions, 2))
    groups = [_groups(samples, scores[a], scores[b]) for a, b in pairs]
    # All pairs are on the same reports: each has a p-value, or none has.
    tested = [p for found in groups if (p := found["all"].p_value) is not None]
    holm: Sequence[float | None] = stats.holm(tested) if tested else [None] * len(pairs)
    return Paired(
        n=len(samples),
        pairs=[Pair(a=a, b=b, groups=found, p_holm=p)
               for (a, b), found, p in zip(pairs, groups, holm, strict=True)],
        disagreements=_disagreements(samples, predictions, scores),
    )  # fmt: skip


def _groups(
    samples: Sequence[Sample], a: Sequence[tuple[float, float]], b: Sequence[tuple[float, float]]
) -> dict[str, Difference]:
    """Compare two models on all questions, on each answer type and on each source."""
    members: dict[str, list[int]] = {"all": list(range(len(samples)))}
    for key in ("answer_type", "answer_from"):
        names = sorted({getattr(s.question, key) for s in samples} - {""})
        for name in names:
            members[name if name not in members else f"{name} ({key})"] = [
                i for i, s in enumerate(samples) if getattr(s.question, key) == name
            ]
    return {name: _compare(samples, a, b, indices) for name, indices in members.items()}


def _compare(
    samples: Sequence[Sample], a: Sequence[tuple[float, float]], b: Sequence[tuple[float, float]],
    indices: Sequence[int],
) -> Difference:  # fmt: skip
    reports = [samples[i].report.uid for i in indices]
    em_a, f1_a = zip(*(a[i] for i in indices), strict=True)
    em_b, f1_b = zip(*(b[i] for i in indices), strict=True)
    exact = stats.mcnemar(em_a, em_b)
    difference, p_clustered = _difference(em_a, em_b, reports)
    return Difference(
        n=len(indices),
        reports=len(set(reports)),
        difference=difference,
        f1_difference=_difference(f1_a, f1_b, reports)[0],
        only_a=exact["only_a"],
        only_b=exact["only_b"],
        p_mcnemar=exact["p_value"],
        p_clustered=p_clustered,
    )


def _difference(
    a: Sequence[float], b: Sequence[float], reports: Sequence[str]
) -> tuple[Interval, float | None]:
    """Return the mean of b - a with its 95 % interval, and the p-value of the same t-test."""
    if len(set(reports)) < 2:
        return {"value": (sum(b) - sum(a)) / len(a), "low": -1.0, "high": 1.0}, None
    found = stats.paired_difference(a, b, reports)
    value, low, high = (found["difference"][key] for key in ("value", "low", "high"))
    return {"value": value, "low": max(-1.0, low), "high": min(1.0, high)}, found["p_value"]


def _disagreements(
    samples: Sequence[Sample],
    predictions: dict[str, dict[str, list[Any]]],
    scores: dict[str, list[tuple[float, float]]],
) -> list[dict[str, Any]]:
    """Return the first questions of each answer type that some models have right and some wrong."""
    shown: dict[str, int] = {}
    found = []
    for sid, sample in enumerate(samples):
        kind = sample.question.answer_type
        right = {given[sid][0] for given in scores.values()}
        if len(right) < 2 or shown.get(kind, 0) >= EXAMPLES_PER_TYPE:
            continue
        shown[kind] = shown.get(kind, 0) + 1
        answers = []
        for name, given in predictions.items():
            values, scale = given[sample.question.uid]
            values = values if isinstance(values, list) else [values]
            em, f1 = scores[name][sid]
            answers.append({"model": name, "values": [str(v) for v in values], "scale": scale,
                            "em": em, "f1": f1})  # fmt: skip
        found.append({
            "sid": sid, "uid": sample.question.uid, "question": sample.question.text,
            "gold": {"answer": list(sample.question.answer), "scale": sample.question.scale,
                     "answer_type": kind},
            "answers": answers,
        })  # fmt: skip
    return found


def render(comparison: Comparison) -> str:
    """Return a comparison as tables in percent, with the questions where models disagree."""
    from labkit.inference.show import reading, sign

    lines = [f"{comparison.n} questions of {comparison.data}/{comparison.split}", ""]
    width = max(map(len, comparison.models))
    for name, outcome in comparison.scores.items():
        lines.append(f"{name:<{width}}  exact match {interval(outcome.metrics['em'])}   "
                     f"F1 {interval(outcome.metrics['f1'])}")  # fmt: skip
    for pair in comparison.pairs:
        p = "one report: no test" if pair.p_holm is None else f"p = {pair.p_holm:.2g} after Holm"
        lines += ["", f"{pair.b} minus {pair.a} ({p})",
                  f"{'':<12}{'n':>5}  {'difference in points':<26}{'only a':>7}{'only b':>7}"
                  f"{'McNemar p':>11}{'clustered p':>13}"]  # fmt: skip
        for name, row in pair.groups.items():
            value, low, high = (100 * row.difference[k] for k in ("value", "low", "high"))
            p = "–" if row.p_clustered is None else f"{row.p_clustered:.2g}"
            ends = "one report" if row.reports == 1 else f"{low:+.1f} to {high:+.1f}"
            lines.append(f"{name:<12}{row.n:>5}  {value:+6.1f} ({ends})"
                         .ljust(45) + f"{row.only_a:>7}{row.only_b:>7}"
                         f"{row.p_mcnemar:>11.2g}{p:>13}")  # fmt: skip
    if comparison.disagreements:
        lines += ["", "where they disagree:"]
    for each in comparison.disagreements:
        lines += [f"  sample {each['sid']} ({each['gold']['answer_type']}): {each['question']}",
                  f"    {'gold':<{width}}    {reading(each['gold'])}"]  # fmt: skip
        lines += [f"    {answer['model']:<{width}}  {sign(answer)} {reading(answer)}"
                  for answer in each["answers"]]  # fmt: skip
    return "\n".join(lines)
