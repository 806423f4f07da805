"""Published formats: a small file in each, made up for this test, is read as its authors say."""

import gzip
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from labkit.datasets import registry
from labkit.datasets.base import DataSet, Example
from labkit.files import sha256_file

# Every row below is made up; only the keys are those of the published files.
SYSTEM, ASK, SAY = "system", "user", "assistant"


def turns(*pairs: tuple[str, str]) -> tuple[dict[str, str], ...]:
    return tuple({"role": role, "content": content} for role, content in pairs)


def message(role: str, text: str, rank: Any = None, *replies: Any, **more: Any) -> dict[str, Any]:
    return {"message_id": text, "text": text, "role": role, "rank": rank, "lang": "en",
            "deleted": False, "review_result": True, "synthetic": False, **more,
            "replies": list(replies)}  # fmt: skip


TREE = {
    "message_tree_id": "q", "tree_state": "ready_for_export",
    "prompt": message(
        "prompter", "q", None,
        message("assistant", "second", 1, message("prompter", "never", None)),
        message("assistant", "best", 0,
                message("prompter", "more?", 1, message("assistant", "worse thread", None)),
                message("prompter", "why?", 0, message("assistant", "because", None,
                                                       message("prompter", "unanswered"))),
                message("prompter", "gone", None, deleted=True)),
        message("assistant", "turned down", None, review_result=False),
    ),
}  # fmt: skip
BEST = turns((ASK, "q"), (SAY, "best"), (ASK, "why?"), (SAY, "because"))

