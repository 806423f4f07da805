"""Release student copies without solutions, and a gradebook that nbgrader can grade.

nbgrader knows three things about a cell from its metadata: that a student writes in it (solution),
that it is locked and worth points (grade), and its name. The lessons carry none of this, because
it follows from what is in them anyway:

    solution   a cell with code between `### BEGIN SOLUTION` and `### END SOLUTION`
    check      the next cell that passes a function of the solution cell to a call, such as
               check.exercise("lora_forward", lora_forward)
    points     the difficulty said in the prose above: Easy 1, Medium 2, Hard 3

After each check comes a locked cell that ends in `points * bool(the same call)`. nbgrader takes
the number as the points. An exercise that is not solved yet gives 0 and no error, so running the
whole lesson still works. There are no hidden tests: nbgrader's come back in the feedback, where
the first student who hands in reads them to the others. What a check asks is open to everybody in
`labkit/checkpoints`, as properties that the student's own function has to have.

    GRADEBOOK/source/LESSON/     a notebook with solutions, never given away
    GRADEBOOK/solutions.md       every exercise with one solution, to read; never given away
    GRADEBOOK/release/LESSON/    its student copy, as nbgrader makes it
    GRADEBOOK/release/lessons/   all student copies: this folder is what students get
    GRADEBOOK/gradebook.db       what each cell is worth, and later who got what

Each lesson is an assignment, because nbgrader grades an assignment whole or not at all: a notebook
that cannot be read costs its lesson and no other. In a student's folder they lie side by side with
`runs/` and `answers.json`, and handing in that folder hands in everything; `hand_ins` sorts what
came into the assignments.

With a due date for the first week, each lesson is due in the week that the syllabus gives it, at
the same hour of the same weekday.

Source: nbgrader's documentation, "Creating and grading assignments"; `generate_assignment`.
"""

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from labkit.course import pairing
from labkit.course.hand_ins import TOGETHER
from labkit.errors import LabkitError, extra
from labkit.files import appearing

EVERY = "[0-9][0-9]*"
"""The assignments of all lessons, as nbgrader's commands take them: quoted, it looks them up."""
APPENDICES = "A[0-9]_*.py"
"""Lessons without exercises: students get them, nbgrader does not."""
POINTS = {"Easy": 1, "Medium": 2, "Hard": 3}
BEGIN = "### BEGIN SOLUTION"
SOLUTIONS = "solutions.md"
CONFIG = "nbgrader_config.py"


def assignment(source: Path) -> NotebookNode:
    """Return the notebook of a lesson, solutions included, as nbgrader's `source/` wants it.

    Raises LabkitError for a solution that no later cell checks, or whose difficulty is not said.
    """
    notebook = pairing.build(source)
    # The filters say how a lesson is paired with its source, which students do not have.
    notebook.metadata.pop("jupytext", None)
    cells: list[NotebookNode] = []
    waiting: list[tuple[set[str], int]] = []
    difficulty = None
    for cell in notebook.cells:
        cells.append(cell)
        if cell.cell_type == "markdown":
            if said := re.search(rf"^\*({'|'.join(POINTS)})\b", cell.source, re.MULTILINE):
                difficulty = said[1]
            continue
        if BEGIN in cell.source:
            names = functions(cell.source)
            if difficulty is None:
                raise LabkitError(
                    f"{source}: the exercise {', '.join(names)} has no difficulty: "
                    f"write *Easy, 10 minutes.* (or {', '.join(list(POINTS)[1:])}) above it"
                )
            waiting.append((names, POINTS[difficulty]))
            difficulty = None
            cell.metadata.nbgrader = _mark(f"{'-'.join(sorted(names))}", solution=True)
            continue
        for names, points in list(waiting):
            if (call := call_on(cell.source, names)) is None:
                continue
            waiting.remove((names, points))
            imports = import_of(call, [c.source for c in cells if c.cell_type == "code"])
            cells.append(_graded(notebook, call, imports, names, points))
    if waiting:
        raise LabkitError(f"{source}: no cell after its solution checks {waiting[0][0]}")
    notebook.cells = cells
    for cell, identity in zip(cells, pairing.cell_ids(source.stem, cells), strict=True):
        cell.id = identity
    return notebook


