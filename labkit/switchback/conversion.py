"""Replace a model's linear layers by SwitchBack layers, and freeze those that are not trained."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from labkit.errors import LabkitError
from labkit.switchback.layer import SwitchBackLinear


def convert(
    model: nn.Module, min_features: int = 1024, skip: Iterable[str] = ("lm_head",), **options: Any
) -> list[str]:
    """Replace linear layers of `model` in place by SwitchBackLinear; return their names.

    Converted are plain `nn.Linear` modules with both widths at least `min_features`; below it
    quantising costs more than int8 saves. `skip` names modules by one or more consecutive parts of
    their dotted name. Of a PEFT-wrapped layer only the frozen base is converted, never an adapter.
    `options` go to every SwitchBackLinear. LabkitError: nothing to convert.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    wrappers = [
        name for name, m in modules.items() if isinstance(getattr(m, "base_layer", None), nn.Module)
    ]

    def is_adapter(name: str) -> bool:
        return any(name.startswith(f"{w}.") and name != f"{w}.base_layer" for w in wrappers)

    candidates = {
        name: module
        for name, module in modules.items()
        if name
        and type(module) is nn.Linear
        and not is_adapter(name)
        and not any(f".{part}." in f".{name}." for part in skip)
    }
    chosen = {n: m for n, m in candidates.items() if _narrowest(m) >= min_features}
    if not chosen:
        raise LabkitError(_nothing_to_convert(candidates, min_features))
    layers: dict[nn.Linear, SwitchBackLinear] = {}  # a module used under two names stays one
    for name, linear in chosen.items():
        if linear not in layers:
            layers[linear] = SwitchBackLinear.from_linear(linear, **options)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layers[linear])
    return list(chosen)


def freeze_base(model: nn.Module) -> int:
    """Freeze every SwitchBackLinear of `model` whose weight is not trained; return how many.

    LabkitError: there is none, for example because `convert` has not been called, or adapters
    have not been attached.
    """
    layers = [m for m in model.modules() if isinstance(m, SwitchBackLinear)]
    frozen = [layer for layer in layers if not layer.weight.requires_grad]
    if not frozen:
        raise LabkitError(
            f"there is nothing to freeze: {len(layers)} SwitchBack layers, all of them trained"
        )
    for layer in frozen:
        layer.freeze()
    return len(frozen)


def _narrowest(linear: nn.Linear) -> int:
    return min(linear.in_features, linear.out_features)


def _nothing_to_convert(candidates: dict[str, nn.Linear], min_features: int) -> str:
    if not candidates:
        return "there is nothing to convert: the model has no nn.Linear outside skip"
    widest = max(map(_narrowest, candidates.values()))
    return (
        f"there is nothing to convert: no linear layer has both widths at least "
        f"min_features={min_features}, the widest has {widest}: "
        f"set min_features to {widest} or less"
    )
