"""Odd cells of one student: repaired, named, and graded like everybody else's."""

import copy
import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbgrader.nbgraderformat import MetadataValidator

from labkit.checkpoints.cells import found_in, missing, repair, restore
from labkit.course import release
from labkit.course.hand_ins import name_cells
from labkit.errors import LabkitError


def cell(source: str, name: str = "", kind: str = "code", **mark: Any) -> Any:
    made = getattr(nbformat.v4, f"new_{kind}_cell")(source)
    if name:
        made.metadata.nbgrader = nbformat.NotebookNode(
            {"grade_id": name, "solution": True, "grade": False, "locked": False, "task": False,
             "schema_version": 3, "cell_type": "code", **mark})  # fmt: skip
    return made


def sources(cells: list[Any], name: str) -> list[str]:
    return [c.source for c in cells if c.metadata.get("nbgrader", {}).get("grade_id") == name]


ODD: dict[str, tuple[list[Any], list[str], str]] = {
    # cells, what is graded as "f", what is said
    "copied": ([cell("def f(): return 2", "f"), cell("x = 1"), cell("def f(): return 1", "f")],
               ["def f(): return 1"], "is a copy"),
    "copied twice, side by side": (
        [cell("def f(): return 1", "f")] + [cell("def f(): return 2", "f") for _ in range(2)],
        ["def f(): return 2"], "is a copy"),
    "split": ([cell("def f():", "f"), cell("    return 1", "f")], ["def f():\n    return 1"],
              "was split"),
    "split between lines": ([cell("a = 1", "f"), cell("b = a", "f")], ["a = 1\nb = a"],
                            "was split"),
    "Markdown": ([cell("def f(): return 1", "f", "markdown")], ["def f(): return 1"],
                 "was turned into markdown: it is code"),
    "raw": ([cell("f = 1", "f", "raw")], ["f = 1"], "was turned into raw"),
    "half a character": ([cell("f = '\ud83d'", "f")], ["f = '\ufffd'"], "half a character"),
    "no version": ([cell("f = 1", "f", schema_version=None)], ["f = 1"], "schema version"),
    "an empty name": ([cell("f = 1", "f"), cell("g = 1", "g", grade_id="")], ["f = 1"],
                      "plain cell"),
    "no name": ([cell("f = 1", "f"), cell("g = 1", "g", grade_id=None)], ["f = 1"], "plain cell"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_cell_is_repaired_and_named(kind: str) -> None:
    cells, graded, says = ODD[kind]
    cells, found = repair([nbformat.from_dict(c) for c in cells])
    assert sources(cells, "f") == graded
    assert found and all(says in sentence for sentence in found)
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbformat.validate(notebook)
    MetadataValidator().validate_nb(notebook)
    json.dumps(notebook, ensure_ascii=False).encode()
    assert repair(cells)[1] == []


def test_a_right_notebook_stays_as_it_is() -> None:
    cells = [cell("x = 1"), cell("def f(): return 1", "f"), cell("f()", "t", grade=True)]
    before = json.dumps(cells)
    assert repair(cells)[1] == [] and json.dumps(cells) == before


def test_a_cell_of_an_exercise_that_was_deleted_is_named() -> None:
    f, g = (cell(f"def {name}(): return 1", name) for name in "fg")
    points = {name: cell("1", f"{name}-points", grade=True, solution=False) for name in "fg"}
    assert missing([f, points["f"], g, points["g"]]) == []
    (said,) = missing([points["f"], g, points["g"]])
    assert "the cell f was deleted" in said
    (said,) = missing([f, points["f"], g])
    assert "the cell g-points was deleted" in said
    assert missing([f]) == [], "a notebook whose cells are counted in another way"


def counted(name: str) -> Any:
    return cell(f"assert {name}() == 1", f"{name}-points", grade=True, solution=False, locked=True,
                points=1)  # fmt: skip


RELEASED = [made for name in "fg" for made in (cell("# your code", name), counted(name))]
F, F_POINTS, G, G_POINTS = RELEASED
DIFFERENT: dict[str, tuple[list[Any], list[str], list[str]]] = {
    # cells, names afterwards (none: a plain cell), what is said
    "as released": (RELEASED, ["f", "f-points", "g", "g-points"], []),
    "in another order": ([G, G_POINTS, F, F_POINTS], ["g", "g-points", "f", "f-points"], []),
    "of another lesson": ([F, cell("x = 1", "h"), *RELEASED[1:]],
                          ["f", "", "f-points", "g", "g-points"], ["of another lesson"]),
    "a whole exercise deleted": ([F, F_POINTS], ["f", "f-points", "g", "g-points"],
                                 ["g was deleted", "g-points was deleted"]),
    "the first exercise deleted": ([cell("x = 1"), G, G_POINTS],
                                   ["f", "f-points", "", "g", "g-points"],
                                   ["f was deleted", "f-points was deleted"]),
    "all deleted": ([], ["f", "f-points", "g", "g-points"], ["was deleted"] * 4),
    "a solution that counts": ([cell("x = 1", "f", grade=True, points=9), *RELEASED[1:]],
                               ["f", "f-points", "g", "g-points"], ["other marks (grade)"]),
    "a check without points": ([F, cell("", "f-points", grade=True, solution=False), G, G_POINTS],
                               ["f", "f-points", "g", "g-points"], ["other marks (points)"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", DIFFERENT)
def test_a_lesson_has_the_cells_that_it_was_released_with(kind: str) -> None:
    handed_in, names, says = DIFFERENT[kind]
    cells, released = copy.deepcopy((handed_in, RELEASED))
    cells, found = restore(cells, released)
    assert [c.metadata.get("nbgrader", {}).get("grade_id", "") for c in cells] == names
    assert len(found) == len(says) and all(map(str.__contains__, found, says))
    marks = {c.metadata.nbgrader.grade_id: c.metadata.nbgrader for c in RELEASED}
    for each in cells:
        if mark := each.metadata.get("nbgrader"):
            for key in ("grade", "solution", "points"):
                assert mark.get(key) == marks[mark.grade_id].get(key) or key == "points"
    assert restore(cells, released)[1] == []


@pytest.mark.parametrize("kind", ODD)
def test_to_look_changes_nothing(kind: str) -> None:
    notebook = {"cells": [json.loads(json.dumps(each)) for each in ODD[kind][0]]}
    before = json.dumps(notebook)
    assert found_in(notebook) and json.dumps(notebook) == before


def test_odd_cells_are_named_before_grading(tmp_path: Path) -> None:
    for name, text in (("broken", "{"), ("list", "[]"), ("none", "{}")):
        (tmp_path / f"{name}.ipynb").write_text(text)
    notebook = nbformat.v4.new_notebook(cells=ODD["copied"][0])
    nbformat.write(notebook, tmp_path / "copied.ipynb")
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    said = name_cells([tmp_path])
    assert len(said) == 4 and sum("(f) is a copy" in sentence for sentence in said) == 1
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    with pytest.raises(LabkitError, match="there is no folder"):
        name_cells([tmp_path / "nowhere"])


LESSON = nbformat.v4.new_notebook(
    metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    cells=[
        cell("### BEGIN SOLUTION\ndef f():\n    return 1\n### END SOLUTION", "f"),
        cell("assert f() == 1", "t", grade=True, solution=False, locked=True, points=1),
        cell("### BEGIN SOLUTION\ng = 1\n### END SOLUTION", "g"),
        cell("assert g == 1", "u", grade=True, solution=False, locked=True, points=1),
    ],
)


@pytest.fixture(scope="module")
def gradebook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One lesson, handed in by a student with each kind of odd cell and by one without."""
    root = tmp_path_factory.mktemp("gradebook")
    config = Path(release.__file__).parents[2] / "lessons/hub-example/jupyter" / release.CONFIG
    (root / release.CONFIG).write_text(config.read_text(encoding="utf-8"), encoding="utf-8")
    source = root / "source" / "lesson"
    source.mkdir(parents=True)
    nbformat.write(LESSON, source / "small.ipynb")
    release.nbgrader("generate_assignment", "lesson", cwd=root)
    students = {"right": [cell("def f():\n    return 1", "f")]} | {
        kind.replace(" ", "-").replace(",", ""): cells for kind, (cells, *_) in ODD.items()
        if kind in ("copied", "split", "Markdown", "half a character", "no version")
    }  # fmt: skip
    right = students["right"]
    students |= {
        "another-lesson": [*right, cell("x = 1", "of_another_lesson")],
        "counted-twice": [cell(right[0].source, "f", grade=True)],
        "nothing-kept": [cell("x = 1")],
    }
    for student, cells in students.items():
        folder = root / "submitted" / student / "lesson"
        folder.mkdir(parents=True)
        tests = cell("assert f() == 1", "t", grade=True, solution=False, locked=True, points=1)
        if student == "nothing-kept":
            tests = cell("y = 1")
        notebook = nbformat.v4.new_notebook(metadata=LESSON.metadata, cells=[*cells, tests])
        (folder / "small.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    release.nbgrader("autograde", "lesson", "--create", cwd=root)
    return root


def test_everybody_is_graded(gradebook: Path) -> None:
    done = sorted(p.parent.parent.name for p in gradebook.glob("autograded/*/lesson/small.ipynb"))
    assert done == sorted(p.name for p in (gradebook / "submitted").iterdir())
    release.nbgrader("export", "--to=grades.csv", cwd=gradebook)
    rows = (gradebook / "grades.csv").read_text(encoding="utf-8").splitlines()
    head = rows[0].split(",")
    scores = {row.split(",")[head.index("student_id")]: float(row.split(",")[head.index("score")])
              for row in rows[1:]}  # fmt: skip
    assert scores == {"right": 1, "copied": 1, "split": 1, "Markdown": 1, "half-a-character": 0,
                      "no-version": 0, "another-lesson": 1, "counted-twice": 1,
                      "nothing-kept": 0}  # fmt: skip
