"""Read the files of one side into runs or into answers.

A file is recognised by what it holds:

    RunRecord         labkit's own (`runs/<name>/record.json`). A run is its median step, in
                      seconds.
    Trainer log       Hugging Face's `trainer_state.json`, the list in its `log_history`, or the
                      metrics of a training (`train_results.json`): all have `train_runtime`. A run
                      is a whole training, in seconds.
    lm-eval results   `results_*.json` of lm-eval, with the `samples_*.jsonl` beside it if they were
                      logged. A unit is a question.
    labkit score      `labkit score --json`. A unit is a question.

A side is a file or a folder, searched through. Folders in it with two runs or more each are data
sets (`A/oasst1/…`, `A/longform/…`) and are compared one by one; everything else is one data set.

Two times can only be compared when the work was the same. So runs carry `same`, what has to agree
between all runs of a data set (model, data, batch, steps, hardware, FLOPs), and `own`, what has to
agree within a side and may differ between sides: the settings that are compared.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError

WORK = ("max_steps", "num_train_epochs", "per_device_train_batch_size", "max_train_samples",
        "gradient_accumulation_steps", "max_length", "share_prompts")  # fmt: skip
"""Settings of a run that say how much work a step is."""

KINDS = {
    "record": "labkit run records",
    "trainer": "Trainer logs",
    "lm-eval": "lm-eval results",
    "score": "labkit scores",
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training: where it is from, its time, and what makes it comparable."""

    file: Path
    data: str
    seconds: float
    unit: str
    seed: int | None = None
    started: str = ""
    same: dict[str, Any] = field(default_factory=dict)
    own: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The scores of one model on one task, by question where that was kept."""

    file: Path
    task: str
    metric: str
    mean: float
    n: int
    scores: dict[str, float] | None
    clusters: dict[str, str] | None = None
    error: float | None = None
    same: dict[str, Any] = field(default_factory=dict)


def read(side: str, path: Path) -> tuple[str, list[Run] | list[Answers]]:
    """Read one side, "A" or "B"; return its kind (of KINDS) and its runs or answers.

    Raises LabkitError where there is nothing to read, formats are mixed, or a time is not a number.
    """
    if not path.exists():
        raise LabkitError(f"{side}: there is no {path}")
    found: dict[str, list[Any]] = {}
    for file in [path] if path.is_file() else _files(path):
        values = _load(file, required=path.is_file())
        kind = _kind(values)
        if kind is None:
            if path.is_file():
                raise LabkitError(f"{side}: {file} is none of {', '.join(KINDS.values())}")
            continue
        items = {"record": _record, "trainer": _trainer, "lm-eval": _lm_eval, "score": _score}[kind]
        found.setdefault(kind, []).extend(items(file, values))
    if not found:
        raise LabkitError(f"{side}: {path} holds none of {', '.join(KINDS.values())}")
    if len(found) > 1:
        kinds = " and ".join(KINDS[kind] for kind in sorted(found))
        raise LabkitError(f"{side}: {path} holds {kinds}: give folders of one kind")
    ((kind, items_found),) = found.items()
    if kind in ("record", "trainer"):
        items_found = _by_data_set(_once(items_found), path, kind)
    return kind, items_found


def _files(folder: Path) -> list[Path]:
    # A checkpoint's log is that of a training which had not ended.
    inner = [file.relative_to(folder) for file in sorted(folder.rglob("*.json"))]
    return [folder / f for f in inner if not any(p.startswith("checkpoint-") for p in f.parts)]


def _load(file: Path, *, required: bool) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if required or file.name == "record.json" or file.name == "trainer_state.json":
            raise LabkitError(f"{file} cannot be read as JSON: {_first(error)}") from None
        return None


def _first(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).splitlines()[0]


def _kind(values: Any) -> str | None:
    if isinstance(values, list):
        logged = any(isinstance(v, dict) and "train_runtime" in v for v in values)
        return "trainer" if logged else None
    if not isinstance(values, dict):
        return None
    if {"steps", "summary", "sha256", "config"} <= set(values):
        return "record"
    if "train_runtime" in values or isinstance(values.get("log_history"), list):
        return "trainer"
    if isinstance(values.get("results"), dict) and {"n-shot", "versions"} & set(values):
        return "lm-eval"
    return "score" if isinstance(values.get("per_question"), dict) else None


def _record(file: Path, values: dict[str, Any]) -> Iterator[Run]:
    name, config = values.get("name", file.stem), values["config"]
    if values.get("status") != "done":
        raise LabkitError(f"{file}: the run {name!r} is {values.get('status')}, not done: "
                          "finish it or leave it out")  # fmt: skip
    hardware, tokens = values.get("hardware", {}), [s.get("tokens") for s in values["steps"]]
    ignored = {"name", "seed", "model", "data", "report_to", "save_steps", *WORK}
    yield Run(
        file=file,
        data=values["data"]["name"],
        seconds=_time(file, values["summary"].get("step_seconds_median")),
        unit="seconds a step",
        seed=values.get("seed"),
        started=values.get("started_at", ""),
        same={
            "model": values["model"].get("sha256") or values["model"]["name"],
            "data": values["data"].get("sha256"),
            "tokens a step": round(sum(tokens) / len(tokens)) if all(tokens) and tokens else None,
            **{key: config.get(key) for key in WORK},
            **{key: hardware.get(key) for key in ("cpu", "cores", "threads")},
            "gpus": [gpu.get("name") for gpu in hardware.get("gpus") or []],
        },
        own={key: value for key, value in config.items() if key not in ignored},
    )


def _trainer(file: Path, values: Any) -> Iterator[Run]:
    state = values if isinstance(values, dict) else {}
    history = values if isinstance(values, list) else state.get("log_history") or [values]
    last = next(
        (v for v in reversed(history) if isinstance(v, dict) and "train_runtime" in v), None
    )
    if last is None:
        raise LabkitError(f"{file} has no train_runtime: the training did not end")
    seconds = _time(file, last["train_runtime"])
    rate = last.get("train_samples_per_second")
    yield Run(
        file=file,
        data="",
        seconds=seconds,
        unit="seconds a training",
        same={
            "steps": last.get("step", state.get("global_step")),
            "epochs": last.get("epoch"),
            "FLOPs": last.get("total_flos"),
            "samples": seconds * rate if rate else None,
        },
        own={"batch": state.get("train_batch_size")},
    )


def _lm_eval(file: Path, values: dict[str, Any]) -> Iterator[Answers]:
    stamp = file.stem.removeprefix("results_")
    for task, row in values["results"].items():
        metrics = [key for key, value in row.items() if _is_metric(key, value)]
        if not metrics:
            continue
        metric = metrics[0]
        name, _, chosen = metric.partition(",")
        scores = _samples(file.parent / f"samples_{task}_{stamp}.jsonl", name, chosen)
        error = row.get(f"{name}_stderr,{chosen}")
        n = (values.get("n-samples", {}).get(task) or {}).get("effective") or row.get("sample_len")
        yield Answers(
            file=file, task=task, metric=name, mean=float(row[metric]), scores=scores,
            n=len(scores) if scores else int(n or 0),
            error=float(error) if isinstance(error, int | float) else None,
            same={"version": values.get("versions", {}).get(task), "metric": metric,
                  "examples": values.get("n-shot", {}).get(task), "questions": n,
                  "questions' hash": values.get("task_hashes", {}).get(task)},
        )  # fmt: skip


def _is_metric(key: str, value: Any) -> bool:
    known = "," in key and "_stderr" not in key
    return known and isinstance(value, int | float) and not isinstance(value, bool)


def _samples(file: Path, metric: str, chosen: str) -> dict[str, float] | None:
    if not file.is_file():
        return None
    scores = {}
    try:
        for line in file.read_text(encoding="utf-8").splitlines():
            sample = json.loads(line)
            if sample.get("filter", chosen) == chosen:
                scores[str(sample["doc_id"])] = float(sample[metric])
    except (ValueError, KeyError, TypeError) as error:
        raise LabkitError(f"{file} is damaged or has no {metric}: {_first(error)}") from None
    return scores or None


def _score(file: Path, values: dict[str, Any]) -> Iterator[Answers]:
    try:
        scores = {uid: float(row["em"]) for uid, row in values["per_question"].items()}
    except (KeyError, TypeError, ValueError):
        raise LabkitError(f"{file}: per_question needs em for every question") from None
    if not scores:
        raise LabkitError(f"{file} has no questions")
    yield Answers(file=file, task="tatqa", metric="em", mean=sum(scores.values()) / len(scores),
                  n=len(scores), scores=scores)  # fmt: skip


def _time(file: Path, value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise LabkitError(f"{file}: its time is {value!r}, not a number of seconds above 0")
    return float(value)


def _once(runs: list[Run]) -> list[Run]:
    """Count a training once: a Trainer writes its time into up to three files of one folder."""
    found: dict[Path, Run] = {}
    for run in runs:
        one_a_folder = run.file.name in _ONE_A_FOLDER
        found.setdefault(run.file.parent if one_a_folder else run.file, run)
    return list(found.values())


_ONE_A_FOLDER = ("trainer_state.json", "train_results.json", "all_results.json", "record.json")


def _by_data_set(runs: list[Run], root: Path, kind: str) -> list[Run]:
    import dataclasses

    if root.is_file() or kind == "record":
        return runs
    parts = [run.file.relative_to(root).parts for run in runs]
    counts: dict[str, int] = {}
    for part in parts:
        counts[part[0]] = counts.get(part[0], 0) + 1
    if len(counts) < 2 or min(counts.values()) < 2:
        return runs
    return [dataclasses.replace(r, data=p[0]) for r, p in zip(runs, parts, strict=True)]
