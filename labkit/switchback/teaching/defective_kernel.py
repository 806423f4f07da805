"""TEACHING MATERIAL: defect 5 of `defects.py`, a Triton kernel with a mistake. Do not use it.

The last lines of an int8 matrix product: int32 sums [M, N] are scaled per row and get a bias [N].
`defect_5_accesses` and `sound_accesses` run kernels at shapes that are no multiple of a tile; they
are called under the interpreter, with every memory access watched.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import torch
import triton
import triton.language as tl

from labkit.switchback import triton_kernels


@triton.jit
def defect_5(total_ptr, scale_ptr, bias_ptr, y_ptr, M, N,
             BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):  # fmt: skip
    rm = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    rn = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = (rm[:, None] < M) & (rn[None, :] < N)
    total = tl.load(total_ptr + rm[:, None] * N + rn[None, :], mask=mask, other=0)
    scale = tl.load(scale_ptr + rm, mask=rm < M, other=0.0)
    y = total.to(tl.float32) * scale[:, None]
    y = y + tl.load(bias_ptr + rn)[None, :]
    tl.store(y_ptr + rm[:, None] * N + rn[None, :], y, mask=mask)


def defect_5_accesses() -> None:
    """Run the defective kernel on 5 × 33 sums, in tiles of 16 × 32."""
    total, y = torch.ones(5, 33, dtype=torch.int32), torch.empty(5, 33)
    defect_5[(1, 2)](total, torch.ones(5), torch.ones(33), y, 5, 33, BLOCK_M=16, BLOCK_N=32)
    assert y.eq(2).all(), "and yet every number it stores is right"


def sound_accesses() -> None:
    """Run labkit's product with a bias at the same awkward shape."""
    a, b = torch.ones(5, 19, dtype=torch.int8), torch.ones(33, 19, dtype=torch.int8)
    triton_kernels.scaled_int8_mm(a, b, torch.ones(5), torch.ones(33), torch.ones(33))
