"""A linear layer's whole training step, and its parts apart.

A step is what training does to one layer: Y = X·Wᵀ, then from the gradient G the products dX = G·W
and, unless the weight is frozen, dW = Gᵀ·X; for SwitchBack with all quantising it takes. Layers
have no bias, as in Llama. Between steps a trained weight changes, outside the measured time, so
that no way can keep a copy of it in another layout.

int8 is compared with the *fastest* 16-bit way on this machine and at this size, found by trying:

    eager      nn.Linear as it is
    compiled   the same under torch.compile
    prepacked  W and Wᵀ in the layout the matrix units want: once where the weight is frozen, at
               every step where it is trained (the kernels that int8 gets do no less)

Two more are measured for information and never the baseline: float32, and 16 bit with the weight
gradient that `weight_gradient="tiles"` gives SwitchBack. The second shows how much of a ratio is
int8's and how much that other product's, which has nothing to do with int8.

Source of the shapes: TinyLlama-1.1B, whose layers multiply 2048→2048 (q, o), 2048→256 (k, v),
2048→5632 (gate, up) and 5632→2048 (down). Parts are named as in data/switchback_published.json.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from labkit.bench.harness import BASELINE, CONTROL, Plan, Run, alternate, time_run
from labkit.switchback import SwitchBackLinear, backends, cpu

SCALES = ("row", "tensor")
TILES = "eager, dW on tiles"
DTYPE = torch.bfloat16
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CALIBRATION = Plan(pairs=4, warmup=1, steps=2, run_seconds=0.03, max_steps=10)

Step = Callable[[], object]


class _Prepacked(torch.autograd.Function):
    """A 16-bit product with W [N, K] and Wᵀ packed for the matrix units of a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, packed: Tensor, packed_t: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, w, packed_t)
        return torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, w, packed_t = ctx.saved_tensors
        if packed_t is None:
            packed_t = _pack(w.detach().t().contiguous(), g.shape[0])
        dx = torch.ops.mkldnn._linear_pointwise(g, packed_t, None, "none", [], "")
        return dx, g.t() @ x if ctx.needs_input_grad[1] else None, None, None


def _pack(w: Tensor, tokens: int) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(w, tokens)


class _TileGradient(torch.autograd.Function):
    """A 16-bit linear layer whose weight gradient is SwitchBack's own, on bfloat16 tiles."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x @ w.t()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        return g @ w, cpu.weight_gradient(g, x, DTYPE)


class TileGradientLinear(nn.Module):
    """`nn.Linear` without a bias and with `_TileGradient`: what of a ratio is not int8's doing."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight

    def forward(self, x: Tensor) -> Tensor:
        return _TileGradient.apply(x, self.weight)


class PrepackedLinear(nn.Module):
    """`nn.Linear` without a bias on packed weights; packs at every step unless it is frozen."""

    def __init__(self, linear: nn.Linear, tokens: int) -> None:
        super().__init__()
        self.weight, self.tokens = linear.weight, tokens
        self.packed: tuple[Tensor, Tensor] | None = None
        if not self.weight.requires_grad:
            w = self.weight.detach()
            self.packed = _pack(w, tokens), _pack(w.t().contiguous(), tokens)

    def forward(self, x: Tensor) -> Tensor:
        packed, packed_t = self.packed or (_pack(self.weight.detach(), self.tokens), None)
        return _Prepacked.apply(x, self.weight, packed, packed_t)


def build(
    kind: str, case: dict[str, Any], *, backend: str = "auto", weight_gradient: str = "torch"
) -> tuple[Step, Step]:
    """Build one arm: `kind` is one of the ways in 16 bit, float32, or SwitchBack's row or tensor.

    Returns the step, and what has to happen before each.
    """
    torch.manual_seed(0)
    tokens, width, out = case["tokens"], case["in_features"], case["out_features"]
    dtype = torch.float32 if kind == "float32" else DTYPE
    options: dict[str, Any] = {"bias": False, "device": DEVICE, "dtype": dtype}
    layer: nn.Module
    if kind in SCALES:
        options |= {"backend": backend, "weight_gradient": weight_gradient}
        layer = SwitchBackLinear(width, out, weight_scale=kind, **options)
    else:
        layer = nn.Linear(width, out, **options)
    weight: Any = layer.weight
    if case["mode"] == "frozen":
        weight.requires_grad_(False)
        if isinstance(layer, SwitchBackLinear):
            layer.freeze()
    if kind == "prepacked":
        layer = PrepackedLinear(layer, tokens)
    elif kind == TILES:
        layer = TileGradientLinear(layer)
    run = torch.compile(layer) if kind == "compiled" else layer
    x = torch.randn(tokens, width, device=DEVICE, dtype=dtype).requires_grad_()
    g = torch.randn(tokens, out, device=DEVICE, dtype=dtype)

    def step() -> None:
        x.grad = weight.grad = None
        run(x).backward(g)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    def before() -> None:
        if weight.requires_grad:
            with torch.no_grad():
                weight.mul_(1.0)  # a new version with the same values

    return step, before


def _runner(arm: tuple[Step, Step], plan: Plan) -> Callable[[], dict[str, list[float]]]:
    return lambda: time_run(arm[0], plan, before=arm[1])


def _medians(runs: list[Run]) -> dict[str, float]:
    arms = dict.fromkeys(run["arm"] for run in runs)
    return {arm: median(r["median"] for r in runs if r["arm"] == arm) for arm in arms}


