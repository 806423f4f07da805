"""Exercises of lesson 01: states, what coincides at the peak, a scale, and what a layer keeps.

The states are held against the course's formulas (`memory.formula`), the scale against counts by
hand, and the layer against traces of the real model's class.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from labkit.checkpoints.exercises import Exercise, Student

# states_bytes(linears, others, method, r) -> (weights, gradients, optimizer state) in bytes

CLOSE = 0.001
"""a share that a sum may differ by: scales of a last, half-filled block"""
METHODS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "full in 16 bit": {"method": "full", "master_weights": False},
    "lora": {"method": "lora"},
    "qlora": {"method": "qlora", "double_quant": False, "adapter_dtype": "float32"},
}


@cache
def formula_states(model: str, method: str, r: int) -> tuple[float, float, float]:
    """Return weights, gradients and optimizer state of a registered model by formula, in bytes."""
    from labkit.memory.formula import analytic
    from labkit.memory.settings import StepSettings

    formula = analytic(StepSettings(model=model, lora_r=r, **METHODS[method]))
    assert formula is not None
    parts = formula.parts
    weights = parts["weights"] + parts["added_weights"]
    return weights, parts["gradients"], parts["optimizer_state"]


@cache
def model_widths(model: str) -> tuple[tuple[tuple[int, int], ...], int]:
    """Return (inputs, outputs) of every matrix in a model's layers, and its other parameters."""
    from labkit.memory.architectures import parameters, shape_of
    from labkit.memory.settings import StepSettings

    shape = shape_of(StepSettings(model=model, method="full"))
    assert shape is not None
    linears = tuple((each.inputs, each.outputs) for each in shape.linears) * shape.layers
    return linears, parameters(shape) - sum(n * m for n, m in linears)


def _states(method: str, *models: str, r: int = 16) -> Callable[[Student], bool]:
    """Check the three parts of a method, for whole models, against the formulas."""

    def holds(student: Student) -> bool:
        for model in models:
            linears, others = model_widths(model)
            given = student(list(linears), others, method, r)
            for mine, right in zip(given, formula_states(model, method, r), strict=True):
                if abs(mine - right) > CLOSE * right:
                    return False
        return True

    return holds


def _other_rank(student: Student) -> bool:
    """Check that factors twice as wide take twice as much, and the frozen weights no more."""
    return _states("lora", "smollm2-135m-instruct", r=32)(student)


def _one_matrix(student: Student) -> bool:
    """Check by hand: a matrix of 10 × 20, 3 other parameters, factors of rank 2."""
    weights, gradients, state = student([(10, 20)], 3, "lora", 2)
    return bool(gradients == 4 * 2 * 30 and state == 2 * gradients and weights == 2 * 203 + 240)


STATES_BYTES = Exercise(
    signature="states_bytes(linears, others, method, r)",
    parameters=4,
    properties=(
        (
            "full: weights, gradients and moments of all parameters in fp32",
            _states("full", "smollm2-135m-instruct", "llama-3-8b"),
        ),
        (
            "full in 16 bit: each of the four numbers takes two bytes",
            _states("full in 16 bit", "smollm2-135m-instruct", "llama-3-8b"),
        ),
        ("lora: only the factors, r × n and m × r, have gradients and moments", _one_matrix),
        ("lora: every matrix gets its factors", _states("lora", "smollm2-135m-instruct",
                                                        "llama-3-8b")),
        ("lora: the factors follow the rank", _other_rank),
        (
            "qlora: matrices in 4 bits, with a scale of 4 bytes for 64 weights, and the rest in 16",
            _states("qlora", "smollm2-135m-instruct", "llama-3-8b", "llama-2-7b"),
        ),
    ),
)  # fmt: skip


# peak_bytes(weights, copies, optimizer_state, gradients, activations, logits) -> bytes


def reference_peak(
    weights: float, copies: float, optimizer_state: float, gradients: float, activations: float,
    logits: float,
) -> float:  # fmt: skip
    """Return the higher of two moments: the forward pass ends, the optimizer steps."""
    return weights + optimizer_state + max(copies + activations + logits, gradients)


