"""The JSON files of older fine-tuning projects, and what they mean here.

`RENAMED` maps their keys, and `RETIRED` says of each key that means nothing any more why that is
so, instead of ignoring it in silence. Such a file leaves much to its program's defaults, which are
not ours (`OLDER_DEFAULTS`): what it leaves out is taken as it was meant there. What labkit can't
train is refused, never trained as something else.
"""

import warnings
from collections.abc import Mapping
from typing import Any

from labkit.errors import LabkitError, brief

RENAMED = {
    "train_mode": "method", "lora_rank": "r", "lora_r": "r", "rank": "r",
    "max_seq_length": "max_length", "max_seq_len": "max_length",
    "model_name_or_path": "model", "model_name": "model", "train_file": "data",
    "dataset": "data", "run_name": "name", "lora_target_modules": "target_modules",
    "batch_size": "per_device_train_batch_size", "num_epochs": "num_train_epochs",
    "lr": "learning_rate", "warmup_ratio": "warmup_steps",
    "activation_checkpointing": "gradient_checkpointing", "torch_dtype": "dtype",
}  # fmt: skip
"""Keys of the older projects and of older libraries, and what they are called here."""

RETIRED = {
    "max_prompt_length": "max_length limits prompt and answer together, and the prompt gives way",
    "output_dir": "a run lives in runs/<name>: set name, or LABKIT_RUNS for the folder",
    "overwrite_output_dir": "use --fresh to train again",
    "fp16": "training is in bfloat16 or float32: set dtype, or leave it at auto",
    "bf16": "set dtype: auto, bfloat16 or float32",
    "no_cuda": "the GPU is used when there is one",
    "disable_tqdm": "progress is a line now and then",
    "logging_steps": "every step is in the record",
    "logging_dir": "report_to: tensorboard writes to runs/<name>/tensorboard",
    "save_total_limit": "one checkpoint is kept",
    "save_strategy": "save_steps says how often",
    "dataloader_num_workers": "samples are tokenised before training starts",
    "remove_unused_columns": "only token ids and labels reach the trainer",
    "distributed": "nproc says how many processes train",
    "use_unsloth": "fast: true is labkit's own faster step",
    "local_rank": "the launcher's environment says it",
    "eval_file": "the development split belongs to the data set: eval_steps says how often",
    "tokenize_num_workers": "samples are tokenised before training starts",
    "logging_first_step": "every step is in the record",
    "logging_strategy": "every step is in the record",
    "ddp_find_unused_parameters": "every trained weight is used",
}
"""Keys that mean nothing here any more, with the reason."""

TASKS = {"sft": "sft", "pretrain": "pretrain", "pt": "pretrain", "dpo": "dpo"}
"""What `task_type` may ask for, and the `task` that it is here."""

OTHER_TASKS = {
    "kto": "preference tuning by single answers", "orpo": "preference tuning without a reference",
    "ppo": "reinforcement learning", "grpo": "reinforcement learning", "rm": "a reward model",
}  # fmt: skip
"""What it may ask for and not get."""

OF_ADAPTERS = {"template_name", "lora_rank", "lora_alpha", "lora_dropout", "use_unsloth"}
"""Keys of the program whose default is qlora; an older one for full training has none of them."""

OLDER_DEFAULTS: dict[str, Any] = {
    "max_steps": -1, "num_train_epochs": 3.0, "learning_rate": 5e-5, "warmup_steps": 0.0,
    "per_device_train_batch_size": 8, "r": 64, "lora_alpha": 16, "lora_dropout": 0.05,
}  # fmt: skip
"""What an older project's file means where it says nothing (its `TrainingArguments`, its LoRA)."""

RETIRED_OPTIM = {"adamw_hf": "adamw_torch_fused"}


def as_meant(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return settings with what an older project's file leaves out, its task under our name.

    Raises LabkitError for a training that labkit does not do, and for two tasks at once.
    """
    values = {str(key).replace("-", "_"): value for key, value in values.items()}
    task = values.pop("task_type", None)
    word = task.strip().lower() if isinstance(task, str) else task
    if isinstance(word, str) and word in TASKS:
        if values.setdefault("task", TASKS[word]) != TASKS[word]:
            raise LabkitError(f"{where}: task_type {word} and task {brief(values['task'])} are two "
                              "trainings: keep one of the two keys")  # fmt: skip
    # PEFT's name for what a causal model does stands in the same key.
    elif word not in (None, "", "causal_lm"):
        asked = OTHER_TASKS.get(word) if isinstance(word, str) else None
        raise LabkitError(
            f"{where}: task_type {brief(task)} asks for {asked or 'another task'}, and labkit "
            f"train does {', '.join(dict.fromkeys(TASKS.values()))}: it would be another training"
        )
    older = "model_name_or_path" in values and bool({"train_file", "template_name"} & set(values))
    if older and not {"train_mode", "method"} & set(values):
        if not OF_ADAPTERS & set(values):
            raise LabkitError(
                f"{where}: train_mode is left out, and nothing in it says whether all weights were "
                "trained or adapters: set train_mode to full or lora"
            )
        values["train_mode"] = "qlora"  # what it is there when nothing is said
    given = {RENAMED.get(key, key) for key in values}
    if "num_train_epochs" in given and "max_steps" not in given:
        values["max_steps"] = -1  # epochs are asked for, and no number of steps of ours
        given.add("max_steps")
    if older and "output_dir" in values:
        missing = {k: v for k, v in OLDER_DEFAULTS.items() if k not in given}
        if values.get("train_mode", values.get("method")) == "full":
            missing = {k: v for k, v in missing.items() if k not in ("r", "lora_alpha",
                                                                     "lora_dropout")}  # fmt: skip
        if missing:
            said = ", ".join(f"{key} {value:g}" for key, value in missing.items())
            warnings.warn(f"{where}: what it leaves out is taken as its project has it: {said}",
                          stacklevel=3)  # fmt: skip
        values |= missing
    return values
