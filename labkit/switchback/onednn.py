"""Compute int8 on the CPU without a compiler: matmuls by oneDNN, which every build of torch has.

`torch._int_mm` multiplies int8 matrices exactly into int32 on processors with VNNI or AMX. It is
faster than bfloat16 there, but everything around it is the plain PyTorch of `reference.py`.

A *frozen* weight does better with AMX. oneDNN can take a weight in the order its kernel reads, made
once (`prepack`), and scale each output feature as it writes the result; what is left is one pass
over the result for the scale of each row. Ordering costs more than several matmuls, which is
why only weights that never change are worth it. Without AMX oneDNN multiplies signed bytes in that
order by its plain reference kernel, a hundred times slower: there a weight stays as it is.

Source: the operators `onednn::qlinear_prepack` and `onednn::qlinear_pointwise` of torch; both were
compared with the integer reference, because they are not documented.
"""

import os

import torch
from torch import Tensor

from labkit.switchback import levels, reference
from labkit.switchback.reference import (
    dequantize_rowwise,
    quantize_columnwise_and_transpose,
    quantize_global,
    quantize_global_transpose,
    quantize_rowwise,
)

NAME = "onednn"

__all__ = [
    "dequantize_rowwise", "int8_mm", "packed_mm", "prepack", "quantize_columnwise_and_transpose",
    "quantize_global", "quantize_global_transpose", "quantize_rowwise", "scaled_int8_mm", "serves",
]  # fmt: skip

_TOLD = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
_LIMIT = _TOLD.upper()
_exact = levels.has_vnni() and _LIMIT not in ("SSE41", "AVX", "AVX2", "AVX512_CORE")
"""Without VNNI, or told to do without, oneDNN adds pairs of products in 16 bits, which overflow."""


_orders = levels.has_amx() and (_LIMIT in ("", "ALL", "DEFAULT") or "AMX" in _LIMIT)
"""Whether oneDNN has a fast kernel for weights in an order of its own."""


def serves(device: torch.device, dtype: torch.dtype) -> bool:
    """Say whether this backend computes `dtype` on `device`: on x86 processors with VNNI."""
    return _exact and device.type == "cpu" and dtype in reference.DTYPES


def int8_mm(a: Tensor, b: Tensor) -> Tensor:
    """Multiply a [M, K] int8 by the transpose of b [N, K] int8 into int32 [M, N], exactly."""
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"inner dimensions differ: {a.shape[1]} and {b.shape[1]}")
    # Any other stride makes oneDNN fall back to a kernel hundreds of times slower.
    return torch._int_mm(a.contiguous(), b.contiguous().t())


def scaled_int8_mm(
    a: Tensor,
    b: Tensor,
    a_absmax: Tensor,
    b_absmax: Tensor,
    bias: Tensor | None = None,
    out_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Multiply a [M, K] by bᵀ, b [N, K], scale, add the bias once: out_dtype [M, N]."""
    y = int8_mm(a, b).float() * (a_absmax * (1.0 / 127**2))[:, None] * b_absmax
    return (y if bias is None else y + bias.float()).to(out_dtype)


def prepack(q: Tensor) -> Tensor:
    """Let oneDNN order a quantised weight q [N, K] int8 for `packed_mm`, once, where it pays."""
    return q if not _orders else torch.ops.onednn.qlinear_prepack(q, None)


def packed_mm(
    a: Tensor,
    packed: Tensor,
    a_absmax: Tensor,
    b_absmax: Tensor,
    bias: Tensor | None,
    out_features: int,
    out_dtype: torch.dtype,
) -> Tensor:
    """Multiply a [M, K] int8 by what `prepack` made, or by int8 [N, K], scale: out_dtype [M, N]."""
    if not packed.is_mkldnn:
        return scaled_int8_mm(a, packed, a_absmax, b_absmax, bias, out_dtype)
    # With unit scales what comes out are the sums, and the result is the reference's bit for bit.
    ones, zeros = torch.ones(out_features), torch.zeros(out_features, dtype=torch.int32)
    y = torch.ops.onednn.qlinear_pointwise(
        a.contiguous(), 1.0, 0, packed, ones, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    y = y.mul_((a_absmax * (1.0 / 127**2))[:, None]).mul_(b_absmax)
    return (y if bias is None else y.add_(bias.float())).to(out_dtype)
