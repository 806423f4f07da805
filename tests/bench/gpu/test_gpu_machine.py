"""`python -m labkit.bench.gpu` on a machine that lacks libraries, and one that is taken away."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

COMMAND = [sys.executable, "-m", "labkit.bench.gpu", "--rehearse", "--output-dir"]


def test_a_machine_without_the_courses_libraries_names_what_it_lacks(
    tmp_path: Path, without: Callable[..., dict[str, str]]
) -> None:
    lacking = (
        "gradio", "jupyterlab", "jupyter_core", "jupytext", "nbformat", "nbclient", "nbconvert",
        "ipykernel", "IPython", "datasets", "gguf", "trl", "peft", "bitsandbytes", "lm_eval",
        "openai", "pandas", "matplotlib", "tensorboard", "statsmodels",
    )  # fmt: skip
    done = subprocess.run(
        [*COMMAND, str(tmp_path / "out")], env={**os.environ, **without(*lacking)},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "gpu.json").read_text())
    parts = record["parts"]
    assert "peft is not installed" in done.stdout
    assert parts["training"]["outcome"] == "left out: statsmodels not installed"
    done = {name for name, part in parts.items() if part["outcome"] == "done"}
    assert {"traces", "small models", "8b", "largest batch", "kernels, exact"} <= done
    small = parts["small models"]["results"]
    assert [("allocated_bytes" in row, row.get("skipped")) for row in small.values()] == [
        (True, None), (False, "peft is not installed"),
    ]  # fmt: skip
    assert not any("error" in row for part in parts.values() for row in part["results"].values())


def test_all_processes_end_when_the_call_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen([*COMMAND, str(tmp_path)], stderr=subprocess.DEVNULL)
    family: list[psutil.Process] = []
    end = time.monotonic() + 120
    # Traces, a worker of theirs, multiprocessing's own helper, and the first part.
    while len(family) < 4 and time.monotonic() < end:
        time.sleep(0.1)
        family = psutil.Process(parent.pid).children(recursive=True)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert len(family) >= 4
    _, alive = psutil.wait_procs(family, timeout=30)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert not alive
