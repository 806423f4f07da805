"""Run `labkit bench gpu` as `python -m labkit.bench.gpu`, where the course is not installed.

A machine that has a card for a quarter of an hour has torch, Triton and transformers, and seldom
Jupyter, gradio or the data libraries that the whole command line imports. Put labkit's folder on
`PYTHONPATH` and run this; what a part needs and does not find is named, and the part left out.
"""

import argparse
from pathlib import Path

from labkit.bench.gpu import report, run
from labkit.console import run_tool, say
from labkit.runs import records


def main() -> None:
    """Hold what the course says of GPUs against the CUDA card that is here."""
    parser = argparse.ArgumentParser(prog="python -m labkit.bench.gpu", description=main.__doc__)
    parser.add_argument("--minutes", type=float, default=8.0, help="at most")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, toy sizes")
    parser.add_argument("--output-dir", type=Path, default=records.runs_dir() / "bench")
    parser.add_argument("--fresh", action="store_true", help="measure what is kept again")
    given = parser.parse_args()
    record = run.gpu(
        minutes=given.minutes, output_dir=given.output_dir, rehearsal=given.rehearse,
        fresh=given.fresh, say=say,
    )  # fmt: skip
    print(report.render(record))
    print(f"\nrecord in {given.output_dir / 'gpu.json'}")


if __name__ == "__main__":
    run_tool(main)
