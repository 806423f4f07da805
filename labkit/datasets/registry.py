"""Data sets by name; a new one is a line here."""

import re

from labkit.datasets import tatqa
from labkit.datasets.base import DataSet, Example
from labkit.datasets.chat import files
from labkit.datasets.chat.alpaca import ALPACA
from labkit.datasets.chat.dolly import DOLLY
from labkit.datasets.chat.finetome import FINETOME
from labkit.datasets.chat.firefly import FIREFLY
from labkit.datasets.chat.instructions import INSTRUCTIONS
from labkit.datasets.chat.jsonl import JSONL
from labkit.datasets.chat.lima import LIMA
from labkit.datasets.chat.longform import LONGFORM
from labkit.datasets.chat.oasst1 import OASST1
from labkit.datasets.chat.self_instruct import SELF_INSTRUCT
from labkit.datasets.report_questions import TABLES, TATQA
from labkit.datasets.sentiment import IMDB, REVIEWS, SST2
from labkit.datasets.tatqa import Report
from labkit.errors import LabkitError
from labkit.files import expanded

DATASETS: dict[str, DataSet] = {
    dataset.name: dataset
    for dataset in (
        TABLES, TATQA, INSTRUCTIONS, OASST1, LIMA, FINETOME, LONGFORM, ALPACA, DOLLY, SELF_INSTRUCT,
        FIREFLY, JSONL, REVIEWS, SST2, IMDB,
    )
}  # fmt: skip
_MOST_LOOKED_AT = 2**12


def find(data: str) -> tuple[DataSet, str]:
    """Return the data set that `data` names, and the path to read it from.

    `data` is NAME, NAME:PATH, or the path of a file or folder: of reports in TAT-QA's form, or of
    rows that say by their keys what they are (`chat.jsonl`). The path is "" for a name alone.
    """
    name, _, path = data.partition(":")
    if name in DATASETS:
        return DATASETS[name], path
    return (JSONL if _holds_rows(data) else TATQA), data


def _holds_rows(data: str) -> bool:
    """Say whether a path is one of rows and not of TAT-QA's reports, by its name or its begin."""
    path = expanded(data)
    try:
        if path.is_dir():
            there = sorted(p for p in path.rglob("*") if p.name.lower().endswith(files.ENDINGS))
            path = next((p for p in there if p.suffix == ".json"), there[0] if there else path)
        if not path.name.lower().endswith(".json"):
            return path.name.lower().endswith(files.ENDINGS)
        with open(path, "rb") as file:
            begin = file.read(_MOST_LOOKED_AT).replace(b"\0", b"").decode("utf-8", "replace")
    except (OSError, ValueError):
        return False
    first_key = re.match(r"\W*\"(\w+)\"\s*:", begin)
    return first_key is not None and first_key[1] not in ("table", "paragraphs", "questions")


def examples(data: str, split: str, *, bad_rows: str = "skip") -> list[Example]:
    """Return the examples of a split; rows that cannot be read are skipped and counted in a line.

    Raises:
        LabkitError: there is no such data; with `bad_rows` refuse, a row cannot be read.
    """
    dataset, path = find(data)
    if dataset.reading is None or bad_rows == "skip":
        return dataset.load(path, split)
    found = dataset.reading(path, split)
    if found.damaged:
        raise LabkitError(f"{data} has {found.what_is_damaged()} that cannot be trained on: mend "
                          "them, or set bad_rows to skip")  # fmt: skip
    return found.examples


def reports(data: str, split: str) -> list[Report]:
    """Return the reports of a split, for what shows their tables.

    Raises:
        LabkitError: there is no such data, or it holds other things than questions on reports.
    """
    dataset, path = find(data)
    if dataset.scored_as != TATQA.scored_as:
        raise LabkitError(
            f"{data} holds no questions on reports: give 'tables', 'tatqa', or a file or folder in "
            "TAT-QA's form"
        )
    return tatqa.load(path or dataset.name, split)
