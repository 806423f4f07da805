"""Find damaged cells in a notebook that was handed in, and make of them what nbgrader can grade.

nbgrader knows a cell by the name in its metadata. In a notebook that was worked on, such a cell
gets copied (JupyterLab copies the name with it), split in two, deleted, turned into Markdown, or
holds half a character that no file can be written with. What is done about each:

    copied          the last stays what it is, the others become plain cells
    split           two neighbours of one name become one again
    Markdown        becomes code again; what does not run then fails its own check only
    half a character      becomes �
    metadata that is damaged     goes, or gets what nbgrader adds itself
    of another lesson     becomes a plain cell
    tagged so that it is not run, or may fail     loses the tag
    deleted         comes back as it was released, so that its check fails and no other

Cells are the mappings that a notebook's JSON has, whatever is in them.

Source: nbformat's description of version 4; nbgrader's of its metadata; Python's `symtable`.
"""

import re
import symtable
from typing import Any

SCHEMA_VERSION = 3
WHOLE = "\N{REPLACEMENT CHARACTER}"
SKIP = "skip-execution"
_TAGS = (SKIP, "raises-exception")
"""What nbclient does not run, and what it lets fail."""
LONGEST_NAME = 60
LONGEST_READ = 100_000
"""characters of code that are parsed to tell a split cell from a copied one"""
POINTS = "-points"
"""what the name of the locked cell ends in that counts a solution's points"""
UNREADABLE = (SyntaxError, ValueError, MemoryError, RecursionError)
"""What `names` raises for code that is none, such as a null character or a thousand brackets."""
_HALF = re.compile("[\ud800-\udfff]")


def repair(cells: list[Any]) -> tuple[list[Any], list[str]]:
    """Return cells that nbgrader can grade, and a sentence for each that was repaired.

    The cells are changed in place; `found_in` looks at them without that.
    """
    found: list[str] = []
    kept: list[Any] = []
    first: dict[str, Any] = {}
    for place, cell in enumerate(cells, start=1):
        source = cell.get("source", "")
        source = "".join(map(str, source)) if isinstance(source, list) else str(source)
        if _HALF.search(source):
            found.append(f"cell {place} has half a character, which became {WHOLE}")
            source = _HALF.sub(WHOLE, source)
        cell["source"] = source
        if not isinstance(cell.get("metadata"), dict):
            cell["metadata"] = {}
        mark = _mark(cell, place, found)
        if mark is None:
            kept.append(cell)
            continue
        name = mark["grade_id"]
        shown = _shown(name)
        tags = cell["metadata"].get("tags")
        if isinstance(tags, list) and (odd := [tag for tag in _TAGS if tag in tags]):
            found.append(f"cell {place} ({shown}) was tagged {' and '.join(odd)}: it is no longer")
            cell["metadata"]["tags"] = [tag for tag in tags if tag not in _TAGS]
        if name in first:
            if kept and kept[-1] is first[name] and _is_rest(first[name]["source"], source):
                found.append(f"cell {place} ({shown}) was split from the one before: joined again")
                first[name]["source"] += f"\n{source}"
                continue
            # In the student's own notebook the last one counts, so it does here.
            found.append(f"cell {place} ({shown}) is a copy of one before it: the last is graded")
            del first[name]["metadata"]["nbgrader"]
        first[name] = cell
        wanted = mark.get("cell_type")
        if wanted in ("code", "markdown") and cell.get("cell_type") != wanted:
            now = _shown(cell.get("cell_type"))
            found.append(f"cell {place} ({shown}) was turned into {now}: it is {wanted} again")
            _turn(cell, wanted)
        kept.append(cell)
    return kept, found


