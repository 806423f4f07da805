"""What lesson 01 draws, on axes that `labkit.plots` made: what there is at a peak, and errors.

`draw_peaks` stacks the parts that are there at the moment of each peak, so a bar's length is the
peak and not the sum of parts that never meet. `draw_errors` puts each published figure's error
beside the 8 per cent that this course allows itself; figures that are explained and not matched
are hollow. `draw_states` shows why the sum of the rule of 18 is never there at once.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from labkit.machine.datasheets import GIB
from labkit.memory.estimates import LABELS, Estimate
from labkit.memory.formula import RULE_OF_18
from labkit.memory.report import COLOURS, THIN, phase_ticks

ALLOWED = 0.08


def draw_peaks(axes: Any, results: Mapping[str, Estimate]) -> str:
    """Draw one bar per estimate, the largest on top; return the alternative text.

    Each bar stacks the parts that are there at the peak. The dashed line is what the first
    estimate's device has.
    """
    labels = sorted(results, key=lambda label: sum(results[label].at_peak.values()))
    parts = [
        part for part in COLOURS if any(each.at_peak.get(part, 0) for each in results.values())
    ]
    start = [0.0] * len(labels)
    longest = max(sum(each.at_peak.values()) for each in results.values()) / GIB
    for part in parts:
        sizes = [results[label].at_peak.get(part, 0) / GIB for label in labels]
        # What is too thin to be seen is drawn and not named.
        name = LABELS[part] if max(sizes) >= THIN * longest else None
        axes.barh(labels, sizes, left=start, color=COLOURS[part], label=name, height=0.62)
        start = [a + b for a, b in zip(start, sizes, strict=True)]
    for place, total in enumerate(start):
        axes.text(total, place, f" {total:.1f}", va="center", fontsize="small")
    card = next(iter(results.values()))
    limit = card.device_bytes / GIB
    axes.axvline(limit, color="black", linestyle="--", linewidth=1)
    axes.text(limit, -0.62, f" {card.device}", fontsize="small")
    axes.set_ylim(-0.7, len(labels) - 0.4)
    axes.set_xlim(0, 1.12 * max(*start, limit))
    axes.set_xlabel("GiB at the peak of a step")
    axes.grid(axis="y", visible=False)
    axes.legend(
        fontsize="x-small", ncols=3, loc="lower left", bbox_to_anchor=(0, 1.0), frameon=False
    )
    said = "; ".join(f"{label} {total:.1f} GiB" for label, total in zip(labels, start, strict=True))
    return f"Stacked bars of what there is at the peak of a step: {said}."


STATES = ("weights", "optimizer_state", "gradients", "weight_copies")


def draw_states(axes: Any, result: Estimate) -> str:
    """Draw the states of a step in bytes per parameter, moment by moment; return the alternative.

    The dashed line is the sum of the rule of 18, which counts every line as if all were there.
    """
    count = result.total_parameters
    moments = range(len(result.timeline))
    rows = [[values.get(part, 0) / count for _, values in result.timeline] for part in STATES]
    highest = max(map(sum, zip(*rows, strict=True)))
    rule = sum(RULE_OF_18.values())
    axes.stackplot(
        moments, rows, labels=[LABELS[part] for part in STATES],
        colors=[COLOURS[part] for part in STATES], step="mid", linewidth=0,
    )  # fmt: skip
    axes.axhline(rule, color="black", linestyle="--", linewidth=1, marker="")
    axes.text(0, rule, f" the rule: {rule} bytes", va="bottom", fontsize="small")
    axes.set_ylim(0, 1.13 * rule)
    axes.set_yticks(range(0, rule + 1, 2))
    axes.set_xlim(0, len(moments) - 1)
    ticks = phase_ticks([name for name, _ in result.timeline])
    axes.set_xticks(list(ticks), list(ticks.values()), fontsize="small")
    axes.set_ylabel("bytes per parameter")
    axes.set_title(
        f"{result.settings.model}, full fine-tuning: the states within a step", loc="left"
    )
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], fontsize="small", loc="center left",
                bbox_to_anchor=(1.0, 0.5), frameon=False)  # fmt: skip
    return (
        "Stacked areas of the states over the phases of a step, in bytes per parameter. The "
        "16-bit copies shrink while the gradients grow; together they reach "
        f"{highest:.1f} bytes and never the {rule} of the rule."
    )


def draw_errors(axes: Any, rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw the error of each published row with a figure, sorted; return the alternative text."""
    rows = sorted((row for row in rows if row["error"] is not None), key=lambda row: -row["error"])
    places = range(len(rows))[::-1]
    for explained, face in ((False, "#0072B2"), (True, "white")):
        chosen = [
            (p, r) for p, r in zip(places, rows, strict=True) if bool(r["explain"]) == explained
        ]
        axes.plot(
            [100 * row["error"] for _, row in chosen], [place for place, _ in chosen],
            linestyle="", marker="o", markerfacecolor=face, color="#0072B2",
            label="explained, not matched" if explained else "compared",
        )  # fmt: skip
    axes.axvspan(-100 * ALLOWED, 100 * ALLOWED, color="#999999", alpha=0.2, linewidth=0)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(list(places), [row_label(row) for row in rows], fontsize="x-small")
    axes.set_xlim(-30, 12)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel("traced against published (%); grey: the 8 % allowed")
    axes.legend(fontsize="small", ncols=2, loc="lower left", bbox_to_anchor=(0, 1.0), frameon=False)
    compared = [abs(row["error"]) for row in rows if not row["explain"]]
    return (
        f"Errors of {len(compared)} published peaks, the largest {100 * max(compared):.1f} per "
        f"cent; {len(rows) - len(compared)} rows of an older library are further off."
    )


def row_label(row: Mapping[str, Any]) -> str:
    """Return a published row in a few words."""
    method = row["method"]
    if row.get("double_quant"):
        method += ", double quant."
    if row["gradient_checkpointing"]:
        method += ", checkpointing"
    return f"{row['source']}: {row['model']}, {method}, {row['batch_size']} × {row['seq_len']}"
