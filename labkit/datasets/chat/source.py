"""A data set made of a format: where its rows are, which are good, and which split they are in.

    files.read → Row ─ form → Draft ─ turns.checked → Example      good, or
                         └──────────────┴── a sentence that names file, line and fault

A damaged row is never passed over in silence: `Reading.damaged` has a sentence for each, and who
asks for the examples says what is to become of it (`registry.examples`).
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from labkit.console import say
from labkit.datasets import reasoning, splits
from labkit.datasets.base import DataSet, Example, Reading
from labkit.datasets.chat import files, turns
from labkit.datasets.chat.files import Row
from labkit.datasets.chat.turns import Draft
from labkit.errors import LabkitError
from labkit.files import expanded

Form = Callable[[Any], Draft]
READING = 2
"""Of how rows are read; it is in the checksum of data of which that changed a row."""


def data_set(
    name: str,
    *,
    source: str,
    licence: str,
    form: Form,
    hub: str = "",
    home: Callable[[], Path] | None = None,
    patterns: tuple[str, ...] = ("*",),
    gather: Callable[[Iterable[Row]], Iterator[Row]] | None = None,
    also: tuple[str, ...] = (),
) -> DataSet:
    """Make a data set of `form`, a function from a row to a draft.

    Without a path it is read from `home`, or from the data set `hub` of the Hugging Face Hub.
    `patterns` choose among the files of a folder, the first that any file fits. `gather` makes rows
    of several rows before they are looked at.
    """

    def place(path: str) -> Path:
        if not path and home is not None:
            return home()
        if not path and not hub:
            raise LabkitError(f"{name} has no place of its own: say {name}:PATH with a file or "
                              "folder")  # fmt: skip
        local = expanded(path)
        if path and local.exists():
            return local
        if path and not _looks_like_hub_id(path):
            raise LabkitError(f"there is no file or folder {path!r} for {name}: name one, or the "
                              "owner/name of a data set of the Hugging Face Hub")  # fmt: skip
        return files.snapshot(path or hub, patterns)

    anew: dict[str, bool] = {}

    def rows_of(found: list[Path]) -> Iterable[Row]:
        rows = (row for file in found for row in files.read(file))
        return gather(rows) if gather else rows

    def sha256(path: str, split: str) -> str:
        found, _ = files.of_split(place(path), split, patterns)
        number = files.sha256(found)
        if number not in anew:
            anew[number] = any(_is_read_anew(row, form) for row in rows_of(found))
        if anew[number]:
            number = hashlib.sha256(f"{number} {READING}".encode()).hexdigest()
        return number

    def reading(path: str, split: str) -> Reading:
        where = place(path)
        found, to_cut = files.of_split(where, split, patterns)
        examples, damaged = _sorted_out(rows_of(found), form)
        if not examples:
            raise LabkitError(f"{where} has no row that can be read as {name}"
                              + (f": {damaged[0]}" if damaged else ": it is empty"))  # fmt: skip
        if to_cut and split != "all":
            examples = splits.cut(examples, lambda example: example.group)[split]
        if not examples:
            raise LabkitError(f"{where} has too few rows to cut a {split} split from: give a "
                              "folder with a file for each split")  # fmt: skip
        return Reading(examples=examples, damaged=damaged)

    def load(path: str, split: str) -> list[Example]:
        found = reading(path, split)
        if found.damaged:
            say(f"{name}: left out {found.what_is_damaged()}")
        if count := sum(each.reasoned for each in found.examples):
            say(f"{name}: left out the reasoning before answers of {count} "
                f"row{'s' * (count != 1)}")  # fmt: skip
        return found.examples

    return DataSet(
        name=name,
        source=source,
        licence=licence,
        load=load,
        reading=reading,
        sha256=sha256,
        fetch=(lambda: files.snapshot(hub, patterns)) if hub else None,
        also=also,
    )


def _sorted_out(rows: Iterable[Row], form: Form) -> tuple[list[Example], list[str]]:
    """Return the good rows as examples, and a sentence for each of the others."""
    examples, damaged = [], []
    for row in rows:
        if row.problem:
            damaged.append(row.problem)
            continue
        try:
            examples.append(_example(_whole(form(row.value), row), row.where))
        except LabkitError as error:
            damaged.append(f"{row.where}: {error}")
    return examples, damaged


def _whole(draft: Draft, row: Row) -> Draft:
    """Return a draft with what stands beside its turns."""
    if not isinstance(row.value, dict) or draft.text is not None:
        return draft
    return replace(draft, turns=turns.with_what_is_beside(row.value, draft.turns))


def _is_read_anew(row: Row, form: Form) -> bool:
    """Return whether a row may give another example than before `READING` counted up."""
    try:
        draft = form(row.value)
        whole = _whole(draft, row)
        messages = turns.checked(whole.turns) if whole.turns else ()
    except LabkitError:
        return False
    answers = [turn["content"] for turn in messages if turn["role"] == "assistant"]
    return [*whole.turns] != [*draft.turns] or any(
        reasoning.without(each) != each for each in (*answers, draft.rejected or "")
    )


def _example(draft: Draft, where: str) -> Example:
    strata = {"type": draft.kind} if isinstance(draft.kind, str) and draft.kind else {}
    if draft.text is not None:
        return Example(uid=where, group=splits.text_key(draft.text), text=draft.text, strata=strata,
                       called="row")  # fmt: skip
    whole = turns.checked(draft.turns)
    messages = turns.without_reasoning(whole)
    first = next(turn["content"] for turn in messages if turn["role"] == "user")
    answer = messages[-1]["content"]
    rejected = turns.answer_alone(draft.rejected, "rejected") if draft.rejected else ""
    if rejected == answer:
        raise LabkitError("chosen and rejected are the same")
    return Example(uid=where, group=splits.text_key(first), messages=messages, every_answer=True,
                   chosen=answer if rejected else "", rejected=rejected, strata=strata,
                   called="row",
                   reasoned=(messages, rejected) != (whole, draft.rejected or ""))  # fmt: skip


def _looks_like_hub_id(path: str) -> bool:
    parts = path.split("/")
    return len(parts) == 2 and all(
        part and part[0].isalnum() and all(c.isalnum() or c in "-_." for c in part)
        for part in parts
    ) and not path.lower().endswith(files.ENDINGS) and not Path(parts[0]).exists()  # fmt: skip
