"""Exercises of lesson 01: what coincides at the peak, and what a layer saves for backward."""

from collections.abc import Callable
from functools import cache

from labkit.checkpoints.exercises import Exercise, Student

# peak_bytes(weights, optimizer_state, gradients, activations, logits) -> bytes


def reference_peak(
    weights: float, optimizer_state: float, gradients: float, activations: float, logits: float
) -> float:
    """Return the higher of two moments: the forward pass ends, the optimizer steps."""
    return weights + optimizer_state + max(activations + logits, gradients)


def _peaks(*cases: tuple[float, ...]) -> Callable[[Student], bool]:
    def holds(student: Student) -> bool:
        return all(abs(student(*case) - reference_peak(*case)) < 1e-6 for case in cases)

    return holds


PEAK_BYTES = Exercise(
    signature="peak_bytes(weights, optimizer_state, gradients, activations, logits)",
    parameters=5,
    properties=(
        ("weights that nobody trains or runs", _peaks((7.0, 0.0, 0.0, 0.0, 0.0))),
        ("weights and optimizer state are there all the time", _peaks((7.0, 5.0, 0.0, 0.0, 0.0))),
        ("without activations the optimizer step decides", _peaks((7.0, 5.0, 3.0, 0.0, 0.0))),
        (
            "activations and logits meet at the end of the forward pass",
            _peaks((7.0, 5.0, 0.0, 4.0, 2.0)),
        ),
        (
            "gradients and activations do not add up: the higher moment decides",
            _peaks((7.0, 5.0, 3.0, 4.0, 2.0), (7.0, 5.0, 9.0, 4.0, 2.0), (1.0, 1.0, 6.0, 4.0, 2.0)),
        ),
    ),
)


# layer_bytes_per_token(h, m, q, k) -> bytes that one Llama layer keeps for backward, per token

LLAMA_3 = {"h": 4096, "m": 14_336, "q": 4096, "k": 1024}
LLAMA_2 = {"h": 4096, "m": 11_008, "q": 4096, "k": 4096}
TOKENS = 128
# Row sums of the softmax and of the norms, and rounding to the allocator's 512 bytes.
SMALL = 0.01


@cache
def traced_layer(model: str, mlp: int, kv_heads: int) -> float:
    """Return what the second layer adds to what is kept, in bytes per token, by trace."""
    from labkit.memory.settings import StepSettings
    from labkit.memory.trace.tracing import trace

    kept = []
    for depth in (1, 2):
        changes = {
            "num_hidden_layers": depth, "intermediate_size": mlp, "num_key_value_heads": kv_heads,
        }  # fmt: skip
        settings = StepSettings(
            model=model, method="full", master_weights=False, seq_len=TOKENS, optim="sgd",
            config_overrides=changes,
        )  # fmt: skip
        kept.append(trace(settings, extrapolate=False).parts["activations"])
    return (kept[1] - kept[0]) / TOKENS


def _adds(changed: dict[str, int], mlp: int, kv_heads: int) -> Callable[[Student], bool]:
    """Check what a change of Llama 3's layer adds to the student's sum."""

    def holds(student: Student) -> bool:
        added = student(**{**LLAMA_3, **changed}) - student(**LLAMA_3)
        traced = traced_layer("llama-3-8b", mlp, kv_heads)
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
        ("a layer of Llama 3 8B keeps what its trace keeps", _is_traced(LLAMA_3, "llama-3-8b", 8)),
        ("a layer of Llama 2 7B keeps what its trace keeps", _is_traced(LLAMA_2, "llama-2-7b", 32)),
    ),
)


EXERCISES = {"peak_bytes": PEAK_BYTES, "layer_bytes_per_token": LAYER_BYTES}
