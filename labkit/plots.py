"""Draw figures that everybody can read, from run records only.

Three rules hold for every figure of the course. Colours are those of Okabe and Ito, which people
with any of the common colour-vision deficiencies tell apart, and no line is told from another by
colour alone: markers and line styles change with it. Every figure has an alternative text that
says what it shows, for those who listen to the page. And a figure is drawn from records, never
from a training loop's variables, so it can be drawn again without training.

Figures are made without pyplot: no global state, no window, nothing to close.

Source: M. Okabe and K. Ito, "Color Universal Design", 2008.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from labkit.errors import LabkitError
from labkit.files import appearing, picture_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Black last: the first colours carry the data, black is for reference lines.
COLOURS = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "yellow": "#F0E442",
    "black": "#000000",
}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":")
DPI = 144
GIB = 2**30


def style() -> dict[str, Any]:
    """Return the settings every figure is made with, for `matplotlib.rc_context`."""
    from cycler import cycler

    return {
        "axes.prop_cycle": cycler(color=[*COLOURS.values()], marker=MARKERS, linestyle=LINES * 2),
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": "medium",
        "axes.titlelocation": "left",
        "grid.color": "#d1d9e0",
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.8,
        "lines.markersize": 5,
        "legend.frameon": False,
        "font.size": 10,
        "figure.facecolor": "white",
    }


def new_figure(
    rows: int = 1, columns: int = 1, *, width: float = 6.4, height: float = 3.6, **options: Any
) -> tuple["Figure", Any]:
    """Return a figure in the course's style and its axes; sizes in inches.

    `options` go to `Figure.subplots`, such as sharex=True or squeeze=False.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(style()):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, **options)
    return figure, axes


def look(index: int) -> tuple[str, str, str]:
    """Return colour, line style and marker of one of a figure's lines; the first 32 are unlike."""
    turned = index + index // len(COLOURS)
    colour = [*COLOURS.values()][index % len(COLOURS)]
    return colour, LINES[turned % len(LINES)], MARKERS[turned % len(MARKERS)]


def png(figure: "Figure", *, alt: str) -> bytes:
    """Return a figure as PNG, its alternative text inside the file as its description.

    Nothing else goes into the file's metadata: the same figure gives the same bytes.
    """
    if len(alt.split()) < 3:
        raise LabkitError(
            f"a figure needs an alternative text that says what it shows, not {alt!r}"
        )
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=DPI, metadata={"Description": alt, "Software": None})
    return picture.getvalue()


def save_figure(figure: "Figure", path: str | Path, *, alt: str) -> Path:
    """Write a figure as PNG, whole or not at all, and return its path.

    Raises LabkitError as `picture_file`, and for a missing text or a folder that can't be written.
    """
    path = picture_file(path)
    data = png(figure, alt=alt)
    with appearing(path) as partial:
        partial.write_bytes(data)
    return path


def show(figure: "Figure", *, alt: str) -> None:
    """Show a figure in a notebook, half its pixels wide, with its alternative text."""
    from IPython.display import Image, display

    width = round(figure.get_figwidth() * DPI / 2)
    display(Image(png(figure, alt=alt), format="png", width=width, alt=alt))


