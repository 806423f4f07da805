"""Show lessons that were not run here: their text and code, with figures of committed records.

A reader without a kernel sees what a student will measure, and on which machine somebody did. Every
figure is drawn from a record in `data/results`, and says which and on what processor it was made;
what follows from formulas alone is said to be computed. A lesson without either has its text alone.
"""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
from nbformat import NotebookNode

from labkit import plots
from labkit.course import pairing
from labkit.inference.evaluate import Evaluation
from labkit.machine.datasheets import DEVICES, GIB
from labkit.memory.architectures import parameters, shape_of
from labkit.memory.formula import added_parameters, analytic
from labkit.memory.settings import StepSettings
from labkit.methods import METHODS
from labkit.runs.task_settings import Reference
from labkit.train import scaling

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = "preview"
"""of the site: notebooks of lessons that were not run"""
UNTOUCHED = ("majority answer", "untouched, 2 examples")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A figure, and the record that it is drawn from; without one it is computed by formulas."""

    figure: "Figure"
    alt: str
    record: str = ""
    made_on: str = ""

    @property
    def caption(self) -> str:
        """Say where the figure comes from, as a comment."""
        if not self.record:
            return "# computed by the formulas of labkit.memory; nothing was measured"
        return f"# data/results/{self.record}\n# measured on {self.made_on}"


def _read(results: Path, name: str) -> Any:
    return json.loads((results / name).read_text(encoding="utf-8"))


def _made_on(hardware: dict[str, Any]) -> str:
    units = ", ".join(flag for flag in hardware["flags"] if flag in ("avx512f", "amx_bf16"))
    return f"{hardware['cores']} cores of an {hardware['cpu']} ({units or 'AVX2'})"


def _scores(results: Path) -> dict[str, Evaluation]:
    found = _read(results, "lora_vs_full.scores.json")
    return {label: Evaluation(**{"predictions": "", **row}) for label, row in found.items()}


def untouched(results: Path) -> Shown:
    """Draw what the model answers before any training, beside the most frequent answer."""
    name = "lora_vs_full.scores.json"
    found = _scores(results)
    figure, alt = plots.score_bars({label: found[label] for label in UNTOUCHED})
    return Shown(figure=figure, alt=alt, record=name, made_on=_trained_on(results))


def _trained_on(results: Path) -> str:
    return _made_on(_read(results, "lora_vs_full.lora.json")["hardware"])


def traced_against_measured(results: Path) -> Shown:
    """Draw traced peaks against measured ones."""
    name = "memory_validation.json"
    record = _read(results, name)
    rows = record["rows"]["measured"]
    figure, axes = plots.new_figure(width=5.2, height=3.6)
    for (method, colour), marker in zip(
        {"full": "blue", "lora": "vermilion"}.items(), "os", strict=True
    ):
        mine = [row for row in rows if row["method"] == method]
        axes.plot([row["measured_bytes"] / GIB for row in mine],
                  [row["traced_bytes"] / GIB for row in mine],
                  marker, color=plots.COLOURS[colour], linestyle="", label=method,
                  markerfacecolor="none")  # fmt: skip
    ends = [min(row["measured_bytes"] for row in rows) / GIB,
            max(row["measured_bytes"] for row in rows) / GIB]  # fmt: skip
    axes.plot(ends, ends, color="#333333", linewidth=0.8, marker="")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("measured peak of a step (GiB)")
    axes.set_ylabel("traced peak (GiB)")
    axes.set_title("On the line, trace and measurement are equal")
    axes.legend(loc="upper left")
    worst = max(abs(row["error"]) for row in rows)
    alt = (f"Traced against measured peaks of {len(rows)} steps; the largest error is "
           f"{100 * worst:.1f} percent.")  # fmt: skip
    return Shown(figure=figure, alt=alt, record=name, made_on=record["machine"])


def losses(results: Path) -> Shown:
    """Draw the training losses of LoRA and full fine-tuning."""
    runs = {label: _read(results, f"lora_vs_full.{label}.json") for label in ("lora", "full")}
    curves = {label: [step["loss"] for step in run["steps"]] for label, run in runs.items()}
    figure, alt = plots.loss_curves(curves)
    return Shown(figure=figure, alt=alt, record="lora_vs_full.lora.json and .full.json",
                 made_on=_trained_on(results))  # fmt: skip


def scores(results: Path) -> Shown:
    """Draw exact match before and after training, by kind of question."""
    name = "lora_vs_full.scores.json"
    figure, alt = plots.score_bars(_scores(results))
    return Shown(figure=figure, alt=alt, record=name, made_on=_trained_on(results))


def largest_batches(results: Path) -> Shown:
    """Draw the largest batch that was predicted against the largest that ran."""
    name = "largest_batch.json"
    record = _read(results, name)
    rows = record["rows"]
    figure, axes = plots.new_figure(width=5.2, height=3.6)
    most = max(max(row["predicted"], row["measured"]) for row in rows)
    axes.plot([0, most], [0, most], color="#333333", linewidth=0.8, marker="")
    looks = (("lora", "vermilion", "s", -0.15), ("full", "blue", "o", 0.15))
    for method, colour, marker, beside in looks:
        mine = [row for row in rows if row["method"] == method]
        axes.plot([row["measured"] + beside for row in mine], [row["predicted"] for row in mine],
                  marker, color=plots.COLOURS[colour], linestyle="", label=method, alpha=0.6,
                  )  # fmt: skip
    axes.set_xlabel("largest batch that ran (samples)")
    axes.set_ylabel("largest predicted to fit")
    axes.set_title("On the line, the prediction is exact; below, it is safe")
    axes.legend(loc="upper left")
    exact = sum(row["predicted"] == row["measured"] for row in rows)
    above = sum(row["predicted"] > row["measured"] for row in rows)
    alt = (f"Largest batch under a memory limit, predicted against measured, {len(rows)} times: "
           f"{exact} are equal and {above} predictions are too large.")  # fmt: skip
    return Shown(figure=figure, alt=alt, record=name, made_on=_made_on(record["hardware"]))


def int8_ratios(results: Path) -> Shown:
    """Draw the ratio of a layer's step without int8 over with, by tokens, with its interval."""
    name = "switchback_bench.json"
    record = _read(results, name)
    rows = [row for row in record["rows"] if row["weight_scale"] == "row"]
    figure, axes = plots.new_figure(width=6.4, height=3.4)
    modes = {"full": ("blue", "o", 0.97, "trained"), "frozen": ("vermilion", "s", 1.03, "frozen")}
    for mode, (colour, marker, beside, said) in modes.items():
        mine = [row for row in rows if row["mode"] == mode]
        ratios = [row["ratio"] for row in mine]
        axes.errorbar(
            [row["tokens"] * beside for row in mine], [ratio["value"] for ratio in ratios],
            yerr=[[ratio["value"] - ratio["low"] for ratio in ratios],
                  [ratio["high"] - ratio["value"] for ratio in ratios]],
            fmt=marker, color=plots.COLOURS[colour], label=f"{said} weights", capsize=2,
            linestyle="",
        )  # fmt: skip
    axes.axhline(1, color="#333333", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("tokens")
    axes.set_ylabel("time without int8 / with")
    axes.set_title("Above the line, int8 is faster; one mark a layer shape")
    axes.legend()
    won = sum(row["ratio"]["low"] > 1 for row in rows)
    alt = (f"Ratios of a layer's step by tokens with intervals: int8 is faster at {won} of "
           f"{len(rows)} sizes.")  # fmt: skip
    return Shown(figure=figure, alt=alt, record=name, made_on=_made_on(record["facts"]["hardware"]))


def trained_scores(results: Path) -> Shown:
    """Draw exact match of LoRA beside full fine-tuning, by kind of question."""
    name = "lora_vs_full.scores.json"
    found = _scores(results)
    figure, alt = plots.score_bars({label: found[label] for label in ("LoRA", "full")})
    return Shown(figure=figure, alt=alt, record=name, made_on=_trained_on(results))


def trained_numbers(results: Path) -> Shown:
    """Draw which share of a model of 7 billion parameters each method trains."""
    shares = {}
    for method, about in METHODS.items():
        if not about.trains_base:
            step = StepSettings(model="llama-2-7b", method=method)
            shape = shape_of(step)
            assert shape is not None  # of a model of the registry
            shares[method] = 100 * added_parameters(shape, step) / parameters(shape)
    names = sorted(shares, key=lambda name: shares[name])
    figure, axes = plots.new_figure(width=6.4, height=2.8)
    drawn = axes.barh(names, [shares[name] for name in names], color=plots.COLOURS["blue"])
    axes.bar_label(drawn, [f"{shares[name]:.4f}" for name in names], padding=3, fontsize="small")
    axes.set_xscale("log")
    axes.set_xlim(min(shares.values()) / 3, 5 * max(shares.values()))
    axes.set_xlabel("numbers that are trained, percent of Llama 2 7B")
    said = ", ".join(f"{name} {shares[name]:.4f}" for name in names)
    return Shown(figure=figure, alt=f"Numbers that each method trains, in percent: {said}.")


def references(results: Path) -> Shown:
    """Draw the peak of preference tuning by where the reference comes from."""
    card = DEVICES["a100-80gb"]
    step = StepSettings(model="llama-3-8b", method="lora", batch_size=2, seq_len=512)
    kinds: tuple[Reference, ...] = ("adapter_off", "copy", "precomputed")
    counted = {kind: analytic(replace(step, reference=kind)) for kind in kinds}
    peaks: dict[str, int] = {kind: each.peak_bytes for kind, each in counted.items() if each}
    figure, alt = plots.peaks(peaks, limit=card.usable_bytes, limit_label=card.label,
                              title="Llama 3 8B with DPO, by the reference")  # fmt: skip
    return Shown(figure=figure, alt=alt)


def planted_and_kept(results: Path) -> Shown:
    """Draw how many texts of each kind were planted in a corpus, and how many stayed."""
    name = "builder.json"
    record = _read(results, name)
    kinds = sorted(record["kinds"].items(), key=lambda each: each[1][1] / each[1][0])
    figure, axes = plots.new_figure(width=5.6, height=3.6)
    shares = [100 * stayed / planted for _, (planted, stayed) in kinds]
    axes.barh(range(len(kinds)), shares, color=plots.COLOURS["blue"])
    axes.set_yticks(range(len(kinds)), [f"{kind} ({planted})" for kind, (planted, _) in kinds])
    axes.set_xlabel("texts that stayed, percent of those planted")
    said = ", ".join(f"{kind} {share:.0f}" for (kind, _), share in zip(kinds, shares, strict=True))
    alt = f"Percent of the texts of each kind that a build keeps: {said}."
    return Shown(figure=figure, alt=alt, record=name,
                 made_on=_made_on(record["facts"]["hardware"]))  # fmt: skip


def published_times(results: Path) -> Shown:
    """Draw published times of a step on several cards inside the ranges predicted for them."""
    name = "sharded_runs.json"
    record = _read(results, name)
    figure, alt = scaling.published(record["rows"]["time"])
    return Shown(figure=figure, alt=alt, record=name, made_on=record["machine"])


FIGURES: dict[str, tuple[Callable[[Path], Shown], ...]] = {
    "00": (untouched,),
    "01": (traced_against_measured,),
    "02": (losses, scores),
    "03": (largest_batches,),
    "04": (int8_ratios,),
    "05": (trained_scores,),
    "06": (trained_numbers,),
    "07": (references,),
    "08": (published_times,),
    "09": (planted_and_kept,),
}


def notebook(source: Path, results: Path) -> NotebookNode:
    """Return a lesson as it is given out, with the figures of its records after its first cell.

    Figures are left out whose records are not there.
    """
    made = pairing.build(source)
    stored = source.with_suffix(".ipynb")
    if stored.is_file():
        pairing.keep_outputs(made, pairing.read(stored))
    shown = []
    for draw in FIGURES.get(source.stem[:2], ()):
        try:
            shown.append(draw(results))
        except FileNotFoundError:
            continue
    text = "**This page was not run here.** Below are its text and code"
    text += ", and first what the course has on record or can compute." if shown else "."
    cells = [nbformat.v4.new_markdown_cell(text)]
    for number, each in enumerate(shown):
        output = nbformat.v4.new_output(
            "display_data",
            data={"image/png": base64.b64encode(plots.png(each.figure, alt=each.alt)).decode(),
                  "text/plain": each.alt},
            metadata={"image/png": {"alt": each.alt}},
        )  # fmt: skip
        cell = nbformat.v4.new_code_cell(each.caption, outputs=[output])
        # The contents page takes the figure of the first cell that is tagged so.
        cell.metadata["tags"] = ["result"] if number == 0 else []
        cells.append(cell)
    made.cells[1:1] = cells
    return made
