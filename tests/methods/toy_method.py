"""A method that labkit does not have, in one file: (IA)³ on keys and values, by PEFT.

y = s ⊙ W₀·x with a trained s of W₀'s outputs, which starts at one (Liu et al. 2022,
arXiv:2205.05638). `test_toy_method.py` registers it and asks of it all that labkit does with one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from labkit.errors import LabkitError
from labkit.methods.base import (
    LinearLike,
    Method,
    Settings,
    ShapeLike,
    attach_by_peft,
    task_type,
)


@dataclass(frozen=True, kw_only=True)
class ToySettings(Settings):
    stretched_modules: tuple[str, ...] = ("k_proj", "v_proj")
    """linear layers whose outputs are stretched, by name"""

    def check(self) -> None:
        object.__setattr__(self, "stretched_modules", tuple(self.stretched_modules))
        if not self.stretched_modules:
            raise LabkitError("stretched_modules is empty: name linear layers")


class Toy(Method):
    name = "toy"
    Settings = ToySettings
    mergeable = True
    peft_type = "IA3"

    def attach(self, model: Any, settings: ToySettings, *, on_meta: bool = False) -> nn.Module:
        from peft import IA3Config

        config = IA3Config(
            task_type=task_type(model), target_modules=list(settings.stretched_modules),
            feedforward_modules=[],
        )  # fmt: skip
        attached: nn.Module = attach_by_peft(model, config, what="a toy", on_meta=on_meta)
        return attached

    def adapts(self, linear: str, architecture: str, settings: ToySettings) -> bool:
        return linear.rsplit(".", 1)[-1] in settings.stretched_modules

    def added_matrices(
        self, shape: ShapeLike, linears: Sequence[LinearLike], settings: ToySettings
    ) -> list[tuple[int, int]]:
        return shape.layers * [(each.outputs, 1) for each in linears]


class Unmergeable(Toy):
    mergeable = False
