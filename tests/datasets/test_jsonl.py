"""Local JSON lines: preferences and text are read, anything else is one sentence with its line."""

import json
from pathlib import Path

import pytest

from labkit.datasets import registry
from labkit.errors import LabkitError

PAIR = {"prompt": "2 + 2?", "chosen": "4", "rejected": "five"}


def folder(tmp_path: Path, *lines: str) -> str:
    (tmp_path / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return f"jsonl:{tmp_path}"


def test_rows_are_told_by_their_keys(tmp_path: Path) -> None:
    data, path = registry.find(folder(tmp_path, json.dumps(PAIR), "", '{"text": "Ёлка"}'))
    preferred, text = data.load(path, "train")
    assert [turn["role"] for turn in preferred.messages] == ["user", "assistant"]
    assert (preferred.answer, preferred.chosen, preferred.rejected) == ("4", "4", "five")
    assert (text.text, text.messages, text.uid) == ("Ёлка", (), "train.jsonl line 3")
    first = data.sha256(path, "train")
    folder(tmp_path, json.dumps(PAIR))
    assert data.sha256(path, "train") != first


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "x"', "train.jsonl line 2 is no JSON"),
        ('["text"]', "line 2 has to hold the texts prompt, chosen, rejected, or text"),
        (json.dumps({**PAIR, "rejected": None}), "line 2 has to hold the texts"),
        (json.dumps({**PAIR, "chosen": " "}), "line 2 has an empty text"),
        ('{"text": "half \\ud83d"}', "line 2: text has half a character"),
    ],
)
def test_a_damaged_line_is_one_sentence(tmp_path: Path, line: str, message: str) -> None:
    data, path = registry.find(folder(tmp_path, json.dumps(PAIR), line))
    with pytest.raises(LabkitError, match=message):
        data.load(path, "train")


def test_a_split_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    data, path = registry.find(folder(tmp_path, json.dumps(PAIR)))
    with pytest.raises(LabkitError, match="needs dev.jsonl there"):
        data.load(path, "dev")
