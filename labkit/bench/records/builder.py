"""Make `builder.json`: what a build finds of the faults that were planted in a corpus.

    python -m labkit.bench.records.builder --output data/results/builder.json

The synthetic corpus says of every text what is wrong with it. Here it is built into a data set of
running text and what stayed is held against that: of each kind how many texts were planted and how
many stayed, how many pairs of near-duplicates lost one of the two, by how alike they are, and how
many of the planted test items were found. The counts are the same on every machine.
"""

import argparse
import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labkit.bench import paired
from labkit.console import run_tool
from labkit.datasets.corpus.build import build
from labkit.datasets.corpus.synthetic import PERIOD, generate
from labkit.datasets.corpus.unit import Settings
from labkit.files import write_json

NEAR = 0.8
"""Jaccard index from which two texts are to be found alike."""
GOOD = ("clean", "mojibake", "lookalikes", "pii", "questions")
"""Kinds of texts that should stay, as they are or repaired."""


def measure(
    folder: Path, megabytes: float, *, seed: int = 0, every: int = PERIOD
) -> dict[str, Any]:
    """Write a corpus, build it, and return what was planted and what stayed.

    settings, facts, counts (read, removed by filter, exact, near, kept), kinds {kind: [planted,
    stayed]}, pairs [[likeness, both stayed]], items [planted, found], lost.
    """
    corpus = folder / "corpus"
    generate(corpus, megabytes, seed, every)
    settings = Settings(form="text", languages=("ru", "en"), against=("tables",), near=NEAR,
                        fractions=(1.0, 0.0, 0.0))  # fmt: skip
    report = build([corpus / "raw"], folder / "out", settings, workers=1)
    kept = _rows(folder / "out" / "train.jsonl")
    truth = _rows(corpus / "truth.jsonl")
    return {
        "schema": 1, "facts": paired.facts(),
        "settings": {"megabytes": megabytes, "seed": seed, "every": every, "near": NEAR},
        "counts": {
            "read": report["read"], "removed": report["removed"],
            "exact": report["exact_duplicates"], "near": report["near_duplicates"],
            "kept": sum(report["records"].values()), "refused": report["refused"],
        },
        **held_against(truth, {row["source"] for row in kept}, report["tests"]["found"]),
    }  # fmt: skip


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_bytes().splitlines()]


def held_against(
    truth: Sequence[Mapping[str, Any]], stayed: set[str], found: Sequence[str]
) -> dict[str, Any]:
    """Return kinds, pairs, items and lost of what is known of every text and what stayed of them.

    `lost` counts the good texts that are gone, and of which no copy stayed.
    """
    place = {each["id"]: each["source"] for each in truth}
    planted = Counter(each["kind"] for each in truth)
    still = Counter(each["kind"] for each in truth if each["source"] in stayed)
    pairs = [
        [each["jaccard"], {each["source"], place[each["of"]]} <= stayed]
        for each in truth if each["kind"] == "near"
    ]  # fmt: skip
    copies = defaultdict(set)
    for each in truth:
        if each["kind"] in ("near", "exact"):
            copies[each["of"]].add(each["source"])
    lost = [each["id"] for each in truth if each["kind"] in GOOD
            and not ({each["source"]} | copies[each["id"]]) & stayed]  # fmt: skip
    items = {each["of"] for each in truth if each["kind"] == "contaminated"}
    return {
        "kinds": {kind: [planted[kind], still[kind]] for kind in sorted(planted)},
        "pairs": pairs, "items": [len(items), len(items & set(found))], "lost": len(lost),
    }  # fmt: skip


def conclude(found: Mapping[str, Any]) -> dict[str, float]:
    """Return recall and precision of near-duplicates, and shares of items found and good kept."""
    alike = [both for likeness, both in found["pairs"] if likeness >= NEAR]
    apart = [likeness for likeness, both in found["pairs"] if not both]
    planted, items = found["items"]
    good = sum(found["kinds"][kind][0] for kind in GOOD if kind in found["kinds"])
    return {
        "near_recall": 1 - sum(alike) / max(1, len(alike)),
        "near_precision": sum(likeness >= NEAR for likeness in apart) / max(1, len(apart)),
        "items_found": items / max(1, planted),
        "good_kept": 1 - found["lost"] / max(1, good),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(prog="python -m labkit.bench.records.builder")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--megabytes", type=float, default=6.0)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), given.megabytes)
    write_json(given.output, found)
    for name, value in conclude(found).items():
        print(f"{name:<16}{value:8.2%}")


if __name__ == "__main__":
    run_tool(main)
