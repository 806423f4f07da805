"""Extend nbgrader: grade in seconds without training, export grades by lesson.

Grading executes a student's notebook in the instructor's container. Most of a lesson trains and
measures, which takes minutes, says nothing about the exercises, and is graded from its records
by `labkit grade` without executing anything. So only the cells that the graded ones depend on
are run:

    needed = graded and solution cells, and every cell before the last of them that binds a
             name they use, and so on for the names those use

Names are found by Python's own symbol table. A cell that cannot be parsed runs.

What counts is the number that a locked cell gives. nbgrader itself takes a warning on stderr for a
failure, and a cell that gives nothing for a right one.

Source: Python's `symtable`; nbgrader's preprocessors and export plugins; nbclient, which does
not run cells tagged `skip-execution`.
"""

import csv
from contextlib import suppress
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_output
from nbgrader.api import Gradebook, MissingEntry
from nbgrader.plugins import ExportPlugin
from nbgrader.preprocessors import NbGraderPreprocessor

from labkit.checkpoints.cells import POINTS, SKIP, UNREADABLE, names


def needed(cells: list[NotebookNode]) -> set[int]:
    """Return the places of the code cells that the solution and graded cells depend on."""
    code = {i: c for i, c in enumerate(cells) if c.cell_type == "code"}
    marks = {i: c.metadata.get("nbgrader", {}) for i, c in code.items()}
    found = {i for i, m in marks.items() if m.get("grade") or m.get("solution")}
    bound: dict[int, set[str]] = {}
    used: dict[int, set[str]] = {}
    for i, cell in code.items():
        try:
            bound[i], used[i] = names(cell.source)
        except UNREADABLE:  # an unfinished line, or a magic command
            found.add(i)
            bound[i], used[i] = set(), set()
    last = max(found, default=0)  # a function may use what is bound only after it
    todo = list(found)
    while todo:
        i = todo.pop()
        new = {j for j in code if j < last and j not in found and bound[j] & used[i]}
        found |= new
        todo += new
    return found


class SkipUngraded(NbGraderPreprocessor):
    """Tag the cells that no graded cell depends on, so that nbclient leaves them out."""

    def preprocess(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        keep = needed(nb.cells)
        for i, cell in enumerate(nb.cells):
            if cell.cell_type == "code":
                tags = [tag for tag in cell.metadata.get("tags", []) if tag != SKIP]
                cell.metadata.tags = tags if i in keep else [*tags, SKIP]
        return nb, resources


class ReadPoints(NbGraderPreprocessor):
    """Make of a locked cell's outputs what nbgrader reads as its number; runs once it has run."""

    def preprocess(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        for cell in nb.cells:
            mark = cell.metadata.get("nbgrader", {})
            if cell.cell_type != "code" or not str(mark.get("grade_id", "")).endswith(POINTS):
                continue
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
            if not any(each.output_type in ("execute_result", "error") for each in cell.outputs):
                said = "the locked cell gave no number"
                cell.outputs.append(new_output("error", ename="NoPoints", evalue=said,
                                               traceback=[said]))  # fmt: skip
        return nb, resources


class LessonExport(ExportPlugin):
    """A table with a row for each student and lesson: points, how many there are, and how late.

    `handed_in` is False where there was no notebook to grade; `late_hours` counts from the due date
    of the release and is empty without one.

    `nbgrader export --exporter=labkit.course.nbgrader_plugins.LessonExport`. In a gradebook from
    the time when all lessons were one assignment, a student's lesson counts from that one until it
    is handed in as its own.
    """

    def export(self, gradebook: Gradebook) -> None:
        sheets: dict[str, list[tuple[str, float]]] = {}
        for assignment in gradebook.assignments:
            for lesson in assignment.notebooks:
                sheets.setdefault(lesson.name, []).append((assignment.name, lesson.max_score))
        with open(self.to or "grades.csv", "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["student", "lesson", "points", "of", "needs_reading", "handed_in",
                            "late_hours"])  # fmt: skip
            for lesson, places in sorted(sheets.items()):
                places.sort(key=lambda place: place[0] != lesson)  # its own assignment first
                for student in gradebook.students:
                    row: list[Any] = [0.0, places[0][1], False, False, ""]
                    for assignment, _ in places:
                        with suppress(MissingEntry):
                            given = gradebook.find_submission_notebook(
                                lesson, assignment, student.id
                            )
                            whole = gradebook.find_submission(assignment, student.id)
                            hours: float | str = ""
                            if whole.timestamp and whole.duedate:
                                hours = round(whole.total_seconds_late / 3600, 1)
                            row = [given.score, given.max_score, given.needs_manual_grade, True,
                                   hours]  # fmt: skip
                            break
                    table.writerow([student.id, lesson, *row])
