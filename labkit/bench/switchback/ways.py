"""Build every way to compute a linear layer without int8: the baselines SwitchBack has to beat.

The opponent of a size is the fastest of all of them on this machine, found by trying:

    eager, compiled, prepacked         in bfloat16: nn.Linear as it is; under torch.compile; with W
                                       and Wᵀ in the layout that oneDNN's kernels read
    … with dW on tiles                 the same, with the weight gradient that
                                       `weight_gradient="tiles"` gives SwitchBack: what that
                                       matmul is worth has nothing to do with int8
    float32, float32 compiled, …       the same in float32, prepacked by oneDNN or by MKL

A packed weight is made once where it is frozen, and at every step where it is trained (the kernels
that int8 gets do no less).

A processor without bfloat16 instructions emulates them, at a tenth of float32's rate or less.
`slowness` tries a step's products in each type, and what is several times as slow as the other is
not tried further.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from labkit.machine import compiled_code
from labkit.switchback import cpu

TILES = "eager, dW on tiles"
SLOW, HOPELESS = 2.5, 6.0
"""From here a type cannot win and is timed once, for information; from here it isn't timed."""
PROBE_TOKENS, PROBE_SECONDS = (8, 128), 2.0


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way: the type of numbers, and what is done with `nn.Linear`."""

    dtype: torch.dtype = torch.bfloat16
    compiled: bool = False
    packed_by: str = ""
    """onednn or mkl"""
    tiles: bool = False


WAYS: dict[str, Way] = {
    "eager": Way(),
    "compiled": Way(compiled=True),
    "prepacked": Way(packed_by="onednn"),
    TILES: Way(tiles=True),
    "prepacked, dW on tiles": Way(packed_by="onednn", tiles=True),
    "float32": Way(dtype=torch.float32),
    "float32 compiled": Way(dtype=torch.float32, compiled=True),
    "float32 prepacked": Way(dtype=torch.float32, packed_by="onednn"),
    "float32 prepacked by MKL": Way(dtype=torch.float32, packed_by="mkl"),
}
"""Name in tables and JSON -> how; "eager" to "float32" are the names that older records have."""


def candidates(
    mode: str, weight_gradient: str, slow: dict[torch.dtype, float], device: torch.device
) -> tuple[list[str], dict[str, str]]:
    """Return the ways that are worth trying for a mode, and {way: why} for those left out.

    `slow` is what `slowness` returned. Tiles are for a trained weight, and only if SwitchBack has
    them. Of a slow type the eager way stays, for information.
    """
    tried, left_out = [], {}
    for name, way in WAYS.items():
        factor = slow[way.dtype]
        plain = not (way.compiled or way.packed_by or way.tiles)
        if way.tiles and not (mode == "full" and weight_gradient == "tiles" and cpu.tiles()):
            continue
        if factor >= HOPELESS or (factor >= SLOW and not plain):
            left_out[name] = f"its type takes {factor:.1f} times as long for a product here"
        elif way.packed_by and not can_prepack(way.packed_by, way.dtype, device):
            left_out[name] = f"{way.packed_by} has no kernel for it here"
        else:
            tried.append(name)
    return tried, left_out


def slowness(case: dict[str, Any], device: torch.device) -> dict[torch.dtype, float]:
    """Time a step's products of this width in both types; return each type's over the fastest's.

    All three, and each by itself: on a processor without units for a type some layouts of matrices
    have a kernel that imitates it, and others a loop that takes hundreds of times as long. A few
    tokens show that, and then it is not tried with more.
    """
    for tokens in PROBE_TOKENS:
        seconds = {
            dtype: sum(_seconds(product, device) for product in _products(
                case, dtype, device, tokens=min(tokens, case["tokens"])))
            for dtype in (torch.float32, torch.bfloat16)
        }  # fmt: skip
        fastest = min(seconds.values())
        found = {dtype: taken / fastest for dtype, taken in seconds.items()}
        if max(found.values()) >= 5 * HOPELESS:
            break
    return found


def _products(
    case: dict[str, Any], dtype: torch.dtype, device: torch.device, *, tokens: int
) -> list[Callable[[], Tensor]]:
    """Return the products for Y, for dX, and for dW of a weight that is trained."""
    options: dict[str, Any] = {"dtype": dtype, "device": device}
    x = torch.ones(tokens, case["in_features"], **options)
    g = torch.ones(tokens, case["out_features"], **options)
    w = torch.ones(case["out_features"], case["in_features"], **options)
    of_weight = [] if case.get("mode") == "frozen" else [lambda: g.t() @ x]
    return [lambda: x @ w.t(), lambda: g @ w, *of_weight]


def _seconds(product: Callable[[], object], device: torch.device) -> float:
    """Return the least time of a few calls, the first aside; of the first where it takes long."""
    taken: list[float] = []
    while len(taken) < 4 and sum(taken) < PROBE_SECONDS:
        start = time.perf_counter()
        product()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return min(taken[1:] or taken)


def can_prepack(by: str, dtype: torch.dtype, device: torch.device) -> bool:
    """Say whether a library has a kernel for packed weights of `dtype` on this processor."""
    if device.type != "cpu":
        return False
    w = torch.ones(16, 16, dtype=dtype)
    try:
        _linear(w, w, _pack(w, 16, by), by)
    except (RuntimeError, AttributeError):  # no such kernel; a build of torch without the library
        return False
    return True


def _pack(w: Tensor, tokens: int, by: str) -> Tensor:
    if by == "mkl":
        return torch.ops.mkl._mkl_reorder_linear_weight(w, tokens)
    return torch.ops.mkldnn._reorder_linear_weight(w, tokens)


def _linear(x: Tensor, w: Tensor, packed: Tensor, by: str) -> Tensor:
    """Multiply x [M, K] by the transpose of w [N, K], which lies packed beside it."""
    if by == "mkl":
        return torch.ops.mkl._mkl_linear(x, packed, w, None, x.shape[0])
    return torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


def _weight_gradient(g: Tensor, x: Tensor, w: Tensor, tiles: bool) -> Tensor:
    return cpu.weight_gradient(g, x, w.dtype) if tiles else (g.t() @ x).to(w.dtype)


class _Prepacked(torch.autograd.Function):
    """A matmul with W [N, K] and Wᵀ packed for the matrix units of a CPU."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, packed: Tensor, back: tuple[Tensor, Tensor] | None,
        by: str, tiles: bool,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, w)
        ctx.back, ctx.by, ctx.tiles = back, by, tiles
        return _linear(x, w, packed, by)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        wt, packed = ctx.back or _transposed(w.detach(), g.shape[0], ctx.by)
        dx = _linear(g, wt, packed, ctx.by)
        dw = _weight_gradient(g, x, w, ctx.tiles) if ctx.needs_input_grad[1] else None
        return dx, dw, None, None, None, None


