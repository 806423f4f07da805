"""Hold what a comparison of two sides finds, and show it as text and as a figure."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from labkit import plots

Row = dict[str, Any]
"""What was found on one data set or task: its keys depend on the test."""


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """What the runs or answers of B show against those of A."""

    kind: str
    """what the sides hold: one of `read.KINDS`"""
    alpha: float
    margin: float | None
    """largest difference of scores that counts as equal"""
    a: str
    b: str
    unit: str
    """what was tested: seconds of a step, of a training, or a question"""
    results: list[Row]
    """name, n, test, ratio or difference {value, low, high}, p_value, p_holm, significant …"""
    a_a: dict[str, Row | None] | None
    """A/A control of each side's runs; None for answers"""
    notes: list[str]
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """Return the JSON of `labkit stats`."""
        return dataclasses.asdict(self)


def render(outcome: Conclusion) -> str:
    """Return the outcome as text: a sentence for each data set or task, the control, notes."""
    lines = [row["sentence"] for row in outcome.results]
    if outcome.a_a is not None:
        for side, row in outcome.a_a.items():
            said = "too few runs to split" if row is None else (
                f"ratio {row['ratio']['value']:.3f} ({row['ratio']['low']:.3f} to "
                f"{row['ratio']['high']:.3f}), p = {row['p_value']:.2g}")  # fmt: skip
            lines.append(f"A/A control, {side.upper()} against itself: {said}")
    return "\n".join([*lines, *(f"note: {note}" for note in outcome.notes)])


def draw(outcome: Conclusion) -> tuple[Any, str]:
    """Draw effects with their intervals, and every run; return the figure and its alt text.

    Metrics in units of their own get panels of their own.
    """
    rows = outcome.results
    runs = "ratio" in rows[0]
    units = list(dict.fromkeys("" if runs else row["unit"] for row in rows))
    figure, axes = plots.new_figure(
        len(units), width=6.8, height=0.7 + 0.8 * len(units) + 0.6 * len(rows), squeeze=False
    )
    for ax, unit in zip(axes[:, 0], units, strict=True):
        _panel(ax, [row for row in rows if runs or row["unit"] == unit], unit, outcome)
    what = "Ratios of times" if runs else "Differences of scores"
    return figure, f"{what} with intervals. {outcome.sentence}"


def _panel(ax: Any, rows: list[Row], unit: str, outcome: Conclusion) -> None:
    runs, scale = "ratio" in rows[0], 100 if unit == "share" else 1
    for place, row in enumerate(rows):
        effect = {k: scale * v for k, v in row["ratio" if runs else "difference"].items()}
        if runs and row["paired"]:
            pairs = [x / y for x, y in zip(row["seconds"]["a"], row["seconds"]["b"], strict=True)]
            ax.plot(pairs, [place + 0.2] * len(pairs), "o", color=plots.COLOURS["sky"],
                    label="one pair" if place == 0 else None)  # fmt: skip
        error = [[effect["value"] - effect["low"]], [effect["high"] - effect["value"]]]
        label = f"{1 - outcome.alpha:.0%} interval" if place == 0 else None
        ax.errorbar(effect["value"], place, xerr=error, color=plots.COLOURS["blue"], marker="D",
                    linestyle="none", capsize=4, label=label)  # fmt: skip
    if outcome.margin and unit == "share":
        ax.axvspan(-100 * outcome.margin, 100 * outcome.margin, color="#d1d9e0", alpha=0.5,
                   label="margin")  # fmt: skip
    ax.axvline(1 if runs else 0, color="black", linewidth=1)
    ax.set_yticks(range(len(rows)), [row["name"] or "all runs" for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlabel("time of A / time of B" if runs else "score of B − score of A (points)"
                  if unit == "share" else f"{unit} of B − {unit} of A")  # fmt: skip
    ax.grid(axis="y", visible=False)
    ax.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
