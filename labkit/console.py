"""Say something to whoever started the program: stdout is for results, stderr for the rest."""

import functools
import os
import sys
from collections.abc import Callable

from labkit.errors import LabkitError


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
    """Print a line that was not printed in this process before, as `say` does."""
    say(message)


def in_notebook() -> bool:
    """Return whether this code runs in a Jupyter kernel."""
    return "ipykernel" in sys.modules and hasattr(sys.stdout, "pub_thread")
