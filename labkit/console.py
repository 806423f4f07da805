"""Say something to whoever started the program, and let libraries say less.

stdout is for results, stderr for the rest. transformers warns through its own logger and draws a
bar for every file it reads, datasets one for every pass over rows, and bitsandbytes prints at its
first import about kernels that no run of the course calls. None of it is about the student's work,
and nbval compares what cells print. Errors are never hidden, and nothing is hidden during training.
"""

import contextlib
import functools
import io
import logging
import os
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from labkit.errors import LabkitError

SAID = "LABKIT_SAID"
"""the environment variable by which processes know what was said before them"""


def run_tool(main: Callable[[], object]) -> None:
    """Run a module's `main` (`python -m labkit.…`); a mistake is a sentence and exit code 2."""
    try:
        main()
    except LabkitError as error:
        print(f"labkit: {error}", file=sys.stderr)
        sys.exit(2)


def say(message: str) -> None:
    """Print one line about progress, at once: to stderr, since stdout is for results.

    In a notebook it goes to stdout, because what goes to stderr looks like an error there. Of
    several processes that train together the first one speaks.
    """
    if os.environ.get("RANK", "0") != "0" and "MASTER_ADDR" in os.environ:
        return
    print(message, file=sys.stdout if in_notebook() else sys.stderr, flush=True)


@functools.cache
def say_once(message: str) -> None:
    """Print a line that was not printed in this process before, as `say` does.

    One of several processes that train together leaves out what was said by who started them.
    """
    mark = f"{zlib.crc32(message.encode()):08x}"
    said = os.environ.get(SAID, "").split()
    if mark in said and "MASTER_ADDR" in os.environ:
        return
    os.environ[SAID] = " ".join(sorted({*said, mark}))
    say(message)


def in_notebook() -> bool:
    """Return whether this code runs in a Jupyter kernel."""
    return "ipykernel" in sys.modules and hasattr(sys.stdout, "pub_thread")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep libraries' advice and progress bars out of a notebook; errors still come through.

    Used around loading only: warnings during training are the student's to see.
    """
    from transformers.utils import logging as hf_logging

    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    datasets: Any = sys.modules.get("datasets")  # one that is not there yet draws nothing
    counts = datasets is not None and not datasets.are_progress_bars_disabled()
    bitsandbytes_log = logging.getLogger("bitsandbytes")
    level = bitsandbytes_log.level
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    if counts:
        datasets.disable_progress_bars()
    bitsandbytes_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()
        if counts:
            datasets.enable_progress_bars()
        bitsandbytes_log.setLevel(level)


def quiet_bitsandbytes() -> None:
    """Import bitsandbytes, whose first import prints about kernels that no course run needs."""
    captured = io.StringIO()
    with (
        contextlib.suppress(ImportError),
        quiet(),
        contextlib.redirect_stdout(captured),
        contextlib.redirect_stderr(captured),
    ):
        import bitsandbytes  # noqa: F401
    # It tells at every int8 product that its input is cast to float16, as the method has it.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
