"""Atomic writes, locks, checksums, and the folder that everything of ours is kept in."""

import errno
import getpass
import hashlib
import json
import os
import shutil
import ssl
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.console import say
from labkit.errors import LabkitError

if TYPE_CHECKING:
    from filelock import BaseFileLock


def cache_dir() -> Path:
    """Return `$LABKIT_CACHE`, or `~/.cache/labkit`; nothing is created.

    A container may run under a number that has neither a name nor a home: then it is a folder of
    that number's own among the temporary ones.
    """
    try:
        return Path(os.environ.get("LABKIT_CACHE") or "~/.cache/labkit").expanduser()
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"labkit-cache-{os.getuid()}"


def name_user() -> None:
    """Give a user without a name one: PyTorch's compiler asks for it when it is imported."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"uid_{os.getuid()}"


def take_lock(path: Path, *, timeout: float) -> "BaseFileLock":
    """Return the lock at `path`, taken; on file systems without locks, one by a file that exists.

    NFS without its lock service says ENOLCK, others that they know no locks, and a server that was
    restarted that the file it knew is gone (ESTALE). A lock that is a file names its process, and
    is taken over when that has ended.

    Raises filelock's Timeout when another process has it, and OSError for what else is wrong.
    """
    from filelock import FileLock, SoftFileLock

    lock: BaseFileLock = FileLock(path)
    try:
        lock.acquire(timeout=timeout)
    except (OSError, NotImplementedError) as error:
        number = getattr(error, "errno", errno.ENOSYS)
        if isinstance(error, TimeoutError) or number not in _NO_LOCKS:
            raise
        lock = SoftFileLock(path.with_name(f"{path.name}.held"))
        lock.acquire(timeout=timeout)
    return lock


def lock_folder(folder: Path, *, timeout: float) -> "BaseFileLock":
    """Make `folder` if need be and return its lock, taken.

    Raises filelock's Timeout when another process has it, LabkitError where it cannot be written.
    """
    from filelock import Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        return take_lock(folder / ".lock", timeout=timeout)
    except Timeout:
        raise
    except OSError as error:
        raise LabkitError(f"{folder} cannot be written: {error.strerror or error}") from None


_OTHER_PICTURES = (".pdf", ".svg", ".eps", ".ps", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".gif")
_NO_LOCKS = (errno.ENOLCK, errno.ESTALE, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def progress_bar(
    label: str, total: int | None, *, start: int = 0, progress: bool = True
) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told the bytes done so far; a log gets one line, not a bar."""
    if not progress or not sys.stderr.isatty():
        if progress:
            say(label)
        yield lambda done: None
        return
    from tqdm import tqdm

    with tqdm(total=total, initial=start, desc=label, unit="B", unit_scale=True) as bar:
        yield lambda done: bar.update(done - bar.n) and None


