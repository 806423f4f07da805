"""Names and sizes of what a model is made of."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def linear_names(model: "nn.Module") -> "list[tuple[str, nn.Module]]":
    """Return the linear layers of the model's blocks; the output head is not one of them."""
    from torch import nn

    head = getattr(model, "get_output_embeddings", lambda: None)()
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    ]


def count_parameters(model: "nn.Module") -> tuple[int, int]:
    """Return (trainable, total) numbers of parameters; tied weights count once."""
    parameters = list(model.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    return trainable, sum(p.numel() for p in parameters)
