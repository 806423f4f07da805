"""One mark a student, by hand: 50 for questions, 25 for exercises, 25 for explanations."""

import csv
import io
import json

import pytest

from labkit.checkpoints import grade, join
from labkit.checkpoints.questions import load_questions, marked_questions
from labkit.cli.program import main
from labkit.errors import LabkitError

HEAD = ["student", "submission", "points", "of", "flags", "remarks"]
LESSON = ["student", "lesson", "points", "of", "needs_reading", "handed_in", "late_hours"]
TWO = [question for question in marked_questions() if question[:2] in ("00", "02")]


@pytest.fixture(autouse=True)
def two_lessons(monkeypatch):
    """Two lessons: their marked questions, worth 2 and 4 points, and one that is not marked."""
    assert [question[:2] for question in TWO] == ["00", "02"]
    monkeypatch.setattr(join, "marked_questions", lambda: tuple(TWO))


def questions(*rows, sep=",") -> str:
    """A table of questions: (student, points, explanation, rubric) of the two, and one beside."""
    first, second = TWO
    head = [*HEAD]
    for title, name in ((f"{first} (of 2)", first), ("00.9 (of 4)", "00.9"),
                        (f"{second} = 2 (of 4)", second)):  # fmt: skip
        head += [title, f"{name} explanation", f"{name} rubric"]
    lines = []
    for student, one, beside, two in rows:
        cells = [student, "x", "", "", "", "", *one, str(beside), "unread", "", *two]
        lines.append(cells)
    out = io.StringIO()
    csv.writer(out, delimiter=sep).writerows([head, *lines])
    return out.getvalue()


def exercises(*rows) -> str:
    out = io.StringIO()
    csv.writer(out).writerows([LESSON, *rows])
    return out.getvalue()


FULL = ("anna", ("2", "why", "3"), 4, ("4", "why", "3"))
SOLVED = [("anna", "00_setup", 1, 1, False, True, ""), ("anna", "02_lora", 3, 3, False, True, "")]


