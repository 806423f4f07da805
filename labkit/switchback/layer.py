"""SwitchBack: a linear layer that computes two of its three matrix products in int8.

Training a linear layer takes three products: X [M tokens, K], W [N, K], G = dL/dY [M, N]:

    Y  = X·Wᵀ + b    sums over K, the width of the layer        int8
    dX = G·W         sums over N, the width of the layer        int8
    dW = Gᵀ·X        sums over M, every token of the batch      16 bit: it *switches back*

Quantisation adds an independent error to every term of a sum, so the error of a product grows with
its inner dimension. K and N are a few thousand; M is tens of thousands of tokens. And dW is what
training keeps: an error there is added to the weights at every step. Lesson 04 measures both.

X and G are quantised per row, that is per token. W is quantised

    weight_scale="row"     per output feature for Y; per input feature, transposed, for dX
    weight_scale="tensor"  by one absmax, and the same integers serve both products

One large weight coarsens the whole matrix under "tensor" and one row under "row", which is
therefore the default. `save` says what waits for the backward pass:

    save="16bit"  X as it came in, so dW is bit for bit the 16-bit product
    save="int8"   X in int8, half the bytes; dW is computed from the dequantised X (and under
                  "tensor" the int8 W, which is then not quantised a second time)

A frozen weight (LoRA) needs no dW, and X is not saved at all. A *backend* is a module with the
functions of `reference.py`: `reference` everywhere, `triton` on CUDA, `cpu` where int8 is fast.

Source: Wortsman et al. 2023 (arXiv 2304.13013), algorithms 1 and 3 to 5.
"""

import importlib
import importlib.util
import os
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from labkit.errors import LabkitError, nearest
from labkit.switchback import reference

BACKENDS = {"triton": "triton_kernels", "cpu": "cpu", "reference": "reference"}
"""Backend name -> module of this package, in the order in which "auto" asks them."""

WEIGHT_SCALES = ("row", "tensor")
SAVES = ("16bit", "int8")

MAX_INNER = (2**31 - 1) // 127**2
"""Longest inner dimension an int32 sum of int8 products can never overflow: 133,144."""


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


def backend_for(name: str, device: torch.device, dtype: torch.dtype) -> ModuleType:
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


def quantize_weight(w: Tensor, weight_scale: str, ops: Any) -> tuple[Tensor, Tensor]:
    """Quantise W [N, K] for the forward product: int8 [N, K] and absmax [N] or []."""
    return ops.quantize_rowwise(w) if weight_scale == "row" else ops.quantize_global(w)


