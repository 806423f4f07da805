"""What keeps a run's folder right, whatever ends the run.

Two processes may want one folder, the disk may be full, the student may press Ctrl-C. Each is a
context manager around a part of `train`: one writer at a time, one sentence for what a disk
refuses, and a step that is finished and saved before training stops.
"""

import contextlib
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labkit.console import say
from labkit.errors import LabkitError
from labkit.files import lock_folder

COMPLETE = "labkit_steps.json"
"""Marks a checkpoint as complete and holds the steps measured up to it."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run's folder, created if need be, for this process alone."""
    import filelock

    before = [path for path in (folder, folder.parent) if path.exists()]
    try:
        lock = lock_folder(folder, timeout=0)
    except filelock.Timeout:
        raise LabkitError(
            f"{folder.name} is being trained by another process: wait for it, or choose another "
            "name"
        ) from None
    try:
        yield
    finally:
        lock.release()
        _remove_unused(folder, before)


@contextlib.contextmanager
def given_out(folder: Path) -> Iterator[None]:
    """Clear the run's folder away after processes that were ended before they could.

    One that another run took meanwhile stays.
    """
    import filelock

    before = [path for path in (folder, folder.parent) if path.exists()]
    try:
        yield
    finally:
        if folder not in before and folder.exists() and not (folder / "record.json").exists():
            with contextlib.suppress(filelock.Timeout), lock_folder(folder, timeout=0):
                _remove_unused(folder, before)


def _remove_unused(folder: Path, before: list[Path]) -> None:
    """Remove a folder that came after `before` and holds no record."""
    if folder not in before and not (folder / "record.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        if folder.parent not in before:
            with contextlib.suppress(OSError):  # another run began meanwhile
                folder.parent.rmdir()


@contextlib.contextmanager
def saving_errors(folder: Path) -> Iterator[None]:
    """Turn what libraries raise on a full or read-only disk into one sentence."""
    try:
        yield
    except Exception as error:
        text = str(error)
        signs = ("No space left", "os error 28", "file write failed", "unexpected pos",
                 "Read-only file system", "Permission denied", "Disk quota exceeded",
                 "File too large")  # fmt: skip
        if isinstance(error, LabkitError) or not any(sign in text for sign in signs):
            raise
        for partial in (folder / ".model.partial", *(folder / "checkpoints").glob("checkpoint-*")):
            if not (partial / COMPLETE).exists():
                shutil.rmtree(partial, ignore_errors=True)
        raise LabkitError(
            f"{folder} cannot be written ({text.splitlines()[0][:120]}): free disk space "
            "(labkit runs list shows what runs take) and start it again"
        ) from error


@contextlib.contextmanager
def graceful_interrupt(callback: Any) -> Iterator[None]:
    """Let a first Ctrl-C finish the step and save; a second one stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(signum: int, frame: Any) -> None:
        if callback.interrupted:
            raise KeyboardInterrupt
        callback.interrupted = True
        say("stopping after this step …")

    previous = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
