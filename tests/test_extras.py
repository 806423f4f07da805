"""The core trains and measures without the extras; a command that needs one names it."""

import ast
import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import labkit
from labkit.errors import LabkitError, extra

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CORE = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {
    name: [Requirement(line) for line in lines]
    for name, lines in PROJECT["optional-dependencies"].items()
    if name != "deepspeed"  # which is not in the environment: test_two_processes trains by it
}

SERVED = (
    "labkit.serve", "labkit.course.nbgrader_plugins", "labkit.course.repair",
    "labkit.course.warm_kernels",
)  # fmt: skip
"""What cannot be imported without an extra: the server, and what nbgrader itself loads."""

IMPORT_ALL = """
import importlib, json, sys
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
from labkit.cli import main
main(["--help"])
"""


def closure(requirements: list[Requirement]) -> set[str]:
    """Return the names of what pip installs for `requirements`, on this machine."""
    todo = [(canonicalize_name(r.name), e) for r in requirements for e in ["", *r.extras]
            if r.marker is None or r.marker.evaluate()]  # fmt: skip
    seen: set[tuple[str, str]] = set()
    while todo:
        name, wanted = todo.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        for line in distribution(name).requires or []:
            needed = Requirement(line)
            if needed.name.startswith("nvidia-"):
                continue
            if needed.marker is None or needed.marker.evaluate({"extra": wanted}):
                todo += [(canonicalize_name(needed.name), e) for e in ["", *needed.extras]]
    return {name for name, _ in seen}


def absent() -> list[str]:
    """Return the modules that only an extra brings."""
    core = closure(CORE)
    only = {name for needs in EXTRAS.values() for name in closure(needs)} - core
    modules = {
        module
        for module, owners in packages_distributions().items()
        if owners and all(canonicalize_name(owner) in only for owner in owners)
    }
    # The names that pyproject itself lists have to be among them, or nothing would be proved.
    assert {"gradio", "fastapi", "openai", "lm_eval", "nbgrader", "pytest"} <= modules
    return sorted(modules)


def modules() -> list[str]:
    """Return the names of all modules of labkit but those of an extra, programs left out."""
    found = []
    for file in sorted((ROOT / "labkit").rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if parts[-1] != "__main__" and not name.startswith(SERVED):
            found.append(name)
    return found


def test_the_core_imports_and_shows_its_help_without_the_extras(
    without: Callable[..., dict[str, str]],
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, json.dumps(modules())],
        env={**os.environ, **without(*absent())}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "doctor" in done.stdout and "serve" in done.stdout


@pytest.mark.parametrize(
    ("command", "library", "name"),
    [
        (["serve", "tiny-llama"], "fastapi", "serve"),
        (["chat", "tiny-llama"], "gradio", "serve"),
        (["eval", "tiny-llama", "--task", "tables_f1"], "lm_eval", "eval"),
    ],
)
def test_a_command_names_the_extra_that_it_lacks(
    command: list[str], library: str, name: str, without: Callable[..., dict[str, str]],
    tmp_path: Path,
) -> None:  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "labkit", *command],
        env={**os.environ, **without(library), "LABKIT_RUNS": str(tmp_path / "runs")},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    (sentence,) = done.stderr.strip().splitlines()
    assert f"needs {library}, which is not installed" in sentence and f"labkit[{name}]" in sentence
    assert not (tmp_path / "runs").exists()


def test_a_missing_module_of_ours_is_a_fault_and_not_an_extra() -> None:
    with pytest.raises(ModuleNotFoundError), extra("serve", "this"):
        importlib.import_module("labkit.there_is_no_such_module")
    sentence = r"this needs no_such_library, .*labkit\[serve\]"
    with pytest.raises(LabkitError, match=sentence), extra("serve", "this"):
        importlib.import_module("no_such_library.part")


def test_every_library_that_labkit_imports_is_named_by_the_core_or_an_extra() -> None:
    named = {canonicalize_name(r.name) for r in CORE}
    named |= {canonicalize_name(r.name) for needs in EXTRAS.values() for r in needs}
    owners = packages_distributions()
    unnamed = set()
    for file in Path(labkit.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            for name in {each.partition(".")[0] for each in names} - {"labkit"}:
                if name in sys.stdlib_module_names or name == "modal":  # an example's own
                    continue
                found = {canonicalize_name(owner) for owner in owners.get(name, [])}
                if not found & named:
                    unnamed.add((name, file.name))
    assert not unnamed
