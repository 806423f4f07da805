"""DeepSpeed where `make deepspeed` puts it, within reach of the processes that train by it alone.

Libraries import DeepSpeed wherever they find it, which takes seconds, so it is not in the
environment. Processes that are forked get the path of who starts them.
"""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from multiprocessing.forkserver import _forkserver as server
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "build" / "deepspeed"
INSTALLED = importlib.util.find_spec("deepspeed") is not None
HERE = INSTALLED or (FOLDER / "installed.stamp").exists()
started: dict[str, int | None] = {}
"""the process of the server that finds DeepSpeed"""
needed = pytest.mark.skipif(
    not HERE, reason="DeepSpeed is not here, so ZeRO is not tested: `make deepspeed` brings it"
)


@contextlib.contextmanager
def within_reach() -> Iterator[None]:
    """Let processes that are started inside find DeepSpeed; nothing is to be imported here.

    They come from a server that finds it too: one that was started elsewhere may have imported a
    part of the libraries, which then know of no DeepSpeed while the rest does. A server takes no
    path from who starts it, so it gets this one from the environment.
    """
    if INSTALLED or not HERE:
        yield
        return
    if server._forkserver_pid != started.get("pid"):
        server._stop()
    sys.path.append(str(FOLDER))
    found = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (found, str(FOLDER))))
    try:
        yield
    finally:
        sys.path.remove(str(FOLDER))
        if found is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = found
        started["pid"] = server._forkserver_pid
