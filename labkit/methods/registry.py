"""The methods there are. A new one is its file, and one line here."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.errors import LabkitError
from labkit.machine import arithmetic
from labkit.methods.base import Method, Settings
from labkit.methods.bases import BASES, SHORTHANDS, Base
from labkit.methods.bottleneck import Bottleneck
from labkit.methods.full import Full
from labkit.methods.ia3 import IA3
from labkit.methods.llama_adapter import LlamaAdapter
from labkit.methods.lora import Lora
from labkit.methods.prefix import Prefix
from labkit.methods.prompt import Prompt
from labkit.models import load, quantised
from labkit.models.quantised import TrainedOn

if TYPE_CHECKING:
    from torch import nn

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Full(), Lora(), Prefix(), Prompt(), IA3(), LlamaAdapter(), Bottleneck(),
    )
}  # fmt: skip
ARCHITECTURES = ("llama", "gemma", "phi", "bloom", "t5", "mamba")
"""What a sentence that knows no model asks of the methods that it names."""


def names() -> tuple[str, ...]:
    """Return every name a method goes by: its own, then those of it on a quantised base."""
    found = []
    for name in METHODS:
        found.append(name)
        found += [short for short, (method, _) in SHORTHANDS.items() if method == name]
    return tuple(found)


def in_training() -> tuple[str, ...]:
    """Return the names of the methods that `labkit train` does."""
    return tuple(name for name, method in METHODS.items() if method.in_training)


def split(name: str) -> tuple[Method, Base]:
    """Return the method and the base that a name of `names()` stands for."""
    method, base = SHORTHANDS.get(name, (name, "plain"))
    return METHODS[method], BASES[base]


def joined(method: str, base: str) -> str:
    """Return the name of a method on a base where there is one, else the method's own."""
    return next((short for short, both in SHORTHANDS.items() if both == (method, base)), method)


def check_base(method: str, base: str) -> None:
    """Raise `LabkitError` for a method that cannot stand on a base; unknown names are let by."""
    if method not in METHODS or base not in BASES or not BASES[base].quantised:
        return
    if METHODS[method].trains_base:
        others = sorted(name for name in in_training() if not METHODS[name].trains_base)
        raise LabkitError(
            f"{method} trains the pretrained weights, which cannot be stored as {base}: use base "
            f"plain, or method {' or '.join(others)}"
        )


def settings_of_training() -> tuple[type[Settings], ...]:
    """Return the `Settings` of the methods that `labkit train` does, each class once."""
    kinds = [METHODS[name].Settings for name in in_training()]
    return tuple(dict.fromkeys(kind for kind in kinds if kind is not Settings))


def of_adapter(folder: Path, peft_type: str) -> Method | None:
    """Return the method that made the adapter in a folder, if it is one of ours.

    Its name lies beside an adapter that labkit trained. PEFT's type alone names the first method
    that is saved under it.
    """
    form = quantised.trained_on(folder)
    named = METHODS.get(form.method) if form else None
    if named and named.peft_type == peft_type:
        return named
    found = (method for method in METHODS.values() if method.peft_type == peft_type)
    return next(found, None) if peft_type else None


def weights_dtype(config: Any) -> str:
    """Return the type the base model's weights are loaded in, for a `RunConfig`."""
    computes_in = arithmetic.resolve(config.dtype)
    return "float32" if computes_in == "float32" else METHODS[config.method].weights_dtype


def check_architecture(
    name: str, architecture: str, *, model: str, names: tuple[str, ...], base: Base | None = None
) -> None:
    """Raise `LabkitError` for a method, or a base, that an architecture cannot do.

    `names` are those that may be proposed instead.
    """
    method, of_name = split(name)
    held = base or of_name
    possible = [each for each in names if not any(x.check(architecture) for x in split(each))]
    others = " or ".join(sorted(possible, reverse=True))
    if reason := method.check(architecture):
        raise LabkitError(f"method {name} does not work with {model}: {reason}; use {others}")
    if reason := held.check(architecture):
        raise LabkitError(
            f"base {held.name} cannot hold {model}: {reason}; use base plain, with method {others}"
        )


def trained_on(config: Any) -> TrainedOn:
    """Return what a `RunConfig` trains, and the form of the pretrained weights beside it."""
    return TrainedOn(method=config.method, base=config.base, double_quant=config.double_quant,
                     dtype=weights_dtype(config))  # fmt: skip


def load_options(config: Any) -> dict[str, Any]:
    """Return what `load_model` is told so that a base is quantised, for a `RunConfig`."""
    if not BASES[config.base].quantised:
        return {}
    settings = load.quantisation_settings(
        config.base, dtype=weights_dtype(config), double_quant=config.double_quant
    )
    return {"quantization_config": settings}


def without_checkpoints(method: Method) -> str:
    """Say that a method does not go with gradient checkpointing, and what does on any model."""
    able = (name for name in in_training() if METHODS[name].checkpoints)
    others = ", ".join(name for name in able if not any(map(METHODS[name].check, ARCHITECTURES)))
    return (
        f"{method.name} tuning passes its prefix as a key-value cache, which gradient "
        f"checkpointing switches off: choose one of the two, or a method of {others}"
    )


def spelt_out(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return settings with a shorthand for a method on a base, such as qlora, as those two,
    and with `load_in_8bit` and `load_in_4bit` of older files as the base that they mean.

    Raises:
        LabkitError: the shorthand and another quantised base.
    """
    found = dict(values)
    for key, base in (("load_in_8bit", "8bit"), ("load_in_4bit", "nf4")):
        if str(found.pop(key, False)).lower() == "true":
            found.setdefault("base", base)
    for key in ("method", "train_mode"):
        both = SHORTHANDS.get(value) if isinstance(value := found.get(key), str) else None
        if both is None:
            continue
        found[key], base = both
        if found.get("base", "plain") not in ("plain", base):
            raise LabkitError(f"{where}: {key} {value} is {both[0]} on base {base}, and base is "
                              f"{found['base']!r}: keep one of the two")  # fmt: skip
        found["base"] = base
    return found


def check_run(config: Any) -> None:
    """Raise `LabkitError` for settings of a `RunConfig` that its method does not go with."""
    method, base = METHODS.get(config.method), BASES.get(config.base)
    if method and config.gradient_checkpointing and not method.checkpoints:
        raise LabkitError(without_checkpoints(method))
    if method and base and base.quantised:
        method.check_base(base.name, config)


def merge(model: "nn.Module") -> "nn.Module":
    """Return a plain model: W₀ + (α/r)·B·A computed once, the adapters gone."""
    merge_and_unload = getattr(model, "merge_and_unload", None)
    if merge_and_unload is None:
        raise LabkitError("the model has no adapter to merge")
    merged: nn.Module = merge_and_unload()
    return merged
