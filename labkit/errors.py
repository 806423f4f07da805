"""What a user did wrong, said in one sentence.

Errors are raised at the border (command line, config, loader) and say what is
wrong, where, and what would be right. The command line prints the sentence and
exits with 2; inside a notebook the sentence is the exception's message.
"""

import difflib
import json
import reprlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class LabkitError(Exception):
    """A mistake in what was asked for, described in one sentence for the person who asked."""

    def _render_traceback_(self) -> list[str]:
        """Show the sentence alone in a notebook, where IPython asks for this."""
        return [str(self)]


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return a hint that names the choices nearest to `word`, or all of them when few.

    >>> nearest("lorra", ["lora", "full"])
    "did you mean 'lora'?"
    """
    choices = sorted(choices)
    close = difflib.get_close_matches(word.lower(), choices, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "choose from " + ", ".join(choices[:20]) + ("…" if len(choices) > 20 else "")


def said(error: BaseException) -> str:
    """Return the line in which an exception says what is wrong, which may be its second."""
    lines = (str(error).strip() or type(error).__name__).splitlines()
    return " ".join(map(str.strip, lines[: 1 + lines[0].rstrip().endswith(":")]))


def brief(value: Any) -> str:
    """Return a value as Python writes it, cut where it is long or deep, for a sentence."""
    return _BRIEF.repr(value)


_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxother, _BRIEF.maxlong = 3, 200, 200, 60

MOST_JSON_BYTES = 2**28
"""What is read of a file that somebody else wrote; the official TAT-QA files have 14 MB."""


def read_json(file: Path, *, most_bytes: int = MOST_JSON_BYTES) -> Any:
    """Read a JSON file that somebody else may have written.

    UTF-8 with or without a byte-order mark and, as some shells write it, UTF-16 or UTF-32 are read.
    NaN and Infinity become floats, as Python's own `json` has them.

    Raises LabkitError where there is no such file, or it is no JSON, nested too deeply, or larger
    than `most_bytes`.
    """
    try:
        with open(file, "rb") as handle:
            content = handle.read(most_bytes + 1)
    except FileNotFoundError:
        raise LabkitError(f"there is no file {file}") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise LabkitError(f"{file} cannot be read: {getattr(error, 'strerror', error)}") from None
    if len(content) > most_bytes:
        raise LabkitError(f"{file} is larger than {most_bytes / 2**20:g} MiB, more than is read "
                          "of such a file")  # fmt: skip
    return parse_json(content, str(file))


def parse_json(
    content: bytes, where: str, *, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None
) -> Any:
    """Read JSON text in any encoding that JSON may have; `where` names it in errors.

    `pairs` makes what an object becomes of its keys and values: a dict where nothing is given.

    Raises LabkitError for what is none, and for more brackets in each other than Python follows.
    """
    try:
        text = content.decode(json.detect_encoding(content))
        return json.loads(text, object_pairs_hook=pairs)
    except UnicodeDecodeError as error:
        raise LabkitError(f"{where} cannot be read as text ({error.reason} at byte {error.start}): "
                          "save it in UTF-8") from None  # fmt: skip
    except RecursionError:
        reason = "its brackets are nested too deeply"
    except json.JSONDecodeError as error:
        reason = f"{error.msg} in line {error.lineno}, column {error.colno}"
    except ValueError:
        reason = "a number in it has too many digits"
    raise LabkitError(f"{where} is not valid JSON: {reason}")


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Turn a library of the extra `name` that is not installed into one sentence about `what`.

    Raises:
        LabkitError: an import inside found no module; one of labkit's own is not excused.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if not error.name or error.name.split(".")[0] == "labkit":
            raise
        raise LabkitError(
            f"{what} needs {error.name.split('.')[0]}, which is not installed: "
            f"pip install 'labkit[{name}]', or the course's requirements.lock"
        ) from error
