"""One lock for everybody: conda, the image and make install the same file and nothing beside it."""

import os
import re
import subprocess
import tomllib
from importlib.metadata import distribution, distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = {
    canonicalize_name(r.name): r
    for line in (ROOT / "requirements.lock").read_text().splitlines()
    if line and not line.startswith("#")
    for r in [Requirement(line)]
}
APART = "deepspeed"
"""An extra with a lock and a folder of its own."""
DIRECT = [
    Requirement(line)
    for name, group in {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}.items()
    for line in group if name != APART
]  # fmt: skip


def applies(requirement: Requirement, extra: str = "") -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def test_every_pin_is_exact():
    for name, requirement in LOCK.items():
        assert [s.operator for s in requirement.specifier] == ["=="], name
        assert "*" not in str(requirement.specifier), name


def test_the_lock_names_the_triton_that_the_cuda_build_of_torch_requires():
    assert str(LOCK["torch"].specifier) == "==2.13.0"
    assert str(LOCK["triton"].specifier) == "==3.7.1"


def test_the_lock_is_closed_so_installing_labkit_pulls_nothing_else():
    todo = [(canonicalize_name(r.name), extra) for r in DIRECT for extra in ["", *r.extras]]
    seen = set()
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        assert name in LOCK, f"{name} is needed but not in requirements.lock"
        for line in distribution(name).requires or []:
            requirement = Requirement(line)
            if applies(requirement, extra) and not requirement.name.startswith("nvidia-"):
                todo += [
                    (canonicalize_name(requirement.name), e) for e in ["", *requirement.extras]
                ]


def test_deepspeed_s_lock_has_deepspeed_and_the_lock_what_it_needs():
    text = (ROOT / "requirements-deepspeed.lock").read_text().splitlines()
    (pin,) = [Requirement(line) for line in text if line and not line.startswith("#")]
    assert [pin.name] == PROJECT["optional-dependencies"][APART] and APART not in LOCK
    assert [each.operator for each in pin.specifier] == ["=="]
    installed = list(distributions(path=[str(ROOT / "build" / "deepspeed")]))
    for each in installed:  # none where `make deepspeed` has not run
        assert pin.specifier.contains(each.version)
        needed = [Requirement(line) for line in each.requires or []]
        assert needed and all(canonicalize_name(r.name) in LOCK for r in needed if applies(r))


def test_make_test_brings_deepspeed():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("test: lint", "test-avx2: $(STAMP)"):
        assert f"\n{target} $(ZERO)\n" in makefile


def test_what_is_installed_is_what_the_lock_says():
    for name, requirement in LOCK.items():
        if applies(requirement):
            assert requirement.specifier.contains(distribution(name).version), name


def test_pyproject_holds_no_versions():
    for requirement in DIRECT:
        assert not requirement.specifier, f"{requirement}: versions belong in requirements.lock"


def test_environment_yml_installs_the_lock():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda = [d for d in dependencies if isinstance(d, str)]
    (pip,) = [d["pip"] for d in dependencies if isinstance(d, dict)]
    assert pip == ["-r requirements.lock", "-e ."]
    assert [d for d in conda if re.search(r"[=<>]", d)] == ["python=3.11"]


