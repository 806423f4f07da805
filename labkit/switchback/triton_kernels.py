"""Compute the functions of `reference.py` by Triton kernels on NVIDIA GPUs.

A Triton kernel is one *program*, started on a grid; each program owns a tile of the output and
addresses memory by hand: pointer + row · stride + column · stride, with a mask wherever a tile
sticks out of the matrix. Four kernels do the work:

    quantize_rowwise     a program owns BLOCK_M rows: a pass for the absmax, a pass to quantise;
                         or one row that it holds in registers, and one pass is enough
    quantize_tiles       a tile of the input, scales given, written straight or transposed
    scaled_int8_mm       a tile of the output, int32 sums on the tensor cores, scaled once
    dequantize_rowwise   a tile back to floats

Four choices are about being right rather than fast:

- Quantisation is bit-exact against `torch.round`. The scale 127 / absmax is divided with IEEE
  rounding (`div_rn`), rounding to nearest even adds and subtracts 1.5 · 2²³, and the compiler may
  not fuse that addition with the product before it, which would skip one rounding.
- `tl.max` drops a NaN, so the absmax kernel looks for it: a NaN must spoil its row.
- Offsets along rows are 64-bit: 131,072 tokens × 16,384 features is past what 31 bits address.
- No split along the inner dimension: each output is scaled, biased and stored by one program.

The bare kernels run under Triton's interpreter (`TRITON_INTERPRET=1`, set before triton is
imported) on CPU tensors and compile ahead of time for a GPU that is not there. Autotuning needs a
driver, so it wraps the bare kernels instead of decorating them. How exact and how fast they are on
a card is measured by `labkit bench gpu`; `data/results/gpu.json` is the record of one, and nothing
is claimed beyond it. From compute capability 9.0 on, `triton_hopper` computes large matmuls.

Shapes: M rows (tokens), K inner dimension, N output features. r_ = a range of indices.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# (Triton reads the annotations of a kernel: only `tl.constexpr` belongs there.)

import torch
import triton
import triton.language as tl
from torch import Tensor

from labkit.switchback import reference, triton_hopper

NAME = "triton"

INTERPRETED = bool(triton.knobs.runtime.interpret)

TINY: tl.constexpr = tl.constexpr(reference.TINY)
ROUND_MAGIC: tl.constexpr = tl.constexpr(1.5 * 2**23)


def serves(device: torch.device, dtype: torch.dtype) -> bool:
    """Say whether this backend serves `device` and `dtype`: CUDA, or the CPU when interpreted."""
    return dtype in reference.DTYPES and (device.type == "cuda" or INTERPRETED)


@triton.jit
def tile_order(grid_m, grid_n, GROUP_M: tl.constexpr):
    """Turn a program number into a tile: GROUP_M tile rows at a time, so neighbours share L2."""
    pid = tl.program_id(0)
    width = GROUP_M * grid_n
    first_m = (pid // width) * GROUP_M
    group = tl.minimum(grid_m - first_m, GROUP_M)
    return first_m + (pid % width) % group, (pid % width) // group


@triton.jit
def round_to_int8(x):
    """Round float32 half to even: adding 1.5 · 2²³ leaves no bits for a fraction."""
    return ((x + ROUND_MAGIC) - ROUND_MAGIC).to(tl.int8)


@triton.jit
def quantize_rowwise_kernel(
    x_ptr, q_ptr, absmax_ptr, M, K, stride_xm, stride_xk,
    BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    rm = (tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    rows = rm[:, None] < M
    highest = tl.zeros((BLOCK_M,), dtype=tl.float32)
    has_nan = tl.zeros((BLOCK_M,), dtype=tl.int32)
    for start in range(0, K, BLOCK_K):
        rk = start + tl.arange(0, BLOCK_K)
        mask = rows & (rk[None, :] < K)
        x = tl.load(x_ptr + rm[:, None] * stride_xm + rk[None, :] * stride_xk, mask=mask, other=0.0)
        x = x.to(tl.float32)
        highest = tl.maximum(highest, tl.max(tl.abs(x), axis=1))
        has_nan = tl.maximum(has_nan, tl.max((x != x).to(tl.int32), axis=1))
    absmax = tl.where(has_nan == 1, float("nan"), tl.maximum(highest, TINY))
    tl.store(absmax_ptr + rm, absmax, mask=rm < M)
    scale = tl.div_rn(tl.full((BLOCK_M,), 127.0, tl.float32), absmax)
    for start in range(0, K, BLOCK_K):
        rk = start + tl.arange(0, BLOCK_K)
        mask = rows & (rk[None, :] < K)
        x = tl.load(x_ptr + rm[:, None] * stride_xm + rk[None, :] * stride_xk, mask=mask, other=0.0)
        q = round_to_int8(x.to(tl.float32) * scale[:, None])
        tl.store(q_ptr + rm[:, None] * K + rk[None, :], q, mask=mask)


@triton.jit
def quantize_whole_rows_kernel(
    x_ptr, q_ptr, absmax_ptr, K, stride_xm, stride_xk, BLOCK_K: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    rk = tl.arange(0, BLOCK_K)
    mask = rk < K
    x = tl.load(x_ptr + row * stride_xm + rk * stride_xk, mask=mask, other=0.0).to(tl.float32)
    has_nan = tl.max((x != x).to(tl.int32), axis=0)
    absmax = tl.where(has_nan == 1, float("nan"), tl.maximum(tl.max(tl.abs(x), axis=0), TINY))
    tl.store(absmax_ptr + row, absmax)
    q = round_to_int8(x * tl.div_rn(127.0, absmax))
    tl.store(q_ptr + row * K + rk, q, mask=mask)


@triton.jit
def quantize_tiles_kernel(
    x_ptr, absmax_ptr, q_ptr, M, K, stride_xm, stride_xk, stride_qm, stride_qk,
    PER_COLUMN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    pid_m, pid_k = tile_order(tl.cdiv(M, BLOCK_M), tl.cdiv(K, BLOCK_K), GROUP_M)
    rm = (pid_m * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    rk = (pid_k * BLOCK_K + tl.arange(0, BLOCK_K)).to(tl.int64)
    mask = (rm[:, None] < M) & (rk[None, :] < K)
    x = tl.load(x_ptr + rm[:, None] * stride_xm + rk[None, :] * stride_xk, mask=mask, other=0.0)
    if PER_COLUMN:
        absmax = tl.load(absmax_ptr + rk, mask=rk < K, other=1.0)
        scale = tl.div_rn(tl.full((BLOCK_K,), 127.0, tl.float32), absmax)[None, :]
    else:
        absmax = tl.load(absmax_ptr + tl.zeros((1,), tl.int32))
        scale = tl.div_rn(tl.full((1,), 127.0, tl.float32), absmax)[None, :]
    q = round_to_int8(x.to(tl.float32) * scale)
    tl.store(q_ptr + rm[:, None] * stride_qm + rk[None, :] * stride_qk, q, mask=mask)


@triton.jit
def scaled_int8_mm_kernel(
    a_ptr, b_ptr, c_ptr, a_absmax_ptr, b_absmax_ptr, bias_ptr, M, N, K,
    B_PER_ROW: tl.constexpr, HAS_BIAS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    pid_m, pid_n = tile_order(tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N), GROUP_M)
    rm = (pid_m * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    rn = (pid_n * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    rk = tl.arange(0, BLOCK_K)
    a_ptrs = a_ptr + rm[:, None] * K + rk[None, :]
    b_ptrs = b_ptr + rn[None, :] * K + rk[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int32)
    for start in range(0, K, BLOCK_K):
        inside = rk < K - start
        a = tl.load(a_ptrs, mask=(rm[:, None] < M) & inside[None, :], other=0)
        b = tl.load(b_ptrs, mask=(rn[None, :] < N) & inside[:, None], other=0)
        total = tl.dot(a, b, total, out_dtype=tl.int32)
        a_ptrs += BLOCK_K
        b_ptrs += BLOCK_K
    a_scale = tl.load(a_absmax_ptr + rm, mask=rm < M, other=0.0) * (1.0 / 16129)
    if B_PER_ROW:
        b_scale = tl.load(b_absmax_ptr + rn, mask=rn < N, other=0.0)[None, :]
    else:
        b_scale = tl.load(b_absmax_ptr + tl.zeros((1,), tl.int32))[None, :]
    y = total.to(tl.float32) * a_scale[:, None] * b_scale
    if HAS_BIAS:
        y += tl.load(bias_ptr + rn, mask=rn < N, other=0.0).to(tl.float32)[None, :]
    mask = (rm[:, None] < M) & (rn[None, :] < N)
    tl.store(c_ptr + rm[:, None] * N + rn[None, :], y.to(c_ptr.dtype.element_ty), mask=mask)


@triton.jit
def dequantize_rowwise_kernel(
    q_ptr, absmax_ptr, x_ptr, M, K, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr
):
    rm = (tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    rk = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    mask = (rm[:, None] < M) & (rk[None, :] < K)
    q = tl.load(q_ptr + rm[:, None] * K + rk[None, :], mask=mask, other=0)
    scale = tl.load(absmax_ptr + rm, mask=rm < M, other=0.0) * (1.0 / 127)
    x = q.to(tl.float32) * scale[:, None]
    tl.store(x_ptr + rm[:, None] * K + rk[None, :], x.to(x_ptr.dtype.element_ty), mask=mask)


ROWWISE = {"BLOCK_M": 4, "BLOCK_K": 1024}
LEAST_WHOLE_ROW, MOST_WHOLE_ROW = 1025, 16384
"""Widths of rows that one program holds in registers; a narrower row leaves most of it idle."""
TILES = {"BLOCK_M": 64, "BLOCK_K": 64, "GROUP_M": 8}
# Tile, warps, stages. Each fits the shared memory of every generation from sm_80 to sm_90 and
# keeps its sums in registers; `tests/switchback/test_triton_compile.py` holds them to that.
MATMULS = (
    ({"BLOCK_M": 128, "BLOCK_N": 256, "BLOCK_K": 64, "GROUP_M": 8}, 8, 3),
    ({"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 128, "GROUP_M": 8}, 8, 3),
    ({"BLOCK_M": 128, "BLOCK_N": 64, "BLOCK_K": 128, "GROUP_M": 8}, 4, 3),
    ({"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 128, "GROUP_M": 8}, 4, 4),
)
EXACT = {"enable_fp_fusion": False}
"""A launch option: never fuse a product and a sum, so that rounding happens where it is written."""

scaled_int8_mm_tuned = triton.autotune(
    configs=[triton.Config(b, num_warps=warps, num_stages=stages) for b, warps, stages in MATMULS],
    key=["M", "N", "K"],
)(scaled_int8_mm_kernel)


def quantize_rowwise(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise each row of x [M, K]: int8 [M, K] and absmax float32 [M]. Any strides."""
    M, K = x.shape
    q = torch.empty((M, K), dtype=torch.int8, device=x.device)
    absmax = torch.empty(M, dtype=torch.float32, device=x.device)
    if M:
        if LEAST_WHOLE_ROW <= K <= MOST_WHOLE_ROW and x.stride(1) == 1:
            block = triton.next_power_of_2(K)
            quantize_whole_rows_kernel[(M,)](
                x, q, absmax, K, *x.stride(), BLOCK_K=block, num_warps=4 if block <= 8192 else 8,
                **EXACT,
            )  # fmt: skip
            return q, absmax
        grid = (triton.cdiv(M, ROWWISE["BLOCK_M"]),)
        quantize_rowwise_kernel[grid](x, q, absmax, M, K, *x.stride(), **ROWWISE, **EXACT)
    return q, absmax


