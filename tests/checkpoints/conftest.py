"""A student's runs, and the answers of each lesson's `cases_NN.py`.

A case file holds `TABLE = {question: (right answer, [(what is changed, what the verdict says)])}`
and, where the answers rest on runs or measurements, `records(a_record)`, which saves them.
`HONEST = {question: [what is changed]}` has answers that look odd and are right: a slow machine, a
tie, a zero. Where such an answer rests on something of its own, its row is a pair: what is changed,
and a function that saves it (given `a_record`, if it takes an argument). "{model}" stands for the
folder of the small model below.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from labkit.runs import records
from labkit.runs.config import RunConfig
from labkit.runs.records import RunRecord

REASON = "the frozen weights need neither gradients nor optimizer state, so less is kept"
FALLING = [2.0] * 10 + [1.5, 1.2] + [1.0] * 10


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CASES = {path.stem[-2:]: _load(path) for path in sorted(Path(__file__).parent.glob("cases_*.py"))}
TABLE: dict[str, Any] = {q: row for module in CASES.values() for q, row in module.TABLE.items()}
WRONG = [
    pytest.param((question, change, says), id=f"{question}-{'-'.join(change)}-{i}")
    for question, (_, changes) in TABLE.items()
    for i, (change, says) in enumerate(changes)
]
HONEST: dict[str, Any] = {
    q: row for module in CASES.values() for q, row in getattr(module, "HONEST", {}).items()
}
ODD = [
    pytest.param(
        (question, *(row if isinstance(row, tuple) else (row, None))), id=f"{question}-{i}"
    )
    for question, rows in HONEST.items()
    for i, row in enumerate(rows)
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "honest_answer" in metafunc.fixturenames:
        metafunc.parametrize("honest_answer", ODD)
    if "wrong_answer" in metafunc.fixturenames:
        metafunc.parametrize("wrong_answer", WRONG)
    if "each_question" in metafunc.fixturenames:
        metafunc.parametrize("each_question", TABLE)


def a_record(
    name: str, *, peak: int | None, losses: Any = FALLING, step: float = 1.0,
    trainable: int = 500, summary: dict | None = None, status: Any = "done",
    scores: dict | None = None, **settings: Any,
) -> RunRecord:  # fmt: skip
    """Save a run with these figures and settings."""
    config = RunConfig(name=name, **settings)
    return RunRecord(
        id=f"id-{name}",
        sha256=f"sha-{name}",
        name=name,
        status=status,
        started_at=f"2026-01-01T00:00:{len(records.records()):02d}+00:00",
        config=config.to_dict(),
        seed=1,
        versions={"torch": "2"},
        hardware={"cores": 2},
        model={"name": config.model, "sha256": f"sha of {config.model}"},
        data={
            "name": config.data,
            "sha256": "d" if config.data == "tables" else f"sha of {config.data}",
        },
        steps=[{"step": i, "loss": loss} for i, loss in enumerate(losses, start=1)],
        summary={
            "step_seconds_median": step,
            "peak_bytes": {"allocated": peak, "reserved": None, "rss": 5000},
            "trainable_parameters": trainable,
            "total_parameters": 10_500,
            **(summary or {}),
        },
        scores=scores or {},
    ).save()


def do_lesson(number: str) -> None:
    """Save the runs that the right answers of a lesson rest on, if they rest on any."""
    if hasattr(CASES[number], "records"):
        CASES[number].records(a_record)


@pytest.fixture
def no_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a student who has run nothing yet."""
    monkeypatch.setenv("LABKIT_RUNS", str(tmp_path / "runs"))
    return tmp_path


@pytest.fixture
def runs(no_runs: Path) -> Path:
    """Return the folder of a student who did lesson 02."""
    CASES["02"].records(a_record)
    return no_runs


@pytest.fixture
def model(tmp_path: Path) -> str:
    """Return a folder with a model of 70 parameters in two bytes each."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    tensors = {"a": torch.zeros(6, 10), "b": torch.zeros(10)}
    save_file({k: v.bfloat16() for k, v in tensors.items()}, folder / "model.safetensors")
    return str(folder)


@pytest.fixture
def right_answer(no_runs: Path, model: str) -> Callable[[str], dict[str, Any]]:
    """Return a function from a question to its right answer, its lesson's runs saved."""

    def answer(question: str) -> dict[str, Any]:
        if not records.records():
            do_lesson(question[:2])
        given = {"explanation": REASON, **TABLE[question][0]}
        return {name: model if value == "{model}" else value for name, value in given.items()}

    return answer


@pytest.fixture
def record() -> Callable[..., RunRecord]:
    """Return the function that saves a run."""
    return a_record


@pytest.fixture
def cases() -> dict[str, Any]:
    """Return the table of all lessons."""
    return TABLE


@pytest.fixture
def honest() -> dict[str, Any]:
    """Return the odd answers that are right, of every lesson that has some."""
    return HONEST
