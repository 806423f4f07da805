"""Validate foreign run records, sweep points and measurements, field by field.

Rules compute with what is in a record, so one that is handed in has to have the types that
labkit writes before any rule sees it: a number where a number belongs, and a finite one; settings
that `RunConfig` itself accepts. Anything else is a ValueError that names the field.
"""

import re
import typing
import warnings
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from labkit.errors import LabkitError
from labkit.runs.config import FIELDS, from_mapping
from labkit.runs.records import RunRecord, Status

LARGEST = 1e30
LONGEST = 20_000
DEEPEST = 12

STEP_NUMBERS = ("step", "loss", "seconds", "tokens", "padded_tokens", "samples", "peak_bytes")
SUMMARY_NUMBERS = (
    *("tokens_per_second", "samples_per_second", "step_seconds_median", "train_seconds"),
    *("wall_seconds", "trainable_parameters", "total_parameters"),
)
PEAKS = ("allocated", "reserved", "rss")
POINT_NUMBERS = ("peak_bytes", "step_seconds", "memory_limit_bytes", "predicted_peak_bytes",
                 "predicted_process_bytes", "tokens_per_second")  # fmt: skip
SETTING_NUMBERS = ("batch_size", "seq_len", "gradient_accumulation_steps", "num_gpus")


def as_record(value: Any) -> RunRecord:
    """Return a record made of plain values. Raises ValueError with the field that is wrong."""
    values = _mapping(value, "the record")
    hints = typing.get_type_hints(RunRecord)
    for key, hint in hints.items():
        if key not in values:
            if key in ("id", "sha256", "name", "status", "started_at", "config", "model", "data"):
                raise ValueError(f"{key} is missing")
            continue
        kind = typing.get_origin(hint) or hint
        kind = str if kind is typing.Literal else kind
        if not isinstance(values[key], kind) or isinstance(values[key], bool):
            raise ValueError(f"{key} is a {type(values[key]).__name__}")
        if key != "steps":
            _plain(values[key], key)
    if not re.fullmatch(r"[\w.-]{1,64}", values["id"], re.ASCII):
        raise ValueError("id is not an id")
    if values["status"] not in typing.get_args(Status):
        raise ValueError("status is not one of labkit's")
    try:
        datetime.fromisoformat(values["started_at"])
    except ValueError:
        raise ValueError("started_at is not a time") from None
    for name in ("model", "data"):
        for key in ("name", "sha256"):
            if not isinstance(values[name].get(key), str):
                raise ValueError(f"{name}.{key} is not text")
    _settings(values["config"])
    for step in values.get("steps", ()):
        _step(_mapping(step, "a step"))
        if not isinstance(step.get("loss"), int | float) or not isinstance(step.get("step"), int):
            raise ValueError("a step lacks its number or its loss")
    summary = values.get("summary", {})
    _numbers(summary, SUMMARY_NUMBERS, "summary.")
    if summary.get("peak_bytes") is not None:
        _numbers(_mapping(summary["peak_bytes"], "peak_bytes"), PEAKS, "summary.peak_bytes.")
    if summary.get("sharding") is not None:
        sharding = _mapping(summary["sharding"], "summary.sharding")
        _numbers(sharding, ["processes"], "summary.sharding.")
    _hardware(values.get("hardware", {}))
    versions = values.get("versions", {})
    if not all(isinstance(v, str) for v in versions.values()):
        raise ValueError("versions are not texts")
    optional = {"seed": 0, "versions": {}, "hardware": {}}
    return RunRecord(**{**optional, **{key: values[key] for key in hints if key in values}})


def as_point(value: Any) -> dict[str, Any]:
    """Return a sweep's point made of plain values. Raises ValueError with what is wrong."""
    point = _mapping(value, "the point")
    _plain(point, "the point")
    _mapping(point.get("settings"), "settings")
    if not isinstance(point.get("status"), str):
        raise ValueError("status is not text")
    _numbers(point, POINT_NUMBERS, "")
    _numbers(point["settings"], SETTING_NUMBERS, "settings.")
    return dict(point)


def as_measurement(value: Any) -> dict[str, Any]:
    """Return a measurement made of plain values. Raises ValueError with what is wrong."""
    measured = _mapping(value, "the measurement")
    _plain(measured, "the measurement")
    for name in ("kind", "made_at"):
        if not isinstance(measured.get(name), str):
            raise ValueError(f"{name} is not text")
    for name in ("values", "settings", "machine"):
        _mapping(measured.get(name), name)
    return dict(measured)


def _step(step: Mapping[str, Any]) -> None:
    for name, value in step.items():
        if type(value) in (int, float) and -LARGEST < value < LARGEST:
            continue
        if name in STEP_NUMBERS:
            _numbers(step, (name,), "a step's ")
        else:
            _plain(value, "a step")


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is a {type(value).__name__}")
    return value


def _numbers(values: Mapping[str, Any], names: Iterable[str], prefix: str) -> None:
    """Ask that the named values are numbers, or null, where they are there at all."""
    for name in names:
        found = values.get(name)
        if found is None:
            continue
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise ValueError(f"{prefix}{name} is a {type(found).__name__}")
        if not abs(found) < LARGEST:
            raise ValueError(f"{prefix}{name} is no quantity")


def _plain(value: Any, name: str, depth: int = 0) -> None:
    """Refuse what no record holds: very deep nesting, endless numbers, very long texts."""
    if depth > DEEPEST:
        raise ValueError(f"{name} is nested too deeply")
    if isinstance(value, str):
        if len(value) > LONGEST:
            raise ValueError(f"{name} holds a text of {len(value)} characters")
    elif isinstance(value, int | float):
        if not abs(value) < LARGEST:
            raise ValueError(f"{name} holds a number that is no quantity")
    elif isinstance(value, dict):
        for inner in value.values():
            _plain(inner, name, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _plain(inner, name, depth + 1)


def _settings(config: Mapping[str, Any]) -> None:
    """Ask that settings are those RunConfig accepts, and of its types."""
    known = {key: value for key, value in config.items() if key in FIELDS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read = from_mapping(known, where="config").to_dict()
        except LabkitError as error:
            raise ValueError(str(error)) from None
    for key, value in known.items():
        if read[key] != value or isinstance(read[key], bool) != isinstance(value, bool):
            raise ValueError(f"config: {key} is not written as labkit writes it")


def _hardware(hardware: Mapping[str, Any]) -> None:
    _numbers(hardware, ("cores", "memory_bytes", "memory_limit_bytes"), "hardware.")
    flags, gpus = hardware.get("flags") or [], hardware.get("gpus") or []
    if not isinstance(flags, list) or not all(isinstance(flag, str) for flag in flags):
        raise ValueError("hardware.flags are not texts")
    if not isinstance(gpus, list):
        raise ValueError(f"hardware.gpus is a {type(gpus).__name__}")
    for card in gpus:
        if not isinstance(_mapping(card, "hardware.gpus").get("name"), str):
            raise ValueError("a GPU has no name")
        _numbers(card, ("memory_bytes",), "hardware.gpus.")
