"""Predict what several cards take and compare it with published runs; answer the 4 × A100 question.

    python -m labkit.bench.records.sharded_runs --output data/results/sharded_runs.json

makes the committed record (most of an hour on two cores, with DeepSpeed where Python finds it);
`--only time` prints one part of it:

* `memory` traces a card's peak where a source states what that takes, in
  `data/sharding_published.json`;
* `time` asks whether published times of a step lie in the range with communication;
* `fits` traces the full fine-tune of Llama 3 8B on four A100 of 40 GB, by sharding, batch and
  checkpointing, with the range of its time on 2, 4 and 8 of them, and LoRA on one beside it;
* `ranks` trains a model of 5 million parameters in two processes on CPUs, by method and sharding,
  and sets the larger of their peaks, as the allocator counts it, against formula and trace.
"""

import dataclasses
import itertools
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labkit.bench.records.memory_validation import DATA, compare, folders
from labkit.bench.records.memory_validation import record as record_of
from labkit.datasets import tatqa
from labkit.machine import links
from labkit.machine.datasheets import DEVICES, GIB
from labkit.memory.architectures import shape_of
from labkit.memory.estimates import needed
from labkit.memory.formula import analytic
from labkit.memory.of_run import of_run
from labkit.memory.settings import SHARDINGS, StepSettings
from labkit.memory.step_time import step_seconds
from labkit.models.tiny import build_tiny
from labkit.runs.config import RunConfig

PUBLISHED = DATA / "sharding_published.json"
QUESTION: dict[str, Any] = {"model": "llama-3-8b", "seq_len": 1024}
CARD = DEVICES["a100-40gb"]
LARGER: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6,
                          "num_attention_heads": 8, "num_key_value_heads": 4}  # fmt: skip
"""what weights and gradients of a rank must be beside its activations, to be worth comparing"""
TRAINED: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "full, checkpointing": {"method": "full", "gradient_checkpointing": True},
    "lora": {"method": "lora"},
    "dora": {"method": "lora", "use_dora": True},
    "ia3": {"method": "ia3"},
}
SAMPLES = 6
OF_STEP = ("batch_size", "seq_len", "num_gpus", "gradient_checkpointing")


def settings_of(row: dict[str, Any], choices: dict[str, Any], folder: str | None) -> StepSettings:
    """Return the step of a published row; what it says itself goes before its source's choices."""
    own = {key: row[key] for key in (*OF_STEP, "sharding", "gradient_accumulation_steps")
           if key in row}  # fmt: skip
    return StepSettings(model=folder or row["model"], method="full", **{**choices, **own})


def published(kind: str) -> Iterator[tuple[dict[str, Any], StepSettings]]:
    """Yield the rows of a kind, memory or time, each with the settings of its step."""
    table = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as parent:
        models = folders(table["configs"], Path(parent))
        for row in table[kind]:
            choices = table["sources"][row["source"]]["choices"]
            yield row, settings_of(row, choices, models.get(row["model"]))


def memory_rows() -> Iterator[dict[str, Any]]:
    """Trace each published peak of a card; yield both and the error."""
    from labkit.memory.trace.tracing import trace

    rows = list(published("memory"))
    assert all(settings == rows[0][1] for _, settings in rows)  # two versions of one library
    traced, formula = trace(rows[0][1]), analytic(rows[0][1])
    assert formula is not None
    for row, settings in rows:
        size = traced.peak_bytes / GIB
        yield {
            **{key: row[key] for key in ("source", "row", "model", *OF_STEP)},
            "sharding": settings.sharding,
            "published_gib": row["peak_gib"],
            "traced_gib": round(size, 3),
            "analytic_gib": round(formula.peak_bytes / GIB, 3),
            "error": round(size / row["peak_gib"] - 1, 4),
            "explain": row.get("explain"),
        }


def time_rows() -> Iterator[dict[str, Any]]:
    """Predict each published time of a step; yield the range and whether it holds the time."""
    for row, settings in published("time"):
        card, shape = DEVICES[row["device"]], shape_of(settings)
        assert shape is not None
        low, high = step_seconds(shape, settings, card, links.of_device(card))
        tokens = settings.batch_size * settings.seq_len * settings.gradient_accumulation_steps
        seconds = tokens * settings.num_gpus / row["tokens_per_second"]
        yield {
            **{key: row[key] for key in ("source", "model", "device", *OF_STEP)},
            "sharding": settings.sharding,
            "published_seconds": round(seconds, 4),
            "low_seconds": round(low, 4),
            "high_seconds": round(high, 4),
            "held": low <= seconds <= high,
        }


def question() -> Iterator[StepSettings]:
    """Yield the steps of the 4 × A100 question: in full on four cards, then LoRA on one."""
    sizes = list(itertools.product((1, 4), (False, True)))
    for (batch, again), sharding in itertools.product(sizes, SHARDINGS):
        yield StepSettings(**QUESTION, method="full", sharding=sharding, num_gpus=4,
                           batch_size=batch, gradient_checkpointing=again)  # fmt: skip
    for batch, again in sizes:
        yield StepSettings(**QUESTION, batch_size=batch, gradient_checkpointing=again)


