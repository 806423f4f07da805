"""Grading: the notebook's verdicts again, from what was handed in, whatever was handed in."""

import csv
import json
import shutil
import zipfile
from pathlib import Path

import nbformat
import pytest

from labkit.checkpoints import check, grade, hand_in
from labkit.checkpoints.marks import Graded
from labkit.checkpoints.questions import load_questions
from labkit.checkpoints.submissions import read
from labkit.errors import LabkitError
from labkit.models.registry import known_names
from labkit.runs.records import runs_dir

REAL = Path(__file__).parents[2] / "data" / "results" / "lora_vs_full.lora.json"
CEILINGS = {"card": "my laptop", "rate": 4, "full_ceiling": 2, "frozen_ceiling": 4}
WHY = "of three products only two are done in int8 when the weights are trained {}"


@pytest.fixture
def class_(tmp_path):
    """Return a folder for submissions."""
    folder = tmp_path / "class"
    folder.mkdir()
    return folder


def answers(*, question="04.4", student="me", **fields) -> dict:
    fields = {**CEILINGS, "explanation": WHY.format(student), **fields}
    return {"schema": 1, "answers": {question: {"fields": fields}}}


def submit(class_: Path, student: str, *, given=None, records=()) -> Path:
    folder = class_ / student
    folder.mkdir()
    text = given if isinstance(given, str) else json.dumps(given or answers(student=student))
    (folder / "answers.json").write_text(text)
    for number, record in enumerate(records):
        (folder / "runs" / str(number)).mkdir(parents=True)
        (folder / "runs" / str(number) / "record.json").write_text(json.dumps(record))
    return folder


def real_record(**changes) -> dict:
    return {**json.loads(REAL.read_text()), **changes}


def rows(file: Path) -> dict[str, dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return {row["student"]: row for row in csv.DictReader(lines)}


def graded(class_: Path) -> dict[str, Graded]:
    return {each.submission.student: each for each in grade.grade(class_)[0]}


# --- the same verdict ----------------------------------------------------------------------


def notebook(verdict) -> nbformat.NotebookNode:
    """Return a notebook whose one cell shows a verdict, as a kernel stores it."""
    from IPython.core.formatters import DisplayFormatter

    data, _ = DisplayFormatter().format(verdict)
    output = nbformat.v4.new_output("execute_result", data=json.loads(json.dumps(data)))
    code = "open('executed', 'w').write('oh no')\nimport os; os._exit(3)"
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code, outputs=[output])])
    nbformat.validate(made)
    return made


