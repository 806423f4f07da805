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

Activations are not shared: each device has its own batch. On top come weights and gradients that
are gathered and on their way (`buffers`).

With LoRA only adapters train: stages 1 and 2 save next to nothing, stage 3 shards the frozen base.
Without sharding, PyTorch's DistributedDataParallel copies gradients into buckets of their own,
which is once more the size of all gradients, there from the start.
"""

from dataclasses import dataclass

from labkit.memory.settings import BYTES, StepSettings

PERSISTENT = 100_000
"""elements of a weight that ZeRO's stage 3 leaves whole (DeepSpeed, zero/config.py)"""


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
    layers: int = 1
    weight: int = 0
    """the largest weight of a layer"""
    small: int = 0
    """all weights of up to `PERSISTENT` elements together, added ones among them"""
    tied: bool = False
    """the head is the embedding"""

    @property
    def added(self) -> int:
        """What a method adds; nothing where all is trained."""
        return 0 if self.trainable >= self.total else self.trainable

    @property
    def trained_layer(self) -> float:
        """What is trained of a layer."""
        return self.added / self.layers if self.trainable < self.total else self.layer

    @property
    def trained_root(self) -> int:
        """What is trained outside the layers."""
        return self.root if self.trainable >= self.total else 0

    @property
    def first(self) -> float:
        """What the embedding has of the root; the rest is the head."""
        return self.root if self.tied else self.root / 2


def state_bytes(settings: StepSettings, sizes: Sizes) -> dict[str, int]:
    """Return the bytes of weights, gradients and optimizer state on one device."""
    n, size = settings.num_gpus, BYTES[settings.dtype]
    full = settings.tuner.trains_base
    added = 0 if full else sizes.trainable
    moments = 2 if settings.optimizer_kind.startswith("adamw") else 0
    if settings.sharding == "fsdp2":
        trained = BYTES[settings.dtype] if settings.master_weights is False else 4
        states = {
            "weights": (trained if full else size) * sizes.total / n,
            "added_weights": trained * added / n,
            "gradients": trained * sizes.trainable / n,
            "optimizer_state": trained * moments * sizes.trainable / n,
        }
    else:
        stage = int(settings.sharding[-1])
        states = {
            "weights": size * sizes.total / (n if stage == 3 else 1),
            "added_weights": size * added / (n if stage == 3 else 1),
            "gradients": size * sizes.trainable / (n if stage >= 2 else 1),
            # The fp32 copy that is stepped, and its moments.
            "optimizer_state": 4 * (1 + moments) * sizes.trainable / n,
        }
    return {name: round(value) for name, value in states.items()}


def trained_bytes(settings: StepSettings) -> int:
    """Return the bytes of a trained element and of its gradient on a device with everything."""
    return BYTES[settings.weight_dtype if settings.tuner.trains_base else settings.added_dtype]
