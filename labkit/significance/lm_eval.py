"""Read the results of any version of lm-eval into scores that can be compared.

    version          results                            questions, where they were logged
    0.3              FILE.json, {"acc": …,              TASK_write_out_info.json, numbers as text
                     "acc_stderr": …} a task
    0.4.0 – 0.4.2    results.json or FILE.json          MODEL_ARGS_TASK.jsonl, in truth one JSON
                                                        list; a question stands there once a filter
    0.4.3            MODEL/results_TIME.json            samples_TASK_TIME.json, one JSON list
    later            the same, or FILE_TIME.json        samples_TASK_TIME.jsonl, a line a question
    labkit eval      results.json                       samples_TASK.jsonl; questions on a report
                                                        have its report_uid in their doc

A metric is named "acc,none" (0.3: "acc"): what is counted, and the filter that cut the answer out
of the text. All metrics of a task are compared. Which way is better is said in `higher_is_better`;
files that lack it go by the metric's name. What is kept of a question depends on the metric:

    mean          the score itself; the metric is the mean
    perplexity    log p; the metric is exp(-mean)
    word_… and byte_perplexity, bits_per_byte
                  [log p, words or bytes]; exp(-sum / sum), or -sum / sum / ln 2

Logged questions are used only where they give the value that was reported.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError, parse_json, read_json

MOST_SAMPLE_BYTES = 2**31
WEIGHTED = ("word_perplexity", "byte_perplexity", "bits_per_byte")
_STAMP = re.compile(r"_(\d{4}-\d{2}-\d{2}T[\d.:-]+)$")
_LOWER = re.compile(
    r"(^|_)(perplexity|ppl|bits_per_\w+|loss|nll|brier|ter|wer|cer|ece|mae|mse|rmse|error)(_|$)"
)
_HIGHER = re.compile(
    r"(^|_)(acc|accuracy|em|exact|match|f1|mcc|bleu|bleurt|chrf|rouge\w*|mc1|mc2|recall|precision|"
    r"grade|pass)(_|@|$|\+)"
)
_SHARE = re.compile(
    r"(^|_)(acc|accuracy|em|exact|match|f1|mc1|mc2|recall|precision|grade|pass|pct)(_|@|$)"
)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The scores of one model by one metric of one task, by question where that was kept."""

    file: Path
    task: str
    metric: str
    mean: float
    n: int | None
    scores: dict[str, float] | None
    weights: dict[str, float] | None = None
    """words or bytes of each question, where the metric is a sum over a sum"""
    form: str = "mean"
    """how `scores` make the metric: mean, exp (exp(-mean)) or bits (-mean / ln 2)"""
    higher_is_better: bool | None = True
    """None where nothing says so"""
    share: bool = True
    """whether the metric is a share, so that a hundredth of it is a percentage point"""
    clusters: dict[str, str] | None = None
    """the report of each question; empty where the file lacks them, None where there are none"""
    error: float | None = None
    same: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def is_results(values: dict[str, Any]) -> bool:
    """Whether a JSON object is a results file of lm-eval."""
    return isinstance(values.get("results"), dict) and bool({"n-shot", "versions"} & set(values))


def answers(file: Path, values: dict[str, Any]) -> Iterator[Answers]:
    """Read a results file and, where they were logged, the questions beside it.

    Raises LabkitError for files that are damaged and for one without any metric.
    """
    found = False
    for task, row in values["results"].items():
        if not isinstance(row, dict):
            raise LabkitError(f"{file}: results.{task} is no object of metrics, as lm-eval has it")
        metrics = _metrics(row)
        logged = _logged(file, task, values) if metrics else None
        for place, metric in enumerate(metrics):
            found = True
            yield _one(file, values, task, metric, len(metrics), logged, place)
    if not found:
        raise LabkitError(f"{file} has no metric of any task: lm-eval writes them under results")


def _metrics(row: dict[str, Any]) -> list[str]:
    """Return the keys of a task's metrics; those of 0.3 have no filter."""
    numbers = [key for key, value in row.items() if _number(value) is not None]
    named = [key for key in numbers if "," in key and "_stderr" not in key]
    if not named:
        named = [key for key in numbers if not key.endswith("_stderr")
                 and key not in ("sample_len", "samples", "sample_count")]  # fmt: skip
    return [key for key in named if not key.startswith("bypass")]


