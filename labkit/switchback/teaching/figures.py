"""Draw the figures of lesson 04 on axes from `labkit.plots`, and read the published timings.

Ratios are 16-bit time / SwitchBack time throughout: above 1 SwitchBack is faster. The original's
plots show the time *saved*, 1 - t8/t16, where a saving of 33 % is a ratio of 1.5; two figures can
only be compared once they say which of the two they show. A ratio has a ceiling that needs no
measuring: with int8 at twice the rate of 16 bit on two of three matmuls, 3 / (½ + ½ + 1) = 1.5.

Source of the timings: see `data/switchback_published.json`.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labkit.switchback.teaching.noise import Row, below_y

KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def published_rows(data_dir: Path) -> tuple[list[Row], list[Row]]:
    """Return the published layer ratios (one row per width and token count) and fine-tuning ratios.

    A width's row is the mean of its two MLP orientations, width → 4·width and back, as in the
    original's plots. Layer rows: width, tokens, ratio_tensor, ratio_row, quantize_share (of the
    "tensor" time). Fine-tuning rows: data, ratio, saving.
    """
    published = json.loads((data_dir / "switchback_published.json").read_text(encoding="utf-8"))
    times: dict[tuple[int, int], dict[str, float]] = {}
    for row in published["a100_layer"]["rows"]:
        ms = row["milliseconds"]
        key = min(row["in_features"], row["out_features"]), row["tokens"]
        total = times.setdefault(key, {"fp16": 0, "tensor": 0, "row": 0, "quantize": 0})
        total["fp16"] += ms["fp16_y"] + ms["fp16_dx"] + ms["fp16_dw"]
        for scale in ("tensor", "row"):
            quantize = ms["quantize_x"] + ms["quantize_g"]
            quantize += ms[f"quantize_w_{scale}"] + ms[f"quantize_wt_{scale}"]
            int8 = ms[f"int8_y_{scale}"] + ms[f"int8_dx_{scale}"]
            total[scale] += int8 + quantize + ms["fp16_dw"]
            total["quantize"] += quantize if scale == "tensor" else 0
    layers = [
        {
            "width": width,
            "tokens": tokens,
            "ratio_tensor": total["fp16"] / total["tensor"],
            "ratio_row": total["fp16"] / total["row"],
            "quantize_share": total["quantize"] / total["tensor"],
        }
        for (width, tokens), total in sorted(times.items())
    ]
    tunings = [
        {
            "data": row["data"],
            "ratio": row["linear_minutes"] / row["switchback_minutes"],
            "saving": 1 - row["switchback_minutes"] / row["linear_minutes"],
        }
        for row in published["fine_tuning"]["rows"]
    ]
    return layers, tunings


def draw_published(axes: Sequence[Any], layers: Sequence[Row], tunings: Sequence[Row]) -> str:
    """Draw layer ratios against width, a line per token count, and fine-tuning ratios beside.

    Returns the alt text.
    """
    left, right = axes
    widths = sorted({row["width"] for row in layers})
    for tokens in sorted({row["tokens"] for row in layers}):
        ratios = [row["ratio_tensor"] for row in layers if row["tokens"] == tokens]
        left.plot(widths, ratios, label=f"{tokens:,} tokens")
    left.set_xscale("log")
    left.set_xticks(widths, [str(w) for w in widths])
    left.minorticks_off()
    left.set(xlabel="width of the layer", ylabel="fp16 time / SwitchBack time")
    left.set_title("A100, one layer, sum of its parts")
    left.legend(loc="lower right")
    names = [row["data"] for row in tunings]
    right.plot(names, [row["ratio"] for row in tunings], linestyle="none", markersize=8)
    for place, row in enumerate(tunings):
        right.annotate(
            f"{row['ratio']:.3f}×",
            (place, row["ratio"]),
            xytext=(0, 9),
            textcoords="offset points",
            ha="center",
        )
    right.set(xlabel="data set", xlim=(-0.5, len(names) - 0.5))
    right.set_title("A40, TinyLlama, a whole training")
    for ax in (left, right):
        ax.set_ylim(0.8, 1.6)
        ax.axhline(1.0, color="black", linewidth=1)
        ax.axhline(1.5, color="black", linewidth=1, linestyle=":")
    right.text(0.03, 1.51, "ceiling 1.5×", transform=right.get_yaxis_transform(), va="bottom")
    right.text(0.03, 0.99, "no difference", transform=right.get_yaxis_transform(), va="top")
    ranked = sorted(layers, key=lambda row: row["ratio_tensor"])
    said = [f"{row['ratio_tensor']:.2f} at width {row['width']} and {row['tokens']:,} tokens"
            for row in (ranked[0], ranked[-1])]  # fmt: skip
    whole = sorted(row["ratio"] for row in tunings)
    return (f"Published ratios of 16-bit time to SwitchBack's: single layers on an A100 from "
            f"{said[0]} to {said[1]}; whole trainings on an A40 from {whole[0]:.2f} to "
            f"{whole[-1]:.2f}.")  # fmt: skip


def draw_noise(axes: Sequence[Any], made_up: Sequence[Row], outlier: Sequence[Row]) -> str:
    """Draw noise (rms) and SNR against the inner dimension, without and with an outlier feature.

    Returns the alt text.
    """
    for label, rows in (("Gaussian", made_up), ("with one outlier feature", outlier)):
        inner = [row["inner"] for row in rows]
        axes[0].plot(inner, [row["noise_rms"] for row in rows], label=label)
        axes[1].plot(inner, [row["snr_db"] for row in rows], label=label)
    axes[0].set(ylabel="noise of the product (rms)", yscale="log")
    axes[1].set(ylabel="signal / noise (dB)", ylim=(0, 50))
    inner = [row["inner"] for row in made_up]
    for ax in axes:
        ax.set_xscale("log", base=2)
        ax.set_xticks(inner, [str(k) for k in inner])
        ax.set_xlabel("inner dimension")
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].legend()
    ends = made_up[0], made_up[-1]
    noise = " to ".join(f"{row['noise_rms']:.2g}" for row in ends)
    said = [f"{rows[-1]['snr_db']:.0f} dB {how} an outlier feature"
            for rows, how in ((made_up, "without"), (outlier, "with"))]  # fmt: skip
    return (f"The noise of an int8 product goes from {noise} between inner dimensions of "
            f"{inner[0]:,} and {inner[-1]:,}; at the largest the signal-to-noise ratio is "
            f"{said[0]} and {said[1]}.")  # fmt: skip


def draw_weight_gradients(
    figure: Any, axes: Sequence[Any], gradients: dict[str, list[Row]], table: Sequence[Row]
) -> str:
    """Draw the SNR of dW against tokens, a panel a layer, beside that of Y; return the alt text.

    `gradients` holds `weight_gradient_noise` by layer, `table` the `layer_table` of these layers.
    """
    y = {row["layer"]: row["y_row_db"] for row in table}
    for ax, (name, rows) in zip(axes, gradients.items(), strict=True):
        for precision, label in (("int8", "dW in int8"), ("bfloat16", "dW in 16 bit")):
            mine = [row for row in rows if row["precision"] == precision]
            tokens = [row["tokens"] for row in mine]
            ax.plot(tokens, [row["snr_db"] for row in mine], label=label)
        ax.axhline(y[name], color="black", linestyle="--", linewidth=1.2, marker="",
                   label="Y in int8")  # fmt: skip
        ax.set_title(_short(name))
        ax.set_xscale("log", base=2)
        shown = tokens[::2] if len(tokens) > 5 else tokens
        ax.set_xticks(shown, [str(t) for t in shown])
        ax.minorticks_off()
    axes[0].set_ylim(bottom=min(0.0, *y.values()))
    figure.supxlabel("tokens summed", fontsize="medium")
    figure.supylabel("signal / noise (dB)", fontsize="medium")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    below = below_y(gradients, table)[-1]
    return (
        "Precision of int8 weight gradients against the tokens summed, for "
        f"{below['layers']} layers, beside that of Y and of 16 bit: with "
        f"{below['tokens']:,} tokens it is below that of Y in {below['below']} of them."
    )


def draw_layers(figure: Any, axes: Sequence[Any], table: Sequence[Row]) -> str:
    """Draw four maps, kind of layer by depth: outliers of X, SNR of Y, and what "tensor" costs.

    Light is where int8 has a hard time, in all of them. Returns the alt text.
    """
    depths = sorted({row["depth"] for row in table})
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in table)]
    found = {(row["kind"], row["depth"]): row for row in table}
    maps = (
        ("outlier factor of X (log₂)", "cividis", lambda row: math.log2(row["x_outlier"])),
        ("SNR of Y, a scale per row (dB)", "cividis_r", lambda row: row["y_row_db"]),
        ("Y: dB lost with one scale for W", "cividis",
         lambda row: row["y_row_db"] - row["y_tensor_db"]),
        ("dX: dB lost with one scale for W", "cividis",
         lambda row: row["dx_row_db"] - row["dx_tensor_db"]),
    )  # fmt: skip
    for ax, (title, colours, value) in zip(axes, maps, strict=True):
        values = [
            [value(found[k, d]) if (k, d) in found else math.nan for d in depths] for k in kinds
        ]
        image = ax.imshow(values, aspect="auto", cmap=colours, interpolation="nearest")
        ax.set_yticks(range(len(kinds)), kinds)
        ax.set_title(title)
        ax.grid(False)
        figure.colorbar(image, ax=ax, pad=0.01)
    axes[-1].set_xlabel("depth (block of the model)")
    said = []
    for title, colours, value in maps:
        ranked = sorted(table, key=value)
        row = ranked[0 if colours.endswith("_r") else -1]  # the lightest field
        said.append(f"{title} {value(row):.1f} in {row['kind']} of block {row['depth']}")
    return f"Maps of {len(table)} layers by kind and depth; the hardest in each: {'; '.join(said)}."


def print_table(rows: Sequence[Row], columns: dict[str, str]) -> None:
    """Print rows as a table: `columns` maps a key to the format of its values."""
    cells = [[format(row[key], spec) for key, spec in columns.items()] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for line in [list(columns)] + cells:
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)))


def _short(layer: str) -> str:
    parts = layer.split(".")
    depth = next((part for part in parts if part.isdigit()), "")
    return f"block {depth}, {parts[-1]}" if depth else parts[-1]


def draw_rejections(ax: Any, found: dict[str, dict[str, bool]]) -> str:
    """Draw which test (a column) rejects which layer (a row); return the alt text."""
    tests = list(next(iter(found.values())))
    values = [[float(row[test]) for test in tests] for row in found.values()]
    ax.imshow(values, aspect="auto", cmap="Blues", vmin=0, vmax=1.3, interpolation="nearest")
    for y, row in enumerate(found.values()):
        for x, test in enumerate(tests):
            ax.text(x, y, "rejects" if row[test] else "·", ha="center", va="center",
                    color="white" if row[test] else "black", fontsize="small")  # fmt: skip
    ax.set_xticks(range(len(tests)), tests)
    ax.set_yticks(range(len(found)), list(found))
    ax.set_xlabel("test")
    ax.grid(False)
    counts = ", ".join(f"{test} {sum(row[test] for row in found.values())}" for test in tests)
    return f"Which test rejects which of {len(found)} layers; layers rejected by each: {counts}."
