"""Predicted against measured largest batches, under real limits, as one record.

    python -m labkit.sweep.proof --output data/results/largest_batch.json

For each method, with and without gradient checkpointing, at two lengths and under two limits: the
largest batch by prediction, and the one found by running steps of the embedded model under the
limit. The prediction promises to be the measured one, or lower by one sample up to batch 8 and by a
tenth beyond, and never higher. Limits are chosen so that the largest batches lie between 2 and 24.

Steps that were measured are kept, so the command can be stopped and started again.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from labkit import hardware, results
from labkit.hardware import GIB
from labkit.sweep import Largest, largest_batch, say_largest

MODEL = "smollm2-135m-instruct"
LENGTHS = (64, 128)
LIMITS = {"lora": (5 * GIB // 4, 7 * GIB // 4), "full": (11 * GIB // 4, 3 * GIB)}


def rows(*, model: str = MODEL) -> list[dict[str, Any]]:
    """Return one row per method, checkpointing, length and limit."""
    found = []
    for method, limits in LIMITS.items():
        for checkpointing in (False, True):
            for seq_len in LENGTHS:
                for limit in limits:
                    largest = largest_batch(
                        model, method=method, seq_len=seq_len, memory_limit=limit,
                        gradient_checkpointing=checkpointing or None,
                    )  # fmt: skip
                    print(f"{method}, {seq_len} tokens: {say_largest(largest)}",
                          file=sys.stderr, flush=True)  # fmt: skip
                    found.append(_row(largest))
    return found


def _row(largest: Largest) -> dict[str, Any]:
    settings = largest.settings
    return {"method": settings.method, "seq_len": settings.seq_len, **largest.to_json()}


def main(arguments: list[str] | None = None) -> None:
    """Run the comparison and write its record."""
    parser = argparse.ArgumentParser(prog="python -m labkit.sweep.proof")
    parser.add_argument("--output", type=Path, required=True)
    output = parser.parse_args(arguments).output
    started = results.now()
    record = {
        "command": f"python -m labkit.sweep.proof --output {output.name}",
        "model": MODEL,
        "started_at": started,
        "versions": results.versions(),
        "rows": rows(),
        "hardware": hardware.describe(),
    }
    results.write_json(output, record)


if __name__ == "__main__":
    main()
