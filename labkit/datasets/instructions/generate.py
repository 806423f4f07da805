"""Write the embedded instruction set: train, dev and test as JSON lines, the same everywhere.

`python -m labkit.datasets.instructions.generate OUT_DIR` writes the three files. Each row has the
turns before the answer under `prompt`, a right answer under `chosen`, and one with the named `flaw`
under `rejected`: preference pairs, whose chosen answers are a set for fine-tuning.

What keeps the files the same: one `random.Random` per row, seeded with text, and no order taken
from a set.
"""

import json
import random
from pathlib import Path
from typing import Any

from labkit.console import run_tool
from labkit.datasets.instructions.kinds import KINDS, Draw, Item
from labkit.errors import LabkitError
from labkit.files import write_text

SEED = "labkit instructions 1"
SIZES = {"train": 420, "dev": 60, "test": 120}
MOST_TRIES = 200


def draw_item(split: str, index: int, seen: set[str]) -> Item:
    """Draw the item at a place in a split; the kinds take turns and no question comes twice."""
    kind = KINDS[index % len(KINDS)]
    for attempt in range(MOST_TRIES):
        item = kind(Draw(random.Random(f"{SEED} {split} {index} {attempt}"), split))
        asked = "\n".join(text for _, text in item.turns)
        if asked not in seen:
            seen.add(asked)
            return item
    raise LabkitError(f"{kind.__name__} has too few different questions for {split}: add words")


def generate() -> dict[str, list[dict[str, Any]]]:
    """Return the rows of every split."""
    seen: set[str] = set()
    return {
        split: [_row(draw_item(split, index, seen)) for index in range(size)]
        for split, size in SIZES.items()
    }


def _row(item: Item) -> dict[str, Any]:
    return {
        "kind": item.kind,
        "prompt": [{"role": role, "content": text} for role, text in item.turns],
        "chosen": item.chosen,
        "rejected": item.rejected,
        "flaw": item.flaw,
    }


def dump(rows: list[dict[str, Any]]) -> str:
    """Return rows as JSON lines."""
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def write(directory: Path) -> None:
    """Write train.jsonl, dev.jsonl and test.jsonl into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    for split, rows in generate().items():
        write_text(directory / f"{split}.jsonl", dump(rows))


def main() -> None:
    """Write the files into the folder that the command line names."""
    import sys

    if len(sys.argv) != 2:
        raise LabkitError("usage: python -m labkit.datasets.instructions.generate OUT_DIR")
    write(Path(sys.argv[1]))


if __name__ == "__main__":
    run_tool(main)
