"""Figures, drawn from run records only, that everybody can read.

Three rules hold for every figure of the course. Colours are those of Okabe and Ito, which people
with any of the common colour-vision deficiencies tell apart, and no line is told from another by
colour alone: markers and line styles change with it. Every figure has an alternative text that
says what it shows, for those who listen to the page. And a figure is drawn from records, never
from a training loop's variables, so it can be drawn again without training.

Figures are made without pyplot: no global state, no window, nothing to close.

Source: M. Okabe and K. Ito, "Color Universal Design", 2008.
"""

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.errors import LabkitError

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


def style() -> dict[str, Any]:
    """Return the settings every figure is made with, for `matplotlib.rc_context`."""
    from cycler import cycler

    count = len(COLOURS)
    lines = [LINES[i % len(LINES)] for i in range(count)]
    return {
        "axes.prop_cycle": cycler(color=list(COLOURS.values()))
        + cycler(marker=MARKERS)
        + cycler(linestyle=lines),
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

    Raises LabkitError for a missing alternative text, or a folder that cannot be written.
    """
    path = Path(path).with_suffix(".png")
    data = png(figure, alt=alt)
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError as error:
        raise LabkitError(f"{path} cannot be written: {error.strerror}") from None
    return path


def show(figure: "Figure", *, alt: str) -> None:
    """Show a figure in a notebook, half its pixels wide, with its alternative text."""
    from IPython.display import Image, display

    width = round(figure.get_figwidth() * DPI / 2)
    display(Image(png(figure, alt=alt), format="png", width=width, alt=alt))
