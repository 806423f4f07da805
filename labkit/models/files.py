"""Getting a file onto this machine: once, whole, verified, and safe when thirty start at once.

Four rules make that so, and each is a few lines here or in `fetch`.

1. *Verified.* A file counts only when its SHA-256 is the one written in our source. A size
   alone misses corruption, a name alone misses everything.
2. *Atomic.* Work happens under a hidden name beside the target; `os.replace`, which POSIX
   makes atomic within a file system, gives it its real one. So a name that exists is
   complete, and a process killed at any moment leaves only a hidden rest.
3. *Locked.* Whoever holds the lock works, the others wait and then find the work done. The
   kernel releases the lock of a killed process.
4. *Resumable.* A download continues at the byte where it stopped (RFC 9110, section 14:
   `Range`); the SHA-256 at the end covers both halves.
"""

import hashlib
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from labkit.errors import LabkitError


def cache_dir() -> Path:
    """Return `$LABKIT_CACHE`, or `~/.cache/labkit`; nothing is created."""
    return Path(os.environ.get("LABKIT_CACHE") or "~/.cache/labkit").expanduser()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def say(message: str) -> None:
    """Print one line about progress to stderr, at once: stdout is for results."""
    print(message, file=sys.stderr, flush=True)


@contextmanager
def progress_bar(label: str, total: int | None, start: int = 0) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told the bytes done so far; a log gets one line, not a bar."""
    if not sys.stderr.isatty():
        say(label)
        yield lambda done: None
        return
    from tqdm import tqdm

    with tqdm(total=total, initial=start, desc=label, unit="B", unit_scale=True) as bar:
        yield lambda done: bar.update(done - bar.n) and None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a full disk or a folder that cannot be written into one sentence naming `path`."""
    try:
        yield
    except PermissionError as error:
        raise LabkitError(
            f"cannot write {error.filename or path}: set LABKIT_CACHE to a folder that you can "
            "write, or LABKIT_MODELS to one that already holds the model"
        ) from error
    except OSError as error:
        if isinstance(error, (urllib.error.URLError, TimeoutError, ConnectionError)):
            raise
        raise LabkitError(
            f"cannot write below {path}: {error.strerror or error}; free some space or set "
            "LABKIT_CACHE to another disk (`labkit doctor` shows the space left)"
        ) from error


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file at `path`; say so once when another process has it, then wait."""
    from filelock import FileLock, Timeout

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"another process is fetching {what}; waiting for it")
            lock.acquire()
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


def download(url: str, path: Path, sha256: str, *, attempts: int = 3) -> Path:
    """Download `url` to `path` and return `path`; at once when it is already there and right.

    Resumes a download that was cut off, by this process or an earlier one. Raises
    `LabkitError` when the address cannot be reached or the bytes are not those expected;
    `path` then does not exist, or still holds what it held.
    """
    path = Path(path)
    if path.is_file() and sha256_file(path) == sha256:
        return path
    part = path.with_name(f".{path.name}.part")
    with locked(path.with_name(f".{path.name}.lock"), path.name):
        if path.is_file() and sha256_file(path) == sha256:
            return path
        resumed = part.exists()
        for attempt in range(1, attempts + 1):
            try:
                with writing(path.parent):
                    _continue(url, part)
                break
            except (urllib.error.URLError, OSError) as error:
                if attempt == attempts or isinstance(error, urllib.error.HTTPError):
                    raise LabkitError(
                        f"cannot download {url} ({_reason(error)}): check the network and run "
                        f"again, which continues where it stopped, or put the file at {path}"
                    ) from error
                time.sleep(attempt)
        if resumed and sha256_file(part) != sha256:
            # The earlier part may be of an older version: once from the first byte.
            part.unlink()
            return _again(url, path, sha256, part)
        refuse_unless(part, None, sha256)
        os.replace(part, path)
    return path


def _again(url: str, path: Path, sha256: str, part: Path) -> Path:
    try:
        with writing(path.parent):
            _continue(url, part)
    except (urllib.error.URLError, OSError) as error:
        raise LabkitError(f"cannot download {url} ({_reason(error)}): run again") from error
    refuse_unless(part, None, sha256)
    os.replace(part, path)
    return path


def _reason(error: BaseException) -> str:
    return str(getattr(error, "reason", None) or error or type(error).__name__)


def _continue(url: str, part: Path) -> None:
    """Append to `part` what is missing; `ConnectionError` when the sender stops early."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        # 416: there is nothing after the last byte we have. The hash will tell if that is so.
        if error.code == 416 and have:
            return
        raise
    with response:
        if response.status != 206:
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with (
            open(part, "ab" if have else "wb") as file,
            progress_bar(f"downloading {url.rsplit('/', 1)[-1]}", total, have) as show,
        ):
            while block := response.read(1 << 20):
                file.write(block)
                show(file.tell())
            done = file.tell()
    if total is not None and done < total:
        raise ConnectionError(f"the connection closed after {done:,} of {total:,} bytes")
