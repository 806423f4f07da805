"""What a model scores, with intervals, beside two yardsticks.

The score is the data set's own: for TAT-QA exact match and numeracy-aware F1, scale included
(`datasets.score`). A number alone says little, so two yardsticks stand beside it:

* **majority**: answer every question with the most frequent answer of the training split. What
  beats only this has learned which answers are common, not how to read.
* **two examples**: the untouched model, shown two worked examples before each question. It then
  knows the answer format; what a fine-tuned model is better by is the task.

An evaluation is kept under runs/evaluations/ by the hash of everything it depends on (weights,
data, examples, versions), so asking again costs nothing.
"""

import dataclasses
import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from labkit.datasets import reasoning
from labkit.datasets import registry as datasets
from labkit.datasets.base import DataSet, Example
from labkit.errors import LabkitError
from labkit.files import write_json
from labkit.inference import seq2seq
from labkit.inference.generate import model_path
from labkit.machine import arithmetic
from labkit.models.load import fingerprint_with_base
from labkit.runs import records
from labkit.runs.progress import Progress
from labkit.stats import Interval, mean_interval
from labkit.train.tasks import Task, task_of

if TYPE_CHECKING:
    import pandas

MAJORITY = "majority"


class Metrics(TypedDict):
    """Exact match and F1 as fractions, each with its 95 % interval."""

    em: Interval
    f1: Interval


class Group(Metrics):
    """The metrics of `n` questions of one kind."""

    n: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a model scores on a split."""

    model: str
    task: str
    data: str
    split: str
    examples: int
    """worked examples before each question"""
    n: int
    metrics: Metrics
    by_type: dict[str, Group]
    """by type of answer"""
    by_source: dict[str, Group]
    seconds: float
    predictions: str
    """a file in the official TAT-QA form"""
    cut_off: int = 0
    """replies that ended while the model was still reasoning"""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON of `labkit eval`; `cut_off` is in it where there are any."""
        values = dataclasses.asdict(self)
        return values if self.cut_off else {k: v for k, v in values.items() if k != "cut_off"}


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
) -> Evaluation:
    """Score a model (name, run or folder; or 'majority') on a split.

    `dtype` is the type of the weights; `exact` calculates in float32 on a CPU (see `generate`), so
    that merged and unmerged, batched and single give the same answers. Without it an evaluation
    in bfloat16 takes two bytes a weight instead of four, and half the time where that type is fast.

    A run's record keeps its scores.

    Raises:
        LabkitError: a model, data set or split that is not there.
    """
    dataset, path = datasets.find(data)
    task = task_of(data)
    asked = _load(dataset, path, split, worked=examples)[:max_samples]
    dtype = arithmetic.resolve(dtype)
    exact = exact or dtype == "float32"
    key = _key(model, data=data, split=split, examples=examples, n=len(asked),
               dtype=f"{dtype} exact" if exact else dtype)  # fmt: skip
    folder, run = records.runs_dir() / "evaluations", _run_of(model)
    stored = folder / f"{key}.json"
    if stored.is_file() and not fresh:
        try:
            # The same weights and data may have been asked for under other names.
            found = json.loads(stored.read_text(encoding="utf-8"))
            kept = Evaluation(**{**found, "model": model, "data": data})
            if Path(kept.predictions).is_file():
                return _remember(kept, run)
        except (ValueError, TypeError):
            pass  # damaged: evaluate again
    started, cut_off = time.perf_counter(), 0
    if model == MAJORITY:
        predictions = dict.fromkeys((example.uid for example in asked), majority_answer(data))
    else:
        texts = _generate(model, asked, task, dtype=dtype, exact=exact, quiet=quiet)
        predictions = {e.uid: dataset.read(text) for e, text in zip(asked, texts, strict=True)}
        cut_off = sum(reasoning.drop(text)[1] for text in texts)
    seconds = time.perf_counter() - started
    file = folder / f"{key}.predictions.json"
    write_json(file, predictions)
    scores = [task.score(dataset, example, predictions[example.uid]) for example in asked]
    scored = list(zip(asked, scores, strict=True))
    outcome = Evaluation(
        model=model, task=dataset.scored_as or dataset.name, data=data, split=split,
        examples=examples, n=len(asked), metrics=_metrics(scored), by_type=_by("type", scored),
        by_source=_by("source", scored), seconds=seconds, predictions=str(file), cut_off=cut_off,
    )  # fmt: skip
    write_json(stored, outcome.to_json())
    return _remember(outcome, run)


Scored = tuple[Example, dict[str, float]]


def _metrics(scored: Sequence[Scored]) -> Metrics:
    clusters = [example.group for example, _ in scored]
    return {
        "em": mean_interval([score["em"] for _, score in scored], clusters),
        "f1": mean_interval([score["f1"] for _, score in scored], clusters),
    }