FORMATS: dict[str, list[tuple[dict[str, Any], tuple[dict[str, str], ...]]]] = {
    "oasst1": [(TREE, BEST)],
    "lima": [
        ({"conversations": ["q", "a"], "source": "wikihow"}, turns((ASK, "q"), (SAY, "a"))),
        ({"conversations": ["q", "a", "r", "b"], "source": "multi_turn"},
         turns((ASK, "q"), (SAY, "a"), (ASK, "r"), (SAY, "b"))),
    ],
    "finetome": [
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
          "source": "infini", "score": 4.9}, turns((ASK, "q"), (SAY, "a"))),
        ({"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"},
                            {"from": "gpt", "value": "a"}], "source": "WebInstruct"},
         turns((SYSTEM, "s"), (ASK, "q"), (SAY, "a"))),
    ],
    "longform": [
        ({"input": "Write.", "output": "Long.", "source": "C4", "subset": "corpora"},
         turns((ASK, "Write."), (SAY, "Long."))),
    ],
    "alpaca": [
        ({"instruction": "Add.", "input": "1, 2", "output": "3"},
         turns((ASK, "Add.\n\n### Input:\n1, 2"), (SAY, "3"))),
        ({"instruction": "Greet.", "input": "", "output": "Hi"},
         turns((ASK, "Greet."), (SAY, "Hi"))),
    ],
    "dolly": [
        ({"instruction": "Who?", "context": "Ann won.", "response": "Ann",
          "category": "closed_qa"}, turns((ASK, "Who?\n\nAnn won."), (SAY, "Ann"))),
        ({"instruction": "Greet.", "context": "", "response": "Hi", "category": "open_qa"},
         turns((ASK, "Greet."), (SAY, "Hi"))),
    ],
    "self-instruct": [
        ({"instruction": "Add.", "input": "1, 2", "output": "3"},
         turns((ASK, "Add.\n\n1, 2"), (SAY, "3"))),
        ({"prompt": "Greet.\n\nOutput:", "completion": " Hi<|endoftext|>"},
         turns((ASK, "Greet."), (SAY, "Hi"))),
        ({"id": "seed_task_0", "name": "x", "instruction": "Double.",
          "instances": [{"input": "2", "output": "4"}, {"input": "3", "output": "6"}],
          "is_classification": False}, turns((ASK, "Double.\n\n2"), (SAY, "4"))),
    ],
    "firefly": [
        ({"conversation_id": 1, "category": "Brainstorming", "dataset": "moss",
          "conversation": [{"human": "q", "assistant": "a"}, {"human": "r", "assistant": "b"}]},
         turns((ASK, "q"), (SAY, "a"), (ASK, "r"), (SAY, "b"))),
        ({"system": "s", "conversation": [{"human": "q", "assistant": "a"}]},
         turns((SYSTEM, "s"), (ASK, "q"), (SAY, "a"))),
        ({"kind": "NLI", "input": "q", "target": "a"}, turns((ASK, "q"), (SAY, "a"))),
    ],
    "jsonl": [
        ({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"},
                       {"role": "assistant", "content": "a"}]},
         turns((SYSTEM, "s"), (ASK, "q"), (SAY, "a"))),
        ({"prompt": "q", "completion": "a"}, turns((ASK, "q"), (SAY, "a"))),
        ({"prompt": [{"role": "user", "content": "q"}], "system": "",
          "completion": [{"role": "assistant", "content": "a"}]}, turns((ASK, "q"), (SAY, "a"))),
        ({"question": "q", "answer": "a"}, turns((ASK, "q"), (SAY, "a"))),
        ({"question": "q", "context": "c", "answer": "a"}, turns((ASK, "q\n\nc"), (SAY, "a"))),
        ({"system": "s", "question": "q", "answer": "a", "text": "t"},
         turns((SYSTEM, "s"), (ASK, "q"), (SAY, "a"))),
        ({"question": [{"role": "user", "content": "q"}],
          "answer": [{"role": "assistant", "content": "a"}]}, turns((ASK, "q"), (SAY, "a"))),
        ({"system": "s", "prompt": "q", "response": "a"},
         turns((SYSTEM, "s"), (ASK, "q"), (SAY, "a"))),
        ({"conversations": [{"role": "user", "content": "q"},
                            {"role": "assistant", "content": "a"}]}, turns((ASK, "q"), (SAY, "a"))),
        ({"system": "s", "conversations": [{"from": "human", "value": "q"},
                                           {"from": "gpt", "value": "a"}]},
         turns((SYSTEM, "s"), (ASK, "q"), (SAY, "a"))),
        ({"system": "s", "messages": [{"role": "user", "content": "q"},
                                      {"role": "assistant", "content": "a"}]},
         turns((SYSTEM, "s"), (ASK, "q"), (SAY, "a"))),
        ({"system": "s", "messages": [{"role": "System", "content": "own"},
                                      {"role": "user", "content": "q"},
                                      {"role": "assistant", "content": "a"}]},
         turns((SYSTEM, "own"), (ASK, "q"), (SAY, "a"))),
        ({"system": "s", "instruction": "r", "input": "", "output": "b", "history": [["q", "a"]]},
         turns((SYSTEM, "s"), (ASK, "q"), (SAY, "a"), (ASK, "r"), (SAY, "b"))),
        ({"prompt": "r", "response": "b", "history": [["q", "a"]]},
         turns((ASK, "q"), (SAY, "a"), (ASK, "r"), (SAY, "b"))),
        ({"prompt": "q", "response": "a", "history": "of its making", "system": 4},
         turns((ASK, "q"), (SAY, "a"))),
        ({"prompt": "q", "response": "a", "history": [["p", None]], "system": True},
         turns((ASK, "q"), (SAY, "a"))),
        ({"history": [["q", "a"]], "messages": [
            {"role": "system", "content": "s"}, {"role": "user", "content": "r"},
            {"role": "assistant", "content": "b"}]},
         turns((SYSTEM, "s"), (ASK, "q"), (SAY, "a"), (ASK, "r"), (SAY, "b"))),
        ({"history": [["q", "a"]], "messages": [
            {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"},
            {"role": "user", "content": "r"}, {"role": "assistant", "content": "b"}]},
         turns((ASK, "q"), (SAY, "a"), (ASK, "r"), (SAY, "b"))),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
         turns((ASK, "q"), (SAY, "a"))),
        ({"conversations": ["q", "a"]}, turns((ASK, "q"), (SAY, "a"))),
        ({"conversation": [{"human": "q", "assistant": "a"}]}, turns((ASK, "q"), (SAY, "a"))),
        ({"instruction": "Add.", "input": "1", "output": "3"},
         turns((ASK, "Add.\n\n### Input:\n1"), (SAY, "3"))),
        ({"instruction": "Who?", "context": "Ann.", "response": "Ann"},
         turns((ASK, "Who?\n\nAnn."), (SAY, "Ann"))),
        ({"instruction": "Add.", "input": "1", "response": "3"},
         turns((ASK, "Add.\n\n### Input:\n1"), (SAY, "3"))),
        ({"instruction": "Who?", "context": "Ann.", "input": "", "output": "Ann"},
         turns((ASK, "Who?\n\nAnn."), (SAY, "Ann"))),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "q"},
                                                    {"type": "text", "text": "r"}]},
                       {"role": "assistant", "content": [{"type": "text", "text": "a"}]}]},
         turns((ASK, "q\n\nr"), (SAY, "a"))),
        ({"input": "q", "output": "a"}, turns((ASK, "q"), (SAY, "a"))),
        ({"input": "q", "target": "a"}, turns((ASK, "q"), (SAY, "a"))),
    ],
}  # fmt: skip


