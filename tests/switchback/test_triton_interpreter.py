"""The Triton kernels equal the reference bit for bit, and stay inside their tensors.

The interpreter has to be chosen before triton is imported, so the cases run in one process of
their own.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

CASES = Path(__file__).with_name("interpreter_cases.py")


def test_every_case_passes_in_the_interpreter():
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)],
        capture_output=True,
        text=True,
        env=environment | {"TRITON_INTERPRET": "1"},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    summary = run.stdout.strip().splitlines()[-1]
    passed = int(re.search(r"(\d+) passed", summary)[1])
    print(f"{passed} cases passed in the interpreter")
    assert passed > 100 and "skipped" not in summary
