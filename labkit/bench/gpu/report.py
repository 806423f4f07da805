"""Evaluate each claim of the course on a record of `labkit bench gpu`, and render it as text."""

from statistics import geometric_mean, median
from typing import Any

MEMORY_PARTS = ("small models", "8b", "quantised")
CHECKED = ("quantize", "product", "layer")
"""What the names of exactness begin with: kernels that quantise, that multiply, and all of both."""
MEDIAN_ERROR, WORST_ERROR = 0.03, 0.08
PUBLISHED_RATIO = 1.37
"""The A100's, one layer at dim 2048 and 32,768 tokens: `data/switchback_published.json`."""
PUBLISHED_TRAINING = (1.105, 1.112)
"""The seed project's end-to-end ratios on an A40: 9.46 to 10.08 % less time."""
GIB = 2**30


def memory_rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return traced beside measured for every case that has both; errors as shares."""
    traces = _results(record, "traces")
    rows = []
    for part in MEMORY_PARTS:
        for name, found in _results(record, part).items():
            row = {"name": name, **found, **traces.get(name, {})}
            if row.get("allocated_bytes") and row.get("traced_bytes"):
                row["relative_error"] = row["traced_bytes"] / row["allocated_bytes"] - 1
                row["reserved_over_allocated"] = (
                    row["reserved_bytes"] / row["allocated_bytes"] - 1
                    if row.get("reserved_bytes")
                    else None
                )
            rows.append(row)
    return rows


def layer_rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row for every size, mode and weight scale: the ratio and its control."""
    return [
        {**{k: found[k] for k in ("tokens", "in_features", "out_features", "mode", "baseline")},
         "weight_scale": scale, **row}
        for found in _results(record, "kernels, speed").values() if "rows" in found
        for scale, row in found["rows"].items()
    ]  # fmt: skip


