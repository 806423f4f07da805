"""Files of older fine-tuning projects: the training that was meant there, or one sentence."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.errors import LabkitError
from labkit.runs.config import RunConfig, from_mapping, load_config


def write(folder: Path, content: str, name: str) -> Path:
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


SEED_FILE = {
    "model_name_or_path": "tiny-llama", "train_mode": "full", "lora_rank": 4,
    "max_seq_length": 300, "warmup_ratio": 0.1, "batch_size": 3, "lr": "1e-4", "num_epochs": 2,
    "torch_dtype": "float32", "lora_target_modules": ["q_proj"], "run_name": "old",
    "activation_checkpointing": True, "train_file": "some.json",
}  # fmt: skip


def test_keys_of_the_older_projects_are_understood(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps(SEED_FILE), "seed.json")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = load_config(path)
    assert config == RunConfig(
        model="tiny-llama", method="full", r=4, max_length=300, warmup_steps=0.1,
        per_device_train_batch_size=3, learning_rate=1e-4, num_train_epochs=2, max_steps=-1,
        dtype="float32", target_modules=("q_proj",), name="old", gradient_checkpointing=True,
        data="some.json",
    )  # fmt: skip


# One file as the older projects have them, 29 keys of which say nothing about the method.
OLDER = {
    "output_dir": "output/small", "model_name_or_path": "me/small", "train_file": "data/mine.jsonl",
    "template_name": "chatml", "train_mode": "lora", "num_train_epochs": 2,
    "per_device_train_batch_size": 3, "gradient_accumulation_steps": 5, "learning_rate": 3e-4,
    "max_seq_length": 700, "logging_steps": 50, "save_steps": 200, "save_total_limit": 2,
    "lr_scheduler_type": "cosine", "warmup_ratio": 0.02, "lora_rank": 24, "lora_alpha": 12,
    "lora_dropout": 0.01, "gradient_checkpointing": True, "disable_tqdm": True, "optim": "adamw_hf",
    "seed": 7, "fp16": True, "report_to": "tensorboard", "dataloader_num_workers": 4,
    "save_strategy": "steps", "weight_decay": 0.1, "max_grad_norm": 0.5,
    "remove_unused_columns": False, "deepspeed": "ds.json", "tokenize_num_workers": 8,
    "logging_first_step": False, "eval_file": "",
}  # fmt: skip


LORA = ("lora_rank", "lora_alpha", "lora_dropout")


def without(*keys: str, **more: Any) -> dict[str, Any]:
    return {k: v for k, v in OLDER.items() if k not in keys} | more


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_older_project_s_file_is_the_training_it_was_there(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, json.dumps(OLDER), "old.json"))
    assert config == RunConfig(
        model="me/small", data="data/mine.jsonl", template_name="chatml", method="lora",
        max_steps=-1, num_train_epochs=2,
        per_device_train_batch_size=3, gradient_accumulation_steps=5, learning_rate=3e-4,
        max_length=700, save_steps=200, lr_scheduler_type="cosine", warmup_steps=0.02, r=24,
        lora_alpha=12, lora_dropout=0.01, gradient_checkpointing=True, seed=7, weight_decay=0.1,
        report_to="tensorboard", max_grad_norm=0.5, deepspeed="ds.json",
    )  # fmt: skip


def test_what_an_older_file_leaves_out_is_what_its_program_took(tmp_path: Path) -> None:
    """transformers' TrainingArguments says 3 epochs, 8 samples, 5e-5, no warm-up; rank 64."""
    left_out = without("num_train_epochs", "per_device_train_batch_size", "learning_rate",
                       "warmup_ratio", "lora_rank", "lora_alpha", "lora_dropout")  # fmt: skip
    with pytest.warns(UserWarning, match="as its project has it: max_steps -1, num_train_epochs 3"):
        config = load_config(write(tmp_path, json.dumps(left_out), "old.json"))
    found = (config.max_steps, config.num_train_epochs, config.learning_rate, config.warmup_steps,
             config.per_device_train_batch_size, config.r, config.lora_alpha,
             config.lora_dropout)  # fmt: skip
    assert found == (-1, 3.0, 5e-5, 0.0, 8, 64, 16, 0.05)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (without("train_mode", "template_name", *LORA), "nothing in it says.*full or lora"),
        ({"model_name_or_path": "m", "train_file": "t", "deepspeed": "z"}, "nothing in it says"),
        (without(warmup_ratio=1), "warmup_ratio 1 is no share below 1: say warmup_steps"),
        ({"task-type": "KTO"}, "'KTO' asks for preference tuning by single answers"),
        (without(task_type="dpo", task="sft"), "task_type dpo and task 'sft' are two trainings"),
        ({"task_type": "translate"}, "'translate' asks for another task"),
        ({"task_type": ["sft", "dpo"]}, "asks for another task"),
        (without(stage="dpo"), "unknown setting 'stage'"),
    ],
)
def test_another_training_is_never_made_of_an_older_file(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    file = write(tmp_path, json.dumps(values), "old.json")
    with pytest.raises(LabkitError, match=f"old.json: .*{message}"):
        load_config(file)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("asked", "task"),
    [("dpo", "dpo"), ("pretrain", "pretrain"), ("PT", "pretrain"), ("sft", "sft")],
)
def test_an_older_file_trains_the_task_it_asks_for(tmp_path: Path, asked: str, task: str) -> None:
    file = write(tmp_path, json.dumps(without(task_type=asked, beta=0.2)), "old.json")
    config = load_config(file)
    assert (config.task, config.beta) == (task, 0.2)
    assert load_config(file, {"task-type": "sft"}).task == "sft"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "values",
    [
        without("train_mode"),
        without("train_mode", "output_dir", "template_name"),
        {"template_name": "llama2", "model_name_or_path": "m"},
        without("train_mode", "template_name"),
        without("train_mode", "template_name", *LORA, use_unsloth=True),
        without(task_type="sft", train_mode="qlora"),
        without("train_mode", **{"train-mode": "qlora"}),
    ],
)
def test_qlora_is_lora_on_nf4_said_or_left_out(tmp_path: Path, values: dict[str, Any]) -> None:
    config = load_config(write(tmp_path, json.dumps(values), "old.json"))
    assert (config.method, config.base) == ("lora", "nf4")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("mode", "keys"),
    [("full", LORA), ("lora", ("deepspeed",)), ("full", ("deepspeed", "warmup_ratio")),
     ("lora", ("output_dir", "template_name"))],
)  # fmt: skip
def test_an_older_file_that_names_its_method_trains_by_it(
    tmp_path: Path, mode: str, keys: tuple[str, ...]
) -> None:
    file = write(tmp_path, json.dumps(without(*keys, train_mode=mode)), "old.json")
    config = load_config(file)
    assert (config.method, config.max_steps, config.num_train_epochs) == (mode, -1, 2)
    assert (config.model, config.data, config.samples_per_step) == ("me/small", OLDER["train_file"],
                                                                    15)  # fmt: skip


