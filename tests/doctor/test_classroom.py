"""What a class needs, by hand, and what neighbours do, on this machine."""

import json
import re
from pathlib import Path

import pytest

from labkit.cli.program import main
from labkit.course import pairing, site
from labkit.doctor import classroom
from labkit.errors import LabkitError
from labkit.machine import arithmetic
from labkit.machine.datasheets import GIB

LESSONS = Path(__file__).parents[2] / "lessons"
RATES = arithmetic.Rates(float32=165e9, bfloat16=1373e9, bandwidth_bytes_per_second=28e9)


def test_minutes_and_memory_are_those_of_the_first_cells():
    said: dict[str, tuple[int, int]] = {}
    for path in sorted(LESSONS.glob("[0-9][0-9]*_*.py")):
        facts = site.describe(path.stem, pairing.build(path)).facts
        minutes = int(re.match(r"\d+", facts["minutes"])[0])
        memory = int(re.search(r"(\d+) GiB", facts["hardware"])[1])
        before = said.get(path.stem[:2], (0, 0))
        # A lesson in several sittings is one here.
        said[path.stem[:2]] = (before[0] + minutes, max(before[1], memory))
    assert said == classroom.LESSONS


def test_a_lesson_that_is_mostly_read_holds_more_students_than_pairs_of_cores():
    # 90 minutes of which 30 compute: a third of the time, so 0.7 · 8 pairs · 3 = 16.8.
    found = classroom.needs("01", 30 * 60, 80, cores=16, memory_bytes=1000 * GIB)
    assert found.at_once == 16 and found.limited_by == "cores" and found.waves == 5
    # All at once: 80 / 3 / 0.7 = 38.1 pairs.
    assert found.class_cores == 2 * 39
    assert found.core_hours == pytest.approx(80 * 2 * 30 / 60)
    assert found.class_bytes == (80 * 6 + 2) * GIB  # 5 + 1 GiB a server


def test_a_lesson_that_measures_shares_no_core():
    found = classroom.needs("04", 20 * 60, 80, cores=16, memory_bytes=1000 * GIB)
    assert found.at_once == 8 and found.waves == 10 and found.class_cores == 160


def test_memory_is_the_limit_where_it_is_the_smaller():
    # A server of 02 has 8 + 1 GiB: (64 - 2) / 9 = 6.9.
    found = classroom.needs("02", 20 * 60, 80, cores=64, memory_bytes=64 * GIB)
    assert found.at_once == 6 and found.limited_by == "memory" and found.waves == 14


def test_a_machine_that_holds_nobody_says_so():
    found = classroom.needs("02", 60, 80, cores=2, memory_bytes=4 * GIB)
    assert found.at_once == 0 and found.waves is None


def test_a_machine_that_holds_everybody_is_limited_by_nothing():
    found = classroom.needs("00", 60, 3, cores=64, memory_bytes=1000 * GIB)
    assert found.at_once == 3 and found.limited_by == "nothing" and found.waves == 1


def test_the_command_says_it_as_text_and_as_json(monkeypatch, capsys):
    beside = classroom.Neighbours(
        busy_processes=2, slowdown=1.9, spread_alone=0.05, spread_beside=0.4, ratio_alone=3.0,
        ratio_beside=2.9, ratio_spread_alone=0.04, ratio_spread_beside=0.3,
    )  # fmt: skip
    monkeypatch.setattr(classroom, "neighbours", lambda busy: beside)
    monkeypatch.setattr(arithmetic, "rates", lambda fresh=False: RATES)
    for words in ([], ["--json"]):
        with pytest.raises(SystemExit) as left:
            main(["doctor", "--class", "80", *words])
        assert left.value.code == 0
        said = capsys.readouterr().out
    found = json.loads(said)["class"]
    assert found["students"] == 80 and found["class_homes_bytes"] == 80 * found["home_bytes"]
    assert [each["lesson"] for each in found["lessons"]] == list(classroom.LESSONS)
    text = classroom.render(classroom.plan(80))
    assert "takes 1.9 times as long" in text and "40% instead of 5%" in text


@pytest.mark.parametrize("students", [0, -3, 10**9])
def test_a_number_that_is_no_class_is_a_sentence(students):
    with pytest.raises(LabkitError, match="give the number of students"):
        classroom.plan(students)


def test_busy_processes_are_gone_afterwards_and_the_figures_are_quotients():
    import psutil

    before = {child.pid for child in psutil.Process().children()}
    found = classroom.neighbours(1, seconds=0.05)
    assert {child.pid for child in psutil.Process().children()} <= before
    assert found.slowdown > 0 and found.ratio_alone > 0 and found.spread_beside >= 0
