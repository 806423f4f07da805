"""What all figures share: colours, marks, alternative text, whole files."""

import base64
import io
from dataclasses import replace
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from PIL import Image

from labkit import plots
from labkit import sweep as sweeping
from labkit.cli import program
from labkit.course import execution
from labkit.errors import LabkitError
from labkit.inference import compare
from labkit.memory import estimates
from labkit.memory.settings import StepSettings
from labkit.sweep import Point, batch_sizes

ALT = "Loss falls from two to one in ten steps."


def a_figure():
    figure, axes = plots.new_figure()
    for offset in range(3):
        axes.plot(np.arange(5) + offset, label=f"run {offset}")
    axes.legend()
    return figure


def test_lines_differ_by_more_than_colour():
    _, axes = plots.new_figure()
    lines = [axes.plot([1, 2])[0] for _ in plots.COLOURS]
    assert len({line.get_color() for line in lines}) == len(lines)
    assert len({line.get_marker() for line in lines}) == len(lines)


def test_a_saved_figure_carries_its_text_and_nothing_of_the_machine(tmp_path):
    path = plots.save_figure(a_figure(), tmp_path / "figures" / "loss", alt=ALT)
    assert path == tmp_path / "figures" / "loss.png"
    assert [p.name for p in path.parent.iterdir()] == ["loss.png"]
    with Image.open(path) as picture:
        assert picture.size == (int(6.4 * plots.DPI), int(3.6 * plots.DPI))
        assert picture.info.pop("Description") == ALT
        assert set(picture.info) <= {"dpi"}


def test_the_same_figure_gives_the_same_bytes():
    assert plots.png(a_figure(), alt=ALT) == plots.png(a_figure(), alt=ALT)


@pytest.mark.parametrize("alt", ["", "a plot"])
def test_a_figure_without_a_text_is_refused(alt, tmp_path):
    with pytest.raises(LabkitError, match="needs an alternative text that says what it shows"):
        plots.save_figure(a_figure(), tmp_path / "loss.png", alt=alt)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "figures").write_text("a file")
    with pytest.raises(LabkitError, match="loss.png cannot be written: "):
        plots.save_figure(a_figure(), tmp_path / "figures" / "loss.png", alt=ALT)


@pytest.mark.parametrize(
    ("name", "file"), [("batch-lr0.1", "batch-lr0.1.png"), ("a.png", "a.png"), ("a.PNG", "a.PNG")]
)
def test_a_name_keeps_its_dots(tmp_path, name, file):
    assert plots.save_figure(a_figure(), tmp_path / name, alt=ALT) == tmp_path / file
    assert [p.name for p in tmp_path.iterdir()] == [file]


@pytest.mark.parametrize("name", ["", ".", "/", "..", "taken", "taken.png", "loss.pdf", "loss.SVG"])
def test_what_is_no_name_for_a_png_is_a_sentence(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for folder in ("taken", "taken.png"):
        (tmp_path / folder).mkdir()
    with pytest.raises(LabkitError, match=r"name a PNG file|end the name in \.png"):
        plots.save_figure(a_figure(), name, alt=ALT)
    assert len(list(tmp_path.iterdir())) == 2 and not list(tmp_path.glob("*/*"))


@pytest.mark.parametrize(
    "command",
    ["sweep tiny-llama --plot", "estimate tiny-llama --method lora --timeline",
     "infer tiny-llama tiny-phi --all --figure"],
)  # fmt: skip
def test_a_figure_that_cannot_be_is_refused_before_anything_is_measured(
    tmp_path, monkeypatch, capsys, command
):
    def measured(*given, **options):
        raise AssertionError("measured first")

    monkeypatch.setattr(batch_sizes, "sweep", measured)
    monkeypatch.setattr(sweeping, "sweep", measured)
    monkeypatch.setattr(estimates, "estimate", measured)
    monkeypatch.setattr(compare, "compare_scores", measured)
    with pytest.raises(SystemExit, match="2"):
        program.main([*command.split(), str(tmp_path)])
    assert capsys.readouterr().err.strip().endswith("is a folder: name a PNG file for the figure")


def look_of(line):
    return line.get_color(), line.get_linestyle(), line.get_marker()


def test_ten_runs_are_ten_lines_that_differ():
    curves = {f"run {n}": [2.0, 1.0 + n / 10] for n in range(10)}
    figure, alt = plots.loss_curves(curves, development={name: [(2, 1.5)] for name in curves})
    bold = [line for line in figure.axes[0].lines if line.get_label() in curves]
    assert len(bold) == 10 == len({look_of(line) for line in bold})
    assert all(f"{name} goes from" in alt for name in curves)
    marks = [line for line in figure.axes[0].lines if "development" in str(line.get_label())]
    assert len({look_of(line) for line in marks}) == 10


def test_ten_variants_of_a_sweep_are_ten_lines_that_differ():
    variants = [StepSettings(model="tiny-llama", gradient_accumulation_steps=n)
                for n in range(1, 11)]  # fmt: skip
    points = [
        Point(settings=replace(variant, batch_size=size), status="done", memory_limit_bytes=None,
              predicted_peak_bytes=10**9, predicted_process_bytes=2 * 10**9, peak_bytes=10**9,
              step_seconds=1.0, steps=3)
        for variant in variants for size in (1, 2)
    ]  # fmt: skip
    figure, alt = plots.batch_sweep(points)
    speeds = figure.axes[0].lines
    assert len(speeds) == 10 == len({look_of(line) for line in speeds})
    assert "10 accumulated: " in alt


def test_ten_models_are_ten_bars_that_differ():
    figure, _ = plots.score_bars({f"model {n}": scored(0.5, 0.1, 1.0) for n in range(10)})
    first = [bars[0] for bars in figure.axes[0].containers if hasattr(bars, "patches")]
    assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in first}) == 10