def _mark(grade_id: str, *, solution: bool = False, points: int | None = None) -> NotebookNode:
    """Return nbgrader's metadata of a solution cell, or of a graded one worth `points`."""
    marks = {
        "schema_version": 3,
        "grade_id": grade_id,
        "solution": solution,
        "grade": points is not None,
        "locked": points is not None,
        "task": False,
    }
    return NotebookNode(marks if points is None else marks | {"points": points})


def _graded(
    notebook: NotebookNode, call: str, imports: str, names: set[str], points: int
) -> NotebookNode:
    cell = nbformat.v4.new_code_cell(
        f"# Locked. The number below is what nbgrader counts: {points} when the check passes.\n"
        f"{imports}\n\n{points} * bool({call})"
    )
    cell.metadata.nbgrader = _mark(f"{'-'.join(sorted(names))}-points", points=points)
    return cell


def solutions_page(notebooks: Mapping[str, NotebookNode]) -> str:
    """Return every exercise of `notebooks` with one solution, as one page in Markdown."""
    lines = ["# Solutions, for instructors", ""]
    for notebook in notebooks.values():
        lines += [f"#{notebook.cells[0].source.splitlines()[0]}", ""]
        asked = ""
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                found = re.findall(rf"^\*(?:{'|'.join(POINTS)})\b.*", cell.source, re.MULTILINE)
                asked = found[-1] if found else asked
            elif BEGIN in cell.source:
                code = re.sub(r"(?m)^ *### (BEGIN|END) SOLUTION\n?", "", cell.source)
                lines += [asked, "", "```python", code.strip(), "```", ""]
    return "\n".join(lines)


def functions(code: str) -> set[str]:
    """Return the functions that a cell defines at its top level."""
    return {node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)}


def call_on(code: str, names: set[str]) -> str | None:
    """Return the call in a cell that one of the functions is passed to, or None.

    >>> call_on("verdict = check.exercise('double', double)", {"double"})
    "check.exercise('double', double)"
    """
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and any(
            isinstance(argument, ast.Name) and argument.id in names for argument in node.args
        ):
            return ast.unparse(node)
    return None


def import_of(call: str, cells: Sequence[str]) -> str:
    """Return the import that binds the name a call starts with, from the cells before it.

    The locked cell brings it itself: a student's own `check` is then not the one that counts.
    """
    first = call.partition("(")[0].partition(".")[0]
    for node in [node for code in cells for node in ast.walk(ast.parse(code))]:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == first:
                    only = type(node)(**{**vars(node), "names": [alias]})
                    return ast.unparse(only)
    raise LabkitError(f"'{first}' in the check {call} is not imported in any cell before it")


def release(lessons_dir: Path, gradebook_dir: Path, first_due: str | None = None) -> Path:
    """Write the gradebook's source, let nbgrader make the student copies; return their folder.

    `first_due` is the due date of the first week, as `due_dates` reads it; without it those that
    are in the gradebook stay. Grades and submissions that are there stay; an `nbgrader_config.py`
    that the instructor changed stays as well. Raises LabkitError with nbgrader's own words when
    it refuses.
    """
    sources = sorted(lessons_dir.glob("[0-9][0-9]_*.py"))
    if not sources:
        raise LabkitError(f"no lesson (NN_name.py) in {lessons_dir}")
    notebooks = {path.stem: assignment(path) for path in sources}
    due = {}
    if first_due is not None:
        try:
            syllabus = (lessons_dir / "SYLLABUS.md").read_text(encoding="utf-8")
        except OSError as error:
            raise LabkitError(f"--due: {error.filename} cannot be read: {error.strerror}") from None
        due = due_dates(first_due, syllabus, notebooks)
    try:
        for name, notebook in notebooks.items():
            folder = gradebook_dir / "source" / name
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            text = nbformat.writes(notebook) + "\n"
            (folder / f"{name}.ipynb").write_text(text, encoding="utf-8")
        page = solutions_page(notebooks)
        (gradebook_dir / SOLUTIONS).write_text(page, encoding="utf-8")
        if not (gradebook_dir / CONFIG).exists():
            shutil.copy(lessons_dir / "hub-example" / "jupyter" / CONFIG, gradebook_dir)
    except OSError as error:
        raise LabkitError(f"{error.filename} cannot be written: {error.strerror}") from None
    nbgrader("generate_assignment", EVERY, "--force", cwd=gradebook_dir)
    set_due_dates(gradebook_dir, due)
    with appearing(gradebook_dir / "release" / TOGETHER) as students:
        students.mkdir()
        for name in notebooks:
            shutil.copy(gradebook_dir / "release" / name / f"{name}.ipynb", students)
        for path in sorted(lessons_dir.glob(APPENDICES)):
            appendix = pairing.build(path)
            appendix.metadata.pop("jupytext", None)
            nbformat.write(appendix, students / f"{path.stem}.ipynb")
    return gradebook_dir / "release" / TOGETHER