def _number(value: Any) -> float | None:
    """Return a JSON number as a float; None for what is none, or too large to be one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # JSON has whole numbers that no float holds
        return None


def _one(
    file: Path, values: dict[str, Any], task: str, metric: str, count: int,
    logged: "_Logged | None", place: int,
) -> Answers:  # fmt: skip
    row = values["results"][task]
    name, comma, chosen = metric.partition(",")
    mean = float(row[metric])
    error = row.get(f"{name}_stderr{comma}{chosen}")
    form = ("bits" if name == "bits_per_byte" else
            "exp" if name in ("perplexity", "ppl", *WEIGHTED) else "mean")  # fmt: skip
    scores, weights, notes = logged.of(name, chosen, place, mean, form) if logged else (None,) * 3
    n = _of(values, "n-samples", task)
    n = n.get("effective") if isinstance(n, dict) else row.get("sample_len")
    shots = _of(values, "n-shot", task)
    if shots is None:
        shots = _of(values, "config", "num_fewshot")
    bounded = bool(scores) and all(0 <= score <= 1 for score in (scores or {}).values())
    return Answers(
        file=file,
        task=task if count == 1 else f"{task}: {metric.removesuffix(',none')}",
        metric=name,
        mean=mean,
        n=len(scores) if scores else n if isinstance(n, int) else None,
        scores=scores,
        weights=weights,
        clusters=logged.clusters() if logged and scores else None,
        form=form,
        higher_is_better=_direction(values, task, name),
        share=form == "mean" and 0 <= mean <= 1 and not _LOWER.search(name)
        and (bounded or bool(_SHARE.search(name))),
        error=_number(error),
        same={"version": _of(values, "versions", task), "metric": metric, "examples": shots,
              "questions": n, "questions' hash": _of(values, "task_hashes", task)},
        notes=tuple(notes or ()),
    )  # fmt: skip


def named(reports: dict[str, Any]) -> dict[str, str] | None:
    """Return the report of each question; None unless every question names one."""
    return reports if all(isinstance(name, str) for name in reports.values()) else None


def _of(values: dict[str, Any], key: str, inner: str) -> Any:
    part = values.get(key)
    return part.get(inner) if isinstance(part, dict) else None


def _direction(values: dict[str, Any], task: str, metric: str) -> bool | None:
    said = _of(values, "higher_is_better", task)
    if isinstance(said, dict) and isinstance(said.get(metric), bool):
        return bool(said[metric])
    settings = _of(values, "configs", task)
    listed = settings.get("metric_list") if isinstance(settings, dict) else None
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, dict) and entry.get("metric") == metric:
            said = entry.get("higher_is_better")
            if isinstance(said, bool):
                return said
    if _LOWER.search(metric):
        return False
    return True if _HIGHER.search(metric) else None


@dataclass(frozen=True)
class _Logged:
    """The questions of a task, as they were logged."""

    file: Path
    rows: list[dict[str, Any]]

    def of(
        self, metric: str, chosen: str, place: int, mean: float, form: str
    ) -> tuple[dict[str, float] | None, dict[str, float] | None, list[str]]:
        """Return scores and weights by question, or None with a note on why there are none."""
        scores: dict[str, float] = {}
        weights: dict[str, float] = {}
        seen: Counter[str] = Counter()
        repeated = max(Counter(str(r.get("doc_id")) for r in self.rows).values(), default=0) > 1
        for row in self.rows:
            uid = str(row.get("doc_id"))
            seen[uid] += 1
            if "filter" in row:
                if chosen and row["filter"] != chosen:
                    continue
            elif repeated and metric in row and seen[uid] != place + 1:
                # Before filters were named, a question stood there once for each, in their order.
                continue
            value = _value(row.get(metric), metric)
            if metric not in row:
                continue
            if value is None:
                return None, None, [f"{self.file.name} keeps no number as {metric} of question "
                                    f"{uid}, so its questions are not used"]  # fmt: skip
            if uid in scores:
                return None, None, [f"{self.file.name} has the question {uid} more than once"]
            scores[uid] = value[0]
            if metric in WEIGHTED:
                weights[uid] = value[1]
        if not scores:
            return None, None, [f"{self.file.name} has no {metric}, so its questions are not used"]
        total = sum(weights.values()) if weights else len(scores)
        given = sum(scores.values()) / total if total else math.nan
        if form != "mean":
            given = math.exp(min(-given, 700)) if form == "exp" else -given / math.log(2)
        # A reported value that is not a number is refused where sides are compared.
        if math.isfinite(mean) and not math.isclose(given, mean, rel_tol=1e-4, abs_tol=1e-6):
            return None, None, [
                f"the questions in {self.file.name} give {given:.4g}, not the {mean:.4g} that was "
                f"reported, so they are not used"
            ]  # fmt: skip
        return scores, weights or None, []

    def clusters(self) -> dict[str, str] | None:
        """Return the report that each question's document names, if all do."""
        return named({str(row.get("doc_id")): _of(row, "doc", "report_uid") for row in self.rows})


