"""Keep what a lesson measured outside a run: speeds of answers, errors of layers, costs.

A checkpoint question about such a number is held against the file, as one about training is held
against a run's record. One file for each kind, settings and machine, the latest measurement of
each:

    runs/measurements/measurement-<kind>-<id>.json
        {"schema": 1, "kind", "id", "made_at", "settings", "values", "machine", "versions"}
"""

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError
from labkit.files import write_json
from labkit.machine import hardware
from labkit.runs.records import runs_dir, versions

SCHEMA = 1
PREFIX = "measurement-"


def keep(kind: str, values: Mapping[str, Any], **settings: Any) -> Path:
    """Write one measurement, whole or not at all, over an earlier one of the same settings.

    `kind` is a word such as "answers"; `values` are plain JSON values, numbers in the units that
    their names say; `settings` are what they depend on, such as the model. Returns the file.

    Raises:
        LabkitError: the kind is not a word, a value is not plain JSON, or the folder can't be
            written.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,40}", kind):
        raise LabkitError(f"{kind!r} names no measurement: use a word of small letters")
    machine = hardware.describe()
    try:
        where = [machine["cpu"], [card["name"] for card in machine["gpus"]]]
        wanted = json.dumps([kind, settings, where], sort_keys=True)
        json.dumps(values, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise LabkitError(f"the measurement {kind!r} is not plain JSON: {error}") from None
    number = hashlib.sha256(wanted.encode()).hexdigest()[:12]
    file = folder() / f"{PREFIX}{kind}-{number}.json"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {
            "schema": SCHEMA, "kind": kind, "id": number, "settings": settings,
            # Several are kept in a second, and the latest of them counts.
            "made_at": datetime.now(UTC).isoformat(timespec="microseconds"),
            "values": dict(values), "machine": machine, "versions": versions(),
        })  # fmt: skip
    except OSError as error:
        raise LabkitError(f"{file} cannot be written: {error.strerror}") from None
    return file


def folder() -> Path:
    """Return the folder of the measurements, among the runs."""
    return runs_dir() / "measurements"


def read_all() -> list[dict[str, Any]]:
    """Return every readable measurement, oldest first, each as its file has it."""
    found = []
    for path in sorted(folder().glob(f"{PREFIX}*.json")):
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(value, dict) and isinstance(value.get("values"), dict):
            found.append(value)
    return sorted(found, key=lambda each: str(each.get("made_at")))