WEEK = re.compile(r"^\| *(?P<week>\d+) *\| *\[.*?\]\((?P<lesson>\w+)\.ipynb\)", re.MULTILINE)


def due_dates(first: str, syllabus: str, lessons: Iterable[str]) -> dict[str, datetime]:
    """Return when each lesson is due: `first` for week 1 of the syllabus, and a week more for each.

    `first` is a date, which means its last minute, or a date and a time; without an offset from
    UTC it is this machine's time, summer and winter. Raises LabkitError for what is no date, and
    for a lesson that the syllabus has no week for.
    """
    try:
        start = datetime.fromisoformat(first)
    except ValueError:
        raise LabkitError(f"--due {first}: give a date such as 2026-09-07, or a date and a time "
                          "such as 2026-09-07T18:00") from None  # fmt: skip
    if re.fullmatch(r"[\d-]+", first) and "T" not in first:
        start = start.replace(hour=23, minute=59)
    weeks = {match["lesson"]: int(match["week"]) for match in WEEK.finditer(syllabus)}
    found = {}
    for lesson in lessons:
        if lesson not in weeks:
            raise LabkitError(
                f"--due: SYLLABUS.md has no row for {lesson}, so no week to be due in"
            )
        # The clock on the wall stays when summer time ends: first the week, then the offset.
        found[lesson] = (start + timedelta(weeks=weeks[lesson] - 1)).astimezone()
    return found


def set_due_dates(gradebook_dir: Path, dates: dict[str, datetime]) -> None:
    """Write the due dates into the gradebook, whose assignments are there."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{(gradebook_dir / 'gradebook.db').absolute()}") as gradebook:
        for lesson, due in dates.items():
            gradebook.update_or_create_assignment(lesson, duedate=due.astimezone(UTC))


def shown_due_dates(gradebook_dir: Path) -> list[tuple[str, datetime]]:
    """Return the lessons that have a due date in the gradebook, and when, in UTC."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{(gradebook_dir / 'gradebook.db').absolute()}") as gradebook:
        return sorted((each.name, each.duedate.replace(tzinfo=UTC))
                      for each in gradebook.assignments if each.duedate)  # fmt: skip


def nbgrader(*arguments: str, cwd: Path) -> str:
    """Run an nbgrader command in a gradebook; return its log.

    Raises LabkitError with the last error of the log when it fails, and without nbgrader.
    """
    with extra("dev", "make release"):
        import nbgrader as _  # noqa: F401
    # nbgrader starts alembic by name, which lies beside this Python.
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    run = subprocess.run(
        [sys.executable, "-m", "nbgrader", *arguments],
        cwd=cwd,
        env={**os.environ, "PATH": beside},
        capture_output=True,
        text=True,
    )
    log = run.stdout + run.stderr
    if run.returncode:
        errors = re.findall(r"\| ERROR\] (.+)", log) or log.strip().splitlines()[-1:]
        raise LabkitError(f"nbgrader {arguments[0]} failed: {errors[-1] if errors else 'silently'}")
    return log


def main(arguments: list[str] | None = None) -> int:
    """Make the student copies: `python -m labkit.course.release lessons gradebook`."""
    parser = argparse.ArgumentParser(description="Make student copies without solutions.")
    parser.add_argument("lessons", type=Path)
    parser.add_argument("gradebook", type=Path)
    parser.add_argument("--due", help="when week 1 is due, such as 2026-09-07 or 2026-09-07T18:00")
    options = parser.parse_args(arguments)
    try:
        folder = release(options.lessons, options.gradebook, options.due)
    except LabkitError as error:
        print(f"release: {error}", file=sys.stderr)
        return 2
    for path in sorted(folder.glob("*.ipynb")):
        print(path)
    for lesson, due in shown_due_dates(options.gradebook):
        print(f"{lesson} is due {due.astimezone():%A, %d %B %Y, %H:%M %Z}")
    print(f"Give students {folder}; {options.gradebook / SOLUTIONS} has the solutions.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
