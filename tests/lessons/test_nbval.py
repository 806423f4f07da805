"""Every lesson runs top to bottom in the smoke profile and computes what its notebook holds."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from labkit.course import pairing

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "lessons").glob("[0-9A][0-9]_*.ipynb"))


def nbval(notebook: Path, folder: Path, runs: Path | None = None) -> tuple[dict[str, int], str]:
    """Run nbval on a copy in an empty folder: a student's home has nothing else beside it.

    `runs` is where runs of earlier lessons are; they are made where there are none.
    Returns the counts of pytest's summary line and everything it printed.
    """
    copy = Path(shutil.copy(notebook, folder))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment |= {"LABKIT_PROFILE": "smoke", "LABKIT_RUNS": str(runs or folder / "runs")}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env"]
        + ["--nbval-cell-timeout=300", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
        + ["--rootdir", str(folder), str(copy)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    report = run.stdout + run.stderr
    summary = run.stdout.strip().splitlines()[-1]
    return {kind: int(n) for n, kind in re.findall(r"(\d+) (passed|failed|error)", summary)}, report


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of runs that all lessons share, as a student's do."""
    return tmp_path_factory.mktemp("student") / "runs"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_lesson_in_the_smoke_profile(notebook, tmp_path, runs):
    cells = [c for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "code"]
    counts, report = nbval(notebook, tmp_path, runs)
    checked = sum(map(pairing.is_checked, cells))
    print(f"{notebook.name}: {len(cells)} cells ran, {checked} compared with stored outputs")
    assert counts == {"passed": len(cells)}, report


HEADER = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

"""


def small_notebook(folder: Path) -> Path:
    source = folder / "00_small.py"
    source.write_text(HEADER + '# %% tags=["nbval-check-output"]\nprint(2 + 2)\n')
    shutil.copy(ROOT / "lessons/jupytext.toml", folder)
    pairing.sync(source, execute=True)
    return source.with_suffix(".ipynb")


def test_nbval_sees_a_checked_output_that_differs(tmp_path):
    (tmp_path / "run").mkdir()
    notebook = small_notebook(tmp_path)
    assert nbval(notebook, tmp_path / "run")[0] == {"passed": 1}
    notebook.write_text(notebook.read_text().replace("4\\n", "5\\n"))
    assert nbval(notebook, tmp_path / "run")[0] == {"failed": 1}