def joined(tmp_path, table, solved, *options) -> dict[str, dict[str, str]]:
    (tmp_path / "q.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    (tmp_path / "e.csv").write_text(exercises(*solved))
    join.write_marks(tmp_path / "q.csv", tmp_path / "e.csv", tmp_path / "m.csv", options)
    return read(tmp_path / "m.csv")


def read(file) -> dict[str, dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return {row["student"]: row for row in csv.DictReader(lines)}


def test_every_lesson_has_one_marked_question():
    every = sorted({asked.id[:2] for asked in load_questions().values()})
    assert sorted(q.id[:2] for q in load_questions().values() if q.marked) == every


def test_all_points_are_a_hundred_and_half_of_each_part_half_of_it(tmp_path):
    half = ("boris", ("1", "why", "1"), 2, ("2", "why", "2"))
    rows = [*SOLVED, ("boris", "00_setup", 1, 1, False, True, ""),
            ("boris", "02_lora", 1, 3, False, True, "")]  # fmt: skip
    marks = joined(tmp_path, questions(FULL, half), rows)
    assert marks["anna"]["mark"] == "100" and marks["anna"]["reasons"] == ""
    # 50 · 5/10, 25 · 2/4, 25 · 3/6
    assert marks["boris"]["mark"] == "50"
    parts = ("questions (of 50)", "exercises (of 25)", "explanations (of 25)")
    assert [marks["boris"][part] for part in parts] == ["25.0", "12.5", "12.5"]


def test_each_part_is_worth_what_the_syllabus_says(tmp_path):
    nothing = ("{}", ("0", "", ""), 0, ("0", "", ""))
    for name, row, rows, mark in [
        ("numbers", ("x", ("2", "", ""), 4, ("4", "", "")), [], 50),
        ("code", nothing, [("x", *row[1:]) for row in SOLVED], 25),
        ("words", ("x", ("0", "why", "3"), 0, ("0", "why", "3")), [], 25),
    ]:
        row = ("x", *row[1:])
        others = [("anna", *each[1:]) for each in SOLVED]
        found = joined(tmp_path, questions(row, FULL), [*rows, *others])
        assert float(found["x"]["mark"]) == mark, name


def test_an_explanation_that_waits_gives_no_mark_but_a_reason(tmp_path):
    waits = ("boris", ("2", "because", ""), 4, ("4", "why", "3"))
    marks = joined(tmp_path, questions(FULL, waits), SOLVED)
    assert marks["boris"]["mark"] == ""
    assert f"the explanation of {TWO[0]} has no rubric points yet" in marks["boris"]["reasons"]
    with (tmp_path / "m.canvas.csv").open(newline="") as lines:
        assert [row[-1] for row in csv.reader(lines)] == ["labkit", "100", "100", ""]


def test_everybody_has_a_mark_or_a_reason(tmp_path):
    silent = ("carl", ("2", "", ""), 4, ("4", "", ""))
    rows = [*SOLVED, ("dana", "00_setup", 1, 1, False, True, 30.5),
            ("dana", "02_lora", 0, 3, False, False, "")]  # fmt: skip
    marks = joined(tmp_path, questions(FULL, silent), rows)
    assert set(marks) == {"anna", "carl", "dana"}
    assert marks["carl"]["mark"] == "50"
    assert "no notebook in the gradebook" in marks["carl"]["reasons"]
    assert f"no explanation of {TWO[1]}" in marks["carl"]["reasons"]
    assert marks["dana"]["mark"] == f"{25 / 4:.1f}".rstrip("0")
    for said in ("no answers handed in", "00_setup: 30.5 hours late", "02_lora: no notebook"):
        assert said in marks["dana"]["reasons"]


def test_of_two_submissions_the_better_counts_and_is_said(tmp_path):
    worse = ("anna", ("1", "why", "0"), 0, ("0", "why", "0"))
    for order in ((FULL, worse), (worse, FULL)):
        marks = joined(tmp_path, questions(*order), SOLVED)
        assert marks["anna"]["mark"] == "100"
        assert "handed in more than once" in marks["anna"]["reasons"]


def test_only_the_lessons_that_are_named_count(tmp_path):
    early = ("boris", ("2", "why", "3"), 4, ("0", "", ""))
    rows = [*SOLVED, ("boris", "00_setup", 1, 1, False, True, "")]
    assert joined(tmp_path, questions(FULL, early), rows, "00")["boris"]["mark"] == "100"
    assert joined(tmp_path, questions(FULL, early), rows)["boris"]["mark"] == "48.8"
    with pytest.raises(LabkitError, match="--lesson 07: the tables have 00, 02"):
        joined(tmp_path, questions(FULL, early), rows, "07")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("sep", [",", ";", "\t"])
def test_a_table_may_come_back_from_any_spreadsheet(tmp_path, encoding, sep):
    comma = ("Jürgen", ("1,5", "weil; darum, so", "2,5"), "4", ("4", "why", "3"))
    text = questions(comma, sep=sep).replace("\r\n", "\n")
    marks = joined(tmp_path, text.encode(encoding), [])
    assert marks["Jürgen"]["mark"] == f"{50 * 9.5 / 10 + 25 * 5.5 / 6:.1f}"


def test_other_students_names_are_for_the_instructor_alone(tmp_path):
    table = questions(FULL).replace(",x,,,,,", ",x,,,the same record 17 as boris,,")
    marks = joined(tmp_path, table, SOLVED)
    assert marks["anna"]["to look into"] == "the same record 17 as boris"
    for name in ("m.canvas.csv", "m.moodle.csv"):
        assert "boris" not in (tmp_path / name).read_text()


def test_canvas_and_moodle_get_their_own_ids_and_others_a_login(tmp_path):
    rows = [(name, *FULL[1:]) for name in
            ("doejane-canvas-12345", "Jane-Doe-moodle-77", "jdoe", "=1+1")]  # fmt: skip
    joined(tmp_path, questions(*rows), [])
    with (tmp_path / "m.canvas.csv").open(newline="") as lines:
        head, possible, *table = csv.reader(lines)
    # What Canvas's importer looks for: Student, ID, SIS User ID, SIS Login ID, Section.
    assert head == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "labkit"]
    assert possible[0] == "Points Possible" and possible[-1] == "100"
    assert ["doejane", "12345", "", "", "", "75"] in table
    assert ["jdoe", "", "", "jdoe", "", "75"] in table
    assert ["'=1+1", "", "", "'=1+1", "", "75"] in table
    with (tmp_path / "m.moodle.csv").open(newline="") as lines:
        moodle = {row["Full name"]: row for row in csv.DictReader(lines)}
    assert moodle["Jane-Doe"]["Identifier"] == "Participant 77"
    assert moodle["Jane-Doe"]["Grade"] == "75" and "Last modified (grade)" in moodle["jdoe"]
    assert moodle["jdoe"]["Identifier"] == "" and moodle["jdoe"]["Username"] == "jdoe"


BAD = {
    "text": (questions(("anna", ("two", "", ""), 4, ("4", "", ""))), "'two' is not a number"),
    "too many": (questions(("anna", ("3", "", ""), 4, ("4", "", ""))), "3 is not from 0 to 2"),
    "rubric": (questions(("anna", ("2", "w", "4"), 4, ("4", "", ""))), "4 is not from 0 to 3"),
    "nan": (questions(("anna", ("nan", "", ""), 4, ("4", "", ""))), "is not a number of points"),
    "negative": (questions(("anna", ("-1", "", ""), 4, ("4", "", ""))), "-1 is not from 0 to 2"),
    "no head": ("a,b\n1,2\n", "has no column 'student'"),
    "no questions": ("student,points\nanna,2\n", "has no column such as '00.1"),
    "empty": ("", "has no column 'student'"),
    "no text": (b"student,points\xff\xfa", "is not text in UTF-8"),
    "nobody": (questions(), "have no student in them"),
}


@pytest.mark.parametrize(("table", "says"), BAD.values(), ids=BAD)
def test_a_wrong_table_is_a_sentence_and_writes_nothing(tmp_path, table, says):
    with pytest.raises(LabkitError, match=says):
        joined(tmp_path, table, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.csv", "q.csv"]


def test_the_command_joins_what_grade_wrote(tmp_path, capsys):
    """The table that `grade` writes, its rubric filled in, is one that `--join` reads."""
    (tmp_path / "class" / "anna").mkdir(parents=True)
    fields = {"rate": 4, "full_ceiling": 2, "frozen_ceiling": 4, "explanation": "two of three"}
    given = {"schema": 1, "answers": {"04.4": {"fields": fields}}}
    (tmp_path / "class" / "anna" / "answers.json").write_text(json.dumps(given))
    grade.write_grades(tmp_path / "class", tmp_path / "q.csv")
    (tmp_path / "e.csv").write_text(exercises(("anna", "04_x", 2, 2, False, True, "")))
    with pytest.raises(SystemExit) as left:
        main(["grade", str(tmp_path / "q.csv"), "--join", str(tmp_path / "e.csv"),
              "-o", str(tmp_path / "m.csv"), "--lesson", "04", "--json"])  # fmt: skip
    assert left.value.code == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["students"] == 1 and outcome["without_mark"] == []
    worth = sum(each.points for each in load_questions().values() if each.id[:2] == "04")
    got = read(tmp_path / "q.csv")["anna"]["points"]
    share = 50 * float(got) / worth + 25
    assert float(read(tmp_path / "m.csv")["anna"]["mark"]) == pytest.approx(share, abs=0.05)
