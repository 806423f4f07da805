"""Time a linear layer's whole training step, and each of its parts.

A step is what training does to one layer: Y = X·Wᵀ, then from the gradient G the matmuls dX = G·W
and, unless the weight is frozen, dW = Gᵀ·X; for SwitchBack with all quantising it takes. Layers
have no bias, as in Llama. Between steps a trained weight changes, outside the measured time, so
that no way can keep a copy of it in another layout.

int8 is compared with the *fastest* way on this machine and at this size that does without (see
`ways.py`), found by trying. Where that way has a weight gradient on tiles, the fastest without is
measured too, so that a row can say how much is int8's and how much that other matmul's.

SwitchBack's own layer holds float32 or bfloat16 numbers, whichever of the two makes it faster here.

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

from labkit.bench.paired import BASELINE, CONTROL, Plan, Run, alternate, time_run
from labkit.bench.switchback import ways
from labkit.switchback import SwitchBackLinear, backends, cpu

SCALES = ("row", "tensor")
DTYPE = torch.bfloat16
PREFIXES = {torch.bfloat16: "bf16", torch.float32: "float32"}
"""Of the names of parts."""
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CALIBRATION = Plan(pairs=4, warmup=1, steps=2, run_seconds=0.03, max_steps=10)

Step = Callable[[], object]


def build(
    kind: str, case: dict[str, Any], *, backend: str = "auto", weight_gradient: str = "torch",
    dtype: torch.dtype = DTYPE,
) -> tuple[Step, Step]:  # fmt: skip
    """Build one arm: `kind` is a name of `ways.WAYS`, or SwitchBack's row or tensor in `dtype`.

    Returns the step, and what has to happen before each.
    """
    torch.manual_seed(0)
    tokens, width, out = case["tokens"], case["in_features"], case["out_features"]
    dtype = dtype if kind in SCALES else ways.WAYS[kind].dtype
    options: dict[str, Any] = {"bias": False, "device": DEVICE, "dtype": dtype}
    layer: nn.Linear
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
    run = layer if kind in SCALES else ways.layer(kind, layer, tokens)
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
    """Find the fastest way without int8 for one size and mode, by trying each, and int8's type.

    `case` holds tokens, in_features, out_features, mode. Returns baseline and plain (names of the
    fastest way, and of the fastest without tiles), baselines {way: seconds}, left_out {way: why},
    backend and dtype (SwitchBack's) and candidates {type: seconds}. Raises LabkitError for a
    backend that is not there.
    """
    SwitchBackLinear(1, 1, backend=backend)  # builds what the backend needs
    slow = ways.slowness(case, DEVICE)
    kinds, left_out = ways.candidates(case["mode"], weight_gradient, slow, DEVICE)
    arms = {kind: build(kind, case) for kind in kinds}
    own = {
        f"SwitchBack in {_said(dtype)}": build(
            "row", case, backend=backend, weight_gradient=weight_gradient, dtype=dtype
        )
        for dtype in slow
        if slow[dtype] < ways.SLOW
    }
    # For information only: of a type that cannot win.
    once = replace(CALIBRATION, warmup=0, steps=1)
    rivals = [kind for kind in kinds if slow[ways.WAYS[kind].dtype] < ways.SLOW]
    tried = alternate(
        {k: _runner(a, CALIBRATION if k in rivals or k in own else once)
         for k, a in (arms | own).items()},
        CALIBRATION.pairs,
    )  # fmt: skip
    seconds = _medians(tried)
    candidates = {name.rpartition(" ")[2]: seconds[name] for name in own}
    dtype = min(candidates, key=lambda name: candidates[name])

    def fastest(names: list[str]) -> str:
        return min(names, key=lambda kind: seconds[kind])

    return {
        "baseline": fastest(rivals),
        "plain": fastest([kind for kind in rivals if not ways.WAYS[kind].tiles]),
        "baselines": {kind: seconds[kind] for kind in kinds},
        "left_out": left_out,
        "backend": backends.choose(backend, DEVICE, getattr(torch, dtype)).NAME,
        "dtype": dtype,
        "candidates": candidates,
    }


def _said(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def measure_round(
    case: dict[str, Any], plan: Plan, kinds: list[str], backend: str = "auto",
    weight_gradient: str = "torch", dtype: str = "bfloat16",
) -> list[dict[str, list[float]]]:  # fmt: skip
    """Time ways to do one step, one after the other; return what `time_run` does for each."""
    arms = [
        build(kind, case, backend=backend, weight_gradient=weight_gradient,
              dtype=getattr(torch, dtype))
        for kind in kinds
    ]  # fmt: skip
    return [_runner(arm, plan)() for arm in arms]


def parts(case: dict[str, Any], backend: str, dtype: torch.dtype = DTYPE) -> dict[str, Step]:
    """Return every part of a step as a function of its own, by name.

    bf16_y, bf16_dx, bf16_dw (float32_y … in that `dtype`) are the matmuls without int8;
    quantize_x, quantize_g and quantize_w… what
    SwitchBack quantises (wt: for dX); int8_y and int8_dx the matmuls with their scaling, and
    integers_y the sums alone, so that int8_y - integers_y is what scaling back costs. Where a
    backend orders weights for its matrix unit, pack_w… does so (quantising included) and packed_y
    and packed_dx multiply by what it made.
    """
    torch.manual_seed(0)
    tokens, width, out = case["tokens"], case["in_features"], case["out_features"]
    SwitchBackLinear(1, 1, backend=backend)  # builds what the backend needs
    ops: Any = backends.choose(backend, DEVICE, dtype)
    x, g = (torch.randn(tokens, n, dtype=dtype, device=DEVICE) for n in (width, out))
    w = torch.randn(out, width, dtype=dtype, device=DEVICE)
    (x8, xs), (g8, gs) = ops.quantize_rowwise(x), ops.quantize_rowwise(g)
    (w8, ws), (wt8, wts) = ops.quantize_rowwise(w), ops.quantize_columnwise_and_transpose(w)
    kind, tiles = PREFIXES[dtype], cpu.tiles() and dtype == torch.bfloat16
    found: dict[str, Step] = {
        f"{kind}_y": lambda: x @ w.t(),
        f"{kind}_dx": lambda: g @ w,
        f"{kind}_dw": lambda: g.t() @ x,
        **({"tiles_dw": lambda: cpu.weight_gradient(g, x, dtype)} if tiles else {}),
        "quantize_x": lambda: ops.quantize_rowwise(x),
        "quantize_g": lambda: ops.quantize_rowwise(g),
        "quantize_w_row": lambda: ops.quantize_rowwise(w),
        "quantize_wt_row": lambda: ops.quantize_columnwise_and_transpose(w),
        "quantize_w_tensor": lambda: ops.quantize_global(w),
        "quantize_wt_tensor": lambda: ops.quantize_global_transpose(w),
        "integers_y": lambda: ops.int8_mm(x8, w8),
        "int8_y": lambda: ops.scaled_int8_mm(x8, w8, xs, ws, None, dtype),
        "int8_dx": lambda: ops.scaled_int8_mm(g8, wt8, gs, wts, None, dtype),
    }
    if hasattr(ops, "packed_mm"):
        pack = partial(_packed, w, ops)
        (p, ps), (pt, pts) = pack("row", transpose=False), pack("row", transpose=True)
        for scale in SCALES:
            found[f"pack_w_{scale}"] = partial(pack, scale, transpose=False)
            found[f"pack_wt_{scale}"] = partial(pack, scale, transpose=True)
        found["packed_y"] = lambda: ops.packed_mm(x8, p, xs, ps, None, out, dtype)
        found["packed_dx"] = lambda: ops.packed_mm(g8, pt, gs, pts, None, width, dtype)
    return found


def _packed(w: Tensor, ops: Any, scale: str, *, transpose: bool) -> tuple[Tensor, Tensor]:
    """Quantise a weight and order it as `ops` wants it for `packed_mm`."""
    packed, absmax = backends.pack_weight(w, scale, ops, transpose=transpose)
    return (ops.prepack(packed) if hasattr(ops, "prepack") else packed), absmax


def measure_parts(case: dict[str, Any], plan: Plan, backend: str) -> dict[str, Any]:
    """Time the parts of one size, in the type that multiplies faster here.

    Returns {backend, runs}, with the matmul for Y twice more as a control.
    """
    slow = ways.slowness(case, DEVICE)
    dtype = min(slow, key=lambda kind: slow[kind])
    steps = parts(case, backend, dtype)
    product = steps[f"{PREFIXES[dtype]}_y"]
    steps = {BASELINE: product, CONTROL: product, **steps}
    arms = {name: (step, lambda: None) for name, step in steps.items()}
    runs = alternate({k: _runner(arm, plan) for k, arm in arms.items()}, plan.pairs)
    return {"backend": backends.choose(backend, DEVICE, dtype).NAME, "runs": runs}
