"""A data set and a task from one file each: they train and are evaluated, nothing else changes."""

import dataclasses
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labkit.datasets import registry
from labkit.datasets.base import DataSet
from labkit.errors import LabkitError
from labkit.inference.evaluate import evaluate
from labkit.runs.config import RunConfig
from labkit.train.run import train
from labkit.train.tasks import TASKS, Task

pytestmark = pytest.mark.usefixtures("runs", "few_objects")
TOYS = Path(__file__).with_name("toys")
THINGS = {"snow": "white", "coal": "black", "grass": "green", "blood": "red", "sky": "blue"}


def toy(file: str, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"toy_{file}", TOYS / f"{file}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> DataSet:
    dataset: DataSet = toy("colours", "COLOURS")
    monkeypatch.setitem(registry.DATASETS, dataset.name, dataset)
    return dataset


@pytest.fixture
def spelling(monkeypatch: pytest.MonkeyPatch, colours: DataSet) -> Task:
    task: Task = toy("spelling", "SPELLING")
    monkeypatch.setitem(TASKS, task.name, task)
    for_spelling = dataclasses.replace(colours, task=task.name)
    monkeypatch.setitem(registry.DATASETS, colours.name, for_spelling)
    return task


@pytest.fixture
def things(tmp_path: Path) -> str:
    file = tmp_path / "things.jsonl"
    rows = [
        {"thing": thing, "colour": colour, "split": split,
         "kind": "cold" if thing == "snow" else "other"}
        for split in ("train", "test") for thing, colour in THINGS.items()
    ]  # fmt: skip
    file.write_text("\n".join(map(json.dumps, rows)))
    return f"colours:{file}"


def by_heart(tiny_run: Callable[..., RunConfig], data: str) -> RunConfig:
    """A run long enough for a random model to learn five answers by heart."""
    return tiny_run(name="mine", data=data, method="full", max_steps=80, learning_rate=5e-3,
                    per_device_train_batch_size=5, lr_scheduler_type="constant")  # fmt: skip


@pytest.mark.parametrize("task", ["sft", "spelling"])
def test_a_toy_trains_and_is_evaluated(
    tiny_run: Callable[..., RunConfig], things: str, task: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue("colours" if task == "sft" else "spelling")
    config = by_heart(tiny_run, things).replace(task=task)
    record = train(config, quiet=True)
    assert record.status == "done"
    assert record.data["name"] == things and record.data["samples"] == len(THINGS)
    assert train(config, quiet=True) == record

    learned = evaluate("mine", data=things, quiet=True)
    untouched = evaluate(record.config["model"], data=things, quiet=True)
    assert learned.task == "colours" and learned.n == len(THINGS)
    assert learned.metrics["em"]["value"] == 1.0
    assert untouched.metrics["em"]["value"] == 0.0
    answers = THINGS if task == "sft" else {k: " ".join(v) for k, v in THINGS.items()}
    assert json.loads(Path(learned.predictions).read_text()) == answers
    assert {name: row["n"] for name, row in learned.by_type.items()} == {"cold": 1, "other": 4}


def test_other_data_is_another_run(
    tiny_run: Callable[..., RunConfig], things: str, colours: DataSet
) -> None:
    first = train(tiny_run(data=things, max_steps=1), quiet=True)
    file = Path(things.partition(":")[2])
    file.write_text(file.read_text().replace("white", "cold"))
    assert train(tiny_run(data=things, max_steps=1), quiet=True).sha256 != first.sha256


def test_majority_is_the_commonest_answer(things: str, colours: DataSet) -> None:
    file = Path(things.partition(":")[2])
    file.write_text(file.read_text().replace("black", "green"))
    outcome = evaluate("majority", data=things, quiet=True)
    assert set(json.loads(Path(outcome.predictions).read_text()).values()) == {"green"}
    assert outcome.metrics["em"]["value"] == pytest.approx(2 / 5)


def test_what_a_toy_lacks_is_one_sentence(
    tiny_run: Callable[..., RunConfig], things: str, colours: DataSet,
    monkeypatch: pytest.MonkeyPatch, runs: Path,
) -> None:  # fmt: skip
    with pytest.raises(LabkitError, match="colours has no worked examples to show"):
        evaluate("majority", data=things, examples=2, quiet=True)
    unknown = dataclasses.replace(colours, task="sfd")
    monkeypatch.setitem(registry.DATASETS, "colours", unknown)
    with pytest.raises(LabkitError, match="the task 'sfd', which labkit does not have.*'sft'"):
        train(tiny_run(data=things), quiet=True)
    assert not runs.exists()


def test_a_run_asks_for_the_task_that_its_data_is_for(
    tiny_run: Callable[..., RunConfig], things: str, spelling: Task, runs: Path
) -> None:
    with pytest.raises(LabkitError, match="for the task 'spelling', not 'sft': set task to spell"):
        train(tiny_run(data=things), quiet=True)
    with pytest.raises(LabkitError, match="task 'speling' is unknown.*'spelling'"):
        train(tiny_run(data=things, task="speling"), quiet=True)
    assert not runs.exists()


def test_an_example_without_an_answer_is_one_sentence(
    tiny_run: Callable[..., RunConfig], things: str, colours: DataSet,
    monkeypatch: pytest.MonkeyPatch, runs: Path,
) -> None:  # fmt: skip
    def asked_only(path: str, split: str) -> list[Any]:
        found = colours.load(path, split)
        return [dataclasses.replace(e, messages=e.messages[:1]) for e in found]

    unanswered = dataclasses.replace(colours, load=asked_only)
    monkeypatch.setitem(registry.DATASETS, "colours", unanswered)
    with pytest.raises(LabkitError, match="example snow has no answer"):
        train(tiny_run(data=things), quiet=True)
    assert not runs.exists()
