"""Find test items in training text by their 13-grams.

As Brown et al. (2020, appendix C, GPT-3) do it: words in small letters without punctuation, and a
text that shares 13 in a row with an item of a test is contaminated. An item's part of eight to
twelve words is looked for whole, as there; one shorter could be anybody's sentence, and is counted
as not checkable.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from labkit.datasets import tatqa
from labkit.datasets.corpus.normalise import normalise
from labkit.datasets.corpus.words import Hashes, Numbers, numbers
from labkit.errors import LabkitError, brief, parse_json

N = 13
LEAST_WORDS = 8
SPARE_BITS = 4

Array = np.ndarray[Any, Any]

Item = tuple[str, list[str]]
"""A test item: its name, and its texts."""


class Guard:
    """The n-grams of all test items, by length.

    `names` are the items, in order; `unchecked` counts those of which no part has eight words.
    """

    def __init__(
        self, names: list[str], grams: dict[int, tuple[Hashes, Array]], eights: Hashes,
        unchecked: int,
    ) -> None:  # fmt: skip
        self.names, self.grams, self.unchecked = names, grams, unchecked
        # A text with an n-gram of an item has each eight words of it too, and nearly every text is
        # done after one look at flags for the first bits of those.
        self._eights = np.unique(eights)
        bits = len(self._eights).bit_length() + SPARE_BITS
        self._shift = np.uint64(64 - bits)
        self._maybe = np.zeros(1 << bits, bool)
        self._maybe[self._eights >> self._shift] = True

    def find(self, text: Numbers) -> set[int]:
        """Return the places of the items that share an n-gram with a text."""
        found: set[int] = set()
        eights = text.ngrams(LEAST_WORDS)
        eights = eights[self._maybe[eights >> self._shift]]
        if not len(eights):
            return found
        place = np.searchsorted(self._eights, eights)
        if not np.count_nonzero(self._eights.take(place, mode="clip") == eights):
            return found
        for n, (every, owners) in self.grams.items():
            grams = text.ngrams(n)
            first = np.searchsorted(every, grams, "left")
            last = np.searchsorted(every, grams, "right")
            for place in np.flatnonzero(last > first):
                found.update(owners[first[place] : last[place]].tolist())
        return found


def guard(items: Iterable[Item]) -> Guard:
    """Return the guard against these items."""
    names: list[str] = []
    grams: dict[int, list[tuple[Hashes, int]]] = {}
    eights = [np.empty(0, np.uint64)]
    unchecked = 0
    for name, texts in items:
        checked = False
        for text in texts:
            found = numbers(normalise(text)[0])
            n = min(N, found.count)
            if n >= LEAST_WORDS:
                grams.setdefault(n, []).append((found.shingles(n), len(names)))
                eights.append(found.ngrams(LEAST_WORDS))
                checked = True
        unchecked += not checked
        names.append(name)
    merged = {}
    for n, parts in sorted(grams.items()):
        every = np.concatenate([part for part, _ in parts])
        owners = np.concatenate([np.full(len(part), owner) for part, owner in parts])
        order = np.argsort(every, kind="stable")
        merged[n] = every[order], owners[order]
    return Guard(names, merged, np.concatenate(eights), unchecked)


def items_of(name: str) -> list[Item]:
    """Return the items of a test: `tables`, `tatqa`, or a file of the user's.

    A file is JSON in TAT-QA's form, JSON lines (all texts of a line are one item's) or text (a line
    is an item).

    Raises:
        LabkitError: there is no such file, or it has no items.
    """
    if name in ("tables", "tatqa"):
        return list(_of_reports(tatqa.load(name, "test"), name))
    file = Path(name)
    if not file.is_file():
        raise LabkitError(f"there is no test {name} to keep out: give 'tables', 'tatqa' or a file")
    if file.suffix == ".json":
        items = list(_of_reports(tatqa.read_reports(file), file.name))
    else:
        lines = [line for line in file.read_bytes().splitlines() if line.strip()]
        items = [
            (f"{file.name}:{number}", _texts(line, f"{file}:{number}", file.suffix))
            for number, line in enumerate(lines, 1)
        ]
    if not items:
        raise LabkitError(f"{name} has no test items to keep out")
    return items


def _of_reports(reports: Iterable[tatqa.Report], name: str) -> Iterator[Item]:
    for report in reports:
        rows = [" ".join(row) for row in report.table]
        shared = [*report.paragraphs, " ".join(rows)]
        for question in report.questions:
            yield f"{name}:{question.uid}", [question.text, *shared]


def _texts(line: bytes, where: str, suffix: str) -> list[str]:
    if suffix != ".jsonl":
        return [line.decode("utf-8", "replace")]
    found = list(_strings(parse_json(line, where)))
    if not found:
        raise LabkitError(f"{where} holds no text: {brief(json.loads(line))}")
    return found


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each)
    elif isinstance(value, dict) and "system" not in (value.get("role"), value.get("from")):
        for key, each in value.items():
            if key != "system":  # what all items begin with is no item's
                yield from _strings(each)
