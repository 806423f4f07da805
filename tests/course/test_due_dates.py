"""A lesson is due in its week of the syllabus, at the same hour by the clock on the wall."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from labkit.course import release
from labkit.errors import LabkitError

SYLLABUS = """
| week | lesson | minutes |
|---|---|---|
| 1 | [00 Setup](00_setup.ipynb) | 20 |
| 1 | [01 Memory](01_memory.ipynb) | 60 |
| 3 | [03 Batch](03_batch.ipynb) | 50 |
| 9 | 06 Not written | |
"""


@pytest.fixture(autouse=True)
def berlin(monkeypatch):
    """A machine in Berlin, where summer time ended on 25 October 2026."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_weeks_are_those_of_the_syllabus_and_the_hour_stays_when_summer_time_ends():
    lessons = ["00_setup", "01_memory", "03_batch"]
    dates = release.due_dates("2026-10-12T18:00", SYLLABUS, lessons)
    utc = {name: due.astimezone(UTC).isoformat() for name, due in dates.items()}
    assert utc == {
        "00_setup": "2026-10-12T16:00:00+00:00",
        "01_memory": "2026-10-12T16:00:00+00:00",
        "03_batch": "2026-10-26T17:00:00+00:00",
    }


def test_a_date_alone_means_its_last_minute_and_an_offset_is_kept():
    (due,) = release.due_dates("2026-09-07", SYLLABUS, ["00_setup"]).values()
    assert due.astimezone(UTC) == datetime(2026, 9, 7, 21, 59, tzinfo=UTC)
    (due,) = release.due_dates("2026-09-07T10:00+05:30", SYLLABUS, ["00_setup"]).values()
    assert due.astimezone(UTC) == datetime(2026, 9, 7, 4, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("first", "lesson", "says"),
    [
        ("next monday", "00_setup", "--due next monday: give a date such as 2026-09-07"),
        ("2026-13-01", "00_setup", "give a date such as"),
        ("2026-09-07", "06_peft", "SYLLABUS.md has no row for 06_peft"),
    ],
)
def test_what_cannot_be_dated_is_a_sentence(first, lesson, says):
    with pytest.raises(LabkitError, match=says):
        release.due_dates(first, SYLLABUS, [lesson])


def test_every_lesson_of_the_course_has_a_week():
    lessons = Path(release.__file__).parents[2] / "lessons"
    names = [path.stem for path in lessons.glob("[0-9][0-9]*_*.py")]
    text = (lessons / "SYLLABUS.md").read_text(encoding="utf-8")
    assert set(release.due_dates("2026-09-07", text, names)) == set(names) != set()


def test_the_gradebook_has_them_in_utc(tmp_path, monkeypatch):
    import sys

    from nbgrader.api import Gradebook

    # nbgrader starts alembic by name, which lies beside this Python.
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("PATH", beside)
    with Gradebook(f"sqlite:///{tmp_path}/gradebook.db", "labkit") as book:
        book.add_assignment("00_setup")
    release.set_due_dates(tmp_path, release.due_dates("2026-09-07", SYLLABUS, ["00_setup"]))
    with Gradebook(f"sqlite:///{tmp_path}/gradebook.db", "labkit") as book:
        assert book.find_assignment("00_setup").duedate == datetime(2026, 9, 7, 21, 59)
    shown = release.shown_due_dates(tmp_path)
    assert shown == [("00_setup", datetime(2026, 9, 7, 21, 59, tzinfo=UTC))]