def claims(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each claim with its figure and whether it holds; `met` is null where it has no bar."""
    return [*_memory_claims(record), *_largest(record), *_exact(record), *_layers(record),
            *_training(record), *_times(record)]  # fmt: skip


def _results(record: dict[str, Any], part: str) -> dict[str, dict[str, Any]]:
    return record["parts"].get(part, {}).get("results", {})


def _claim(claim: str, figure: str, met: bool | None, **values: Any) -> dict[str, Any]:
    return {"claim": claim, "figure": figure, "met": met, **values}


def _memory_claims(record: dict[str, Any]) -> list[dict[str, Any]]:
    errors = [row["relative_error"] for row in memory_rows(record) if "relative_error" in row]
    if not errors:
        return []
    middle, worst = median(map(abs, errors)), max(errors, key=abs)
    return [_claim(
        "peak memory: traced against allocated", f"{len(errors)} steps: median error "
        f"{middle:.1%}, worst {worst:+.1%}",
        middle <= MEDIAN_ERROR and abs(worst) <= WORST_ERROR, median=middle, worst=worst,
    )]  # fmt: skip


def _largest(record: dict[str, Any]) -> list[dict[str, Any]]:
    rows = _results(record, "largest batch")
    return [
        _claim(f"largest batch, {name}", f"predicted {found['predicted']}, found "
               f"{found['measured']}",
               found["predicted"] <= found["measured"])
        for name, found in rows.items() if "predicted" in found
    ]  # fmt: skip


def _exact(record: dict[str, Any]) -> list[dict[str, Any]]:
    rows = _results(record, "kernels, exact")
    found = {name: row for name, row in rows.items() if "error" not in row}
    if not found:
        return []
    cases = sum(row["cases"] for row in found.values())
    faults = sum(len(row["faults"]) for row in found.values())
    absent = [kind for kind in CHECKED if not any(name.startswith(kind) for name in found)]
    absent += [name for name in rows if name not in found]
    figure = f"{cases - faults} of {cases} cases"
    if absent:
        figure += f"; not compared: {', '.join(absent)}"
    # Equality of some kernels is not the claim; a fault of one is enough against it.
    met = False if faults else None if absent else True
    return [_claim("kernels equal the reference", figure, met)]


def _layers(record: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for scale in ("tensor", "row"):
        rows = [
            r for r in layer_rows(record)
            if r["mode"] == "full" and r["tokens"] == 32768 and r["weight_scale"] == scale
            and min(r["in_features"], r["out_features"]) == 2048
        ]  # fmt: skip
        if len(rows) == 2:
            ratio = geometric_mean(r["ratio"]["value"] for r in rows)
            said = "; ".join(f"{r['in_features']}→{r['out_features']} {_interval(r)}" for r in rows)
            found.append(_claim(
                f"layer step, dim 2048, 32,768 tokens, one scale a {scale}",
                f"{ratio:.2f}× ({said}); the bar: the A100's published {PUBLISHED_RATIO}×, "
                "one scale a tensor",
                ratio >= PUBLISHED_RATIO, ratio=ratio,
            ))  # fmt: skip
    return found


def _training(record: dict[str, Any]) -> list[dict[str, Any]]:
    low, high = PUBLISHED_TRAINING
    return [
        _claim(f"training step, {name}", f"{_interval(found)} at batch {found['batch_size']} × "
               f"{found['seq_len']}; published on an A40: {low}–{high}×", None,
               ratio=found["ratio"]["value"])
        for name, found in _results(record, "training").items() if "ratio" in found
    ]  # fmt: skip


def _times(record: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [r for r in memory_rows(record)
            if r.get("step_seconds") and (r.get("predicted_seconds") or [None])[0]]  # fmt: skip
    if not rows:
        return []
    ranges = [(r["predicted_seconds"], r["step_seconds"]) for r in rows]
    inside = sum(low <= seconds <= high for (low, high), seconds in ranges)
    return [_claim("step times within the predicted range", f"{inside} of {len(rows)}",
                   inside == len(rows))]  # fmt: skip


def _interval(row: dict[str, Any]) -> str:
    ratio, same = row["ratio"], row["a_a"]
    return (f"{ratio['value']:.2f}× ({ratio['low']:.2f}–{ratio['high']:.2f}), "
            f"A/A {same['value']:.2f} ({same['low']:.2f}–{same['high']:.2f})")  # fmt: skip


def render(record: dict[str, Any]) -> str:
    """Return the record as text: the card, each claim, and what was left out."""
    lines = [f"{record['card']['name']}, torch {record['versions'].get('torch')}", ""]
    if record["rehearsal"]:
        lines += ["A rehearsal: none of these figures says anything.", ""]
    for row in memory_rows(record):
        if "relative_error" in row:
            lines.append(
                f"{row['name']:62} traced {row['traced_bytes'] / GIB:7.2f} GiB, allocated "
                f"{row['allocated_bytes'] / GIB:7.2f} ({row['relative_error']:+.1%}), step "
                f"{row['step_seconds']:.3f} s, the allocator needs "
                f"{'over 16 %' if row['gap'] is None else format(row['gap'], '.0%')} more"
            )
        else:
            lines.append(f"{row['name']:62} {_why(row)}")
    for row in layer_rows(record):
        size = f"{row['tokens']:,} tokens {row['in_features']}→{row['out_features']}"
        words = f"{size} {row['mode']}, one scale a {row['weight_scale']}"
        lines.append(f"{words:62} {_interval(row)} of {row['baseline']}")
    lines.append("")
    marks = {True: "holds", False: "does NOT hold", None: "reported"}
    lines += [f"{marks[c['met']]:14} {c['claim']}: {c['figure']}" for c in record["claims"]]
    for name, part in record["parts"].items():
        if part["outcome"] != "done":
            lines.append(f"{'not complete':14} {name}: {part['outcome']}")
    return "\n".join(lines)


def _why(row: dict[str, Any]) -> str:
    if row.get("out_of_memory"):
        return "out of memory"
    return str(row.get("skipped") or row.get("error") or "not measured")
