"""Render a benchmark as a text table and as figures on axes from `labkit.plots`.

A ratio is baseline time / SwitchBack time: above 1 int8 is faster. A size counts as won or lost
only where its p-value, adjusted for all sizes, is below 0.05; otherwise it is marked "≈".
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from labkit.bench.paired import interval

ALPHA = 0.05
Row = dict[str, Any]

# Okabe and Ito's colours, with a hatch, so that no part is told by its colour alone.
PART_COLOURS = {
    "Y": ("#0072B2", ""),
    "dX": ("#56B4E9", ""),
    "dW, not in int8": ("#009E73", "//"),
    "quantise X and G": ("#E69F00", ".."),
    "quantise and order W": ("#D55E00", "xx"),
}

# The parts of a step, from those without int8 and those of int8 (see `layers.parts`), in order.
GROUPS = {
    "Y": ("{float}_y", "packed_y", "int8_y"),
    "dX": ("{float}_dx", "packed_dx", "int8_dx"),
    "dW, not in int8": ("{float}_dw",),
    "quantise X and G": ("quantize_x", "quantize_g"),
    "quantise and order W": (
        "pack_w_{scale}",
        "pack_wt_{scale}",
        "quantize_w_{scale}",
        "quantize_wt_{scale}",
    ),
}


_SAID = {"full": "trained weights", "frozen": "frozen weights"}


def verdict(row: Row) -> str:
    """Return faster, slower or ≈ (no difference found), with 48 questions in mind."""
    if row["p_holm"] >= ALPHA:
        return "≈"
    return "faster" if row["ratio"]["value"] > 1 else "slower"


def render(outcome: dict[str, Any]) -> str:
    """Return the outcome of `switchback` as text."""
    lines = [
        "time of the fastest way without int8 / time of SwitchBack, with 95 % intervals",
        f"{'tokens':>7} {'shape':>11} {'mode':<7} {'scale':<7} {'against':<24} {'its time':>9} "
        f"{'int8':>9}  {'ratio':<22} {'':<7} {'A/A':<22}",
    ]
    for row in outcome["rows"]:
        seconds = row["seconds"]
        shape = f"{row['in_features']}→{row['out_features']}"
        lines.append(
            f"{row['tokens']:>7,} {shape:>11} {row['mode']:<7} {row['weight_scale']:<7} "
            f"{row['baseline']:<24} {seconds['baseline'] * 1e3:>6.2f} ms "
            f"{seconds['candidate'] * 1e3:>6.2f} ms  {interval(row['ratio']):<22} "
            f"{verdict(row):<7} {interval(row['a_a']):<22}"
        )
    lines += ["", *split_lines(outcome["rows"]), *control_lines(outcome["rows"])]
    if outcome["end_to_end"] is not None:
        lines += ["", end_to_end_line(outcome["end_to_end"])]
    return "\n".join(lines)


def split_lines(rows: Sequence[Row]) -> list[str]:
    """Say in lines which types were left out, and what tiles gave the opponents that have them."""
    lines = []
    said = {(way, why) for row in rows for way, why in row.get("left_out", {}).items()}
    for way in dict.fromkeys(way for way, _ in sorted(said)):
        reasons = sorted({why for name, why in said if name == way})
        lines.append(f"not tried: {way} ({reasons[0]}{', and the like' * (len(reasons) > 1)})")
    for row in rows:
        tiles = (row.get("split") or {}).get("tiles")
        if tiles is not None:
            size = f"{row['tokens']:,} {row['in_features']}→{row['out_features']}"
            both = row["ratio"]["value"] * tiles["value"]
            lines.append(
                f"{size} {row['mode']} {row['weight_scale']}: "
                f"int8 gives {interval(row['ratio'])}, "
                f"dW on tiles {interval(tiles)}; without tiles for the opponent {both:.2f}×"
            )
    return lines


def control_lines(rows: Sequence[Row]) -> list[str]:
    """Summarise the A/A controls of all sizes in lines."""
    from labkit import stats

    sizes = {(r["tokens"], r["in_features"], r["out_features"], r["mode"]): r for r in rows}
    p_values = [row["a_a_p_value"] for row in sizes.values()]
    alarms, firm = sum(p < ALPHA for p in p_values), sum(p < ALPHA for p in stats.holm(p_values))
    said = f"A/A control: {alarms} of {len(sizes)} sizes differ from themselves at p < {ALPHA}"
    said += f" ({ALPHA * len(sizes):.1f} expected by chance), {firm} after Holm's adjustment"
    return [said + (": do not trust this table." if firm else ".")]


def end_to_end_line(found: dict[str, Any]) -> str:
    """Summarise the training runs in a sentence."""
    ratio, same = found["ratio"], found["a_a"]
    clean = same["low"] <= 1 <= same["high"] or found["a_a_p_value"] >= ALPHA
    kind = {"bfloat16": "16 bit", "float32": "float32"}[found.get("dtype", "bfloat16")]
    tiles = (found.get("split") or {}).get("tiles")
    more = "" if tiles is None else f"; of its opponent's own, dW on tiles gives {interval(tiles)}"
    return (
        f"end to end, a Llama of {found['layers']} layer{'s' * (found['layers'] > 1)} "
        f"with {found['parameters'] / 1e6:.1f} M "
        f"parameters, {found['tokens']:,} tokens a step: "
        f"{found['seconds']['baseline']:.3g} s in {kind}, "
        f"{found['seconds']['candidate']:.3g} s with SwitchBack, ratio {interval(ratio)}, "
        f"p = {found['p_value']:.2g} over {found['pairs']} pairs of processes; "
        f"A/A {interval(same)}{'' if clean else ': the control failed, trust nothing here'}{more}"
    )


def step_parts(row: Row, *, int8: bool, scale: str = "row", frozen: bool = False) -> Row:
    """Return seconds by group of GROUPS for one step, from a row of `kernels`.

    With `frozen` there is no dW and W is not quantised at every step.
    """
    taken = row["seconds"]
    kind = float_type(row)
    found: Row = {}
    for group, names in GROUPS.items():
        if frozen and group in ("dW, not in int8", "quantise and order W"):
            continue
        names = tuple(name.format(scale=scale, float=kind) for name in names)
        if not int8:
            chosen = [name for name in names if name.startswith(f"{kind}_")]
        elif group in ("Y", "dX"):
            # A backend that orders weights multiplies by those.
            chosen = [next(n for n in names[1:] if n in taken)]
        elif "order" in group:
            packs = [n for n in names if n.startswith("pack_") and n in taken]
            chosen = packs or [n for n in names if n.startswith("quantize_")]
        else:
            chosen = list(names)
        if chosen:
            found[group] = sum(taken[name] for name in chosen)
    return found


def float_type(row: Row) -> str:
    """Return the type that a row of `kernels` compares int8 with: bf16 or float32."""
    return "float32" if "float32_y" in row["seconds"] else "bf16"


def render_kernels(outcome: dict[str, Any]) -> str:
    """Return the outcome of `kernels` as text: milliseconds of every part."""
    names = list(dict.fromkeys(n for row in outcome["rows"] for n in row["seconds"]))
    sizes = [f"{r['tokens']:,}·{r['in_features']}→{r['out_features']}" for r in outcome["rows"]]
    width = max(10, *map(len, sizes))
    lines = [f"milliseconds (backend {outcome['rows'][0]['backend']})",
             f"{'':<20} " + " ".join(f"{size:>{width}}" for size in sizes)]  # fmt: skip
    for name in names:
        cells = [f"{row['seconds'][name] * 1e3:>{width}.2f}" for row in outcome["rows"]]
        lines.append(f"{name:<20} " + " ".join(cells))
    same = [f"{row['a_a']['value']:>{width}.2f}" for row in outcome["rows"]]
    return "\n".join([*lines, f"{'A/A ratio':<20} " + " ".join(same)])


def draw_heatmaps(figure: Any, axes: Iterable[Any], rows: Sequence[Row]) -> str:
    """Draw the ratio by shape and tokens, a map for each mode and scale; return the alt text.

    Light is where int8 has a hard time, as in the lesson's other maps. `axes` are four: full row,
    full tensor, frozen row, frozen tensor.
    """
    from matplotlib.colors import Normalize

    axes = list(axes)  # `axes.flat` can be read once
    tokens = sorted({row["tokens"] for row in rows})
    shapes = list(dict.fromkeys((row["in_features"], row["out_features"]) for row in rows))
    limit = max(0.1, *(abs(math.log2(row["ratio"]["value"])) for row in rows))
    groups = [(mode, scale) for mode in ("full", "frozen") for scale in ("row", "tensor")]
    for ax, (mode, scale) in zip(axes, groups, strict=True):
        found = {
            (r["in_features"], r["out_features"], r["tokens"]): r
            for r in rows
            if (r["mode"], r["weight_scale"]) == (mode, scale)
        }
        values = [
            [math.log2(found[*shape, t]["ratio"]["value"]) for t in tokens] for shape in shapes
        ]
        image = ax.imshow(values, aspect="auto", cmap="cividis_r", norm=Normalize(-limit, limit))
        for y, shape in enumerate(shapes):
            for x, count in enumerate(tokens):
                row = found[*shape, count]
                dark = values[y][x] > 0
                mark = " ≈" if verdict(row) == "≈" else ""
                ax.text(x, y, f"{row['ratio']['value']:.2f}{mark}", ha="center", va="center",
                        color="white" if dark else "black")  # fmt: skip
        ax.set_xticks(range(len(tokens)), [f"{t:,}" for t in tokens])
        ax.set_yticks(range(len(shapes)), [f"{a}→{b}" for a, b in shapes])
        ax.set_title(f"{_SAID[mode]}, scale per {scale}")
        ax.grid(False)
        if mode == "frozen":
            ax.set_xlabel("tokens")
    ticks = [r for r in (0.1, 0.25, 0.5, 0.7, 1, 1.4, 2, 3) if abs(math.log2(r)) <= limit]
    bar = figure.colorbar(image, ax=axes, ticks=[math.log2(r) for r in ticks], shrink=0.8)
    bar.ax.set_yticklabels([f"{r:g}×" for r in ticks])
    bar.set_label("time without int8 / with")
    won = sum(verdict(row) == "faster" for row in rows)
    lost = sum(verdict(row) == "slower" for row in rows)
    return (f"Four heat maps of the fastest other way's time over SwitchBack's by layer shape and "
            f"tokens: int8 wins at {won} of {len(rows)} sizes and loses at {lost}.")  # fmt: skip


def draw_parts(ax: Any, rows: Sequence[Row], *, scale: str = "row") -> str:
    """Draw where a full step's time goes, 16 bit above int8 for each size; return the alt text."""
    labels, said = [], []
    for row in rows:
        size = f"{row['tokens']:,}·{row['in_features']}→{row['out_features']}"
        for int8 in (False, True):
            labels.append(f"{size} {'int8' if int8 else float_type(row)}")
            left = 0.0
            for group, seconds in step_parts(row, int8=int8, scale=scale).items():
                ax.barh(len(labels) - 1, seconds * 1e3, left=left, color=PART_COLOURS[group][0],
                        hatch=PART_COLOURS[group][1], edgecolor="white",
                        label=group if len(labels) == 2 else None)  # fmt: skip
                left += seconds * 1e3
            said.append(f"{labels[-1]} {left:.1f} ms")
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
    ax.set_xlabel("milliseconds a step")
    ax.grid(axis="y", visible=False)
    ax.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return "Bars of the parts of a layer's step, without int8 and with: " + "; ".join(said) + "."