def _peaks(*cases: tuple[float, ...]) -> Callable[[Student], bool]:
    def holds(student: Student) -> bool:
        return all(abs(student(*case) - reference_peak(*case)) < 1e-6 for case in cases)

    return holds


PEAK_BYTES = Exercise(
    signature="peak_bytes(weights, copies, optimizer_state, gradients, activations, logits)",
    parameters=6,
    properties=(
        ("weights that nobody trains or runs", _peaks((7.0, 0.0, 0.0, 0.0, 0.0, 0.0))),
        (
            "weights and optimizer state are there all the time",
            _peaks((7.0, 0.0, 5.0, 0.0, 0.0, 0.0)),
        ),
        (
            "without activations the optimizer step decides",
            _peaks((7.0, 0.0, 5.0, 3.0, 0.0, 0.0)),
        ),
        (
            "activations and logits meet at the end of the forward pass",
            _peaks((7.0, 0.0, 5.0, 0.0, 4.0, 2.0)),
        ),
        (
            "the 16-bit copies are there when the forward pass ends",
            _peaks((7.0, 3.0, 5.0, 0.0, 4.0, 2.0)),
        ),
        (
            "copies and activations never meet all gradients: the higher moment decides",
            _peaks(
                (7.0, 3.0, 5.0, 3.0, 4.0, 2.0),
                (7.0, 3.0, 5.0, 9.5, 4.0, 2.0),
                (1.0, 2.0, 1.0, 6.5, 4.0, 2.0),
                (4.0, 2.0, 8.0, 4.0, 0.5, 0.2),
            ),
        ),
    ),
)


# saved_bytes(function, inputs, weights) -> bytes that autograd keeps

TOKENS_WEIGHED = 32


def _weighed(case: str, expected: int) -> Callable[[Student], bool]:
    """Check the student's scale on a small computation whose kept bytes are known by hand."""

    def holds(student: Student) -> bool:
        function, inputs, weights = _to_weigh(case)
        return bool(student(function, inputs, weights) == expected)

    return holds


def _to_weigh(case: str) -> tuple[Callable[..., Any], list[Any], list[Any]]:
    """Return a function, its inputs and its weights. Tensors are 32 tokens of 8 fp32 numbers."""
    import torch

    x = torch.ones(TOKENS_WEIGHED, 8, requires_grad=True)
    wide = torch.nn.Linear(8, 16, bias=False)
    other = torch.nn.Linear(8, 16, bias=False)
    frozen = torch.nn.Linear(8, 16, bias=False).requires_grad_(False)

    def two_views(y: Any) -> Any:
        return y[:, :4].square() + y[:, 4:8].square()

    if case == "linear":
        return wide, [x], [wide.weight]
    if case == "frozen":
        return frozen, [x], [frozen.weight]
    if case == "shared":
        return lambda x: wide(x) + other(x), [x], [wide.weight, other.weight]
    if case == "squares":
        return lambda x: x.square().square(), [x], []
    if case == "view":
        return lambda x: two_views(wide(x)), [x], [wide.weight]
    if case == "16 bit":
        return lambda x: x.square(), [x.detach().bfloat16().requires_grad_()], []
    raise ValueError(case)


ROW = TOKENS_WEIGHED * 8 * 4
"""bytes of one tensor of 8 fp32 numbers a token"""


def _kept_stays(student: Student) -> bool:
    """Hold where what autograd keeps of a gated MLP is counted, and there until the end.

    What is let go makes room for the next tensor, which then has the same address.
    """
    import torch
    from torch.multiprocessing.reductions import StorageWeakRef

    gate, up = (torch.nn.Linear(8, 16, bias=False) for _ in range(2))
    down = torch.nn.Linear(16, 8, bias=False)
    stayed = []

    def gated(x: Any) -> Any:
        opened = gate(x)
        kept = StorageWeakRef(opened.untyped_storage())
        opened = torch.nn.functional.silu(opened)
        result = down(opened * up(x))
        stayed.append(not kept.expired())
        return result

    x = torch.ones(TOKENS_WEIGHED, 8, requires_grad=True)
    found = student(gated, [x], [gate.weight, up.weight, down.weight])
    return bool(found == ROW + 4 * 2 * ROW) and all(stayed)


