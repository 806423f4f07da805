"""SwitchBack: compute two of a linear layer's three matmuls in int8.

Training a linear layer takes three matmuls: X [M tokens, K], W [N, K], G = dL/dY [M, N]:

    Y  = X·Wᵀ + b    sums over K, the width of the layer        int8
    dX = G·W         sums over N, the width of the layer        int8
    dW = Gᵀ·X        sums over M, every token of the batch      16 bit: it *switches back*

Quantisation adds an independent error to every term of a sum, so the error of a matmul grows with
its inner dimension. K and N are a few thousand; M is batch × length, tens of thousands of tokens,
some of which have gradients far above the rest. Lesson 04 measures how the precision of an int8 dW
falls with M. In 16 bit its operands are there anyway.

X and G are quantised per row, that is per token. W is quantised

    weight_scale="row"     per output feature for Y; per input feature, transposed, for dX
    weight_scale="tensor"  by one absmax, and the same integers serve both matmuls

One large weight coarsens the whole matrix under "tensor" and one row under "row", which is
therefore the default. `save` says what waits for the backward pass:

    save="16bit"  X as it came in, so dW is bit for bit the 16-bit matmul
    save="int8"   X in int8, half the bytes; dW is computed from the dequantised X (and under
                  "tensor" the int8 W, which is then not quantised a second time)

dW is torch's own matmul, bit for bit what nn.Linear computes, unless `weight_gradient="tiles"`
asks for a faster one where the backend has it: 16 bit too, summed in another order.

A frozen weight (LoRA) needs no dW, and X is not saved at all; `freeze_base` quantises such weights
once instead of at every step. A *backend* is a module with the functions of `reference.py`:
`reference` everywhere, `triton` on CUDA, `cpu` where int8 is fast, `onednn` where nothing can be
compiled. It may add `pack_weight` and `packed_mm`, which keep a weight in an order of their own.

Source: Wortsman et al. 2023 (arXiv 2304.13013), algorithms 1 and 3 to 5.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from labkit.errors import LabkitError
from labkit.switchback import backends
from labkit.switchback.backends import Packed

WEIGHT_SCALES = ("row", "tensor")
SAVES = ("16bit", "int8")
WEIGHT_GRADIENTS = ("torch", "tiles")

MAX_INNER = (2**31 - 1) // 127**2
"""Longest inner dimension an int32 sum of int8 products can never overflow: 133,144."""


class SwitchBack(torch.autograd.Function):
    """Y [M, N] from X [M, K], W [N, K] and a bias [N] or None; the backward pass as above."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, weight_scale: str, save: str,
        weight_gradient: str, ops: Any,
    ) -> Tensor:  # fmt: skip
        x_int8, x_absmax = ops.quantize_rowwise(x)
        ctx.weight_scale, ctx.save, ctx.ops = weight_scale, save, ops
        ctx.tiles = weight_gradient == "tiles" and hasattr(ops, "weight_gradient")
        ctx.bias_dtype = None if bias is None else bias.dtype
        kept_x: tuple[Tensor | None, ...] = (None, None)
        if ctx.needs_input_grad[1]:
            kept_x = (x, None) if save == "16bit" else (x_int8, x_absmax)
        # W is a parameter: saving it keeps a reference, not a copy.
        if save == "int8" and weight_scale == "tensor":
            w_int8, w_absmax = ops.quantize_global(w)
            ctx.save_for_backward(*kept_x, w, w_int8, w_absmax)
            return ops.scaled_int8_mm(x_int8, w_int8, x_absmax, w_absmax, bias, x.dtype)
        ctx.save_for_backward(*kept_x, w, None, None)
        packed = backends.pack_weight(w, weight_scale, ops, transpose=False)
        return backends.packed_linear(x_int8, x_absmax, packed, bias, w.shape[0], x.dtype, ops)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, x_absmax, w, w_int8, w_absmax = ctx.saved_tensors
        ops = ctx.ops
        dx = dw = dbias = None
        if ctx.needs_input_grad[0]:
            g_int8, g_absmax = ops.quantize_rowwise(g)
            if w_int8 is not None:
                w_int8 = w_int8.t().contiguous()
                dx = ops.scaled_int8_mm(g_int8, w_int8, g_absmax, w_absmax, None, g.dtype)
            else:
                packed = backends.pack_weight(w, ctx.weight_scale, ops, transpose=True)
                dx = backends.packed_linear(
                    g_int8, g_absmax, packed, None, w.shape[1], g.dtype, ops
                )
        if ctx.needs_input_grad[1]:
            if ctx.save == "int8":
                x = ops.dequantize_rowwise(x, x_absmax, g.dtype)
            dw = ops.weight_gradient(g, x, w.dtype) if ctx.tiles else (g.t() @ x).to(w.dtype)
        if ctx.needs_input_grad[2]:
            dbias = g.sum(dim=0).to(ctx.bias_dtype)
        return dx, dw, dbias, None, None, None, None


