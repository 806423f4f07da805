"""Prompt tuning: trained embeddings before those of the text.

Lester et al. 2021 (arXiv:2104.08691): `num_virtual_tokens` vectors of the embedding's width are all
that trains. They lengthen every sample, and the loss leaves them out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labkit.methods.base import (
    LinearLike,
    Method,
    Settings,
    ShapeLike,
    attach_by_peft,
    task_type,
)
from labkit.methods.bases import STATE_SPACE

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class VirtualTokens(Settings):
    """Settings of methods that train positions which no text has."""

    num_virtual_tokens: int = 20
    """length of the prefix or prompt that is trained"""


class Prompt(Method):
    """Train embeddings before the input."""

    name = "prompt"
    Settings = VirtualTokens
    in_training = False
    virtual_tokens = "input"
    peft_type = "PROMPT_TUNING"
    launches = 130

    def attach(self, model: Any, settings: VirtualTokens, *, on_meta: bool = False) -> "nn.Module":
        """Freeze the model and give it a prompt. Raises `LabkitError` for what PEFT refuses."""
        from peft import PromptTuningConfig

        config = PromptTuningConfig(
            task_type=task_type(model), num_virtual_tokens=settings.num_virtual_tokens
        )
        attached: nn.Module = attach_by_peft(model, config, what="a prompt", on_meta=on_meta)
        return attached

    def added_matrices(
        self, shape: ShapeLike, linears: Sequence[LinearLike], settings: VirtualTokens
    ) -> list[tuple[int, int]]:
        """Return the one table of trained embeddings."""
        return [(settings.num_virtual_tokens, shape.hidden)]

    def check(self, architecture: str) -> str:
        """Return why not: PEFT takes the prompt's place from attention heads."""
        return without_attention(architecture)


def without_attention(architecture: str) -> str:
    """Return why virtual tokens cannot be had without attention; empty where there is some."""
    return STATE_SPACE if "mamba" in architecture else ""
