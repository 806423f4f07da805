"""What preference tuning takes beyond a step on as many sequences, by formula.

DPO (Rafailov et al. 2023, arXiv:2305.18290) puts both answers of each sample through the model, so
that N is 2 × batch × length, and compares their log-probabilities with those of a reference:

    adapter_off   the same weights once more, while everything is kept for backward: one layer's
                  own, or the logits, on top of what there is at the end of the forward pass
    copy          that, and all pretrained weights a second time
    precomputed   numbers that were computed before: nothing

Nothing here imports PyTorch.
"""

from labkit.memory.architectures import Shape, parameters
from labkit.memory.settings import BYTES, StepSettings


def reference_bytes(shape: Shape, settings: StepSettings) -> int:
    """Return what a reference with weights of its own holds."""
    if settings.reference != "copy":
        return 0
    return parameters(shape) * BYTES[settings.weight_dtype]


def reference_pass(
    shape: Shape, settings: StepSettings, *, before: int, logits: int
) -> dict[str, int]:
    """Return the highest moment of the reference's forward pass; none where it makes no pass.

    `before` is there when it begins, `logits` is what head and loss hold in a forward pass.
    """
    if settings.reference not in ("adapter_off", "copy"):
        return {}
    tokens, size = settings.sequences * settings.seq_len, BYTES[settings.dtype]
    made = tokens * (3 * shape.mlp + 4 * shape.hidden) * size
    if settings.attention == "eager" and shape.heads > 1:
        made = max(made, tokens * (4 + size) * shape.heads * settings.seq_len)
    if settings.autocast and settings.reference == "copy":
        # Frozen weights are cast for each product anew.
        made += size * max(x.inputs * x.outputs for x in shape.linears)
    return {"reference": before + max(made, logits)}
