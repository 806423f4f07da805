"""Multiply in int8 on GPUs that copy whole tiles by themselves: Hopper and later.

`triton_kernels.scaled_int8_mm_kernel` computes an address and a mask for every element it loads,
and a program ends with its tile. From compute capability 9.0 on both can be had cheaper:

- A *tensor descriptor* names a matrix once; the copy engine (TMA) then fetches a tile of it into
  shared memory, zeros past the edges, and no thread spends registers on addresses.
- A *persistent* kernel starts as many programs as there are multiprocessors, and each works through
  tiles in turn, so the loads of the next tile begin while this one is scaled and stored. The
  result is handed to the copy engine too, in two halves, which leaves room for another stage.

The integers and the arithmetic around them are the same, so results are, bit for bit.

Source: NVIDIA, "CUDA C++ Programming Guide", section on asynchronous data copies with the Tensor
Memory Accelerator. Shapes as in `triton_kernels`: M rows, K inner dimension, N output features.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

LEAST = 128
"""Rows and output features below which a tile would be mostly empty."""


@triton.jit
def persistent_int8_mm_kernel(
    a_desc, b_desc, c_desc, c_ptr, a_absmax_ptr, b_absmax_ptr, bias_ptr, M, N, K, PROGRAMS,
    B_PER_ROW: tl.constexpr, HAS_BIAS: tl.constexpr, STORE_TILES: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    grid_m, grid_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    width = GROUP_M * grid_n
    for tile in tl.range(tl.program_id(0), grid_m * grid_n, PROGRAMS, flatten=True):
        # GROUP_M tile rows at a time, so that neighbours share L2.
        first_m = (tile // width) * GROUP_M
        group = tl.minimum(grid_m - first_m, GROUP_M)
        start_m = (first_m + (tile % width) % group) * BLOCK_M
        start_n = ((tile % width) // group) * BLOCK_N
        total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int32)
        for step in range(tl.cdiv(K, BLOCK_K)):
            a = a_desc.load([start_m, step * BLOCK_K])
            b = b_desc.load([start_n, step * BLOCK_K])
            total = tl.dot(a, b.T, total, out_dtype=tl.int32)
        rm = (start_m + tl.arange(0, BLOCK_M)).to(tl.int64)
        rn = start_n + tl.arange(0, BLOCK_N)
        a_scale = tl.load(a_absmax_ptr + rm, mask=rm < M, other=0.0) * (1.0 / 16129)
        if B_PER_ROW:
            b_scale = tl.load(b_absmax_ptr + rn, mask=rn < N, other=0.0)[None, :]
        else:
            b_scale = tl.load(b_absmax_ptr + tl.zeros((1,), tl.int32))[None, :]
        y = total.to(tl.float32) * a_scale[:, None] * b_scale
        if HAS_BIAS:
            y += tl.load(bias_ptr + rn, mask=rn < N, other=0.0).to(tl.float32)[None, :]
        y = y.to(c_ptr.dtype.element_ty)
        if STORE_TILES:
            halves = tl.permute(tl.reshape(y, (BLOCK_M, 2, BLOCK_N // 2)), (0, 2, 1))
            left, right = tl.split(halves)
            c_desc.store([start_m, start_n], left)
            c_desc.store([start_m, start_n + BLOCK_N // 2], right)
        else:
            mask = (rm[:, None] < M) & (rn[None, :] < N)
            tl.store(c_ptr + rm[:, None] * N + rn[None, :], y, mask=mask)


TILES = (
    ({"BLOCK_M": 128, "BLOCK_N": 256, "BLOCK_K": 128, "GROUP_M": 8}, 8, 4),
    ({"BLOCK_M": 128, "BLOCK_N": 256, "BLOCK_K": 128, "GROUP_M": 4}, 8, 4),
    ({"BLOCK_M": 128, "BLOCK_N": 256, "BLOCK_K": 128, "GROUP_M": 4}, 8, 3),
    ({"BLOCK_M": 256, "BLOCK_N": 128, "BLOCK_K": 128, "GROUP_M": 8}, 8, 3),
    ({"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 128, "GROUP_M": 8}, 8, 4),
)
"""Tile, warps, stages: what the first product of a shape tries."""


def _set_blocks(arguments: dict) -> None:
    arguments["a_desc"].block_shape = [arguments["BLOCK_M"], arguments["BLOCK_K"]]
    arguments["b_desc"].block_shape = [arguments["BLOCK_N"], arguments["BLOCK_K"]]
    if arguments["STORE_TILES"]:
        arguments["c_desc"].block_shape = [arguments["BLOCK_M"], arguments["BLOCK_N"] // 2]


persistent_int8_mm_tuned = triton.autotune(
    configs=[
        triton.Config(block, num_warps=warps, num_stages=stages, pre_hook=_set_blocks)
        for block, warps, stages in TILES
    ],
    key=["M", "N", "K", "STORE_TILES"],
)(persistent_int8_mm_kernel)


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Return how many multiprocessors a CUDA device has, or 0 where it cannot copy tiles."""
    properties = torch.cuda.get_device_properties(device)
    return properties.multi_processor_count if properties.major >= 9 else 0


def serves(a: Tensor, b: Tensor) -> bool:
    """Say whether int8 a [M, K] and b [N, K] are for this kernel: a large matmul, on Hopper up."""
    large = min(a.shape[0], b.shape[0]) >= LEAST and a.shape[1] % 16 == 0
    return large and a.is_cuda and multiprocessors(a.device) > 0


def scaled_int8_mm(
    a: Tensor, b: Tensor, c: Tensor, a_absmax: Tensor, b_absmax: Tensor, bias: Tensor | None
) -> Tensor:
    """Multiply contiguous int8 a [M, K] by bᵀ, b [N, K], scale, add the bias, into c [M, N]."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    (M, K), N = a.shape, b.shape[0]
    programs = multiprocessors(a.device)

    def grid(meta):
        tiles = triton.cdiv(M, meta["BLOCK_M"]) * triton.cdiv(N, meta["BLOCK_N"])
        return (min(programs, tiles),)

    # The block shapes are set when a tile is chosen. Rows must begin at multiples of 16 bytes.
    a_desc, b_desc = (TensorDescriptor.from_tensor(t, [1, 16]) for t in (a, b))
    stores_tiles = N * c.element_size() % 16 == 0
    c_desc = TensorDescriptor.from_tensor(c, [1, 16]) if stores_tiles else a_desc  # never used
    persistent_int8_mm_tuned[grid](
        a_desc, b_desc, c_desc, c, a_absmax, b_absmax, c if bias is None else bias, M, N, K,
        programs, B_PER_ROW=b_absmax.dim() == 1, HAS_BIAS=bias is not None,
        STORE_TILES=stores_tiles,
    )  # fmt: skip
    return c
