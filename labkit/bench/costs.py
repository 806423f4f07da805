"""Where a training step's time goes, and what each trick takes off it.

torch's profiler notes every operation and the time spent in it alone (its self time). Hundreds of
names say little, so they are gathered into a few costs (`COSTS`, by the beginning of their names).
What no operation accounts for is Python: the trainer's loop, autograd's bookkeeping, hooks.

`stages` trains the same steps again and again, first without any trick of `fast.py`, then with one
more each time, in the order of `ORDER`. A stage is one short run, so its ratio has no interval:
it is for looking, and `labkit bench step --ablate` is for claims.
"""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from transformers import TrainerCallback

from labkit.errors import LabkitError
from labkit.machine import arithmetic

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
PYTHON = "Python and bookkeeping"

ORDER = ("heap", "logits", "attention", "casts", "compile")
WHAT = {
    "heap": "keep freed memory",
    "logits": "logits where there is a label",
    "attention": "attention by plain products",
    "casts": "no float32 adapter inputs",
    "compile": "compiled layers",
}


class Profiled(TrainerCallback):
    """Runs one step of a training under torch's profiler; `costs` then holds seconds by cost."""

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
    """Add up (name, seconds) of operations by cost; names that are no operation are left out."""
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


def stages(
    spec: dict[str, Any],
    *,
    order: tuple[str, ...] = ORDER,
    say: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Train with one trick more each time; return [{name, seconds, ratio, costs}].

    `spec` is that of `finetuning.main`. `seconds` is the median step without the first, which
    compiles, and the last, which is profiled; `ratio` the first stage's time over this one's;
    `costs` {cost: seconds} of the profiled step, scaled to `seconds`, with the rest as `PYTHON`.
    """
    from labkit.bench import finetuning

    if spec["steps"] < 3:
        raise LabkitError(f"steps={spec['steps']}: the first and the last don't count, give 3 up")
    unknown = [trick for trick in order if trick not in finetuning.TRICKS]
    if unknown:
        raise LabkitError(f"{unknown[0]!r} is no trick: choose from {', '.join(finetuning.TRICKS)}")
    order = tuple(trick for trick in order if trick in finetuning.tricks_of(spec))
    rows: list[dict[str, Any]] = []
    for number in range(len(order) + 1):
        off = [t for t in finetuning.TRICKS if t not in order[:number]]
        made = finetuning.main({**spec, "without": off, "profile": True})
        seconds = median(made["seconds"][1:-1])
        share = {cost: t * seconds / made["seconds"][-1] for cost, t in made["costs"].items()}
        share[PYTHON] = max(0.0, seconds - sum(share.values()))
        name = "none of them" if not number else f"+ {WHAT[order[number - 1]]}"
        first = rows[0]["seconds"] if rows else seconds
        rows.append({"name": name, "seconds": seconds, "ratio": first / seconds, "costs": share})
        say(f"{name}: {seconds:.3f} s a step, {first / seconds:.2f}×")
    return rows


def largest(row: dict[str, Any], count: int = 5) -> list[tuple[str, float]]:
    """Return the largest costs of a stage, each with its share of the step."""
    named = sorted(row["costs"].items(), key=lambda item: -item[1])
    return [(cost, seconds / row["seconds"]) for cost, seconds in named[:count]]


def draw_stages(axes: Any, rows: list[dict[str, Any]]) -> str:
    """Draw each stage's step as a stacked bar of its costs; return the alternative text."""
    from labkit import plots

    names = list(dict.fromkeys(cost for row in rows for cost, _ in largest(row, 6)))
    colours = list(plots.COLOURS.values())
    left = [0.0] * len(rows)
    places = range(len(rows))
    for index, cost in enumerate(names):
        widths = [row["costs"].get(cost, 0.0) for row in rows]
        axes.barh(places, widths, left=left, label=cost, color=colours[index % len(colours)],
                  edgecolor="white", linewidth=0.5)  # fmt: skip
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for place, row in zip(places, rows, strict=True):
        axes.text(left[place], place, f"  {row['ratio']:.2f}×", va="center")
    axes.set_yticks(list(places), [row["name"] for row in rows])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("seconds a step")
    axes.set_xlim(0, 1.12 * max(left))
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.16), ncols=2, fontsize=8, frameon=False)
    said = "; ".join(f"{row['name']} {row['seconds']:.2f} s, {row['ratio']:.2f}×" for row in rows)
    return f"Bars of the time of one training step by cost, with one trick more each time: {said}."


def embedded_spec(
    file: Path, *, method: str, length: int, batch_size: int, steps: int
) -> dict[str, Any]:
    """Write random samples to `file` and return the spec of the embedded model on them."""
    from labkit.bench import step
    from labkit.models import registry

    folder = registry.resolve(step.EMBEDDED)
    step._write_samples(file, folder, length, batch_size * steps)
    return {
        "model": str(folder), "data": str(file), "batch_size": batch_size,
        "bf16": arithmetic.fastest() == "bfloat16",
        "lora": step.PEFT_DEFAULT if method == "lora" else None, "steps": steps,
        "learning_rate": 2e-5, "seed": 42,
    }  # fmt: skip
