"""Processes that measure for another one."""

import contextlib
import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1


def end_with_parent(parent_pid: int | None = None) -> None:
    """Let the kernel end this process when the one that started it ends, however that happens.

    On Linux; elsewhere nothing happens. A parent that was gone before this call is noticed only
    where `parent_pid` says which it was.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent_pid is not None and os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)
