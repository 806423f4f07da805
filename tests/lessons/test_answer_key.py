"""The answer key has a section for each question, of one form, and students do not get it."""

import re
from pathlib import Path

import pytest

from labkit.checkpoints.questions import load_questions

LESSONS = Path(__file__).parents[2] / "lessons"
KEY = (LESSONS / "ANSWERS.md").read_text(encoding="utf-8")
SECTIONS = {
    match[1]: match[0]
    for match in re.finditer(r"^## (\d\d\.\d+)( ★)?$.*?(?=^## |\Z)", KEY, re.MULTILINE | re.DOTALL)
}
FEWEST = 3


def test_every_question_has_a_section_and_no_other_has_one():
    assert list(SECTIONS) == list(load_questions())


@pytest.mark.parametrize("name", load_questions())
def test_a_section_says_cause_misconceptions_and_full_mark(name):
    section, asked = SECTIONS[name], load_questions()[name]
    assert section.startswith(f"## {name} ★") == asked.marked
    parts = [section.index(f"**{part}.**") for part in ("Cause", "Full mark")]
    table = section[parts[0] : parts[1]].split("|---|---|")[1].strip().splitlines()
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table]
    assert parts[0] < parts[1] and len(rows) >= FEWEST
    assert all(len(row) == 2 and all(len(cell) > 10 for cell in row) for row in rows)


@pytest.mark.parametrize("name", load_questions())
def test_what_a_misconception_shows_in_are_fields_of_the_question(name):
    fields = {field.name for field in load_questions()[name].fields}
    named = set(re.findall(r"`(\w+)`", SECTIONS[name]))
    assert named <= fields, "a field was renamed, or belongs to another question"
    assert any(f"`{field}`" in SECTIONS[name] for field in fields - {"explanation"})
