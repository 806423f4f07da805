"""A lesson's minutes are what its text asks for, and its points follow its minutes."""

import re
from collections import Counter
from pathlib import Path

import pytest

from labkit.checkpoints import join
from labkit.checkpoints.questions import load_questions
from labkit.course import pairing, release, site
from labkit.doctor.minutes import lesson_seconds, number
from labkit.machine.arithmetic import Rates
from labkit.runs.profiles import PROFILES

LESSONS = Path(__file__).parents[2] / "lessons"
SOURCES = {path.stem: path for path in sorted(LESSONS.glob("[0-9][0-9]_*.py"))}

WORDS_A_MINUTE = 150
"""People read 238 words of plain prose a minute (Brysbaert 2019); these are formulas and tables."""
QUESTION_MINUTES = 4
BAND = 0.2
UNITS = Rates(float32=190e9, bfloat16=410e9, bandwidth_bytes_per_second=27e9)
AVX2 = Rates(float32=149e9, bfloat16=5e9, bandwidth_bytes_per_second=25e9)
"""what `labkit doctor` measures on two cores of a Zen 4, with its units and playing AVX2"""


def stated(name: str) -> tuple[int, int]:
    """Return the minutes that a lesson's first cell says, and those of them that are waiting."""
    text = site.describe(name, pairing.build(SOURCES[name])).facts["minutes"]
    match = re.match(r"(\d+)(?:, of which (\d+) are waiting)?", text)
    return int(match[1]), int(match[2] or 0)


def asked_for(name: str) -> float:
    """Return the minutes of reading, of the exercises as they say, of questions and of waiting."""
    prose = "\n".join(c.source for c in pairing.build(SOURCES[name]).cells
                      if c.cell_type == "markdown")  # fmt: skip
    exercises = re.findall(rf"^\*(?:{'|'.join(release.POINTS)}), (\d+) minutes", prose, re.M)
    assert exercises, "an exercise says its minutes"
    questions = [each for each in load_questions().values() if each.lesson == name]
    words = len(re.findall(r"\w+", prose))
    return (words / WORDS_A_MINUTE + sum(map(int, exercises))
            + QUESTION_MINUTES * len(questions) + stated(name)[1])  # fmt: skip


def points() -> tuple[Counter, Counter, Counter]:
    """Return the points of questions and of exercises, and the marked explanations, by lesson."""
    questions, marked = Counter(), Counter()
    for each in load_questions().values():
        questions[each.lesson] += each.points
        marked[each.lesson] += each.marked
    exercises = Counter({
        name: sum(cell.metadata.get("nbgrader", {}).get("points", 0)
                  for cell in release.assignment(path).cells)
        for name, path in SOURCES.items()
    })  # fmt: skip
    return questions, exercises, marked


@pytest.mark.parametrize("name", SOURCES)
def test_a_lesson_states_the_minutes_that_it_asks_for(name):
    whole, waiting = stated(name)
    assert waiting < whole
    assert asked_for(name) == pytest.approx(whole, rel=0.15)


@pytest.mark.parametrize("name", SOURCES)
def test_a_lesson_computes_no_longer_than_it_says_that_you_wait(name):
    whole, waiting = stated(name)
    with_units, without = (
        lesson_seconds(PROFILES["cpu"], rates)[number(name)] / 60 for rates in (UNITS, AVX2)
    )
    assert with_units <= 1.1 * waiting + 1
    assert without <= 0.7 * whole


def test_points_are_proportional_to_minutes():
    questions, exercises, _ = points()
    minutes = {name: stated(name)[0] for name in SOURCES}
    mean = (questions.total() + exercises.total()) / sum(minutes.values())
    for name in SOURCES:
        rate = (questions[name] + exercises[name]) / minutes[name]
        assert rate == pytest.approx(mean, rel=BAND), f"{name}: {10 * rate:.2f} in ten minutes"


def test_a_lesson_counts_in_the_mark_as_much_as_it_takes_time():
    parts = zip(points(), (join.QUESTIONS, join.EXERCISES, join.EXPLANATIONS), strict=True)
    share, minutes = Counter(), Counter()
    for found, worth in parts:
        for name, count in found.items():
            share[name[:2]] += worth * count / found.total()  # sittings count together, as in join
    for name in SOURCES:
        minutes[name[:2]] += stated(name)[0]
    assert share.total() == pytest.approx(100)
    for lesson, taken in minutes.items():
        expected = 100 * taken / minutes.total()
        assert share[lesson] == pytest.approx(expected, rel=BAND), lesson
