"""Whatever a student's notebook holds: its odd cells are named, and nobody else's are touched."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from labkit.checkpoints import submissions
from labkit.checkpoints.cells import found_in, repair
from labkit.course.hand_ins import name_cells, read_notebook, sort
from labkit.errors import LabkitError

fuzz = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
    | st.sampled_from(["\ud83d", "f", "f-points", "code", "markdown", "def f():", "\0", "(" * 300]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["grade_id", "solution", "grade"]), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
MARK = st.fixed_dictionaries(
    {},
    optional={
        "grade_id": st.sampled_from(["f", "g", "f-points", "a\nb"]) | VALUES,
        "solution": st.booleans(), "grade": st.booleans() | VALUES,
        "schema_version": st.just(3) | VALUES,
        "cell_type": st.sampled_from(["code", "markdown"]) | VALUES,
    },
)  # fmt: skip
CELL = st.fixed_dictionaries(
    {},
    optional={
        "cell_type": st.sampled_from(["code", "markdown", "raw"]) | VALUES, "source": VALUES,
        "metadata": st.fixed_dictionaries({}, optional={"nbgrader": MARK | VALUES}) | VALUES,
        "outputs": VALUES,
    },
)  # fmt: skip
A_CELL = {"cell_type": "code", "source": "x = 1", "metadata": {}, "outputs": []}
RIGHT = json.dumps({"cells": [A_CELL], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


@fuzz
@given(st.lists(CELL, max_size=5))
@example([{"source": ["a", 3]}])
@example([{"source": code, "metadata": {"nbgrader": {"grade_id": "f", "solution": True}}}
          for code in ("f = '\0'", "(" * 300)])  # fmt: skip
def test_cells_of_any_shape_are_named_on_a_line_and_repaired_once(cells: list[Any]) -> None:
    before = json.dumps(cells)
    said = found_in({"cells": cells})
    assert json.dumps(cells) == before
    assert all(len(sentence.splitlines()) == 1 for sentence in said)
    "".join(said).encode()
    repaired, found = repair(cells)
    assert set(found) <= set(said)
    assert repair(repaired)[1] == [], "what was repaired is right"
    json.dumps([cell["source"] for cell in repaired], ensure_ascii=False).encode()


@fuzz
@given(VALUES | st.fixed_dictionaries({"cells": VALUES | st.lists(CELL | VALUES, max_size=3)}))
def test_a_submission_with_any_notebook_is_read(
    tmp_path_factory: pytest.TempPathFactory, value: Any
) -> None:
    folder = tmp_path_factory.mktemp("fuzz") / "anna"
    folder.mkdir()
    (folder / "00_a.ipynb").write_text(json.dumps(value), encoding="utf-8")
    found = submissions.read(folder)
    assert found.remarks and all(len(line.splitlines()) == 1 for line in found.remarks)
    assert all(len(line.splitlines()) == 1 for line in name_cells([folder]))


@fuzz
@given(st.integers(0, 120), st.binary(max_size=6), st.booleans())
def test_a_damaged_notebook_costs_its_lesson_and_no_other(
    tmp_path_factory: pytest.TempPathFactory, cut: int, put: bytes, rest: bool
) -> None:
    root = tmp_path_factory.mktemp("fuzz")
    for name in ("00_a", "01_b"):
        (root / "gradebook/source" / name).mkdir(parents=True)
    for student in ("anna", "zoe"):
        (root / "in" / student).mkdir(parents=True)
        for name in ("00_a", "01_b"):
            (root / "in" / student / f"{name}.ipynb").write_text(RIGHT, encoding="utf-8")
    text = RIGHT.encode()
    broken = root / "in/anna/00_a.ipynb"
    broken.write_bytes(text[:cut] + put + (text[cut:] if rest else b""))
    said = sort(root / "in", root / "gradebook")
    submitted = root / "gradebook/submitted"
    for kept in ("anna/01_b/01_b.ipynb", "zoe/00_a/00_a.ipynb", "zoe/01_b/01_b.ipynb"):
        assert (submitted / kept).read_text(encoding="utf-8") == RIGHT
    placed = submitted / "anna/00_a/00_a.ipynb"
    assert placed.exists() or (len(said) == 1 and str(broken) in said[0])
    if placed.exists():
        json.loads(placed.read_text(encoding="utf-8"))
    assert all(len(line.splitlines()) == 1 for line in said)


BROKEN = {
    "empty": b"", "truncated": RIGHT.encode()[:-9], "a list": b"[]", "no cells": b"{}",
    "not UTF-8": b"\xff" + RIGHT.encode(), "deep": b"[" * 100_000,
    "a merge conflict": b"<<<<<<< HEAD\n" + RIGHT.encode() + b"\n=======\n" + RIGHT.encode(),
    "a cell that is a number": b'{"cells": [1]}', "digits": b'{"cells": ' + b"9" * 5000 + b"}",
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_notebook_is_named(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "00_a.ipynb"
    file.write_bytes(BROKEN[kind])
    (said,) = name_cells([tmp_path])
    assert str(file) in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_another_encoding_is_written_in_the_one_that_nbgrader_reads(
    tmp_path: Path, encoding: str
) -> None:
    (tmp_path / "gradebook/source/00_a").mkdir(parents=True)
    (tmp_path / "in/anna/lessons").mkdir(parents=True)
    (tmp_path / "in/anna/lessons/00_a.ipynb").write_text(RIGHT, encoding=encoding)
    assert sort(tmp_path / "in", tmp_path / "gradebook") == []
    placed = tmp_path / "gradebook/submitted/anna/00_a/00_a.ipynb"
    assert json.loads(placed.read_text(encoding="utf-8")) == json.loads(RIGHT)


def test_what_was_collected_is_sorted_where_it_lies_and_again(tmp_path: Path) -> None:
    book = tmp_path / "gradebook"
    (book / "source/00_a").mkdir(parents=True)
    folder = book / "submitted/anna/lessons"
    folder.mkdir(parents=True)
    (folder / "timestamp.txt").write_text("2026-01-02 03:04:05 UTC", encoding="utf-8")
    for text in (RIGHT, RIGHT.replace("x = 1", "x = 2")):
        (folder / "00_a.ipynb").write_text(text, encoding="utf-8")
        assert sort(book / "submitted", book) == []
        placed = book / "submitted/anna/00_a"
        assert (placed / "00_a.ipynb").read_text(encoding="utf-8") == text
        assert (placed / "timestamp.txt").read_bytes() == (folder / "timestamp.txt").read_bytes()


def test_a_notebook_is_read_up_to_its_limit_and_no_link_is_followed(tmp_path: Path) -> None:
    file = tmp_path / "00_a.ipynb"
    file.write_text(RIGHT, encoding="utf-8")
    os.truncate(file, 2**38)  # holes, which take no place until somebody reads them
    with pytest.raises(LabkitError, match="larger than 16 MiB"):
        read_notebook(file)
    file.unlink()
    (tmp_path / "link.ipynb").symlink_to("/dev/zero")
    assert name_cells([tmp_path]) == []


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["00_a-Copy1.ipynb"], "call it 00_a.ipynb"), (["00_a (1).ipynb"], "call it 00_a.ipynb"),
        (["00_a - Copy (2).ipynb"], "call it 00_a.ipynb"), (["00_a_final.ipynb"], "call it 00_a"),
        (["00_a.ipynb", "00_a-Copy1.ipynb"], ""), (["00_a.IPYNB"], ""), (["notes.ipynb"], "has no"),
        (["00_a.ipynb", "notes.ipynb", "00_a_more.ipynb"], ""),
    ],
)  # fmt: skip
def test_a_copy_is_named_where_its_lesson_is_missing(
    tmp_path: Path, names: list[str], says: str
) -> None:
    (tmp_path / "gradebook/source/00_a").mkdir(parents=True)
    (tmp_path / "in/anna").mkdir(parents=True)
    for name in names:
        (tmp_path / "in/anna" / name).write_text(RIGHT, encoding="utf-8")
    said = sort(tmp_path / "in", tmp_path / "gradebook")
    placed = tmp_path / "gradebook/submitted/anna/00_a/00_a.ipynb"
    assert placed.exists() is not bool(says)
    assert any(says in line for line in said) if says else said == []


@pytest.mark.parametrize("name", ["anna.zip", "boris.tar.gz", "00_a.ipynb"])
def test_what_lies_beside_the_folders_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "gradebook/source/00_a").mkdir(parents=True)
    (tmp_path / "in/zoe").mkdir(parents=True)
    (tmp_path / "in/zoe/00_a.ipynb").write_text(RIGHT, encoding="utf-8")
    (tmp_path / "in" / name).write_text(RIGHT, encoding="utf-8")
    (said,) = sort(tmp_path / "in", tmp_path / "gradebook")
    assert f"{name} is no folder of a student" in said


@pytest.mark.parametrize("missing", ["gradebook", "folder", "students"])
def test_nothing_to_sort_is_a_sentence(tmp_path: Path, missing: str) -> None:
    if missing != "gradebook":
        (tmp_path / "gradebook/source/00_a").mkdir(parents=True)
    if missing != "folder":
        (tmp_path / "in").mkdir()
    with pytest.raises(LabkitError, match="is no gradebook|there is no folder|no folder of a"):
        sort(tmp_path / "in", tmp_path / "gradebook")
