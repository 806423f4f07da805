"""Profile where a training step's time goes, with torch's profiler.

torch's profiler notes every operation and the time spent in it alone (its self time). Hundreds of
names say little, so they are gathered into a few costs (`COSTS`, by the beginning of their names).
What no operation accounts for is Python: the trainer's loop, autograd's bookkeeping, hooks.
"""

from typing import Any

from transformers import TrainerCallback

WITHIN = {"ChunkedLogProb": "loss over the vocabulary"}
"""What is called within these counts as theirs: TRL's output head and loss, tile by tile."""

COSTS: dict[str, tuple[str, ...]] = {
    "attention": (
        "aten::_scaled_dot_product", "aten::_flash_attention", "aten::_softmax",
        "aten::_safe_softmax",
    ),
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn::"),
    "optimizer and clipping": ("aten::_fused_adam", "aten::_foreach", "aten::linalg_vector_norm"),
    "loss over the vocabulary": (
        "aten::_log_softmax", "aten::nll_loss", "aten::cross_entropy",
    ),
    "copies and casts": (
        "aten::copy_", "aten::_to_copy", "aten::clone", "aten::cat", "aten::fill_", "aten::zero_",
    ),
    "compiled, fused elementwise work": ("CompiledFunction", "Torch-Compiled", "## Call Compiled"),
}  # fmt: skip
OTHER = "other operations, most of them elementwise"


class Profiled(TrainerCallback):
    """Run one step of a training under torch's profiler; `costs` then holds seconds by cost."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.costs: dict[str, float] = {}
        self.profiler: Any = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the profiler before the chosen step."""
        if state.global_step + 1 == self.step:
            from torch.profiler import ProfilerActivity, profile

            self.profiler = profile(activities=[ProfilerActivity.CPU])
            self.profiler.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop it and add up."""
        if self.profiler is not None:
            self.profiler.__exit__(None, None, None)
            self.costs = gather(
                (name_of(event), event.self_cpu_time_total / 1e6)
                for event in self.profiler.events()
            )
            self.profiler = None


def name_of(event: Any) -> str:
    """Return an operation's name, or that of the part of `WITHIN` which called it."""
    caller = event
    while caller is not None:
        if caller.name.startswith(tuple(WITHIN)):
            return str(caller.name)
        caller = caller.cpu_parent
    return str(event.name)


def gather(events: Any) -> dict[str, float]:
    """Add up (name, seconds) of operations by cost; names that are not operations are left out."""
    found: dict[str, float] = {}
    for name, seconds in events:
        cost = cost_of(name)
        if cost is not None:
            found[cost] = found.get(cost, 0.0) + seconds
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def cost_of(name: str) -> str | None:
    """Return what an operation counts as; None for the profiler's own notes."""
    for beginning, cost in WITHIN.items():
        if name.startswith(beginning):
            return cost
    for cost, beginnings in COSTS.items():
        if name.startswith(beginnings):
            return cost
    if name.startswith(("aten::", "torch::")) and not name.startswith("torch::autograd"):
        return OTHER
    return None
