"""Build each `.ipynb` from its `.py` source, byte for byte the same everywhere.

jupytext can keep a pair in sync both ways, by which file is newer. Version control does not
keep modification times, so on a fresh checkout "newer" means nothing, and a stale notebook can
overwrite an edited source. Here the arrow has one direction:

- the source is the only edited file, and building never looks at a clock;
- a cell's id is a hash of lesson, kind and text, so two machines build the same ids, a change
  to one cell changes one id, and an unchanged cell is recognised wherever it has moved;
- the only outputs kept are those of cells tagged `nbval-check-output`: the deterministic ones,
  which nbval compares with what it computes. The others would show the student, before the
  prediction, what is to be predicted, and differ on every machine.

Source: the notebook format 4.5 (cell ids of 1-64 letters, digits, - and _); nbval's tags.
"""

import argparse
import hashlib
import sys
import tempfile
import tomllib
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

from labkit.course import execution
from labkit.errors import LabkitError
from labkit.files import write_text

PERCENT = {"extension": ".py", "format_name": "percent"}
KERNEL = ("display_name", "language", "name")
CHECKED = "nbval-check-output"
SOURCES = "[0-9A][0-9]_*.py"
"""The sources in a folder: lessons by their numbers, then appendices such as A1."""


def cell_ids(lesson: str, cells: list[NotebookNode]) -> list[str]:
    """Return one id per cell: a hash of lesson, kind, text, and which repeat of the text it is."""
    seen: dict[tuple[str, str], int] = {}
    ids = []
    for cell in cells:
        key = (cell.cell_type, cell.source)
        seen[key] = seen.get(key, 0) + 1
        text = "\n".join([lesson, *key, str(seen[key])])
        ids.append(hashlib.sha256(text.encode()).hexdigest()[:12])
    return ids


def parse(source: Path) -> NotebookNode:
    """Return the notebook that jupytext reads from a percent source, with our filters in it.

    Raises LabkitError when the header lacks a kernel with a display name: JupyterLab cannot
    open such a notebook.
    """
    try:
        notebook = jupytext.reads(source.read_text(encoding="utf-8"), fmt=PERCENT)
        kernel = {key: notebook.metadata.kernelspec[key] for key in KERNEL}
    except (KeyError, AttributeError, nbformat.ValidationError):
        raise LabkitError(
            f"{source}: the header needs a kernelspec with {', '.join(KERNEL)}"
        ) from None
    options = tomllib.loads((source.parent / "jupytext.toml").read_text(encoding="utf-8"))
    filters = {k: v for k, v in options.items() if k.endswith("_metadata_filter")}
    notebook.metadata = NotebookNode(kernelspec=kernel, jupytext=NotebookNode(filters))
    return notebook


def build(source: Path) -> NotebookNode:
    """Return the notebook of a percent source, with stable ids and without outputs."""
    notebook = parse(source)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell, identity in zip(notebook.cells, cell_ids(source.stem, notebook.cells), strict=True):
        cell.id = identity
        # How many empty lines follow a cell is a matter of the source alone.
        cell.metadata.pop("lines_to_next_cell", None)
    return notebook


def saved_source(source: Path) -> str:
    """Return the text that JupyterLab, pairing with jupytext, would save for a source."""
    return jupytext.writes(parse(source), fmt=PERCENT)


def is_checked(cell: NotebookNode) -> bool:
    """Return whether nbval compares this cell's output with the stored one."""
    return cell.cell_type == "code" and CHECKED in cell.metadata.get("tags", [])


def keep_outputs(notebook: NotebookNode, stored: NotebookNode) -> NotebookNode:
    """Give the checked cells of a built notebook the outputs stored for the same text.

    The execution count is the cell's place among the code cells: nbval skips the comparison
    where it is missing, and a real count would depend on how often a cell was run.
    """
    outputs = {c.id: c.outputs for c in stored.cells if is_checked(c) and c.get("execution_count")}
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for place, cell in enumerate(code, start=1):
        kept = is_checked(cell) and cell.id in outputs
        cell.outputs = outputs[cell.id] if kept else []
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = place
        cell.execution_count = place if kept else None
    return notebook


def sync(source: Path, *, execute: bool = False) -> bool:
    """Write the notebook beside a source; return whether it changed.

    With `execute` the lesson runs first, in the smoke profile and with a run folder of its own,
    and the checked cells get the outputs of that run.
    """
    target = source.with_suffix(".ipynb")
    notebook = build(source)
    if execute:
        stored = build(source)
        with tempfile.TemporaryDirectory() as runs:
            environment = {"LABKIT_PROFILE": "smoke", "LABKIT_RUNS": runs}
            execution.execute(stored, name=source.stem, cwd=source.parent, environment=environment)
    elif target.exists():
        stored = nbformat.read(target, as_version=4)
    else:
        stored = notebook
    text = nbformat.writes(keep_outputs(notebook, stored)) + "\n"
    if target.exists() and target.read_text(encoding="utf-8") == text:
        return False
    write_text(target, text)
    return True


def read(path: Path) -> NotebookNode:
    """Return a lesson to run: built from its source, or read where only the notebook was given."""
    if path.suffix == ".py":
        return build(path)
    return nbformat.read(path, as_version=4)


def main(arguments: list[str] | None = None) -> int:
    """Build every notebook of a folder: `python -m labkit.course lessons [--execute]`."""
    parser = argparse.ArgumentParser(description="Build the notebooks from their percent sources.")
    parser.add_argument("lessons", type=Path)
    parser.add_argument("--execute", action="store_true", help="renew the stored outputs as well")
    options = parser.parse_args(arguments)
    try:
        for source in sorted(options.lessons.glob(SOURCES)):
            changed = sync(source, execute=options.execute)
            print(f"{source.with_suffix('.ipynb')}: {'written' if changed else 'up to date'}")
    except LabkitError as error:
        print(f"sync: {error}", file=sys.stderr)
        return 2
    return 0
