"""Write the splits: by source, in a seeded order, as JSON lines or Parquet."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labkit.datasets.corpus.merge import Pieces
from labkit.datasets.corpus.unit import Settings
from labkit.datasets.corpus.words import number_of
from labkit.files import appearing, sha256_file

SPLITS = ("train", "dev", "test")

Array = np.ndarray[Any, Any]


def split_of(groups: Array, fractions: Sequence[float]) -> Array:
    """Return 0, 1 or 2 for each row's group: train, dev, test; each gets one of three or more."""
    unique = np.unique(groups)  # numbers by hash: their order is a seeded shuffle
    least = min(1, len(unique) // 3)
    dev, test = (max(least if f else 0, round(f * len(unique))) for f in fractions[1:])
    place = np.searchsorted(unique, groups)
    return np.where(place < test, 2, np.where(place < test + dev, 1, 0))


def shuffled(numbers: Array, seed: int) -> Array:
    """Return the places of the numbers in an order that depends on them and the seed alone."""
    mixed = (numbers ^ np.uint64(number_of(str(seed)))) * np.uint64(0xBF58476D1CE4E5B9)
    return np.lexsort((numbers, mixed ^ (mixed >> np.uint64(29))))


def write(pieces: Pieces, rows: Array, out: Path, settings: Settings) -> dict[str, Any]:
    """Write the splits and return their counts, languages, lengths and checksums."""
    rows = rows[shuffled(rows["words"], settings.seed)]
    splits = split_of(rows["group"], settings.fractions)
    records, sha256 = {}, {}
    for number, split in enumerate(SPLITS):
        part = rows[splits == number]
        records[split] = len(part)
        if not len(part):
            continue
        lines = (pieces.line(row) for row in part)
        file = out / f"{split}.{'parquet' if settings.parquet else 'jsonl'}"
        with appearing(file) as partial:
            _write_parquet(partial, lines) if settings.parquet else _write_lines(partial, lines)
        sha256[file.name] = sha256_file(file)
    languages, counts = np.unique(rows["language"], return_counts=True)
    edges, heights = np.unique(np.log2(np.maximum(rows["length"], 1)).astype(int),
                               return_counts=True)  # fmt: skip
    return {
        "records": records, "sha256": sha256,
        "languages": {code.decode(): int(n) for code, n in zip(languages, counts, strict=True)},
        "lengths": {str(2 ** int(e)): int(n) for e, n in zip(edges, heights, strict=True)},
        "characters": int(rows["length"].sum()),
    }  # fmt: skip


def _write_lines(file: Path, lines: Iterator[bytes]) -> None:
    with open(file, "wb") as out:
        out.writelines(lines)


def _write_parquet(file: Path, lines: Iterator[bytes]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    named = ("id", "form", "title", "text", "language", "licence", "source")
    schema = pa.schema([("messages", pa.list_(turn)), *((name, pa.string()) for name in named)])
    with pq.ParquetWriter(file, schema) as writer:
        rows: list[dict[str, Any]] = []
        for line in lines:
            rows.append(json.loads(line))
            if len(rows) == 1000:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows.clear()
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema))
