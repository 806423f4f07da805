"""Count what processes send each other in a training step.

Every exchange of PyTorch's passes through its dispatcher, DistributedDataParallel's, FSDP's and
DeepSpeed's alike, where `Traffic` sees the tensors. Rajbhandari et al. 2020 (ZeRO, section 7) count
an all-reduce of n numbers as 2n, the reduce-scatter and the all-gather that it is made of, and
those as n each. A step that trains all Ψ weights then takes 2Ψ without sharding and in stages 1 and
2, and 3Ψ in stage 3, which gathers the weights a second time for the backward pass. Around a ring
of N each process really sends (N − 1)/N of that.
"""

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

VOLUME = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1, "reduce": 1, "broadcast": 1}
"""how often an exchange sends what it is given"""
KINDS = (("allreduce", "all_reduce"), ("all_reduce", "all_reduce"), ("allgather", "all_gather"),
         ("all_gather", "all_gather"), ("reduce_scatter", "reduce_scatter"), ("reduce", "reduce"),
         ("broadcast", "broadcast"))  # fmt: skip
"""how its names begin, and what it is"""


class Traffic(TorchDispatchMode):
    """Count the bytes of every exchange while it is on, by kind in `bytes`."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and count it where it is an exchange."""
        if func.namespace in ("c10d", "_c10d_functional"):
            name = func._schema.name.split("::")[1].lstrip("_")
            kind = next((each for begin, each in KINDS if name.startswith(begin)), None)
            if kind is not None:
                sizes = [_bytes(each) for each in args]
                # Gathered is the larger of what goes in and comes out, scattered likewise.
                self.bytes[kind] += max(sizes, default=0)
        return func(*args, **(kwargs or {}))

    @property
    def volume(self) -> int:
        """Return the bytes as ZeRO counts them."""
        return sum(VOLUME[kind] * size for kind, size in self.bytes.items())


def _bytes(argument: Any) -> int:
    """Return the bytes of the tensors in an argument."""
    leaves = [each for each in tree_leaves(argument) if isinstance(each, torch.Tensor)]
    return sum(each.numel() * each.element_size() for each in leaves)
