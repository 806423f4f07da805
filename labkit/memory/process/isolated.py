"""One training step in a process of its own, under a memory limit: what it takes, or that it fails.

Running out of memory kills a Jupyter kernel and with it an hour of work. In a process of its own it
is a result. The limit is Linux's `RLIMIT_DATA` (heap and private mappings, getrlimit(2)): an
allocation beyond it fails in the process that asks, as an ordinary error, and nowhere else.

**Which failures are memory?** A failed allocation comes out as `MemoryError`, as PyTorch's "can't
allocate memory", as a oneDNN primitive that "could not be created", as a thread that cannot start,
a library that cannot be mapped, an abort, a segmentation fault or a hang, depending on who asked
and whether that code looked at the answer. Three rules tell them from a wrong model or a bug:

1. Libraries are imported, threads started and a tiny step run *before* the limit is set. What fails
   under it afterwards is the step. A limit below what the process holds by then is out of memory,
   without trying.
2. Who says that an allocation failed is believed; so is the kernel's count of processes it killed
   for memory (`oom_kill`, for control groups).
3. Any other end is tried again with more memory. Out of memory is what more memory mends: a step
   that ends well then was out of memory, one that fails again has a fault.

glibc keeps freed memory for later by default, which makes a process as large as its history. With
the settings of `EXACT` (mallopt(3)) it returns every block of 128 KiB or more at once, so the
process holds what its tensors hold, and besides them interpreter, libraries and thread stacks.
"""

import contextlib
import dataclasses
import errno
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from labkit.errors import LabkitError
from labkit.machine.datasheets import GIB
from labkit.machine.hardware import memory_available_bytes
from labkit.machine.meter import peak_rss, reset_peak_rss
from labkit.machine.processes import end_with_parent
from labkit.memory.settings import StepSettings

EXACT = {
    "MALLOC_MMAP_THRESHOLD_": "131072",
    "MALLOC_TRIM_THRESHOLD_": "131072",
    "MALLOC_ARENA_MAX": "1",
}
DONE, OUT_OF_MEMORY, FAILED = "done", "out of memory", "failed"
WORKER = ("-m", "labkit.memory.process.isolated")
WARMUP = 2
POLL_SECONDS = 0.01
# A process that sleeps for so many looks without using the processor waits for something that a
# failed allocation took away. One that is stopped, or has no processor to run on, does not count.
HUNG_POLLS = 9000
# Said by whoever asked for memory and did not get it. Messages with other causes too ("could not
# create a primitive", "can't start new thread") are not here: rule 3 is for them.
SAID = (
    "can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory",
    "std::bad_alloc", "memoryerror", "failed to map segment from shared object",
    "memory allocation failed", "unable to allocate",
)  # fmt: skip


@dataclass(kw_only=True)
class Ended:
    """How a worker ended: what it said through its pipe, and what was seen from outside."""

    returncode: int
    said: dict[str, Any] = field(default_factory=dict)
    complaint: str = ""
    """the end of its stderr"""
    hung: bool = False
    killed_for_memory: bool | None = None
    """whether the kernel killed for memory meanwhile; None when it does not say"""
    peak_data_bytes: int = 0
    """highest of what RLIMIT_DATA counts, looked at every `POLL_SECONDS`"""


def run_in_process(
    settings: StepSettings,
    *,
    limit: int | None,
    steps: int,
    warmup: int = WARMUP,
    need: int | None = None,
    worker: tuple[str, ...] = WORKER,
) -> dict[str, Any]:
    """Run one point in a process of its own and return what it says, or how it ended.

    `limit` and `need`, the predicted use of the whole process, are in bytes. The answer's status
    is done, out of memory, or failed; its `detail` says why. With `steps=0` the process only says
    what it holds once everything is imported and started. One step is not recorded: its tensors'
    peak is None.
    """
    task = {
        "settings": dataclasses.asdict(settings), "limit": limit, "steps": steps, "warmup": warmup,
    }  # fmt: skip
    ended = _run(task, worker)
    answer = explained(ended)
    if answer is None:
        detail = _how(ended)
        more = max(2 * (limit or 0), round(1.5 * (need or 0)))
        room = int(0.9 * memory_available_bytes())
        if limit is None or not ended.said.get("ready") or settings.target == "cuda":
            answer = {"status": FAILED, "detail": detail}
        elif min(more, room) < 1.2 * limit:  # there is no more memory to try it with
            memory = need is None or need > limit
            answer = {"status": OUT_OF_MEMORY if memory else FAILED, "detail": detail}
        else:
            again = _run({**task, "limit": min(more, room), "steps": 1, "warmup": 1}, worker)
            repeated = explained(again) or {"status": FAILED}
            if repeated["status"] == FAILED:
                answer = {"status": FAILED, "detail": detail}
            else:
                detail = f"{detail}; not so with more memory"
                answer = {"status": OUT_OF_MEMORY, "detail": detail}
    answer.setdefault("process_peak_bytes", ended.peak_data_bytes or None)
    return answer


