"""Compare predicted with measured largest batches under real memory limits.

    python -m labkit.bench.records.largest_batch --output data/results/largest_batch.json
    python -m labkit.bench.records.largest_batch --dtype float32 --output …_float32.json

For each method, with and without gradient checkpointing, at two lengths and under four limits: the
largest batch by prediction, and the one found by running steps of the embedded model under the
limit. The prediction promises to be the measured one, or lower by one sample or by a tenth of a
large batch, and never higher. Limits are chosen so that the largest batches lie between 2 and 26.
In float32 there is one limit a method and one length; nothing was adjusted to what it showed.

Steps that were measured are kept, so the command can be stopped and started again.
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labkit.console import run_tool, say
from labkit.files import write_json
from labkit.machine import hardware
from labkit.machine.datasheets import GIB
from labkit.runs import records
from labkit.sweep import Largest, largest_batch, say_largest

MODEL = "smollm2-135m-instruct"
LENGTHS = (64, 128)
LIMITS = {
    "lora": (11 * GIB // 8, 7 * GIB // 4, 3 * GIB // 2, 13 * GIB // 8),
    "full": (11 * GIB // 4, 3 * GIB, 23 * GIB // 8, 47 * GIB // 16),
}
LIMITS_FLOAT32 = {"lora": (13 * GIB // 8,), "full": (3 * GIB,)}
HELD_OUT = 3
"""The last limits: `memory.process.needs` was never adjusted to what they showed."""


def rows(*, dtype: str = "bfloat16") -> Iterator[dict[str, Any]]:
    """Yield one row per limit, length, method, and with and without checkpointing."""
    table, lengths = (LIMITS, LENGTHS) if dtype != "float32" else (LIMITS_FLOAT32, LENGTHS[:1])
    for which, seq_len, (method, limits), again in itertools.product(
        range(len(table["lora"])), lengths, table.items(), (False, True)
    ):
        largest = largest_batch(
            MODEL, method=method, seq_len=seq_len, memory_limit=limits[which], dtype=dtype,
            gradient_checkpointing=again or None,
        )  # fmt: skip
        say(f"{method}, {seq_len} tokens: {say_largest(largest)}")
        yield _row(largest, held_out=dtype == "float32" or which == HELD_OUT)


def _row(largest: Largest, *, held_out: bool) -> dict[str, Any]:
    settings = largest.settings
    return {"method": settings.method, "seq_len": settings.seq_len, "held_out": held_out,
            **largest.to_json()}  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Run the comparison and write its record."""
    parser = argparse.ArgumentParser(prog="python -m labkit.bench.records.largest_batch")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    given = parser.parse_args(arguments)
    output, chosen = given.output, "" if given.dtype == "bfloat16" else f"--dtype {given.dtype} "
    record: dict[str, Any] = {
        "command": f"python -m labkit.bench.records.largest_batch {chosen}--output {output.name}",
        "model": MODEL,
        "dtype": given.dtype,
        "started_at": records.now(),
        "versions": records.versions(),
        "hardware": hardware.describe(),
        "rows": [],
    }
    for row in rows(dtype=given.dtype):
        record["rows"].append(row)
        write_json(output, record)


if __name__ == "__main__":
    run_tool(main)
