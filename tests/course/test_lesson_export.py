"""The table of points by lesson, from gradebooks of now and of before."""

import csv
import os
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from nbgrader.api import Gradebook

from labkit.course.nbgrader_plugins import LessonExport


def hand_in(book: Gradebook, assignment: str, student: str, points: float) -> None:
    book.add_submission(assignment, student)
    book.find_grade("f-points", "00_a", assignment, student).auto_score = points
    book.db.commit()


def test_a_lesson_counts_from_the_one_assignment_of_before_until_it_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # nbgrader starts alembic by name, which lies beside this Python.
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("PATH", beside)
    with Gradebook(f"sqlite:///{tmp_path}/gradebook.db", "labkit") as book:
        for assignment in ("lessons", "00_a"):
            book.add_assignment(assignment)
            book.add_notebook("00_a", assignment)
            book.add_grade_cell("f-points", "00_a", assignment, max_score=3, cell_type="code")
        for student in ("before", "both", "neither"):
            book.add_student(student)
        hand_in(book, "lessons", "before", 1)
        hand_in(book, "lessons", "both", 1)
        hand_in(book, "00_a", "both", 2)
        export = LessonExport()
        export.to = str(tmp_path / "points.csv")
        export.export(book)
    with (tmp_path / "points.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["lesson"] for row in rows} == {"00_a"} and len(rows) == 3
    assert {row["student"]: float(row["points"]) for row in rows} == {
        "before": 1, "both": 2, "neither": 0,
    }  # fmt: skip


def test_what_was_handed_in_and_how_late_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("PATH", beside)
    due = datetime(2026, 10, 5, 21, 59)
    with Gradebook(f"sqlite:///{tmp_path}/gradebook.db", "labkit") as book:
        book.add_assignment("00_a", duedate=due)
        book.add_notebook("00_a", "00_a")
        for student, after in (("early", -1), ("late", 30), ("unstamped", None), ("never", None)):
            book.add_student(student)
            if student != "never":
                when = None if after is None else due + timedelta(hours=after)
                book.add_submission("00_a", student, timestamp=when)
        export = LessonExport()
        export.to = str(tmp_path / "points.csv")
        export.export(book)
    with (tmp_path / "points.csv").open(newline="", encoding="utf-8") as file:
        rows = {
            row["student"]: (row["handed_in"], row["late_hours"]) for row in csv.DictReader(file)
        }
    assert rows == {"early": ("True", "0.0"), "late": ("True", "30.0"), "unstamped": ("True", ""),
                    "never": ("False", "")}  # fmt: skip
