"""One training step in a process of its own, under a memory limit: what it takes, or that it fails.

Running out of memory kills a Jupyter kernel and with it an hour of work. In a process of its own it
is a result. The limit is Linux's `RLIMIT_DATA` (heap and private mappings, getrlimit(2)): an
allocation beyond it fails in the process that asks, as an ordinary error, and nowhere else.

glibc keeps freed memory for later by default, which makes a process as large as its history. With
the settings of `EXACT` (mallopt(3)) it returns every block of 128 KiB or more at once, so the
process holds what its tensors hold, and besides them interpreter, libraries and thread stacks.
"""

import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from labkit.memory.settings import StepSettings

EXACT = {
    "MALLOC_MMAP_THRESHOLD_": "131072",
    "MALLOC_TRIM_THRESHOLD_": "131072",
    "MALLOC_ARENA_MAX": "1",
}
DONE, OUT_OF_MEMORY, FAILED = "done", "out of memory", "failed"
MARKER = "labkit-point "
WARMUP = 2


def run_in_process(settings: StepSettings, *, limit: int | None, steps: int) -> dict[str, Any]:
    """Run one point in a process of its own and return what it says, or how it ended."""
    task = {"settings": dataclasses.asdict(settings), "limit": limit, "steps": steps}
    done = subprocess.run(
        [sys.executable, "-m", "labkit.memory.point", json.dumps(task, default=list)],
        capture_output=True,
        text=True,
        env={**os.environ, **EXACT},
    )
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(MARKER):
            return json.loads(line.removeprefix(MARKER))
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    killed = -done.returncode if done.returncode < 0 else 0
    # The kernel kills what exceeds a control group; libraries that cannot report a failed
    # allocation abort.
    if killed == signal.SIGKILL or (limit and killed in (signal.SIGABRT, signal.SIGSEGV)):
        return {"status": OUT_OF_MEMORY, "detail": f"ended by {signal.Signals(killed).name}"}
    if limit and ("bad_alloc" in done.stderr or "MemoryError" in done.stderr):
        return {"status": OUT_OF_MEMORY, "detail": last}
    return {"status": FAILED, "detail": last}


def _worker(task: dict[str, Any]) -> dict[str, Any]:
    """Build and run one point in this process, under its limit."""
    limit, settings = task["limit"], StepSettings(**task["settings"])
    if limit and settings.target == "cpu":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        import torch

        if limit and settings.target == "cuda":
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total))
        return _measure(settings, steps=task["steps"])
    except (RuntimeError, MemoryError) as error:
        text = str(error).strip() or type(error).__name__
        words = ("can't allocate memory", "out of memory", "bad_alloc", "could not create")
        memory = isinstance(error, MemoryError) or any(word in text for word in words)
        return {
            "status": OUT_OF_MEMORY if memory else FAILED,
            "detail": text.splitlines()[0][:200],
        }


def _measure(settings: StepSettings, *, steps: int) -> dict[str, Any]:
    from labkit.allocator import live_tensor_bytes
    from labkit.memory.measured import real_step, step_peak

    step = real_step(settings)
    for _ in range(WARMUP):
        step.run()
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        step.run()
        if settings.target == "cuda":
            import torch

            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    peak = step_peak(step)
    besides = 0
    if settings.target == "cpu" and (data := _data_bytes()) is not None:
        besides = data - live_tensor_bytes()
    return {
        "status": DONE,
        "detail": "",
        "peak_bytes": peak,
        "step_seconds": statistics.median(seconds),
        "besides_bytes": besides,
    }


def _data_bytes() -> int | None:
    """Return what RLIMIT_DATA counts for this process, where the system says it."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


if __name__ == "__main__":
    print(MARKER + json.dumps(_worker(json.loads(sys.argv[1]))))
