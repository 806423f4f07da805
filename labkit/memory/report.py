"""One table, three columns: estimates as text and as a figure.

`estimate` and `table` (in `estimates`) make them, `render` and `render_table` write them,
`plot_timeline` draws memory within a step. Bytes become GiB here and nowhere else.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from labkit.machine.datasheets import DEVICES, GIB, MATMUL_SHARE
from labkit.machine.links import LINKS
from labkit.memory.estimates import (
    LABELS,
    Estimate,
    TableRow,
    assumed,
    estimate,
    measured_column,
    table,
)
from labkit.memory.step_time import SPREAD

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Estimate", "TableRow", "estimate", "measured_column", "phase_ticks", "plot_timeline", "render",
    "render_table", "table", "timeline_alt",
]  # fmt: skip

# Okabe and Ito's colours, in an order that keeps neighbours apart, and two more.
COLOURS = {
    "weights": "#0072B2",
    "added_weights": "#56B4E9",
    "weight_copies": "#CC79A7",
    "optimizer_state": "#999999",
    "gradients": "#D55E00",
    "activations": "#009E73",
    "logits_and_loss": "#E69F00",
    "temporary": "#F0E442",
    "optimizer_temporary": "#000000",
    "sharding_buffers": "#882255",
    "inputs": "#DDDDDD",
}
THIN = 0.005
"""the share of a figure's height or width below which a part has no name in its legend"""


def gib(size: int | None) -> str:
    """Return bytes as GiB with two digits, or a dash."""
    return "–" if size is None else f"{size / GIB:.2f}"