def as_json(rows: list[Any]) -> bytes:
    return json.dumps(rows, indent=1).encode()


def as_lines(rows: list[Any]) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


WRITERS: dict[str, Callable[[Path, list[Any]], None]] = {
    "rows.json": lambda path, rows: path.write_bytes(as_json(rows)) and None,
    "one-line.json": lambda path, rows: path.write_bytes(json.dumps(rows).encode()) and None,
    "rows.jsonl": lambda path, rows: path.write_bytes(as_lines(rows)) and None,
    "lines.json": lambda path, rows: path.write_bytes(b"\n" + as_lines(rows)) and None,
    "windows.jsonl": lambda path, rows: path.write_bytes(
        b"\xef\xbb\xbf" + as_lines(rows).replace(b"\n", b"\r\n")
    ) and None,
    "shell.jsonl": lambda path, rows: path.write_bytes(
        as_lines(rows).decode().encode("utf-16")
    ) and None,
    "rows.jsonl.gz": lambda path, rows: path.write_bytes(gzip.compress(as_lines(rows))) and None,
    "rows.json.gz": lambda path, rows: path.write_bytes(gzip.compress(as_json(rows))) and None,
    "rows.parquet": lambda path, rows: parquet.write_table(
        pyarrow.Table.from_pylist(rows), path
    ),
}  # fmt: skip


def read(name: str, path: Path, split: str = "all") -> list[Example]:
    dataset = registry.DATASETS[name]
    assert dataset.reading is not None
    found = dataset.reading(str(path), split)
    assert found.damaged == []
    return found.examples


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("file", ["rows.json", "rows.jsonl"])
def test_each_published_format_is_read(tmp_path: Path, name: str, file: str) -> None:
    WRITERS[file](tmp_path / file, [row for row, _ in FORMATS[name]])
    examples = read(name, tmp_path / file)
    assert [example.messages for example in examples] == [wanted for _, wanted in FORMATS[name]]
    assert all(example.every_answer and not example.rejected for example in examples)


@pytest.mark.parametrize("file", WRITERS)
def test_a_file_is_read_alike_in_every_form(tmp_path: Path, file: str) -> None:
    rows = [{"messages": [{"role": "user", "content": f"Größe {i}?"},
                          {"role": "assistant", "content": "élan"}]} for i in range(5)]  # fmt: skip
    WRITERS[file](tmp_path / file, rows)
    examples = read("jsonl", tmp_path / file)
    assert [dict(enumerate(e.messages)) for e in examples] == [
        dict(enumerate(row["messages"])) for row in rows
    ]
    assert len({example.uid for example in examples}) == 5


def test_oasst1_s_flat_messages_are_the_same_thread_as_its_trees(tmp_path: Path) -> None:
    flat = []

    def flatten(node: dict[str, Any], parent: str | None) -> None:
        flat.append({**{k: v for k, v in node.items() if k != "replies"}, "parent_id": parent})
        for reply in node["replies"]:
            flatten(reply, node["message_id"])

    flatten(TREE["prompt"], None)
    flat = flat[::-1]  # in any order
    (tmp_path / "a.messages.jsonl.gz").write_bytes(gzip.compress(as_lines(flat)))
    parquet.write_table(pyarrow.Table.from_pylist(flat), tmp_path / "a.parquet")
    for file in ("a.messages.jsonl.gz", "a.parquet"):
        (example,) = read("oasst1", tmp_path / file)
        assert example.messages == BEST and example.strata == {"type": "en"}


