"""What changes when several devices share the training state.

ZeRO (Rajbhandari et al. 2020) and FSDP spread what data parallelism keeps N times:

    stage 1   optimizer state                       1/N
    stage 2   and gradients                         1/N
    stage 3   and weights (FSDP2's fully_shard)     1/N

Weights are 16 bit while they compute. The fp32 copy that the optimizer steps, its two moments and
its gradient are sharded: per trained parameter

    stage 0   2 + 2 + 12          stage 1   2 + 2 + 12/N
    stage 2   2 + (2 + 12)/N      stage 3   (2 + 2 + 12)/N (DeepSpeed) or (4 + 4 + 8)/N (FSDP2)

Activations are not shared: each device has its own batch. What comes on top are buffers: stage 1
and 2 reduce gradients in buckets of 5·10⁸ elements (DeepSpeed's reduce_bucket_size), stage 3
gathers whole layers: the one that computes and the one fetched ahead, and in the backward
pass the gathered gradients of one layer until they are reduced.

For LoRA only the adapters train; stages 1 and 2 then save next to nothing, stage 3 shards the
frozen base.
"""

from labkit.memory.settings import BYTES, StepSettings
from labkit.memory.shapes import Shape, block_weights, parameters

BUCKET_ELEMENTS = 500_000_000


def state_bytes(shape: Shape, settings: StepSettings, trainable: int) -> dict[str, float]:
    """Return the bytes of weights, gradients, optimizer state and buffers on one of N devices."""
    n, size, total = settings.num_gpus, BYTES[settings.dtype], parameters(shape)
    full = settings.method == "full"
    added = 0 if full else trainable
    moments = 2 if settings.optimizer_kind.startswith("adamw") else 0
    layer = block_weights(shape) / shape.layers
    # Embedding and head are gathered as a unit of their own, with the model's root.
    root = shape.vocab * shape.hidden * (1 if shape.tied else 2)
    if settings.sharding == "fsdp2":
        stored = (4 if full else size) * total + 4 * added
        return {
            "weights": (4 if full else size) * total / n,
            "added_weights": 4 * added / n,
            "gradients": 4 * trainable / n,
            "optimizer_state": 4 * moments * trainable / n,
            "sharding_buffers": size * (root + 2 * layer) + (size * layer if full else 0),
        } if stored else {}  # fmt: skip
    stage = int(settings.sharding[-1])
    weights = size * total / (n if stage == 3 else 1)
    gradients = size * trainable / (n if stage >= 2 else 1)
    bucket = size * min(BUCKET_ELEMENTS, trainable)
    gathered = size * (root + 2 * layer) + (size * layer if full else 0)
    return {
        "weights": weights,
        "added_weights": size * added / (n if stage == 3 else 1),
        "gradients": gradients,
        # The fp32 copy that is stepped, and its moments.
        "optimizer_state": 4 * (1 + moments) * trainable / n,
        "sharding_buffers": gathered if stage == 3 else bucket,
    }


def shard(
    shape: Shape, settings: StepSettings, parts: dict[str, int], phases: dict[str, int]
) -> tuple[dict[str, int], dict[str, int]]:
    """Return parts and phases of one device, from those of a device with everything.

    The phases' own share (activations, logits, temporaries) stays; the states are replaced.
    """
    trainable = parts["gradients"] // _element(settings)
    states = state_bytes(shape, settings, trainable)
    before = {name: parts.get(name, 0) for name in states}
    fixed = ("weights", "added_weights", "optimizer_state")
    change = sum(states[name] - before[name] for name in fixed) + states["sharding_buffers"]
    gradients = states["gradients"] - before["gradients"]
    with_gradients = ("backward.end", "optimizer")
    sharded = {
        name: round(value + change + (gradients if name in with_gradients else 0))
        for name, value in phases.items()
    }
    # The optimizer steps shards; nothing is gathered then.
    sharded["optimizer"] -= round(
        states["sharding_buffers"] + parts["optimizer_temporary"] * (1 - 1 / settings.num_gpus)
    )
    new = {**parts, **{name: round(value) for name, value in states.items()}}
    new["optimizer_temporary"] = round(parts["optimizer_temporary"] / settings.num_gpus)
    return new, sharded


def _element(settings: StepSettings) -> int:
    return BYTES[settings.dtype if settings.method == "full" else settings.added_dtype]
