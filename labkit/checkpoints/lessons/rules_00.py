"""Rules of lesson 00: sizes of weights, a rate, a share."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from labkit.checkpoints.rules import (
    Evidence,
    Finding,
    Values,
    compare,
    positive,
    quotient,
    reasoned,
)
from labkit.errors import LabkitError


def weights(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 00.1: the stored size is that of the files; 32-bit needs four bytes a parameter."""
    yield from positive(values, "weights_bytes", "float32_bytes")
    if values["model"] is not None:
        stored, parameters = stored_weights(values["model"], here=evidence.here)
        source = "the size of the weights in the model's folder"
        claimed = values["weights_bytes"]
        if claimed and stored and claimed < stored / 1000:
            yield Finding("contradicts", "weights_bytes is far too small: is it in bytes?")
        else:
            yield from compare("weights_bytes", claimed, stored, source)
        source = "four bytes for each of the model's parameters"
        wide = 4 * parameters if parameters else None
        yield from compare("float32_bytes", values["float32_bytes"], wide, source)
    yield from reasoned(values)


def stored_weights(model: str, *, here: bool) -> tuple[int | None, int | None]:
    """Return (bytes, parameters) of a model's weights, read from the headers of its files.

    Elsewhere than on the student's own machine the name opens no file: the registry's numbers of
    a model it knows, two bytes a parameter, and None for others.

    Raises LabkitError when the model is not on this machine or not stored as safetensors.
    Source: safetensors' format, an 8-byte little-endian length and a JSON header.
    """
    from labkit.memory.calculator import parameters_of
    from labkit.models.registry import known_names, resolve

    if not here:
        if model not in known_names():
            return None, None
        parameters = parameters_of(model)
        return 2 * parameters, parameters
    size = parameters = 0
    folder = Path(resolve(model, fetch=False))
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for tensor in header.values():
            begin, end = tensor["data_offsets"]
            size += end - begin
            count = 1
            for dimension in tensor["shape"]:
                count *= dimension
            parameters += count
    if not parameters:
        raise LabkitError(f"the model {model} has no safetensors files in {folder}")
    return size, parameters


def first_answer(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 00.2: the rate is tokens over seconds."""
    yield from positive(values, "predicted_seconds", "seconds", "tokens", "tokens_per_second")
    yield from quotient(values, "tokens_per_second", "tokens", "seconds")
    yield from reasoned(values)


def untouched_score(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 00.3: the share is correct answers over questions."""
    yield from positive(values, "questions")
    asked, correct = values["questions"], values["correct"]
    if None not in (asked, correct) and not 0 <= correct <= asked:
        yield Finding("contradicts", "correct is not between none and all of the questions")
    if correct == 0 and values["share_percent"] == 0:
        yield Finding("consistent", "share_percent is what correct and questions give")
    elif values["share_percent"] is not None and 0 < values["share_percent"] <= 1 < (correct or 0):
        yield Finding("contradicts", "share_percent looks like a fraction: give percent")
    else:
        yield from quotient(values, "share_percent", "correct", "questions", times=100.0)
    yield from reasoned(values)


RULES = {"00.1": weights, "00.2": first_answer, "00.3": untouched_score}