def draw_pairs(ax: Any, found: dict[str, Any]) -> str:
    """Draw the ratio of every pair end to end, with mean and interval, beside the A/A control."""
    times = {"first": found["times"]["baseline"], **found["times"]}
    drawn = (("baseline", "candidate", "ratio"), ("first", "again", "a_a"))
    for place, (base, arm, name) in enumerate(drawn):
        pairs = [a / b for a, b in zip(times[base], times[arm], strict=True)]
        ax.plot(pairs, [place] * len(pairs), linestyle="none", marker="o", color="#56B4E9",
                alpha=0.7, label=None if place else "one pair of runs")  # fmt: skip
        ratio = found[name]
        error = [[ratio["value"] - ratio["low"]], [ratio["high"] - ratio["value"]]]
        ax.errorbar(ratio["value"], place - 0.2, xerr=error, color="black", marker="D",
                    linestyle="none", capsize=4,
                    label=None if place else "geometric mean, 95 % interval")  # fmt: skip
    ax.axvline(1.0, color="black", linewidth=1)
    ax.set_yticks([0, 1], ["without / SwitchBack", "without / without (A/A)"])
    ax.set_ylim(1.5, -0.6)
    ax.set_xlabel("ratio of the time of a step")
    ax.grid(axis="y", visible=False)
    ax.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return (f"Ratios of step times end to end with their mean: {interval(found['ratio'])} for "
            f"SwitchBack, {interval(found['a_a'])} for the control.")  # fmt: skip


