"""Models that many tests share: tiny random ones, built once, and the embedded real one."""

import gc
import json
import os
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import labkit
from labkit.datasets import tatqa
from labkit.models import registry, tiny
from labkit.runs.config import RunConfig


def slow() -> tuple[str, ...]:
    """Return what `slow.txt` lists: rooms, files and tests."""
    text = Path(__file__).with_name("slow.txt").read_text()
    return tuple(line for line in text.splitlines() if line and not line.startswith("#"))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import files that are slow as a whole where slow tests are left out."""
    if config.option.markexpr != "not slow":
        return None
    name = collection_path.relative_to(config.rootpath).as_posix()
    return True if name in slow() else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what `slow.txt` lists as slow."""
    listed = slow()
    for item in items:
        if any(item.nodeid.startswith((f"{s}/", f"{s}::", f"{s}[")) or item.nodeid == s
               for s in listed):  # fmt: skip
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function from a name such as `tiny-llama` to its folder, built at first use."""
    root = tmp_path_factory.mktemp("tiny-models")

    def folder(name: str) -> Path:
        path = root / name
        return path if path.exists() else tiny.build_tiny(name, path)

    return folder


@pytest.fixture(scope="session")
def tiny_llama(tiny_model: Callable[[str], Path]) -> Path:
    """Return the folder of the tiny Llama model. Read only: all tests share it."""
    return tiny_model("tiny-llama")


@pytest.fixture(scope="session")
def embedded_model() -> Path:
    """Return the folder of the real embedded model, fetched if this machine has none yet."""
    return registry.resolve("smollm2-135m-instruct")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let this test's runs live in a folder of its own, and return it."""
    folder = tmp_path / "runs"
    monkeypatch.setenv("LABKIT_RUNS", str(folder))
    return folder


@pytest.fixture(scope="module")
def few_objects() -> Iterator[None]:
    """Hide what exists already from the garbage collector, which training runs again and again.

    A test session holds a million objects; a training process does not.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def few_reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a few reports of the embedded set as train, dev and test."""
    folder = tmp_path_factory.mktemp("few-reports")
    for split, count in {"train": 6, "dev": 2, "test": 5}.items():
        reports = json.loads(tatqa.path_of("tables", split).read_text())[:count]
        (folder / f"{split}.json").write_text(json.dumps(reports))
    return folder


@pytest.fixture
def tiny_run(tiny_llama: Path, few_reports: Path) -> Callable[..., RunConfig]:
    """Return a function that makes a run of a second: exact arithmetic, settings may change."""

    def config(**changes: Any) -> RunConfig:
        settings: dict[str, Any] = {
            "model": str(tiny_llama), "data": str(few_reports), "max_steps": 4,
            "per_device_train_batch_size": 2, "learning_rate": 1e-2, "dtype": "float32",
            "torch_compile": "off", "save_steps": 100,
        }  # fmt: skip
        return RunConfig(**{**settings, **changes})

    return config


@pytest.fixture
def without(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, str]]:
    """Return a function from names to an environment whose processes lack these libraries."""

    def environment(*libraries: str) -> dict[str, str]:
        folder = tmp_path_factory.mktemp("without")
        (folder / "sitecustomize.py").write_text(
            textwrap.dedent(f"""\
                import sys
                from importlib.machinery import PathFinder

                class Without(PathFinder):
                    @classmethod
                    def find_spec(cls, name, path=None, target=None):
                        known = name.partition(".")[0] not in {libraries!r}
                        return super().find_spec(name, path, target) if known else None

                sys.meta_path[sys.meta_path.index(PathFinder)] = Without
                """)
        )
        package = Path(labkit.__file__).parents[1]
        paths = [str(folder), str(package), os.environ.get("PYTHONPATH", "")]
        return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}

    return environment


def raw_report(uid: str = "t1", **changes: Any) -> dict[str, Any]:
    """One report in the official JSON form."""
    report = {
        "table": {"uid": uid, "table": [["", "2019", "2018"], ["Sales", "1,496", "1,202"]]},
        "paragraphs": [
            {"uid": f"{uid}-p2", "order": 2, "text": "Second paragraph."},
            {"uid": f"{uid}-p1", "order": 1, "text": "First paragraph."},
        ],
        "questions": [
            {
                "uid": f"{uid}-q1",
                "order": 1,
                "question": "What is the percentage change in sales?",
                "answer": 24.46,
                "derivation": "(1,496-1,202)/1,202",
                "answer_type": "arithmetic",
                "answer_from": "table",
                "scale": "percent",
            },
            {
                "uid": f"{uid}-q2",
                "order": 2,
                "question": "What were sales in 2019?",
                "answer": ["1,496"],
                "derivation": "",
                "answer_type": "span",
                "answer_from": "table",
                "scale": "million",
            },
        ],
    }
    return {**report, **changes}


@pytest.fixture
def write_json(tmp_path: Path) -> Any:
    """A function that writes content as JSON below tmp_path and returns its path."""

    def write(content: Any, name: str = "data.json") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        return path

    return write


@pytest.fixture
def make_report() -> Any:
    return raw_report
