"""The file of DeepSpeed's settings that `deepspeed:` in a configuration names.

In it "auto" means what the settings of the run say. A value that contradicts them is refused,
because one of the two would be ignored.
"""

from typing import Any

from labkit.errors import LabkitError, read_json
from labkit.files import expanded

BUCKET_ELEMENTS = 500_000_000
"""What DeepSpeed allocates for gradients on their way, however few there are."""
OURS = ("optimizer", "scheduler")
"""Sections that say again what the run's settings say."""


def settings_of(config: Any, stage: int, *, world: int, bf16: bool, trained: int) -> dict[str, Any]:
    """Return DeepSpeed's settings for a run: those of its file, with the run's in its blanks.

    `trained` is the number of trained weights; larger buckets for their gradients are not made.

    Raises:
        LabkitError: the file is no JSON object, or contradicts the run.
    """
    micro = config.per_device_train_batch_size
    # Each pass is a step of DeepSpeed's: when gradients are exchanged, the trainer says.
    said: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "train_batch_size": micro * config.gradient_accumulation_steps * world,
        "gradient_clipping": config.max_grad_norm,
        "bf16": {"enabled": bf16},
        "fp16": {"enabled": False},
    }
    file = read_file(config.deepspeed) if config.deepspeed else {}
    for key, ours in said.items():
        theirs = file.get(key, "auto")
        if isinstance(ours, dict):
            theirs = (theirs if isinstance(theirs, dict) else {}).get("enabled", "auto")
            ours = ours["enabled"]
        if theirs != "auto" and theirs != ours:
            raise LabkitError(
                f"{config.deepspeed}: {key} is {theirs}, and the run's settings make it {ours}: "
                'write "auto" there, or change the settings'
            )
    for key in OURS:
        check_section(config, key, file.get(key))
    kept = {key: value for key, value in file.items() if key not in (*said, *OURS)}
    zero = {
        "reduce_bucket_size": min(BUCKET_ELEMENTS, trained), "overlap_comm": False,
        "stage3_gather_16bit_weights_on_model_save": False,
        **without_auto(kept.pop("zero_optimization", {})), "stage": stage,
    }  # fmt: skip
    return {**without_auto(kept), **said, "zero_optimization": zero,
            "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 10**9}  # fmt: skip


def check_section(config: Any, key: str, section: Any) -> None:
    """Raise a LabkitError for an optimizer or a schedule that is not the run's."""
    if section is None:
        return
    own = {
        "optimizer": {"lr": config.learning_rate, "weight_decay": config.weight_decay},
        "scheduler": {"warmup_max_lr": config.learning_rate, "warmup_min_lr": 0},
    }[key]
    said = section.get("params", {}) if isinstance(section, dict) else {}
    for name, ours in own.items():
        theirs = said.get(name, "auto")
        if theirs != "auto" and theirs != ours:
            raise LabkitError(f"{config.deepspeed}: {key} has {name} {theirs}, and the run "
                              f'{ours}: write "auto" there, or change the settings')  # fmt: skip
    kind = str(section.get("type", "") if isinstance(section, dict) else section)
    adam = config.optim.startswith("adamw")
    if key == "optimizer" and (kind.lower() not in ("adam", "adamw") or not adam):
        raise LabkitError(f"{config.deepspeed}: optimizer {kind or section} is not the run's "
                          f"{config.optim}: leave the section out")  # fmt: skip


def read_file(path: str) -> dict[str, Any]:
    """Read a file of DeepSpeed's settings."""
    found = read_json(expanded(path))
    if not isinstance(found, dict):
        raise LabkitError(f"{path} must hold a JSON object of DeepSpeed's settings")
    return found


def stage_of(path: str) -> int:
    """Return the ZeRO stage that a file of DeepSpeed's settings asks for."""
    zero = read_file(path).get("zero_optimization", {})
    stage = zero.get("stage", 0) if isinstance(zero, dict) else zero
    if isinstance(stage, bool) or stage not in (1, 2, 3):
        raise LabkitError(f"{path}: zero_optimization has stage {stage!r}: set it to 1, 2 or 3, or "
                          "leave deepspeed out for training without sharding")  # fmt: skip
    return int(stage)


def without_auto(settings: Any) -> Any:
    """Return settings without those that DeepSpeed shall choose."""
    if not isinstance(settings, dict):
        return settings
    return {key: without_auto(each) for key, each in settings.items() if each != "auto"}
