"""A value as a file or the command line has it, read as the type of its setting."""

import json
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from labkit.errors import LabkitError, brief


def read(value: Any, hint: Any, *, key: str, where: str) -> Any:
    """Return `value` as the type `hint`, or raise a LabkitError that names the key."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        # YAML reads a bare on/off as a truth value; here they are words.
        word = {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value
        if word not in args:
            allowed = ", ".join(map(str, args))
            raise LabkitError(f"{where}: {key} must be one of {allowed}, got {brief(value)}")
        return word
    if origin is types.UnionType:
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null", "")):
            return None
        return read(value, args[0], key=key, where=where)
    if origin is tuple:
        words = value.split(",") if isinstance(value, str) else value
        if isinstance(words, list | tuple) and all(isinstance(w, str) and w.strip() for w in words):
            return tuple(w.strip() for w in words)
        raise LabkitError(f"{where}: {key} must be names separated by commas, got {brief(value)}")
    if origin is not None:  # a mapping
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                value = None
        if isinstance(value, Mapping):
            return value
        raise LabkitError(f"{where}: {key} must be a mapping such as {{loftq_bits: 4}}")
    if hint is bool:
        words = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in words:
            return words[value.lower()]
    elif hint is str:
        if isinstance(value, str):
            return value
    elif not isinstance(value, bool) and isinstance(value, int | float | str):
        try:
            number = float(value)  # YAML reads 5e-4 as a string
            if number == number and abs(number) != float("inf"):
                if hint is float:
                    return number
                if number == int(number):
                    return int(number)
        except (ValueError, OverflowError):
            pass
    kind = {bool: "true or false", str: "text", int: "a whole number", float: "a number"}[hint]
    raise LabkitError(f"{where}: {key} must be {kind}, got {brief(value)}")
