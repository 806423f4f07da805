"""CONTRIBUTING.md and the conventions it states, held against the checkout."""

import ast
import re
import tomllib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
PACKAGE = ROOT / "labkit"
SUFFIX = re.compile(r"_([A-Z1]{0,3}[A-Z][A-Z1]{0,3})$")


def section(title: str) -> str:
    """Return what stands under the heading of level two with this title."""
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", GUIDE, re.M | re.S)[1]


def listed() -> list[str]:
    """Return the entries of the list of files, paths or patterns below labkit/."""
    entries, room = [], ""
    for line in section("Every file").splitlines():
        if heading := re.fullmatch(r"### `labkit/(.*)`", line):
            room = heading[1]
        elif entry := re.match(r"- `([^`]+)`: \S", line):
            entries.append(room + entry[1])
        else:
            assert not line.startswith("- "), f"not of the form - `file`: what it does: {line}"
    return entries


def own_files() -> set[str]:
    """Return the files of labkit without the faces and the stubs of `python -m`."""
    stubs = ("__init__.py", "course/__main__.py")
    paths = {str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*") if p.is_file()}
    return {path for path in paths if "__pycache__" not in path and not path.endswith(stubs)}


def matches(entry: str) -> set[str]:
    return {str(path.relative_to(PACKAGE)) for path in PACKAGE.glob(entry) if path.is_file()}


def test_every_file_of_labkit_is_listed_once_and_nothing_else():
    entries = listed()
    for entry in entries:
        assert matches(entry), f"CONTRIBUTING.md lists labkit/{entry}, which does not exist"
    counts = Counter(path for entry in entries for path in matches(entry))
    missing = sorted(own_files() - counts.keys())
    assert not missing, f"add a line to CONTRIBUTING.md for {', '.join(missing)}"
    assert not {path for path, count in counts.items() if count > 1}


def test_the_picture_of_the_floors_is_what_import_linter_holds():
    picture = re.search(r"```text\n(.*?)```", section("The floors"), re.S)[1]
    drawn = [set(line.partition("·")[0].split()) for line in picture.splitlines()]
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    (floors,) = [c for c in tools["importlinter"]["contracts"] if c["containers"] == ["labkit"]]
    assert drawn == [{room.strip() for room in layer.split("|")} for layer in floors["layers"]]


def test_the_commands_it_names_are_those_of_the_makefile():
    targets = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split())
    named = set(re.findall(r"(?:^|`)make ([a-z0-9-]+)", GUIDE, re.M))
    assert {"quick", "test", "test-avx2", "sync", "lint"} <= named <= targets


def test_the_readme_leads_here():
    assert "(CONTRIBUTING.md)" in (ROOT / "README.md").read_text()


def shaped_names(module: Path) -> set[str]:
    """Return the letters of shape suffixes among a module's variables and parameters."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        name = getattr(node, "id", None) or getattr(node, "arg", None)
        if isinstance(name, str) and name != name.upper() and (suffix := SUFFIX.search(name)):
            found |= set(suffix[1])
    return found


@pytest.mark.parametrize("module", sorted(p for p in PACKAGE.rglob("*.py") if shaped_names(p)),
                         ids=lambda p: str(p.relative_to(PACKAGE)))  # fmt: skip
def test_shape_suffixes_have_a_legend(module: Path):
    text = ast.get_docstring(ast.parse(module.read_text())) or ""
    legend = re.search(r"^Shape(?: suffixe)?s: (.*?)(?:\n\n|\Z)", text, re.M | re.S)
    assert legend, "the module's docstring needs a line `Shape suffixes: B samples, …`"
    letters = shaped_names(module)
    missing = {letter for letter in letters if not re.search(rf"\b{letter} ", legend[1])}
    assert not missing, f"the legend does not explain {missing}"


def test_tests_mirror_the_package():
    apart = {"lessons", "hub", "gpu"}
    for folder in (ROOT / "tests").rglob("*"):
        below = folder.relative_to(ROOT / "tests")
        if folder.is_dir() and below.parts[0] not in apart and list(folder.glob("test_*.py")):
            assert (PACKAGE / below).is_dir(), f"tests/{below} has no labkit/{below}"
    whole = {
        "api_signatures", "committed_results", "contributing", "environment", "extras", "rooms",
    }  # fmt: skip
    for file in (ROOT / "tests").glob("test_*.py"):
        subject = file.stem.removeprefix("test_")
        assert subject in whole or (PACKAGE / f"{subject}.py").exists(), f"{file.name}: which room?"


def test_what_is_listed_as_slow_exists():
    lines = (ROOT / "tests" / "slow.txt").read_text().splitlines()
    for line in filter(None, lines):
        file, _, test = line.partition("::")
        if not line.startswith("#"):
            assert (ROOT / file).exists(), line
            assert not test or f"\ndef {test}(" in (ROOT / file).read_text(), line


@pytest.mark.parametrize(("nodeid", "slow"), [
    ("tests/sweep/test_batch_sizes.py::test_any[1-2]", True),
    ("tests/train/test_run.py::test_any", True),
    ("tests/sweeping/test_batch_sizes.py::test_any", False),
    ("tests/train/test_run.pyc::test_any", False),
    ("tests/datasets/test_score.py::test_any", False),
])  # fmt: skip
def test_what_is_listed_as_slow_is_marked(request: pytest.FixtureRequest, nodeid: str, slow: bool):
    conftest = request.config.pluginmanager.get_plugin(str(ROOT / "tests" / "conftest.py"))
    marks: list[pytest.MarkDecorator] = []
    item = SimpleNamespace(nodeid=nodeid, add_marker=marks.append)
    conftest.pytest_collection_modifyitems(request.config, [item])
    assert [mark.name for mark in marks] == ["slow"] * slow
