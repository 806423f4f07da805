"""The base that a method is put on: plain weights, or frozen ones in fewer bits.

The base is an axis of its own: QLoRA (Dettmers et al. 2023, arXiv:2305.14314) is LoRA on nf4, which
keeps 4 bits a weight and a scale for each block of 64; LLM.int8 (Dettmers et al. 2022,
arXiv:2208.07339) keeps 8 bits and a scale for each row. Only a method that leaves the pretrained
weights alone can stand on a quantised one.
"""

from dataclasses import dataclass


def without_attention(architecture: str) -> str:
    """Return why virtual tokens cannot be had without attention; empty where there is some."""
    return "a state-space model has no key-value cache" if "mamba" in architecture else ""


@dataclass(frozen=True, kw_only=True)
class Base:
    """How the pretrained weights of the linear layers are stored while a method trains."""

    name: str
    bits: int
    """of a weight in a linear layer; 16: whatever type the method asks for"""
    keeps_inputs: bool = False
    """whether its products keep their input for backward on their own (MatMul8bitLt)"""
    shards: tuple[str, ...] = ("fsdp2", "zero3")
    """ways to share weights among processes that its weights survive"""
    launches: int = 0
    """kernels a layer launches on a GPU on top of a plain base's"""

    @property
    def quantised(self) -> bool:
        return self.bits < 16

    def quantised_bytes(self, weights: int, rows: int, *, double_quant: bool) -> int:
        """Return the bytes of `weights` quantised numbers in `rows` rows, scales included.

        nf4: 4 + 32/64 = 4.5 bits each, or 4 + 8/64 + 32/(64·256) = 4.127 where the scales are
        quantised once more.
        """
        if self.bits == 4:
            blocks = weights / 64
            return round(weights / 2 + (blocks * (1 + 4 / 256) if double_quant else 4 * blocks))
        return weights + 4 * rows

    def check(self, architecture: str) -> str:
        """Return why the base cannot hold an architecture, as a clause; empty if it can."""
        if self.quantised and "mamba" in architecture:
            return "the scan of a state-space model reads weights past a quantised layer"
        return ""


BASES = {
    base.name: base
    for base in (
        Base(name="plain", bits=16),
        # Scales hang on its parameters, and are lost when these are cut.
        Base(name="8bit", bits=8, keeps_inputs=True, launches=140, shards=()),
        # DeepSpeed takes packed bytes for weights.
        Base(name="nf4", bits=4, launches=40, shards=("fsdp2",)),
    )
}
SHORTHANDS = {"qlora": ("lora", "nf4"), "8bit": ("lora", "8bit")}
"""Names that stand for a method on a base."""
