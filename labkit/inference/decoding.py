"""What makes writing answers fast, on the model that writes and on no other."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

GROUPED = "TRANSFORMERS_SDPA_FORCE_GQA"


def group_queries(model: "nn.Module") -> None:
    """Let `model`'s fused attention read each key and value head once for all queries sharing it.

    transformers copies them for every query head where there is a mask, because CUDA's kernels
    need that; PyTorch's CPU kernel does not. The same answers but for rounding, in much less time
    for a batch. transformers asks the environment at every layer; it says so during this model's
    forward passes alone, since a training run must not depend on what its process did before.
    """
    before: list[str | None] = []

    def begin(module: "nn.Module", inputs: object) -> None:
        before.append(os.environ.get(GROUPED))
        os.environ.setdefault(GROUPED, "1")

    def end(module: "nn.Module", inputs: object, output: object) -> None:
        if (was := before.pop()) is None:
            os.environ.pop(GROUPED, None)
        else:
            os.environ[GROUPED] = was

    # PEFT calls the forward function of the model with the head, past its hooks.
    layers = (model.get_base_model() if hasattr(model, "get_base_model") else model).base_model
    layers.register_forward_pre_hook(begin)
    layers.register_forward_hook(end, always_call=True)


def contiguous_head(model: "nn.Module") -> None:
    """Copy the output head's input where it is a slice, before the head is applied.

    Generation needs the logits of the last position, a slice of all hidden states. For a sliced
    batch PyTorch copies the *weight* once per row, gigabytes for a large vocabulary.
    """
    head = model.get_output_embeddings()
    head.register_forward_pre_hook(lambda module, inputs: (inputs[0].contiguous(), *inputs[1:]))
