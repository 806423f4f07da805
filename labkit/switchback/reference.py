"""Compute int8 matmuls in plain PyTorch: exact, and what every other backend must equal.

Absmax quantisation maps the largest magnitude of a group of numbers to 127 and every other
number to the nearest integer on that ruler:

    s = 127 / absmax(x)        q = round(x · s)        x ≈ q · absmax(x) / 127

Rounding is half to even. The error of one element is at most half a step, absmax / 254, and as
long as a step is small beside the spread of the numbers it behaves like uniform noise of variance
(absmax / 127)² / 12. The group decides everything: one outlier stretches the ruler of its whole
group, so a *row* of its own (one token, or one output feature) confines the damage to that row,
while a *global* absmax lets one weight coarsen all of them.

A matmul of two quantised matrices needs no dequantised copy. Integers multiply and add exactly
in int32, and the scales factor out of the sum when they do not depend on the inner index k:

    y[m, n] = absmax_a[m] · absmax_b[n] / 127² · Σ_k a[m, k] · b[n, k]  (+ bias[n])

Every matrix is therefore quantised along the inner dimension of the matmul it is about to enter:
W [N, K] per row for Y = X·Wᵀ, where k runs over its columns, and per *column* for dX = G·W, where
k runs over its rows. That second form is stored transposed, because int8 tensor cores and AMX want
both operands with the inner dimension contiguous: every matmul here is A·Bᵀ.

Scales are float32: a gradient of a mean loss is easily 1e-9, below what float16 holds. Rows of
zeros get the smallest scale, `TINY`, instead of a division by zero. A row with an infinity or a NaN
comes out non-finite, which is what a gradient scaler looks for.

Source: Wortsman et al. 2023, "Stable and low-precision training for large-scale vision-language
models" (arXiv 2304.13013), section 2; Dettmers et al. 2022, "LLM.int8()" (arXiv 2208.07339).

Shapes: M rows (tokens), K inner dimension, N output features.
"""

import torch
from torch import Tensor

NAME = "reference"

TINY = 2.0**-100
"""Smallest absmax: 127 / TINY is finite in float32, and nothing a network computes is smaller."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

EXACT_CHUNK = 1024
"""127² · 1024 < 2²⁴: a float32 sum of so many int8 products is an exact integer in any order."""


def serves(device: torch.device, dtype: torch.dtype) -> bool:
    """Say whether this backend computes on `device` in `dtype`: any that holds real numbers."""
    return dtype in DTYPES and torch.amp.is_autocast_available(device.type)


def quantize_rowwise(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise each row of x [M, K] by its own absmax: int8 [M, K] and absmax float32 [M]."""
    absmax = _at_least_tiny(x.abs().amax(dim=1))
    return _quantize(x, absmax[:, None]), absmax


def quantize_columnwise_and_transpose(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise each column of x [M, K] by its own absmax: int8 [K, M] and absmax float32 [K]."""
    absmax = _at_least_tiny(x.abs().amax(dim=0))
    return _quantize(x.t(), absmax[:, None]), absmax


def quantize_global(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise x [M, K] by one absmax: int8 [M, K] and absmax float32 []."""
    absmax = _at_least_tiny(x.abs().amax())
    return _quantize(x, absmax), absmax


def quantize_global_transpose(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise x [M, K] by one absmax and transpose: int8 [K, M] and absmax float32 []."""
    absmax = _at_least_tiny(x.abs().amax())
    return _quantize(x.t(), absmax), absmax


def int8_mm(a: Tensor, b: Tensor) -> Tensor:
    """Multiply a [M, K] int8 by the transpose of b [N, K] int8 into int32 [M, N], exactly.

    Up to K = 133,144 an int32 cannot overflow. Float32 matmuls over chunks of the inner
    dimension stay below 2²⁴, so they are exact, and much faster than an integer matmul.
    """
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"inner dimensions differ: {a.shape[1]} and {b.shape[1]}")
    total = torch.zeros(a.shape[0], b.shape[0], dtype=torch.int32, device=a.device)
    # Autocast would turn these float32 products into bfloat16 ones and round the sums.
    with torch.autocast(a.device.type, enabled=False):
        for start in range(0, a.shape[1], EXACT_CHUNK):
            part = slice(start, start + EXACT_CHUNK)
            total += (a[:, part].float() @ b[:, part].float().t()).to(torch.int32)
    return total


def scaled_int8_mm(
    a: Tensor,
    b: Tensor,
    a_absmax: Tensor,
    b_absmax: Tensor,
    bias: Tensor | None = None,
    out_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Multiply a [M, K] by bᵀ, b [N, K], and scale back: out_dtype [M, N].

    a_absmax is float32 [M]; b_absmax is float32 [N], or [] when b has one scale. The bias [N] is
    added once, in float32, before the only rounding to out_dtype.
    """
    y = int8_mm(a, b).float() * (a_absmax * (1.0 / 127**2))[:, None] * b_absmax
    if bias is not None:
        y = y + bias.float()
    return y.to(out_dtype)


def dequantize_rowwise(q: Tensor, absmax: Tensor, out_dtype: torch.dtype = torch.float32) -> Tensor:
    """Scale q [M, K] int8 with absmax float32 [M] back to out_dtype [M, K]."""
    return (q.float() * (absmax * (1.0 / 127))[:, None]).to(out_dtype)


def _at_least_tiny(absmax: Tensor) -> Tensor:
    return absmax.float().clamp_min(TINY)


def _quantize(x: Tensor, absmax: Tensor) -> Tensor:
    # A true division: PyTorch turns `127.0 / absmax` into a reciprocal and a product, which
    # rounds twice and moves a quarter of all scales by one unit in the last place.
    scale = torch.full_like(absmax, 127.0) / absmax
    # The values are contiguous whatever the strides of x: a transpose is written out here.
    return (x.float() * scale).round().to(torch.int8, memory_format=torch.contiguous_format)
