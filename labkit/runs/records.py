"""Run records: what was run, on what, and what came out, as one JSON file each.

Everything a lesson shows is read from records, so a figure can be redrawn without training and
an answer can name the measurement it rests on. A record is found by its content hash

    sha256(settings that differ from their defaults, arithmetic, data, model, versions)

without the run's name: ask for the same run again and you get the finished record at once. A
quantity that was not measured is null, never 0.

    runs/<name>/record.json     the record, written atomically
    runs/<name>/model/          adapter or full model, once the run is done
    runs/<name>/checkpoints/    the one checkpoint to resume from, until then
"""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import typing
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from labkit.errors import LabkitError, nearest
from labkit.files import expanded, write_json
from labkit.runs import task_results
from labkit.runs.config import RunConfig

if TYPE_CHECKING:
    import pandas

SCHEMA = 1
NOT_HASHED = ("name", "report_to", "save_steps")
"""Settings that cannot change a result."""
DEFAULTS = RunConfig().to_dict()
"""Settings that are left out of the hash at these values. One whose default changes has to be
removed here, or runs of the old default would be taken for runs of the new one."""
LIBRARIES = ("labkit", "torch", "transformers", "trl", "peft", "accelerate")
Status = Literal["done", "cancelled", "failed", "running"]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run. Times in seconds, sizes in bytes; null where nothing was measured."""

    id: str
    sha256: str
    name: str
    status: Status
    started_at: str
    config: dict[str, Any]
    seed: int
    versions: dict[str, str]
    hardware: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, Any]
    steps: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    predicted: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def path(self) -> Path:
        """The run's folder."""
        return runs_dir() / self.name

    @property
    def model_path(self) -> Path:
        """Where the trained adapter or model is."""
        return self.path / "model"

    @property
    def losses(self) -> list[float]:
        """Training loss of every step."""
        return [step["loss"] for step in self.steps]

    def replace(self, **changes: Any) -> "RunRecord":
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def save(self) -> "RunRecord":
        """Write the record into its run folder, whole or not at all."""
        write_json(self.path / "record.json", dataclasses.asdict(self))
        return self


def runs_dir() -> Path:
    """Return the folder of all runs: $LABKIT_RUNS, or `runs` in the current folder."""
    return expanded(os.environ.get("LABKIT_RUNS") or "runs").absolute()


def new_id() -> str:
    """Return an id no other run has, here or on another student's machine."""
    return uuid.uuid4().hex[:12]


def now() -> str:
    """Return the time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Return the versions of the libraries whose change can change a result."""
    return {name: found for name in LIBRARIES if (found := _version(name)) is not None}


