"""Every layout of an older project's configurations: each trains what it asks, or says why not.

The 66 files here are made up. Their keys, and which of them stand together, are those of the
configurations that Firefly publishes (github.com/yangjianxin1/Firefly, train_args): in full, with
LoRA or QLoRA, for fine-tuning, pretraining or preferences, said or left out.
"""

import itertools
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from labkit.datasets.templates import ALIASES, TEMPLATES
from labkit.errors import LabkitError
from labkit.runs.config import FIELDS, RunConfig, load_config
from labkit.runs.older_projects import RENAMED, RETIRED
from labkit.train.tasks import TASKS

EVERY = {
    "output_dir": "output/made-up", "num_train_epochs": 1, "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 16, "learning_rate": 2e-4, "max_seq_length": 1024,
    "logging_steps": 100, "save_steps": 100, "save_total_limit": 1,
    "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 100,
    "gradient_checkpointing": True, "disable_tqdm": False, "optim": "paged_adamw_32bit", "seed": 42,
    "fp16": True, "report_to": "tensorboard", "dataloader_num_workers": 0,
    "save_strategy": "steps", "weight_decay": 0, "max_grad_norm": 0.3,
    "remove_unused_columns": False,
}  # fmt: skip
LORA = {"lora_rank": 64, "lora_alpha": 16, "lora_dropout": 0.05}
DEEPSPEED = {"deepspeed": "./train_args/ds_z3_config.json", "optim": "adamw_hf"}
OF_TASK: dict[str, dict[str, Any]] = {
    "": {}, "sft": {"task_type": "sft"},
    "dpo": {"task_type": "dpo", "beta": 0.1, "max_prompt_length": 300},
    "pretrain": {"task_type": "pretrain", "tokenize_num_workers": 10, "logging_first_step": False},
}  # fmt: skip
# How the same value is written elsewhere: by a shell, by a template, in an older release.
SPELT: tuple[dict[str, Any], ...] = (
    {}, {"gradient_checkpointing": "true", "fp16": "True", "remove_unused_columns": "false"},
    {"learning_rate": "2e-4", "weight_decay": "0", "seed": "42", "max_seq_length": "1024"},
    {"bf16": True, "fp16": False}, {"warmup_steps": None, "warmup_ratio": 0.01},
    {"gradient_checkpointing": "no", "eval_file": "", "num_train_epochs": "3"},
)  # fmt: skip


def layout(
    template: str | None, mode: str, task: str, spelt: int, *, deepspeed: bool
) -> dict[str, Any]:
    values = {**EVERY, "model_name_or_path": f"made-up/{template or 'base'}-1b",
              "train_file": "./data/pretrain" if task == "pretrain" else "./data/made-up.jsonl",
              **OF_TASK[task], **SPELT[spelt]}  # fmt: skip
    values |= {"template_name": template} if template is not None else {}
    values |= {"train_mode": mode} if mode else {}
    values |= LORA if mode != "full" else {}
    values |= DEEPSPEED if deepspeed else {}
    return {key: value for key, value in values.items() if value is not None}


FULL = ("default", "default", "cpm3", "minicpm", "minicpm3", "qwen", "yi")
WITH_LORA = ("default", "cpm3", "minicpm3", "qwen")
WITH_QLORA = ("default", "baichuan", "baichuan2", "baichuan2", "default", "chatglm2", "chatglm3",
              "llama2", "deepseek", "deepseek", "gemma", "gemma", "internlm", "internlm2", "vicuna",
              "llama2", "llama3", "minicpm", "minicpm3", "mistral", "mixtral", "orion", "phi3",
              "qwen", "qwen", "vicuna", "xverse", "yi", "zephyr", "ziya2")  # fmt: skip
spelt = itertools.cycle(range(len(SPELT)))
LAYOUTS = [
    *(layout(name, "full", "", next(spelt), deepspeed=True) for name in FULL),
    *(layout(name, "lora", "sft", next(spelt), deepspeed=False) for name in WITH_LORA),
    *(layout(name, "", "", next(spelt), deepspeed=False) for name in WITH_QLORA),
    *(layout(None, "full", "pretrain", next(spelt), deepspeed=True) for _ in range(4)),
    *(layout(None, "qlora", "pretrain", next(spelt), deepspeed=True) for _ in range(4)),
    *(layout(name, mode, "dpo", next(spelt), deepspeed=mode == "full")
      for mode in ("full", "lora", "qlora") for name in ("minicpm", "cpm3", "qwen", "gemma")),
    # Written before train_mode, template_name or task_type were there.
    *(layout(None, "", "", next(spelt), deepspeed=False) for _ in range(3)),
    {key: value for key, value in layout(None, "full", "", 0, deepspeed=True).items()
     if key != "train_mode"},
    layout("", "qlora", "sft", 1, deepspeed=False),
]  # fmt: skip


