"""The hub that instructors copy: lessons never overwrite work, and settings name real things."""

import importlib
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from jupyterhub.app import JupyterHub
from traitlets.config import PyFileConfigLoader

from labkit.runs.profiles import PROFILES

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "lessons/hub-example"


@pytest.fixture
def student(tmp_path):
    """Return a function that starts the student's server: gives lessons out, runs a command."""
    (tmp_path / "course").mkdir()
    (tmp_path / "home").mkdir()

    def start(*command: str, **changes: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "HOME": str(tmp_path / "home")}
        environment |= {"LABKIT_COURSE": str(tmp_path / "course"), **changes}
        return subprocess.run(
            [EXAMPLE / "start", *(command or ("true",))],
            env=environment, capture_output=True, text=True,
        )  # fmt: skip

    start.course = tmp_path / "course"
    start.lessons = tmp_path / "home/lessons"
    return start


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_new_student_gets_every_lesson_and_may_write_in_it(student):
    (student.course / "00_a.ipynb").write_text("one")
    (student.course / "00_a.ipynb").chmod(0o444)
    run = student("sh", "-c", "echo the command ran; exit 7")
    assert (run.stdout, run.stderr, run.returncode) == ("the command ran\n", "", 7)
    assert contents(student.lessons) == {"00_a.ipynb": "one"}
    assert (student.lessons / "00_a.ipynb").stat().st_mode & 0o200


def test_what_a_student_wrote_is_never_overwritten(student):
    lesson = student.course / "00_a.ipynb"
    lesson.write_text("one")
    student()
    (student.lessons / "00_a.ipynb").write_text("one, and my answer")
    student()
    assert contents(student.lessons) == {"00_a.ipynb": "one, and my answer"}
    lesson.write_text("two")
    for _ in range(2):
        student()
        expected = {"00_a.ipynb": "one, and my answer", "00_a.new.ipynb": "two"}
        assert contents(student.lessons) == expected
    (student.lessons / "00_a.new.ipynb").unlink()
    student()
    assert "00_a.new.ipynb" not in contents(student.lessons), "it was thrown away on purpose"


def test_a_lesson_that_was_not_touched_is_renewed_and_a_deleted_one_comes_back(student):
    for name in ("00_a.ipynb", "01_b.ipynb"):
        (student.course / name).write_text("one")
    student()
    (student.course / "00_a.ipynb").write_text("two")
    (student.lessons / "01_b.ipynb").unlink()
    student()
    assert contents(student.lessons) == {"00_a.ipynb": "two", "01_b.ipynb": "one"}


def test_a_home_from_before_is_left_alone(student):
    (student.course / "00_a.ipynb").write_text("two")
    student.lessons.mkdir()
    (student.lessons / "00_a.ipynb").write_text("from somewhere else")
    student()
    assert contents(student.lessons)["00_a.ipynb"] == "from somewhere else"
    assert contents(student.lessons)["00_a.new.ipynb"] == "two"


def test_a_home_that_cannot_be_written_does_not_stop_the_server(student, tmp_path):
    (student.course / "00_a.ipynb").write_text("one")
    (tmp_path / "home/lessons").write_text("a file where the folder should be")
    run = student("echo", "started")
    assert run.stdout == "started\n" and run.returncode == 0
    assert "cannot be" in run.stderr


def test_names_with_spaces_and_an_empty_course_are_fine(student):
    assert student("echo", "started").stdout == "started\n"
    (student.course / "00 a.ipynb").write_text("one")
    assert student().stderr == ""
    assert contents(student.lessons) == {"00 a.ipynb": "one"}


@pytest.fixture(scope="module")
def settings():
    return PyFileConfigLoader("jupyterhub_config.py", str(EXAMPLE)).load_config()


def test_the_hub_knows_every_setting_of_the_example(settings):
    known = {cls.__name__: set(cls.class_trait_names(config=True)) for cls in JupyterHub().classes}
    for name, section in settings.items():
        if name == "DockerSpawner":  # a package of its own, on the hub's side
            continue
        assert set(section) <= known[name], name
    assert settings.DockerSpawner.volumes["/public"]["mode"] == "ro"
    assert settings.JupyterHub.bind_url.startswith("http://127.0.0.1")


def test_the_environment_is_one_that_labkit_reads(settings):
    code = "".join(path.read_text() for path in (ROOT / "labkit").rglob("*.py"))
    for name in settings.Spawner.environment:
        assert f'"{name}"' in code or name == "HF_HUB_OFFLINE", name
    assert settings.Spawner.environment["LABKIT_PROFILE"] in PROFILES
    image = (ROOT / "Dockerfile").read_text()
    assert f"LABKIT_RUNS={settings.Spawner.environment['LABKIT_RUNS']}" in image


@pytest.mark.parametrize("file", ["jupyter_server_config.py", "nbgrader_config.py"])
def test_servers_and_nbgrader_know_every_setting(file):
    config = PyFileConfigLoader(file, str(EXAMPLE / "jupyter")).load_config()
    homes = {
        "MappingKernelManager": "jupyter_server.services.kernels.kernelmanager",
        "KernelManager": "jupyter_client.manager",
        "ServerApp": "jupyter_server.serverapp",
        "ResourceUseDisplay": "jupyter_resource_usage.config",
        "CourseDirectory": "nbgrader.coursedir",
        "Autograde": "nbgrader.converters",
        "OverwriteCells": "nbgrader.preprocessors",
        "Execute": "nbgrader.preprocessors",
    }
    for name, section in config.items():
        cls = getattr(importlib.import_module(homes[name]), name)
        assert set(section) <= set(cls.class_trait_names(config=True)), name


def test_what_is_switched_off_in_jupyterlab_exists():
    page = json.loads((EXAMPLE / "jupyter/labconfig/page_config.json").read_text())
    import jupyterlab

    app = Path(jupyterlab.__file__).parent / "static"
    nbgrader = Path(jupyterlab.__file__).parents[4] / "share/jupyter/labextensions"
    scripts = [*app.glob("*.js"), *nbgrader.glob("@jupyter/nbgrader/static/*.js")]
    code = "".join(path.read_text(errors="replace") for path in scripts)
    code += " ".join(re.findall(r'"@jupyterlab/[\w-]+-extension"', code)).replace('"', "")
    for name in page["disabledExtensions"]:
        assert name.split(":")[0] in code and name.split(":")[-1] in code, name
