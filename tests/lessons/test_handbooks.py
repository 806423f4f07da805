"""What syllabus and instructor's manual say about lessons, files and commands is so."""

import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from labkit.checkpoints import join
from labkit.checkpoints.questions import load_questions, marked_questions
from labkit.course import pairing, site

ROOT = Path(__file__).parents[2]
LESSONS = ROOT / "lessons"
MANUAL = (LESSONS / "INSTRUCTOR.md").read_text()
SYLLABUS = (LESSONS / "SYLLABUS.md").read_text()
ROWS = [
    (number, [cell.strip() for cell in row.split("|")])
    for row in re.findall(r"^\| \d+ \|(.+)\|$", SYLLABUS, re.MULTILINE)
    for number in re.findall(r"^ \[?(\d\d)", row)
]
NUMBERS = [number for number, _ in ROWS]


def test_every_lesson_of_the_course_has_a_row():
    assert list(dict.fromkeys(NUMBERS)) == [f"{number:02}" for number in range(10)]


@pytest.mark.parametrize(("number", "row"), ROWS)
def test_a_row_with_a_link_says_what_its_lesson_says(number, row):
    title, minutes, _, questions, needs = row
    link = re.search(r"\((\w+)\.ipynb\)", title)
    if link is None:
        assert not minutes and not questions, "a lesson that is not written has no minutes"
        return
    lesson = site.describe(link[1], pairing.build(LESSONS / f"{link[1]}.py"))
    assert lesson.facts["minutes"].split(",")[0].split()[0] == minutes
    asked = [each.id for each in load_questions().values() if each.lesson == link[1]]
    said = asked[0] if len(asked) == 1 else f"{asked[0]} to {asked[-1]}"
    assert questions == said, "the questions are numbered without gaps"
    for earlier in re.findall(r"\b\d\d\b", needs):
        assert earlier in NUMBERS and earlier <= number  # of a lesson, another sitting


@pytest.mark.parametrize("text", [MANUAL, SYLLABUS], ids=["INSTRUCTOR", "SYLLABUS"])
def test_links_lead_somewhere(text):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (LESSONS / target).exists(), target


def test_the_manual_names_the_questions_whose_explanations_are_marked():
    (named,) = re.findall(r"you mark one a lesson, those of (.+?): with", MANUAL)
    assert re.findall(r"\d\d\.\d", named) == list(marked_questions())
    every = len(load_questions())
    for students, marked, all_ in re.findall(
        r"with (\w+) students (\d+) instead of ([\d,]+)", MANUAL
    ):
        assert students == "eighty" and int(marked) == 80 * len(marked_questions())
        assert int(all_.replace(",", "")) == 80 * every


def test_the_parts_of_a_mark_are_those_that_are_joined():
    rows = dict(re.findall(r"^\| (questions|exercises|explanations) \| (\d+) \|", MANUAL, re.M))
    assert {name: float(worth) for name, worth in rows.items()} == {
        "questions": join.QUESTIONS, "exercises": join.EXERCISES,
        "explanations": join.EXPLANATIONS,
    }  # fmt: skip
    assert join.QUESTIONS + join.EXERCISES + join.EXPLANATIONS == 100


def test_the_commands_of_the_manual_exist():
    from labkit.cli.program import app

    commands = get_command(app).commands
    for name in re.findall(r"\blabkit ([a-z]+)\b(?! \w+\()", " ".join(code(MANUAL))):
        assert name in commands, name
    options = {option for p in commands["check"].params for option in p.opts}
    assert "--hand-in" in options and "labkit check --hand-in" in MANUAL
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z-]+)", " ".join(code(MANUAL))):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def code(text: str) -> list[str]:
    """Everything in the text that is set as code."""
    return re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL)


def test_the_chart_values_are_yaml_and_name_what_labkit_reads():
    (values,) = re.findall(r"```yaml\n(.+?)```", MANUAL, re.DOTALL)
    chart = yaml.safe_load(values)
    server = chart["singleuser"]
    mounts = {mount["name"]: mount for mount in server["storage"]["extraVolumeMounts"]}
    assert {volume["name"] for volume in server["storage"]["extraVolumes"]} == set(mounts)
    assert mounts["models"]["mountPath"] == server["extraEnv"]["LABKIT_MODELS"]
    assert mounts["models"]["readOnly"] and mounts["shm"]["mountPath"] == "/dev/shm"
    assert [profile.get("default", False) for profile in server["profileList"]].count(True) == 1
    assert f"ARG NB_UID={server['uid']}" in (ROOT / "Dockerfile").read_text()
