"""A run's configuration as a step's settings: the step that is trained, and nothing else."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from labkit import methods
from labkit.errors import LabkitError
from labkit.memory.of_run import of_run
from labkit.memory.step.build import build_step, load_config
from labkit.models import load
from labkit.runs.config import CONFIGS, FIELDS, RunConfig
from labkit.runs.config import load_config as load_run

MAPPED: dict[str, tuple[Any, str, Any]] = {
    "model": ("llama-3-8b", "model", "llama-3-8b"),
    "method": ("full", "method", "full"),
    "per_device_train_batch_size": (5, "batch_size", 5),
    "gradient_accumulation_steps": (3, "gradient_accumulation_steps", 3),
    "max_length": (333, "seq_len", 333),
    "gradient_checkpointing": (True, "gradient_checkpointing", True),
    "optim": ("adafactor", "optim", "adafactor"),
    "dtype": ("float32", "dtype", "float32"),
    "attn_implementation": ("eager", "attention", "eager"),
    "fast": (False, "loss", "chunked"),
    "base": ("nf4", "method", "qlora"),
    "r": (3, "lora_r", 3),
    "lora_dropout": (0.25, "lora_dropout", 0.25),
    "target_modules": (("q_proj", "up_proj"), "lora_target_modules", ("q_proj", "up_proj")),
    "use_dora": (True, "use_dora", True),
    "double_quant": (False, "double_quant", False),
    "num_virtual_tokens": (7, "num_virtual_tokens", 7),
    "ia3_modules": (("k_proj",), "ia3_modules", ("k_proj",)),
    "adapter_len": (3, "adapter_len", 3),
    "adapter_layers": (2, "adapter_layers", 2),
    "bottleneck_size": (8, "bottleneck_size", 8),
    "bottleneck_after": (("mlp",), "bottleneck_after", ("mlp",)),
    "nproc": (4, "num_gpus", 4),
}


@pytest.mark.parametrize("key", MAPPED)
def test_a_setting_of_the_run_is_one_of_the_step(key: str) -> None:
    value, name, expected = MAPPED[key]
    before = dataclasses.asdict(of_run(RunConfig()))
    after = dataclasses.asdict(of_run(RunConfig(**{key: value})))
    assert after[name] == expected
    # A run on a quantised base keeps its adapters in float32, where TRL alone would not.
    beside = ["adapter_dtype"] if key == "base" else []
    assert [each for each in after if after[each] != before[each]] == [name, *beside]


# What a step does not depend on, or by so little that nothing here counts it: bias vectors.
NO_MATTER = {
    "name": "other", "task": "pretrain", "packing": False, "beta": 0.7, "loss_type": ("ipo",),
    "label_smoothing": 0.1, "reference": "precomputed", "data": "tatqa", "lora_alpha": 7,
    "template_name": "chatml", "bad_rows": "skip", "use_rslora": True, "max_steps": 9,
    "init_lora_weights": "pissa", "num_train_epochs": 2.0, "learning_rate": 0.5, "seed": 1,
    "weight_decay": 0.5, "warmup_steps": 3.0, "lr_scheduler_type": "cosine", "eval_steps": 7,
    "max_grad_norm": 2.0, "max_train_samples": 8, "max_eval_samples": 8, "save_steps": 7,
    "keep_weights": False, "report_to": "tensorboard", "share_prompts": False,
    "torch_compile": "on", "bias": "all",
    "switchback_min_features": 8, "switchback_weight_scale": "tensor",
    "switchback_weight_gradient": "tiles",
    "sharding": "fsdp2",  # alone: there is nobody to share with
    "deepspeed": "zero.json",  # whose stage the launcher makes the sharding of
}  # fmt: skip


@pytest.mark.parametrize("key", NO_MATTER)
def test_other_settings_leave_the_step_alone(key: str) -> None:
    assert of_run(RunConfig(**{key: NO_MATTER[key]})) == of_run(RunConfig())


def test_several_processes_share_what_they_are_asked_to() -> None:
    step = of_run(RunConfig(nproc=2, sharding="fsdp2"))
    assert (step.num_gpus, step.sharding) == (2, "fsdp2")


def test_no_setting_is_forgotten() -> None:
    assert FIELDS.keys() - MAPPED.keys() - NO_MATTER.keys() == {
        "use_switchback", "loftq_config",
    }  # fmt: skip
    assert not MAPPED.keys() & NO_MATTER.keys()


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_step_has_the_weights_that_are_trained(
    tiny_llama: Path, method: str, dtype: str
) -> None:
    """Names, shapes, types and what is frozen, against the model that `labkit train` makes."""
    config = RunConfig(
        model=str(tiny_llama), method=method, dtype=dtype, r=3, target_modules=("q_proj", "up_proj")
    )
    model = load.load_model(tiny_llama, dtype=methods.weights_dtype(config))
    trained = methods.METHODS[method].attach(model, config)
    settings = of_run(config, target="cpu", seq_len=8)
    step = build_step(settings, load_config(settings), lambda s, d: torch.empty(s, dtype=d))

    def said(module: torch.nn.Module) -> dict[str, Any]:
        return {name: (p.shape, p.dtype, p.requires_grad) for name, p in module.named_parameters()}

    assert said(step.model) == said(trained)
    casts = [m.cast_input_dtype_enabled for m in trained.modules()
             if hasattr(m, "cast_input_dtype_enabled")]  # fmt: skip
    assert bool(casts) is (method == "lora") and set(casts) <= {settings.cast_adapter_input}


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.yaml")))
def test_every_shipped_configuration_is_a_step(name: str) -> None:
    config = load_run(name)
    settings = of_run(config)
    assert (settings.method, settings.seq_len) == (config.method, config.max_length)
    assert (settings.dtype, settings.target) == ("bfloat16", "cuda")


def test_choices_stand_above_the_configuration() -> None:
    chosen = of_run(RunConfig(r=8), method="qlora", seq_len=77, lora_r=None, labelled_tokens=5)
    assert (chosen.method, chosen.seq_len, chosen.lora_r, chosen.labelled_tokens) == (
        "qlora", 77, 8, 5,
    )  # fmt: skip


def test_another_method_brings_its_own_base() -> None:
    config = RunConfig(base="8bit")
    assert of_run(config).method == "8bit"
    assert of_run(config, method="full").base_weights.name == "plain"
    assert of_run(config, base="nf4").method == "qlora"


@pytest.mark.parametrize(
    ("changes", "choices", "sentence"),
    [
        ({"use_switchback": True}, {}, "use_switchback: .* set it to false"),
        ({"optim": "lion_32bit"}, {}, "optim 'lion_32bit' is unknown"),
        ({}, {"batch_sise": 2}, "did you mean 'batch_size'"),
        ({}, {"master_weights": True}, "for full fine-tuning"),
    ],
)
def test_what_is_not_worked_out_is_one_sentence(
    changes: dict[str, Any], choices: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(LabkitError, match=sentence) as raised:
        of_run(RunConfig(**changes), **choices)
    assert "\n" not in str(raised.value)