@pytest.mark.parametrize(
    ("values", "overrides", "steps"),
    [({"num_train_epochs": 2}, {}, -1), ({"num_epochs": 2}, {}, -1), ({}, {}, 300),
     ({"num_train_epochs": 2, "max_steps": 7}, {}, 7), ({"max_steps": 7}, {}, 7),
     ({"max_steps": 7}, {"num-train-epochs": "2"}, -1),
     ({"num_train_epochs": 3}, {"max_steps": "5"}, 5),
     ({}, {"num_epochs": "2", "max_steps": "5"}, 5)],
)  # fmt: skip
def test_epochs_that_are_asked_for_are_trained(
    tmp_path: Path, values: dict[str, Any], overrides: dict[str, Any], steps: int
) -> None:
    file = write(tmp_path, json.dumps(values), "run.json")
    assert load_config(file, overrides).max_steps == steps


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_command_line_decides_what_an_older_file_leaves_out(tmp_path: Path) -> None:
    file = write(tmp_path, json.dumps(without("train_mode", task_type="sft")), "old.json")
    assert load_config(file, {"train-mode": "full"}).method == "full"
    assert load_config(file, {"method": "lora", "r": "2"}).r == 2
    assert from_mapping({"task_type": "CAUSAL_LM"}, where="x") == RunConfig()


ODD = st.sampled_from([None, "", "lora", "full", "qlora", "sft", "dpo", "pretrain", 0, 1, 2.5, True,
                       [], {}, [1], "auto", "9" * 400, float("nan"), "\ud83d"])  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=150, deadline=None, derandomize=True,
          suppress_health_check=list(HealthCheck))  # fmt: skip
@given(
    left_out=st.sets(st.sampled_from(sorted(OLDER)), max_size=12),
    more=st.dictionaries(st.sampled_from([*OLDER, "task_type", "beta", "max_steps"]), ODD,
                         max_size=3),
)  # fmt: skip
def test_any_file_of_an_older_project_is_what_it_asks_for_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, left_out: set[str], more: dict[str, Any]
) -> None:
    values = without(*left_out) | more
    file = write(tmp_path_factory.mktemp("fuzz"), json.dumps(values), "old.json")
    try:
        config = load_config(file)
    except LabkitError as error:
        assert len(str(error).splitlines()) == 1
        return
    if "model_name_or_path" in values and {"train_file", "template_name"} & set(values):
        mode = values.get("train_mode", "qlora")
        assert (config.method, config.base) == (
            ("lora", "nf4") if mode == "qlora" else (mode, "plain")
        )
    assert config.task == (values.get("task_type") or "sft")
    if "num_train_epochs" in values:
        assert config.max_steps == values.get("max_steps", -1)
        assert config.num_train_epochs == values["num_train_epochs"]
