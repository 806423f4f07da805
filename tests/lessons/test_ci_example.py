"""The workflow that instructors copy names commands, flags and variables that exist here."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "lessons/ci-example/nbval.yml").read_text()
STEPS = yaml.safe_load(TEXT)["jobs"]["nbval"]["steps"]
RUNS = " ".join(step["run"] for step in STEPS if "run" in step)


def test_it_uses_make_targets_and_files_that_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake (\w+)", RUNS):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for path in re.findall(r"\b(?:tests|labkit|lessons)/[\w./]+\.py\b", RUNS):
        assert (ROOT / path).is_file(), path
    assert "TORCH_INDEX ?=" in makefile


def test_nbval_knows_its_flags():
    flags = set(re.findall(r"--nbval[\w-]*", RUNS))
    assert {"--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout"} <= flags
    known = subprocess.run(
        [sys.executable, "-m", "pytest", "--help"], capture_output=True, text=True
    ).stdout
    assert all(f"{flag} " in known or f"{flag}=" in known for flag in flags)
    manual = (ROOT / "lessons/INSTRUCTOR.md").read_text()
    assert flags <= set(re.findall(r"--nbval[\w-]*", manual))


def test_it_runs_the_smoke_profile_on_the_python_of_the_lock():
    job = yaml.safe_load(TEXT)["jobs"]["nbval"]
    assert job["env"]["LABKIT_PROFILE"] == "smoke"
    python = next(s["with"] for s in STEPS if "setup-python" in s.get("uses", ""))
    assert python["python-version"] == "3.11"
    assert python["cache-dependency-path"] == "requirements.lock"
