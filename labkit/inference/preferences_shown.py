"""Preferences and what tuning on them did, as tables and a figure."""

from collections.abc import Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any

from labkit import plots
from labkit.inference.preferences import Preferences
from labkit.runs.records import RunRecord
from labkit.runs.task_results import LAST_STEPS

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

WINDOW = 5
SHOWN = {"chosen": "chosen", "rejected": "rejected", "margins": "margin"}


def counts(found: Preferences) -> "pandas.DataFrame":
    """Return what became of the questions, a row for each split."""
    import pandas

    return pandas.DataFrame({
        split: {
            "questions": f"{each.questions}", "answers right": f"{each.right:.0%}",
            "always right": f"{each.always_right}", "never right": f"{each.never_right}",
            "pairs": f"{each.pairs}",
        }
        for split, each in found.splits.items()
    }).T  # fmt: skip


def tuned(runs: Mapping[str, RunRecord]) -> "pandas.DataFrame":
    """Return rewards, in nats from the reference too, of each labelled run of preference tuning.

    Means of the last ten steps; the accuracy is that of the last look at the development split.
    """
    import pandas

    rows = {}
    for label, run in runs.items():
        last = run.steps[-LAST_STEPS:]
        mean = {name: fmean(step["rewards"][name] for step in last) for name in SHOWN}
        looked = (run.summary.get("eval_losses") or [{}])[-1].get("preference_accuracy")
        rows[label] = {
            "first loss": f"{run.losses[0]:.4f}",
            "chosen": f"{mean['chosen']:+z.2f}", "rejected": f"{mean['rejected']:+z.2f}",
            "margin": f"{mean['margins']:+z.2f}",
            "nats, chosen": f"{mean['chosen'] / run.config['beta']:+z.1f}",
            "nats, rejected": f"{mean['rejected'] / run.config['beta']:+z.1f}",
            "development pairs": "–" if looked is None else f"{looked:.0%}",
        }  # fmt: skip
    return pandas.DataFrame(rows).T


def rewards(run: RunRecord) -> tuple["Figure", str]:
    """Draw rewards and margin of a run against its steps.

    Returns the figure and its alternative text. Steps are thin, means of the last five bold.
    """
    figure, axes = plots.new_figure(width=6.8, height=3.6)
    steps = [step["step"] for step in run.steps]
    said = []
    for (name, label), colour, line in zip(
        SHOWN.items(), plots.COLOURS.values(), plots.LINES, strict=False
    ):
        values = [step["rewards"][name] for step in run.steps]
        smooth = [fmean(values[max(0, i - WINDOW) : i]) for i in range(1, len(values) + 1)]
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8, linestyle="-", marker="")
        axes.plot(steps, smooth, color=colour, linestyle=line, marker="", label=label)
        said.append(f"{label} ends at {smooth[-1]:+z.2f}")
    axes.axhline(0, color="#333333", linewidth=0.8)
    axes.set_xlabel(f"optimizer step (thin: each; bold: mean of the last {WINDOW})")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel("reward: β · (log π − log π_ref)")
    axes.set_title("Rewards begin at 0: the policy is the reference")
    axes.legend()
    return figure, f"Rewards against optimizer step, all 0 at the first: {', '.join(said)}."


def differences(pairs: Any) -> "pandas.DataFrame":
    """Return the difference of each pair of models on all questions and on each kind, in points."""
    import pandas

    rows: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        for name, each in pair.groups.items():
            value, low, high = (100 * each.difference[key] for key in ("value", "low", "high"))
            rows[f"{pair.b} − {pair.a}: {name}"] = {
                "n": each.n, "points": f"{value:+.1f}", "interval": f"{low:+.1f} to {high:+.1f}",
                "only first right": each.only_a, "only second right": each.only_b,
            }  # fmt: skip
    return pandas.DataFrame(rows).T