def by_tokens(rows: Sequence[Row], published: Sequence[Row], *, width: int) -> list[Row]:
    """Return measured and published ratios of the MLP layers of one width, by tokens.

    `published` are the layer rows of `switchback.teaching.figures.published_rows`. As there, a row
    is both orientations together. Rows: where, tokens, ratio_row, ratio_tensor (full training).
    """
    mlp = [r for r in rows if r["mode"] == "full" and r["in_features"] != r["out_features"]
           and min(r["in_features"], r["out_features"]) >= width]  # fmt: skip
    found: list[Row] = []
    for tokens in sorted({row["tokens"] for row in mlp}):
        entry: Row = {"where": "here", "tokens": tokens}
        for scale in ("row", "tensor"):
            both = [r for r in mlp if (r["tokens"], r["weight_scale"]) == (tokens, scale)]
            base, int8 = (sum(r["seconds"][k] for r in both) for k in ("baseline", "candidate"))
            entry[f"ratio_{scale}"] = base / int8
        found.append(entry)
    keys = ("tokens", "ratio_row", "ratio_tensor")
    return found + [
        {"where": "A100", **{key: row[key] for key in keys}}
        for row in published
        if row["width"] == width
    ]


def implied_share(end_to_end: float, layer: float) -> float | None:
    """Return the share f of a step that must gain `layer` for the step to gain `end_to_end`.

    Amdahl: end_to_end = 1 / (1 - f + f / layer). None where the layer gains nothing.
    """
    return (1 - 1 / end_to_end) / (1 - 1 / layer) if layer > 1 else None
