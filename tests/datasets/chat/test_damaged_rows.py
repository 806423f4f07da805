"""Rows that cannot be trained on: counted, named by line, skipped or refused, never silent."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from damaged import damaged, fuzz
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from labkit.datasets import registry
from labkit.datasets.chat import files
from labkit.errors import LabkitError

GOOD = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}


def talk(*pairs: tuple[Any, Any]) -> bytes:
    return json.dumps({"messages": [{"role": r, "content": c} for r, c in pairs]}).encode()


DAMAGED: dict[str, tuple[bytes, str]] = {
    "missing role": (b'{"messages": [{"content": "q"}, {"role": "assistant", "content": "a"}]}',
                     "turn 1 has no role"),
    "unknown role": (talk(("user", "q"), ("tool", "x"), ("assistant", "a")),
                     "turn 2 has the role 'tool'"),
    "role no text": (talk((7, "q"), ("assistant", "a")), "turn 1 has the role 7"),
    "empty answer": (talk(("user", "q"), ("assistant", " \n")), r"turn 2 \(assistant\) is empty"),
    "null answer": (talk(("user", "q"), ("assistant", None)), r"turn 2 \(assistant\) is null"),
    "null": (b"null", "no JSON object but None"),
    "number for text": (talk(("user", 3), ("assistant", "a")), r"turn 1 \(user\) is no text but 3"),
    "a picture": (talk(("user", [{"type": "image_url"}]), ("assistant", "a")),
                  r"turn 1 \(user\) has a part that is no text: {'type': 'image_url'}"),
    "no parts": (talk(("user", []), ("assistant", "a")), r"turn 1 \(user\) is empty"),
    "two things asked about": (
        b'{"instruction": "q", "input": "x", "context": "y", "output": "a"}',
        "an input and a context"),
    "instruction alone": (b'{"instruction": "q", "input": "x"}', "it has no key 'output'"),
    "two assistants": (talk(("user", "q"), ("assistant", "a"), ("assistant", "b")),
                       "turn 3 is a second assistant turn in a row"),
    "two users": (talk(("user", "q"), ("user", "r"), ("assistant", "a")), "second user turn"),
    "begins with an answer": (talk(("assistant", "a"), ("user", "q")), "nothing asked before it"),
    "no answer": (talk(("user", "q")), "no answer is at the end"),
    "late system": (talk(("user", "q"), ("system", "s"), ("assistant", "a")), "after the first"),
    "no turns": (b'{"messages": []}', "no answer is at the end"),
    "2 MB message": (talk(("user", "q"), ("assistant", "a" * 2_000_000)),
                     "has 2000000 characters, more than"),
    "half a character": (b'{"messages": [{"role": "user", "content": "\\ud83d"}, '
                         b'{"role": "assistant", "content": "a"}]}', "half a character"),
    "latin-1": ('{"messages": [{"role": "user", "content": "Größe?"}, {"role": "assistant", '
                '"content": "a"}]}'.encode("latin-1"), "cannot be read as text"),
    "cut off": (b'{"messages": [{"role": "user", "con', "is not valid JSON"),
    "turns no objects": (b'{"messages": ["q", "a"]}', "turn 1 is no JSON object"),
    "turns no list": (b'{"messages": "q"}', "messages is no list"),
    "no known keys": (b'{"question": "q", "reply": "a"}', "its keys tell no form: 'question'"),
    "null text": (b'{"text": null}', "text is null"),
    "alike": (b'{"prompt": "q", "chosen": "a", "rejected": "a"}', "chosen and rejected are the"),
    "other questions": (
        b'{"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], '
        b'"rejected": [{"role": "user", "content": "r"}, {"role": "assistant", "content": "b"}]}',
        "do not answer the same turns"),
    "null rejected": (b'{"prompt": "q", "chosen": "a", "rejected": null}', "rejected is null"),
    "half an exchange": (b'{"conversation": [{"human": "q"}]}', "exchange 1 has not both"),
    "nested too deeply": (b"[" * 100_000, "nested too deeply"),
}  # fmt: skip


def write(path: Path, bad: bytes) -> str:
    """Write a file whose third line is damaged and the fourth empty."""
    good = json.dumps(GOOD).encode()
    path.write_bytes(b"\n".join([good, good, bad, b"", good]) + b"\n")
    return str(path)


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_row_is_named_by_its_line_and_the_others_are_read(
    tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, says = DAMAGED[what]
    data = write(tmp_path / "mine.jsonl", bad)
    with pytest.raises(
        LabkitError, match=rf"mine.jsonl has 1 row \(mine.jsonl line 3.*{says}"
    ) as e:
        registry.examples(data, "all", bad_rows="refuse")
    assert len(str(e.value).splitlines()) == 1 and len(str(e.value)) < 600
    assert str(e.value).endswith("mend them, or set bad_rows to skip")
    examples = registry.examples(data, "all", bad_rows="skip")
    assert [example.uid for example in examples] == [f"mine.jsonl line {n}" for n in (1, 2, 5)]
    (said,) = capsys.readouterr().err.splitlines()
    assert "left out 1 row (mine.jsonl line 3" in said


def test_many_damaged_rows_are_counted_and_the_first_named(tmp_path: Path) -> None:
    rows = [b"null", b"{}", b"7", json.dumps(GOOD).encode(), b"[]"]
    (tmp_path / "mine.jsonl").write_bytes(b"\n".join(rows))
    with pytest.raises(LabkitError) as caught:
        registry.examples(str(tmp_path / "mine.jsonl"), "all", bad_rows="refuse")
    said = str(caught.value)
    assert "has 4 rows (mine.jsonl line 1: " in said and "line 2: " in said
    assert "; and 1 more)" in said


def test_rows_of_a_list_and_of_parquet_are_named_by_their_place(tmp_path: Path) -> None:
    rows = [GOOD, {"messages": None}, GOOD]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    for file, place in (("a.json", r"a.json \[1\]"), ("a.parquet", "a.parquet row 1")):
        with pytest.raises(LabkitError, match=f"{place}: messages is no list but None"):
            registry.examples(f"jsonl:{tmp_path / file}", "all", bad_rows="refuse")


def test_parquet_s_text_that_is_no_text_is_one_damaged_row(tmp_path: Path) -> None:
    texts = pyarrow.array([b"one", b"\xff\xfe", b"three"]).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet")
    found = registry.DATASETS["jsonl"].reading
    assert found is not None
    reading = found(str(tmp_path / "a.parquet"), "all")
    assert [example.text for example in reading.examples] == ["one", "three"]
    (said,) = reading.damaged
    assert said.startswith("a.parquet row 1 is not UTF-8")


def test_a_line_beyond_all_measure_is_passed_over_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MOST_LINE_BYTES", 1000)
    good = json.dumps(GOOD).encode()
    (tmp_path / "a.jsonl").write_bytes(good + b"\n" + b"x" * 5000 + b"\n" + good)
    rows = list(files.read(tmp_path / "a.jsonl"))
    assert [bool(row.problem) for row in rows] == [False, True, False]
    assert rows[1].problem.startswith("a.jsonl line 2 is longer than")
    assert rows[2].where == "a.jsonl line 3"


WHOLE: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.jsonl", b"", "no row that can be read"),
    "only damaged rows": ("a.jsonl", b"1\n2\n", "no row that can be read as jsonl: a.jsonl line 1"),
    "broken list": ("a.json", b'[\n{"text": "a"},\n{"text": }]', "not valid JSON.*in line 3"),
    "cut-off gz": ("a.jsonl.gz", gzip.compress(b'{"text": "abc"}\n' * 500)[:40], "to its end"),
    "no parquet": ("a.parquet", b"PAR1 and nothing more", "is not a Parquet file"),
    "wrong utf-16": ("a.jsonl", b"\xff\xfe\x00\xd8\x00\x00", "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("what", WHOLE)
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path, what: str) -> None:
    name, content, says = WHOLE[what]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LabkitError, match=says) as caught:
        registry.examples(f"jsonl:{tmp_path / name}", "train")
    assert name in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("jsonl", "jsonl has no place of its own: say jsonl:PATH"),
        ("jsonl:no/such/file.jsonl", "there is no file or folder 'no/such/file.jsonl' for jsonl"),
        ("dolly:nowhere.jsonl", "there is no file or folder"),
    ],
)
def test_data_that_is_not_there_is_one_sentence(data: str, says: str) -> None:
    with pytest.raises(LabkitError, match=says):
        registry.examples(data, "train")


def test_a_split_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(GOOD))
    with pytest.raises(LabkitError, match="has no dev split, its files are test, train"):
        registry.examples(f"jsonl:{tmp_path}", "dev")
    with pytest.raises(LabkitError, match="too few rows to cut a dev split"):
        registry.examples(f"jsonl:{tmp_path / 'train.jsonl'}", "dev")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LabkitError, match="holds no file with rows"):
        registry.examples(f"jsonl:{tmp_path / 'empty'}", "train")


ROWS = st.sampled_from([
    GOOD, {"prompt": "q", "completion": "a"}, {"conversations": ["q", "a"]},
    {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    {"conversation": [{"human": "q", "assistant": "a"}]}, {"text": "t"},
    {"instruction": "i", "input": "", "output": "o"},
    {"prompt": "q", "chosen": "a", "rejected": "b"},
    {"instruction": "i", "instances": [{"input": "", "output": "o"}]},
    {"prompt": {"role": "prompter", "text": "q", "replies": [
        {"role": "assistant", "text": "a", "rank": 0, "replies": []}]}},
    {"message_id": "m", "parent_id": None, "role": "prompter", "text": "q", "rank": 0},
])  # fmt: skip


@fuzz
@given(data=st.data())
def test_any_row_is_an_example_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    row = data.draw(damaged(data.draw(ROWS)))
    file = tmp_path_factory.mktemp("fuzz") / "a.jsonl"
    file.write_text(json.dumps(row) + "\n" + json.dumps(row))
    for name, dataset in registry.DATASETS.items():
        if dataset.reading is None or name == "instructions":
            continue
        try:
            found = dataset.reading(str(file), "all")
        except LabkitError as error:
            assert len(str(error).splitlines()) == 1
            continue
        for example in found.examples:
            texts = [turn["content"] for turn in example.messages] or [example.text]
            assert all(text.strip() for text in texts) and "\n".join(texts).encode()
        assert all(len(said.splitlines()) == 1 for said in found.damaged)
