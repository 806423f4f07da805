"""What changes when several devices share the training state.

ZeRO (Rajbhandari et al. 2020) and FSDP spread what data parallelism keeps N times:

    stage 1   optimizer state                       1/N
    stage 2   and gradients                         1/N
    stage 3   and weights (FSDP2's fully_shard)     1/N

Weights are 16 bit while they compute. DeepSpeed's optimizer steps an fp32 copy of them, with two
moments; FSDP2 shards the fp32 weights themselves and gathers them in 16 bit. Per trained parameter

    alone     2 + 2 + 12
    stage 1   2 + 2 + 12/N        stage 3   (2 + 2 + 12)/N
    stage 2   2 + (2 + 12)/N      FSDP2     (4 + 4 + 8)/N, or (2 + 2 + 4)/N without fp32 weights

Activations are not shared: each device has its own batch. On top come buffers: DeepSpeed
reduces gradients in buckets of 5·10⁸ elements (`reduce_bucket_size`), in stage 3 as well; stage 3
and FSDP2 gather the embedding and head, the layer that computes and the one fetched ahead, and in
the backward pass have the gathered gradients of a layer until they are reduced.

With LoRA only adapters train: stages 1 and 2 save next to nothing, stage 3 shards the frozen base.
Without sharding, PyTorch's DistributedDataParallel copies gradients into buckets of their own,
which is once more the size of all gradients, there from the start.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from labkit.memory.settings import BYTES, StepSettings

BUCKET_ELEMENTS = 500_000_000


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Elements of a model as sharding sees it."""

    total: int
    """all parameters, added ones not among them"""
    trainable: int
    layer: int
    """parameters of one layer"""
    root: int
    """parameters outside the layers: embedding, head, last norm"""


def state_bytes(settings: StepSettings, sizes: Sizes) -> dict[str, int]:
    """Return the bytes of weights, gradients, optimizer state and buffers on one device."""
    n, size = settings.num_gpus, BYTES[settings.dtype]
    full = settings.tuner.trains_base
    added = 0 if full else sizes.trainable
    moments = 2 if settings.optimizer_kind.startswith("adamw") else 0
    gathered = size * (sizes.root + 2 * sizes.layer) + (size * sizes.layer if full else 0)
    if settings.sharding == "fsdp2":
        trained = BYTES[settings.dtype] if settings.master_weights is False else 4
        states = {
            "weights": (trained if full else size) * sizes.total / n,
            "added_weights": trained * added / n,
            "gradients": trained * sizes.trainable / n,
            "optimizer_state": trained * moments * sizes.trainable / n,
            "sharding_buffers": gathered,
        }
    else:
        stage = int(settings.sharding[-1])
        states = {
            "weights": size * sizes.total / (n if stage == 3 else 1),
            "added_weights": size * added / (n if stage == 3 else 1),
            "gradients": size * sizes.trainable / (n if stage >= 2 else 1),
            # The fp32 copy that is stepped, and its moments.
            "optimizer_state": 4 * (1 + moments) * sizes.trainable / n,
            "sharding_buffers": size * min(BUCKET_ELEMENTS, sizes.trainable)
            + (gathered if stage == 3 else 0),
        }
    return {name: round(value) for name, value in states.items()}


def shard(
    settings: StepSettings, sizes: Sizes, parts: Mapping[str, int], *, optimizer: bool
) -> dict[str, int]:
    """Return the parts of one moment on one of N devices, from those of a device with everything.

    `optimizer`: the moment is in the optimizer step, where shards are stepped and nothing is
    gathered. Gradients of the moment shrink by what all of them shrink by.
    """
    whole = sizes.trainable * trained_bytes(settings)
    if settings.sharding == "none":
        return {**parts, "sharding_buffers": whole}
    states = state_bytes(settings, sizes)
    share = states["gradients"] / whole if whole else 1.0
    return {
        **parts,
        "weights": states["weights"],
        "added_weights": states["added_weights"],
        "optimizer_state": states["optimizer_state"],
        "gradients": round(parts["gradients"] * share),
        "optimizer_temporary": round(parts["optimizer_temporary"] * share),
        "sharding_buffers": 0 if optimizer else states["sharding_buffers"],
    }


def trained_bytes(settings: StepSettings) -> int:
    """Return the bytes of a trained element and of its gradient on a device with everything."""
    return BYTES[settings.weight_dtype if settings.tuner.trains_base else settings.added_dtype]