def render(result: Estimate) -> str:
    """Return an estimate as text: the columns, the peak, whether it fits, what would, the time."""
    settings = result.settings
    columns = [name for name in ("analytic", "traced", "measured") if name in result.peak_bytes]
    lines = [
        f"{settings.model} · {settings.method} · batch {settings.batch_size} × "
        f"{settings.seq_len} tokens · {result.device}",
        f"{result.total_parameters:,} parameters, {result.trainable_parameters:,} trained",
        f"assumed: {_assumed(result)}",
        "",
        f"{'GiB':34}" + "".join(f"{name:>10}" for name in columns),
    ]
    for name, values in result.parts.items():
        sizes = [values.get(f"{column}_bytes") for column in columns]
        if any(size and size >= GIB // 200 for size in sizes):
            lines.append(f"{LABELS[name]:34}" + "".join(f"{gib(size):>10}" for size in sizes))
    peaks = [result.peak_bytes[column] for column in columns]
    lines.append(f"{'peak (not the sum)':34}" + "".join(f"{gib(size):>10}" for size in peaks))
    if result.peak_bytes["analytic"] is None:
        lines.append("no formula for this architecture: the trace says what its step takes")
    lines += ["", f"peak in {_phase(result.peak_phase)}, at {result.peak_operation}"]
    verb = "fits" if result.fits else "does not fit"
    lines.append(
        f"{verb} on {result.device}: needs {gib(result.needed_bytes)} of "
        f"{gib(result.device_bytes)} GiB, with what driver and allocator take"
    )
    if result.largest_batch_size == 0:
        lines.append(
            f"not even one sample fits: weights and optimizer state alone take "
            f"{gib(_states(result))} GiB"
        )
    elif result.largest_batch_size is not None:
        lines.append(
            f"largest batch at this length: {result.largest_batch_size} · "
            f"longest sample at this batch: {result.largest_seq_len}"
        )
    if result.evaluation_bytes is not None:
        lines.append(
            f"evaluation batch between steps: {gib(result.evaluation_bytes)} GiB · "
            f"key-value cache of generation: {gib(result.kv_cache_bytes)} GiB"
        )
    if result.step_seconds:
        low, high = result.step_seconds
        card = DEVICES.get(result.device)
        share = card.matmul_share if card else MATMUL_SHARE
        beside = ", and what the devices exchange" if result.communication else ""
        lines.append(
            f"step time: {_seconds(low)} to {_seconds(high)} (matrix products at "
            f"{share:.0%} of the peak rate, traffic and launches; up to {SPREAD} times that"
            f"{beside})"
        )
    if result.communication:
        lines.append(_exchanged(result.communication))
    elif settings.num_gpus > 1:
        lines.append("communication is not in it: no link is known between such devices")
    return "\n".join(lines)


def _exchanged(told: dict[str, Any]) -> str:
    """Return in words what a device sends, and how long that takes beside nothing else."""
    sent, seconds = told["bytes"], told["seconds"]
    return (
        f"each device sends {gib(sent['gathered'])} GiB of weights and {gib(sent['reduced'])} GiB "
        f"of gradients a step, {_seconds(seconds['low'])} to {_seconds(seconds['high'])} over "
        f"{LINKS[told['link']].label}"
    )


def _assumed(result: Estimate) -> str:
    """Return in words what the figures rest on."""
    told = assumed(result.settings)
    words = [str(told["dtype"])]
    if told["master_weights"] is not None:
        words.append("fp32 master weights" if told["master_weights"] else "no master weights")
    if told["adapter_dtype"] is not None:
        words.append(f"added weights in {told['adapter_dtype']}")
    if told["attention"] is not None:
        words.append(f"{told['attention']} attention")
    words.append("a padding mask" if told["padding"] else "no padding")
    if "reference" in told:
        words.append(f"two answers a sample, reference {told['reference']}")
    count = told["labelled_tokens"]
    words.append("logits at all positions" if count is None else f"logits at {count} a sample")
    return ", ".join(words)


def _states(result: Estimate) -> int:
    """Return what is there all the time, batch or not."""
    names = ("weights", "added_weights", "optimizer_state")
    return sum(result.parts[name]["traced_bytes"] or 0 for name in names if name in result.parts)


def render_table(model: str, rows: Sequence[TableRow], *, seq_len: int, batch_size: int = 1) -> str:
    """Return the table of all methods and cards as text: the largest batch on each, – for none."""
    devices = list(rows[0].largest_batch_size)
    lines = [
        f"{model}: largest batch of {seq_len}-token samples, by formula (– does not fit)",
        f"{'method':26}{f'GiB at {batch_size}':>9}" + "".join(f"{name:>11}" for name in devices),
    ]
    for row in rows:
        name = row.method + (" + checkpointing" if row.gradient_checkpointing else "")
        cells = [row.largest_batch_size[each] for each in devices]
        lines.append(
            f"{name:26}{gib(row.peak_bytes):>9}" + "".join(f"{cell or '–':>11}" for cell in cells)
        )
    return "\n".join(lines)


def plot_timeline(result: Estimate) -> "Figure":
    """Return a figure of memory within a step: its phases from left to right, parts stacked.

    The dashed line is what the device has. Its alternative text is `timeline_alt(result)`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots()
    names = [name for name, _ in result.timeline]
    moments = range(len(names))
    parts = [part for part in COLOURS if any(values.get(part) for _, values in result.timeline)]
    stacks = [[values.get(part, 0) / GIB for _, values in result.timeline] for part in parts]
    top = max(sum(values.values()) for _, values in result.timeline) / GIB
    # What is too thin to be seen is drawn and not named.
    named = [LABELS[p] if max(s) >= THIN * top else "" for p, s in zip(parts, stacks, strict=True)]
    axes.stackplot(
        moments, stacks, labels=named,
        colors=[COLOURS[part] for part in parts], step="mid", linewidth=0,
    )  # fmt: skip
    limit = result.device_bytes / GIB
    if limit < 3 * top:
        axes.axhline(limit, linestyle="--", color="black", linewidth=1)
        axes.text(0, limit, f" {result.device}", va="bottom", fontsize=8)
    ticks = phase_ticks(names)
    axes.set_xticks(list(ticks), list(ticks.values()), fontsize=8)
    axes.set_xlim(0, len(names) - 1)
    axes.set_ylabel("GiB")
    axes.set_title(f"{result.settings.model}, {result.settings.method}: memory within a step",
                   loc="left", fontsize="medium")  # fmt: skip
    shown = [pair for pair in zip(*axes.get_legend_handles_labels(), strict=True) if pair[1]]
    handles, labels = zip(*shown[::-1], strict=True)
    axes.legend(handles, labels, fontsize=7, loc="center left",
                bbox_to_anchor=(1.0, 0.5), frameon=False)  # fmt: skip
    return figure


def timeline_alt(result: Estimate) -> str:
    """Return the alternative text of `plot_timeline`."""
    largest = max(result.at_peak, key=lambda name: result.at_peak[name])
    return (
        f"Stacked areas of memory over the phases of a training step of "
        f"{result.settings.model} with {result.settings.method}: it peaks at "
        f"{gib(result.peak_bytes['traced'])} GiB in {_phase(result.peak_phase)}, "
        f"where {LABELS[largest]} take most."
    )


def phase_ticks(names: Sequence[str]) -> dict[float, str]:
    """Return the middle of each phase and its label; short ones a line lower, out of the way."""
    words = [name.split(".")[0] for name in names]
    ticks: dict[float, str] = {}
    for word in dict.fromkeys(words):
        first = words.index(word)
        count = words.count(word)
        ticks[first + (count - 1) / 2] = word if count > 3 else f"\n{word}"
    return ticks


def _phase(name: str) -> str:
    words = name.split(".")
    if name == "backward.head":
        return "the backward pass of head and loss"
    if words[-1].isdigit() and words[1] != "embedding":
        return f"the {words[0]} pass of layer {int(words[-1]) + 1}"
    if "embedding" in words:
        return "the backward pass of the embedding"
    return {"optimizer": "the optimizer step", "loss": "the loss"}.get(name, f"the {name} pass")


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"
