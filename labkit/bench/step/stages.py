"""Measure what each trick saves in a training step, and in which of its costs (`profile`).

`stages` trains the same steps again and again, first without any trick of `fast_step`, then with
one more each time, in the order of `ORDER`. A stage is one short run, so its ratio has no interval:
it is for looking, and `labkit bench step --ablate` is for claims.
"""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from labkit.errors import LabkitError
from labkit.machine import arithmetic

PYTHON = "Python and bookkeeping"

ORDER = ("heap", "logits", "attention", "casts", "compile")
WHAT = {
    "heap": "keep freed memory",
    "logits": "logits where there is a label",
    "attention": "attention by plain products",
    "casts": "no float32 adapter inputs",
    "compile": "compiled layers",
}


def stages(
    spec: dict[str, Any],
    *,
    order: tuple[str, ...] = ORDER,
    say: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Train with one trick more each time; return [{name, seconds, ratio, costs}].

    `spec` is that of `labkit_arm.main`. `seconds` is the median step without the first, which
    compiles, and the last, which is profiled; `ratio` the first stage's time over this one's;
    `costs` {cost: seconds} of the profiled step, scaled to `seconds`, with the rest as `PYTHON`.
    """
    from labkit.bench.step import labkit_arm
    from labkit.bench.step.spec import TRICKS, tricks_of

    if spec["steps"] < 3:
        raise LabkitError(f"steps={spec['steps']}: the first and the last don't count, give 3 up")
    unknown = [trick for trick in order if trick not in TRICKS]
    if unknown:
        raise LabkitError(f"{unknown[0]!r} is not a trick: choose from {', '.join(TRICKS)}")
    order = tuple(trick for trick in order if trick in tricks_of(spec))
    rows: list[dict[str, Any]] = []
    for number in range(len(order) + 1):
        off = [t for t in TRICKS if t not in order[:number]]
        made = labkit_arm.main({**spec, "without": off, "profile": True})
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
    from labkit.bench.step.spec import EMBEDDED, peft_settings, write_samples
    from labkit.models import registry

    folder = registry.resolve(EMBEDDED)
    write_samples(file, folder, length, batch_size * steps)
    return {
        "model": str(folder), "data": str(file), "batch_size": batch_size,
        "bf16": arithmetic.fastest() == "bfloat16",
        "lora": peft_settings(method), "steps": steps,
        "learning_rate": 2e-5, "seed": 42,
    }  # fmt: skip
