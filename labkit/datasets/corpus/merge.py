"""Bring the pieces together: one row for each record, without exact and near-duplicates.

A row holds everything about a record but its text and its MinHash bands, which stay on disk: 51
bytes. Texts are read again only to count what two candidates share.
"""

import json
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from labkit.console import say
from labkit.datasets.corpus import duplicates
from labkit.datasets.corpus.unit import EXCERPT, INDEX, compared

Array = np.ndarray[Any, Any]

_FIELDS = tuple(name for name in INDEX.names or () if name != "bands")
ROW = np.dtype([("unit", "u4"), ("row", "u4"), *((name, INDEX[name]) for name in _FIELDS)])
MOST_OPEN = 64


class Pieces:
    """The files of all pieces: their rows, one band of all, and a record's line."""

    def __init__(self, units: list[Path]) -> None:
        self._units = units
        self._open: dict[int, int] = {}

    def __enter__(self) -> "Pieces":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self._close()

    def _close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def _index(self, number: int) -> Array:
        index: Array = np.load(self._units[number].with_suffix(".npy"), mmap_mode="r")
        return index

    def rows(self) -> Array:
        """Return the rows of all records, piece by piece."""
        parts = [np.empty(0, ROW)]
        for number in range(len(self._units)):
            index = self._index(number)
            part = np.empty(len(index), ROW)
            part["unit"], part["row"] = number, np.arange(len(index))
            for name in _FIELDS:
                part[name] = index[name]
            parts.append(part)
        return np.concatenate(parts)

    def bands(self, rows: Array) -> Iterator[Array]:
        """Yield for each band the numbers of these rows."""
        for band in range(duplicates.BANDS):
            values = np.empty(len(rows), np.uint64)
            for number in range(len(self._units)):
                here = np.flatnonzero(rows["unit"] == number)
                values[here] = self._index(number)["bands"][:, band][rows["row"][here]]
            yield values

    def line(self, row: Any) -> bytes:
        """Return the line of a record, as it will be written."""
        number = int(row["unit"])
        if number not in self._open:
            if len(self._open) >= MOST_OPEN:
                self._close()
            self._open[number] = os.open(self._units[number].with_suffix(".jsonl"), os.O_RDONLY)
        return os.pread(self._open[number], int(row["size"]), int(row["offset"]))

    def text(self, row: Any) -> str:
        """Return the text by which a record is compared."""
        fields = json.loads(self.line(row))
        if "messages" not in fields:
            return compared(fields["form"], (("", fields["text"]),))
        turns = tuple((turn["role"], turn["content"]) for turn in fields["messages"])
        return compared(fields["form"], turns)


def deduplicated(pieces: Pieces, near: float) -> tuple[Array, dict[str, Any]]:
    """Return the rows that stay, and what was found of duplicates.

    Texts of the same words are exact duplicates; near ones have a Jaccard index of at least `near`.
    """
    rows = pieces.rows()
    every = len(rows)
    rows = rows[duplicates.order(rows["length"], rows["words"], rows["place"])]
    rows = rows[duplicates.first_of_each(rows["words"])]
    exact = every - len(rows)
    pairs = duplicates.candidates(pieces.bands(rows))
    say(f"{every:,} records, {exact:,} exact duplicates, {len(pairs):,} pairs to compare")
    read = lru_cache(256)(lambda place: pieces.text(rows[place]))
    found = [(int(a), int(b)) for a, b in pairs]
    alike = {pair: likeness for pair, likeness
             in zip(found, duplicates.likeness(found, read), strict=True)
             if likeness >= near}  # fmt: skip
    gone = duplicates.removed(alike)
    kept = np.ones(len(rows), bool)
    kept[list(gone)] = False
    shown = sorted((int(rows["words"][b]), b, a) for b, a in gone.items())[:3]
    examples = [
        {"likeness": round(alike[a, b], 3), "kept": read(a)[:EXCERPT], "removed": read(b)[:EXCERPT]}
        for _, b, a in shown
    ]
    return rows[kept], {"exact_duplicates": exact, "near_duplicates": len(gone),
                        "compared_pairs": len(pairs), "near_examples": examples}  # fmt: skip
