"""Every lesson: paired, reproducible, clean, and told in the same order."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from jupytext.compare import compare_notebooks

from labkit.course import pairing, site

LESSONS = Path(__file__).parents[2] / "lessons"
SOURCES = sorted(LESSONS.glob("[0-9][0-9]_*.py"))
APPENDICES = sorted(LESSONS.glob("A[0-9]_*.py"))
NAMES = [source.stem for source in SOURCES]

FACTS = ["goal", "minutes", "hardware", "you need to know"]
# An exercise comes where its result is used, at the latest before the checkpoint.
ORDERS = [
    ["Predict", "Measure", "Explain", "Checkpoint", "What to remember", "Further reading"],
    ["Predict", "Exercise", "Checkpoint"],
]


@pytest.fixture(params=SOURCES + APPENDICES, ids=lambda path: path.stem)
def source(request) -> Path:
    """A lesson, or an appendix, which has neither exercises nor questions."""
    return request.param


@pytest.fixture(params=SOURCES, ids=lambda path: path.stem)
def lesson(request) -> nbformat.NotebookNode:
    """A lesson of the course, built from its source."""
    return pairing.build(request.param)


@pytest.fixture
def built(source) -> nbformat.NotebookNode:
    return pairing.build(source)


@pytest.fixture
def committed(source) -> nbformat.NotebookNode:
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def code_cells(notebook) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def headings(notebook) -> list[str]:
    prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    return re.findall(r"^#{2,3} (.+)$", prose, re.MULTILINE)


def test_there_are_lessons_and_each_notebook_has_a_source():
    assert SOURCES
    both = [source.stem for source in SOURCES + APPENDICES]
    assert sorted(p.stem for p in LESSONS.glob("*.ipynb")) == both


def test_the_pair_says_the_same(built, committed):
    compare_notebooks(committed, built, fmt="py:percent", allow_expected_differences=False)


def test_the_notebook_is_what_make_sync_writes(built, committed, source):
    expected = nbformat.writes(pairing.keep_outputs(built, committed)) + "\n"
    assert source.with_suffix(".ipynb").read_text() == expected, "run `make sync`"


def test_saving_in_jupyterlab_leaves_the_source_alone(source):
    assert pairing.saved_source(source) == source.read_text()


def test_cell_ids_are_stable_and_unique(committed, source):
    ids = [cell.id for cell in committed.cells]
    assert ids == pairing.cell_ids(source.stem, committed.cells)
    assert len(set(ids)) == len(ids)


def test_a_lesson_compares_at_least_one_cell_with_its_stored_output(lesson):
    assert any(pairing.is_checked(cell) for cell in code_cells(lesson))


def test_checked_cells_have_something_to_check_and_only_they_have_outputs(committed):
    cells = code_cells(committed)
    checked = [cell for cell in cells if pairing.is_checked(cell)]
    for cell in checked:
        assert cell.execution_count is not None, "nbval would run this cell and compare nothing"
        assert cell.outputs, f"run `make sync EXECUTE=1`; no stored output for:\n{cell.source}"
        assert all(output.output_type != "error" for output in cell.outputs)
    assert all(cell.outputs == [] for cell in cells if not pairing.is_checked(cell))


def test_no_trace_of_the_machine_that_built_it(committed):
    assert set(committed.metadata) == {"kernelspec", "jupytext"}
    outputs = json.dumps([cell.outputs for cell in code_cells(committed)])
    assert not re.search(r'["\s\'(](/|~/|[A-Z]:\\)[\w.-]+[/\\]', outputs), "a path"
    assert not re.search(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d", outputs), "a timestamp"
    assert "widget" not in outputs
    assert all(set(cell.metadata) <= {"tags", "nbgrader"} for cell in committed.cells)
    assert len(nbformat.writes(committed)) < 300_000


def test_the_first_cell_says_what_it_is_for(built, source):
    lesson = site.describe(source.stem, built)
    assert re.match(rf"{source.stem[:2]} · \w", lesson.title), "# NN · Title"
    assert list(lesson.facts) == FACTS
    assert re.match(r"[1-9]\d*\b", lesson.facts["minutes"])


def test_parameters_come_first(built):
    tagged = [
        i for i, c in enumerate(code_cells(built)) if "parameters" in c.metadata.get("tags", [])
    ]
    assert tagged == [0], "the first code cell, and only that one, is tagged parameters"


def test_the_order_is_predict_measure_explain(lesson):
    found = headings(lesson)
    for order in ORDERS:
        first = []
        for section in order:
            places = [i for i, h in enumerate(found) if re.match(rf"{section}\b", h)]
            assert places, f"no section '{section}'"
            first.append(places[0])
        assert first == sorted(first), f"sections are {found}"


def test_solutions_are_marked_for_nbgrader(lesson):
    cells = [cell for cell in code_cells(lesson) if "SOLUTION" in cell.source]
    assert cells, "a lesson has an exercise"
    for cell in cells:
        marks = re.findall(r"^\s*### (BEGIN|END) SOLUTION$", cell.source, re.MULTILINE)
        assert marks and marks == ["BEGIN", "END"] * (len(marks) // 2)


def test_cells_are_small_and_leave_the_machine_alone(built):
    for cell in code_cells(built):
        lines = cell.source.splitlines()
        assert len(lines) <= 30 and max(map(len, lines)) <= 100, cell.source
        given = re.sub(r"### BEGIN SOLUTION.*?### END SOLUTION", "", cell.source, flags=re.S)
        assert not re.search(r"^\s*[!%]|pip install|\.backward\(|sys\.path", given, re.M)


def test_formulas_can_be_drawn_and_links_lead_somewhere(built):
    for cell in built.cells:
        if cell.cell_type == "markdown":
            site.draw_formulas(cell.source)
            for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", cell.source):
                assert (LESSONS / target).exists(), target


def test_the_readme_lists_every_lesson():
    readme = (LESSONS.parent / "README.md").read_text()
    assert re.findall(r"\(lessons/(\w+)\.ipynb\)", readme) == NAMES
