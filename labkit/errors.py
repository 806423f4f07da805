"""What a user did wrong, said in one sentence.

Errors are raised at the border (command line, config, loader) and say what is
wrong, where, and what would be right. The command line prints the sentence and
exits with 2; inside a notebook the sentence is the exception's message.
"""

import difflib
from collections.abc import Iterable


class LabkitError(Exception):
    """A mistake in what was asked for, described in one sentence for the person who asked."""

    def _render_traceback_(self) -> list[str]:
        """Show the sentence alone in a notebook, where IPython asks for this."""
        return [str(self)]


def nearest(word: str, choices: Iterable[str], most: int = 3) -> str:
    """Return a hint that names the choices nearest to `word`, or all of them when few.

    >>> nearest("lorra", ["lora", "full"])
    "did you mean 'lora'?"
    """
    choices = sorted(choices)
    close = difflib.get_close_matches(word.lower(), choices, n=most, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "choose from " + ", ".join(choices[:20]) + ("…" if len(choices) > 20 else "")
