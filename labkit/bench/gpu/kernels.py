"""Test SwitchBack's Triton kernels on the card: correctness against the reference, then speed.

*Exact* means: the integers of every quantiser are those of `switchback.reference` on the CPU, and a
scaled matmul is the reference's, bit for bit in float32 and within one rounding in 16 bit. Odd
shapes, strides, zero rows, ties and NaN are among the cases.

*Worth* is a whole layer step (Y, dX, dW, with all quantising) against `nn.Linear` in bfloat16,
eager and compiled, whichever is faster, in alternating rounds with a control. Sizes are those of
the figures published for the A100: an MLP's two layers, dim → 4·dim and back. The parts of a step
are timed apart too, and int8 matmuls against `torch._int_mm` with scaling, so that a ratio can be
explained.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

from labkit.bench import paired
from labkit.bench.gpu.card import Card
from labkit.bench.gpu.memory import guarded, in_processes
from labkit.bench.paired import BASELINE, CONTROL

QUANTIZERS = ("quantize_rowwise", "quantize_columnwise_and_transpose", "quantize_global",
              "quantize_global_transpose")  # fmt: skip
TYPES = ("bfloat16", "float16", "float32")
QUANTIZED_SHAPES = ((1, 1), (5, 13), (65, 130), (3, 1030), (300, 4097), (1024, 2048))
PRODUCTS = ((1, 1, 1), (3, 5, 7), (33, 31, 65), (130, 257, 515), (128, 128, 16), (384, 640, 2048),
            (1000, 2050, 4100))  # fmt: skip
"""Rows M, output features N, inner dimension K: below, at and past every tile."""
DIMS, TOKENS = (1024, 2048, 4096), (8192, 32768)
PAIRS, ROUND_SECONDS = 8, 0.03
REHEARSED_PAIRS = 4
"""The fewest that an interval can be made of."""
SCALES = ("row", "tensor")


def correctness(card: Card, known: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Compare every kernel with the reference; yield how many cases, and what differed."""
    jobs: dict[str, tuple] = {}
    for dtype in TYPES:
        jobs |= {f"{name} {dtype}": (_check_quantizer, name, dtype, card) for name in QUANTIZERS}
        jobs[f"product {dtype}"] = (_check_products, dtype, card)
        jobs[f"layer {dtype}"] = (_check_layers, dtype, card)
    yield from in_processes({name: job for name, job in jobs.items() if name not in known})


def _check_quantizer(name: str, dtype: str, card: Card) -> dict[str, Any]:
    shapes = QUANTIZED_SHAPES[:2] if card.rehearsal else QUANTIZED_SHAPES
    faults = [fault for shape in shapes for fault in _quantizer_faults(name, shape, dtype, card)]
    return {"cases": 3 * len(shapes), "faults": faults}


def _check_products(dtype: str, card: Card) -> dict[str, Any]:
    shapes = PRODUCTS[:2] if card.rehearsal else PRODUCTS
    faults = [fault for shape in shapes for fault in _product_faults(shape, dtype, card)]
    return {"cases": 2 * len(shapes), "faults": faults}


def _check_layers(dtype: str, card: Card) -> dict[str, Any]:
    return {"cases": 3 * len(SCALES), "faults": _layer_faults(dtype, card)}


def _quantizer_faults(
    name: str, shape: tuple[int, int], dtype: str, card: Card
) -> Iterator[dict[str, Any]]:
    import torch

    from labkit.switchback import reference, triton_kernels

    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=generator).to(getattr(torch, dtype))
    x[0] = 0
    ties = (torch.arange(x.numel()).reshape(shape) % 255 - 127) / 2
    spoilt = x.clone()
    spoilt[-1, -1] = float("nan")
    for kind, given in (("random", x), ("ties", ties.to(x.dtype)), ("nan", spoilt.t())):
        q, absmax = getattr(triton_kernels, name)(given.to(card.target))
        want_q, want_absmax = getattr(reference, name)(given)
        sound = torch.isfinite(want_absmax)  # what a NaN becomes as an integer is nobody's promise
        q, want_q = (t[sound.expand(t.shape[0])] for t in (q.cpu(), want_q))
        wrong = int((q != want_q).sum())
        same = torch.equal(absmax.cpu().nan_to_num(), want_absmax.nan_to_num())
        if wrong or not same:
            yield {"kind": kind, "shape": list(shape), "wrong_integers": wrong, "absmax": same}


