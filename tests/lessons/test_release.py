"""Student copies hold no solution, and nbgrader grades what students hand in."""

import ast
import csv
import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest

from labkit.course import hand_ins, nbgrader_plugins, release
from labkit.errors import LabkitError

LESSONS = Path(__file__).parents[2] / "lessons"
SOURCES = sorted(LESSONS.glob("[0-9][0-9]_*.py"))
APPENDICES = sorted(LESSONS.glob("A[0-9]_*.py"))
REGION = re.compile(r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", re.DOTALL)


@pytest.fixture(scope="module")
def gradebook(tmp_path_factory) -> Path:
    """A gradebook made of the real lessons, with an exchange folder of its own."""
    folder = tmp_path_factory.mktemp("class") / "gradebook"
    release.release(LESSONS, folder)
    exchange = folder.parent / "exchange"
    exchange.mkdir(mode=0o777)
    with (folder / release.CONFIG).open("a") as config:
        config.write(f"\nc.Exchange.root = {str(exchange)!r}\n")
        config.write(f"c.Exchange.cache = {str(folder.parent / 'cache')!r}\n")
    return folder


def read(folder: Path) -> dict[str, nbformat.NotebookNode]:
    return {path.stem: nbformat.read(path, as_version=4) for path in sorted(folder.glob("*.ipynb"))}


def lessons_in(folder: Path) -> dict[str, nbformat.NotebookNode]:
    """The notebooks that nbgrader knows: an appendix has nothing to grade."""
    names = [source.stem for source in SOURCES]
    return {name: notebook for name, notebook in read(folder).items() if name in names}


@pytest.fixture(scope="module")
def copies(gradebook) -> dict[str, nbformat.NotebookNode]:
    return lessons_in(gradebook / "release/lessons")


@pytest.fixture(scope="module")
def solutions(gradebook) -> dict[str, nbformat.NotebookNode]:
    found = {source.stem: read(gradebook / "source" / source.stem) for source in SOURCES}
    assert all(list(found[name]) == [name] for name in found), "each lesson is an assignment"
    return {name: found[name][name] for name in found}


def code_cells(notebook) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def marked(notebook, mark: str) -> dict[str, nbformat.NotebookNode]:
    """The cells of one kind, by their nbgrader names."""
    cells = [c for c in notebook.cells if c.metadata.get("nbgrader", {}).get(mark)]
    return {cell.metadata.nbgrader.grade_id: cell for cell in cells}


# --- what students get ---------------------------------------------------------------------


def secrets() -> dict[str, list[str]]:
    """Every line that stands in a solution, by lesson, without spaces and without trivial ones."""
    found = {}
    for source in SOURCES:
        lines = "\n".join(REGION.findall(source.read_text())).splitlines()
        packed = ["".join(line.split()) for line in lines]
        found[source.stem] = [line for line in packed if len(line) > 8]
    return found


def test_no_solution_hidden_check_or_output_is_in_the_copies(gradebook):
    released = gradebook / "release/lessons"
    copies = read(released)
    names = [f"{source.stem}.ipynb" for source in SOURCES + APPENDICES]
    assert sorted(path.name for path in released.iterdir()) == names, "nothing beside the lessons"
    assert len(sum(secrets().values(), [])) > 10
    for name in copies:
        text = (released / f"{name}.ipynb").read_text()
        assert not re.search("SOLUTION|HIDDEN|MARK SCHEME|AUTOTEST", text)
        cells = json.dumps([c.source for c in copies[name].cells], ensure_ascii=False)
        packed = re.sub(r"\s|\\n", "", cells.replace('\\"', '"'))
        for line in sum(secrets().values(), []):
            assert line not in packed, f"{name} holds a line of a solution: {line}"
        assert all(not cell.outputs for cell in code_cells(copies[name])), name
        assert set(copies[name].metadata) <= {"kernelspec"}


def test_the_page_for_instructors_has_every_exercise_and_its_solution(gradebook, solutions):
    page = (gradebook / release.SOLUTIONS).read_text(encoding="utf-8")
    exercise = r"^\*(?:Easy|Medium|Hard), [^\n]+\n\n```python\n(.+?)\n```$"
    blocks = re.findall(exercise, page, re.MULTILINE | re.DOTALL)
    written = [cell.source for notebook in solutions.values() for cell in code_cells(notebook)
               if REGION.search(cell.source)]  # fmt: skip
    assert len(blocks) == len(written) > 0
    for block, source in zip(blocks, written, strict=True):
        assert ast.dump(ast.parse(block)) == ast.dump(ast.parse(source))
    assert "SOLUTION" not in page
    assert re.findall(r"^## (\d\d) · ", page, re.M) == [path.stem[:2] for path in SOURCES]


def test_the_search_finds_a_solution_where_there_is_one(solutions):
    for name, lines in secrets().items():
        packed = "".join("".join(c.source.split()) for c in code_cells(solutions[name]))
        assert all(line in packed for line in lines)


def test_no_question_is_answered_and_no_prediction_made(copies):
    answered = 0
    for notebook in copies.values():
        for cell in code_cells(notebook):
            for node in ast.walk(ast.parse(cell.source)):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "check":
                    answered += 1
                    for field in node.keywords:
                        given = ast.unparse(field.value)
                        # A prediction is passed on by its name, and is None itself.
                        assert given == "None" or given == field.arg, ast.unparse(node)
                elif isinstance(node, ast.Assign) and re.match(
                    r"(predicted|bug)_", ast.unparse(node.targets[0])
                ):
                    assert ast.unparse(node.value) == "None", ast.unparse(node)
    assert answered >= 3 * len(copies)


def test_lessons_have_no_hidden_tests_because_feedback_shows_them():
    for source in SOURCES:
        assert "HIDDEN TESTS" not in source.read_text()


def test_every_solution_is_a_cell_to_write_and_its_points_are_locked(copies):
    for source in SOURCES:
        regions = REGION.findall(source.read_text())
        stubs, points = (marked(copies[source.stem], mark) for mark in ("solution", "grade"))
        assert len(stubs) == len(points) == len(regions) > 0
        assert all("raise NotImplementedError()" in cell.source for cell in stubs.values())
        assert all(not cell.metadata.editable for cell in points.values())
        assert {f"{name}-points" for name in stubs} == set(points)


# --- what nbgrader makes of it -------------------------------------------------------------


@pytest.fixture(scope="module")
def graded(gradebook, copies, solutions) -> Path:
    """The whole way: release, five students submit, collect, autograde, feedback, export.

    One hands in two lessons, the first cut off in the middle of its JSON. Two hand in one lesson:
    one has its locked cells not run, another's functions say something on stderr.
    """
    released = gradebook / "release/lessons"
    release.nbgrader("release_assignment", "lessons", cwd=gradebook)
    for student in ("solved", "empty", "broken", "skipper", "warner"):
        home = gradebook.parent / student
        shutil.copytree(released, home / "lessons")
        shutil.copy(gradebook / release.CONFIG, home)
        for name, notebook in lessons_in(released).items():
            if student == "skipper":
                for cell in marked(notebook, "grade").values():
                    cell.metadata.tags = ["skip-execution"]
            elif student != "empty":
                written = marked(solutions[name], "solution")
                for grade_id, cell in marked(notebook, "solution").items():
                    cell.source = written[grade_id].source.replace("### BEGIN SOLUTION", "")
                    if student == "warner":
                        cell.source += "".join(map(WARNS.format, release.functions(cell.source)))
            else:
                cheat(notebook)
            nbformat.write(notebook, home / "lessons" / f"{name}.ipynb")
        weights = home / "lessons/runs/lora/model/adapter_model.safetensors"
        weights.parent.mkdir(parents=True)
        weights.write_bytes(bytes(1000))
        (home / "lessons/runs/lora/record.json").write_text('{"schema": 1}')
        (home / "lessons/answers.json").write_text('{"schema": 1, "answers": {}}')
        if student == "broken":
            first, _, *others = sorted((home / "lessons").glob("*.ipynb"))
            first.write_text(first.read_text(encoding="utf-8")[:-500], encoding="utf-8")
            for other in others:
                other.unlink()
        elif student in ("skipper", "warner"):
            for other in set((home / "lessons").glob("*.ipynb")):
                if other.stem != SOURCES[1].stem:
                    other.unlink()
        release.nbgrader("submit", "lessons", "--student", student, cwd=home)
    release.nbgrader("collect", "lessons", cwd=gradebook)
    said = hand_ins.sort(gradebook / "submitted", gradebook)
    named = [line for line in said if "not valid JSON" in line]
    assert len(named) == 1 and f"broken/lessons/{SOURCES[0].stem}.ipynb" in named[0]
    odd = {"empty": "was deleted", "skipper": "was tagged skip-execution"}
    for line in said:
        assert line in named or any(f"{who}/" in line and what in line for who, what in odd.items())
    assert any("skipper/" in line for line in said)
    for command in ("autograde", "generate_feedback"):
        release.nbgrader(command, release.EVERY, cwd=gradebook)
    return gradebook


WARNS = """
import functools, sys
def _warning(function):
    @functools.wraps(function)
    def call(*arguments, **named):
        print("divide by zero", file=sys.stderr)
        return function(*arguments, **named)
    return call
{0} = _warning({0})
"""


def cheat(notebook) -> None:
    """Write full points into the first locked cell, and throw the others away."""
    first, *others = marked(notebook, "grade").values()
    first.source = f"print('cheated')\n{first.metadata.nbgrader.points}"
    notebook.cells = [cell for cell in notebook.cells if all(cell is not c for c in others)]


def test_a_solved_submission_gets_every_point_and_an_empty_one_none(graded, copies):
    release.nbgrader(
        *("export", "--exporter=labkit.course.nbgrader_plugins.LessonExport", "--to=grades.csv"),
        cwd=graded,
    )
    with (graded / "grades.csv").open(newline="") as file:
        rows = {(row["student"], row["lesson"]): row for row in csv.DictReader(file)}
    for name, notebook in copies.items():
        worth = sum(cell.metadata.nbgrader.points for cell in marked(notebook, "grade").values())
        assert float(rows["solved", name]["points"]) == float(rows["solved", name]["of"]) == worth
        assert float(rows["empty", name]["points"]) == 0
        assert float(rows["empty", name]["of"]) == worth
        assert rows["solved", name]["needs_reading"] == "False"
        right = name == SOURCES[1].stem
        assert float(rows["broken", name]["points"]) == (worth if right else 0)
        assert float(rows["warner", name]["points"]) == (worth if right else 0)
        assert float(rows["skipper", name]["points"]) == 0
    release.nbgrader("export", "--to=nbgrader.csv", cwd=graded)
    with (graded / "nbgrader.csv").open(newline="") as file:
        totals = list(csv.DictReader(file))
    assert {row["assignment"] for row in totals} == set(copies)
    for row in totals:
        if row["student_id"] == "solved":
            assert row["score"] == row["max_score"]
        elif row["student_id"] == "empty":
            assert float(row["score"]) == 0


def test_what_is_handed_in_is_what_a_grade_rests_on(graded):
    handed_in = graded / "submitted/solved/lessons"
    files = {str(p.relative_to(handed_in)) for p in handed_in.rglob("*") if p.is_file()}
    notebooks = {f"{source.stem}.ipynb" for source in SOURCES + APPENDICES}
    nbgraders_own = {"timestamp.txt", "submission_secret.txt"}
    assert files - nbgraders_own == notebooks | {"answers.json", "runs/lora/record.json"}


def test_grading_runs_the_exercises_and_no_training(graded):
    for source in SOURCES:
        notebook = read(graded / "autograded/solved" / source.stem)[source.stem]
        ran = [cell for cell in code_cells(notebook) if cell.execution_count]
        assert set(marked(notebook, "grade")) <= {
            cell.metadata.get("nbgrader", {}).get("grade_id") for cell in ran
        }
        assert not any(re.search(r"\b(train|evaluate|study)\(", cell.source) for cell in ran)


def test_feedback_says_what_failed_and_gives_nothing_away(graded):
    for source in SOURCES:
        page = (graded / f"feedback/empty/{source.stem}/{source.stem}.html").read_text()
        assert "cheated" not in page
        assert re.search(r"not answered yet|still to be written", page)
        packed = "".join(re.sub(r"<[^>]+>", "", page).split())
        for line in secrets()[source.stem]:
            assert line not in packed, line


# --- small lessons made here ---------------------------------------------------------------

HEADER = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# *Easy, 5 minutes.* Double it.

# %%
from labkit.checkpoints import check


def double(x):
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION


"""


def lesson(folder: Path, text: str) -> Path:
    shutil.copy(LESSONS / "jupytext.toml", folder)
    (folder / "00_small.py").write_text(text)
    return folder / "00_small.py"


def test_the_check_becomes_a_locked_cell_with_the_points_of_its_difficulty(tmp_path):
    source = lesson(tmp_path, HEADER + "# %%\nverdict = check.exercise('double', double)\n")
    (cell,) = marked(release.assignment(source), "grade").values()
    assert cell.source.endswith("\n1 * bool(check.exercise('double', double))")
    assert "from labkit.checkpoints import check" in cell.source
    assert cell.metadata.nbgrader.points == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (HEADER, r"no cell after its solution checks \{'double'\}"),
        (HEADER.replace("*Easy", "*Simple"), "the exercise double has no difficulty"),
        (HEADER + "# %%\ntester.check(double)\n", "'tester' .* is not imported"),
    ],
)
def test_a_lesson_that_cannot_be_graded_is_a_sentence(text, sentence, tmp_path):
    with pytest.raises(LabkitError, match=sentence):
        release.assignment(lesson(tmp_path, text))


def test_what_nbgrader_refuses_is_a_sentence(tmp_path):
    with pytest.raises(LabkitError, match="nbgrader autograde failed: "):
        release.nbgrader("autograde", "nothing", cwd=tmp_path)
    assert release.main([str(tmp_path), str(tmp_path / "gradebook")]) == 2
    assert not (tmp_path / "gradebook").exists()


def test_a_cell_is_needed_when_a_graded_cell_uses_what_it_binds():
    code = ["import os", "a = os.sep", "b = slow()", "def f(x):\n    return g(x)", "%magic",
            "def g(b):\n    return a + b", "f(1)"]  # fmt: skip
    cells = [nbformat.v4.new_code_cell(text) for text in code]
    cells[-1].metadata.nbgrader = nbformat.NotebookNode(grade=True, solution=False)
    assert nbgrader_plugins.needed(cells) == {0, 1, 3, 4, 5, 6}
