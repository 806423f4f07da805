"""The methods there are. A new one is its file, and one line here."""

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
from labkit.models.quantised import TrainedOn

if TYPE_CHECKING:
    from torch import nn

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Full(), Lora(), Prefix(), Prompt(), IA3(), LlamaAdapter(), Bottleneck(),
    )
}  # fmt: skip


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


def settings_of_training() -> tuple[type[Settings], ...]:
    """Return the `Settings` of the methods that `labkit train` does, each class once."""
    kinds = [METHODS[name].Settings for name in in_training()]
    return tuple(dict.fromkeys(kind for kind in kinds if kind is not Settings))


def of_peft_type(peft_type: str) -> Method | None:
    """Return the method whose adapters PEFT saves under this type, if it is one of ours."""
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
    reason = method.check(architecture) or (base or of_name).check(architecture)
    if reason:
        others = [each for each in names if not any(x.check(architecture) for x in split(each))]
        raise LabkitError(
            f"method {name} does not work with {model}: {reason}; "
            f"use {' or '.join(sorted(others, reverse=True))}"
        )


def trained_on(config: Any) -> TrainedOn:
    """Return the form of the pretrained weights that a `RunConfig` trains beside."""
    return TrainedOn(dtype=weights_dtype(config))


def without_checkpoints(method: Method) -> str:
    """Say that a method does not go with gradient checkpointing, and what does."""
    others = ", ".join(name for name in in_training() if METHODS[name].checkpoints)
    return (
        f"{method.name} tuning passes its prefix as a key-value cache, which "
        f"gradient_checkpointing switches off: set it to false, or method to one of {others}"
    )


def check_run(config: Any) -> None:
    """Raise `LabkitError` for settings of a `RunConfig` that its method does not go with."""
    method = METHODS.get(config.method)
    if method and config.gradient_checkpointing and not method.checkpoints:
        raise LabkitError(without_checkpoints(method))


def merge(model: "nn.Module") -> "nn.Module":
    """Return a plain model: W₀ + (α/r)·B·A computed once, the adapters gone."""
    merge_and_unload = getattr(model, "merge_and_unload", None)
    if merge_and_unload is None:
        raise LabkitError("the model has no adapter to merge")
    merged: nn.Module = merge_and_unload()
    return merged
