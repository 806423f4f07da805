"""Prefix tuning: trained keys and values before those of the text, in every layer.

Li & Liang 2021 (arXiv:2101.00190): each layer's attention also reads `num_virtual_tokens` keys and
values that no token made. PEFT passes them as a key-value cache, so they cost no position.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from labkit.methods.base import LinearLike, Method, ShapeLike, attach_by_peft, task_type
from labkit.methods.prompt import VirtualTokens, without_attention

if TYPE_CHECKING:
    from torch import nn


class Prefix(Method):
    """Train a prefix of keys and values for every layer."""

    name = "prefix"
    Settings = VirtualTokens
    in_training = False
    virtual_tokens = "cache"
    peft_type = "PREFIX_TUNING"
    launches = 140

    def attach(self, model: Any, settings: VirtualTokens, *, on_meta: bool = False) -> "nn.Module":
        """Freeze the model and give it a prefix. Raises `LabkitError` for what PEFT refuses."""
        from peft import PrefixTuningConfig

        config = PrefixTuningConfig(
            task_type=task_type(model), num_virtual_tokens=settings.num_virtual_tokens
        )
        attached: nn.Module = attach_by_peft(model, config, what="a prefix", on_meta=on_meta)
        return attached

    def added_matrices(
        self, shape: ShapeLike, linears: Sequence[LinearLike], settings: VirtualTokens
    ) -> list[tuple[int, int]]:
        """Return the one table of all layers' keys and values; T5's has both stacks' tokens."""
        stacks = 2 if shape.decoder_linears else 1
        return [(stacks * settings.num_virtual_tokens, shape.layers * 2 * shape.keys)]

    def check(self, architecture: str) -> str:
        """Return why not: a state-space model has no keys and values."""
        return without_attention(architecture)
