"""Helpers shared by all commands: results on stdout, settings from `--key value` words."""

import json
from typing import Annotated, Any

import typer

from labkit.errors import LabkitError

Json = Annotated[bool, typer.Option("--json", help="print one JSON object on stdout")]
FREE_FORM = {"allow_extra_args": True, "ignore_unknown_options": True}


def emit(value: Any, as_json: bool, text: str) -> None:
    """Print a result: one JSON object, or text for people."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False) if as_json else text)


def key_values(arguments: list[str]) -> dict[str, str]:
    """Read --key value and --key=value pairs. Raises LabkitError for anything else."""
    pairs: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or len(word) < 3:
            raise LabkitError(f"unexpected {word!r} on the command line: write --key value")
        key, equals, value = word[2:].partition("=")
        if not equals:
            if not rest or (rest[0].startswith("--") and len(rest[0]) > 2):
                raise LabkitError(f"--{key} needs a value: write --{key} VALUE")
            value = rest.pop(0)
        key = key.replace("-", "_")
        if key in pairs:
            raise LabkitError(f"--{key.replace('_', '-')} is given twice: keep one of them")
        pairs[key] = value
    return pairs
