"""Exercises of lesson 06: attention with a prefix, the sixteen values of nf4, a bottleneck adapter.

Shape suffixes: B samples, H heads, L tokens, N prefix rows, D numbers of a head.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from labkit.checkpoints.exercises import Exercise, Student
from labkit.console import quiet

# prefix_attention(queries, keys, values, prefix_keys, prefix_values) -> like queries


def reference_prefix_attention(q: Any, k: Any, v: Any, prefix_k: Any, prefix_v: Any) -> Any:
    """Return causal attention (B, H, L, D) behind a prefix (B, H, N, D) that every query reads.

    softmax(Q·[P_k; K]ᵀ/√D)·[P_v; V] (Li and Liang 2021), by PyTorch's fused attention.
    """
    import torch

    length, extra = q.shape[-2], prefix_k.shape[-2]
    seen = torch.ones(length, extra + length, dtype=torch.bool).tril(extra)
    keys, values = torch.cat([prefix_k, k], -2), torch.cat([prefix_v, v], -2)
    return torch.nn.functional.scaled_dot_product_attention(q, keys, values, attn_mask=seen)


def _tensors(*sizes: tuple[int, ...], seed: int = 0) -> list[Any]:
    import torch

    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=draw, dtype=torch.float64) for size in sizes]


def _attention(
    length: int, extra: int, *, batch: int = 1, heads: int = 1, width: int = 4
) -> Callable[[Student], bool]:
    """Compare with the reference on random tensors of these sizes."""

    def holds(student: Student) -> bool:
        import torch

        text, prefix = (batch, heads, length, width), (batch, heads, extra, width)
        given = _tensors(text, text, text, prefix, prefix, seed=length + extra)
        expected = reference_prefix_attention(*given)
        found = student(*(each.clone() for each in given))
        return found.shape == expected.shape and torch.allclose(found, expected, atol=1e-8)

    return holds


def _no_query_sees_later_text(student: Student) -> bool:
    """Change the last key and value: only the last row may notice."""
    import torch

    given = _tensors(*[(1, 1, 5, 4)] * 3, *[(1, 1, 2, 4)] * 2)
    before = student(*(each.clone() for each in given))
    for each in given[1:3]:
        each[..., -1, :] += 3
    after = student(*(each.clone() for each in given))
    return torch.allclose(before[..., :-1, :], after[..., :-1, :])


@cache
def peft_layer() -> tuple[tuple[Any, ...], Any]:
    """Return what attention is given in a layer of Llama with PEFT's prefix, and what it returns.

    ((queries, keys, values, prefix keys, prefix values), output), each (B, H, L or N, D); queries
    and keys are rotated to their positions behind the prefix, the prefix is not.
    """
    import peft
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=4,
    )  # fmt: skip
    with quiet():
        model = peft.get_peft_model(
            LlamaForCausalLM(config).eval(),
            peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        )
    attention = model.get_base_model().model.layers[0].self_attn
    seen: dict[str, Any] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: seen.update({name: output})

    hooks = [getattr(attention, f"{each}_proj").register_forward_hook(keep(each)) for each in "qkv"]
    hooks.append(attention.o_proj.register_forward_pre_hook(
        lambda module, inputs: seen.update(out=inputs[0])))  # fmt: skip
    ids = torch.arange(5, 16)[None]
    with torch.no_grad():
        prefix = model.get_prompt(1).layers[0]
        model(input_ids=ids)
        for hook in hooks:
            hook.remove()
        q, k, v, out = (seen[name].reshape(1, ids.shape[1], 4, -1).transpose(1, 2)
                        for name in ("q", "k", "v", "out"))  # fmt: skip
        positions = torch.arange(ids.shape[1])[None] + prefix.keys.shape[-2]
        turn = model.get_base_model().model.rotary_emb(v, positions)
        q, k = apply_rotary_pos_emb(q, k, *turn)
    return (q, k, v, prefix.keys.detach(), prefix.values.detach()), out


def _is_pefts(student: Student) -> bool:
    import torch

    given, expected = peft_layer()
    return torch.allclose(student(*(each.clone() for each in given)), expected, atol=1e-5)


PREFIX_ATTENTION = Exercise(
    signature="prefix_attention(queries, keys, values, prefix_keys, prefix_values)",
    parameters=5,
    properties=(
        ("one token and one row of prefix, in one head", _attention(1, 1)),
        ("the scores are divided by the root of a head's width", _attention(1, 1, width=9)),
        ("no query reads a later token's key", _no_query_sees_later_text),
        ("every query reads the whole prefix, the first one too", _attention(4, 6)),
        ("samples and heads stay apart", _attention(3, 2, batch=2, heads=3)),
        ("a layer of Llama with PEFT's prefix", _is_pefts),
    ),
    modules=("torch", "peft", "transformers.models.llama.modeling_llama"),
)


# to_nf4(weights) -> (codes, absmax) and from_nf4(codes, absmax) -> weights, for a block of 64

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip
"""The table of nf4: Dettmers et al. 2023 (arXiv:2305.14314), appendix E; bitsandbytes has it in
`functional.get_4bit_type`."""


def reference_to_nf4(weights: Any) -> tuple[Any, Any]:
    """Return (codes 0 … 15, absmax) of a block: the nearest table value of weight / absmax."""
    import torch

    absmax = weights.abs().max()
    scaled = weights / absmax.clamp(min=1e-30)
    table = torch.tensor(NF4, dtype=weights.dtype)
    return (scaled[:, None] - table).abs().argmin(dim=1), absmax


def _blocks() -> list[Any]:
    import torch

    draw = torch.Generator().manual_seed(1)
    return [torch.randn(64, generator=draw) * scale for scale in (1.0, 0.02, 300.0)]


def _codes(*blocks: Callable[[], Any]) -> Callable[[Student], bool]:
    def holds(student: Student) -> bool:
        import torch

        for block in [make() for make in blocks] or _blocks():
            codes, absmax = student(block.clone())
            expected, scale = reference_to_nf4(block)
            if not torch.equal(torch.as_tensor(codes).long(), expected):
                return False
            if not abs(float(absmax) - float(scale)) <= (1e-6 * float(scale) or 1.0):
                return False
        return True

    return holds


def _block(*values: float) -> Callable[[], Any]:
    """Return a function that makes a block of 64 with these first and zeros behind."""

    def make() -> Any:
        import torch

        return torch.tensor([*values, *[0.0] * (64 - len(values))])

    return make


def _the_block_stays(student: Student) -> bool:
    import torch

    block = _blocks()[0]
    given = block.clone()
    student(given)
    return torch.equal(given, block)


def of_bitsandbytes(weights: Any) -> tuple[Any, Any]:
    """Return (codes, absmax) of a block as bitsandbytes makes them, two codes in a byte."""
    import torch
    from bitsandbytes import functional

    packed, state = functional.quantize_4bit(weights.reshape(1, -1), blocksize=64, quant_type="nf4")
    packed = packed.flatten()
    return torch.stack([packed >> 4, packed & 15], dim=1).flatten().long(), state.absmax[0]


def _as_bitsandbytes(student: Student) -> bool:
    import torch

    for block in _blocks():
        codes, absmax = student(block.clone())
        theirs, scale = of_bitsandbytes(block)
        if not torch.equal(torch.as_tensor(codes).long(), theirs):
            return False
        if abs(float(absmax) - float(scale)) > 1e-6 * float(scale):
            return False
    return True


TO_NF4 = Exercise(
    signature="to_nf4(weights)",
    parameters=1,
    properties=(
        ("values of the table times one scale: their places in it", _codes(
            _block(1.0, -1.0, 0.0, NF4[3], NF4[12]))),
        ("the scale is the largest absolute value, also of a negative one", _codes(
            _block(-4.0, 4 * NF4[12], 4 * NF4[3]))),
        ("each weight goes to the nearest value of the table", _codes()),
        ("a block of zeros has the code of zero, and no division by zero", _codes(_block())),
        ("the block that was given stays as it is", _the_block_stays),
        ("the codes and the scale of bitsandbytes", _as_bitsandbytes),
    ),
    modules=("torch", "bitsandbytes"),
)  # fmt: skip


def reference_from_nf4(codes: Any, absmax: Any) -> Any:
    """Return the weights that a block's codes stand for."""
    import torch

    return torch.tensor(NF4)[torch.as_tensor(codes).long()] * absmax


