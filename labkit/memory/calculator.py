"""What fits on my card: the formulas behind sliders, with a table for where there are none.

Everything is by formula (`formula`), so an answer is there while a slider moves. In a running
notebook `calculator()` is a form of ipywidgets. On a page without a kernel, such as the course's
site, or where ipywidgets is not installed, the same object shows the table of all methods on
common cards instead: a notebook output may carry several forms of itself, and the reader's
program takes the richest that it can show (Jupyter messaging, "display data").
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from labkit.errors import LabkitError
from labkit.machine.datasheets import DEVICES, GIB
from labkit.memory.architectures import parameters, shape_of
from labkit.memory.estimates import COMMON_GPUS, LABELS, TableRow, largest, needed, settings_for
from labkit.memory.estimates import table as table_of_all
from labkit.memory.formula import analytic
from labkit.memory.settings import StepSettings
from labkit.methods import names
from labkit.models import registry

LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
VIEW = "application/vnd.jupyter.widget-view+json"


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Whether a step fits on a card, by formula. Bytes."""

    parts: dict[str, int]
    peak_bytes: int
    peak_phase: str
    needed_bytes: int
    device_bytes: int
    largest_batch_size: int
    largest_seq_len: int

    @property
    def fits(self) -> bool:
        return self.needed_bytes <= self.device_bytes


def fit(model: str, *, device: str, **choices: Any) -> Fit:
    """Return whether a step of `model` fits on a card of the datasheet table.

    `choices` are fields of `StepSettings`. Raises `LabkitError` for unknown names, combinations
    that exclude each other, and architectures without formulas.
    """
    from labkit.machine.datasheets import find

    card = find(device)
    settings = settings_for(card, model, **choices)
    formula = analytic(settings)
    if formula is None:
        raise LabkitError(f"{model} has an architecture without formulas: use labkit estimate")
    return Fit(
        parts={name: value for name, value in formula.parts.items() if value},
        peak_bytes=formula.peak_bytes,
        peak_phase=formula.peak_phase,
        needed_bytes=needed(formula.peak_bytes, settings),
        device_bytes=card.usable_bytes,
        largest_batch_size=largest(settings, card, 1.0, "batch_size") or 0,
        largest_seq_len=largest(settings, card, 1.0, "seq_len") or 0,
    )


def parameters_of(model: str) -> int:
    """Return the parameters of a model from its numbers alone.

    Raises `LabkitError` for an unknown model, or an architecture without formulas.
    """
    shape = shape_of(StepSettings(model=model))
    if shape is None:
        raise LabkitError(f"{model} has an architecture without formulas")
    return parameters(shape)


def fit_html(found: Fit) -> str:
    """Return an answer as HTML: its parts, its peak, and what would fit."""
    rows = "".join(
        f"<tr><td style='text-align:left'>{LABELS[name]}</td><td>{value / GIB:.2f}</td></tr>"
        for name, value in found.parts.items()
        if value >= GIB // 200
    )
    verdict = "fits" if found.fits else "does not fit"
    return (
        f"<p><b>{verdict}</b>: needs {found.needed_bytes / GIB:.1f} of "
        f"{found.device_bytes / GIB:.1f} GiB, driver and allocator included · largest batch "
        f"{found.largest_batch_size} · longest sample {found.largest_seq_len}</p>"
        f"<table><tr><th style='text-align:left'>part, at its own highest</th><th>GiB</th></tr>"
        f"{rows}<tr><td style='text-align:left'><b>peak (not the sum)</b></td>"
        f"<td><b>{found.peak_bytes / GIB:.2f}</b></td></tr></table>"
    )


def table_html(model: str, rows: Sequence[TableRow], *, seq_len: int) -> str:
    """Return the table of all methods and cards as HTML: the largest batch on each."""
    devices = list(rows[0].largest_batch_size)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in devices)
    body = ""
    for row in rows:
        label = row.method + (" + checkpointing" if row.gradient_checkpointing else "")
        cells = "".join(f"<td>{row.largest_batch_size[name] or '–'}</td>" for name in devices)
        body += (
            f"<tr><td style='text-align:left'>{label}</td>"
            f"<td>{row.peak_bytes / GIB:.1f}</td>{cells}</tr>"
        )
    return (
        f"<table><caption>{html.escape(model)}: largest batch of {seq_len}-token samples by "
        f"formula, – where not even one fits</caption>"
        f"<tr><th style='text-align:left'>method</th><th>GiB at 1</th>{head}</tr>{body}</table>"
    )


class Calculator:
    """A form that answers at once where a kernel runs, and a table everywhere else."""

    def __init__(self, model: str, *, device: str, seq_len: int = 1024) -> None:
        self.model, self.seq_len = model, seq_len
        self.form = _form(model, device=device, seq_len=seq_len)

    def static_html(self) -> str:
        """Return what is shown where nothing can be moved."""
        rows = table_of_all(self.model, devices=COMMON_GPUS, seq_len=self.seq_len)
        return table_html(self.model, rows, seq_len=self.seq_len)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "text/plain": f"what fits: a form for {self.model}",
            "text/html": self.static_html(),
        }
        if self.form is not None:
            shown[VIEW] = {
                "version_major": 2, "version_minor": 0, "model_id": self.form.model_id,
            }  # fmt: skip
        return shown


def calculator(
    model: str = "llama-3-8b", *, device: str = "a100-40gb", seq_len: int = 1024
) -> Calculator:
    """Return the calculator, to be shown as the last value of a notebook cell."""
    return Calculator(model, device=device, seq_len=seq_len)


def _form(model: str, *, device: str, seq_len: int) -> Any:
    """Return the form, or None without ipywidgets."""
    try:
        import ipywidgets
    except ImportError:
        return None
    models = [name for name in registry.known_names() if not name.startswith("tiny-")]
    style = {"description_width": "110px"}
    lengths = sorted({*LENGTHS, seq_len})
    fields = {
        "model": ipywidgets.Dropdown(options=models, value=model, description="model"),
        "device": ipywidgets.Dropdown(options=list(DEVICES), value=device, description="card"),
        "method": ipywidgets.Dropdown(
            options=names(), value=StepSettings.method, description="method"
        ),
        "batch_size": ipywidgets.IntSlider(min=1, max=64, value=4, description="batch"),
        "seq_len": ipywidgets.SelectionSlider(options=lengths, value=seq_len, description="tokens"),
        "gradient_checkpointing": ipywidgets.Checkbox(value=False, description="checkpointing"),
        "loss": ipywidgets.Dropdown(options=("full", "chunked"), description="loss"),
        "optim": ipywidgets.Dropdown(
            options=("adamw_torch_fused", "adamw_torch_foreach", "adamw_bnb_8bit", "sgd"),
            description="optimizer",
        ),
    }
    for each in fields.values():
        each.style = style
    answer = ipywidgets.HTML()

    def update(_: Any = None) -> None:
        choices = {name: each.value for name, each in fields.items()}
        try:
            answer.value = fit_html(fit(choices.pop("model"), **choices))
        except LabkitError as error:
            answer.value = f"<p>{html.escape(str(error))}</p>"

    for each in fields.values():
        each.observe(update, names="value")
    update()
    return ipywidgets.HBox([ipywidgets.VBox(list(fields.values())), answer])
