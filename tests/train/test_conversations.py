"""Conversations end to end: an older project's files train in its template and are asked in it."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labkit.datasets import registry
from labkit.errors import LabkitError
from labkit.inference.evaluate import evaluate
from labkit.models.load import load_tokenizer
from labkit.runs.config import RunConfig, load_config
from labkit.train.run import train

pytestmark = pytest.mark.usefixtures("few_objects")
CAPITALS = {"France": "Paris", "Spain": "Madrid", "Italy": "Rome", "Japan": "Tokyo"}


def write(folder: Path, *, more: str = "") -> Path:
    """Write made-up rows as Firefly has them, two exchanges each, into a folder; return it."""
    folder.mkdir(exist_ok=True)
    rows = [
        {"conversation_id": i, "category": "QA", "conversation": [
            {"human": f"{land}?", "assistant": city}, {"human": "Again?", "assistant": city}]}
        for i, (land, city) in enumerate(CAPITALS.items())
    ]  # fmt: skip
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)) + more)
    return folder


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_older_project_s_file_trains_in_its_template_and_is_asked_in_it(
    tmp_path: Path, runs: Path, tiny_llama: Path
) -> None:
    data = write(tmp_path / "data")
    old = {
        "output_dir": "output/made-up", "model_name_or_path": str(tiny_llama),
        "train_file": str(data), "template_name": "vicuna", "train_mode": "full",
        "num_train_epochs": 60, "per_device_train_batch_size": 4, "learning_rate": "5e-3",
        "max_seq_length": 128, "lr_scheduler_type": "constant", "warmup_steps": 0, "fp16": "true",
        "gradient_checkpointing": "false", "logging_steps": 1, "save_total_limit": 1,
    }  # fmt: skip
    (tmp_path / "old.json").write_text(json.dumps(old))
    config = load_config(tmp_path / "old.json", {"name": "mine", "dtype": "float32",
                                                 "torch_compile": "off"})  # fmt: skip
    record = train(config, quiet=True)
    assert record.status == "done" and record.data["samples"] == len(CAPITALS)
    # The template lies beside the weights, so whoever asks asks as it was taught.
    text = load_tokenizer(runs / "mine" / "model").apply_chat_template(
        [{"role": "user", "content": "Spain?"}], add_generation_prompt=True, tokenize=False
    )
    assert text.endswith("questions. USER: Spain? ASSISTANT:")
    learned = evaluate("mine", data=str(data), quiet=True)
    assert learned.n == len(CAPITALS) and learned.metrics["em"]["value"] == 1.0


def test_a_damaged_row_refuses_the_run_and_leaves_nothing_or_is_counted(
    tmp_path: Path, runs: Path, tiny_run: Callable[..., RunConfig],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    data = write(
        tmp_path / "data", more='\n{"conversation": [{"human": "x", "assistant": null}]}\n'
    )
    config = tiny_run(data=str(data), max_steps=1, name="one")
    with pytest.raises(
        LabkitError, match=r"1 row \(train.jsonl line 5: turn 2 \(assistant\) is null\)"
    ):
        train(config, quiet=True)
    assert not (runs / "one" / "record.json").exists()
    record = train(config.replace(bad_rows="skip"), quiet=True)
    assert record.data["samples"] == len(CAPITALS)
    assert "left out 1 row (train.jsonl line 5" in capsys.readouterr().err


def test_data_for_two_tasks_is_trained_for_the_one_that_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from labkit.train.tasks import TASKS, task_of

    other: Any = dataclasses.replace(TASKS["sft"], name="toy")
    monkeypatch.setitem(TASKS, "toy", other)
    both = dataclasses.replace(registry.DATASETS["instructions"], also=("toy",))
    monkeypatch.setitem(registry.DATASETS, "instructions", both)
    assert task_of("instructions") is task_of("instructions", "sft") is TASKS["sft"]
    assert task_of("instructions", "toy") is other
    with pytest.raises(LabkitError, match="is for the task 'sft', not 'toy'"):
        task_of("tables", "toy")
