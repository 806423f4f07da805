"""The step of a run: from the settings of `labkit train` to those that decide memory."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal

from labkit import methods
from labkit.errors import LabkitError
from labkit.machine.arithmetic import of_step
from labkit.memory.settings import ALIASES, METHOD_FIELDS, StepSettings, given, on_quantised
from labkit.methods import BASES
from labkit.runs.config import RunConfig, from_mapping
from labkit.runs.task_settings import reference_of


def of_methods() -> tuple[str, ...]:
    """Return the names of the settings of all methods and of bases, as `RunConfig` has them."""
    kinds = methods.settings_of_training()
    return ("base", "double_quant", *(name for kind in kinds for name in kind.names()))


def chosen_of_methods(values: Mapping[str, Any], method: str | None) -> dict[str, Any]:
    """Return settings of a method, plain values or text, as fields of `StepSettings`.

    Those that decide no memory, as a scale, are checked and left out.

    Raises:
        LabkitError: a wrong value, or one that does not go with `method` and its base.
    """
    if not values:
        return {}
    named = {} if method is None else {"method": ALIASES.get(method, method)}
    run = from_mapping({**values, **named}, where="command line")
    steps = {each.name for each in fields(StepSettings)}
    here = {name: METHOD_FIELDS.get(name, name) for name in values}
    return {own: getattr(run, name) for name, own in here.items() if own in steps}


def of_run(
    config: RunConfig, *, target: Literal["cuda", "cpu"] = "cuda", **choices: Any
) -> StepSettings:
    """Return the settings of a step that `labkit train` makes of `config` on `target`.

    A configuration leaves open what only data and device decide. Unless `choices`, fields of
    `StepSettings`, say otherwise, a sample has the `max_length` tokens it may have at most, every
    one of them labelled, no padding, and `auto` attention is fused. `labkit train` keeps fp32
    masters where it trains all weights in 16 bit, and adapters in fp32 without copies of their
    inputs; its loss is over full logits, or over TRL's tiles with `fast` off.

    Raises:
        LabkitError: an unknown field, or settings whose memory nothing here works out: int8
            products, and optimizers other than `OPTIMIZERS`.
    """
    if config.use_switchback:
        raise LabkitError(
            "use_switchback: what int8 products keep is not worked out: set it to false"
        )
    chosen = given(choices)
    if "method" not in chosen:  # another method brings its own base
        if BASES[config.base].quantised and "base" not in chosen:
            # labkit train holds adapters in fp32 there too; TRL in bfloat16.
            chosen = {"adapter_dtype": "float32", **chosen}
        chosen = {"method": config.method, "base": config.base, **chosen}
    quantised = on_quantised(chosen)
    dtype = of_step(chosen.pop("dtype", config.dtype), target=target, quantised=quantised)
    of_config: dict[str, Any] = {
        "model": config.model,
        "batch_size": config.per_device_train_batch_size,
        "seq_len": config.max_length,
        "cast_adapter_input": False,
        "optim": config.optim,
        "gradient_checkpointing": config.gradient_checkpointing,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "num_gpus": config.nproc,
        "sharding": config.sharding if config.nproc > 1 else "none",
        "attention": "eager" if config.attn_implementation == "eager" else "sdpa",
        "loss": "full" if config.fast else "chunked",
    }
    # Settings of methods that decide memory have a field here, most under the same name.
    steps = {each.name for each in fields(StepSettings)}
    for name in of_methods()[1:]:
        if (own := METHOD_FIELDS.get(name, name)) in steps:
            of_config[own] = getattr(config, name)
    if (reference := reference_of(config)) != "none":
        # TRL's DPOTrainer drops nothing, so that policy and reference read the same.
        of_config |= {"reference": reference, "lora_dropout": 0.0}
    return StepSettings(dtype=dtype, target=target, **{**of_config, **chosen})
