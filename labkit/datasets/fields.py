"""The fields of a data file that somebody else wrote: what stands at a place, or one sentence.

`where` is the place as a reader of the file counts, such as `dev.json: [3].questions[0]`.
"""

import math
from collections.abc import Sequence
from typing import Any

from labkit.errors import LabkitError, brief


def cell(value: Any, where: str) -> str:
    """Return what a cell or an answer says; a null one is empty.

    Raises LabkitError for what is neither text nor a number: it would be taught as its Python form.
    """
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise LabkitError(f"{where} is a {_JSON.get(type(value), 'value')}, but TAT-QA has text or "
                          "a number there")  # fmt: skip
    if isinstance(value, float) and not math.isfinite(value):
        raise LabkitError(f"{where} is {value!r}, which is no number: leave the place empty")
    return text(str(value), where)


_JSON = {dict: "JSON object", list: "list", bool: "truth value"}


def text(text: str, where: str) -> str:
    """Return a text. Raises LabkitError for half a character, which no tokenizer can read."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise LabkitError(f"{where} has half a character ({text[error.start]!r}) at place "
                              f"{error.start}: write the whole one") from None  # fmt: skip
    return text


def get(item: Any, key: str, kind: type, where: str) -> Any:
    """Return item[key], of one kind; LabkitError that names the place where it is not there."""
    if not isinstance(item, dict):
        raise LabkitError(f"{where} is not a JSON object with the key {key!r}")
    if key not in item:
        raise LabkitError(f"{where} has no key {key!r}, which every TAT-QA entry has there")
    if not isinstance(item[key], kind):
        raise LabkitError(
            f"{where}.{key} is a {type(item[key]).__name__}, but TAT-QA has a {kind.__name__} there"
        )
    if isinstance(item[key], str):
        text(item[key], f"{where}.{key}")
    return item[key]


def one_of(item: dict[str, Any], key: str, choices: Sequence[str], where: str) -> str:
    """Return item[key], one of the choices; LabkitError that names the place where it is not."""
    value = get(item, key, str, where)
    if value not in choices:
        named = ", ".join(repr(choice) for choice in choices)
        raise LabkitError(f"{where}.{key} is {brief(value)}, but it is one of {named}")
    return value
