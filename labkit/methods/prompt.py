"""Prompt tuning: trained embeddings before those of the text.

Lester et al. 2021 (arXiv:2104.08691): `num_virtual_tokens` vectors P of the embedding's width are
all that trains,

    model([P; E(x)])        P: (tokens, h), begun as the embeddings of tokens drawn at random

which is the least that can change what a model does, tokens·h numbers. They lengthen every sample,
and the loss leaves them out. No weight can hold them, so they are never merged.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from labkit.methods.base import LinearLike, Method, ShapeLike, attach_by_peft, task_type
from labkit.methods.bases import without_attention
from labkit.methods.virtual_tokens import VirtualTokens

if TYPE_CHECKING:
    from torch import nn


class Prompt(Method):
    """Train embeddings before the input."""

    name = "prompt"
    Settings = VirtualTokens
    virtual_tokens = "input"
    peft_type = "PROMPT_TUNING"
    launches = 130

    def attach(self, model: Any, settings: VirtualTokens, *, on_meta: bool = False) -> "nn.Module":
        """Freeze the model and give it a prompt. Raises `LabkitError` for what PEFT refuses."""
        from peft import PromptTuningConfig, PromptTuningInit

        config = PromptTuningConfig(
            task_type=task_type(model), num_virtual_tokens=settings.num_virtual_tokens,
            prompt_tuning_init=(
                PromptTuningInit.RANDOM if on_meta else PromptTuningInit.SAMPLE_VOCAB
            ),
        )  # fmt: skip
        attached: nn.Module = attach_by_peft(model, config, what="a prompt", on_meta=on_meta)
        return attached

    def added_matrices(
        self, shape: ShapeLike, linears: Sequence[LinearLike], settings: VirtualTokens
    ) -> list[tuple[int, int]]:
        """Return the one table of trained embeddings; PEFT's for T5 has as many for its decoder."""
        stacks = 2 if shape.decoder_linears else 1
        return [(stacks * settings.num_virtual_tokens, shape.hidden)]

    def begins_elsewhere(self, settings: VirtualTokens) -> str:
        """Return why not as the base: every query reads the virtual tokens."""
        return "a prompt begins as drawn tokens, which the base does not read"

    def check(self, architecture: str) -> str:
        """Return why not: PEFT takes the prompt's place from attention heads."""
        return without_attention(architecture)
