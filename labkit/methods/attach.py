"""Fine-tuning methods: which numbers change, and in which type.

Full fine-tuning changes every weight. Weights are kept in float32 and matrices are multiplied
in bfloat16 (autocast): bfloat16 has 8 bits of mantissa, so a step of lr·update that is less than
1/256 of a weight would round away.

LoRA (Hu et al. 2021, arXiv:2106.09685) leaves a weight W₀ of shape (out, in) as it is and learns
a low-rank update beside it:

    y = W₀·x + (α/r)·B·A·x        A: (r, in), random      B: (out, r), zero

so the first forward equals the base model's, and r·(in + out) numbers train instead of in·out.
The frozen base is held in bfloat16; the adapters stay in float32, since they are what changes.

Where float32 is the faster type (`arithmetic`), all of it is float32 and nothing is cast.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labkit.errors import LabkitError, nearest
from labkit.machine import arithmetic
from labkit.models.layers import linear_names
from labkit.runs.config import RunConfig

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Method:
    """How a method loads the base model, and what it does to it."""

    weights_dtype: str
    attach: "Callable[[PreTrainedModel, RunConfig], nn.Module]"


def attach_full(model: "PreTrainedModel", config: RunConfig) -> "nn.Module":
    """Make every parameter trainable."""
    model.requires_grad_(True)
    return model


def attach_lora(model: "PreTrainedModel", config: RunConfig) -> "nn.Module":
    """Freeze the model and put LoRA adapters on its `target_modules`.

    Raises:
        LabkitError: a target module that the model does not have, LoftQ without a GPU, or
            anything else that PEFT refuses.
    """
    import torch
    from peft import LoftQConfig, LoraConfig, get_peft_model

    if config.loftq_config is not None and not torch.cuda.is_available():
        raise LabkitError(
            "init_lora_weights: loftq needs a GPU, where PEFT quantises: use pissa, or default"
        )
    linear = linear_names(model)
    for target in config.target_modules:
        if target != "all-linear" and not any(
            name == target or name.endswith(f".{target}") for name, _ in linear
        ):
            leaves = {name.rsplit(".", 1)[-1] for name, _ in linear}
            raise LabkitError(
                f"target_modules: the model has no linear layer {target!r}: "
                f"{nearest(target, leaves | {'all-linear'})}"
            )
    targets: str | list[str] = list(config.target_modules)
    if config.target_modules == ("all-linear",):
        targets = "all-linear"
        if "mamba" in model.config.model_type:
            # Mamba's kernel reads this weight itself, past any adapter; PEFT refuses it.
            leaves = {name.rsplit(".", 1)[-1] for name, _ in linear}
            targets = sorted(leaves - {"out_proj"})
    settings: dict[str, Any] = {}
    if config.init_lora_weights != "default":
        settings["init_lora_weights"] = config.init_lora_weights
    if config.loftq_config is not None:
        settings["loftq_config"] = LoftQConfig(**config.loftq_config)
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        bias=config.bias,
        use_rslora=config.use_rslora,
        **settings,
    )
    try:
        peft_model = get_peft_model(model, lora)
    except (ValueError, TypeError, ImportError) as error:
        raise LabkitError(f"LoRA cannot be attached: {str(error).splitlines()[0]}") from error
    # Adapters compute in bfloat16 under autocast; a copy of every input in float32 is no use.
    for module in peft_model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False
    return peft_model


METHODS: dict[str, Method] = {
    "full": Method(weights_dtype="float32", attach=attach_full),
    "lora": Method(weights_dtype="bfloat16", attach=attach_lora),
}


def weights_dtype(config: RunConfig) -> str:
    """Return the type the base model's weights are loaded in."""
    computes_in = arithmetic.resolve(config.dtype)
    return "float32" if computes_in == "float32" else METHODS[config.method].weights_dtype


def merge(model: "nn.Module") -> "nn.Module":
    """Return a plain model: W₀ + (α/r)·B·A computed once, the adapters gone."""
    merge_and_unload = getattr(model, "merge_and_unload", None)
    if merge_and_unload is None:
        raise LabkitError("the model has no adapter to merge")
    merged: nn.Module = merge_and_unload()
    return merged
