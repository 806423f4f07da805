"""Bases in fewer bits: LoftQ's start on any device, and what an adapter remembers of its base.

LoftQ (Li et al. 2023, arXiv:2310.08659, algorithm 1) looks for a quantised weight Q and a low-rank
B·A whose sum is near the weight W, by turns:

    Q ← quantise(W − B·A)        B·A ← the r largest singular parts of W − Q

PEFT has it and sends every weight to a GPU first; nothing in it needs one.

An adapter is trained beside weights in a certain form: 8 or 4 bits, or a type in which PiSSA or
LoftQ changed them. Beside weights in another form it is another model. PEFT's folder names the base
and not its form, so `trained_on.json` lies beside it. It names the method, too: two may be of one
type to PEFT.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError, brief, read_json
from labkit.files import write_json

FILE = "trained_on.json"
CHANGED_BY_START = ("pissa", "olora", "loftq")
"""Starts of LoRA that change the weights of the base."""


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """The form of the pretrained weights beside which an adapter was trained, and the method."""

    method: str = ""
    """as `labkit train` calls it; empty where nobody said"""
    base: str = "plain"
    double_quant: bool = True
    dtype: str = "float32"
    """of plain weights, and the type that quantised ones are multiplied in"""

    def save(self, folder: Path) -> None:
        """Write it beside an adapter."""
        write_json(folder / FILE, asdict(self))

    @property
    def quantised(self) -> bool:
        return self.base != "plain"


def trained_on(folder: Path) -> TrainedOn | None:
    """Return what the adapter in a folder was trained on; None where nobody said.

    Raises:
        LabkitError: the file is damaged.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    said = read_json(file)
    kinds = {"base": ("plain", "8bit", "nf4"), "double_quant": (True, False),
             "dtype": ("float32", "bfloat16", "float16")}  # fmt: skip
    if not isinstance(said, dict) or any(said.get(key) not in kinds[key] for key in kinds):
        raise LabkitError(f"{file} holds {brief(said)}, which is no form of a base: it has base, "
                          "double_quant and dtype")  # fmt: skip
    return TrainedOn(method=str(said.get("method", "")), **{key: said[key] for key in kinds})


def keep_unpacked(model: Any) -> None:
    """Keep bitsandbytes from packing 4-bit weights anew for a processor with bfloat16 units.

    It does so at the first forward in evaluation, for good, and what is packed passes no gradient
    on and multiplies in bfloat16: an evaluation before the first step would end the training of
    all layers but the last ones, without a word.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def dequantise(model: Any, dtype: str) -> Any:
    """Return a quantised model with plain weights, which are what its bits stand for."""
    import torch

    model = model.dequantize(getattr(torch, dtype))
    for said in ("is_loaded_in_8bit", "is_loaded_in_4bit"):  # PEFT merges nothing while they say so
        if hasattr(model, said):
            setattr(model, said, False)
    return model


def refuse_odd_widths(model: Any, name: str) -> None:
    """Raise `LabkitError` for 4-bit layers on a CPU whose rows are no multiple of a block of 64.

    bitsandbytes 0.50 on a processor with AVX-512 gives such rows back with the scales of other
    blocks: rows of 160 normal numbers come back 23 % off, where nf4 loses 9 %.
    """
    for layer, module in model.named_modules():
        odd = type(module).__name__ == "Linear4bit" and module.in_features % 64
        if odd and module.weight.device.type == "cpu":
            raise LabkitError(
                f"{name}: {layer} reads {module.in_features} numbers, not a multiple of 64, which "
                "base nf4 needs on a CPU: use base 8bit or plain"
            )


def multiply_as_trained(model: Any) -> None:
    """Let 8-bit layers on a CPU multiply dequantised weights, as they do in training.

    In evaluation they round their input to 8 bits as well, which moves logits by a few thousandths.
    """
    for module in model.modules():
        if type(module).__name__ == "Linear8bitLt":
            module.train()


def dtype_of_base(folder: Path, adapter: Mapping[str, Any], dtype: str) -> str:
    """Return the type in which the base of an adapter has to be loaded, to be used in `dtype`.

    A start that changes the base takes from it what it took in training only in the same type.
    """
    start = adapter.get("init_lora_weights")
    changes = isinstance(start, str) and start.lower() in CHANGED_BY_START
    held = trained_on(folder) if changes else None
    return held.dtype if held else dtype


def cast_base(model: Any, dtype: str) -> None:
    """Bring what is not of the adapter into a type."""
    import torch

    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.to(getattr(torch, dtype))


@contextlib.contextmanager
def loftq_on_any_device() -> Iterator[None]:
    """Let PEFT start LoftQ where the weights are; it asks for a GPU when it attaches or loads."""
    import torch
    from peft.tuners.lora import layer

    if torch.cuda.is_available():
        yield
        return
    original = layer.loftq_init
    layer.loftq_init = loftq_init
    try:
        yield
    finally:
        layer.loftq_init = original


def loftq_init(weight: Any, num_bits: int, reduced_rank: int, num_iter: int = 1) -> Any:
    """Return (Q, A, B) of LoftQ for a weight (out, in): Q like it, A (r, in), B (out, r).

    Raises:
        LabkitError: `num_bits` is not 4 or 8.
    """
    import torch

    if num_bits not in (4, 8):
        raise LabkitError(f"loftq_config: loftq_bits must be 4 or 8, got {num_bits}")
    r = reduced_rank
    with torch.no_grad():
        exact = weight.detach().float()
        rest = exact
        for _ in range(num_iter):
            quantised = _rounded(rest.contiguous(), num_bits)
            u, s, vh = torch.linalg.svd(exact - quantised, full_matrices=False)
            root = s[:r].sqrt()
            a, b = root[:, None] * vh[:r], u[:, :r] * root
            rest = exact - b @ a
    return quantised.to(weight.dtype), a, b


def _rounded(weight: Any, bits: int) -> Any:
    """Return a float32 weight as nf4 or int8 gives it back, one scale per 64 numbers or per row."""
    from bitsandbytes import functional

    if bits == 4:
        # As one row: bitsandbytes dequantises rows wrongly where no whole blocks fill them.
        packed, state = functional.quantize_4bit(
            weight.reshape(1, -1), blocksize=64, quant_type="nf4"
        )
        return functional.dequantize_4bit(packed, state).float().reshape(weight.shape)
    scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-30) / 127
    return (weight / scale).round() * scale


def stretch_in_its_type(model: Any) -> None:
    """Let (IA)³ on a quantised base compute as on a plain one, and return its input's type.

    PEFT's own layers for quantised weights hold a float32 copy of every input that they stretch
    (on a CPU also under autocast), which 8-bit products keep for backward, and return float32:
    attention would have keys of another type than queries.
    """
    from types import MethodType

    from peft.tuners.ia3.layer import Linear

    for module in model.modules():
        held = type(getattr(module, "base_layer", None)).__name__
        if "peft.tuners.ia3" in type(module).__module__ and held in ("Linear8bitLt", "Linear4bit"):
            module.forward = MethodType(Linear.forward, module)
