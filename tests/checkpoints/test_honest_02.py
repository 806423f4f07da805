"""Answers of lesson 02 that look odd and are right: a slow machine, a tie, a zero, a rounding."""

import runpy
from pathlib import Path

import pytest

from labkit.checkpoints import check
from labkit.checkpoints.questions import load_questions

HONEST = runpy.run_path(str(Path(__file__).with_name("cases_02.py")))["HONEST"]
ROWS = [
    pytest.param(question, *row, id=f"{question}-{i}")
    for question, rows in HONEST.items()
    for i, row in enumerate(rows)
]


def test_each_question_has_three():
    assert set(HONEST) == {q for q in load_questions() if q.startswith("02.")}
    assert all(len(rows) >= 3 for rows in HONEST.values())


@pytest.mark.parametrize(("question", "change", "besides"), ROWS)
def test_an_odd_and_honest_answer_is_accepted(question, change, besides, right_answer, record):
    right = right_answer(question)
    if besides:
        besides(record)
    verdict = check(question, **{**right, **change})
    assert verdict.state == "consistent", str(verdict)
