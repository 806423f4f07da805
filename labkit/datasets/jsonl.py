"""Local JSON lines of preferences or running text, told by their keys, a file for each split.

A line is {"prompt": "2 + 2?", "chosen": "4", "rejected": "five"} or {"text": "Running text …"}.
"""

import json
from pathlib import Path
from typing import Any

from labkit.datasets import fields
from labkit.datasets.base import DataSet, Example
from labkit.errors import LabkitError, brief
from labkit.files import sha256_file

SPLITS = ("train", "dev", "test")
OF_A_PAIR = "prompt, chosen, rejected"


def load(path: str, split: str) -> list[Example]:
    """Return the rows of `path`/`split`.jsonl, of all three files for "all".

    Raises:
        LabkitError: no such file, or a line that is neither a pair of answers nor text.
    """
    examples = []
    for part in SPLITS if split == "all" else (split,):
        file = _file(path, part)
        lines = file.read_text(encoding="utf-8").splitlines()
        examples += [_example(line, f"{file.name} line {number}")
                     for number, line in enumerate(lines, start=1) if line.strip()]  # fmt: skip
    return examples


def _file(path: str, split: str) -> Path:
    file = Path(path).expanduser() / f"{split}.jsonl"
    if not file.is_file():
        raise LabkitError(f"there is no {file}: jsonl:FOLDER needs {split}.jsonl there")
    return file


def _example(line: str, where: str) -> Example:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError):
        raise LabkitError(f"{where} is no JSON: {brief(line)}") from None
    wanted = ["text"] if isinstance(row, dict) and "text" in row else OF_A_PAIR.split(", ")
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in wanted):
        raise LabkitError(f"{where} has to hold the texts {OF_A_PAIR}, or text")
    said = {key: fields.text(row[key], f"{where}: {key}") for key in wanted}
    if not all(text.strip() for text in said.values()):
        raise LabkitError(f"{where} has an empty text")
    if "text" in said:
        return Example(uid=where, text=said["text"], called="row")
    turns = ({"role": "user", "content": said["prompt"]},
             {"role": "assistant", "content": said["chosen"]})  # fmt: skip
    return Example(uid=where, messages=turns, chosen=said["chosen"], rejected=said["rejected"],
                   called="row")  # fmt: skip


JSONL = DataSet(
    name="jsonl",
    source="the folder that is named",
    licence="that of its files",
    load=load,
    sha256=lambda path, split: sha256_file(_file(path, split)),
    also=("dpo", "pretrain"),
)