class FrozenSwitchBack(torch.autograd.Function):
    """Y [M, N] from X [M, K] and a weight quantised beforehand, for Y and for dX; no dW."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, w_absmax: Tensor, wt: Tensor, wt_absmax: Tensor,
        bias: Tensor | None, out_features: int, ops: Any,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(wt, wt_absmax)
        ctx.in_features, ctx.ops = x.shape[1], ops
        ctx.bias_dtype = None if bias is None else bias.dtype
        x_int8, x_absmax = ops.quantize_rowwise(x)
        return backends.packed_linear(
            x_int8, x_absmax, (w, w_absmax), bias, out_features, x.dtype, ops
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        dx = dbias = None
        if ctx.needs_input_grad[0]:
            g_int8, g_absmax = ctx.ops.quantize_rowwise(g)
            dx = backends.packed_linear(
                g_int8, g_absmax, ctx.saved_tensors, None, ctx.in_features, g.dtype, ctx.ops
            )
        if ctx.needs_input_grad[5]:
            dbias = g.sum(dim=0).to(ctx.bias_dtype)
        return dx, None, None, None, None, dbias, None, None


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
        weight_gradient: str = "torch",
    ) -> None:
        for key, value, choices in (
            ("weight_scale", weight_scale, WEIGHT_SCALES),
            ("save", save, SAVES),
            ("weight_gradient", weight_gradient, WEIGHT_GRADIENTS),
            ("backend", backend, ("auto", *backends.BACKENDS)),
        ):
            if value not in choices:
                raise LabkitError(f"{key}={value!r} is unknown: choose from {', '.join(choices)}")
        if max(in_features, out_features) > MAX_INNER:
            raise LabkitError(
                f"a SwitchBackLinear of {in_features} × {out_features} could overflow its int32 "
                f"sums: both widths must be at most {MAX_INNER:,}"
            )
        backends.prepare(backend)
        super().__init__(in_features, out_features, bias, device, dtype)
        self.weight_scale, self.save, self.backend = weight_scale, save, backend
        self.weight_gradient = weight_gradient
        # What a weight was quantised to and which version of it: for evaluation, for ever.
        self._prepared: tuple[Packed, int] | None = None
        self._frozen: tuple[Packed, Packed, int] | None = None

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
        self.eval()
        self._prepared = (self._pack(transpose=False), self.weight._version)

    def freeze(self) -> None:
        """Quantise the weight once, for both matmuls of training on top of it.

        The weight itself stays, for state dicts; int8 copies of W and Wᵀ are added. As above, an
        edit through `.data` cannot be seen. LabkitError: the weight is being trained.
        """
        if self.weight.requires_grad:
            raise LabkitError("a weight that is trained cannot be frozen: set requires_grad=False")
        self._frozen = (
            self._pack(transpose=False), self._pack(transpose=True), self.weight._version
        )  # fmt: skip

    def _pack(self, *, transpose: bool) -> Packed:
        ops = backends.choose(self.backend, self.weight.device, self.weight.dtype)
        packed = backends.pack_weight(
            self.weight.detach(), self.weight_scale, ops, transpose=transpose
        )
        if hasattr(ops, "prepack"):
            return ops.prepack(packed[0]), packed[1]
        return packed

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
        ops = backends.choose(self.backend, x.device, x.dtype)
        rows = x.reshape(-1, x.shape[-1])
        if self._prepared is not None and not torch.is_grad_enabled():
            if self._stale(self._prepared[1]):
                self.prepare_for_eval()
            x_int8, x_absmax = ops.quantize_rowwise(rows)
            packed, _ = self._prepared
            y = backends.packed_linear(
                x_int8, x_absmax, packed, self.bias, self.out_features, rows.dtype, ops
            )
        elif self._frozen is not None and not self.weight.requires_grad:
            if self._stale(self._frozen[2]):
                self.freeze()
            w, wt, _ = self._frozen
            y = FrozenSwitchBack.apply(rows, *w, *wt, self.bias, self.out_features, ops)
        else:
            y = SwitchBack.apply(
                rows,
                self.weight,
                self.bias,
                self.weight_scale,
                self.save,
                self.weight_gradient,
                ops,
            )
        return y.view(*x.shape[:-1], self.out_features)

    def _stale(self, version: int) -> bool:
        return not torch.compiler.is_compiling() and version != self.weight._version

    def _apply(self, fn: Any, recurse: bool = True) -> "SwitchBackLinear":
        frozen, self._prepared, self._frozen = self._frozen is not None, None, None
        super()._apply(fn, recurse)
        if frozen:  # on another device, or in another dtype
            self.freeze()
        return self

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        self._prepared = self._frozen = None
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