def loss_curves(
    curves: dict[str, list[float]],
    *,
    development: dict[str, list[tuple[int, float]]] | None = None,
    window: int = 10,
    log: bool = True,
) -> tuple["Figure", str]:
    """Draw training loss against step, each run thin and its running mean bold.

    `curves` maps a label to the loss of every step, `development` one to (step, loss on the
    development split), drawn as marks. With `log` equal distances are equal ratios. Returns the
    figure and its alt text.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    figure, axes = new_figure(width=6.8, height=3.8)
    said, lowest = [], []
    for index, (label, losses) in enumerate(curves.items()):
        (colour, line, marker), face = look(index), "none" if index % 2 else "full"
        steps = range(1, len(losses) + 1)
        smooth = [mean(losses[max(0, i - window) : i]) for i in steps]
        axes.plot(steps, losses, color=colour, alpha=0.25, linewidth=0.8, linestyle="-", marker="")
        axes.plot(steps, smooth, color=colour, linestyle=line, marker="", label=label)
        said.append(f"{label} goes from {smooth[0]:.2f} to {smooth[-1]:.2f}")
        lowest.append(min(smooth))
        if measured := (development or {}).get(label):
            # Every second mark is hollow and larger, so that one on another hides neither.
            axes.plot(*zip(*measured, strict=True), color=colour, linestyle="", marker=marker,
                      markersize=6 if face == "full" else 10, fillstyle=face,
                      markeredgewidth=1.6, label=f"{label}, development")  # fmt: skip
            said.append(f"its development loss ends at {measured[-1][1]:.2f}")
            lowest.append(min(loss for _, loss in measured))
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (nats per answer token)")
    if log:
        axes.set_yscale("log")
        # A run of a few steps may stay between two powers of ten, and needs numbers there.
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        # A single lucky step need not be in sight.
        axes.set_ylim(0.6 * min(lowest), 1.1 * max(map(max, curves.values())))
    else:
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    bold = f"bold: mean of the last {window} steps"
    axes.set_title(
        f"Loss in training ({bold}) and development" if development else f"Training loss ({bold})"
    )
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2,
                frameon=False)  # fmt: skip
    scale = ", on a logarithmic axis" if log else ""
    return figure, f"Training loss against optimizer step{scale}: {'; '.join(said)}."


def score_bars(scores: Mapping[str, Any]) -> tuple["Figure", str]:
    """Draw exact match with its 95 % interval, overall and by answer type.

    `scores` maps a label to an `Evaluation`. Returns the figure and its alt text.
    """
    first = next(iter(scores.values()))
    groups = ["all", *first.by_type]
    counts = {"all": first.n} | {k: v["n"] for k, v in first.by_type.items()}
    figure, axes = new_figure(width=6.8, height=3.6)
    width = 0.8 / len(scores)
    hatches = ("", "//", "..", "xx", "\\\\", "++")
    for index, (label, outcome) in enumerate(scores.items()):
        metrics = [outcome.metrics["em"]] + [outcome.by_type[g]["em"] for g in groups[1:]]
        values = [100 * m["value"] for m in metrics]
        below = [max(0.0, v - 100 * m["low"]) for v, m in zip(values, metrics, strict=True)]
        above = [max(0.0, 100 * m["high"] - v) for v, m in zip(values, metrics, strict=True)]
        places = [g + (index - (len(scores) - 1) / 2) * width for g in range(len(groups))]
        axes.bar(
            places, values, width, label=label, yerr=[below, above],
            color=look(index)[0], hatch=hatches[index % len(hatches)],
            edgecolor="white", error_kw={"elinewidth": 1, "ecolor": "#333333", "capsize": 2},
        )  # fmt: skip
        for place, value in zip(places, values, strict=True):
            if value == 0:  # a bar that nobody would see, beside its interval
                axes.annotate("0", (place, 0), xytext=(2, 1), textcoords="offset points",
                              fontsize="x-small")  # fmt: skip
    axes.set_xticks(range(len(groups)), [f"{g}\nn = {counts[g]}" for g in groups])
    axes.set_ylabel("exact match (% of questions)")
    axes.set_ylim(0, 128)  # room for the legend above the longest interval
    axes.set_yticks(range(0, 101, 20))
    axes.grid(axis="x", visible=False)
    axes.set_title("Exact match on the test split, with 95 % intervals")
    axes.legend(ncols=2, fontsize="small", loc="upper left")
    said = "; ".join(
        f"{label} {100 * o.metrics['em']['value']:.0f} %" for label, o in scores.items()
    )
    return figure, f"Bars of exact match by answer type with intervals; overall: {said}."


def paired_differences(pairs: Any) -> tuple["Figure", str]:
    """Draw how much better one model is than another, overall and by kind of question.

    `pairs` are `Pair`s of `inference.compare`: a panel for each, a point with its 95 % interval
    for each group. Returns the figure and its alt text.
    """
    groups = list(pairs[0].groups)
    figure, axes = new_figure(
        len(pairs), 1, width=6.8, height=0.9 + (0.5 + 0.27 * len(groups)) * len(pairs),
        sharex=True, squeeze=False,
    )  # fmt: skip
    said = []
    for panel, pair in zip(axes[:, 0], pairs, strict=True):
        rows = [pair.groups[name].difference for name in groups]
        values = [100 * row["value"] for row in rows]
        below = [max(0.0, v - 100 * r["low"]) for v, r in zip(values, rows, strict=True)]
        above = [max(0.0, 100 * r["high"] - v) for v, r in zip(values, rows, strict=True)]
        places = range(len(groups) - 1, -1, -1)
        panel.axvline(0, color=COLOURS["black"], linewidth=1, marker="", linestyle="-")
        panel.errorbar(values, places, xerr=[below, above], fmt="o", color=COLOURS["blue"],
                       capsize=3, linestyle="none")  # fmt: skip
        panel.set_yticks(places, [f"{name} (n = {pair.groups[name].n})" for name in groups])
        panel.set_ylim(-0.6, len(groups) - 0.4)
        panel.grid(axis="y", visible=False)
        a, b = Path(pair.a).name, Path(pair.b).name
        panel.set_title(f"{b} minus {a}")
        low, high = 100 * rows[0]["low"], 100 * rows[0]["high"]
        said.append(f"{b} minus {a}: {values[0]:+.0f} points ({low:+.0f} to {high:+.0f})")
    axes[-1, 0].set_xlabel("difference in exact match (percentage points), with 95 % interval")
    return figure, f"Paired differences by kind of question; over all: {'; '.join(said)}."


def bars(
    values: dict[str, float], *, label: str, title: str, number: str = "{:.2f}",
    compared: bool = False,
) -> tuple["Figure", str]:  # fmt: skip
    """Draw one horizontal bar per entry, with its number at its end.

    `label` names the axis with its unit. With `compared` the first entry is what the others are
    compared with: a line marks it, and they are sorted below it. Returns the figure and its alt
    text.
    """
    if compared:
        first, *others = values
        values = {n: values[n] for n in (first, *sorted(others, key=lambda n: -values[n]))}
    figure, axes = new_figure(width=6.4, height=0.7 + 0.34 * len(values))
    names = list(values)[::-1]
    drawn = axes.barh(names, [values[n] for n in names], color=COLOURS["blue"], height=0.66)
    axes.bar_label(drawn, [number.format(values[n]) for n in names], padding=3, fontsize="small")
    if compared:
        axes.axvline(values[first], color="black", linewidth=1, linestyle=":", marker="")
    axes.set_xlim(0, 1.14 * (max(values.values()) or 1))
    axes.set_xlabel(label)
    axes.grid(axis="y", visible=False)
    axes.set_title(title)
    said = "; ".join(f"{name} {number.format(value)}" for name, value in values.items())
    return figure, f"{title}. {label}: {said}."


def peaks(
    values: dict[str, int], *, limit: int, limit_label: str, title: str
) -> tuple["Figure", str]:
    """Draw a bar per entry, in bytes, sorted below the first, with a line at the first and a limit.

    The first entry is what the others are compared with, `limit` what the device has. Returns the
    figure and its alt text.
    """
    first, *others = values
    names = [first, *sorted(others, key=lambda name: -values[name])][::-1]
    figure, axes = new_figure(width=7.2, height=1.1 + 0.34 * len(values))
    heights = [values[name] / GIB for name in names]
    colours = [COLOURS["vermilion" if values[n] > limit else "blue"] for n in names]
    drawn = axes.barh(names, heights, color=colours, height=0.66)
    axes.bar_label(drawn, [f"{height:.1f}" for height in heights], padding=3, fontsize="small",
                   bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
    axes.axvline(values[first] / GIB, color="black", linewidth=1, linestyle=":")
    axes.axvline(limit / GIB, color="black", linewidth=1.2)
    axes.set_xlim(0, 1.14 * max(*heights, limit / GIB))
    axes.annotate(limit_label, (limit / GIB, 1.0), xycoords=("data", "axes fraction"),
                  xytext=(0, 3), textcoords="offset points", ha="center",
                  fontsize="small")  # fmt: skip
    axes.set_xlabel("peak on one card (GiB)")
    axes.grid(axis="y", visible=False)
    axes.set_title(title, pad=18)
    said = "; ".join(f"{name} {values[name] / GIB:.1f} GiB" for name in names[::-1])
    return figure, f"{title}. {limit_label}: {limit / GIB:.1f} GiB. {said}."


def batch_sweep(points: Sequence[Any]) -> tuple["Figure", str]:
    """Draw throughput and memory against batch size, the predicted memory as a line.

    `points` are those of `labkit.sweep`, of one or more variants; crosses are points that ran out
    of memory. Returns the figure and its alt text.
    """
    figure, (left, right) = new_figure(1, 2, width=8.2, height=4.0)
    said = []
    elsewhere = {p.memory_limit_bytes for p in points if p.status == "predicted"}

    def needs(point: Any) -> int:
        """Return what is compared with a limit: on a card that is not here all it must have."""
        return int(point.predicted_process_bytes if elsewhere else point.predicted_peak_bytes)

    for index, (label, drawn) in enumerate(_by_variant(points).items()):
        colour, line, marker = look(index)
        timed = [p for p in drawn if p.tokens_per_second]
        if timed:
            left.plot(
                [p.batch_size for p in timed], [p.tokens_per_second for p in timed], label=label,
                color=colour, marker=marker, linestyle=line,
            )  # fmt: skip
            best = max(timed, key=lambda p: p.tokens_per_second)
            said.append(f"{label}: {best.tokens_per_second:,.0f} tokens/s at {best.batch_size}")
        ranged = [p for p in drawn if p.predicted_step_seconds and p.fits]
        if ranged:
            sizes = [p.batch_size for p in ranged]
            low, high = ([p.tokens / p.predicted_step_seconds[i] for p in ranged] for i in (1, 0))
            left.fill_between(sizes, low, high, color=colour, alpha=0.25, label=label)
            said.append(f"{label}: {min(low):,.0f} to {max(high):,.0f} tokens/s predicted")
        sizes = [p.batch_size for p in drawn]
        predicted = [needs(p) / GIB for p in drawn]
        right.plot(sizes, predicted, color=colour, linestyle=line, marker="",
                   label=f"{label}, predicted")  # fmt: skip
        kept = [p for p in drawn if p.peak_bytes]
        if kept:
            right.plot([p.batch_size for p in kept], [p.peak_bytes / GIB for p in kept],
                       color=colour, linestyle="", marker=marker,
                       label=f"{label}, measured")  # fmt: skip
        over = [p for p in drawn if not p.fits]
        right.plot([p.batch_size for p in over], [needs(p) / GIB for p in over],
                   color="black", linestyle="", marker="x", markersize=8)  # fmt: skip
        said.append(f"{label}: {predicted[0]:.2f} to {predicted[-1]:.2f} GiB predicted")
    for size in elsewhere:
        said.append(f"the card has {size / GIB:.1f} GiB")
        right.axhline(size / GIB, color="black", linewidth=1.2)
        right.annotate(f"what the card has, {size / GIB:.1f}", (0.0, size / GIB),
                       xycoords=("axes fraction", "data"), xytext=(4, 3),
                       textcoords="offset points", fontsize="small")  # fmt: skip
    memory = "needed on the card (GiB)" if elsewhere else "peak of tensors (GiB)"
    for axes, unit, title in (
        (left, "tokens per second", "Throughput"),
        (right, memory, "Memory (crosses: does not fit)"),
    ):
        axes.set_xticks(sorted({p.batch_size for p in points}))
        axes.set_xlabel("batch size (samples in one pass)")
        axes.set_ylabel(unit)
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])  # whole marks, and room for the limit's name
        axes.set_title(title)
        axes.legend(fontsize="x-small", loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    return figure, f"Throughput and peak memory against batch size. {'; '.join(said)}."


def _by_variant(points: Sequence[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for point in points:
        settings, words = point.settings, [point.settings.method]
        if settings.gradient_checkpointing:
            words.append("checkpointing")
        if settings.gradient_accumulation_steps > 1:
            words.append(f"{settings.gradient_accumulation_steps} accumulated")
        found.setdefault(", ".join(words), []).append(point)
    return found
