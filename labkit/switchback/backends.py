"""Choose the backend of int8 matmuls from a table of modules with the same functions.

A *backend* has the functions of `reference.py`: quantise, multiply and scale, dequantise, and
`serves(device, dtype)`. It may have more:

    pack_weight, packed_mm   quantise a weight into an order of its own, and multiply by it
    prepack                  order a quantised weight that will never change

The layer asks for a backend at every forward pass, because a model can be moved or cast; what has
to be built is built where layers are made.
"""

import importlib
import importlib.util
import os
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from labkit.console import say_once
from labkit.errors import LabkitError, nearest
from labkit.switchback import cpu, reference

BACKENDS = {
    "triton": "triton_kernels", "cpu": "cpu", "onednn": "onednn", "reference": "reference",
}  # fmt: skip
"""Backend name -> module of this package, in the order in which "auto" asks them."""

Packed = tuple[Tensor, Tensor]
"""A quantised weight, in the order of the backend that made it, and its absmax."""


def _load_backends() -> dict[str, ModuleType]:
    # At import, so that a compiled forward finds modules and imports nothing.
    wanted = dict(BACKENDS)
    if not (torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"):
        del wanted["triton"]
    loaded = {}
    for name, module in wanted.items():
        path = f"{__package__}.{module}"
        needs = "triton" if name == "triton" else path
        if importlib.util.find_spec(needs) is not None:
            loaded[name] = importlib.import_module(path)
    return loaded


LOADED = _load_backends()


def choose(name: str, device: torch.device, dtype: torch.dtype) -> ModuleType:
    """Return the backend `name`, or for "auto" the first that serves `device` and `dtype`.

    LabkitError: an unknown name, or a device or dtype that the backend does not serve.
    """
    if name != "auto" and name not in BACKENDS:
        hint = nearest(name, ["auto", *BACKENDS])
        raise LabkitError(f"backend={name!r} is not a SwitchBack backend: {hint}")
    asked = BACKENDS if name == "auto" else (name,)
    for candidate in asked:
        module = LOADED.get(candidate)
        if module is not None and module.serves(device, dtype):
            return module
    what = f"{str(dtype).removeprefix('torch.')} on {device.type}"
    if name == "auto" or dtype not in reference.DTYPES:
        raise LabkitError(
            f"no SwitchBack backend computes {what}: "
            "use float32, bfloat16 or float16 on a CPU or a CUDA device"
        )
    raise LabkitError(f"backend={name!r} does not compute {what} here: use backend='auto'")


def prepare(name: str) -> None:
    """Build what the backends behind `name` need; say once in the log if "auto" has to do without.

    Called where layers are made: a compiled forward pass can build nothing. LabkitError: "cpu" is
    requested by name and not available.
    """
    if name not in ("auto", "cpu"):
        return
    reason = cpu.load()
    if reason and name == "cpu":
        raise LabkitError(f"backend='cpu' is not possible here: {reason}: use backend='auto'")
    if reason:
        say_once(f"SwitchBack runs without its fast int8 kernels: {reason}")


def quantize_weight(w: Tensor, weight_scale: str, ops: Any, *, transpose: bool) -> Packed:
    """Quantise W [N, K] as it stands, or for dX transposed: int8 and absmax [N], [K] or []."""
    if weight_scale == "row":
        return ops.quantize_columnwise_and_transpose(w) if transpose else ops.quantize_rowwise(w)
    return ops.quantize_global_transpose(w) if transpose else ops.quantize_global(w)


def pack_weight(w: Tensor, weight_scale: str, ops: Any, *, transpose: bool) -> Packed:
    """Quantise W [N, K] in whatever order `ops` multiplies fastest; see `quantize_weight`."""
    if hasattr(ops, "pack_weight"):
        return ops.pack_weight(w, weight_scale, transpose=transpose)
    return quantize_weight(w, weight_scale, ops, transpose=transpose)


def packed_linear(
    x_int8: Tensor, x_absmax: Tensor, packed: Packed, bias: Tensor | None, out_features: int,
    out_dtype: torch.dtype, ops: Any,
) -> Tensor:  # fmt: skip
    """Multiply quantised rows [M, K] by what `pack_weight` made: out_dtype [M, out_features]."""
    w, w_absmax = packed
    if hasattr(ops, "packed_mm"):
        return ops.packed_mm(x_int8, w, x_absmax, w_absmax, bias, out_features, out_dtype)
    return ops.scaled_int8_mm(x_int8, w, x_absmax, w_absmax, bias, out_dtype)
