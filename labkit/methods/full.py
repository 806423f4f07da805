"""Full fine-tuning: every weight changes.

Weights are kept in float32 and matrices are multiplied in bfloat16 (autocast): bfloat16 has 8 bits
of mantissa, so a step of lr·update that is less than 1/256 of a weight would round away. Where
float32 is the faster type (`arithmetic`), all of it is float32 and nothing is cast.
"""

from typing import TYPE_CHECKING, Any

from labkit.methods.base import Method

if TYPE_CHECKING:
    from torch import nn


class Full(Method):
    """Train every weight of the model."""

    name = "full"
    trains_base = True
    weights_dtype = "float32"
    launches = 170

    def attach(self, model: Any, settings: Any, *, on_meta: bool = False) -> "nn.Module":
        """Make every parameter trainable."""
        model.requires_grad_(True)
        trained: nn.Module = model
        return trained