# What the disk or its owner refuses, as opposed to what the network does (also an OSError).
REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}
REFUSALS |= {errno.EEXIST, errno.EIO, errno.ESTALE, errno.ENAMETOOLONG}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a full disk or a folder that cannot be written into one sentence naming `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS or isinstance(error, ssl.SSLError):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "free some space, or set LABKIT_CACHE to a folder on another disk"
        else:
            advice = "set LABKIT_CACHE to a folder that you can write to"
        raise LabkitError(f"cannot write below {path} ({error.strerror}): {advice}") from error


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file at `path`; say so once when another process has it, then wait."""
    from filelock import Timeout

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = take_lock(path, timeout=0)
        except Timeout:
            say(f"another process is fetching {what}; waiting for it")
            lock = take_lock(path, timeout=-1)
    try:
        yield
    finally:
        lock.release()


def refuse_unless(path: Path, size: int | None, sha256: str) -> None:
    """Remove `path` and raise `LabkitError` unless it has this size and SHA-256."""
    found = path.stat().st_size
    if size is not None and found != size:
        path.unlink()
        short = "truncated" if found < size else "too long"
        raise LabkitError(
            f"{path.name} is {short} ({found:,} bytes instead of {size:,}) and was removed: "
            "run the same command again"
        )
    digest = sha256_file(path)
    if digest != sha256:
        path.unlink()
        raise LabkitError(
            f"{path.name} is corrupt (sha256 {digest[:12]}… instead of {sha256[:12]}…) and was "
            "removed: run the same command again"
        )


_WEIGHTS = ("*.safetensors", "*config.json")
_REST = ("pytorch_model*.bin", "adapter_model.bin", "*.jinja", "tokenizer.json", "*.model",
          "vocab*", "merges.txt", "added_tokens.json", "special_tokens_map.json")  # fmt: skip
"""What else a model's answers hang on: how it reads, and weights in the older form."""


def fingerprint(folder: Path, *, everything: bool) -> str:
    """Return a hash that changes with the model in a folder, without reading gigabytes of it.

    With `everything` it changes with the tokenizer and the chat template too. Configuration and
    weights up to 1 GiB a file are hashed whole; of larger files the size, first and last MiB.
    """
    digest = hashlib.sha256()
    patterns = (*_WEIGHTS, *_REST) if everything else _WEIGHTS
    for file in (file for pattern in patterns for file in sorted(folder.glob(pattern))):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}:".encode())
        if size <= 2**30:
            digest.update(sha256_file(file).encode())
            continue
        with file.open("rb") as handle:
            digest.update(handle.read(2**20))
            handle.seek(-(2**20), os.SEEK_END)
            digest.update(handle.read())
    return digest.hexdigest()


@contextmanager
def appearing(path: Path, *, keep_first: bool = False) -> Iterator[Path]:
    """Yield a hidden place for a file or a folder, which takes the name `path` once it is whole.

    What had that name goes; with `keep_first` it stays, as another process was faster. Where
    anything fails nothing is left, not even the folders that were made for it.

    Raises:
        LabkitError: the folder cannot be written, or the disk is full.
    """
    made: list[Path] = []
    hidden = None
    try:
        made = [parent for parent in path.parents if not parent.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        yield (partial := hidden / path.name)
        if not (keep_first and path.exists()):
            if partial.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            os.replace(partial, path)
        made = []
    except OSError as error:
        raise LabkitError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        if hidden is not None:
            shutil.rmtree(hidden, ignore_errors=True)
        for parent in made:
            with suppress(OSError):
                parent.rmdir()


def expanded(path: str | Path) -> Path:
    """Return a path with the home that `~` or `~user` names written out; LabkitError for none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise LabkitError(f"{path} names a home that is nobody's here: write the folder "
                          "out") from None  # fmt: skip


def free_folder(out: str | Path) -> Path:
    """Return the absolute path of a folder to write; LabkitError when it holds something.

    A link is followed: no folder can take its place, but one can appear where it leads.
    """
    out = expanded(out).absolute()
    try:
        if out.is_symlink():
            out = Path(os.path.realpath(out))
        if out.is_dir() and any(out.iterdir()):
            raise LabkitError(f"{out} is not empty: choose a folder that is new or empty")
        if out.exists() and not out.is_dir():
            raise LabkitError(f"{out} is a file: choose a folder that is new or empty")
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise LabkitError(f"{out} cannot be written: {error.strerror}") from None
    return out


def picture_file(path: str | Path) -> Path:
    """Return the PNG file that a path means; one without that ending gets it, dots or not.

    Raises:
        LabkitError: the path has no name, is a folder, or ends as another kind of picture does.
    """
    path = Path(path)
    if path.name in ("", ".."):
        raise LabkitError(f"{str(path)!r} is no name for a figure: name a PNG file")
    if path.suffix.lower() in _OTHER_PICTURES:
        raise LabkitError(f"{path} is no PNG, which every figure is: end the name in .png")
    named = path if path.suffix.lower() == ".png" else path.with_name(f"{path.name}.png")
    if path.is_dir() or named.is_dir():
        raise LabkitError(f"{path} is a folder: name a PNG file for the figure")
    return named


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all; LabkitError as `appearing`."""
    with appearing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(file: Path, values: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one; LabkitError as `appearing`."""
    with appearing(file) as partial:
        with partial.open("w", encoding="utf-8") as handle:
            json.dump(values, handle, indent=1, allow_nan=False)
            handle.write("\n")
        partial.chmod(0o644)  # whatever the user's mask: an instructor reads it
