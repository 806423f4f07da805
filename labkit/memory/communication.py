"""What devices exchange in a step, in bytes, and how long that takes.

A ring of N devices hands a vector of Ψ elements around in N pieces. Adding it up so that each
device has one finished piece (reduce-scatter) sends Ψ·(N−1)/N elements from each device; handing
finished pieces around until all have all (all-gather) as many; both together are an all-reduce
(Patarasuk & Yuan 2009). Per step, with Ψ trained and Φ frozen elements
(ZeRO, Rajbhandari et al. 2020, section 7):

    none      all-reduce of gradients                                        2Ψ
    stage 1   reduce-scatter of gradients, all-gather of stepped weights     2Ψ
    stage 2   the same, gradients reduced as they are made                   2Ψ
    stage 3   weights gathered for forward and for backward, gradients       3Ψ + 2Φ

FSDP2 is stage 3, but keeps what is outside the layers (embedding, head) between the passes, and
gradients travel in the type of the weights that are stepped, float32 in 16-bit training
(`MixedPrecisionPolicy.reduce_dtype`), so that a sum over devices is not rounded.
Gradient accumulation: `none` and stage 1 exchange once a step; the others reduce, and stage 3 and
FSDP2 gather, for every part of it.

**Time** is a range, as communication runs beside computation: at best all of it is hidden and the
longer of the two counts; at worst none is, at the lower rate of the link. Starting an operation
(some 20 µs) is left out: buckets and layers of large models are many megabytes.
"""

from dataclasses import dataclass
from typing import Any

from labkit.machine.links import SHARE, Link
from labkit.memory.settings import BYTES, StepSettings
from labkit.memory.sharding import Sizes, trained_bytes


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """Bytes that one device sends in one optimizer step."""

    gathered: float
    """weights"""
    reduced: float
    """gradients"""

    @property
    def total(self) -> float:
        """All of them."""
        return self.gathered + self.reduced


def exchange(settings: StepSettings, sizes: Sizes) -> Exchange:
    """Return what a device sends in a step of `settings`; nothing on one device."""
    n, size = settings.num_gpus, BYTES[settings.dtype]
    share, times = (n - 1) / n, settings.gradient_accumulation_steps
    trained = share * sizes.trainable
    added = 0 if settings.tuner.trains_base else sizes.trainable
    if settings.sharding == "none":  # gradients as they are stored
        return Exchange(gathered=0.0, reduced=2 * trained * trained_bytes(settings))
    if settings.sharding in ("zero1", "zero2"):
        reductions = times if settings.sharding == "zero2" else 1
        return Exchange(gathered=size * trained, reduced=size * trained * reductions)
    by_layer = settings.sharding == "fsdp2"
    gathers = 2 * (sizes.total + added) - (sizes.root if by_layer else 0)
    reduced = BYTES["float32"] if by_layer and settings.keeps_masters else size
    return Exchange(gathered=times * size * share * gathers, reduced=times * reduced * trained)


def seconds(sent: Exchange, link: Link) -> tuple[float, float]:
    """Return the least and the most that an exchange takes over `link`, beside nothing else."""
    fast, slow = (sent.total / (share * link.bytes_per_second) for share in SHARE)
    return fast, slow


def told(sent: Exchange, link: Link) -> dict[str, Any]:
    """Return an exchange over `link` as the JSON of `labkit estimate` has it."""
    low, high = seconds(sent, link)
    return {
        "link": link.name,
        "bytes": {"gathered": round(sent.gathered), "reduced": round(sent.reduced)},
        "seconds": {"low": low, "high": high},
    }
