"""A small class goes the whole way; `python tests/lessons/simulated_class.py` takes a large one."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from labkit.checkpoints.alike import ALIKE
from labkit.checkpoints.marks import Mark

LESSONS = ("00", "01")


def _simulation():
    place = Path(__file__).with_name("simulated_class.py")
    spec = importlib.util.spec_from_file_location("simulated_class", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


simulation = _simulation()


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Two of each kind, one on the hub and one on the platform."""
    count = 2 * len(simulation.KINDS)
    return simulation.simulate(tmp_path_factory.mktemp("class"), count, LESSONS)


def test_everybody_has_a_mark_or_a_reason_and_the_page_finds_what_was_planted(outcome):
    """The misconception with those who have it, copies with their originals, and nobody else."""
    assert simulation.wanting(outcome) == []
    assert outcome.of("mistaken") and outcome.of("copied")
    assert all(pair.ratio >= ALIKE for pair in outcome.alike)


def test_who_is_broken_late_or_silent_is_told_why(outcome):
    for kind in ("broken", "late", "silent"):
        for student in outcome.of(kind):
            row = outcome.marks[student.login]
            # A platform says that somebody was late and not for how long: for a person to look at.
            said = row["to look into"] if kind == "late" and student.on_platform else row["reasons"]
            assert said, student


def test_what_does_not_come_out_is_said(outcome):
    """Each thing that has to come out is taken away once."""
    first = outcome.students[0].login
    question, _ = simulation.MISCONCEPTION
    nothing = {"mark": "", "reasons": ""}
    unflagged = [replace(each, flags=[]) for each in outcome.graded]
    wrong = [replace(each, marks={**each.marks, "00.1": Mark(state="contradicts")})
             if each.submission.student == first else each for each in outcome.graded]  # fmt: skip
    broken = {
        "neither a mark nor a reason": {"marks": {**outcome.marks, first: nothing}},
        "does not show": {"wrong": {**outcome.wrong, question: []}},
        "not those of who copied": {"alike": []},
        "reported as shared": {"graded": unflagged},
        f"{first} (honest) is not right in 00.1": {"graded": wrong},
    }
    for sentence, changes in broken.items():
        (said,) = simulation.wanting(replace(outcome, **changes))
        assert sentence in said


def test_honest_work_has_most_and_invented_numbers_less(outcome):
    marks = {kind: [float(outcome.marks[s.login]["mark"]) for s in outcome.of(kind)]
             for kind in ("honest", "invented", "silent")}  # fmt: skip
    assert min(marks["honest"]) > 75 and max(marks["invented"]) < min(marks["honest"])
    assert marks["silent"] == [0, 0]
    for student in outcome.of("honest"):
        assert outcome.marks[student.login]["exercises (of 25)"] == "25.0"


def test_what_is_broken_is_named_and_costs_its_lesson_alone(outcome):
    for student in outcome.of("broken"):
        row = outcome.marks[student.login]
        said = [line for line in outcome.said if student.login in line]
        if student.on_platform:
            assert any("not a readable zip" in line for line in said)
            assert "not a readable zip" in row["to look into"]
            assert float(row["mark"]) == 0
        else:
            assert any("not valid JSON" in line for line in said)
            assert 0 < float(row["exercises (of 25)"]) < 25
            assert "00_setup: no notebook that could be graded" in row["reasons"]


def test_who_is_late_is_said_to_be_and_loses_nothing(outcome):
    on_time = {s.on_platform: float(outcome.marks[s.login]["exercises (of 25)"])
               for s in outcome.of("honest")}  # fmt: skip
    for student in outcome.of("late"):
        row = outcome.marks[student.login]
        said = "handed in late" if student.on_platform else f"{simulation.HOURS_LATE} hours late"
        assert said in row["to look into" if student.on_platform else "reasons"]
        assert float(row["exercises (of 25)"]) == on_time[student.on_platform]
