"""Repair damaged cells of a submission, so that one student's cannot stop the grading of all.

nbgrader drops a student's whole submission for a cell that was copied, split, or turned into
Markdown; and of a copied cell it leaves metadata so empty that it takes the notebook for one of an
older version, and stops grading for everybody. `RepairCells` runs before nbgrader's own steps;
what it does about each kind of cell is in `labkit.checkpoints.cells`. Each is logged with the
cell's name. Which names a lesson has is in the gradebook.

`python -m labkit.course.repair FOLDER…` names them before anything is graded, without changing a
file, and so does `labkit grade`.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbformat import NotebookNode, v4
from nbgrader.api import Gradebook, MissingEntry
from nbgrader.preprocessors import NbGraderPreprocessor

from labkit.checkpoints.cells import SCHEMA_VERSION, missing, repair, restore
from labkit.console import run_tool
from labkit.course.hand_ins import name_cells
from labkit.errors import LabkitError


class RepairCells(NbGraderPreprocessor):
    """Repair what can be repaired in a submitted notebook, and log what was."""

    def preprocess(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        nb.setdefault("metadata", NotebookNode())
        nb.cells, found = repair(nb.cells)
        about = resources.get("nbgrader", {})
        if cells := released(about):
            nb.cells, more = restore(nb.cells, cells)
        else:
            more = missing(nb.cells)
        for sentence in (*found, *more):
            self.log.warning("%s: %s", about.get("notebook", "the notebook"), sentence)
        return nb, resources


def released(about: Mapping[str, Any]) -> list[NotebookNode]:
    """Return the marked cells of a lesson as it was released; none where no gradebook knows it.

    `about` is what nbgrader tells its preprocessors: db_url, assignment and notebook.
    """
    if "db_url" not in about:
        return []
    with Gradebook(about["db_url"]) as gradebook:
        try:
            lesson = gradebook.find_notebook(about["notebook"], about["assignment"])
        except MissingEntry:
            return []
        counted = (*lesson.grade_cells, *lesson.task_cells)
        points = {cell.name: cell.max_score for cell in counted}
        grades, solutions, tasks = (
            {cell.name for cell in cells}
            for cells in (lesson.grade_cells, lesson.solution_cells, lesson.task_cells)
        )
        found = []
        for cell in lesson.source_cells:
            mark = {
                "grade_id": cell.name, "grade": cell.name in grades, "locked": cell.locked,
                "solution": cell.name in solutions, "task": cell.name in tasks,
                "cell_type": cell.cell_type, "schema_version": SCHEMA_VERSION,
            }  # fmt: skip
            if cell.name in points:
                mark["points"] = points[cell.name]
            made = getattr(v4, f"new_{cell.cell_type}_cell")(cell.source)
            made.metadata.nbgrader = NotebookNode(mark)
            found.append(made)
        return found


def main() -> None:
    """Print the odd cells of the folders on the command line."""
    folders = [Path(word) for word in sys.argv[1:]]
    if not folders:
        raise LabkitError("name a folder: python -m labkit.course.repair submitted/")
    print("\n".join(name_cells(folders)) or "no odd cells")


if __name__ == "__main__":
    run_tool(main)
