"""Honest answers that look odd are accepted: a slow machine, a tie, a zero, a rounded number.

`HONEST` of a lesson's `cases_NN.py` is `{question: [(changes to the right answer, what was measured
besides, or None)]}`. Leaving a part out is honest too: it is missing then, and contradicts nothing.
"""

from labkit.checkpoints import check
from labkit.checkpoints.questions import load_questions

FEWEST = 3


def test_a_lesson_that_has_odd_answers_has_them_for_each_question(odd_cases):
    assert odd_cases
    for lesson, table in odd_cases.items():
        assert set(table) == {q for q in load_questions() if q.startswith(lesson)}
        assert all(len(rows) >= FEWEST for rows in table.values())


def test_an_odd_and_honest_answer_is_accepted(odd_answer, right_answer, record):
    question, change, besides = odd_answer
    right = right_answer(question)
    if besides:
        besides(record)
    verdict = check(question, **{**right, **change})
    left_out = [name for name, value in change.items() if value is None]
    assert verdict.state == ("incomplete" if left_out else "consistent"), str(verdict)
    assert all(any(line.startswith(name) for name in left_out) for line in verdict.missing)
