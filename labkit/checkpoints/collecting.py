"""Find what each lesson asks and how it is checked, by the names of the files in `lessons/`."""

import importlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("lessons")


@cache
def collect(kind: str) -> Mapping[str, Any]:
    """Return the entries of every lesson's RULES or EXERCISES, in the order of the lessons."""
    found: dict[str, Any] = {}
    for path in sorted(FOLDER.glob(f"{kind}_*.py")):
        module = importlib.import_module(f"{__package__}.lessons.{path.stem}")
        found |= getattr(module, kind.upper())
    return found
