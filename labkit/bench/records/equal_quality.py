"""Test whether int8 fine-tuning gives an equally good model: three seeds a side, paired questions.

    labkit train --config full --max-steps 150 --repeat 3 --evaluate --name linear
    labkit train --config full --max-steps 150 --repeat 3 --evaluate --name switchback \\
        --use-switchback true --switchback-min-features 0
    python -m labkit.bench.records.equal_quality linear switchback --output switchback_quality.json

Two models trained from one seed start alike and see the same batches; rounding makes them drift
apart, as another seed would, so a question that one answers and the other does not says little, and
seven hundred of them on three seeds say enough. A question's score on a side is the mean over the
seeds. The test is that of `stats.equivalence` with whole reports as clusters: the difference of
exact match lies within the margin, stated beforehand, with 95 % confidence on either side.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labkit import stats
from labkit.console import run_tool
from labkit.datasets import tatqa
from labkit.datasets.score import score_answer
from labkit.errors import LabkitError
from labkit.files import write_json
from labkit.inference.evaluate import evaluate
from labkit.runs import records

MARGIN = 0.05
SEEDS = (42, 43, 44)


def compare(
    a: str, b: str, *, seeds: Sequence[int] = SEEDS, margin: float = MARGIN
) -> dict[str, Any]:
    """Compare the runs a-seed42… with b-seed42…: runs, seeds and all as the record holds them.

    Evaluations that are kept are used. Raises LabkitError for a run that is missing or not done.
    """
    samples = tatqa.samples(tatqa.load("tables", "test"))
    reports = [sample.report.uid for sample in samples]
    sides: dict[str, list[dict[str, Any]]] = {"a": [], "b": []}
    for side, name in (("a", a), ("b", b)):
        for seed in seeds:
            run = records.load(f"{name}-seed{seed}")
            if run.status != "done":
                raise LabkitError(f"{run.name} is {run.status}, not done: finish it first")
            found = evaluate(run.name, quiet=True)
            given = json.loads(Path(found.predictions).read_text(encoding="utf-8"))
            right = [
                score_answer(values, scale, sample.question)[0]
                for sample in samples
                for values, scale in [given[sample.question.uid]]
            ]
            sides[side].append({
                "name": run.name, "seed": seed, "config": run.config, "model": run.model,
                "versions": run.versions, "hardware": run.hardware,
                "switchback_layers": run.summary["switchback_layers"],
                "losses": [step["loss"] for step in run.steps],
                "right": "".join(str(int(score)) for score in right),
            })  # fmt: skip
    return {"margin": margin, **sides, "reports": reports, **conclude(sides, reports, margin)}


def conclude(
    sides: dict[str, list[dict[str, Any]]], reports: list[str], margin: float
) -> dict[str, Any]:
    """Return em (mean of each side), seeds (one test each) and all (over the seeds' means)."""
    bits = {side: [[int(c) for c in run["right"]] for run in runs] for side, runs in sides.items()}
    means = {
        side: [sum(scores) / len(scores) for scores in zip(*runs, strict=True)]
        for side, runs in bits.items()
    }
    options: dict[str, Any] = {"margin": margin, "clusters": reports}
    return {
        "em": {side: sum(scores) / len(scores) for side, scores in means.items()},
        "seeds": [
            stats.equivalence(x, y, **options) for x, y in zip(bits["a"], bits["b"], strict=True)
        ],
        "all": stats.equivalence(means["a"], means["b"], **options),
    }


def read(file: Path) -> dict[str, Any]:
    """Return a kept comparison with its conclusions drawn anew from the answers in it."""
    kept = json.loads(file.read_text(encoding="utf-8"))
    sides = {side: kept[side] for side in ("a", "b")}
    return {**kept, **conclude(sides, kept["reports"], kept["margin"])}


def sentence(found: dict[str, Any], *, a: str, b: str) -> str:
    """Return the conclusion over all seeds in words; `a` and `b` name the sides."""
    test, em = found["all"], found["em"]
    low, high = (100 * test["difference"][key] for key in ("low", "high"))
    verdict = "equivalent" if test["equivalent"] else "not shown to be equivalent"
    return (
        f"{a} {100 * em['a']:.1f} %, {b} {100 * em['b']:.1f} %: "
        f"{100 * test['difference']['value']:+.1f} points (90 % interval {low:+.1f} to "
        f"{high:+.1f}), {verdict} within {100 * test['margin']:.0f} points"
    )


def draw(axes: Any, found: dict[str, Any], *, a: str, b: str) -> str:
    """Draw the differences of each seed and of all with their 90 % intervals, and the margin.

    Returns the alternative text.
    """
    from labkit import plots

    names = [f"seed {run['seed']}" for run in found["a"]] + ["mean of the seeds"]
    tests = [*found["seeds"], found["all"]]
    margin = 100 * found["margin"]
    axes.axvspan(-margin, margin, color=plots.COLOURS["green"], alpha=0.15)
    axes.axvline(0, color=plots.COLOURS["black"], linewidth=1, marker="", linestyle="-")
    for place, test in enumerate(tests):
        value, low, high = (100 * test["difference"][key] for key in ("value", "low", "high"))
        axes.errorbar([value], [place], xerr=[[value - low], [high - value]], fmt="o", capsize=3,
                      color=plots.COLOURS["blue"])  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(-1.4 * margin, 1.4 * margin)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"exact match, {b} minus {a} (percentage points), with 90 % interval")
    axes.set_title(f"shaded: the margin of {margin:.0f} points")
    return f"Differences of exact match by seed, and the margin. {sentence(found, a=a, b=b)}."


def main(arguments: list[str] | None = None) -> None:
    """Compare the runs and write the record."""
    parser = argparse.ArgumentParser(prog="python -m labkit.bench.records.equal_quality")
    parser.add_argument("a")
    parser.add_argument("b")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    found = compare(options.a, options.b, seeds=options.seeds)
    write_json(options.output, found)
    print(sentence(found, a=options.a, b=options.b))


if __name__ == "__main__":
    run_tool(main)