def _transposed(w: Tensor, tokens: int, by: str) -> tuple[Tensor, Tensor]:
    wt = w.t().contiguous()
    return wt, _pack(wt, tokens, by)


class PrepackedLinear(nn.Module):
    """`nn.Linear` without a bias on packed weights; packs at every step unless it is frozen."""

    def __init__(
        self, linear: nn.Linear, tokens: int, *, by: str = "onednn", tiles: bool = False
    ) -> None:
        super().__init__()
        self.weight, self.tokens, self.by, self.tiles = linear.weight, tokens, by, tiles
        self.packed: tuple[Tensor, tuple[Tensor, Tensor]] | None = None
        if not self.weight.requires_grad:
            w = self.weight.detach()
            self.packed = _pack(w, tokens, by), _transposed(w, tokens, by)

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight.detach()
        packed, back = self.packed or (_pack(w, self.tokens, self.by), None)
        return _Prepacked.apply(x, self.weight, packed, back, self.by, self.tiles)


class _TileGradient(torch.autograd.Function):
    """A 16-bit linear layer whose weight gradient is SwitchBack's own, on bfloat16 tiles."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        w16 = w.to(x.dtype)
        ctx.save_for_backward(x, w16)
        ctx.dtype = w.dtype
        return x @ w16.t()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, w16 = ctx.saved_tensors
        return g @ w16, cpu.weight_gradient(g, x, ctx.dtype)


class TileGradientLinear(nn.Module):
    """`nn.Linear` without a bias and with `_TileGradient`: what of a ratio is not int8's doing.

    Under autocast it computes in autocast's type, from weights of another, as `nn.Linear` does.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        y = _TileGradient.apply(x.reshape(-1, x.shape[-1]), self.weight)
        return y.view(*x.shape[:-1], self.weight.shape[0])


def layer(name: str, linear: nn.Linear, tokens: int) -> nn.Module:
    """Return `linear` (without a bias, of the way's type) as the way called `name` computes it."""
    way = WAYS[name]
    if way.packed_by:
        return PrepackedLinear(linear, tokens, by=way.packed_by, tiles=way.tiles)
    if way.tiles:
        return TileGradientLinear(linear)
    if way.compiled:
        compiled_code.keep_apart()
        compiled: Any = torch.compile(linear)
        return compiled
    return linear