def restore(cells: list[Any], released: list[Any]) -> tuple[list[Any], list[str]]:
    """Return repaired cells with the names and marks of the lesson, and a sentence for each change.

    `released` are the lesson's own marked cells in their order. nbgrader stops at a name that it
    does not know, at marks that are not its own, and at two deleted cells in a row.
    """
    found: list[str] = []
    marks = {_name(cell): cell["metadata"]["nbgrader"] for cell in released}
    kept = list(cells)
    for place, cell in enumerate(kept, start=1):
        name = _name(cell)
        if name is None:
            continue
        if name not in marks:
            found.append(f"cell {place} ({_shown(name)}) is of another lesson: it is a plain cell")
            del cell["metadata"]["nbgrader"]
            continue
        mark = cell["metadata"]["nbgrader"]
        if changed := [key for key, value in marks[name].items()
                       if key in _MARKS and mark.get(key) != value]:  # fmt: skip
            found.append(f"cell {place} ({_shown(name)}) had other marks "
                         f"({', '.join(changed)}): it has the lesson's")  # fmt: skip
            mark |= {key: marks[name][key] for key in changed}
    after = 0
    for cell in released:
        places = [place for place, each in enumerate(kept) if _name(each) == _name(cell)]
        if not places:
            found.append(f"the cell {_shown(_name(cell))} was deleted: it is back as released")
            kept.insert(after, cell)
        after = (places[0] if places else after) + 1
    return kept, found


_MARKS = ("grade", "solution", "task", "points")
"""What nbgrader stops at; whether a cell is locked it puts right itself."""


def _name(cell: Any) -> str | None:
    """Return the name by which nbgrader knows a repaired cell."""
    mark = cell["metadata"].get("nbgrader")
    return mark["grade_id"] if isinstance(mark, dict) else None


def missing(cells: list[Any]) -> list[str]:
    """Return a sentence for each cell of an exercise whose other cell was deleted."""
    here: dict[str, dict[str, Any]] = {}
    for cell in cells:
        metadata = cell.get("metadata")
        mark = metadata.get("nbgrader") if isinstance(metadata, dict) else None
        if isinstance(mark, dict) and isinstance(mark.get("grade_id"), str):
            here[mark["grade_id"]] = mark
    written = {name for name, mark in here.items() if mark.get("solution")}
    counted = {name.removesuffix(POINTS) for name in here if name.endswith(POINTS)}
    gone = counted - set(here) | {f"{name}{POINTS}" for name in written - counted if counted}
    return [f"the cell {_shown(name)} was deleted: nbgrader puts it back as it was released"
            for name in sorted(gone)]  # fmt: skip


def found_in(notebook: Any) -> list[str]:
    """Return a sentence for each odd cell of a notebook, which stays as it is.

    Raises ValueError for what has no list of cells.
    """
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise ValueError("no list of cells")
    return [*repair([_apart(cell) for cell in cells])[1], *missing(cells)]


def _apart(cell: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a cell whose nbgrader metadata is a copy as well."""
    metadata = cell.get("metadata")
    if not isinstance(metadata, dict):
        return dict(cell)
    mark = metadata.get("nbgrader")
    metadata = metadata | ({"nbgrader": dict(mark)} if isinstance(mark, dict) else {})
    return cell | {"metadata": metadata}


def _shown(name: Any) -> str:
    """Return a name that a student wrote, fit for a line of a terminal."""
    text = str(name)[: LONGEST_NAME + 1]
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}…"


def _mark(cell: Any, place: int, found: list[str]) -> Any:
    """Return a cell's nbgrader metadata, made whole; None where it has none, or none of use."""
    metadata = cell["metadata"]
    if "nbgrader" not in metadata:
        return None
    mark = metadata["nbgrader"]
    used = isinstance(mark, dict) and any(
        mark.get(key) for key in ("grade", "solution", "locked", "task")
    )
    if not used or not isinstance(mark.get("grade_id"), str) or not mark["grade_id"]:
        if mark:
            found.append(f"cell {place} has nbgrader metadata without a name: it is a plain cell")
        del metadata["nbgrader"]
        return None
    if mark.get("schema_version") != SCHEMA_VERSION:
        found.append(f"cell {place} ({_shown(mark['grade_id'])}) had lost its schema version")
        mark["schema_version"] = SCHEMA_VERSION
    for key in ("grade", "solution", "locked", "task"):
        mark.setdefault(key, False)
    return mark


def _is_rest(start: str, rest: str) -> bool:
    """Whether code is what followed some other code, and not a second try at the same."""
    if len(start) + len(rest) > LONGEST_READ:
        return False
    try:
        bound = names(start)[0]
    except UNREADABLE:
        return True  # it was cut in the middle
    try:
        return not names(rest)[0] & bound
    except UNREADABLE:
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