def quantize_columnwise_and_transpose(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise each column of x [M, K] and transpose: int8 [K, M] and absmax float32 [K]."""
    absmax = _absmax(x, dim=0)
    return _quantize_tiles(x, absmax, transpose=True), absmax


def quantize_global(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise x [M, K] by one absmax: int8 [M, K] and absmax float32 []."""
    absmax = _absmax(x)
    return _quantize_tiles(x, absmax, transpose=False), absmax


def quantize_global_transpose(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise x [M, K] by one absmax and transpose: int8 [K, M] and absmax float32 []."""
    absmax = _absmax(x)
    return _quantize_tiles(x, absmax, transpose=True), absmax


def scaled_int8_mm(
    a: Tensor,
    b: Tensor,
    a_absmax: Tensor,
    b_absmax: Tensor,
    bias: Tensor | None = None,
    out_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Multiply a [M, K] by bᵀ, b [N, K], scale, add the bias once: out_dtype [M, N]."""
    # Zeros add nothing to the sums, and with K a multiple of 16 a thread loads 16 bytes at once:
    # with an odd K the compiler has to address every byte, and the addresses spill.
    padding = -a.shape[1] % 16
    if padding:
        a, b = (torch.nn.functional.pad(t, (0, padding)) for t in (a, b))
    a, b = a.contiguous(), b.contiguous()
    (M, K), N = a.shape, b.shape[0]
    c = torch.empty((M, N), dtype=out_dtype, device=a.device)
    if c.numel() == 0:
        return c
    tensors = (a, b, c, a_absmax.contiguous(), b_absmax.contiguous())
    if not INTERPRETED and triton_hopper.serves(a, b):
        added = None if bias is None else bias.contiguous()
        return triton_hopper.scaled_int8_mm(*tensors, added)
    bias = c if bias is None else bias.contiguous()  # never read without HAS_BIAS
    flags = {"B_PER_ROW": b_absmax.dim() == 1, "HAS_BIAS": bias is not c}
    if INTERPRETED:
        block = {"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_K": 64, "GROUP_M": 2}
        grid = (triton.cdiv(M, 32) * triton.cdiv(N, 32),)
        scaled_int8_mm_kernel[grid](*tensors, bias, M, N, K, **flags, **block)
    else:
        scaled_int8_mm_tuned[
            lambda meta: (triton.cdiv(M, meta["BLOCK_M"]) * triton.cdiv(N, meta["BLOCK_N"]),)
        ](*tensors, bias, M, N, K, **flags)
    return c


def dequantize_rowwise(q: Tensor, absmax: Tensor, out_dtype: torch.dtype = torch.float32) -> Tensor:
    """Scale q [M, K] int8 with absmax float32 [M] back to out_dtype [M, K]."""
    q = q.contiguous()
    M, K = q.shape
    x = torch.empty((M, K), dtype=out_dtype, device=q.device)
    if M:
        grid = (triton.cdiv(M, TILES["BLOCK_M"]), triton.cdiv(K, TILES["BLOCK_K"]))
        dequantize_rowwise_kernel[grid](
            q, absmax, x, M, K, BLOCK_M=TILES["BLOCK_M"], BLOCK_K=TILES["BLOCK_K"]
        )
    return x


def _absmax(x: Tensor, dim: int | None = None) -> Tensor:
    # The infinity norm is max |x| in one pass, without a copy of |x|, and it keeps a NaN.
    return torch.linalg.vector_norm(x, float("inf"), dim=dim).float().clamp_min(reference.TINY)


def _quantize_tiles(x: Tensor, absmax: Tensor, *, transpose: bool) -> Tensor:
    M, K = x.shape
    q = torch.empty((K, M) if transpose else (M, K), dtype=torch.int8, device=x.device)
    stride_q = (1, M) if transpose else (K, 1)
    if q.numel():
        grid = (triton.cdiv(M, TILES["BLOCK_M"]) * triton.cdiv(K, TILES["BLOCK_K"]),)
        quantize_tiles_kernel[grid](
            x, absmax, q, M, K, *x.stride(), *stride_q, PER_COLUMN=absmax.dim() == 1,
            **TILES, **EXACT,
        )  # fmt: skip
    return q
