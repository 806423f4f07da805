"""Frozen linear layers on quantised weights, as bitsandbytes computes them.

nf4 (Dettmers et al. 2023, QLoRA) packs two weights into a byte and keeps one fp32 scale for each
block of 64; double quantisation stores those scales in 8 bits with one fp32 scale per 256 of
them. Per weight that is

    4 + 32/64 = 4.5 bits          4 + 8/64 + 32/(64·256) = 4.127 bits with double quantisation

LLM.int8 (Dettmers et al. 2022) keeps a byte per weight and one fp32 scale per row.

bitsandbytes' own layer classes wrap their weight in a tensor subclass that cannot hold a fake
tensor. The functions under them can: these layers hold the same tensors and call the same
autograd functions, so what is stored and what is allocated is the library's own doing.
"""

from typing import Any

import torch

from labkit.memory.settings import StepSettings

BLOCK = 64
NESTED_BLOCK = 256


class NF4Linear(torch.nn.Linear):
    """A frozen linear layer whose weight is nf4. Input (…, in), output (…, out).

    It multiplies in the type that its weight was of, and answers in the input's.
    """

    def __init__(self, linear: torch.nn.Linear, *, double_quant: bool) -> None:
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.dtype = linear.weight.dtype
        blocks = -(-linear.weight.numel() // BLOCK)
        packed = torch.empty(-(-linear.weight.numel() // 2), 1, dtype=torch.uint8)
        self.weight = torch.nn.Parameter(packed, requires_grad=False)
        self.bias = linear.bias
        self.double_quant = double_quant
        scale_type = torch.uint8 if double_quant else torch.float32
        self.register_buffer("absmax", torch.empty(blocks, dtype=scale_type))
        self.register_buffer("code", torch.empty(16))
        if double_quant:
            self.register_buffer("nested_absmax", torch.empty(-(-blocks // NESTED_BLOCK)))
            self.register_buffer("nested_code", torch.empty(256))
            self.register_buffer("offset", torch.empty(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        import bitsandbytes

        bias = None if self.bias is None else self.bias.to(self.dtype)
        product = bitsandbytes.matmul_4bit(
            x.to(self.dtype), self.weight, quant_state=self._state(), bias=bias
        )
        return product.to(x.dtype)

    @property
    def W_q(self) -> torch.Tensor:
        """The packed weight under the name by which PEFT knows a layer that it may `dequantize`."""
        return self.weight

    def dequantize(self) -> torch.Tensor:
        """Return the whole weight (out, in), which DoRA's norm asks for."""
        from bitsandbytes.functional import dequantize_4bit

        if self.weight.is_meta:  # while adapters are attached
            return torch.empty(self.out_features, self.in_features, dtype=self.dtype, device="meta")
        weight: torch.Tensor = dequantize_4bit(self.weight.data, self._state())
        return weight

    def _state(self) -> Any:
        from bitsandbytes.functional import QuantState

        nested = {}
        if self.double_quant:
            nested = {
                "offset": self.offset,
                "state2": QuantState(
                    absmax=self.nested_absmax,
                    blocksize=NESTED_BLOCK,
                    code=self.nested_code,
                    dtype=torch.float32,
                ),
            }
        return QuantState(
            absmax=self.absmax,
            shape=torch.Size((self.out_features, self.in_features)),
            code=self.code,
            blocksize=BLOCK,
            quant_type="nf4",
            dtype=self.dtype,
            **nested,
        )


class Int8Linear(torch.nn.Linear):
    """A frozen linear layer with 8-bit weights, LLM.int8 on a GPU. Input (…, in), output (…, out).

    Without outlier columns: which inputs exceed the threshold depends on their values. On a CPU
    bitsandbytes trains with dequantised weights (`MatMul8bitFp`).
    """

    def __init__(self, linear: torch.nn.Linear, *, target: str = "cuda") -> None:
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        quantised = torch.empty(linear.weight.shape, dtype=torch.int8)
        self.weight = torch.nn.Parameter(quantised, requires_grad=False)
        self.bias = linear.bias
        self.register_buffer("row_absmax", torch.empty(linear.out_features))
        self.target = target

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        from bitsandbytes.autograd._functions import MatMul8bitFp, MatMul8bitLt, MatmulLtState

        state = MatmulLtState()
        state.CB, state.SCB = self.weight.data, self.row_absmax
        state.has_fp16_weights, state.threshold = False, 0.0
        product = MatMul8bitFp if self.target == "cpu" else MatMul8bitLt
        return product.apply(x, self.weight.data, None, self.bias, state)


def quantise_linears(model: Any, settings: StepSettings) -> None:
    """Replace the linear layers of a model on `meta` by quantised ones.

    The head stays as it is, and so do layers that transformers keeps in fp32 for their range
    (T5's `wo`).
    """
    from labkit.console import quiet_bitsandbytes

    quiet_bitsandbytes()
    head = model.get_output_embeddings()
    kept = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if not isinstance(child, torch.nn.Linear) or child is head or name in kept:
                continue
            with torch.device("meta"):
                if settings.base_weights.bits == 4:
                    layer: Any = NF4Linear(child, double_quant=settings.double_quant)
                else:
                    layer = Int8Linear(child, target=settings.target)
            layer.requires_grad_(False)
            setattr(module, name, layer)