def _value(value: Any, metric: str) -> tuple[float, float] | None:
    """Return (score, weight) of one question; None where a metric keeps something else."""
    if metric in WEIGHTED:
        if not isinstance(value, list) or len(value) != 2:
            return None
        score, weight = (_value(part, "") for part in value)
        return (score[0], weight[0]) if score and weight and weight[0] > 0 else None
    if isinstance(value, str):
        value = {"True": 1.0, "False": 0.0}.get(value, value)
    try:
        return float(value), 1.0
    except (TypeError, ValueError, OverflowError):
        return None


def _logged(file: Path, task: str, values: dict[str, Any]) -> _Logged | None:
    found = _sample_file(file, task, values)
    return None if found is None else _Logged(found, _rows(found))


def _sample_file(file: Path, task: str, values: dict[str, Any]) -> Path | None:
    """Return the file beside the results that holds a task's questions."""
    names = {task, re.sub(r"\W", "_", task)}
    stamp = _STAMP.search(file.stem)
    stems = [f"samples_{name}_{stamp[1]}" for name in names] if stamp else []
    stems += [f"samples_{name}" for name in names]
    arguments = _of(values, "config", "model_args")
    if isinstance(arguments, str):
        stems.append(f"{re.sub('[/=]', '__', arguments)}_{task}")
    for name in [*(f"{s}{e}" for s in stems for e in (".jsonl", ".json")),
                 *(f"{name}_write_out_info.json" for name in names)]:  # fmt: skip
        if len(name.encode()) < 256 and (file.parent / name).is_file():
            return file.parent / name
    # Another time in the name, or other arguments: theirs if there is only one such file.
    others = [
        path for path in file.parent.iterdir()
        if path.suffix in (".jsonl", ".json") and path != file and path.is_file()
        and (path.stem.endswith(f"_{task}") or _STAMP.sub("", path.stem) == f"samples_{task}")
    ]  # fmt: skip
    results = [path for path in file.parent.glob("*results*.json") if path.is_file()]
    return others[0] if len(others) == 1 and len(results) == 1 else None


def _rows(file: Path) -> list[dict[str, Any]]:
    if file.stat().st_size > MOST_SAMPLE_BYTES:
        raise LabkitError(f"{file} is larger than {MOST_SAMPLE_BYTES / 2**30:g} GiB: log fewer "
                          "questions (lm-eval: --limit)")  # fmt: skip
    content = file.read_bytes()
    text = content.decode(json.detect_encoding(content), errors="replace").lstrip()
    one = text.startswith("[") or file.suffix == ".json"
    if one:
        values = read_json(file, most_bytes=MOST_SAMPLE_BYTES)
        rows = list(values.values()) if isinstance(values, dict) else values
        if not isinstance(rows, list):
            raise LabkitError(f"{file} is damaged: lm-eval has a list of questions there")
    else:
        rows = [
            parse_json(line.encode(), f"{file}, line {number},")
            for number, line in enumerate(text.split("\n"), start=1)
            if line.strip()
        ]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or "doc_id" not in row:
            raise LabkitError(f"{file} is damaged: entry {number} is no question with a doc_id")
    return rows
