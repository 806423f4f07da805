"""Exercises of lesson 02: the forward pass of a LoRA layer, and what it trains."""

from collections.abc import Callable
from typing import Any

from labkit.checkpoints.exercises import Exercise, Student

# lora_forward(x, W, A, B, alpha, r) -> y, with x: (…, in), W: (out, in), A: (r, in), B: (out, r)


def reference_lora_forward(x: Any, W: Any, A: Any, B: Any, alpha: float, r: int) -> Any:
    """Return x Wᵀ + (alpha / r) (x Aᵀ) Bᵀ: Hu et al. 2021, equation 3."""
    return x @ W.T + (alpha / r) * ((x @ A.T) @ B.T)


def _tensors(*, batch: tuple[int, ...] = (4,), size: tuple[int, int] = (6, 10), r: int = 3) -> Any:
    """Return x, W, A, B of the given sizes (in, out), the same ones every time."""
    import torch

    generator = torch.Generator().manual_seed(0)
    inputs, outputs = size
    shapes = [(*batch, inputs), (outputs, inputs), (r, inputs), (outputs, r)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def _same(student: Student, *arguments: Any) -> bool:
    import torch

    expected = reference_lora_forward(*arguments)
    found = student(*arguments)
    return (
        isinstance(found, torch.Tensor)
        and found.shape == expected.shape
        and torch.allclose(found.to(expected.dtype), expected, rtol=1e-6, atol=1e-9)
    )


def _starts_as_the_base_model(student: Student) -> bool:
    x, W, A, B = _tensors()
    return _same(student, x, W, A, B * 0, 16, 3)


def _adds_the_low_rank_update(student: Student) -> bool:
    return _same(student, *_tensors(), 3, 3)


def _scales_with_alpha(student: Student) -> bool:
    return all(_same(student, *_tensors(), alpha, 3) for alpha in (6, 1.5))


def _scales_with_rank(student: Student) -> bool:
    return all(_same(student, *_tensors(r=r), 8, r) for r in (1, 2, 8))


def _takes_any_batch(student: Student) -> bool:
    shapes: list[tuple[int, ...]] = [(), (1,), (2, 5), (2, 3, 4)]
    return all(_same(student, *_tensors(batch=batch), 8, 3) for batch in shapes)


def _tells_in_from_out(student: Student) -> bool:
    return all(_same(student, *_tensors(size=size), 8, 3) for size in [(7, 7), (12, 5)])


def _leaves_its_inputs_alone(student: Student) -> bool:
    import torch

    arguments = _tensors()
    copies = [tensor.clone() for tensor in arguments]
    student(*arguments, 8, 3)
    return all(torch.equal(a, b) for a, b in zip(arguments, copies, strict=True))


def _lets_gradients_reach_the_adapter(student: Student) -> bool:
    _, _, A, B = arguments = _tensors()
    for tensor in (A, B):
        tensor.requires_grad_(True)
    student(*arguments, 8, 3).sum().backward()
    return all(tensor.grad is not None and bool(tensor.grad.any()) for tensor in (A, B))


COPIES = {"clone", "_to_copy"}
"""operations that give a tensor's own numbers, in another order or type"""


def _never_builds_the_update(student: Student) -> bool:
    from torch.utils._python_dispatch import TorchDispatchMode

    x, W, A, B = _tensors(batch=())
    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            moves_numbers_only = func.is_view or func.overloadpacket.__name__ in COPIES
            if not moves_numbers_only and hasattr(result, "numel"):
                largest = max(largest, result.numel())
            return result

    with Sizes():
        student(x, W, A, B, 8, 3)
    return largest < W.numel()


LORA_FORWARD = Exercise(
    signature="lora_forward(x, W, A, B, alpha, r)",
    parameters=6,
    properties=(
        ("with B = 0 it is the layer without an adapter", _starts_as_the_base_model),
        ("with alpha = r the update is B A, applied to x", _adds_the_low_rank_update),
        ("the update grows in proportion to alpha", _scales_with_alpha),
        ("the update is divided by r", _scales_with_rank),
        ("a square layer and one with fewer outputs than inputs work", _tells_in_from_out),
        ("x may be one vector, or have any number of leading dimensions", _takes_any_batch),
        ("the tensors it is given stay as they are", _leaves_its_inputs_alone),
        ("gradients reach A and B", _lets_gradients_reach_the_adapter),
        (
            "nothing that it computes is as large as W: the full update B A is never built",
            _never_builds_the_update,
        ),
    ),
)


# count_lora_parameters(shapes, r) -> int, with shapes: a list of (in_features, out_features)


def reference_count(shapes: list[tuple[int, int]], r: int) -> int:
    """Return r (in + out), summed over the layers: A is r × in, B is out × r."""
    return sum(r * (inputs + outputs) for inputs, outputs in shapes)


def _counts(*cases: tuple[list[tuple[int, int]], int]) -> Callable[[Student], bool]:
    def holds(student: Student) -> bool:
        return all(student(list(shapes), r) == reference_count(shapes, r) for shapes, r in cases)

    return holds


COUNT_LORA_PARAMETERS = Exercise(
    signature="count_lora_parameters(shapes, r)",
    parameters=2,
    properties=(
        ("no layers have no parameters", _counts(([], 8))),
        ("one square layer", _counts(([(64, 64)], 4))),
        ("one layer with more outputs than inputs", _counts(([(576, 1536)], 16))),
        ("one layer with more inputs than outputs", _counts(([(1536, 576)], 16))),
        ("the rank counts in proportion", _counts(([(576, 192)], 1), ([(576, 192)], 64))),
        ("several layers of different shapes add up", _counts(([(576, 576), (576, 192)] * 3, 8))),
    ),
)


EXERCISES = {"lora_forward": LORA_FORWARD, "count_lora_parameters": COUNT_LORA_PARAMETERS}
