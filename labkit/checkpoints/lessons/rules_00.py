"""Rules of lesson 00: sizes of weights, the speed of an answer, a share of right ones."""

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from labkit.checkpoints.rules import (
    Evidence,
    Finding,
    Values,
    closest,
    compare,
    number,
    positive,
    quotient,
    reasoned,
)
from labkit.errors import LabkitError

MEASURED = "what was measured and kept"
SHORT = 0.005
"""seconds that a short time may be rounded by"""
ALIKE = 1.25
"""times that differ by less may be called the same"""


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
    """Check 00.2: times and tokens are those kept, the rate is tokens over the writing time."""
    yield from positive(values, "predicted_seconds", "seconds", "reading_seconds")
    kept = [each["values"] for each in evidence.measured("answer_speed")]
    yield from closest([list(_speed(values, speed)) for speed in kept], "the speed of an answer")
    tokens, writing = values["tokens"], values["writing_seconds"]
    if tokens and writing:
        yield from positive(values, "tokens_per_second")
        yield from quotient(values, "tokens_per_second", "tokens", "writing_seconds")
    elif None not in (tokens, writing) and values["tokens_per_second"]:
        yield Finding("contradicts", "tokens_per_second: nothing was written, or in no time")
    yield from _longer(values)
    yield from reasoned(values)


def _speed(values: Values, speed: Mapping[str, Any]) -> Iterator[Finding]:
    for name in ("seconds", "reading_seconds", "writing_seconds"):
        claimed, measured = values[name], number(speed, name)
        # A time near nothing is shown, and copied, with few digits.
        if None not in (claimed, measured) and abs(claimed - measured) <= SHORT:
            yield Finding("consistent", f"{name} is {MEASURED}")
        else:
            yield from compare(name, claimed, measured, MEASURED)
    if values["tokens"] is not None:
        same = values["tokens"] == number(speed, "tokens")
        said = f"is {MEASURED}" if same else "are not those of the answer that was measured"
        yield Finding("consistent" if same else "contradicts", f"tokens {said}")


def _longer(values: Values) -> Iterator[Finding]:
    reading, writing = values["reading_seconds"], values["writing_seconds"]
    if None in (reading, writing, values["longer"]):
        return
    fits = {"reading" if reading >= writing else "writing"}
    if max(reading, writing) <= ALIKE * min(reading, writing):
        fits.add("about the same")
    if values["longer"] in fits:
        yield Finding("consistent", "longer is what the two times say")
    else:
        yield Finding("contradicts", "longer is not what reading_seconds and writing_seconds say")


def untouched_score(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 00.3: the counts are those of the answers kept, the share is their quotient."""
    yield from positive(values, "questions")
    asked, correct = values["questions"], values["correct"]
    if None not in (asked, correct) and not 0 <= correct <= asked:
        yield Finding("contradicts", "correct is not between none and all of the questions")
    kept = [scored(each["values"]) for each in evidence.measured("answers")]
    counted = [list(_counts(values, counts)) for counts in kept if counts]
    yield from closest(counted, "the model's answers")
    if correct == 0 and values["share_percent"] == 0:
        yield Finding("consistent", "share_percent is what correct and questions give")
    elif values["share_percent"] is not None and 0 < values["share_percent"] <= 1 < (correct or 0):
        yield Finding("contradicts", "share_percent looks like a fraction: give percent")
    else:
        yield from quotient(values, "share_percent", "correct", "questions", times=100.0)
    yield from reasoned(values)


def _counts(values: Values, counts: Mapping[str, int]) -> Iterator[Finding]:
    for name, counted in counts.items():
        claimed = values[name]
        if claimed == counted:
            yield Finding("consistent", f"{name} is what the answers that were kept give")
        elif claimed is not None:
            side = "above" if claimed > counted else "below"
            yield Finding("contradicts", f"{name} is {side} what the answers that were kept give")


def scored(kept: Mapping[str, Any]) -> dict[str, int] | None:
    """Return the counts of kept answers, each scored anew; None where nothing can be scored.

    `kept["texts"]` has the text of each answer by the uid of its question in the embedded test
    split. Answers to questions of other data are no evidence.
    """
    from labkit.datasets import tatqa
    from labkit.inference.replies import read_reply

    texts = kept.get("texts")
    if not isinstance(texts, dict):
        return None
    known = {s.question.uid: s for s in tatqa.samples(tatqa.load("tables", "test"))}
    replies = [read_reply(known[uid], str(text)) for uid, text in texts.items() if uid in known]
    if not replies:
        return None
    correct = sum(reply.em == 1 for reply in replies)
    held = sum(reply.holds_value and reply.em != 1 for reply in replies)
    return {"questions": len(replies), "correct": correct, "wrong_form": held}


RULES = {"00.1": weights, "00.2": first_answer, "00.3": untouched_score}
