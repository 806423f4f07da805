"""Show a stored record of `labkit bench gpu` in lessons.

`labkit bench gpu` writes a record wherever there is a card; one that was brought back lies in
`data/results/gpu.json`. The lessons print what it says, or what was not run where there is none.
"""

import json
from pathlib import Path
from typing import Any

from labkit.bench.gpu import report
from labkit.bench.gpu.memory import datasheet
from labkit.datasets.tatqa import data_dir

INT8_PRODUCTS, BF16_PRODUCTS = ("int8_y", "int8_dx"), ("bf16_y", "bf16_dx", "bf16_dw")
QUANTIZING = ("quantize_x", "quantize_g", "quantize_w_row", "quantize_wt_row")
NOT_RUN = "no record of a GPU is here (`labkit bench gpu` makes one): nothing below was run on one"


def read(file: Path | None = None) -> dict[str, Any] | None:
    """Return the record in `file`, by default data/results/gpu.json; None where there is none."""
    file = file or data_dir() / "results" / "gpu.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def lines(record: dict[str, Any] | None, *subjects: str) -> list[str]:
    """Return the card and, a line each, the claims whose text begins with one of `subjects`."""
    if record is None:
        return [NOT_RUN]
    versions = ", ".join(
        f"{name} {record['versions'][name]}"
        for name in ("torch", "triton") if name in record["versions"]
    )  # fmt: skip
    said = [f"{record['card']['name']}, {versions}, {record['made_at'][:10]}"]
    marks = {True: "holds", False: "does not hold", None: "reported"}
    said += [
        f"{marks[claim['met']]:14} {claim['claim']}: {claim['figure']}"
        for claim in record["claims"] if claim["claim"].startswith(subjects)
    ]  # fmt: skip
    return said


def step_rows(record: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return a row for every traced step: GiB, error, the allocator's gap, and seconds."""
    return [
        {
            "step": row["name"],
            "traced": row["traced_bytes"] / report.GIB,
            "allocated": row["allocated_bytes"] / report.GIB,
            "error": row["relative_error"],
            "gap": float("inf") if row["gap"] is None else row["gap"],
            "seconds": row["step_seconds"],
            "low": row["predicted_seconds"][0] or float("nan"),
            "high": row["predicted_seconds"][1] or float("nan"),
        }
        for row in (report.memory_rows(record) if record else []) if "relative_error" in row
    ]  # fmt: skip


def layer_parts(record: dict[str, Any] | None, *, width: int, tokens: int) -> list[dict[str, Any]]:
    """Return, for both layers of an MLP, what share of the card's peak rate its matmuls reach.

    `of_parts` is the ratio that the parts of a step, timed apart, add up to; `at_equal_share` what
    it would be if int8 matmuls reached the share of their peak that bfloat16 ones reach of theirs.
    Empty where the record or the card's datasheet is missing.
    """
    if record is None or (sheet := datasheet(record["card"]["name"])) is None:
        return []
    timed = record["parts"].get("kernels, speed", {}).get("results", {})
    return [
        _shares(found["seconds"], sheet, tokens=tokens, ends=ends)
        for ends in ((width, 4 * width), (4 * width, width))
        if "seconds" in (found := timed.get(f"{tokens} tokens {ends[0]}→{ends[1]} parts", {}))
    ]


def published_parts(file: Path | None = None, *, width: int, tokens: int) -> list[dict[str, Any]]:
    """Return the rows of `layer_parts` for the published timings, of fp16 on an A100."""
    file = file or data_dir() / "switchback_published.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["a100_layer"]["rows"]
    sheet = datasheet("a100-80gb")
    found = []
    for row in rows:
        ends = row["in_features"], row["out_features"]
        if (min(ends), row["tokens"]) != (width, tokens):
            continue
        timed = row["milliseconds"]
        seconds = {part: timed[part.replace("bf16", "fp16")] / 1e3 for part in BF16_PRODUCTS}
        seconds |= {part: timed[f"{part}_row"] / 1e3 for part in INT8_PRODUCTS}
        seconds |= {part: timed[part] / 1e3 for part in QUANTIZING}
        found.append(_shares(seconds, sheet, tokens=tokens, ends=ends))
    return found


def _shares(
    seconds: dict[str, float], sheet: Any, *, tokens: int, ends: tuple[int, int]
) -> dict[str, Any]:
    """Return the shares of peak rates and the ratios that the times of the parts come to."""
    work = 2 * tokens * ends[0] * ends[1]
    bf16 = sum(seconds[part] for part in BF16_PRODUCTS)
    int8 = sum(seconds[part] for part in INT8_PRODUCTS)
    quantizing = sum(seconds[part] for part in QUANTIZING)
    bf16_share = len(BF16_PRODUCTS) * work / bf16 / sheet.peak_flops("bfloat16")
    int8_share = len(INT8_PRODUCTS) * work / int8 / sheet.peak_flops("int8")
    rest = seconds["bf16_dw"] + quantizing
    return {
        "card": sheet.label, "layer": f"{ends[0]}→{ends[1]}",
        "bf16_share": bf16_share, "int8_share": int8_share,
        "quantizing": quantizing / (int8 + rest), "of_parts": bf16 / (int8 + rest),
        "at_equal_share": bf16 / (int8 * int8_share / bf16_share + rest),
    }  # fmt: skip
