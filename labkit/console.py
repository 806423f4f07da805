"""Say something to whoever started the program: stdout is for results, stderr for the rest."""

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
    """Print one line about progress to stderr, at once: stdout is for results."""
    print(message, file=sys.stderr, flush=True)


def in_notebook() -> bool:
    """Return whether this code runs in a Jupyter kernel."""
    return "ipykernel" in sys.modules and hasattr(sys.stdout, "pub_thread")
