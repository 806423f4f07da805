"""Holding the columns against each other and against the world.

    python -m labkit.memory.validate measured  --output data/results/memory_measured.json
    python -m labkit.memory.validate published --output data/results/memory_published.json
    python -m labkit.memory.validate analytic  --output data/results/memory_analytic.json
    python -m labkit.memory.validate time      --output data/results/time_published.json

`measured` runs real steps on this CPU and compares their peak, to the byte, with the trace.
`published` traces what others measured on cards, with the choices written beside each row of
`data/memory_published.json` before the first comparison. `analytic` compares formula and trace over
a grid. `time` asks whether published times lie in the predicted range. A trace stands for today's
libraries, so a row with an `explain` is explained, not matched.
"""

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from labkit.hardware import DEVICES, GIB
from labkit.memory.analytic import analytic
from labkit.memory.roofline import step_seconds
from labkit.memory.settings import StepSettings
from labkit.memory.shapes import shape_of

DATA = Path(__file__).resolve().parents[2] / "data"
UNITS = {"GB": 1e9, "GiB": GIB}


def published_rows(path: Path | None = None) -> Iterator[dict[str, Any]]:
    """Trace each published memory figure; yield what was published, what was traced, the error."""
    from labkit.memory.trace import trace

    for row in json.loads((path or DATA / "memory_published.json").read_text())["rows"]:
        settings = row_settings(row)
        size = trace(settings).peak_bytes / UNITS[row["unit"]]
        formula = analytic(settings)
        yield {
            **{key: row[key] for key in ("source", "model", "method", "batch_size", "seq_len")},
            "published": row["peak"],
            "unit": row["unit"],
            "traced": round(size, 3),
            "analytic": round(formula.peak_bytes / UNITS[row["unit"]], 3) if formula else None,
            "error": round(size / row["peak"] - 1, 4) if row["peak"] else None,
            "explain": row.get("explain"),
            "outcome": row.get("outcome"),
        }


def row_settings(row: dict[str, Any]) -> StepSettings:
    """Return the settings that a row of a published table states."""
    return StepSettings(
        model=row["model"],
        method=row["method"],
        batch_size=row["batch_size"],
        seq_len=row["seq_len"],
        **row["choices"],
    )


def time_rows(path: Path | None = None) -> Iterator[dict[str, Any]]:
    """Predict each published time; yield the range and whether the published value lies in it."""
    for row in json.loads((path or DATA / "time_published.json").read_text())["rows"]:
        settings = row_settings(row)
        shape = shape_of(settings)
        assert shape is not None
        low, high = step_seconds(shape, settings, DEVICES[row["device"]])
        yield {
            **{key: row[key] for key in ("source", "model", "method", "device", "batch_size")},
            "published_seconds": row["seconds_per_step"],
            "low_seconds": round(low, 4),
            "high_seconds": round(high, 4),
            "held": low <= row["seconds_per_step"] <= high,
        }


def measured_rows() -> Iterator[dict[str, Any]]:
    """Run real steps of the embedded and tiny models here; yield their peaks and the trace's."""
    from labkit.memory.measured import measure
    from labkit.memory.trace import trace

    for settings in measured_grid():
        traced, real = trace(settings).peak_bytes, measure(settings).peak_bytes
        yield {
            **_named(settings),
            "traced_bytes": traced,
            "measured_bytes": real,
            "error": round(traced / real - 1, 6),
        }


def measured_grid() -> Iterator[StepSettings]:
    """Yield full and LoRA, with and without checkpointing, three batches and two lengths each."""
    embedded = itertools.product(
        ("smollm2-135m-instruct",), ("full", "lora"), (False, True), (1, 2, 4), (64, 160)
    )
    tiny = itertools.product(
        ("tiny-llama", "tiny-gemma", "tiny-phi", "tiny-bloom", "tiny-t5", "tiny-mamba"),
        ("full", "lora"), (False, True), (1, 4, 8), (32, 128),
    )  # fmt: skip
    for model, method, checkpointing, batch_size, seq_len in (*tiny, *embedded):
        yield StepSettings(
            model=model,
            method=method,
            gradient_checkpointing=checkpointing,
            batch_size=batch_size,
            seq_len=seq_len,
            target="cpu",
        )


def analytic_rows() -> Iterator[dict[str, Any]]:
    """Compare formula and trace over methods, models, batches and lengths."""
    from labkit.memory.trace import trace

    for settings in analytic_grid():
        traced = trace(settings).peak_bytes
        formula = analytic(settings)
        assert formula is not None
        yield {
            **_named(settings),
            "analytic_bytes": formula.peak_bytes,
            "traced_bytes": traced,
            "error": round(formula.peak_bytes / traced - 1, 5),
        }


def analytic_grid() -> Iterator[StepSettings]:
    """Yield every method on seven models, two batches and lengths, with and without checkpoints."""
    models = ("llama-3-8b", "llama-2-7b", "smollm2-135m-instruct", "gemma-2b", "phi-1.5",
              "bloom-3b", "t5-large", "mamba-1.4b")  # fmt: skip
    methods = ("full", "lora", "qlora", "8bit", "prefix", "prompt")
    sizes = ((1, 256), (4, 1024))
    for model, method, (batch, length), again in itertools.product(
        models, methods, sizes, (False, True)
    ):
        # A prefix is a key-value cache and excludes checkpoints. A state-space model has neither a
        # cache nor heads to give PEFT, and its scan reads weights past a quantised layer.
        if (method == "prefix" and again) or (
            model.startswith("mamba") and method not in ("full", "lora")
        ):
            continue
        yield StepSettings(
            model=model,
            method=method,
            batch_size=batch,
            seq_len=length,
            gradient_checkpointing=again,
        )


def _named(settings: StepSettings) -> dict[str, Any]:
    keys = ("model", "method", "gradient_checkpointing", "batch_size", "seq_len")
    return {key: getattr(settings, key) for key in keys}


KINDS: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
    "measured": measured_rows,
    "published": published_rows,
    "analytic": analytic_rows,
    "time": time_rows,
}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median and the worst absolute error of rows, or the share that was held."""
    if "held" in rows[0]:
        return {"rows": len(rows), "held": sum(row["held"] for row in rows) / len(rows)}
    errors = [
        abs(row["error"]) for row in rows if row["error"] is not None and not row.get("explain")
    ]
    return {"rows": len(errors), "median": statistics.median(errors), "worst": max(errors)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare formula, trace, measurement and world.")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    rows = []
    for row in KINDS[arguments.kind]():
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    result = {
        "command": f"python -m labkit.memory.validate {arguments.kind}",
        "summary": summary(rows),
        "rows": rows,
    }
    text = json.dumps(result, indent=1) + "\n"
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text)
    print(json.dumps(result["summary"]))


if __name__ == "__main__":
    main()
