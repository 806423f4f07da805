"""Read the files of one side into runs or into answers.

A file is recognised by what it holds:

    RunRecord         labkit's own (`runs/<name>/record.json`). A run is its median step, in
                      seconds.
    Trainer log       Hugging Face's `trainer_state.json`, the list in its `log_history`, or the
                      metrics of a training (`train_results.json`): all have `train_runtime`. A run
                      is a whole training, in seconds. Tables of other loggers: `trainer_log.py`.
    lm-eval results   of every version of lm-eval, with the questions beside them if they were
                      logged (`lm_eval.py`). A unit is a question.
    labkit score      `labkit score --json`. A unit is a question.

A side is a file or a folder, searched through. Folders in it with two runs or more each are data
sets (`A/oasst1/…`, `A/longform/…`) and are compared one by one; everything else is one data set.

Two times can only be compared when the work was the same. So runs carry `same`, what has to agree
between all runs of a data set (model, data, batch, steps, hardware, FLOPs), and `own`, what has to
agree within a side and may differ between sides: the settings that are compared.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError, read_json
from labkit.runs.records import DEFAULTS
from labkit.significance import lm_eval, trainer_log
from labkit.significance.lm_eval import Answers

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
    notes: tuple[str, ...] = ()


def read(side: str, path: Path) -> tuple[str, list[Run] | list[Answers]]:
    """Read one side, "A" or "B"; return its kind (of KINDS) and its runs or answers.

    Raises LabkitError where there is nothing to read, formats are mixed, or a time is not a number.
    """
    if not path.exists():
        raise LabkitError(f"{side}: there is no {path}")
    found: dict[str, list[Any]] = {}
    without_time: dict[Path, LabkitError] = {}
    for file in [path] if path.is_file() else _files(path):
        try:
            values = _load(file, required=path.is_file())
            kind = _kind(values)
            if kind is None:
                if path.is_file():
                    raise LabkitError(f"{side}: {file} is none of {', '.join(KINDS.values())}")
                continue
            items = {"record": _record, "trainer": _trainer, "lm-eval": lm_eval.answers,
                     "score": _score}[kind]  # fmt: skip
            found.setdefault(kind, []).extend(items(file, values))
        except trainer_log.NoTime as none:
            # The folder's other files may have it.
            without_time[file] = none
    timed = {run.file.parent for run in found.get("trainer", [])}
    for file, error in without_time.items():
        # Beside results of another kind a table of losses is no run that would go missing.
        aside = file.suffix.lower() == ".csv" and found and "trainer" not in found
        if file.parent not in timed and not aside:
            raise error
    if not found:
        inner = path.is_dir() and any(path.rglob("checkpoint-*/trainer_state.json"))
        raise LabkitError(f"{side}: {path} holds none of {', '.join(KINDS.values())}" + (
            ": only checkpoints, whose logs were saved before the training's time was; it usually "
            "stands in train_results.json of the output folder" if inner else ""))  # fmt: skip
    if len(found) > 1:
        kinds = " and ".join(KINDS[kind] for kind in sorted(found))
        raise LabkitError(f"{side}: {path} holds {kinds}: give folders of one kind")
    ((kind, items_found),) = found.items()
    if kind in ("record", "trainer"):
        items_found = _by_data_set(_once(items_found), path, kind)
    return kind, items_found


def read_pairs(pairs: Sequence[tuple[Path, Path]]) -> tuple[str, list[Any], list[Any]]:
    """Read pairs of sides, A B, C D, …; return their kind, and what A, C, … and B, D, … hold.

    Where two pairs have runs of one name, or answers to one task, each is named after its pair.

    Raises LabkitError where a pair is one side twice, and for sides of several kinds; see `read`.
    """
    found = []
    kinds: dict[str, str] = {}
    for number, pair in enumerate(pairs):
        letters = [chr(ord("A") + 2 * number + place) for place in (0, 1)]
        if pair[0].resolve() == pair[1].resolve():
            raise LabkitError(f"{letters[0]} and {letters[1]} are both {pair[0]}: a control splits "
                              "one side, and is always made")  # fmt: skip
        sides: list[list[Any]] = []
        for letter, path in zip(letters, pair, strict=True):
            kinds[letter], held = read(letter, path)
            sides.append(list(held))
        found.append(("/".join(letters), sides))
    first, kind = next(iter(kinds.items()))
    for letter, other in kinds.items():
        if other != kind:
            raise LabkitError(f"{first} holds {KINDS[kind]} and {letter} holds {KINDS[other]}: "
                              "compare two of a kind")  # fmt: skip
    names = Counter(name for _, sides in found for name in {_name(each) for each in sides[0]})
    for pair_name, sides in found:
        # What only one side of a pair has must not meet its like in another pair.
        apart = len(found) > 1 and len({frozenset(map(_name, side)) for side in sides}) > 1
        for side in sides:
            side[:] = [_renamed(each, f"{pair_name} {_name(each)}".strip())
                       if apart or names[_name(each)] > 1 else each for each in side]  # fmt: skip
    first_sides, second_sides = ([each for _, sides in found for each in sides[place]]
                                 for place in (0, 1))  # fmt: skip
    return kind, first_sides, second_sides


def _name(found: Run | Answers) -> str:
    return found.data if isinstance(found, Run) else found.task


def _renamed(found: Run | Answers, name: str) -> Run | Answers:
    if isinstance(found, Run):
        return dataclasses.replace(found, data=name)
    return dataclasses.replace(found, task=name)


def _files(folder: Path) -> list[Path]:
    # A checkpoint's log is that of a training which had not ended.
    files = [file for ending in ("*.json", "*.csv") for file in folder.rglob(ending)]
    inner = sorted(file.relative_to(folder) for file in files if file.is_file())
    return [folder / f for f in inner if not any(p.startswith("checkpoint-") for p in f.parts)]


def _load(file: Path, *, required: bool) -> Any:
    if file.suffix.lower() == ".csv":
        return trainer_log.read_table(file)
    try:
        return read_json(file)
    except LabkitError:
        if required or file.name in _ONE_A_FOLDER or file.name.startswith("results"):
            raise
        return None


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
    if lm_eval.is_results(values):
        return "lm-eval"
    return "score" if isinstance(values.get("per_question"), dict) else None


def _record(file: Path, values: dict[str, Any]) -> Iterator[Run]:
    try:
        yield _run(file, values)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise LabkitError(f"{file} is a damaged run record ({type(error).__name__}: {error}): "
                          "leave it out, or train again") from None  # fmt: skip


def _run(file: Path, values: dict[str, Any]) -> Run:
    name = values.get("name", file.stem)
    config = {**DEFAULTS, **values["config"]}  # a record is older than some settings
    if values.get("status") != "done":
        raise LabkitError(f"{file}: the run {name!r} is {values.get('status')}, not done: "
                          "finish it or leave it out")  # fmt: skip
    wanted = {"data.name": (values["data"]["name"], str), "seed": (values.get("seed"), int | None),
              "started_at": (values.get("started_at", ""), str)}  # fmt: skip
    for key, (value, kind) in wanted.items():
        if not isinstance(value, kind):
            raise TypeError(f"{key} is a {type(value).__name__}")
    hardware, tokens = values.get("hardware", {}), [s.get("tokens") for s in values["steps"]]
    ignored = {"name", "seed", "model", "data", "report_to", "save_steps", *WORK}
    return Run(
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
    found = trainer_log.training(file, values)
    yield Run(
        file=file,
        data="",
        seconds=found["seconds"],
        unit="seconds a training",
        same={"steps": found["step"], "epochs": found["epoch"], "FLOPs": found["flos"],
              "samples": found["samples"], "clock": found["clock"]},
        own={"batch": found["batch"]},
        notes=tuple(found["notes"]),
    )  # fmt: skip


def _score(file: Path, values: dict[str, Any]) -> Iterator[Answers]:
    try:
        scores = {uid: float(row["em"]) for uid, row in values["per_question"].items()}
    except (KeyError, TypeError, ValueError):
        raise LabkitError(f"{file}: per_question needs em for every question") from None
    if not scores:
        raise LabkitError(f"{file} has no questions")
    reports = {uid: row.get("report_uid") for uid, row in values["per_question"].items()}
    yield Answers(file=file, task="tatqa", metric="em", mean=sum(scores.values()) / len(scores),
                  n=len(scores), scores=scores, clusters=lm_eval.named(reports) or {})  # fmt: skip


def _time(file: Path, value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= trainer_log.LARGEST:
        raise LabkitError(f"{file}: its time is {value!r}, not a number of seconds above 0")
    return float(value)


def _once(runs: list[Run]) -> list[Run]:
    """Count a training once: a Trainer writes its time into up to three files of one folder.

    Its state comes first: it knows of earlier sessions, the other two of the last one alone.
    """
    found: dict[Path, Run] = {}
    order = {name: place for place, name in enumerate(_ONE_A_FOLDER)}
    for run in sorted(runs, key=lambda run: order.get(run.file.name, -1)):
        found.setdefault(run.file.parent if run.file.name in order else run.file, run)
    return sorted(found.values(), key=lambda run: run.file)


_ONE_A_FOLDER = ("trainer_state.json", "train_results.json", "all_results.json", "record.json")


def _by_data_set(runs: list[Run], root: Path, kind: str) -> list[Run]:
    if root.is_file() or kind == "record":
        return runs
    parts = [run.file.relative_to(root).parts for run in runs]
    counts: dict[str, int] = {}
    for part in parts:
        counts[part[0]] = counts.get(part[0], 0) + 1
    if len(counts) < 2 or min(counts.values()) < 2:
        return runs
    return [dataclasses.replace(r, data=p[0]) for r, p in zip(runs, parts, strict=True)]
