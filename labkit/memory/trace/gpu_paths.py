"""The ways a GPU takes that a CPU does not, for a trace that runs on neither.

A trace stands for a device it does not have. Most of a step does the same everywhere; what does
not is gathered here, each with its source:

* kernels that take memory inside themselves, which no tensor shows (`workspaces`);
* functions that keep something else for backward on CUDA than on a CPU (`CudaFunctions`);
* library code that asks where it runs, or for values that a trace does not have (`code_paths`).
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from labkit.memory.settings import StepSettings
from labkit.memory.step.imports import replaced

# What CUDA's caching allocator rounds to (kMinBlockSize, c10/cuda/CUDACachingAllocator.cpp).
GRANULARITY = 512


def workspaces() -> dict[Any, Any]:
    """Return what CUDA kernels take inside themselves, by the operation that stands for them."""
    aten = torch.ops.aten

    def flash_backward(_: Any, query: torch.Tensor, key: torch.Tensor, *__: Any) -> int:
        # FlashAttention-2 sums dQ in fp32 and keeps the row sums of dO∘O; with fewer key heads it
        # makes dK and dV for every query head first (csrc/flash_attn/flash_api.cpp, mha_bwd).
        batch, heads, length, width = query.shape
        padded = -(-length // 128) * 128
        size = 4 * batch * heads * padded * (-(-width // 32) * 32 + 1)
        if key.shape[1] != heads:
            size += 2 * batch * heads * key.shape[2] * width * key.element_size()
        return size

    taken: dict[Any, Callable[..., int]] = {
        aten._scaled_dot_product_flash_attention_for_cpu_backward.default: flash_backward
    }
    if hasattr(torch.ops.bitsandbytes, "gemm_4bit"):

        def dequantised(x: torch.Tensor, packed: torch.Tensor, shape: Any, *_: Any) -> int:
            # Batches of training size take the way over a dequantised weight.
            return shape[0] * shape[1] * x.element_size()

        taken[torch.ops.bitsandbytes.gemm_4bit.default] = dequantised
    return taken


@contextlib.contextmanager
def code_paths(settings: StepSettings) -> Iterator[None]:
    """Let libraries take the way they take on the target device."""
    with contextlib.ExitStack() as stack:
        from transformers import masking_utils
        from transformers.integrations import sdpa_attention

        # Whether positions start anew within a row is asked of their values, which are not there;
        # without an answer a mask is made and the flash kernel is given up.
        stack.enter_context(
            replaced(masking_utils, "find_packed_sequence_indices", lambda *_: None)
        )
        if settings.repeat_kv:
            stack.enter_context(replaced(sdpa_attention, "use_gqa_in_sdpa", lambda *_: False))
        if settings.target == "cuda" and settings.loss == "chunked":
            from trl.kernels import chunked_logprob

            # On CUDA a Triton kernel folds each tile in place and a mixed product adds to fp32:
            # neither allocates, unlike the torch operations that TRL uses on a CPU.
            for name in ("_forward_tile", "_backward_tile", "_addmm_fp32"):
                stack.enter_context(replaced(chunked_logprob, name, lambda *_, **__: None))
        stack.enter_context(functions(settings))
        yield


def functions(settings: StepSettings) -> contextlib.AbstractContextManager:
    """Return the context in which functions do what they do on the target device.

    The backward pass leaves it, so what a checkpointed layer computes again needs one of its own.
    """
    return CudaFunctions() if settings.target == "cuda" else contextlib.nullcontext()


class CudaFunctions(TorchFunctionMode):
    """Take the ways that CUDA takes and a CPU does not.

    Dropout keeps a mask of one byte an element on CUDA, and a factor in the input's type on a CPU.
    Autocast casts some operations to fp32 on CUDA that it leaves alone on a CPU: of its list
    (`AT_FORALL_FP32` in aten/src/ATen/autocast_mode.h) those that models call with 16-bit inputs.
    """

    FP32 = frozenset({
        "__pow__", "__rpow__", "cumsum", "cumprod", "exp", "layer_norm", "log", "log_softmax",
        "log1p", "norm", "pow", "prod", "reciprocal", "rsqrt", "softmax", "softplus", "sum",
    })  # fmt: skip

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if function is torch.nn.functional.dropout:
            return _cuda_dropout(*args, **kwargs)
        if function is torch.nn.functional.scaled_dot_product_attention:
            return _cuda_attention(*args, **kwargs)
        if name in self.FP32 and torch.is_autocast_enabled("cpu"):
            args = [_to_fp32(each) for each in args]
            kwargs = {key: _to_fp32(each) for key, each in kwargs.items()}
        return function(*args, **kwargs)


def _cuda_dropout(
    input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> torch.Tensor:
    if not training or p == 0:
        return input
    return torch.native_dropout(input, p, True)[0]


def _cuda_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    **others: Any,
) -> torch.Tensor:
    """Return attention by the kernel that CUDA takes: fused, also with a mask or with dropout.

    The CPU's fused kernel does neither dropout nor a mask that is learned, and stores the
    probabilities instead.
    """
    if attn_mask is None and dropout_p == 0:
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, **others)
    tensors: list[torch.Tensor | None] = [query, key, value]
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        tensors = [each.to(dtype) if each is not None else None for each in tensors]
    if attn_mask is not None:
        # A boolean mask becomes a bias in the query's type, and one in another type is cast.
        assert tensors[0] is not None
        attn_mask = attn_mask.to(tensors[0].dtype)
    return _FusedAttention.apply(*tensors, attn_mask)


class _FusedAttention(torch.autograd.Function):
    """The allocations of the memory-efficient attention kernel and of its backward.

    Queries (batch, heads, length, width), keys and values with as many heads; the bias broadcasts.
    Kept for backward: the inputs, the output, and the fp32 log-sum-exp of each row
    (`_scaled_dot_product_efficient_attention`, aten/src/ATen/native/transformers/cuda).
    """

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, bias: Any) -> torch.Tensor:
        batch, heads, length, _ = query.shape
        out = query.new_empty(batch, length, heads, value.shape[-1]).transpose(1, 2)
        rows = query.new_empty(batch, heads, -(-length // 32) * 32, dtype=torch.float32)
        ctx.save_for_backward(query, key, value, bias, out, rows)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        *inputs, out, rows = ctx.saved_tensors
        row_sums = torch.empty_like(rows)
        made = tuple(
            torch.empty_like(each) if needed else None
            for each, needed in zip(inputs, ctx.needs_input_grad, strict=True)
        )
        del row_sums
        return made


def _to_fp32(value: Any) -> Any:
    half = isinstance(value, torch.Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if half else value