def test_oasst1_s_folder_is_read_from_the_ready_trees_alone(tmp_path: Path) -> None:
    other = {"prompt": message("prompter", "spam", None, message("assistant", "x"))}
    (tmp_path / "2023-04-12_oasst_ready.trees.jsonl.gz").write_bytes(
        gzip.compress(as_lines([TREE]))
    )
    for name in ("2023-04-12_oasst_all.trees.jsonl.gz", "2023-04-12_oasst_spam.messages.jsonl.gz"):
        (tmp_path / name).write_bytes(gzip.compress(as_lines([other])))
    assert [example.messages for example in read("oasst1", tmp_path)] == [BEST]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"prompt": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": "b"},
        {"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
         "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}],
         "messages": [], "score_chosen": 8.5},
        {"prompt": "q", "chosen": [{"role": "assistant", "content": "a"}],
         "rejected": [{"role": "assistant", "content": "b"}]},
        {"prompt": "q", "chosen": "<think>a?</think>\n\na", "rejected": "<think>c?</think>b"},
    ],
)  # fmt: skip
def test_a_preference_is_a_question_with_two_answers(tmp_path: Path, row: dict[str, Any]) -> None:
    (tmp_path / "pairs.jsonl").write_bytes(as_lines([row]))
    (example,) = read("jsonl", tmp_path / "pairs.jsonl")
    assert example.messages == turns((ASK, "q"), (SAY, "a"))
    assert (example.chosen, example.rejected, example.answer) == ("a", "b", "a")


def test_reasoning_before_an_answer_is_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    thought = "<think>\n5 and 6 are 11.\n</think>\n\n"
    said = [(ASK, "5 + 6?"), (SAY, f"{thought}11"), (ASK, "Sure?"), (SAY, "Yes.")]
    rows = [{"messages": turns(*said)}, {"prompt": "q", "completion": thought},
            {"prompt": "q", "completion": "a <think> in the middle"}]  # fmt: skip
    (tmp_path / "rows.jsonl").write_bytes(as_lines(rows))
    first, last = registry.DATASETS["jsonl"].load(str(tmp_path / "rows.jsonl"), "all")
    assert [turn["content"] for turn in first.messages] == ["5 + 6?", "11", "Sure?", "Yes."]
    assert first.reasoned and not last.reasoned and last.answer == "a <think> in the middle"
    told = capsys.readouterr().err
    assert "left out the reasoning before answers of 1 row\n" in told
    assert "turn 2 is reasoning without an answer" in told


@pytest.mark.parametrize("row", [
    {"prompt": "q", "completion": "<think>b</think>a"},
    {"system": "s", "messages": [{"role": "user", "content": "q"},
                                 {"role": "assistant", "content": "a"}]},
    {"prompt": "q", "chosen": "a", "rejected": "<think>b</think>c"},
])  # fmt: skip
def test_data_that_is_read_anew_is_other_data(tmp_path: Path, row: dict[str, Any]) -> None:
    """So that a run or an evaluation of before is not taken for one of today."""
    same = [{"prompt": "q", "completion": "a", "system": " "},
            {"prompt": "<think>?</think>", "completion": "a"}]  # fmt: skip
    for name, rows in (("old", same), ("new", [row] * 2)):
        (tmp_path / f"{name}.jsonl").write_bytes(as_lines(rows))
        of_file = sha256(sha256_file(tmp_path / f"{name}.jsonl").encode()).hexdigest()
        found = registry.DATASETS["jsonl"].sha256(str(tmp_path / f"{name}.jsonl"), "all")
        assert (found == of_file) == (name == "old")