@pytest.fixture(scope="module")
def dockerfile() -> list[str]:
    """The instructions of the Dockerfile, continuation lines joined, comments dropped."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def stages(dockerfile: list[str]) -> dict[str, list[str]]:
    """The instructions of each stage, its own only."""
    found: dict[str, list[str]] = {}
    for line in dockerfile:
        if line.startswith("FROM"):
            found[line.split(" AS ")[1]] = []
        next(reversed(found.values())).append(line)
    return found


def test_dockerfile_installs_the_lock_through_make(dockerfile):
    runs = [line for line in dockerfile if line.startswith("RUN")]
    assert any("make install" in line for line in runs)
    assert not any(re.search(r"\b(pip|conda)3? install\b", line) for line in runs)
    assert not any("==" in line for line in dockerfile)
    copied = next(line for line in dockerfile if line.startswith("COPY") and "requirements" in line)
    assert "requirements.lock" in copied and "Makefile" in copied


def test_dockerfile_is_a_single_user_image(dockerfile):
    assert dockerfile[0].startswith("FROM python:3.11-")
    assert "ARG NB_UID=1000" in dockerfile
    assert any("build-essential" in line for line in dockerfile)
    users = [line for line in dockerfile if line.startswith("USER")]
    assert users == ["USER ${NB_UID}"], "the course never runs as root"
    assert dockerfile[-1].startswith('CMD ["jupyterhub-singleuser"')


def test_the_image_has_what_students_get_and_nothing_else(dockerfile):
    by_stage = stages(dockerfile)
    last = by_stage["hub"]
    assert last[0] == "FROM environment AS hub" and list(by_stage)[-1] == "hub"
    copies = [line.split()[1:] for line in last if line.startswith("COPY")]
    from_release = {words[-1]: words[-2] for words in copies if words[0] == "--from=release"}
    assert from_release == {
        "/opt/course": "/tmp/gradebook/release/lessons",
        "/opt/models": "/tmp/models",
    }
    plain = [words for words in copies if words[0] != "--from=release"]
    for source, _ in plain:  # no --chown: the student can't change it
        assert (ROOT / source).exists(), source
        assert not (ROOT / source).match("lessons") and source != "."
        assert not list((ROOT / source).rglob("[0-9][0-9]_*.py")), "solutions"
    assert "GRADEBOOK=/tmp/gradebook" in " ".join(by_stage["release"])
    # A hub replaces the command, so what copies the lessons is the entry point.
    assert 'ENTRYPOINT ["/opt/start"]' in last
    assert {"lessons/hub-example/start", "lessons/hub-example/jupyter"} <= {w[0] for w in plain}
    assert os.access(ROOT / "lessons/hub-example/start", os.X_OK)


def test_the_image_takes_the_version_of_the_hub(dockerfile, tmp_path):
    (run,) = [line for line in dockerfile if "JUPYTERHUB_VERSION" in line and "sed" in line]
    command = re.search(r"RUN (if .*? fi)\b", run)[1]
    lock = (ROOT / "requirements.lock").read_text()
    (tmp_path / "requirements.lock").write_text(lock)
    for version, expected in [
        ("", lock),
        ("5.3.0", re.sub(r"(?m)^(jupyterhub==).*", r"\g<1>5.3.0", lock)),
    ]:
        subprocess.run(
            ["sh", "-c", command], cwd=tmp_path, env={**os.environ, "JUPYTERHUB_VERSION": version}
        )
        assert (tmp_path / "requirements.lock").read_text() == expected
    assert "jupyterhub==5.3.0\n" in expected != lock


def test_the_python_version_is_the_same_everywhere():
    assert PROJECT["requires-python"] == ">=3.11,<3.12"
    assert "PYTHON ?= python3.11" in (ROOT / "Makefile").read_text()


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    # The tests themselves run under make: what it was given must not reach this one.
    ours = {k: v for k, v in os.environ.items() if "MAKE" not in k and k != "TORCH_INDEX"}
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, env=ours)


def test_make_says_what_to_do_without_python_311(tmp_path):
    run = make("install", "PYTHON=no-such-python", f"VENV={tmp_path / 'venv'}")
    assert run.returncode == 2
    assert "is not a Python 3.11" in run.stderr and "make PYTHON=" in run.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize(
    ("target", "does"),
    [
        ("course", "bin/labkit course"),
        ("test", "-m pytest"),
        ("test-hub", "-m pytest tests/hub"),
        ("lab", "-m jupyterlab"),
        ("sync", "-m labkit.course"),
        ("lint", "-m mypy"),
        ("release", "-m labkit.course.release"),
    ],
)
def test_every_target_installs_first(target, does, tmp_path):
    plan = make("--dry-run", target, f"VENV={tmp_path / 'venv'}").stdout
    assert plan.index("pip install  -r requirements.lock") < plan.index(does)
    assert "--no-deps --no-build-isolation" in plan


def test_the_torch_index_is_passed_only_on_request(tmp_path):
    venv = f"VENV={tmp_path / 'venv'}"
    assert "--extra-index-url" not in make("--dry-run", "install", venv).stdout
    plan = make("--dry-run", "install", venv, "TORCH_INDEX=https://example.org/cpu").stdout
    assert "--extra-index-url https://example.org/cpu -r requirements.lock" in plan


def test_ci_runs_the_readme_command_then_the_hub():
    script = (ROOT / ".ci/run").read_text()
    assert script.index("\nmake test\n") < script.index("\nmake test-hub\n")
    assert "make test" in (ROOT / "README.md").read_text()
    for needed in ("chromium", "npm", "setpriv"):
        assert f"command -v {needed}" in script
    assert "export CI=true" in script, "in CI a skipped hub test is a failure"


def test_make_test_leaves_the_hub_to_make_test_hub():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert "hub" in settings["norecursedirs"]
