"""Prefix tuning: trained keys and values before those of the text, in every layer.

Li & Liang 2021 (arXiv:2101.00190): with P_k and P_v of `num_virtual_tokens` rows in each layer,

    attention(Q, K, V)  →  softmax(Q·[P_k; K]ᵀ/√d)·[P_v; V]

and nothing else changes: tokens·layers·2·(width of keys) numbers train. The prefix begins as the
keys and values of tokens that are drawn from the vocabulary, which train faster than random ones
(their section 7.4). Text keeps its order behind it, and every query reads `num_virtual_tokens` keys
more. No weight can hold it, so it is never merged.

Gradient checkpointing computes a layer again without a cache, and the prefix is one.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from labkit.errors import LabkitError
from labkit.methods.base import LinearLike, Method, ShapeLike, attach_by_peft, task_type
from labkit.methods.bases import without_attention
from labkit.methods.virtual_tokens import VirtualTokens

if TYPE_CHECKING:
    from torch import nn


class Prefix(Method):
    """Train a prefix of keys and values for every layer."""

    name = "prefix"
    Settings = VirtualTokens
    virtual_tokens = "cache"
    checkpoints = False
    peft_type = "PREFIX_TUNING"
    launches = 140

    def attach(self, model: Any, settings: VirtualTokens, *, on_meta: bool = False) -> "nn.Module":
        """Freeze the model and give it a prefix. Raises `LabkitError` for what PEFT refuses."""
        from peft import PrefixTuningConfig

        config = PrefixTuningConfig(
            task_type=task_type(model), num_virtual_tokens=settings.num_virtual_tokens
        )
        attached: nn.Module = attach_by_peft(model, config, what="a prefix", on_meta=on_meta)
        if not on_meta and not model.config.is_encoder_decoder:
            _begin_as_tokens(attached, settings.num_virtual_tokens)
        return attached

    def added_matrices(
        self, shape: ShapeLike, linears: Sequence[LinearLike], settings: VirtualTokens
    ) -> list[tuple[int, int]]:
        """Return the one table of all layers' keys and values."""
        return [(settings.num_virtual_tokens, shape.layers * 2 * shape.keys)]

    def begins_elsewhere(self, settings: VirtualTokens) -> str:
        """Return why not as the base: every query reads the virtual tokens."""
        return "a prefix begins as drawn tokens, which the base does not read"

    def check(self, architecture: str) -> str:
        """Return why not: a state-space model has no keys and values."""
        return without_attention(architecture)


def _begin_as_tokens(model: Any, tokens: int) -> None:
    """Write the base's keys and values of drawn tokens into the table, a row a virtual token.

    Raises:
        LabkitError: PEFT's table has another size, as where all heads share keys (Falcon).
    """
    import torch
    from transformers import DynamicCache

    base = model.get_base_model()
    ids = torch.randint(0, base.config.vocab_size, (1, tokens), device=base.device)
    table = model.prompt_encoder[model.active_adapter].embedding.weight
    training = base.training
    with torch.no_grad():
        # One of its own, for that of a sliding window keeps the last tokens alone.
        cache = DynamicCache()
        base.eval()(input_ids=ids, past_key_values=cache, use_cache=True)
        # (heads, tokens, width) of keys and of values, layer by layer, in PEFT's order.
        both = [each[0].transpose(0, 1) for layer in cache.layers
                for each in (layer.keys, layer.values)]  # fmt: skip
        rows = torch.stack(both, dim=1).flatten(1)
        if rows.shape != table.shape:
            raise LabkitError(
                f"{base.config.model_type} has {rows.shape[1]} keys and values for each token and "
                f"PEFT makes a prefix of {table.shape[1]}: use another method"
            )
        table.copy_(rows)
    base.train(training)