@cache
def _version(name: str) -> str | None:
    """Look a library's version up, once a process: each look reads files."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def content_sha256(
    config: Mapping[str, Any], *, model: Mapping[str, Any], data: Mapping[str, Any],
    libraries: Mapping[str, str] | None = None,
) -> str:  # fmt: skip
    """Return the hash that two runs share when nothing that can change the result differs.

    Only settings that are not at their default count, so that a setting which did not exist when a
    run was made leaves its hash as it is; the type it computed in counts always, since auto is
    another one elsewhere. `libraries` are the versions of a run that was made elsewhere; by default
    those installed here.
    """
    changed = {
        key: value for key, value in _hashed(config).items()
        if key != "dtype" and (key not in DEFAULTS or not _equal(value, DEFAULTS[key]))
    }  # fmt: skip
    content = {"settings": changed, "arithmetic": config.get("dtype")}
    return _sha256(content, model, data, libraries)


def is_hash_of(
    sha256: str, config: Mapping[str, Any], *, model: Mapping[str, Any], data: Mapping[str, Any],
    libraries: Mapping[str, str] | None = None,
) -> bool:  # fmt: skip
    """Return whether `sha256` is the content hash of a run, as it is made now or was before."""
    return sha256 in (
        content_sha256(config, model=model, data=data, libraries=libraries),
        _sha256_of_every_setting(config, model=model, data=data, libraries=libraries),
    )


def _sha256_of_every_setting(
    config: Mapping[str, Any], *, model: Mapping[str, Any], data: Mapping[str, Any],
    libraries: Mapping[str, str] | None = None,
) -> str:  # fmt: skip
    """Return the content hash as records had it while every setting counted."""
    return _sha256({"config": _hashed(config)}, model, data, libraries)


def _hashed(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in NOT_HASHED}


def _sha256(
    content: Mapping[str, Any], model: Mapping[str, Any], data: Mapping[str, Any],
    libraries: Mapping[str, str] | None,
) -> str:  # fmt: skip
    whole = {
        **content, "model": model["sha256"], "data": data["sha256"],
        "versions": versions() if libraries is None else dict(libraries),
    }  # fmt: skip
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _equal(value: Any, default: Any) -> bool:
    # As JSON, where 1 is not true and 0.0 is not false.
    return json.dumps(value, sort_keys=True) == json.dumps(default, sort_keys=True)


def _rehashed(record: RunRecord) -> RunRecord:
    """Return a record of before under today's hash, by which it is found again.

    One whose hash was not right then keeps it: what it says is not what was run.
    """
    parts = {"model": record.model, "data": record.data, "libraries": record.versions}
    try:
        if record.sha256 == _sha256_of_every_setting(record.config, **parts):
            return record.replace(sha256=content_sha256(record.config, **parts))
    except KeyError:
        pass
    return record


def load(name: str | Path) -> RunRecord:
    """Read one record by the run's name, or by its folder.

    Raises:
        LabkitError: there is no such run, or its record is damaged.
    """
    folder = Path(name) if Path(name).is_dir() else runs_dir() / name
    file = folder / "record.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8-sig"))
        known = typing.get_type_hints(RunRecord)
        kept = {key: value for key, value in values.items() if key in known}
        for key, value in kept.items():
            kind = typing.get_origin(known[key]) or known[key]
            if not isinstance(value, str if kind is Literal else kind):
                raise TypeError(f"{key} is a {type(value).__name__}")
        if folder.absolute().parent == runs_dir():
            kept["name"] = folder.name  # it may have been copied or renamed
        return _rehashed(RunRecord(**kept))
    except FileNotFoundError:
        names = [path.parent.name for path in runs_dir().glob("*/record.json")]
        hint = nearest(str(name), names) if names else "there are no runs yet"
        raise LabkitError(f"no run {str(name)!r} in {runs_dir()}: {hint}") from None
    except OSError as error:
        raise LabkitError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise LabkitError(
            f"{file} is damaged: remove the run with `labkit runs rm {folder.name}` "
            "and train it again"
        ) from None


def records() -> list[RunRecord]:
    """Return every readable record, oldest first; `damaged` names the others."""
    return sorted(_read_all()[0], key=lambda record: record.started_at)


def damaged() -> list[str]:
    """Return the names of runs whose record cannot be read."""
    return _read_all()[1]


def _read_all() -> tuple[list[RunRecord], list[str]]:
    found, unreadable = [], []
    for file in sorted(runs_dir().glob("*/record.json")):
        try:
            found.append(load(file.parent))
        except LabkitError:
            unreadable.append(file.parent.name)
    return found, unreadable


def find(sha256: str) -> RunRecord | None:
    """Return the finished record with this content hash and weights, if any; copies come last."""
    for record in sorted(records(), key=_is_renamed):
        kept = record.model_path.is_dir() or record.config.get("keep_weights") is False
        if record.sha256 == sha256 and record.status == "done" and kept:
            return record
    return None


def name_of(sha256: str) -> str | None:
    """Return the folder of a run with this content hash that has no name of its own, and no copy's.

    It holds the hash that the run had when it began, which for an older run is another one.
    """
    return next((each.name for each in records() if each.sha256 == sha256
                 and not each.config.get("name") and not _is_renamed(each)), None)  # fmt: skip


def _is_renamed(record: RunRecord) -> bool:
    """Return whether a run's folder has not the name that it was made with."""
    given = record.config.get("name")
    return record.name != given if given else not re.search("-[0-9a-f]{8}$", record.name)