SAVED_BYTES = Exercise(
    signature="saved_bytes(function, inputs, weights)",
    parameters=3,
    properties=(
        ("squaring twice keeps what was squared, both times", _weighed("squares", 2 * ROW)),
        ("a number in 16 bits takes two bytes", _weighed("16 bit", ROW // 2)),
        ("a trained linear layer keeps its input, and the weights don't count",
         _weighed("linear", ROW)),
        ("a frozen linear layer keeps nothing but its weight", _weighed("frozen", 0)),
        ("what two layers read is kept once", _weighed("shared", ROW)),
        (
            "a view keeps all of the storage that it looks into, once for two views",
            _weighed("view", ROW + 2 * ROW),
        ),
        (
            "a gated MLP keeps its input and four tensors twice as wide until its backward pass, "
            "which gets what pack returns",
            _kept_stays,
        ),
    ),
)  # fmt: skip


# layer_bytes_per_token(h, m, q, k) -> bytes that one Llama layer keeps for backward, per token

LLAMA_3 = {"h": 4096, "m": 14_336, "q": 4096, "k": 1024}
LLAMA_2 = {"h": 4096, "m": 11_008, "q": 4096, "k": 4096}
TOKENS = 128
# Row sums of the softmax and of the norms, and rounding to the allocator's 512 bytes.
SMALL = 0.01


@cache
def traced_layer(model: str, mlp: int, kv_heads: int, heads: int = 32) -> float:
    """Return what the second layer adds to what is kept, in bytes per token, by trace."""
    from labkit.memory.settings import StepSettings
    from labkit.memory.trace.tracing import trace

    kept = []
    for depth in (1, 2):
        changes = {
            "num_hidden_layers": depth, "intermediate_size": mlp, "num_key_value_heads": kv_heads,
            "num_attention_heads": heads, "head_dim": 128,
        }  # fmt: skip
        settings = StepSettings(
            model=model, method="full", master_weights=False, seq_len=TOKENS, optim="sgd",
            config_overrides=changes,
        )  # fmt: skip
        kept.append(trace(settings, extrapolate=False).parts["activations"])
    return (kept[1] - kept[0]) / TOKENS


def _adds(
    changed: dict[str, int], mlp: int, kv_heads: int, heads: int = 32
) -> Callable[[Student], bool]:
    """Check what a change of Llama 3's layer adds to the student's sum."""

    def holds(student: Student) -> bool:
        added = student(**{**LLAMA_3, **changed}) - student(**LLAMA_3)
        traced = traced_layer("llama-3-8b", mlp, kv_heads, heads)
        traced -= traced_layer("llama-3-8b", LLAMA_3["m"], 8)
        return abs(added - traced) <= SMALL * abs(traced)

    return holds


def _is_traced(shape: dict[str, int], model: str, kv_heads: int) -> Callable[[Student], bool]:
    def holds(student: Student) -> bool:
        traced = traced_layer(model, shape["m"], kv_heads)
        return abs(student(**shape) - traced) <= SMALL * traced

    return holds


LAYER_BYTES = Exercise(
    signature="layer_bytes_per_token(h, m, q, k)",
    parameters=4,
    properties=(
        ("a layer without widths keeps nothing", lambda student: student(h=0, m=0, q=0, k=0) == 0),
        ("an MLP twice as wide adds what it adds in a trace", _adds({"m": 28_672}, 28_672, 8)),
        (
            "keys and values twice as wide add what they add in a trace",
            _adds({"k": 2048}, 14_336, 16),
        ),
        (
            "queries twice as wide, with h as it was, add what they add in a trace",
            _adds({"q": 8192}, 14_336, 8, 64),
        ),
        ("a layer of Llama 3 8B keeps what its trace keeps", _is_traced(LLAMA_3, "llama-3-8b", 8)),
        ("a layer of Llama 2 7B keeps what its trace keeps", _is_traced(LLAMA_2, "llama-2-7b", 32)),
    ),
)


EXERCISES = {
    "states_bytes": STATES_BYTES,
    "peak_bytes": PEAK_BYTES,
    "saved_bytes": SAVED_BYTES,
    "layer_bytes_per_token": LAYER_BYTES,
}
