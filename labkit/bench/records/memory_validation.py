"""Validate formula, trace and measurement against each other and against published figures.

    python -m labkit.bench.records.memory_validation --output data/results/memory_validation.json

makes the committed record (about a quarter of an hour on two cores); `--only published` (or
another part) prints one part of it. The parts:

* `measured` runs real steps on this CPU and compares their peak, to the byte, with the trace;
* `float32` does the same in the type that processors without bfloat16 units train in;
* `published` traces what others measured on cards, with the choices written beside each row of
  `data/memory_published.json` before the first comparison;
* `analytic` compares formula and trace over a grid;
* `time` asks whether published times lie in the predicted range.

A trace stands for today's libraries, so a row with an `explain` is explained, not matched: it has
an error like any other and is left out of the summary's worst.
"""

import argparse
import itertools
import json
import platform
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from labkit.console import say
from labkit.machine.datasheets import DEVICES, GIB
from labkit.machine.hardware import cores
from labkit.memory.architectures import shape_of
from labkit.memory.formula import analytic
from labkit.memory.settings import StepSettings
from labkit.memory.step_time import step_seconds
from labkit.methods import names, split

DATA = Path(__file__).resolve().parents[3] / "data"
UNITS = {"GB": 1e9, "GiB": GIB}


def published_rows(path: Path | None = None) -> Iterator[dict[str, Any]]:
    """Trace each published memory figure; yield what was published, what was traced, the error."""
    from labkit.memory.trace.tracing import trace

    table = json.loads((path or DATA / "memory_published.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        models = folders(table.get("configs", {}), Path(folder))
        for row in table["rows"]:
            settings = row_settings(row, model=models.get(row["model"]))
            traced = trace(settings)
            size = traced.peak_bytes / UNITS[row["unit"]]
            formula = analytic(settings)
            yield {
                **{key: row[key] for key in ("source", "model", "method", "batch_size", "seq_len")},
                "gradient_checkpointing": settings.gradient_checkpointing,
                "double_quant": settings.double_quant if settings.base_weights.bits == 4 else None,
                "published": row["peak"],
                "unit": row["unit"],
                "traced": round(size, 3),
                "analytic": round(formula.peak_bytes / UNITS[row["unit"]], 3) if formula else None,
                "error": round(size / row["peak"] - 1, 4) if row["peak"] else None,
                "peak_phase": traced.peak.name,
                "explain": row.get("explain"),
                "outcome": row.get("outcome"),
            }


def folders(configs: dict[str, Any], parent: Path) -> dict[str, str]:
    """Write configurations of models outside the registry; return the folder of each."""
    folders = {}
    for name, config in configs.items():
        (parent / name).mkdir()
        (parent / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
        folders[name] = str(parent / name)
    return folders


def row_settings(row: dict[str, Any], *, model: str | None = None) -> StepSettings:
    """Return the settings that a row of a published table states; `model` is its folder, if any."""
    return StepSettings(
        model=model or row["model"],
        method=row["method"],
        batch_size=row["batch_size"],
        seq_len=row["seq_len"],
        **row["choices"],
    )


def time_rows() -> Iterator[dict[str, Any]]:
    """Predict each published time; yield the range and whether the published value lies in it."""
    text = (DATA / "time_published.json").read_text(encoding="utf-8")
    for row in json.loads(text)["rows"]:
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


def measured_rows(grid: Iterable[StepSettings] | None = None) -> Iterator[dict[str, Any]]:
    """Run real steps of the embedded and tiny models here; yield their peaks and the trace's."""
    from labkit.memory.measured import measure
    from labkit.memory.trace.tracing import trace

    for settings in measured_grid() if grid is None else grid:
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


def float32_rows() -> Iterator[dict[str, Any]]:
    """Compare trace and real steps as `measured_rows` does, in float32 and with both attentions."""
    for settings, row in zip(float32_grid(), measured_rows(float32_grid()), strict=True):
        formula = analytic(settings)
        assert formula is not None
        yield {"attention": settings.attention, **row, "analytic_bytes": formula.peak_bytes}


def float32_grid() -> Iterator[StepSettings]:
    """Yield float32 steps: full and LoRA, fused and eager attention, with and without checkpoints.

    Processors without bfloat16 units train in it.
    """
    tiny = itertools.product(
        ("tiny-llama", "tiny-gemma", "tiny-phi", "tiny-bloom"), (1, 4, 8), (64,)
    )
    embedded = itertools.product(("smollm2-135m-instruct",), (1, 3), (64,))
    attentions: tuple[Literal["sdpa", "eager"], ...] = ("sdpa", "eager")
    choices = itertools.product(("full", "lora"), (False, True), attentions)
    for (model, batch_size, seq_len), (method, checkpointing, attention) in itertools.product(
        (*tiny, *embedded), tuple(choices)
    ):
        yield StepSettings(
            model=model,
            method=method,
            gradient_checkpointing=checkpointing,
            attention=attention,
            batch_size=batch_size,
            seq_len=seq_len,
            dtype="float32",
            target="cpu",
        )


def analytic_rows() -> Iterator[dict[str, Any]]:
    """Compare formula and trace over methods, models, batches and lengths."""
    from labkit.memory.trace.tracing import trace

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
    sizes = ((1, 256), (4, 1024))
    for model, method, (batch, length), again in itertools.product(
        models, names(), sizes, (False, True)
    ):
        # A prefix is a key-value cache and excludes checkpoints. A state-space model has neither a
        # cache nor heads to give PEFT, and its scan reads weights past a quantised layer.
        tuner, base = split(method)
        if (tuner.virtual_tokens == "cache" and again) or tuner.check(model) or base.check(model):
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
    "float32": float32_rows,
    "published": published_rows,
    "analytic": analytic_rows,
    "time": time_rows,
}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median and the worst absolute error of rows, or the share that was held."""
    if "held" in rows[0]:
        width = max(row["high_seconds"] / row["low_seconds"] for row in rows)
        held = sum(row["held"] for row in rows) / len(rows)
        return {"rows": len(rows), "held": round(held, 4), "widest": round(width, 3)}
    compared = [row for row in rows if row["error"] is not None and not row.get("explain")]
    errors = [abs(row["error"]) for row in compared]
    found = {"rows": len(errors), "median": statistics.median(errors), "worst": max(errors)}
    if "measured_bytes" in rows[0]:
        found["worst_bytes"] = max(
            abs(row["traced_bytes"] - row["measured_bytes"]) for row in compared
        )
    return found


def record(parts: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return rows by part as they are committed: with command, versions, machine and summaries."""
    libraries = ("torch", "transformers", "peft", "trl", "bitsandbytes", "labkit")
    return {
        "command": "python -m labkit.bench.records.memory_validation "
        "--output data/results/memory_validation.json",
        "versions": {name: version(name) for name in libraries},
        "machine": f"{platform.machine()}, {cores()} cores",
        "summary": {name: summary(rows) for name, rows in parts.items()},
        "rows": parts,
    }


def write(found: dict[str, Any], path: Path) -> None:
    """Write a record with a line for each row: what changes shows in a diff."""
    rows = found["rows"]
    head = json.dumps({key: value for key, value in found.items() if key != "rows"}, indent=1)
    lines = [
        f'  "{name}": [\n' + ",\n".join(f"   {json.dumps(row)}" for row in each) + "\n  ]"
        for name, each in rows.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    text = f'{head[:-2]},\n "rows": {{\n' + ",\n".join(lines) + "\n }\n}\n"
    path.write_text(text, encoding="utf-8")


def compare(
    description: str,
    kinds: Mapping[str, Callable[[], Iterator[dict[str, Any]]]],
    record: Callable[[dict[str, list[dict[str, Any]]]], dict[str, Any]],
) -> None:
    """Make the rows that the command line asks for, show each, and write their record."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--only", choices=kinds, action="append", help="a part; all when left out")
    parser.add_argument("--output", type=Path, help="where to write the record")
    arguments = parser.parse_args()
    parts: dict[str, list[dict[str, Any]]] = {}
    for kind in arguments.only or kinds:
        parts[kind] = []
        for row in kinds[kind]():
            parts[kind].append(row)
            say(json.dumps(row))
    found = record(parts)
    if arguments.output:
        write(found, arguments.output)
    print(json.dumps(found["summary"], indent=1))


def main() -> None:
    compare("Compare formula, trace, measurement and world.", KINDS, record)


if __name__ == "__main__":
    main()