def test_running_text_is_text(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(as_lines([{"text": "Once."}, {"text": "Twice."}]))
    assert [example.text for example in read("jsonl", tmp_path / "t.jsonl")] == ["Once.", "Twice."]


# --- splits --------------------------------------------------------------------------------


def questions(count: int, first: int = 0) -> list[dict[str, str]]:
    return [{"prompt": f"q{i}", "completion": "a"} for i in range(first, first + count)]


def test_one_file_is_cut_so_that_no_question_is_in_two_parts(tmp_path: Path) -> None:
    rows = questions(40) + [{"prompt": f" Q{i} ", "completion": "b"} for i in range(40)]
    (tmp_path / "rows.jsonl").write_bytes(as_lines(rows))
    parts = {split: read("jsonl", tmp_path / "rows.jsonl", split)
             for split in ("train", "dev", "test")}  # fmt: skip
    asked = {split: {e.messages[0]["content"].strip().lower() for e in part}
             for split, part in parts.items()}  # fmt: skip
    assert {split: len(part) for split, part in parts.items()} == {
        "train": 64,
        "dev": 4,
        "test": 12,
    }
    assert not asked["train"] & asked["test"] and not asked["dev"] & asked["test"]
    (tmp_path / "rows.jsonl").write_bytes(as_lines(rows[::-1]))
    again = read("jsonl", tmp_path / "rows.jsonl", "test")
    assert {e.messages[0]["content"].strip().lower() for e in again} == asked["test"]


@pytest.mark.parametrize(
    "names",
    [("train.jsonl", "dev.jsonl", "test.jsonl"),
     ("data/train-00000-of-00001.jsonl", "data/validation-00000-of-00001.jsonl",
      "data/test-00000-of-00001.jsonl")],
)  # fmt: skip
def test_a_folder_s_files_say_which_split_they_are(tmp_path: Path, names: tuple[str, ...]) -> None:
    for i, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(as_lines(questions(3, first=10 * i)))
    for i, split in enumerate(("train", "dev", "test")):
        found = [e.messages[0]["content"] for e in read("jsonl", tmp_path, split)]
        assert found == [f"q{10 * i + k}" for k in range(3)]
    assert len(read("jsonl", tmp_path, "all")) == 9


def test_lima_s_test_questions_without_answers_are_not_read(tmp_path: Path) -> None:
    rows = [{"conversations": [f"q{i}", "a"], "source": "x"} for i in range(9)]
    (tmp_path / "train.jsonl").write_bytes(as_lines(rows))
    (tmp_path / "test.jsonl").write_bytes(as_lines([{"conversations": ["q"], "source": "x"}]))
    parts = [read("lima", tmp_path, split) for split in ("train", "dev", "test")]
    assert sum(map(len, parts)) == 9 and all(parts)


def test_the_checksum_is_that_of_what_is_read(tmp_path: Path) -> None:
    jsonl: DataSet = registry.DATASETS["jsonl"]
    for name, count in (("train", 3), ("test", 2)):
        (tmp_path / f"{name}.jsonl").write_bytes(as_lines(questions(count)))
    before = {split: jsonl.sha256(str(tmp_path), split) for split in ("train", "test")}
    assert before["train"] != before["test"]
    (tmp_path / "test.jsonl").write_bytes(as_lines(questions(1)))
    after = {split: jsonl.sha256(str(tmp_path), split) for split in ("train", "test")}
    assert after["train"] == before["train"] and after["test"] != before["test"]


# --- what a path means ---------------------------------------------------------------------


@pytest.mark.parametrize("file", [*WRITERS])
def test_a_path_alone_is_told_from_tatqa_by_what_it_holds(tmp_path: Path, file: str) -> None:
    (tmp_path / "set").mkdir()
    WRITERS[file](tmp_path / "set" / file, questions(3))
    for path in (tmp_path / "set" / file, tmp_path / "set"):
        dataset, where = registry.find(str(path))
        assert (dataset.name, where) == ("jsonl", str(path))
        assert len(registry.examples(str(path), "all")) == 3


def test_reports_stay_reports(few_reports: Path) -> None:
    for path in (few_reports, few_reports / "train.json"):
        assert registry.find(str(path))[0].name == "tatqa"