def fits_rows() -> Iterator[dict[str, Any]]:
    """Trace the steps of the question; yield what a card needs, whether it has it, how long."""
    from labkit.memory.trace.tracing import trace, trace_shardings

    kept: dict[str, Any] = {}
    for settings in question():
        shape, formula = shape_of(settings), analytic(settings)
        assert shape is not None and formula is not None
        if settings.sharding == "none":
            traced = trace(settings)
            kept = trace_shardings(settings, SHARDINGS[1:]) if settings.num_gpus > 1 else {}
        else:
            traced = kept[settings.sharding]
        need = needed(traced.peak_bytes, settings)
        times = {}
        for count in (2, 4, 8) if settings.num_gpus > 1 else (1,):
            there = dataclasses.replace(settings, num_gpus=count)
            link = links.between(CARD, count)
            times[str(count)] = [round(each, 4) for each in step_seconds(shape, there, CARD, link)]
        yield {
            **{key: getattr(settings, key) for key in ("model", "method", "sharding", *OF_STEP)},
            "device": CARD.name,
            "peak_bytes": traced.peak_bytes,
            "analytic_bytes": formula.peak_bytes,
            "peak_phase": traced.peak.name,
            "needed_bytes": need,
            "fits": need <= CARD.usable_bytes,
            "step_seconds": times,
        }


def config_of(folder: Path, trained: str, sharding: Any) -> RunConfig:
    """Return the settings of a run of two processes, with a model and samples in `folder`."""
    return RunConfig(model=str(folder / "model"), data=str(folder), nproc=2, sharding=sharding,
                     name=f"{list(TRAINED).index(trained)}-{sharding}", dtype="float32",
                     max_steps=SAMPLES, per_device_train_batch_size=2, torch_compile="off",
                     share_prompts=False, save_steps=100, max_train_samples=2 * SAMPLES,
                     keep_weights=False, **TRAINED[trained])  # fmt: skip


def step_of(folder: Path, row: dict[str, Any]) -> StepSettings:
    """Return the step that a row of `ranks` measured."""
    config = config_of(folder, row["trained"], row["sharding"])
    return of_run(config, target="cpu", attention="sdpa", **row["step"])


def make_larger(folder: Path) -> None:
    """Make the model of `ranks` and its samples, the first of the course's."""
    build_tiny("tiny-llama", folder / "model", **LARGER)
    for split in ("train", "dev", "test"):
        rows = json.loads(tatqa.path_of("tables", split).read_text(encoding="utf-8"))
        (folder / f"{split}.json").write_text(json.dumps(rows[:SAMPLES]), encoding="utf-8")


def rank_rows() -> Iterator[dict[str, Any]]:
    """Train in two processes; yield the peak of each beside formula and trace."""
    from labkit.memory.trace.tracing import trace
    from labkit.train import train

    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        make_larger(folder)
        os.environ["LABKIT_RUNS"] = str(folder / "runs")
        for trained, sharding in itertools.product(TRAINED, SHARDINGS):
            run = train(config_of(folder, trained, sharding), fresh=True, quiet=True)
            assert run.predicted is not None
            largest = run.predicted["batches"]["largest"]
            row: dict[str, Any] = {
                "trained": trained,
                "sharding": run.summary["sharding"]["ran"],
                "step": {
                    **{key: largest[key] for key in ("batch_size", "seq_len", "labelled_tokens")},
                    "padding": run.predicted["assumed"]["padding"],
                    "loss": "full" if run.summary["labelled_logits"] else "chunked",
                },
                "measured_bytes": run.summary["sharding"]["peak_bytes"],
            }
            settings = step_of(folder, row)
            formula = analytic(settings)
            assert formula is not None
            yield with_errors(row, formula.peak_bytes, trace(settings).peak_bytes)


def with_errors(row: dict[str, Any], by_formula: int, traced: int) -> dict[str, Any]:
    """Return a row of `ranks` with what formula and trace say, against the larger peak."""
    measured = max(row["measured_bytes"])
    return {
        **row,
        "analytic_bytes": by_formula,
        "traced_bytes": traced,
        "analytic_error": round(by_formula / measured - 1, 4),
        "error": round(traced / measured - 1, 4),
    }


KINDS = {"memory": memory_rows, "time": time_rows, "fits": fits_rows, "ranks": rank_rows}


def record(parts: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return rows by part as they are committed, with command, versions, machine and summaries."""
    judged = {name: rows for name, rows in parts.items() if name not in ("fits", "ranks")}
    found = record_of(judged)
    found["command"] = (
        "python -m labkit.bench.records.sharded_runs --output data/results/sharded_runs.json"
    )
    if rows := parts.get("fits"):
        found["summary"]["fits"] = {"rows": len(rows), "fit": sum(row["fits"] for row in rows)}
    if rows := parts.get("ranks"):
        found["summary"]["ranks"] = {
            "rows": len(rows),
            "worst_by_formula": max(abs(row["analytic_error"]) for row in rows),
            "worst_traced": max(abs(row["error"]) for row in rows),
        }
    return {**found, "rows": parts}


def main() -> None:
    compare("Compare predictions for several cards with published runs.", KINDS, record)


if __name__ == "__main__":
    main()
