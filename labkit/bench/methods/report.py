"""Show a comparison of methods: one table, and what is best for its memory or its file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.bench.methods.conclude import conclude
from labkit.errors import LabkitError, read_json

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MIB = 2**20
SIZES = {"peak_bytes": "peak of training (MiB)", "saved_bytes": "saved weights (MiB)"}


def read(file: Path) -> dict[str, Any]:
    """Return a kept record with its conclusions drawn anew from the measurements in it.

    Raises:
        LabkitError: the file is missing, or no record of `labkit bench methods`.
    """
    kept = read_json(file)
    try:
        return {**kept, "rows": conclude(kept)}
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise LabkitError(f"{file} is no record of labkit bench methods: {error}") from None


def table(rows: Sequence[Mapping[str, Any]]) -> "pandas.DataFrame":
    """Return the conclusions as a table, best score first; an arm without runs says why."""
    import pandas

    def points(interval: Mapping[str, float] | None, form: str = "+.1f") -> str:
        if interval is None:
            return "–"
        value, low, high = (format(100 * interval[key], form) for key in ("value", "low", "high"))
        return f"{value} ({low} to {high})"

    def unless(value: Any, form: str) -> str:
        return "–" if value is None else format(value, form)

    shown = {}
    for row in sorted(rows, key=lambda r: -r["em"]["value"] if r["em"] else 1.0):
        if not row["em"]:
            shown[row["arm"]] = {"exact match": f"not possible: {row['reason']}"}
            continue
        forgot, choice = row["forgetting"], row["choice"]
        shown[row["arm"]] = {
            "exact match": f"{100 * row['em']['value']:.1f} %",
            "F1": f"{100 * row['f1']['value']:.1f} %",
            "difference, 95 %": points(row["difference"]),
            "p (Holm)": unless(row["p_holm"], ".2g"),
            "verdict": row["verdict"] or "the reference",
            "bits per byte": f"{forgot['before']:.3f} → {forgot['bits_per_byte']:.3f}",
            "choice": f"{choice['before']:.0%} → {choice['after']:.0%}" if choice else "–",
            "peak, MiB": f"{row['peak_bytes'] / MIB:,.0f}",
            "s a step": unless(row["step_seconds"], ".2f"),
            "trained": f"{row['trained_parameters']:,}",
            "saved, MiB": f"{row['saved_bytes'] / MIB:,.2f}",
            "rate": f"{row['rate']:g}",
            "search, s": f"{row['search_seconds']:.0f}",
            "seeds": f"{row['seeds']}",
        }
    return pandas.DataFrame.from_dict(shown, orient="index").fillna("")


def render(found: Mapping[str, Any]) -> str:
    """Return a record as text: what was run, a paragraph for each arm, and what to mind."""
    grid, rows = found["grid"], found["rows"]
    asked = len(found["reports"])
    lines = [f"{grid['model']}, {grid['data']}: {grid['steps']} steps of {grid['batch_size']} "
             f"reports, {asked} questions of the test split; differences from "
             f"{found['against']}, paired by question"]  # fmt: skip
    frame = table(rows)
    for name, row in frame.iterrows():
        lines.append(f"\n{name}: {row.iloc[0]}")
        lines += [f"  {column:<18}{value}" for column, value in row.iloc[1:].items() if value]
    lines.append("\nIntervals are over reports and seeds; no difference found is not none."
                 if any(row["seeds"] > 1 for row in rows) else
                 "\nOne seed each: intervals are of these trained weights, not of their "
                 "methods.")  # fmt: skip
    return "\n".join(lines)


def draw(rows: Sequence[Mapping[str, Any]]) -> tuple["Figure", str]:
    """Draw exact match against memory and against file size; return figure and alt text.

    Filled: no other arm is as small and as good.
    """
    from labkit import plots

    figure, panels = plots.new_figure(1, 2, width=9.0, height=4.2, sharey=True)
    done = [row for row in rows if row["em"]]
    said = []
    for axes, (size, label) in zip(panels, SIZES.items(), strict=True):
        for row in done:
            on_it, value = row["pareto"][size], 100 * row["em"]["value"]
            ends = [[max(0.0, value - 100 * row["em"]["low"])],
                    [max(0.0, 100 * row["em"]["high"] - value)]]  # fmt: skip
            axes.errorbar(
                [row[size] / MIB], [value], yerr=ends, fmt="o", capsize=2, elinewidth=0.8,
                color=plots.COLOURS["blue" if on_it else "black"],
                markerfacecolor=plots.COLOURS["blue"] if on_it else "white",
            )  # fmt: skip
        sizes = [row[size] for row in done]
        axes.set_xscale("log" if sizes and max(sizes) > 10 * min(sizes) else "linear")
        axes.margins(x=0.1)
        axes.set_xlabel(label)
        best = [row["arm"] for row in done if row["pareto"][size]]
        said.append(f"by {label.split(' (')[0]} {', '.join(best)}")
    panels[0].set_ylabel("exact match (% of questions), 95 %")
    figure.suptitle("Filled: nothing is as small and as good")
    figure.draw_without_rendering()  # so that it is known where the points lie
    for axes, size in zip(panels, SIZES, strict=True):
        _name(axes, [(row["arm"], row[size] / MIB, 100 * row["em"]["value"]) for row in done])
    scores = "; ".join(f"{row['arm']} {100 * row['em']['value']:.0f} %" for row in done)
    return figure, (f"Exact match of fine-tuning methods against memory and file size: {scores}. "
                    f"Best for their size: {'; '.join(said)}.")  # fmt: skip


def _name(axes: "Axes", points: Sequence[tuple[str, float, float]]) -> None:
    """Write a name beside each point, where it covers neither a point nor another name.

    The place is the nearest free one of several to the right and to the left, level or above and
    below; a thin line leads to a name that is not beside its point.
    """
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    to_pixels, panel = axes.transData.transform, axes.bbox
    of_point = {name: to_pixels((x, y)) for name, x, y in points}
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in of_point.values()]
    for name, x, y in sorted(points, key=lambda point: point[1:]):
        label = axes.annotate(
            name, (x, y), xytext=(0, 0), textcoords="offset pixels", va="center", fontsize="small",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )  # fmt: skip
        size = label.get_window_extent()
        wide, high = size.width, size.height
        across, height = of_point[name] - (0, high / 2)
        steps = [step * 0.9 * high for step in (0, 1, -1, 2, -2, 3, -3, 4, -4)]
        tried = [
            (Bbox.from_bounds(across + side, height + up, wide, high), side > 0, up)
            for up in steps for side in (8, -8 - wide)
        ]  # fmt: skip
        inside = [each for each in tried if panel.x0 <= each[0].x0 and each[0].x1 <= panel.x1]
        free = [each for each in inside if not each[0].count_overlaps(taken)]
        box, right, up = (free or inside or tried)[0]
        taken.append(box)
        label.set(ha="left" if right else "right", position=(8 if right else -8, up))
        if abs(up) > high:
            axes.annotate("", (x, y), xytext=(8 if right else -8, up), textcoords="offset pixels",
                          arrowprops={"arrowstyle": "-", "linewidth": 0.5})  # fmt: skip
