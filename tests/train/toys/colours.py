"""A toy data set: which colour a thing has, one JSON object a line with its split."""

import hashlib
import json
from pathlib import Path

from labkit.datasets.base import DataSet, Example


def load(path: str, split: str) -> list[Example]:
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return [
        Example(
            uid=row["thing"],
            messages=(
                {"role": "user", "content": f"Colour of {row['thing']}?"},
                {"role": "assistant", "content": row["colour"]},
            ),
            strata={"type": row["kind"]},
        )
        for row in rows
        if split in ("all", row["split"])
    ]


def sha256(path: str, split: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


COLOURS = DataSet(name="colours", source="made up", licence="CC0-1.0", load=load, sha256=sha256)
