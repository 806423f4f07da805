"""The shape of the package: few rooms, faces without code, files that can be read at a sitting."""

import ast
from pathlib import Path

import pytest

LABKIT = Path(__file__).parents[1] / "labkit"
MOST_ROOMS = 24
MOST_LINES = 380
# What has to be set before torch is imported is set where every import of labkit passes.
FACES = sorted(set(LABKIT.rglob("__init__.py")) - {LABKIT / "__init__.py"})


def only_hands_on(statement: ast.stmt) -> bool:
    """Say whether a statement is a docstring, an import of labkit's own, or `__all__`."""
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    if isinstance(statement, ast.ImportFrom):
        return (statement.module or "").split(".")[0] == "labkit"
    return isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__"


@pytest.mark.parametrize("face", FACES, ids=lambda path: path.parent.name)
def test_a_face_holds_names_and_no_code(face: Path) -> None:
    code = [line for line in ast.parse(face.read_text()).body if not only_hands_on(line)]
    assert not code, f"{face} line {code[0].lineno}: give this code a module of its own"


def test_code_in_a_face_would_be_found() -> None:
    kinds = ["import os", "import torch", "def f(): ...", "X = 1", "print(1)"]
    assert not any(only_hands_on(ast.parse(text).body[0]) for text in kinds)


def test_rooms_are_few_and_files_short() -> None:
    # A folder that was moved away leaves its compiled files behind.
    files = [path for path in LABKIT.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert len({path.relative_to(LABKIT).parts[0] for path in files}) <= MOST_ROOMS
    lines = {str(path): len(path.read_text().splitlines()) for path in LABKIT.rglob("*.py")}
    assert len(FACES) > 20 and not {p: n for p, n in lines.items() if n > MOST_LINES}