def _weights_of(codes: list[int], absmax: float) -> Callable[[Student], bool]:
    def holds(student: Student) -> bool:
        import torch

        given = torch.tensor(codes), torch.tensor(absmax)
        return torch.allclose(student(*given).float(), reference_from_nf4(*given))

    return holds


def _back_again(student: Student) -> bool:
    import torch
    from bitsandbytes import functional

    for block in _blocks():
        packed, state = functional.quantize_4bit(
            block.reshape(1, -1), blocksize=64, quant_type="nf4"
        )
        theirs = functional.dequantize_4bit(packed, state).float().flatten()
        if not torch.allclose(student(*of_bitsandbytes(block)).float(), theirs, rtol=1e-5):
            return False
    return True


FROM_NF4 = Exercise(
    signature="from_nf4(codes, absmax)",
    parameters=2,
    properties=(
        ("the ends of the table and its zero, with scale 1", _weights_of([0, 7, 15] * 8, 1.0)),
        ("every code stands for its value", _weights_of([*range(16)] * 4, 1.0)),
        ("the scale multiplies", _weights_of([*range(16)] * 4, 0.03)),
        ("what bitsandbytes gives back", _back_again),
    ),
    modules=("torch", "bitsandbytes"),
)


# bottleneck_adapter(y, down, down_bias, up, up_bias) -> like y
# start_bottleneck(hidden, size) -> the four