def test_folder_zip_and_notebook_get_the_verdict_of_the_notebook(
    each_question, right_answer, cases, tmp_path, class_, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    right = right_answer(each_question)
    runs_dir().mkdir(exist_ok=True)
    for number, change in enumerate([{}, *(change for change, _ in cases[each_question][1])]):
        verdict = check(each_question, **{**right, **change})
        hand_in(class_ / f"zip{number}.zip")
        nbformat.write(notebook(verdict), class_ / f"notebook{number}.ipynb")
        elsewhere = {**cases[each_question][0], **change}.get("model", "tiny-llama")
        folder = class_ / f"folder{number}"
        shutil.copytree(runs_dir(), folder / "home" / "runs")
        shutil.copy(runs_dir().parent / "answers.json", folder / "home")
        for name, each in graded(class_).items():
            mark = each.marks[each_question]
            assert each.submission.remarks == []
            if elsewhere not in known_names():  # what it names means nothing on the grader's
                assert mark.state != "consistent"
                continue
            assert mark.state == verdict.state, (name, change, mark)
            assert set(mark.found) == {*verdict.contradicts, *verdict.missing}
            full = mark.points == load_questions()[each_question].points
            assert full == (verdict.state == "consistent")
        shutil.rmtree(class_)
        class_.mkdir()
    assert not (tmp_path / "executed").exists()


def test_a_model_of_another_machine_is_not_looked_for(class_, monkeypatch):
    from labkit.models import registry

    def never(*args, **kwargs):
        raise AssertionError("the grader must not look for a student's model")

    monkeypatch.setattr(registry, "resolve", never)
    known = {"weights_bytes": 2 * 134_515_008, "float32_bytes": 4 * 134_515_008}
    for name in ("smollm2-135m-instruct", "/etc", "someone/model"):
        given = answers(question="00.1", model=name, **known)
        for field in CEILINGS:
            del given["answers"]["00.1"]["fields"][field]
        submit(class_, name.split("/")[-1], given=given)
    marks = {name: each.marks["00.1"] for name, each in graded(class_).items()}
    assert marks["smollm2-135m-instruct"].state == "consistent"
    for name in ("etc", "model"):
        assert marks[name].state == "incomplete" and marks[name].points < 1
        assert any("is not in labkit's registry" in line for line in marks[name].found)


def test_the_latest_answer_counts_and_what_the_file_says_of_itself_does_not(class_):
    folder = submit(class_, "anna")
    late = answers(full_ceiling=3)
    late["answers"]["04.4"] |= {"recorded_at": "2026-02-02T00:00:00+00:00", "state": "consistent"}
    (folder / "later").mkdir()
    (folder / "later" / "answers.json").write_text(json.dumps(late))
    mark = graded(class_)["anna"].marks["04.4"]
    assert mark.state == "contradicts"
    assert mark.points == 1.0  # two of three agree, of two points: 1.33, in halves


def test_points_are_the_share_of_findings_that_agree(right_answer, class_):
    right = right_answer("02.2")
    check("02.2", **{**right, "time_ratio": 9.0})
    hand_in(class_ / "a.zip")
    mark = graded(class_)["a"].marks["02.2"]
    assert load_questions()["02.2"].points == 3
    assert mark.points == 2.0 and len(mark.found) == 1  # three of four agree: 2.25, in halves


def test_answers_without_their_records_are_refused_in_a_sentence(class_, right_answer):
    check("02.1", **right_answer("02.1"))
    hand_in(class_ / "a.zip")
    with zipfile.ZipFile(class_ / "a.zip") as archive:
        submit(class_, "b", given=archive.read("answers.json").decode())
    mark = graded(class_)["b"].marks["02.1"]
    assert mark.state == "refused" and mark.points == 0
    assert mark.found == ("question 02.1, run: no run 'id-lora' among the runs handed in: "
                          "there are no runs yet",)  # fmt: skip


def test_a_rule_that_breaks_is_a_remark_and_stops_nobody(class_, monkeypatch):
    from labkit.checkpoints.collecting import collect

    def broken(values, evidence):
        yield values["a field nobody has"]

    submit(class_, "anna")
    monkeypatch.setitem(collect("rules"), "04.4", broken)
    each = graded(class_)["anna"]
    assert each.marks["04.4"].state == "refused"
    assert each.submission.remarks == ["04.4: cannot be judged (KeyError: 'a field nobody "
                                       "has')"]  # fmt: skip


def test_half_a_character_in_a_record_stops_nobody(class_, tmp_path, right_answer):
    answer = right_answer("02.1")
    submit(class_, "anna")
    odd = real_record(model={"name": "x\ud800", "sha256": "0"}, config={"\ud800": 1})
    fields = {key: value for key, value in answer.items() if key != "run"}
    given = answers(question="02.1", student="odd", run=odd["name"], **fields)
    submit(class_, "odd", given=given, records=[odd, real_record(id="b", name="b")])
    outcome = grade.write_grades(class_, tmp_path / "grades.csv")
    assert set(rows(tmp_path / "grades.csv")) == {"anna", "odd"} and outcome["submissions"] == 2
    monstrous = {tmp_path / "one.txt": "a\ud800b"}
    grade.write_together(monstrous)
    assert (tmp_path / "one.txt").read_text() == "a\\ud800b"


# --- copies and figures --------------------------------------------------------------------


def test_copies_are_found_and_named_on_both_sides(class_):
    changed_id = real_record(id="another")
    submit(class_, "anna", records=[real_record()])
    submit(class_, "boris", records=[changed_id], given=answers(student="anna"))
    submit(class_, "chen")
    found = {name: each.flags for name, each in graded(class_).items()}
    assert found["chen"] == []
    assert found["anna"] == ["the same step times of a run as boris",
                             "the same explanation of 04.4 as boris"]  # fmt: skip
    assert found["boris"] == [line.replace("boris", "anna") for line in found["anna"]]
    for number in range(5):
        submit(class_, f"d{number}", records=[real_record()])
    found = {name: each.flags for name, each in graded(class_).items()}
    assert f"the same record {real_record()['id']} as d0, d1, d2 and 2 more" in found["anna"]
    assert not any("the same record" in line for line in found["boris"])


def test_one_student_s_two_submissions_are_no_copies(class_):
    folder = submit(class_, "anna", records=[real_record()])
    shutil.make_archive(str(class_ / "anna"), "zip", folder)
    both, _ = grade.grade(class_)
    assert [each.flags for each in both] == [[], []]
    assert all("handed in more than once" in each.submission.remarks[-1] for each in both)


def test_impossible_and_edited_figures_are_flagged_and_take_no_points(class_):
    fast = real_record()
    fast["summary"]["tokens_per_second"] = 1e7
    submit(class_, "anna", records=[fast])
    submit(class_, "boris", records=[real_record(id="b", seed=9)])
    each = graded(class_)
    assert each["anna"].flags[:2] == [
        f"record {fast['id']}: faster than its hardware can multiply",
        f"record {fast['id']}: its tokens per second are not those of its steps",
    ]
    assert each["boris"].flags[0] == "record b: its seed is not that of its settings"
    assert each["anna"].points == each["boris"].points == 2


# --- what is written -----------------------------------------------------------------------


def test_the_table_has_points_explanation_and_rubric_for_each_question(class_, tmp_path):
    submit(class_, "anna")
    outcome = grade.write_grades(class_, tmp_path / "g.csv")
    row = rows(tmp_path / "g.csv")["anna"]
    asked = load_questions()
    assert list(row)[:6] == ["student", "submission", "points", "of", "flags", "remarks"]
    for question in asked.values():
        title = question.id + (f" = {question.assignment}" if question.assignment else "")
        assert row[f"{title} (of {question.points})"] == ("2" if question.id == "04.4" else "0")
        assert row[f"{question.id} rubric"] == ""
    assert row["04.4 explanation"] == WHY.format("anna")
    assert int(row["of"]) == sum(q.points for q in asked.values()) == outcome["points_possible"]
    page = (tmp_path / "g.html").read_text()
    assert page.count("data:image/png;base64,iVBOR") == 2 and "anna" in page
    assert "http://" not in page and "https://" not in page


def test_a_failed_write_leaves_what_was_there(class_, tmp_path, monkeypatch):
    submit(class_, "anna")
    out = tmp_path / "out"
    out.mkdir()
    for name in ("g.csv", "g.html"):
        (out / name).write_text("before")
    original = Path.write_text

    def full(self, data, *args, **kwargs):
        if ".html" in self.name:
            original(self, data[:10], *args, **kwargs)
            raise OSError(28, "No space left on device", str(self))
        return original(self, data, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(LabkitError, match="cannot be written: No space left"):
        grade.write_grades(class_, out / "g.csv")
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        "g.csv": "before", "g.html": "before",
    }  # fmt: skip


def test_one_submission_can_be_graded_alone_and_other_files_are_left_aside(class_, tmp_path):
    folder = submit(class_, "anna")
    assert list(graded(folder)) == ["anna"]
    shutil.make_archive(str(tmp_path / "boris"), "zip", folder)
    assert list(graded(tmp_path / "boris.zip")) == ["boris"]
    (class_ / "list.txt").write_text("who")
    (class_ / ".DS_Store").write_text("")
    both, ignored = grade.grade(class_)
    assert len(both) == 1 and ignored == ["list.txt"]


def test_a_submission_without_answers_says_so(class_):
    (class_ / "anna").mkdir()
    assert read(class_ / "anna").remarks == ["no answers in it"]


@pytest.mark.parametrize(
    ("place", "out", "says"),
    [
        ("nowhere", "g.csv", "there is no folder of submissions"),
        ("class", "g.csv", "holds no submission"),
        ("class", "g.xlsx", "ends in .csv"),
        ("class", "no/such/g.csv", "in a folder that exists"),
        ("class/list.txt", "g.csv", "is not a submission"),
    ],
)
def test_wrong_use_is_a_sentence(place, out, says, class_, tmp_path):
    (class_ / "list.txt").write_text("")
    with pytest.raises(LabkitError, match=says):
        grade.write_grades(tmp_path / place, tmp_path / out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["class"]
