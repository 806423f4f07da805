"""Repair damaged cells of a submission, so that one student's cannot stop the grading of all.

nbgrader drops a student's whole submission for a cell that was copied, split, or turned into
Markdown; and of a copied cell it leaves metadata so empty that it takes the notebook for one of an
older version, and stops grading for everybody. `RepairCells` runs before nbgrader's own steps;
what it does about each kind of cell is in `labkit.checkpoints.cells`. Each is logged with the
cell's name.

`python -m labkit.course.repair FOLDER…` names them before anything is graded, without changing a
file, and so does `labkit grade`.
"""

import sys
from pathlib import Path
from typing import Any

from nbformat import NotebookNode
from nbgrader.preprocessors import NbGraderPreprocessor

from labkit.checkpoints.cells import missing, repair
from labkit.console import run_tool
from labkit.course.hand_ins import name_cells
from labkit.errors import LabkitError


class RepairCells(NbGraderPreprocessor):
    """Repair what can be repaired in a submitted notebook, and log what was."""

    def preprocess(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        nb.cells, found = repair(nb.cells)
        lesson = resources.get("nbgrader", {}).get("notebook", "the notebook")
        for sentence in (*found, *missing(nb.cells)):
            self.log.warning("%s: %s", lesson, sentence)
        return nb, resources


def main() -> None:
    """Print the odd cells of the folders on the command line."""
    folders = [Path(word) for word in sys.argv[1:]]
    if not folders:
        raise LabkitError("name a folder: python -m labkit.course.repair submitted/")
    print("\n".join(name_cells(folders)) or "no odd cells")


if __name__ == "__main__":
    run_tool(main)