def explained(ended: Ended) -> dict[str, Any] | None:
    """Return the answer that an end gives by itself, or None where memory may or may not be it."""
    said = ended.said
    if said.get("status") in (DONE, OUT_OF_MEMORY):
        return {key: value for key, value in said.items() if key != "ready"}
    if said.get("mistake"):
        return {"status": FAILED, "detail": said["detail"]}
    killed = ended.returncode == -signal.SIGKILL and not ended.hung
    if killed and ended.killed_for_memory is not False:
        return {"status": OUT_OF_MEMORY, "detail": "killed by the kernel for its memory"}
    if killed or ended.returncode in (-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP):
        name = signal.Signals(-ended.returncode).name
        return {"status": FAILED, "detail": f"ended from outside by {name}: start it again"}
    if ended.returncode and mentions_memory(ended.complaint):
        return {"status": OUT_OF_MEMORY, "detail": _how(ended)}
    return None


def mentions_memory(text: str) -> bool:
    """Return whether a message says that an allocation failed."""
    return any(words in text.lower() for words in SAID)


def _how(ended: Ended) -> str:
    if ended.hung:
        return "it stopped doing anything"
    if "detail" in ended.said:
        return str(ended.said["detail"])
    lines = ended.complaint.strip().splitlines()
    last = next((line for line in reversed(lines) if mentions_memory(line)), "")
    last = (last or (lines or [""])[-1]).strip()[:200]
    if ended.returncode < 0:
        last = f"ended by {signal.Signals(-ended.returncode).name}" + (f": {last}" if last else "")
    return last or f"it ended with code {ended.returncode} and said nothing"


