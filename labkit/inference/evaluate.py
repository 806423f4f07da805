"""What a model scores, with intervals, beside two yardsticks.

The score is TAT-QA's own: exact match and numeracy-aware F1, scale included (`datasets.score`).
A number alone says little, so two yardsticks stand beside it:

* **majority**: answer every question with the most frequent answer of the training split. What
  beats only this has learned which answers are common, not how to read.
* **two examples**: the untouched model, shown two worked examples before each question. It then
  knows the answer format; what a fine-tuned model is better by is the task.

An evaluation is kept under runs/evaluations/ by the hash of everything it depends on (weights,
data, examples, versions), so asking again costs nothing.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.datasets import score, tatqa
from labkit.datasets.answers import format_answer
from labkit.datasets.tatqa import Sample
from labkit.errors import LabkitError
from labkit.files import fingerprint, write_json
from labkit.inference.generate import model_path
from labkit.machine import arithmetic
from labkit.models import adapters
from labkit.runs import records
from labkit.runs.progress import Progress
from labkit.stats import mean_interval

if TYPE_CHECKING:
    import pandas

MAJORITY = "majority"


def evaluate(
    model: str,
    *,
    data: str = "tables",
    split: str = "test",
    examples: int = 0,
    max_samples: int | None = None,
    dtype: str = "auto",
    exact: bool = True,
    fresh: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Score a model (name, run or folder; or 'majority') on a split.

    `dtype` is the type of the weights; `exact` calculates in float32 on a CPU (see `generate`), so
    that merged and unmerged, batched and single give the same answers. Without it an evaluation
    in bfloat16 takes two bytes a weight instead of four, and half the time where that type is fast.

    Returns the JSON of `labkit eval`: model, task, data, split, examples, n, metrics {em, f1:
    {value, low, high}}, by_type {answer type: {n, em, f1}}, by_source, seconds and predictions
    (a file in the official TAT-QA form); where there are any, cut_off: replies that ended while
    the model was still reasoning. Scores are fractions. A run's record keeps its scores.

    Raises:
        LabkitError: a model, data set or split that is not there.
    """
    reports = tatqa.load(data, split)
    samples = tatqa.samples(reports)[:max_samples]
    dtype = arithmetic.resolve(dtype)
    exact = exact or dtype == "float32"
    shots = worked_examples(data, examples)
    key = _key(model, data=data, split=split, examples=examples, n=len(samples),
               dtype=f"{dtype} exact" if exact else dtype)  # fmt: skip
    folder = records.runs_dir() / "evaluations"
    stored = folder / f"{key}.json"
    if stored.is_file() and not fresh:
        try:
            found: dict[str, Any] = json.loads(stored.read_text(encoding="utf-8"))
            if Path(found["predictions"]).is_file():
                # The same weights and data may have been asked for under other names.
                return _remember(model, {**found, "model": model, "data": data})
        except (ValueError, KeyError, TypeError):
            pass  # damaged: evaluate again
    import time

    started = time.perf_counter()
    if model == MAJORITY:
        predictions = dict.fromkeys((s.question.uid for s in samples), majority_answer(data))
    else:
        predictions = _generate(model, samples, shots, dtype=dtype, exact=exact, quiet=quiet)
    seconds = time.perf_counter() - started
    cut_off = getattr(predictions, "cut_off", 0)
    file = folder / f"{key}.predictions.json"
    write_json(file, predictions)
    outcome = {"model": model, "task": "tatqa", "data": data, "split": split,
               "examples": examples, "n": len(samples), **summarise(samples, predictions),
               "seconds": seconds, "predictions": str(file),
               **({"cut_off": cut_off} if cut_off else {})}  # fmt: skip
    write_json(stored, outcome)
    return _remember(model, outcome)


def summarise(
    samples: Sequence[Sample], predictions: dict[str, list[Any]]
) -> dict[str, dict[str, Any]]:
    """Return metrics with intervals, overall, by answer type and by where the answer is."""
    scored = [
        (sample, *score.score_answer(values, scale, sample.question))
        for sample in samples
        for values, scale in [predictions[sample.question.uid]]
    ]

    def metrics(rows: list[tuple[Sample, float, float]]) -> dict[str, Any]:
        clusters = [sample.report.uid for sample, _, _ in rows]
        return {
            "em": mean_interval([em for _, em, _ in rows], clusters),
            "f1": mean_interval([f1 for _, _, f1 in rows], clusters),
        }

    def grouped(key: str) -> dict[str, Any]:
        groups: dict[str, list[tuple[Sample, float, float]]] = {}
        for row in scored:
            groups.setdefault(getattr(row[0].question, key), []).append(row)
        return {name: {"n": len(rows), **metrics(rows)} for name, rows in sorted(groups.items())}

    return {
        "metrics": metrics(scored),
        "by_type": grouped("answer_type"),
        "by_source": grouped("answer_from"),
    }