def reference_bottleneck(y: Any, down: Any, down_bias: Any, up: Any, up_bias: Any) -> Any:
    """Return y + W₂·GELU(W₁·y + b₁) + b₂ (Houlsby et al. 2019)."""
    from torch.nn import functional

    inner = functional.gelu(functional.linear(y, down, down_bias))
    return y + functional.linear(inner, up, up_bias)


def _adapter(
    *shape: int, hidden: int = 6, size: int = 3, zero: bool = False
) -> Callable[[Student], bool]:
    def holds(student: Student) -> bool:
        import torch

        given = _tensors((*shape, hidden), (size, hidden), (size,), (hidden, size), (hidden,))
        if zero:
            given[3:] = [torch.zeros_like(each) for each in given[3:]]
        found = student(*(each.clone() for each in given))
        expected = reference_bottleneck(*given)
        return found.shape == expected.shape and torch.allclose(found, expected, atol=1e-8)

    return holds


BOTTLENECK = Exercise(
    signature="bottleneck_adapter(y, down, down_bias, up, up_bias)",
    parameters=5,
    properties=(
        ("with `up` and its bias zero the output is y", _adapter(2, zero=True)),
        ("y goes down, through GELU, up again, and is added", _adapter(2)),
        ("it works on any leading dimensions", _adapter(2, 5, hidden=8, size=2)),
    ),
    modules=("torch",),
)


def _started(hidden: int, size: int, student: Student) -> list[Any]:
    import torch

    torch.manual_seed(3)
    return [torch.as_tensor(each).double() for each in student(hidden, size)]


def _shapes(student: Student) -> bool:
    sizes = [tuple(each.shape) for each in _started(8, 3, student)]
    return sizes == [(3, 8), (3,), (8, 3), (8,)]


def _begins_as_nothing(student: Student) -> bool:
    import torch

    given = _started(8, 3, student)
    (y,) = _tensors((20, 8))
    return torch.allclose(reference_bottleneck(y, *given), y, atol=1e-2)


def _first_gradients(student: Student) -> list[Any]:
    """Return the largest gradient of each of the four at the first step."""
    given = [each.detach().clone().requires_grad_() for each in _started(8, 3, student)]
    (y,) = _tensors((20, 8))
    (reference_bottleneck(y, *given) ** 3).sum().backward()
    return [float(each.grad.abs().max()) for each in given]


def _learns(student: Student) -> bool:
    return max(_first_gradients(student)[::2]) > 1e-6


def _units_differ(student: Student) -> bool:
    """Units alike in row, bias and column get the same gradients for ever, and are one unit."""
    import torch

    down, bias, up, _ = _started(8, 3, student)
    units = torch.cat([down, bias[:, None], up.T], dim=1)
    return float(torch.cdist(units, units).fill_diagonal_(1.0).min()) > 1e-6


START_BOTTLENECK = Exercise(
    signature="start_bottleneck(hidden, size)",
    parameters=2,
    properties=(
        ("it returns down (size, hidden), its bias, up (hidden, size), its bias", _shapes),
        ("the first output is nearly y", _begins_as_nothing),
        ("one matrix has a gradient at the first step, so the adapter can learn", _learns),
        ("no two rows of `down` are alike with equal columns of `up`", _units_differ),
    ),
    modules=("torch",),
)

EXERCISES = {
    "prefix_attention": PREFIX_ATTENTION,
    "to_nf4": TO_NF4,
    "from_nf4": FROM_NF4,
    "bottleneck_adapter": BOTTLENECK,
    "start_bottleneck": START_BOTTLENECK,
}
