"""The methods there are. A new one is its file, and one line here."""

from typing import TYPE_CHECKING, Any

from labkit.errors import LabkitError
from labkit.machine import arithmetic
from labkit.methods.base import Method, Settings
from labkit.methods.bases import BASES, SHORTHANDS, Base
from labkit.methods.full import Full
from labkit.methods.lora import Lora
from labkit.methods.prefix import Prefix
from labkit.methods.prompt import Prompt

if TYPE_CHECKING:
    from torch import nn

METHODS: dict[str, Method] = {
    "full": Full(),
    "lora": Lora(),
    "prefix": Prefix(),
    "prompt": Prompt(),
}


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


def of_peft_type(peft_type: str) -> Method | None:
    """Return the method whose adapters PEFT saves under this type, if it is one of ours."""
    found = (method for method in METHODS.values() if method.peft_type == peft_type)
    return next(found, None) if peft_type else None


def weights_dtype(config: Any) -> str:
    """Return the type the base model's weights are loaded in, for a `RunConfig`."""
    computes_in = arithmetic.resolve(config.dtype)
    return "float32" if computes_in == "float32" else METHODS[config.method].weights_dtype


def merge(model: "nn.Module") -> "nn.Module":
    """Return a plain model: W₀ + (α/r)·B·A computed once, the adapters gone."""
    merge_and_unload = getattr(model, "merge_and_unload", None)
    if merge_and_unload is None:
        raise LabkitError("the model has no adapter to merge")
    merged: nn.Module = merge_and_unload()
    return merged
