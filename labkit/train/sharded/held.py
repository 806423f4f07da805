"""What a process holds of a training state that several share, read from its tensors."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a process was found to hold, counted over its tensors."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_state_bytes: int
    weights: int
    """elements"""
    gradients: int
    moment: int
    """elements of the largest of the optimizer's states, as Adam's second moment is"""

    def larger(self, other: "Held") -> "Held":
        """Return the larger of the two of everything, which are not there at the same time."""
        names = [each.name for each in fields(self)]
        return Held(**{name: max(getattr(self, name), getattr(other, name)) for name in names})


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return this process's part of a tensor, all of it where it isn't sharded."""
    part: torch.Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def held(
    weights: Iterable[torch.Tensor], gradients: Iterable[torch.Tensor], states: Iterable[Any],
    copies: Iterable[torch.Tensor] = (),
) -> Held:  # fmt: skip
    """Return what this process holds; `states` are an optimizer's, `copies` what it steps."""
    own, moving, kept = (list(map(local, each)) for each in (weights, gradients, copies))
    moments: Counter[str] = Counter()
    for state in states:
        for name, each in state.items():
            if torch.is_tensor(each) and name != "step":  # a count and no state of a weight
                moments[name] += local(each).numel()
                kept.append(local(each))
    return Held(
        weights_bytes=sum(each.nbytes for each in own),
        gradients_bytes=sum(each.nbytes for each in moving),
        optimizer_state_bytes=sum(each.nbytes for each in kept),
        weights=sum(each.numel() for each in own),
        gradients=sum(each.numel() for each in moving),
        moment=max(moments.values(), default=0),
    )


def held_plainly(parameters: Iterable[torch.Tensor], optimizer: Any) -> Held:
    """Return what this process holds of tensors that PyTorch knows of."""
    found = list(parameters)
    gradients = [each.grad for each in found if each.grad is not None]
    return held(found, gradients, optimizer.state.values())


def ran(
    held_by: Iterable[Held], *, total: int, trained: int, by_dtensor: bool, parts_gradients: bool
) -> str:
    """Return the sharding that the tensors show, from what each process holds.

    `total` are the elements of all weights of the model, `trained` those of the trained ones, and
    `by_dtensor` that weights are PyTorch's distributed tensors. A process with all of something
    shares it with nobody, whatever was asked for. `parts_gradients` is the engine's word for one
    thing that tensors do not show: before its step ZeRO drops gradients of others in stage 1 as in
    2, and only in 2 while they are computed.
    """
    found = list(held_by)
    if max(each.weights for each in found) < total:
        return "fsdp2" if by_dtensor else "zero3"
    if 0 < max(each.moment for each in found) < trained:
        return "zero2" if parts_gradients else "zero1"
    return "none"