class SwitchBack(torch.autograd.Function):
    """Y [M, N] from X [M, K], W [N, K] and a bias [N] or None; the backward pass as above."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, weight_scale: str, save: str, ops: Any
    ) -> Tensor:
        x_int8, x_absmax = ops.quantize_rowwise(x)
        w_int8, w_absmax = quantize_weight(w, weight_scale, ops)
        ctx.weight_scale, ctx.save, ctx.ops = weight_scale, save, ops
        ctx.bias_dtype = None if bias is None else bias.dtype
        kept_x: tuple[Tensor | None, ...] = (None, None)
        if ctx.needs_input_grad[1]:
            kept_x = (x, None) if save == "16bit" else (x_int8, x_absmax)
        # W is a parameter: saving it keeps a reference, not a copy.
        same_integers = save == "int8" and weight_scale == "tensor"
        kept_w = (w, w_int8, w_absmax) if same_integers else (w, None, None)
        ctx.save_for_backward(*kept_x, *kept_w)
        return ops.scaled_int8_mm(x_int8, w_int8, x_absmax, w_absmax, bias, x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, x_absmax, w, w_int8, w_absmax = ctx.saved_tensors
        dx = dw = dbias = None
        if ctx.needs_input_grad[0]:
            g_int8, g_absmax = ctx.ops.quantize_rowwise(g)
            if w_int8 is not None:
                w_int8 = w_int8.t().contiguous()
            elif ctx.weight_scale == "row":
                w_int8, w_absmax = ctx.ops.quantize_columnwise_and_transpose(w)
            else:
                w_int8, w_absmax = ctx.ops.quantize_global_transpose(w)
            dx = ctx.ops.scaled_int8_mm(g_int8, w_int8, g_absmax, w_absmax, None, g.dtype)
        if ctx.needs_input_grad[1]:
            if ctx.save == "int8":
                x = ctx.ops.dequantize_rowwise(x, x_absmax, g.dtype)
            dw = (g.t() @ x).to(w.dtype)
        if ctx.needs_input_grad[2]:
            dbias = g.sum(dim=0).to(ctx.bias_dtype)
        return dx, dw, dbias, None, None, None


class SwitchBackLinear(nn.Linear):
    """An `nn.Linear` that trains in int8; same parameters, same state dict, any leading shape.

    LabkitError: an unknown option; a width past `MAX_INNER`; a dtype or device that the backend
    does not serve; a state dict written by another kind of layer.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        weight_scale: str = "row",
        save: str = "16bit",
        backend: str = "auto",
    ) -> None:
        for key, value, choices in (
            ("weight_scale", weight_scale, WEIGHT_SCALES),
            ("save", save, SAVES),
            ("backend", backend, ("auto", *BACKENDS)),
        ):
            if value not in choices:
                raise LabkitError(f"{key}={value!r} is unknown: choose from {', '.join(choices)}")
        if max(in_features, out_features) > MAX_INNER:
            raise LabkitError(
                f"a SwitchBackLinear of {in_features} × {out_features} could overflow its int32 "
                f"sums: both widths must be at most {MAX_INNER:,}"
            )
        super().__init__(in_features, out_features, bias, device, dtype)
        self.weight_scale, self.save, self.backend = weight_scale, save, backend
        self._prepared: tuple[Tensor, Tensor, int] | None = None

    @classmethod
    def from_linear(cls, linear: nn.Linear, **options: Any) -> "SwitchBackLinear":
        """Make a layer on the parameters of `linear`, so that ties and optimizers stay valid."""
        has_bias = linear.bias is not None
        layer = cls(linear.in_features, linear.out_features, has_bias, device="meta", **options)
        layer.weight, layer.bias = linear.weight, linear.bias
        return layer.train(linear.training)

    def prepare_for_eval(self) -> None:
        """Quantise the weight once, for evaluation; `train()`, a load or an edit undoes it.

        An edit through `.data` (PEFT merges adapters that way) cannot be seen: call this again.
        """
        ops = backend_for(self.backend, self.weight.device, self.weight.dtype)
        w_int8, w_absmax = quantize_weight(self.weight.detach(), self.weight_scale, ops)
        self.eval()
        self._prepared = (w_int8, w_absmax, self.weight._version)

    def train(self, mode: bool = True) -> "SwitchBackLinear":
        if mode:
            self._prepared = None
        super().train(mode)
        return self

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        if x.shape[-1] != self.in_features:
            raise LabkitError(
                f"SwitchBackLinear got {x.shape[-1]} features and takes {self.in_features}"
            )
        ops = backend_for(self.backend, x.device, x.dtype)
        rows = x.reshape(-1, x.shape[-1])
        if self._prepared is not None and not torch.is_grad_enabled():
            y = self._forward_prepared(rows, ops)
        else:
            y = SwitchBack.apply(rows, self.weight, self.bias, self.weight_scale, self.save, ops)
        return y.view(*x.shape[:-1], self.out_features)

    def _forward_prepared(self, rows: Tensor, ops: Any) -> Tensor:
        assert self._prepared is not None
        w_int8, w_absmax, version = self._prepared
        if not torch.compiler.is_compiling() and version != self.weight._version:
            self.prepare_for_eval()
            w_int8, w_absmax, _ = self._prepared
        x_int8, x_absmax = ops.quantize_rowwise(rows)
        return ops.scaled_int8_mm(x_int8, w_int8, x_absmax, w_absmax, self.bias, rows.dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> "SwitchBackLinear":
        self._prepared = None  # another device or dtype
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        self._prepared = None
        _refuse_foreign(state_dict, prefix, self)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        options = f"weight_scale={self.weight_scale}, save={self.save}, backend={self.backend}"
        return f"{super().extra_repr()}, {options}"


def _refuse_foreign(state_dict: dict, prefix: str, layer: SwitchBackLinear) -> None:
    """Raise LabkitError when the entries under `prefix` were not written by an `nn.Linear`."""
    known = {"weight", "bias"}
    mine = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    name = prefix.removesuffix(".") or "the layer"
    foreign = sorted(set(mine) - known)
    weight = mine.get("weight")
    if foreign:
        why = f"it holds {', '.join(foreign)}"
    elif weight is not None and not weight.is_floating_point():
        why = f"its weight is {str(weight.dtype).removeprefix('torch.')}"
    elif weight is not None and weight.shape != layer.weight.shape:
        why = f"its weight is {list(weight.shape)} and not {list(layer.weight.shape)}"
    else:
        return
    raise LabkitError(
        f"the checkpoint of {name} was saved by another layer, {why}: "
        "load one saved from nn.Linear or SwitchBackLinear of the same shape"
    )


def convert(
    model: nn.Module, min_features: int = 1024, skip: Iterable[str] = ("lm_head",), **options: Any
) -> list[str]:
    """Replace linear layers of `model` in place by SwitchBackLinear; return their names.

    Converted are plain `nn.Linear` modules with both widths at least `min_features`; below it
    quantising costs more than int8 saves. `skip` names modules by one or more consecutive parts of
    their dotted name. Of a PEFT-wrapped layer only the frozen base is converted, never an adapter.
    `options` go to every SwitchBackLinear. LabkitError: nothing to convert.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    wrappers = [
        name for name, m in modules.items() if isinstance(getattr(m, "base_layer", None), nn.Module)
    ]

    def is_adapter(name: str) -> bool:
        return any(name.startswith(f"{w}.") and name != f"{w}.base_layer" for w in wrappers)

    candidates = {
        name: module
        for name, module in modules.items()
        if name
        and type(module) is nn.Linear
        and not is_adapter(name)
        and not any(f".{part}." in f".{name}." for part in skip)
    }
    chosen = {n: m for n, m in candidates.items() if _narrowest(m) >= min_features}
    if not chosen:
        raise LabkitError(_nothing_to_convert(candidates, min_features))
    layers: dict[nn.Linear, SwitchBackLinear] = {}  # a module used under two names stays one
    for name, linear in chosen.items():
        if linear not in layers:
            layers[linear] = SwitchBackLinear.from_linear(linear, **options)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layers[linear])
    return list(chosen)


def _narrowest(linear: nn.Linear) -> int:
    return min(linear.in_features, linear.out_features)


def _nothing_to_convert(candidates: dict[str, nn.Linear], min_features: int) -> str:
    if not candidates:
        return "there is nothing to convert: the model has no nn.Linear outside skip"
    widest = max(map(_narrowest, candidates.values()))
    return (
        f"there is nothing to convert: no linear layer has both widths at least "
        f"min_features={min_features}, the widest has {widest}: "
        f"set min_features to {widest} or less"
    )
