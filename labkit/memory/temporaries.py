"""What a layer makes in its forward or its backward pass and releases, by formula.

Nothing here imports PyTorch.
"""

import dataclasses

from labkit.memory.activations import kept_per_token
from labkit.memory.architectures import Shape, adapted
from labkit.memory.settings import BYTES, StepSettings


def layer_temporary_bytes(shape: Shape, settings: StepSettings) -> int:
    """Return what one layer makes in its backward pass and releases.

    Gradients of three rows of the MLP's width and of the residual stream; under checkpointing also
    all that the layer keeps, which is computed again.
    """
    tokens, size = settings.sequences * settings.positions, BYTES[settings.dtype]
    rows = 3 * shape.mlp if "gate_proj" in {x.name for x in shape.linears} else 2 * shape.mlp
    made: float = tokens * (rows * size + 2 * size * shape.hidden)
    if settings.attention == "eager" and shape.heads > 1:
        made += tokens * 4 * shape.heads * settings.seq_len  # gradient of the softmax, in fp32
    if shape.state:
        made = tokens * 3 * 4 * shape.mlp * shape.state
    if settings.gradient_checkpointing:
        made += tokens * kept_per_token(shape, settings)
    return round(made + of_weights(shape, settings))


def of_weights(shape: Shape, settings: StepSettings) -> float:
    """Return what one layer makes whatever the batch: of a weight, or of what a method adds."""
    size, weight = BYTES[settings.dtype], max(x.inputs * x.outputs for x in shape.linears)
    made: float = 0
    if settings.tuner.trains_base and settings.autocast:
        made += size * weight  # a 16-bit gradient before it is cast to fp32
    if settings.base_weights.quantised:
        made += size * weight  # a dequantised weight
    of_method = [settings.tuner.made(each, settings.of_method, compute=size)
                 for each in adapted(shape, settings)]  # fmt: skip
    return made + max(of_method, default=0)


def forward_temporary_bytes(shape: Shape, settings: StepSettings) -> int:
    """Return what one layer makes in its forward pass and releases: one row of the MLP's width."""
    once = layer_temporary_bytes(shape, dataclasses.replace(settings, gradient_checkpointing=False))
    gradients = 0 if shape.state else 1 + ("gate_proj" in {x.name for x in shape.linears})
    tokens = settings.sequences * settings.positions
    return once - gradients * tokens * shape.mlp * BYTES[settings.dtype]