def _product_faults(
    shape: tuple[int, int, int], dtype: str, card: Card
) -> Iterator[dict[str, Any]]:
    import torch

    from labkit.switchback import reference, triton_kernels

    M, N, K = shape
    generator = torch.Generator().manual_seed(M + N + K)

    def integers(rows: int) -> torch.Tensor:
        return torch.randint(-127, 128, (rows, K), generator=generator, dtype=torch.int8)

    a, b = integers(M), integers(N)
    a_absmax = torch.rand(M, generator=generator) + 0.5
    bias = torch.randn(N, generator=generator).to(getattr(torch, dtype))
    per_row = torch.rand(N, generator=generator) + 0.5
    for b_absmax, added in ((per_row, None), (per_row[0], bias)):
        given = {"a": a, "b": b, "a_absmax": a_absmax, "b_absmax": b_absmax, "bias": added}
        there = {name: None if t is None else t.to(card.target) for name, t in given.items()}
        multiply: tuple[Any, Any] = triton_kernels.scaled_int8_mm, reference.scaled_int8_mm
        y = multiply[0](**there, out_dtype=getattr(torch, dtype)).cpu()
        want = multiply[1](**given, out_dtype=getattr(torch, dtype))
        # A product and a sum may be fused on the card, which rounds once less; a rounding to 16 bit
        # may then fall the other way. Triton's interpreter cuts bfloat16 off instead of rounding.
        cut = card.rehearsal and dtype == "bfloat16"
        unit = _unit(want)
        if added is not None:
            # Of the largest term: where product and bias cancel, its rounding is what is left.
            unit = torch.maximum(_unit(want), _unit((want.double() - added.double()).float()))
        worst = float(((y.double() - want.double()).abs() / unit).max())
        if not worst <= (0 if added is None and not cut else 1):
            off_by = worst if math.isfinite(worst) else None
            yield {"shape": list(shape), "bias": added is not None, "units_off": off_by}


def _unit(x: Any) -> Any:
    """Return the distance of each number of x to the next larger one of its type."""
    import torch

    size = x.abs().clamp_min(torch.finfo(x.dtype).smallest_normal)
    return torch.exp2(torch.floor(torch.log2(size.double()))) * torch.finfo(x.dtype).eps


def _layer_faults(dtype: str, card: Card) -> list[dict[str, Any]]:
    """Hold a layer's output and gradients on the card against the reference's on the CPU."""
    import torch

    from labkit.switchback import SwitchBackLinear

    faults = []
    kind = getattr(torch, dtype)
    tokens, width, out = (6, 9, 12) if card.rehearsal else (200, 96, 160)
    for scale in SCALES:
        torch.manual_seed(0)
        layer = SwitchBackLinear(width, out, dtype=kind, weight_scale=scale, backend="reference")
        x, g = torch.randn(tokens, width).to(kind), torch.randn(tokens, out).to(kind)
        there = SwitchBackLinear(width, out, dtype=kind, weight_scale=scale, backend="triton")
        there.load_state_dict(layer.state_dict())
        there.to(card.target)
        found = []
        for one, device in ((layer, "cpu"), (there, card.target)):
            given = x.detach().to(device, copy=True).requires_grad_()
            y = one(given)
            y.backward(g.to(device))
            found.append((y, given.grad, one.weight.grad))
        for name, want, got in zip(("y", "dx", "dw"), *found, strict=True):
            got, want = (t.detach().cpu().double() for t in (got, want))
            off = (got - want).norm() / want.norm()
            if not off <= 4 * torch.finfo(kind).eps:
                worst = float(off) if math.isfinite(off) else None
                faults.append({"weight_scale": scale, "tensor": name, "relative_error": worst})
    return faults