def measure_baselines(
    case: dict[str, Any], backend: str = "auto", weight_gradient: str = "torch"
) -> dict[str, Any]:
    """Find the fastest 16-bit way for one size and mode, by trying each.

    `case` holds tokens, in_features, out_features, mode. Returns baseline (the name of that way),
    baselines {way: seconds} and backend (the name of SwitchBack's). Raises LabkitError for a
    backend that is not there.
    """
    SwitchBackLinear(1, 1, backend=backend)  # builds what the backend needs
    kinds = ["eager", "compiled", "float32"]
    if DEVICE.type == "cpu" and torch.backends.mkldnn.is_available():
        kinds.append("prepacked")
    if case["mode"] == "full" and weight_gradient == "tiles" and cpu.tiles():
        kinds.append(TILES)
    arms = {kind: build(kind, case) for kind in kinds}
    # For information, and four times as slow as the rest.
    once = replace(CALIBRATION, warmup=0, steps=1)
    tried = alternate(
        {k: _runner(a, once if k == "float32" else CALIBRATION) for k, a in arms.items()},
        CALIBRATION.pairs,
    )
    seconds = _medians(tried)
    ways = [kind for kind in kinds if kind not in (TILES, "float32")]
    return {
        "baseline": min(ways, key=lambda kind: seconds[kind]),
        "baselines": seconds,
        "backend": backends.choose(backend, DEVICE, DTYPE).NAME,
    }


def measure_round(
    case: dict[str, Any], plan: Plan, kinds: list[str], backend: str = "auto",
    weight_gradient: str = "torch",
) -> list[dict[str, list[float]]]:  # fmt: skip
    """Time ways to do one step, one after the other; return what `time_run` does for each."""
    arms = [
        build(kind, case, **({"backend": backend, "weight_gradient": weight_gradient}
                             if kind in SCALES else {}))
        for kind in kinds
    ]  # fmt: skip
    return [_runner(arm, plan)() for arm in arms]


def parts(case: dict[str, Any], backend: str) -> dict[str, Step]:
    """Return every part of a step as a function of its own, by name.

    bf16_y, bf16_dx, bf16_dw are the 16-bit products; quantize_x, quantize_g and quantize_w… what
    SwitchBack quantises (wt: for dX); int8_y and int8_dx the products with their scaling, and
    integers_y the sums alone, so that int8_y - integers_y is what scaling back costs. Where a
    backend orders weights for its matrix unit, pack_w… does so (quantising included) and packed_y
    and packed_dx multiply by what it made.
    """
    torch.manual_seed(0)
    tokens, width, out = case["tokens"], case["in_features"], case["out_features"]
    SwitchBackLinear(1, 1, backend=backend)  # builds what the backend needs
    ops: Any = backends.choose(backend, DEVICE, DTYPE)
    x, g = (torch.randn(tokens, n, dtype=DTYPE, device=DEVICE) for n in (width, out))
    w = torch.randn(out, width, dtype=DTYPE, device=DEVICE)
    (x8, xs), (g8, gs) = ops.quantize_rowwise(x), ops.quantize_rowwise(g)
    (w8, ws), (wt8, wts) = ops.quantize_rowwise(w), ops.quantize_columnwise_and_transpose(w)
    found: dict[str, Step] = {
        "bf16_y": lambda: x @ w.t(),
        "bf16_dx": lambda: g @ w,
        "bf16_dw": lambda: g.t() @ x,
        **({"tiles_dw": lambda: cpu.weight_gradient(g, x, DTYPE)} if cpu.tiles() else {}),
        "quantize_x": lambda: ops.quantize_rowwise(x),
        "quantize_g": lambda: ops.quantize_rowwise(g),
        "quantize_w_row": lambda: ops.quantize_rowwise(w),
        "quantize_wt_row": lambda: ops.quantize_columnwise_and_transpose(w),
        "quantize_w_tensor": lambda: ops.quantize_global(w),
        "quantize_wt_tensor": lambda: ops.quantize_global_transpose(w),
        "integers_y": lambda: ops.int8_mm(x8, w8),
        "int8_y": lambda: ops.scaled_int8_mm(x8, w8, xs, ws, None, DTYPE),
        "int8_dx": lambda: ops.scaled_int8_mm(g8, wt8, gs, wts, None, DTYPE),
    }
    if hasattr(ops, "packed_mm"):
        pack = partial(_packed, w, ops)
        (p, ps), (pt, pts) = pack("row", transpose=False), pack("row", transpose=True)
        for scale in SCALES:
            found[f"pack_w_{scale}"] = partial(pack, scale, transpose=False)
            found[f"pack_wt_{scale}"] = partial(pack, scale, transpose=True)
        found["packed_y"] = lambda: ops.packed_mm(x8, p, xs, ps, None, out, DTYPE)
        found["packed_dx"] = lambda: ops.packed_mm(g8, pt, gs, pts, None, width, DTYPE)
    return found


def _packed(w: Tensor, ops: Any, scale: str, *, transpose: bool) -> tuple[Tensor, Tensor]:
    """Quantise a weight and order it as `ops` wants it for `packed_mm`."""
    packed, absmax = backends.pack_weight(w, scale, ops, transpose=transpose)
    return (ops.prepack(packed) if hasattr(ops, "prepack") else packed), absmax


def measure_parts(case: dict[str, Any], plan: Plan, backend: str) -> dict[str, Any]:
    """Time the parts of one size; return {backend, runs}, with bf16_y twice more as a control."""
    steps = parts(case, backend)
    steps = {BASELINE: steps["bf16_y"], CONTROL: steps["bf16_y"], **steps}
    arms = {name: (step, lambda: None) for name, step in steps.items()}
    runs = alternate({k: _runner(arm, plan) for k, arm in arms.items()}, plan.pairs)
    return {"backend": backends.choose(backend, DEVICE, DTYPE).NAME, "runs": runs}