def truth(value: Any) -> bool:
    return str(value).lower() in ("true", "yes", "1")


def reason_to_refuse(values: dict[str, Any]) -> str:
    """Return what the sentence has to say where the training cannot be had, and else nothing."""
    if values.get("task_type", "sft") not in TASKS:
        return f"task_type {values['task_type']!r} asks for"
    if "train_mode" not in values and not (LORA.keys() | {"template_name"}) & set(values):
        return "nothing in it says whether all weights were trained or adapters"
    name = values.get("template_name", "")
    if name and ALIASES.get(name, name) not in TEMPLATES:
        return f"template_name {name!r} is unknown: .*leave it out"
    return ""


def test_there_are_as_many_as_are_published_and_both_outcomes_are_common() -> None:
    refused = [bool(reason_to_refuse(values)) for values in LAYOUTS]
    assert len(LAYOUTS) == 66
    assert sum(refused) >= 10 and sum(not r for r in refused) >= 30


@pytest.mark.parametrize("number", range(len(LAYOUTS)))
def test_an_older_layout_trains_what_it_asks_or_is_refused(tmp_path: Path, number: int) -> None:
    values = LAYOUTS[number]
    (tmp_path / "old.json").write_text(json.dumps(values, indent=4))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if reason := reason_to_refuse(values):
            with pytest.raises(LabkitError, match=reason) as refused:
                load_config(tmp_path / "old.json")
            assert len(str(refused.value).splitlines()) == 1
            return
        config = load_config(tmp_path / "old.json")
    mode = values.get("train_mode", "qlora")
    assert (config.method, config.base) == ("lora", "nf4") if mode == "qlora" else (mode, "plain")
    assert config.task == values.get("task_type", "sft")
    assert (config.model, config.data) == (values["model_name_or_path"], values["train_file"])
    assert config.template_name == values.get("template_name", "")
    assert config.max_steps == -1 and config.num_train_epochs == float(values["num_train_epochs"])
    for key in ("per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate",
                "save_steps", "seed", "weight_decay", "max_grad_norm"):  # fmt: skip
        assert getattr(config, key) == float(values[key]), key
    assert config.max_length == int(values["max_seq_length"])
    assert config.lr_scheduler_type == values["lr_scheduler_type"]
    assert config.warmup_steps == values.get("warmup_ratio", values.get("warmup_steps"))
    assert config.gradient_checkpointing is truth(values["gradient_checkpointing"])
    assert config.optim == values["optim"].replace("adamw_hf", "adamw_torch_fused")
    assert config.deepspeed == values.get("deepspeed", "")
    if config.method == "lora":
        found = {"lora_rank": config.r, "lora_alpha": config.lora_alpha,
                 "lora_dropout": config.lora_dropout}  # fmt: skip
        assert found == LORA
    # What does nothing any more is said, a line each, and what is said to do nothing is not set.
    said = [str(warning.message) for warning in caught]
    for key in set(RETIRED) & set(values):
        (line,) = [text for text in said if f" {key} is ignored: " in text]
        assert len(line.splitlines()) == 1
    looked_at = {"model_name_or_path", "train_file", "template_name", "train_mode", "task_type",
                 "beta", "warmup_ratio", "deepspeed", *EVERY, *LORA}  # fmt: skip
    assert set(values) <= looked_at | set(RETIRED)


def test_every_key_of_the_older_projects_list_is_read_or_explained() -> None:
    listed = """output_dir model_name_or_path train_file template_name num_train_epochs
        tokenize_num_workers deepspeed train_mode per_device_train_batch_size
        gradient_accumulation_steps gradient_checkpointing learning_rate max_seq_length
        max_prompt_length logging_steps save_steps save_total_limit lr_scheduler_type warmup_steps
        optim seed fp16 bf16 lora_rank lora_alpha lora_dropout"""
    for key in listed.split():
        assert (RENAMED.get(key, key) in FIELDS) != (key in RETIRED), key


@pytest.mark.parametrize(
    ("name", "message"),
    [("small", "template_name 'small' is unknown"), ("lama2", "did you mean 'llama2'")],
)
def test_a_template_that_we_do_not_have_is_never_another_one(name: str, message: str) -> None:
    with pytest.raises(LabkitError, match=message):
        RunConfig(template_name=name)
