"""The calculator answers what `estimate` answers by formula, with a form and without one."""

import re
import subprocess
import sys

import pytest

from labkit.errors import LabkitError
from labkit.memory import figures
from labkit.memory.calculator import VIEW, calculator, fit, fit_html, parameters_of
from labkit.memory.estimates import needed, table, this_device
from labkit.memory.formula import analytic
from labkit.memory.settings import StepSettings

CHOICES = {"method": "lora", "gradient_checkpointing": True, "loss": "chunked", "seq_len": 512}


def test_the_largest_batch_fits_and_the_next_does_not():
    found = fit("llama-3-8b", device="l4", **CHOICES)
    assert found.largest_batch_size > 1
    for extra, fits in ((0, True), (1, False)):
        settings = StepSettings(
            model="llama-3-8b", batch_size=found.largest_batch_size + extra, **CHOICES
        )
        need = needed(analytic(settings).peak_bytes, settings)
        assert (need <= found.device_bytes) is fits
    assert fit("llama-3-8b", device="l4", batch_size=1000, **CHOICES).fits is False


def test_the_form_answers_when_something_is_moved():
    ipywidgets = pytest.importorskip("ipywidgets", reason="part of the lock")
    form = calculator("llama-3-8b", device="t4").form
    fields, answer = form.children
    by_name = {each.description: each for each in fields.children}
    assert isinstance(answer, ipywidgets.HTML) and "does not fit" in answer.value
    by_name["card"].value = "h200"
    assert "<b>fits</b>" in answer.value
    by_name["method"].value = "prefix"
    by_name["checkpointing"].value = True
    assert "choose one of the two" in answer.value
    by_name["checkpointing"].value = False
    by_name["batch"].value = 2
    same = fit("llama-3-8b", device="h200", method="prefix", batch_size=2)
    assert answer.value == fit_html(same)


def test_a_page_without_a_kernel_shows_the_table():
    shown = calculator("phi-1.5", seq_len=2048)._repr_mimebundle_()
    assert {"text/plain", "text/html", VIEW} == set(shown)
    rows = table("phi-1.5", seq_len=2048)
    cells = re.findall(r"<td>([\d–]+)</td>", shown["text/html"])
    wanted = [str(n or "–") for row in rows for n in row.largest_batch_size.values()]
    assert cells == wanted


def test_without_ipywidgets_there_is_the_table_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert set(calculator("phi-1.5")._repr_mimebundle_()) == {"text/plain", "text/html"}


def test_the_site_keeps_the_table_and_drops_the_form(tmp_path):
    import nbformat

    from labkit.course.site import write_notebook

    data = calculator("phi-1.5")._repr_mimebundle_()
    output = nbformat.v4.new_output("display_data", data=data)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=[output])])
    write_notebook(notebook, tmp_path / "lesson.ipynb")
    (kept,) = nbformat.read(tmp_path / "lesson.ipynb", as_version=4).cells[0].outputs
    assert set(kept.data) == {"text/plain", "text/html"}


def test_what_has_no_formula_says_so(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt_neox", "hidden_size": 64}')
    for ask in (lambda: fit(str(tmp_path), device="t4"), lambda: parameters_of(str(tmp_path))):
        with pytest.raises(LabkitError, match="without formulas"):
            ask()
    with pytest.raises(LabkitError, match="did you mean"):
        fit("llama-3-8b", device="a10k")


def test_a_machine_without_a_known_gpu_is_a_cpu(monkeypatch):
    from labkit.memory import estimates

    monkeypatch.setattr(estimates, "gpus", lambda: [{"name": "NVIDIA Imaginary 9000"}])
    assert this_device() == "cpu"
    monkeypatch.setattr(estimates, "gpus", lambda: [{"name": "NVIDIA A100-SXM4-40GB"}])
    assert this_device() == "a100-40gb"


def test_bars_are_as_long_as_the_peaks():
    from labkit import plots
    from labkit.memory.estimates import estimate

    results = {name: estimate("tiny-llama", device="t4", method=name) for name in ("full", "lora")}
    _, axes = plots.new_figure()
    alt = figures.draw_peaks(axes, results)
    ends = {}
    for bar in axes.patches:
        place = round(bar.get_y() + bar.get_height() / 2)
        ends[place] = max(ends.get(place, 0), bar.get_x() + bar.get_width())
    wanted = [results[name].peak_bytes["traced"] / 2**30 for name in ("lora", "full")]
    assert [ends[0], ends[1]] == pytest.approx(wanted)
    assert "full" in alt and "lora" in alt


def test_states_are_drawn_per_parameter_and_stay_below_the_rule():
    from labkit import plots
    from labkit.memory.estimates import estimate

    result = estimate("tiny-llama", device="t4", method="full", seq_len=64)
    _, axes = plots.new_figure()
    alt = figures.draw_states(axes, result)
    tops = [path.get_extents().y1 for area in axes.collections for path in area.get_paths()]
    assert max(tops) == pytest.approx(16, rel=0.02)
    (rule,) = axes.lines
    assert list(rule.get_ydata()) == [18, 18] and "16.1 bytes" in alt


def test_the_longest_bar_is_on_top():
    from labkit import plots
    from labkit.memory.estimates import estimate

    results = {name: estimate("tiny-llama", device="t4", method=name) for name in ("lora", "full")}
    _, axes = plots.new_figure()
    figures.draw_peaks(axes, results)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["lora", "full"]


def test_rows_without_a_figure_are_not_drawn_and_explained_ones_are_hollow():
    from labkit import plots

    row = {"source": "x", "model": "m", "method": "lora", "batch_size": 1, "seq_len": 2,
           "gradient_checkpointing": False, "explain": None, "error": 0.01}  # fmt: skip
    _, axes = plots.new_figure()
    rows = [row, {**row, "error": None}, {**row, "error": -0.2, "explain": "old library"}]
    alt = figures.draw_errors(axes, rows)
    matched, explained = axes.lines[:2]
    assert list(matched.get_xdata()) == [1.0] and list(explained.get_xdata()) == [-20.0]
    assert explained.get_markerfacecolor() == "white"
    assert alt.startswith("Errors of 1 published peaks")


def test_formulas_move_without_torch():
    code = (
        "import sys; from labkit.memory.calculator import calculator\n"
        "calculator('phi-1.5')._repr_mimebundle_(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