def sizes(card: Card) -> list[tuple[int, int, int]]:
    """Return the sizes that are timed: tokens, in and out features; the claim's own size first."""
    if card.rehearsal:
        return [(4, 8, 16)]
    found = [(t, *pair) for d in DIMS for t in TOKENS for pair in ((d, 4 * d), (4 * d, d))]
    return sorted(found, key=lambda size: (2048 not in size[1:], -size[0], size))


def speed(card: Card, known: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Time layer steps of every size, and their parts; yield ratios with intervals."""
    for tokens, width, out in sizes(card):
        for mode in ("full", "frozen"):
            name = f"{tokens} tokens {width}→{out} {mode}"
            if name not in known:
                case = {"tokens": tokens, "in_features": width, "out_features": out, "mode": mode}
                yield name, {**case, **guarded(functools.partial(_race, case, card), card)}
        name = f"{tokens} tokens {width}→{out} parts"
        if name not in known:
            case = {"tokens": tokens, "in_features": width, "out_features": out}
            yield name, {**case, **guarded(functools.partial(_parts, case, card), card)}


def _race(case: dict[str, Any], card: Card) -> dict[str, Any]:
    """Return each way's seconds, and SwitchBack's ratios to the fastest in 16 bit."""
    import torch

    torch._dynamo.reset()  # it gives up compiling after some shapes
    steps = {kind: _step(kind, case, card) for kind in ("eager", "compiled", *SCALES)}
    called = {kind: _once(step, card) for kind, step in steps.items()}
    ways = {kind: card.replayed(step) for kind, step in steps.items()}
    seconds = {kind: _once(way, card) for kind, way in ways.items()}
    baseline = min(("eager", "compiled"), key=lambda kind: seconds[kind])
    arms = {BASELINE: baseline, CONTROL: baseline, **{scale: scale for scale in SCALES}}
    least, wanted = (1, 0.0) if card.rehearsal else (2, ROUND_SECONDS)
    calls = {kind: max(least, round(wanted / seconds[kind])) for kind in ways}

    def runner(kind: str) -> Callable[[], dict[str, list[float]]]:
        def run() -> dict[str, list[float]]:
            ways[kind]()
            return {"seconds": [card.seconds(ways[kind], calls[kind])], "warmup_seconds": []}

        return run

    pairs = REHEARSED_PAIRS if card.rehearsal else PAIRS
    runs = paired.alternate({arm: runner(kind) for arm, kind in arms.items()}, pairs)
    return {
        "baseline": baseline, "baselines": {k: seconds[k] for k in ("eager", "compiled")},
        "called_seconds": called,
        "rows": {scale: paired.conclude(runs, scale) for scale in SCALES},
    }  # fmt: skip


def _once(step: Callable[[], object], card: Card) -> float:
    """Return the time of a step, after it has compiled and chosen its tiles."""
    for _ in range(1 if card.rehearsal else 3):
        step()
    card.synchronize()
    return card.seconds(step, 1 if card.rehearsal else 5)


def _step(kind: str, case: dict[str, Any], card: Card) -> Callable[[], None]:
    """Return one training step of a layer: eager or compiled nn.Linear, or SwitchBack by scale."""
    import torch
    from torch import nn

    from labkit.switchback import SwitchBackLinear

    torch.manual_seed(0)
    options: dict[str, Any] = {"bias": False, "device": card.target, "dtype": torch.bfloat16}
    sizes_ = case["in_features"], case["out_features"]
    layer: nn.Module
    if kind in SCALES:
        layer = SwitchBackLinear(*sizes_, weight_scale=kind, backend="triton", **options)
    else:
        layer = nn.Linear(*sizes_, **options)
    weight: Any = layer.weight
    if case["mode"] == "frozen":
        weight.requires_grad_(False)
        if isinstance(layer, SwitchBackLinear):
            layer.freeze()
    compiler = "eager" if card.rehearsal else "inductor"
    run = torch.compile(layer, backend=compiler) if kind == "compiled" else layer
    x = torch.randn(case["tokens"], sizes_[0], device=card.target, dtype=torch.bfloat16)
    g = torch.randn(case["tokens"], sizes_[1], device=card.target, dtype=torch.bfloat16)
    x.requires_grad_()

    def step() -> None:
        x.grad = weight.grad = None
        run(x).backward(g)

    return step


def _parts(case: dict[str, Any], card: Card) -> dict[str, Any]:
    """Return the seconds of each part of a step, and of int8 matmuls by cuBLAS with scaling."""
    import torch

    from labkit.switchback import triton_kernels as kernels

    torch.manual_seed(0)
    device, bf16 = card.target, torch.bfloat16
    tokens, width, out = case["tokens"], case["in_features"], case["out_features"]
    x = torch.randn(tokens, width, device=device, dtype=bf16)
    g = torch.randn(tokens, out, device=device, dtype=bf16)
    w = torch.randn(out, width, device=device, dtype=bf16)
    x8, x_absmax = kernels.quantize_rowwise(x)
    g8, g_absmax = kernels.quantize_rowwise(g)
    w8, w_absmax = kernels.quantize_rowwise(w)
    wt8, wt_absmax = kernels.quantize_columnwise_and_transpose(w)

    zeros, zeros8 = torch.zeros_like(x), torch.zeros_like(x8)

    def scaled_by_torch() -> Any:
        total = torch._int_mm(x8, w8.t())
        return (total * (x_absmax / 16129)[:, None] * w_absmax).to(bf16)

    parts: dict[str, Callable[[], object]] = {
        "bf16_y": lambda: x @ w.t(),
        "bf16_dx": lambda: g @ w,
        "bf16_dw": lambda: g.t() @ x,
        "bf16_y_of_zeros": lambda: zeros @ w.t(),
        "int8_y_of_zeros": lambda: kernels.scaled_int8_mm(
            zeros8, w8, x_absmax, w_absmax, None, bf16
        ),
        "int8_y": lambda: kernels.scaled_int8_mm(x8, w8, x_absmax, w_absmax, None, bf16),
        "int8_dx": lambda: kernels.scaled_int8_mm(g8, wt8, g_absmax, wt_absmax, None, bf16),
        "quantize_x": lambda: kernels.quantize_rowwise(x),
        "quantize_g": lambda: kernels.quantize_rowwise(g),
        "quantize_w_row": lambda: kernels.quantize_rowwise(w),
        "quantize_wt_row": lambda: kernels.quantize_columnwise_and_transpose(w),
        "int_mm_y": lambda: torch._int_mm(x8, w8.t()),
        "int_mm_y_scaled": scaled_by_torch,
    }
    seconds = {}
    for name, part in parts.items():
        _once(part, card)
        seconds[name] = _once(card.replayed(part), card)
    work = 2 * tokens * width * out
    rates = {n: work / s for n, s in seconds.items() if n.startswith(("bf16", "int8", "int_mm"))}
    return {"seconds": seconds, "operations_per_second": rates, "tile": _tile()}


def _tile() -> str | None:
    """Return the tile that the last matmul chose, or None where nothing was to choose."""
    from labkit.switchback import triton_hopper, triton_kernels

    for tuned in (triton_hopper.persistent_int8_mm_tuned, triton_kernels.scaled_int8_mm_tuned):
        chosen = getattr(tuned, "best_config", None)
        if chosen is not None:
            return f"{tuned.base_fn.__name__}: {chosen}"
    return None