def _by(stratum: str, scored: Sequence[Scored]) -> dict[str, Group]:
    """Return the metrics of each value of a stratum, of examples that have it."""
    groups: dict[str, list[Scored]] = {}
    for row in scored:
        if stratum in row[0].strata:
            groups.setdefault(row[0].strata[stratum], []).append(row)
    return {name: {"n": len(rows), **_metrics(rows)} for name, rows in sorted(groups.items())}


def majority_answer(data: str) -> Any:
    """Return the most frequent answer of the training split, as a prediction."""
    dataset, path = datasets.find(data)
    counts = Counter(json.dumps(dataset.answer(e)) for e in dataset.load(path, "train"))
    return json.loads(counts.most_common(1)[0][0])


def _load(dataset: DataSet, path: str, split: str, *, worked: int) -> list[Example]:
    """Load a split, each example after `worked` solved ones."""
    if not worked:
        return dataset.load(path, split)
    if dataset.worked is None:
        raise LabkitError(f"{dataset.name} has no worked examples to show: ask with none")
    return dataset.worked(path, split, worked)


def _generate(
    model: str, examples: Sequence[Example], task: Task, *, dtype: str, exact: bool, quiet: bool
) -> list[str]:
    """Return what the model writes for each example."""
    from labkit.inference.generate import load_generator

    progress = Progress(total=len(examples), label=f"{Path(model).name}  answering", quiet=quiet)
    if task.encoder_decoder:
        return seq2seq.write(model, examples, prompt=task.prompt, dtype=dtype, exact=exact,
                             progress=progress.count)  # fmt: skip
    generator = load_generator(model, dtype=dtype, exact=exact)
    return generator.write(examples, prompt=task.prompt, progress=progress.count)


def _key(model: str, *, data: str, split: str, examples: int, n: int, dtype: str) -> str:
    weights = MAJORITY
    if model != MAJORITY:
        weights = f"{fingerprint_with_base(model_path(model))} {dtype}"
    dataset, path = datasets.find(data)
    parts = [weights, dataset.sha256(path, split), dataset.sha256(path, "train"), split,
             str(examples), str(n), json.dumps(records.versions(), sort_keys=True)]  # fmt: skip
    if not dataset.scored_as:  # the same file may be read and marked in other ways
        parts += [dataset.name, dataset.task]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _run_of(model: str) -> str:
    """Return the id of the run that a model's name is of, "" where it is of none."""
    folder = records.runs_dir() / model
    ours = (folder / "record.json").is_file() and folder.parent == records.runs_dir()
    return records.load(folder).id if ours else ""


def _remember(outcome: Evaluation, run: str) -> Evaluation:
    """Keep a score in the record of the run `run`, unless that holds one over more questions.

    A run that was made anew while the old one answered keeps its own.
    """
    if outcome.examples == 0 and run and run == _run_of(outcome.model):
        record = records.load(records.runs_dir() / outcome.model)
        name = f"{outcome.data}/{outcome.split}"
        if record.scores.get(name, {}).get("n", 0) > outcome.n:
            return outcome
        score = {"n": outcome.n, "metrics": outcome.metrics, "by_type": outcome.by_type}
        scores = {**record.scores, name: score}
        if scores != record.scores:
            record.replace(scores=scores).save()
    return outcome


def render(outcome: Evaluation) -> str:
    """Return an evaluation as a small table in percent."""
    shots = f", {outcome.examples} worked examples" if outcome.examples else ""
    lines = [
        f"{outcome.model} on {outcome.data}/{outcome.split}: {outcome.n} questions{shots}",
        f"{'':<14}{'n':>5}   {'exact match, 95 % interval':<28} F1, 95 % interval",
    ]
    rows: dict[str, Group] = {"all": {"n": outcome.n, **outcome.metrics}, **outcome.by_type}
    for name, row in rows.items():
        lines.append(f"{name:<14}{row['n']:>5}   {interval(row['em']):<28} {interval(row['f1'])}")
    if outcome.cut_off:
        lines.append(f"{outcome.cut_off} of {outcome.n} replies were cut off inside the model's "
                     "reasoning, before any answer: they count as wrong")  # fmt: skip
    lines.append(f"predictions in {outcome.predictions}")
    return "\n".join(lines)


def score_table(outcomes: Mapping[str, Evaluation]) -> "pandas.DataFrame":
    """Return exact match by answer type, and F1, of each labelled evaluation, in percent."""
    import pandas

    rows = {}
    for label, outcome in outcomes.items():
        rows[label] = {
            "exact match, 95 % interval": interval(outcome.metrics["em"]),
            **{f"{kind} (n = {row['n']})": f"{100 * row['em']['value']:.1f} %"
               for kind, row in outcome.by_type.items()},
            "F1": f"{100 * outcome.metrics['f1']['value']:.1f} %",
        }  # fmt: skip
    return pandas.DataFrame(rows).T


def interval(metric: Interval) -> str:
    """Return a share with its interval in percent, such as '61.2 %  (57.9 to 64.4)'."""
    value, low, high = (100 * metric[key] for key in ("value", "low", "high"))
    return f"{value:.1f} %  ({low:.1f} to {high:.1f})"