def _run(task: dict[str, Any], worker: tuple[str, ...]) -> Ended:
    """Start a worker, watch it to its end, and never leave it behind."""
    kills, ended = oom_kills(), Ended(returncode=0)
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as errors, os.fdopen(reader) as answers:
        task = {**task, "pipe": writer, "parent": os.getpid()}
        try:
            child = subprocess.Popen(
                [sys.executable, *worker, json.dumps(task, default=list)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=(writer,),
                env={**os.environ, **EXACT},
            )
        finally:
            os.close(writer)
        try:
            _watch(child, ended)
        finally:
            child.kill()
            ended.returncode = child.wait()
        for line in answers:
            with contextlib.suppress(ValueError):  # cut off by its end
                ended.said |= json.loads(line)
        errors.seek(0)
        ended.complaint = errors.read()[-4000:].decode(errors="replace")
    after = oom_kills()
    ended.killed_for_memory = None if None in (kills, after) else after != kills
    return ended


def _watch(child: subprocess.Popen, ended: Ended) -> None:
    process, used, idle = psutil.Process(child.pid), -1.0, 0
    while child.poll() is None:
        time.sleep(POLL_SECONDS)
        with contextlib.suppress(psutil.Error, OSError, IndexError, ValueError):
            ended.peak_data_bytes = max(ended.peak_data_bytes, data_bytes(child.pid) or 0)
            spent = sum(process.cpu_times()[:2])
            asleep = process.status() == psutil.STATUS_SLEEPING
            idle = idle + 1 if asleep and spent == used else 0
            used = spent
        if idle > HUNG_POLLS:
            ended.hung = True
            return


def data_bytes(pid: int | str = "self") -> int | None:
    """Return what RLIMIT_DATA counts for a process, with its stack, where the system says it."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[5])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def oom_kills() -> int | None:
    """Return how often the kernel has killed for memory since it started, or None if unknown."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text(encoding="utf-8").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None


def _worker(task: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Build and run one point in this process, under its limit."""
    limit, settings = task["limit"], StepSettings(**task["settings"])
    try:
        _start_everything(settings)
        held = data_bytes()
        say({"ready": True, "held_bytes": held})
        if limit and held and settings.target == "cpu" and held >= limit:
            return {
                "status": OUT_OF_MEMORY,
                "detail": f"the process alone holds {held / GIB:.2f} GiB",
                "process_peak_bytes": held,
            }
        if not task["steps"]:
            return {"status": DONE, "detail": ""}
        return _measure(settings, task)
    except Exception as error:
        return _failure(error)


def _failure(error: BaseException) -> dict[str, Any]:
    """Return what an exception, or one that it came from, says about memory."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    if isinstance(error, LabkitError):
        return {"status": FAILED, "detail": text, "mistake": True}
    each: BaseException | None = error
    seen: set[int] = set()
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        if (
            isinstance(each, MemoryError)
            or type(each).__name__ == "OutOfMemoryError"
            or (isinstance(each, OSError) and each.errno == errno.ENOMEM)
            or mentions_memory(str(each))
        ):
            return {"status": OUT_OF_MEMORY, "detail": text}
        each = each.__cause__ or each.__context__
    return {"status": FAILED, "detail": f"{type(error).__name__}: {text}"}


def _start_everything(settings: StepSettings) -> None:
    """Import what a step imports, start its threads, and run it once on a tiny model."""
    import torch

    from labkit.console import quiet
    from labkit.machine import cpu_allocator  # noqa: F401
    from labkit.memory.measured import real_step

    step = real_step(
        dataclasses.replace(
            settings, model="tiny-llama", batch_size=2, seq_len=32, labelled_tokens=None,
            gradient_accumulation_steps=1, config_overrides={}, lora_target_modules=("all-linear",),
            num_virtual_tokens=4, lora_r=4,
        )
    )  # fmt: skip
    with quiet():
        for _ in range(2):
            step.run()
    if settings.target == "cpu":
        # Large enough for the thread pools of element-wise operations and of products.
        for dtype in (torch.float32, torch.bfloat16):
            square = torch.ones(1024, 1024, dtype=dtype, requires_grad=True)
            (square @ square).exp_().mul(0.5).sum().backward()


@contextlib.contextmanager
def _limited(limit: int | None, settings: StepSettings) -> Iterator[None]:
    """Put the limit on this process for the block, and lift it before anything is reported."""
    if not limit:
        yield
    elif settings.target == "cuda":
        import torch

        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total))
        yield
    else:
        import resource

        before = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, before)


def _measure(settings: StepSettings, task: dict[str, Any]) -> dict[str, Any]:
    from labkit.console import quiet
    from labkit.memory.measured import real_step, step_peak

    seconds = []
    counted = reset_peak_rss()
    with _limited(task["limit"], settings), quiet():
        step = real_step(settings)
        for _ in range(task["warmup"]):
            step.run()
        for _ in range(task["steps"]):
            began = time.perf_counter()
            step.run()
            if settings.target == "cuda":
                import torch

                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
    held = {"resident_bytes": peak_rss() if counted else None, **_device_bytes(settings)}
    # Recording takes memory itself, so it runs once more, without the limit.
    return {
        "status": DONE,
        "detail": "",
        **held,
        "peak_bytes": step_peak(step) if task["steps"] > 1 else None,
        "step_seconds": statistics.median(seconds),
    }


def _device_bytes(settings: StepSettings) -> dict[str, int]:
    """Return what the caching allocator holds of a card, and what is in use there altogether."""
    if settings.target != "cuda":
        return {}
    import torch

    free, total = torch.cuda.mem_get_info()
    return {"reserved_bytes": torch.cuda.max_memory_reserved(), "device_used_bytes": total - free}


def main() -> None:
    """Run the task in the last argument, and say through the task's pipe how it went."""
    task = json.loads(sys.argv[-1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and ends this process
    end_with_parent()
    if os.getppid() != task["parent"]:
        return
    with os.fdopen(task["pipe"], "w") as pipe:

        def say(values: dict[str, Any]) -> None:
            pipe.write(json.dumps(values) + "\n")
            pipe.flush()

        say(_worker(task, say))
    os._exit(0)  # nothing left to tidy up, and tidying up may fail as well


if __name__ == "__main__":
    main()