def test_a_notebook_shows_it_once_with_its_text(tmp_path):
    code = (
        "from labkit import plots\nfigure, axes = plots.new_figure()\n"
        f"axes.plot([2, 1])\nplots.show(figure, alt={ALT!r})"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    execution.execute(notebook, name="figure", cwd=tmp_path, environment={}, say=lambda line: None)
    (output,) = notebook.cells[0].outputs
    assert output.metadata["image/png"]["alt"] == ALT
    with Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))) as shown:
        half = output.metadata["image/png"]["width"]
        assert shown.size[0] == pytest.approx(2 * half, abs=1)


def scored(*shares):
    """Return an `Evaluation`'s scores, over all and by two types of answer."""
    groups = [{"em": {"value": s, "low": s, "high": min(1.0, s + 0.1)}, "n": 9} for s in shares]
    by_type = dict(zip(("count", "span"), groups[1:], strict=True))
    return SimpleNamespace(n=18, metrics=groups[0], by_type=by_type)


def test_a_bar_of_zero_prints_it_where_the_bar_would_stand():
    figure, _ = plots.score_bars({"LoRA": scored(0.5, 0.0, 1.0), "full": scored(0.0, 0.0, 0.2)})
    (axes,) = figure.axes
    places = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches if bar.get_height() == 0]
    assert len(places) == 3
    assert sorted(t.xy[0] for t in axes.texts if t.get_text() == "0") == pytest.approx(
        sorted(places)
    )


@pytest.mark.parametrize("losses", [[3.4, 2.9, 2.1], [2.0, 0.4, 0.07, 0.06], [0.9, 0.8, 0.75]])
def test_losses_stand_on_a_logarithmic_axis_with_numbers(losses):
    marks = {"LoRA": [(2, losses[-1])]}
    figure, alt = plots.loss_curves({"LoRA": losses, "full": losses[::-1]}, development=marks)
    (axes,) = figure.axes
    figure.canvas.draw()
    low, high = axes.get_ylim()
    assert axes.get_yscale() == "log"
    assert any(low <= tick <= high for tick in axes.yaxis.get_majorticklocs())
    assert axes.get_legend_handles_labels()[1] == ["LoRA", "LoRA, development", "full"]
    assert f"development loss ends at {losses[-1]:.2f}" in alt and "logarithmic" in alt
    assert "fall" not in alt, "one of the two rises"


def test_bars_that_are_compared_are_sorted_below_the_first_and_a_line_marks_it():
    values = {"plain": 2.0, "less": 1.0, "more": 3.0, "none": 0.0}
    figure, alt = plots.bars(values, label="GiB", title="One changed", compared=True)
    (axes,) = figure.axes
    figure.canvas.draw()
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names[::-1] == ["plain", "more", "less", "none"]
    assert [line.get_xdata()[0] for line in axes.lines] == [2.0]
    assert "0.00" in [text.get_text() for text in axes.texts], "a bar of nothing says so"
    assert alt.endswith("plain 2.00; more 3.00; less 1.00; none 0.00.")