def cost_table(records: Mapping[str, RunRecord]) -> "pandas.DataFrame":
    """Return what each labelled run trained, and what it cost in time and memory."""
    import pandas

    def gib(size: int | None) -> str:
        return "–" if size is None else f"{size / 2**30:.2f}"

    def rounded(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    rows: dict[str, dict[str, Any]] = {}
    # Records of before have no prediction; where none has, there are no columns for it.
    told = any(map(predicted_words, records.values()))
    for label, record in records.items():
        s = record.summary
        step, peak = predicted_words(record) or ("–", "–")
        rows[label] = {
            "trained parameters": f"{s['trainable_parameters']:,}",
            "share of all": f"{s['trainable_parameters'] / s['total_parameters']:.2%}",
            "steps": len(record.steps),
            "seconds a step": rounded(s["step_seconds_median"], ".2f"),
            **({"predicted seconds a step": step} if told else {}),
            "tokens/s": rounded(s["tokens_per_second"], ",.0f"),
            "minutes": f"{s['train_seconds'] / 60:.1f}",
            "peak of tensors (GiB)": gib(s["peak_bytes"]["allocated"]),
            **({"predicted peak (GiB)": peak} if told else {}),
            "resident (GiB)": gib(s["peak_bytes"]["rss"]),
        }
    return pandas.DataFrame(rows)


def predicted_words(record: RunRecord) -> tuple[str, str] | None:
    """Return the predicted seconds of a step and GiB of its peak, – for one that is not known.

    None for a record without a prediction: runs of before, and steps nothing is known about.
    """
    seconds = record.predicted.get("step_seconds")
    size = (record.predicted.get("peak_bytes") or {}).get("analytic")
    if seconds is None and size is None:
        return None
    return (
        f"{seconds['low']:.2f} to {seconds['high']:.2f}" if seconds else "–",
        f"{size / 2**30:.2f}" if size is not None else "–",
    )


def render(record: RunRecord) -> str:
    """Return what a run came to as a few lines of text."""
    summary, losses = record.summary, record.losses
    peak = summary.get("peak_bytes", {})

    def gib(size: int | None) -> str:
        return "not measured" if size is None else f"{size / 2**30:.2f} GiB"

    lines = [f"{record.name}: {record.status} after {len(record.steps)} steps"]
    if losses:
        lines.append(f"  loss         {losses[0]:.3f} → {losses[-1]:.3f}")
    lines += task_results.lines(record.steps, summary)
    if speed := summary.get("tokens_per_second"):
        lines.append(f"  speed        {speed:,.0f} tokens/s, "
                     f"{summary['samples_per_second']:.1f} questions/s")  # fmt: skip
    if computed_in := summary.get("arithmetic"):
        lines.append(f"  arithmetic   {computed_in}")
    predicted = predicted_words(record)
    if (middle := summary.get("step_seconds_median")) is not None:
        beside = f" (predicted {predicted[0]} s)" if predicted else ""
        lines.append(f"  step time    {middle:.2f} s{beside}")
    beside = f" (predicted {predicted[1]} GiB)" if predicted else ""
    lines.append(f"  peak memory  {gib(peak.get('allocated'))} in tensors{beside}, "
                 f"{gib(peak.get('rss'))} resident")  # fmt: skip
    if shared := summary.get("sharding"):
        most = max((each for each in shared["peak_bytes"] if each), default=None)
        lines.append(f"  processes    {shared['processes']}, sharding {shared['ran']}, each "
                     f"{gib(most)} in tensors or less")  # fmt: skip
    if total := summary.get("total_parameters"):
        lines.append(f"  trained      {summary['trainable_parameters']:,} of {total:,} parameters")
    for name, score in record.scores.items():
        lines.append(f"  exact match  {score['metrics']['em']['value']:.1%} on {name}")
    return "\n".join([*lines, f"  kept in      {record.path}"])


def disk_bytes(name: str) -> int:
    """Return the bytes a run takes on disk."""
    return sum(f.stat().st_size for f in (runs_dir() / name).rglob("*") if f.is_file())


def remove(names: Iterable[str]) -> int:
    """Delete runs with everything they keep; return the bytes that were freed.

    Raises:
        LabkitError: one of the names is not a run, and nothing is deleted then; or the folder
            cannot be written.
    """
    names = list(dict.fromkeys(names))
    existing = [p.name for p in runs_dir().glob("*") if p.is_dir()]
    for name in names:
        if name not in existing:
            raise LabkitError(f"no run {name!r} in {runs_dir()}: {nearest(name, existing)}")
    freed = sum(disk_bytes(name) for name in names)
    for name in names:
        try:
            shutil.rmtree(runs_dir() / name)
        except OSError as error:
            raise LabkitError(f"{error.filename} cannot be deleted: {error.strerror}") from None
    return freed
