"""Bottleneck adapters: two small layers after attention and after the MLP.

Houlsby et al. 2019 (arXiv:1902.00751, section 2.1): with y the output of a sublayer (width h),

    y' = y + W₂·GELU(W₁·y + b₁) + b₂        W₁: (s, h), random      W₂: (h, s), zero

so the first forward is the base model's, and 2hs + s + h numbers train at each place. A nonlinear
function lies between the two matrices, so no weight of the base can hold them: an adapter is never
merged, and its two products are paid for at every token that is generated.

A sublayer ends in a linear layer (`o_proj`, `down_proj` and their like elsewhere), and that is
where the adapter is: `models.bottleneck` has the layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labkit.errors import LabkitError, brief, nearest
from labkit.methods.base import (
    LinearLike,
    Method,
    Settings,
    ShapeLike,
    attach_by_peft,
    task_type,
)
from labkit.models import bottleneck
from labkit.models.layers import linear_names

if TYPE_CHECKING:
    from torch import nn

ENDS = {"attention": ("o_proj", "dense", "o"), "mlp": ("down_proj", "fc2", "dense_4h_to_h", "wo")}
"""The linear layer that a sublayer ends in, in each architecture."""


@dataclass(frozen=True, kw_only=True)
class BottleneckSettings(Settings):
    """Settings of bottleneck adapters."""

    bottleneck_size: int = 64
    """inner width of a bottleneck adapter"""
    bottleneck_after: tuple[str, ...] = ("attention", "mlp")
    """sublayers that a bottleneck adapter follows: attention,mlp, or one of them"""

    def check(self) -> None:
        """Bring lists into one form. Raises `LabkitError` for a value out of range."""
        object.__setattr__(self, "bottleneck_after", tuple(self.bottleneck_after))
        if not self.bottleneck_size > 0:
            raise LabkitError(f"bottleneck_size must be above 0, got {self.bottleneck_size!r}")
        if not self.bottleneck_after:
            raise LabkitError("bottleneck_after is empty: use attention, mlp or both")
        for place in self.bottleneck_after:
            if place not in ENDS:
                hint = nearest(place, ENDS)
                raise LabkitError(f"bottleneck_after: no sublayer is called {brief(place)}: {hint}")


class Bottleneck(Method):
    """Train two small layers after each sublayer."""

    name = "bottleneck"
    Settings = BottleneckSettings
    peft_type = bottleneck.PEFT_TYPE
    launches = 210

    def attach(
        self, model: Any, settings: BottleneckSettings, *, on_meta: bool = False
    ) -> "nn.Module":
        """Freeze the model and put an adapter behind every sublayer that is named.

        Raises:
            LabkitError: a model without layers of those names, or what PEFT refuses.
        """
        architecture = model.config.model_type
        targets = sorted({name.rsplit(".", 1)[-1] for name, _ in linear_names(model)
                          if self.adapts(name, architecture, settings)})  # fmt: skip
        if not targets:
            raise LabkitError(
                f"bottleneck adapters know where a sublayer of llama, gemma, phi, bloom or t5 ends,"
                f" not of {architecture}: use lora"
            )
        config_class, _ = bottleneck.register()
        config = config_class(
            task_type=task_type(model), size=settings.bottleneck_size, target_modules=targets
        )
        attached: nn.Module = attach_by_peft(
            model, config, what="bottleneck adapters", on_meta=on_meta
        )
        return attached

    def adapts(self, linear: str, architecture: str, settings: BottleneckSettings) -> bool:
        """Return whether a sublayer that is named ends in this layer."""
        leaf = linear.rsplit(".", 1)[-1]
        return any(leaf in ENDS[place] for place in settings.bottleneck_after)

    def added_matrices(
        self, shape: ShapeLike, linears: Sequence[LinearLike], settings: BottleneckSettings
    ) -> list[tuple[int, int]]:
        """Return W₁, b₁, W₂ and b₂ of every adapter."""
        s = settings.bottleneck_size
        block = [each for linear in linears
                 for each in ((s, linear.outputs), (s, 1), (linear.outputs, s),
                              (linear.outputs, 1))]  # fmt: skip
        return shape.layers * block

    def kept_per_token(
        self, shape: ShapeLike, linears: Sequence[LinearLike], settings: BottleneckSettings, *,
        compute: int, added: int, length: int,
    ) -> float:  # fmt: skip
        """Return y, and the inner layer before and after GELU."""
        inner = 2 * settings.bottleneck_size
        return compute * sum(each.outputs + inner for each in linears)

    def check(self, architecture: str) -> str:
        """Return why not: Mamba's scan reads the weight of its last layer itself."""
        return (
            "the scan of a state-space model reads past a layer that is put around its last one"
            if "mamba" in architecture else ""
        )  # fmt: skip
