"""LLaMA-Adapter: learned tokens that attention reads through a gate which starts shut.

Zhang et al. 2023 (arXiv:2303.16199, section 3.2): in each of the upper layers `adapter_len` trained
vectors P are turned into keys and values by the layer's own frozen projections, and the queries Q
of the text read them in a softmax of their own,

    S = softmax(Q·Kᵀ/√d)·V  +  g · softmax(Q·(W_k·P)ᵀ/√d)·(W_v·P)        g = 0 at the start

so that the first forward is the base model's. Two softmaxes, not one over both: closing the gate
gives the base model back, whatever P holds. A layer trains `adapter_len`·h + 1 numbers. Nothing is
added to a weight, so it cannot be merged; no position is taken, so it goes with shared prompts, a
cache and checkpoints.

PEFT's AdaptionPrompt is used. It computes the queries a second time.
"""

import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labkit.errors import LabkitError
from labkit.methods.base import (
    LinearLike,
    Method,
    Settings,
    ShapeLike,
    attach_by_peft,
    task_type,
)

if TYPE_CHECKING:
    from torch import nn

ARCHITECTURES = ("llama", "mistral")


@dataclass(frozen=True, kw_only=True)
class LlamaAdapterSettings(Settings):
    """Settings of LLaMA-Adapter."""

    adapter_len: int = 10
    """trained tokens that each adapted layer's attention reads (LLaMA-Adapter)"""
    adapter_layers: int = 0
    """how many of the upper layers LLaMA-Adapter adapts; 0: all of them"""

    def check(self) -> None:
        """Raise `LabkitError` for a value out of range."""
        if not self.adapter_len > 0:
            raise LabkitError(f"adapter_len must be above 0, got {self.adapter_len!r}")
        if self.adapter_layers < 0:
            raise LabkitError(f"adapter_layers must be 0 or more, got {self.adapter_layers!r}")


class LlamaAdapter(Method):
    """Train gated tokens for the attention of the upper layers."""

    name = "llama-adapter"
    Settings = LlamaAdapterSettings
    peft_type = "ADAPTION_PROMPT"
    launches = 210

    def attach(
        self, model: Any, settings: LlamaAdapterSettings, *, on_meta: bool = False
    ) -> "nn.Module":
        """Freeze the model and give its upper layers tokens and a gate, both float32.

        Raises:
            LabkitError: more layers than there are, an architecture that PEFT does not know.
        """
        from peft import AdaptionPromptConfig

        layers = model.config.num_hidden_layers
        if settings.adapter_layers > layers:
            raise LabkitError(
                f"adapter_layers must be at most {layers}, the layers of the model, got "
                f"{settings.adapter_layers}"
            )
        config = AdaptionPromptConfig(
            task_type=task_type(model), adapter_len=settings.adapter_len,
            adapter_layers=settings.adapter_layers or layers,
        )  # fmt: skip
        attached: nn.Module = attach_by_peft(model, config, what="LLaMA-Adapter", on_meta=on_meta)
        # PEFT holds on to the forward that the model has now; TRL gives it another one later.
        tuned = attached.base_model
        tuned.forward = types.MethodType(_forward, tuned)
        if not on_meta:  # PEFT makes them in the base's type, in which small steps are lost
            for parameter in attached.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
        return attached

    def added_matrices(
        self, shape: ShapeLike, linears: Sequence[LinearLike], settings: LlamaAdapterSettings
    ) -> list[tuple[int, int]]:
        """Return the tokens and the gate of every adapted layer."""
        layers = settings.adapter_layers or shape.layers
        return layers * [(settings.adapter_len, shape.hidden), (1, 1)]

    def kept_per_token(
        self, shape: ShapeLike, linears: Sequence[LinearLike], settings: LlamaAdapterSettings, *,
        compute: int, added: int, length: int,
    ) -> float:  # fmt: skip
        """Return the queries and the second softmax, in fp32 and twice in the compute type."""
        narrow = 2 * compute if compute < 4 else compute
        scores = shape.heads * settings.adapter_len * (4 + narrow)
        share = (settings.adapter_layers or shape.layers) / shape.layers
        return share * (compute * shape.queries + scores)

    def check(self, architecture: str) -> str:
        """Return why not: PEFT has its queries for Llama and Mistral alone."""
        if architecture in ARCHITECTURES:
            return ""
        return "PEFT computes its second attention for llama and mistral alone"


def _forward(self: Any, *args: Any, **kwargs: Any) -> Any:
    return self.model.forward(*args, **kwargs)
