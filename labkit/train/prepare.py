"""Identity of a run before it starts: model, data, content hash and folder."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit import methods
from labkit.datasets import registry as datasets
from labkit.errors import LabkitError
from labkit.machine import arithmetic
from labkit.models import registry
from labkit.runs import records
from labkit.runs.config import RunConfig
from labkit.train.artifacts import PARTS
from labkit.train.tasks import task_of


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run that is ready to start: its identity, and where its parts are."""

    config: RunConfig
    sha256: str
    folder: Path
    model_path: Path
    model: dict[str, Any]
    data: dict[str, Any]


def prepare(config: RunConfig) -> Prepared:
    """Find model and data and compute the run's content hash; nothing is written.

    The type is resolved here: a run that chose float32 by itself and one that was told to are the
    same run, and the records of both say float32.
    """
    task_of(config.data, config.task)
    dataset, path = datasets.find(config.data)
    data = {"name": config.data, "sha256": dataset.sha256(path, "train")}
    model_path = registry.resolve(config.model)  # may download, so not before the data is there
    config = config.replace(dtype=arithmetic.resolve(config.dtype))
    model = {"name": registry.name_of(model_path), "sha256": registry.fingerprint_of(model_path)}
    sha256 = records.content_sha256(config.to_dict(), model=model, data=data)
    short = Path(config.model).name.removesuffix("-instruct")
    kind = methods.joined(config.method, config.base)
    name = config.name or records.name_of(sha256) or f"{short}-{kind}-{sha256[:8]}"
    return Prepared(config=config, sha256=sha256, folder=records.runs_dir() / name,
                    model_path=model_path, model=model, data=data)  # fmt: skip


def _goes_on(old: records.RunRecord, prepared: Prepared) -> bool:
    """Return whether an unfinished run is this one, with other processes for the same samples."""
    new = prepared.config.to_dict()
    shas = [
        records.content_sha256(_together({**records.DEFAULTS, **config}), model=model, data=data,
                               libraries=libraries)
        for config, model, data, libraries in (
            (old.config, old.model, old.data, old.versions),
            (new, prepared.model, prepared.data, None),
        )
    ]  # fmt: skip
    return old.status != "done" and shas[0] == shas[1]


def _together(config: dict[str, Any]) -> dict[str, Any]:
    """Return settings as those of one process that takes all samples of a step at once."""
    names = ("per_device_train_batch_size", "gradient_accumulation_steps", "nproc")
    samples = math.prod(config[name] for name in names)
    return {**config, **dict.fromkeys(names, 1), names[0]: samples}


def refuse_other(prepared: Prepared, *, fresh: bool) -> None:
    """Raise a LabkitError when the folder holds something this run must not replace."""
    folder = prepared.folder
    strange = sorted(path.name for path in folder.iterdir() if path.name not in PARTS)
    if strange and not (folder / "record.json").exists():
        raise LabkitError(f"{folder} is not a run, it holds {strange[0]!r}: choose another name")
    if fresh or not (folder / "record.json").exists():
        return
    old = records.load(folder)
    if old.sha256 == prepared.sha256 or _goes_on(old, prepared):
        return
    new = prepared.config.to_dict()
    before = {**records.DEFAULTS, **old.config}  # a record is older than some settings
    changed = [k for k in new if k != "name" and before[k] != new[k]]
    what = ", ".join(f"{k} {before[k]} → {new[k]}" for k in changed[:3])
    raise LabkitError(
        f"{folder.name} holds another run ({what or 'other data, model or versions'}): "
        "choose another name, or use --fresh to replace it"
    )
