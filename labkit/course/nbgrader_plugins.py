"""Extend nbgrader: grade in seconds without training, export grades by lesson.

Grading executes a student's notebook in the instructor's container. Most of a lesson trains and
measures, which takes minutes, says nothing about the exercises, and is graded from its records
by `labkit grade` without executing anything. So only the cells that the graded ones depend on
are run:

    needed = graded and solution cells, and every cell before the last of them that binds a
             name they use, and so on for the names those use

Names are found by Python's own symbol table. A cell that cannot be parsed runs.

Source: Python's `symtable`; nbgrader's preprocessors and export plugins; nbclient, which does
not run cells tagged `skip-execution`.
"""

import csv
import symtable
from typing import Any

from nbformat import NotebookNode
from nbgrader.api import Gradebook, MissingEntry
from nbgrader.plugins import ExportPlugin
from nbgrader.preprocessors import NbGraderPreprocessor

SKIP = "skip-execution"


def names(code: str) -> tuple[set[str], set[str]]:
    """Return the global names that a cell binds and those that it uses.

    >>> bound, used = names("import os; f = lambda x: x + y")
    >>> sorted(bound), sorted(used)
    (['f', 'os'], ['y'])
    """
    top = symtable.symtable(code, "cell", "exec")
    bound = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    used = {s.get_name() for s in top.get_symbols() if s.is_referenced()}
    todo = list(top.get_children())
    while todo:
        scope = todo.pop()
        todo += scope.get_children()
        for symbol in scope.get_symbols():
            if symbol.is_global():
                (bound if symbol.is_assigned() else used).add(symbol.get_name())
    return bound, used


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
        except SyntaxError:  # an unfinished line, or a magic command
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
            if cell.cell_type == "code" and i not in keep:
                tags = cell.metadata.get("tags", [])
                cell.metadata.tags = [*(tag for tag in tags if tag != SKIP), SKIP]
        return nb, resources


class LessonExport(ExportPlugin):
    """A table with a row for each student and lesson: points, and how many there are.

    `nbgrader export --exporter=labkit.course.nbgrader_plugins.LessonExport`. nbgrader's own export
    has a row per assignment, and the whole course is one.
    """

    def export(self, gradebook: Gradebook) -> None:
        with open(self.to or "grades.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["student", "lesson", "points", "of", "needs_reading"])
            for assignment in gradebook.assignments:
                for student in gradebook.students:
                    for lesson in assignment.notebooks:
                        try:
                            given = gradebook.find_submission_notebook(
                                lesson.name, assignment.name, student.id
                            )
                        except MissingEntry:
                            row: list[Any] = [0.0, lesson.max_score, False]
                        else:
                            row = [given.score, given.max_score, given.needs_manual_grade]
                        table.writerow([student.id, lesson.name, *row])
