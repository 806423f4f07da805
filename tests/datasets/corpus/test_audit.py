"""The audit: each fault is found where it was planted, and a sound set shows none."""

import json
from pathlib import Path
from typing import Any

import pytest

from labkit.datasets import tatqa
from labkit.datasets.corpus.audit import SAYS, audit, render
from labkit.datasets.corpus.synthetic_faults import Writer
from labkit.errors import LabkitError


def sound(number: int, language: str = "en") -> dict[str, Any]:
    writer = Writer(9, number)
    return turns(writer.title(language) + "?", writer.paragraphs(language, 60))


def turns(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question},
                         {"role": "assistant", "content": answer}]}  # fmt: skip


def write(folder: Path, **splits: list[dict[str, Any]]) -> Path:
    for split, rows in splits.items():
        text = "".join(
            json.dumps({"id": f"{split}{n}", **row}) + "\n" for n, row in enumerate(rows)
        )
        (folder / f"{split}.jsonl").write_text(text)
    return folder


def found(report: dict[str, Any]) -> dict[str, list[str]]:
    return {name: [each["place"].split("#")[-1] for each in value["first"]]
            for name, value in report["findings"].items() if value["count"]}  # fmt: skip


def test_a_sound_set_shows_nothing(tmp_path: Path) -> None:
    rows = [sound(n) for n in range(24)]
    report = audit(write(tmp_path, train=rows[:20], test=rows[20:]))
    assert report["examples"] == {"test": 4, "train": 20} and report["language"] == "en"
    assert found(report) == {} and not report["unread"]


PASSAGE = max(tatqa.load("tables", "test")[0].paragraphs, key=len)
COPY = sound(3)["messages"][1]["content"]
FAULTS = {
    "empty_answer": turns("Why is that?", " …"),
    "cut_answer": turns("Tell me.", "one two three " * 9 + "and then the"),
    "other_language": turns("And in Russian?", sound(5, "ru")["messages"][1]["content"]),
    "label_leak": turns(f"Say: {COPY[:90]} now.", COPY[:90]),
    "mojibake": turns("Как дела?", "Всё хорошо.".encode().decode("latin-1")),
    "end_token": turns("Hi?", "Hello.<|im_end|>"),
    "contaminated": turns("What happened?", PASSAGE),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_and_no_other(tmp_path: Path, fault: str) -> None:
    rows = [sound(n) for n in range(100, 130)]
    report = audit(write(tmp_path, train=[*rows, FAULTS[fault]]))
    assert found(report) == {fault: ["train30"]}
    assert f"     1  {SAYS[fault]}" in render(report)


def test_duplicates_within_and_across_splits(tmp_path: Path) -> None:
    rows = [sound(n) for n in range(10)]
    copy = sound(3)
    copy["messages"][1]["content"] = copy["messages"][1]["content"].replace(". ", "! ", 1)
    other = turns(rows[5]["messages"][0]["content"], sound(50)["messages"][1]["content"])
    report = audit(write(tmp_path, train=[*rows, other], test=[copy]))
    counts = {name: value["count"] for name, value in report["findings"].items() if value["count"]}
    assert counts == {"across_splits": 1, "same_request": 2}
    report = audit(write(tmp_path, train=[*rows, copy], test=[sound(60)]))
    assert found(report) == {"near_duplicates": ["train10"], "same_request": ["train10"]}


SYSTEM = " ".join(f"rule{n}" for n in range(80))


def test_a_shared_system_message_makes_nothing_alike(tmp_path: Path) -> None:
    said = {"role": "system", "content": SYSTEM}
    rows = [turns(f"Question {n} is?", f"Answer {n} and no more.") for n in range(12)]
    rows = [{"messages": [said, *row["messages"]]} for row in rows]
    folder = write(tmp_path, train=rows[:8], test=rows[8:])
    report = audit(
        folder, tokens=lambda texts: [len(text.split()) for text in texts], max_length=80
    )
    assert {name for name, value in report["findings"].items() if value["count"]} == {"too_long"}
    rows[0]["messages"][0] = {"role": "system", "content": "Be brief.<|im_end|>"}
    assert found(audit(write(tmp_path, train=rows[:8]))) == {"end_token": ["train0"]}


def test_lengths_are_told_with_a_tokenizer(tmp_path: Path) -> None:
    folder = write(tmp_path, train=[turns("a b", "c"), turns("a b c", "d e")])
    report = audit(folder, tokens=lambda texts: [len(text.split()) for text in texts], max_length=4)
    assert report["findings"]["too_long"] == {"count": 1, "first": [
        {"place": f"{tmp_path.name}/train.jsonl#train1", "tokens": 5}]}  # fmt: skip
    assert "too_long" not in audit(folder)["findings"]


def test_the_shipped_set_has_nothing_of_its_test_in_training() -> None:
    report = audit("tables")
    assert sum(report["examples"].values()) == 3480
    assert report["findings"]["across_splits"]["count"] == 0
    assert report["findings"]["empty_answer"]["count"] == 0


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "one"}\nnonsense\n')
    report = audit(tmp_path)
    assert [each["reason"] for each in report["unread"]] == ["a line that is no JSON"]
    (tmp_path / "train.jsonl").write_text("nonsense\n")
    with pytest.raises(LabkitError, match="holds no example to check"):
        audit(tmp_path)
