"""Repair damaged cells of a submission, so that one student's cannot stop the grading of all.

nbgrader knows a cell by the name in its metadata. In a notebook that was worked on, such a cell
gets copied (JupyterLab copies the name with it), split in two, turned into Markdown, or holds half
a character that no file can be written with. nbgrader then drops the student's whole submission;
and of a copied cell it leaves metadata so empty that it takes the notebook for one of an older
version, and stops grading for everybody. `RepairCells` runs before nbgrader's own steps:

    copied          the last stays what it is, the others become plain cells
    split           two neighbours of one name become one again
    Markdown        becomes code again; what does not run then fails its own check only
    half a character      becomes �
    metadata that is damaged     goes, or gets what nbgrader adds itself

Each is logged with the cell's name. `python -m labkit.course.repair FOLDER…` names them before
anything is graded, without changing a file.
"""

import re
import sys
from pathlib import Path
from typing import Any

from nbformat import NotebookNode
from nbgrader.preprocessors import NbGraderPreprocessor

from labkit.console import run_tool
from labkit.course.nbgrader_plugins import names
from labkit.errors import LabkitError, read_json

SCHEMA_VERSION = 3
WHOLE = "\N{REPLACEMENT CHARACTER}"
_HALF = re.compile("[\ud800-\udfff]")


class RepairCells(NbGraderPreprocessor):
    """Repair what can be repaired in a submitted notebook, and log what was."""

    def preprocess(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        nb.cells, found = repair(nb.cells)
        lesson = resources.get("nbgrader", {}).get("notebook", "the notebook")
        for sentence in found:
            self.log.warning("%s: %s", lesson, sentence)
        return nb, resources


def repair(cells: list[Any]) -> tuple[list[Any], list[str]]:
    """Return cells that nbgrader can grade, and a sentence for each that was repaired."""
    found: list[str] = []
    kept: list[Any] = []
    first: dict[str, Any] = {}
    for place, cell in enumerate(cells, start=1):
        source = cell.get("source", "")
        source = "".join(source) if isinstance(source, list) else str(source)
        if _HALF.search(source):
            found.append(f"cell {place} has half a character, which became {WHOLE}")
            source = _HALF.sub(WHOLE, source)
        cell["source"] = source
        mark = _mark(cell, place, found)
        if mark is None:
            kept.append(cell)
            continue
        name = mark["grade_id"]
        if name in first:
            if kept and kept[-1] is first[name] and _is_rest(first[name]["source"], source):
                found.append(f"cell {place} ({name}) was split from the one before: joined again")
                first[name]["source"] += f"\n{source}"
                continue
            # In the student's own notebook the last one counts, so it does here.
            found.append(f"cell {place} ({name}) is a copy of one before it: the last is graded")
            del first[name]["metadata"]["nbgrader"]
        first[name] = cell
        wanted = mark.get("cell_type")
        if wanted in ("code", "markdown") and cell.get("cell_type") != wanted:
            found.append(f"cell {place} ({name}) was turned into {cell.get('cell_type')}: it "
                         f"is {wanted} again")  # fmt: skip
            _turn(cell, wanted)
        kept.append(cell)
    return kept, found


def _mark(cell: Any, place: int, found: list[str]) -> Any:
    """Return a cell's nbgrader metadata, made whole; None where it has none, or none of use."""
    metadata = cell.get("metadata")
    if not isinstance(metadata, dict) or "nbgrader" not in metadata:
        return None
    mark = metadata["nbgrader"]
    used = isinstance(mark, dict) and any(
        mark.get(key) for key in ("grade", "solution", "locked", "task")
    )
    if not used or not isinstance(mark.get("grade_id"), str):
        if mark:
            found.append(f"cell {place} has nbgrader metadata without a name: it is a plain cell")
        del metadata["nbgrader"]
        return None
    if mark.get("schema_version") != SCHEMA_VERSION:
        found.append(f"cell {place} ({mark['grade_id']}) had lost its schema version")
        mark["schema_version"] = SCHEMA_VERSION
    for key in ("grade", "solution", "locked", "task"):
        mark.setdefault(key, False)
    return mark


def _is_rest(start: str, rest: str) -> bool:
    """Whether code is what followed some other code, and not a second try at the same."""
    try:
        bound = names(start)[0]
    except SyntaxError:
        return True  # it was cut in the middle
    try:
        return not names(rest)[0] & bound
    except SyntaxError:
        return True


def _turn(cell: Any, kind: str) -> None:
    cell["cell_type"] = kind
    if kind == "code":
        cell.setdefault("outputs", [])
        cell.setdefault("execution_count", None)
        cell.pop("attachments", None)
    else:
        cell.pop("outputs", None)
        cell.pop("execution_count", None)


def name_cells(folders: list[Path]) -> list[str]:
    """Return a sentence for each odd cell in the notebooks below folders, and changes nothing.

    Raises LabkitError for a folder that is not there.
    """
    said = []
    for folder in folders:
        if not folder.is_dir():
            raise LabkitError(f"there is no folder {folder}: give one with submitted notebooks")
        for file in sorted(folder.rglob("*.ipynb")):
            if ".ipynb_checkpoints" in file.parts:
                continue
            try:
                notebook = read_json(file)
                cells = notebook["cells"] if isinstance(notebook, dict) else None
                if not isinstance(cells, list) or not all(isinstance(c, dict) for c in cells):
                    raise LabkitError(f"{file} has no list of cells: ask for it again")
                found = repair(cells)[1]
            except KeyError:
                said.append(f"{file} has no list of cells: ask for it again")
            except LabkitError as error:
                said.append(str(error))
            else:
                said += [f"{file}: {sentence}" for sentence in found]
    return said


def main() -> None:
    """Print the odd cells of the folders on the command line."""
    folders = [Path(word) for word in sys.argv[1:]]
    if not folders:
        raise LabkitError("name a folder: python -m labkit.course.repair submitted/")
    print("\n".join(name_cells(folders)) or "no odd cells")


if __name__ == "__main__":
    run_tool(main)
