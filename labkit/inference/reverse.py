"""Write instructions backwards: ask a model to which request a text would be the answer.

    text  ──▶  model  ──▶  instruction          {"messages": [instruction, text]}

The text is a person's and stays as it is; only the request is a model's. What a model writes is
kept if it can be a request to which the text answers: one line of 3 to 60 words that copies no
eight words in a row of the text, in the text's script. The rest is counted by reason.

Source: Köksal et al. 2023, "LongForm: Optimizing Instruction Tuning for Long Text Generation with
Corpus Extraction", arXiv:2304.08460.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from labkit.console import say
from labkit.datasets.base import Example
from labkit.datasets.corpus.language import CYRILLIC
from labkit.datasets.corpus.words import numbers
from labkit.errors import LabkitError, parse_json
from labkit.files import write_text
from labkit.models.load import fingerprint_with_base

Ask = Callable[[Sequence[Example]], Sequence[str]]
"""Returns what a model answers to the last turn of each conversation."""

PROMPTS = {
    "en": "Below is a text. Write the one request, in one sentence, to which this text would be "
    "the answer. Write the request alone.\n\n{}",
    "ru": "Ниже текст. Напиши одним предложением запрос, на который этот текст был бы ответом. "
    "Напиши только сам запрос.\n\n{}",
}
SHOWN_CHARACTERS = 2000
"""of a text, which say what it is about"""
NEW_TOKENS = 80
AT_ONCE = 16
FEWEST_WORDS, MOST_WORDS, COPIED = 3, 60, 8


@dataclass(frozen=True, kw_only=True)
class Reversed:
    """What came of it: rows that were written, and why others were not."""

    written: int
    refused: dict[str, int]


def reverse(
    source: Path,
    out: Path,
    ask: Ask,
    *,
    asked: Mapping[str, str] | None = None,
    most: int | None = None,
) -> Reversed:
    """Write OUT, JSON lines of messages, from the `text` of the rows of `source`.

    A call that was cut off goes on: what is done stays in OUT.part until OUT is whole. Its first
    line is `asked`, who is asked, as `identity` tells it; each other line has a hash of its text.
    Where no request can stand it becomes OUT.refused, and the next call asks anew.

    Raises:
        LabkitError: no such file, OUT is there, a row has no text, or OUT.part is of other texts or
            of another model.
    """
    if out.exists():
        raise LabkitError(f"{out} exists: name a new file")
    rows = _rows(source)[:most]
    if not rows:
        raise LabkitError(f"{source} has no rows to write instructions for")
    part = out.with_name(f"{out.name}.part")
    head = {"asked": dict(asked or {})}
    done = _done(part, head, rows)
    while len(done) < len(rows):
        batch = rows[len(done) : len(done) + AT_ONCE]
        answers = ask([_question(row, place) for place, row in enumerate(batch)])
        for row, answer in zip(batch, answers, strict=True):
            request = answer.strip().strip("\"'«»“”").strip()
            done.append({**_of(row), "request": request, "why": why_not(request, row)})
        kept = [json.dumps(each, ensure_ascii=False) + "\n" for each in (head, *done)]
        write_text(part, "".join(kept))
        say(f"{len(done)} of {len(rows)} texts")
    lines = [json.dumps(_row(row, each["request"]), ensure_ascii=False) + "\n"
             for row, each in zip(rows, done, strict=True) if not each["why"]]  # fmt: skip
    if not lines:
        refused = part.replace(out.with_name(f"{out.name}.refused"))
        raise LabkitError("no text was given a request that can stand: try another model, or "
                          f"look at what this one wrote, in {refused}")  # fmt: skip
    write_text(out, "".join(lines))
    part.unlink()
    return Reversed(written=len(lines), refused=dict(Counter(e["why"] for e in done if e["why"])))


def why_not(request: str, row: dict[str, Any]) -> str:
    """Return why a request can't stand before a row's text, or "" when it can."""
    found = numbers(request)
    if "\n" in request:
        return "more than a line"
    if not FEWEST_WORDS <= found.count <= MOST_WORDS:
        return f"not {FEWEST_WORDS} to {MOST_WORDS} words"
    if set(found.ngrams(COPIED).tolist()) & set(numbers(row["text"]).ngrams(COPIED).tolist()):
        return "copied from the text"
    letters = [letter for letter in request.lower() if letter.isalpha()]
    cyrillic = sum("а" <= letter <= "ё" for letter in letters) > len(letters) / 2
    if cyrillic != (row.get("language") in CYRILLIC):
        return "in another script"
    return ""


def _rows(source: Path) -> list[dict[str, Any]]:
    if not source.is_file():
        raise LabkitError(f"there is no file {source}: give a build's train.jsonl, made with "
                          "--form text")  # fmt: skip
    rows = []
    for number, line in enumerate(source.read_bytes().splitlines(), 1):
        row = parse_json(line, f"{source}:{number}")
        if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not row["text"]:
            raise LabkitError(f"{source}:{number} has no text: build with --form text")
        rows.append({"id": str(number), **row})
    return rows


def _question(row: dict[str, Any], place: int) -> Example:
    wording = PROMPTS["ru" if row.get("language") in CYRILLIC else "en"]
    asked = wording.format(row["text"][:SHOWN_CHARACTERS])
    # The last turn is where a model begins to write.
    messages = ({"role": "user", "content": asked}, {"role": "assistant", "content": ""})
    return Example(uid=f"{place}", messages=messages)


def _row(row: dict[str, Any], request: str) -> dict[str, Any]:
    rest = {key: value for key, value in row.items() if key not in ("text", "title", "form")}
    messages = [{"role": "user", "content": request}, {"role": "assistant", "content": row["text"]}]
    return {**rest, "form": "reversed", "messages": messages}


def _of(row: dict[str, Any]) -> dict[str, str]:
    """Return what tells a row's text from all others; its id may be no more than its line."""
    text = json.dumps([row.get("language"), row["text"]])
    return {"of": row["id"], "sha256": hashlib.sha256(text.encode()).hexdigest()[:16]}


def _done(part: Path, head: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what an earlier call wrote about the same texts in the same order."""
    if not part.is_file():
        return []
    lines = part.read_bytes().splitlines() or [b"null"]
    first, *done = [parse_json(line, str(part)) for line in lines]
    advice = "remove it, or name another file to write"
    if first != head:
        raise LabkitError(f"{part} is of another model or server: {advice}")
    for each, row in zip_longest(done, rows[: len(done)]):
        if not (isinstance(each, dict) and row and each.items() >= _of(row).items()):
            raise LabkitError(f"{part} is of other texts: {advice}")
    say(f"going on: {len(done)} of {len(rows)} texts are done")
    return done


def identity(model: str, server: str = "") -> dict[str, str]:
    """Return what tells who is asked: a server's address, or the weights of a model of ours."""
    if server:
        return {"model": model, "server": server.rstrip("/")}
    from labkit.inference.generate import model_path

    return {"model": model, "sha256": fingerprint_with_base(model_path(model))}


def asking(model: str, server: str = "") -> Ask:
    """Return what asks a model: one of a server's, at its address up to /v1, or one of our own."""
    if server:
        from labkit.inference.served import Served

        served = Served(url=server.rstrip("/"), model=model)
        return lambda examples: [
            served.chat(example.messages[:-1], max_new_tokens=NEW_TOKENS).text
            for example in examples
        ]
    from labkit.inference.generate import load_generator

    generator = load_generator(model)
    return lambda examples: generator.write(examples, max_new_tokens=NEW_TOKENS)
