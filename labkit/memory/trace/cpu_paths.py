"""What a CPU's kernels take inside themselves, which no tensor of a trace shows."""

from collections.abc import Callable
from typing import Any

import torch


def workspaces() -> dict[Any, Callable[..., int]]:
    """Return what CPU kernels take inside themselves, by their operation.

    An elementwise operation of two types first copies each operand that is not of the common one
    (`TensorIteratorBase::compute_types`, aten/src/ATen/TensorIterator.cpp); CUDA's kernels cast in
    registers. DoRA's scales are in float32 and multiply results in bfloat16.
    """
    aten = torch.ops.aten

    def cast_operands(one: Any, other: Any, *_: Any) -> int:
        if not isinstance(other, torch.Tensor) or one.dtype == other.dtype:
            return 0
        common = torch.result_type(one, other)
        return sum(each.numel() * common.itemsize for each in (one, other) if each.dtype != common)

    operations = (aten.add, aten.sub, aten.mul, aten.div, aten.add_, aten.mul_)
    return {operation.Tensor: cast_operands for operation in operations}