def majority_answer(data: str) -> list[Any]:
    """Return the most frequent answer of the training split, as a prediction [values, scale]."""
    counts = Counter(
        (s.question.answer, s.question.scale) for s in tatqa.samples(tatqa.load(data, "train"))
    )
    (values, scale), _ = counts.most_common(1)[0]
    return [list(values), scale]


def worked_examples(data: str, count: int) -> list[Sample]:
    """Return `count` training samples to show: arithmetic and span in turn, shortest first."""
    if count == 0:
        return []
    pool = tatqa.samples(tatqa.load(data, "train"))

    def length(sample: Sample) -> tuple[int, str]:
        text = " ".join(sample.report.paragraphs) + format_answer(sample.question)
        return len(text), sample.question.uid

    chosen: list[Sample] = []
    for index in range(count):
        kind = ("arithmetic", "span")[index % 2]
        used = {sample.report.uid for sample in chosen}
        candidates = [
            s
            for s in pool
            if s.question.answer_type == kind
            and s.report.uid not in used
            and (format_answer(s.question).startswith("=") or kind == "span")
        ]
        if not candidates:
            raise LabkitError(f"the training split of {data} has no {kind} question to show")
        chosen.append(min(candidates, key=length))
    return chosen


def _generate(
    model: str, samples: Sequence[Sample], shots: Sequence[Sample], *, dtype: str, exact: bool,
    quiet: bool,
) -> "_Predictions":  # fmt: skip
    from labkit.inference.generate import load_generator

    generator = load_generator(model, dtype=dtype, exact=exact)
    progress = Progress(total=len(samples), label=f"{Path(model).name}  answering", quiet=quiet)
    replies = generator.answer(samples, examples=shots, progress=progress.count)
    predictions = _Predictions((r.uid, [list(r.values), r.scale]) for r in replies)
    predictions.cut_off = sum(reply.cut_off for reply in replies)
    return predictions


class _Predictions(dict[str, list[Any]]):
    """Predictions in the official form, and how many replies ended in mid-thought."""

    cut_off = 0


def _key(model: str, *, data: str, split: str, examples: int, n: int, dtype: str) -> str:
    weights = MAJORITY if model == MAJORITY else f"{fingerprint(model_path(model))} {dtype}"
    if base := adapters.chosen_base():
        weights += f" on {fingerprint(model_path(base))}"
    parts = [weights, tatqa.data_sha256(data, split), tatqa.data_sha256(data, "train"), split,
             str(examples), str(n), json.dumps(records.versions(), sort_keys=True)]  # fmt: skip
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _remember(model: str, outcome: dict[str, Any]) -> dict[str, Any]:
    """Keep a run's score in its record, unless that holds one over more questions."""
    run = records.runs_dir() / model
    ours = (run / "record.json").is_file() and run.parent == records.runs_dir()
    if outcome["examples"] == 0 and ours:
        record = records.load(run)
        name = f"{outcome['data']}/{outcome['split']}"
        if record.scores.get(name, {}).get("n", 0) > outcome["n"]:
            return outcome
        scores = {**record.scores, name: {k: outcome[k] for k in ("n", "metrics", "by_type")}}
        if scores != record.scores:
            record.replace(scores=scores).save()
    return outcome


def render(outcome: dict[str, Any]) -> str:
    """Return an evaluation as a small table in percent."""
    shots = f", {outcome['examples']} worked examples" if outcome["examples"] else ""
    lines = [
        f"{outcome['model']} on {outcome['data']}/{outcome['split']}: "
        f"{outcome['n']} questions{shots}",
        f"{'':<14}{'n':>5}   {'exact match, 95 % interval':<28} F1, 95 % interval",
    ]
    rows = {"all": {"n": outcome["n"], **outcome["metrics"]}, **outcome["by_type"]}
    for name, row in rows.items():
        lines.append(f"{name:<14}{row['n']:>5}   {interval(row['em']):<28} {interval(row['f1'])}")
    if cut_off := outcome.get("cut_off"):
        lines.append(f"{cut_off} of {outcome['n']} replies were cut off inside the model's "
                     "reasoning, before any answer: they count as wrong")  # fmt: skip
    lines.append(f"predictions in {outcome['predictions']}")
    return "\n".join(lines)


def score_table(outcomes: dict[str, dict[str, Any]]) -> "pandas.DataFrame":
    """Return exact match by answer type, and F1, of each labelled evaluation, in percent."""
    import pandas

    rows = {}
    for label, outcome in outcomes.items():
        rows[label] = {
            "exact match, 95 % interval": interval(outcome["metrics"]["em"]),
            **{f"{kind} (n = {row['n']})": f"{100 * row['em']['value']:.1f} %"
               for kind, row in outcome["by_type"].items()},
            "F1": f"{100 * outcome['metrics']['f1']['value']:.1f} %",
        }  # fmt: skip
    return pandas.DataFrame(rows).T


def interval(metric: dict[str, float]) -> str:
    """Return a share with its interval in percent, such as '61.2 %  (57.9 to 64.4)'."""
    value, low, high = (100 * metric[key] for key in ("value", "low", "high"))
    return f"{value:.1f} %  ({low:.1f} to {high:.1f})"
