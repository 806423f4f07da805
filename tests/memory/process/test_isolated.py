"""However a process dies for want of memory, it is out of memory; however else, it has failed."""

import dataclasses
import signal
import subprocess
import sys
import time

import psutil
import pytest

from labkit.errors import LabkitError
from labkit.memory.process import isolated
from labkit.memory.process.isolated import (
    DONE,
    FAILED,
    OUT_OF_MEMORY,
    Ended,
    explained,
    run_in_process,
)
from labkit.memory.settings import StepSettings

MIB = 2**20
SETTINGS = StepSettings(model="tiny-llama", target="cpu", batch_size=2, seq_len=16)

# A worker without torch. Under 100 MiB, or always, it dies in one of many ways.
FAKE = """
import json, os, resource, signal, sys, time
task = json.loads(sys.argv[-1])
pipe = os.fdopen(task["pipe"], "w")
def say(**values):
    pipe.write(json.dumps(values) + chr(10)); pipe.flush()
say(ready=True, held_bytes=1)
open({log!r}, "a").write("started ")
if {always} or task["limit"] < 100 * 2**20:
    {death}
    os._exit(0)
say(status="done", detail="", peak_bytes=1, step_seconds=1.0)
"""
COMPLAIN = "sys.stderr.write({!r}); sys.stderr.flush(); os._exit(1)"
SAY = "say(status='failed', detail={!r})"
# None of these says by itself whether it was memory.
UNEXPLAINED = {
    "aborts": "os.abort()",
    "touches nothing that is there": "os.kill(os.getpid(), signal.SIGSEGV)",
    "exits without a word": "os._exit(1)",
    "says nothing and ends well": "pass",
    "has no thread": COMPLAIN.format("libgomp: Thread creation failed: try again\n"),
    "has no Python thread": SAY.format("RuntimeError: can't start new thread"),
    "has no primitive": SAY.format("RuntimeError: could not create a primitive"),
    "cannot execute": SAY.format("RuntimeError: could not execute a primitive"),
    "is cut off": 'pipe.write(\'{"status": "do\'); pipe.flush(); os.abort()',
    "hangs": "time.sleep(600)",
}
EXPLAINED = {
    "C++": COMPLAIN.format("terminate called after throwing an instance of 'std::bad_alloc'\n"),
    "Python": "resource.setrlimit(resource.RLIMIT_DATA, (64 << 20, -1)); b = bytearray(1 << 30)",
    "the loader": COMPLAIN.format("ImportError: x.so: failed to map segment from shared object\n"),
    "static TLS": COMPLAIN.format("ImportError: cannot allocate memory in static TLS block\n"),
    "libgomp": COMPLAIN.format("libgomp: Out of memory allocating 8192 bytes\n"),
    "the system": COMPLAIN.format("OSError: [Errno 12] Cannot allocate memory\n"),
}


def run_fake(tmp_path, death, *, always, **options):
    script = FAKE.format(log=str(tmp_path / "log"), always=always, death=death)
    worker = ("-c", script)
    answer = run_in_process(SETTINGS, limit=50 * MIB, steps=1, worker=worker, **options)
    return answer, (tmp_path / "log").read_text().count("started")


@pytest.mark.parametrize("death", UNEXPLAINED.values(), ids=UNEXPLAINED)
def test_what_more_memory_mends_was_out_of_memory(death, tmp_path, monkeypatch):
    monkeypatch.setattr(isolated, "HUNG_POLLS", 60)
    answer, starts = run_fake(tmp_path, death, always=False)
    assert (answer["status"], starts) == (OUT_OF_MEMORY, 2)
    assert answer["detail"].endswith("; not so with more memory")


@pytest.mark.parametrize("death", UNEXPLAINED.values(), ids=UNEXPLAINED)
def test_what_more_memory_does_not_mend_has_failed(death, tmp_path, monkeypatch):
    monkeypatch.setattr(isolated, "HUNG_POLLS", 60)
    answer, starts = run_fake(tmp_path, death, always=True)
    assert (answer["status"], starts) == (FAILED, 2)
    assert answer["detail"]


@pytest.mark.parametrize("death", EXPLAINED.values(), ids=EXPLAINED)
def test_who_says_that_memory_is_missing_is_believed(death, tmp_path):
    answer, starts = run_fake(tmp_path, death, always=True)
    assert (answer["status"], starts) == (OUT_OF_MEMORY, 1)


@pytest.mark.parametrize(("need", "status"), [(None, OUT_OF_MEMORY), (51, OUT_OF_MEMORY),
                                              (49, FAILED)])  # fmt: skip
def test_where_there_is_no_more_memory_the_prediction_decides(tmp_path, monkeypatch, need, status):
    monkeypatch.setattr(isolated, "memory_available_bytes", lambda: 50 * MIB)
    answer, starts = run_fake(tmp_path, "os.abort()", always=True, need=need and need * MIB)
    assert (answer["status"], starts) == (status, 1)


@pytest.mark.parametrize(
    ("ended", "status"),
    [
        (Ended(returncode=-9, killed_for_memory=True), OUT_OF_MEMORY),
        (Ended(returncode=-9, killed_for_memory=None), OUT_OF_MEMORY),
        (Ended(returncode=-9, killed_for_memory=False), FAILED),
        (Ended(returncode=-15, killed_for_memory=False), FAILED),
        (Ended(returncode=1, complaint="ValueError: bad"), None),
        (Ended(returncode=0, said={"status": DONE}, complaint="warning: out of memory"), DONE),
    ],
)
def test_the_kernel_says_whom_it_killed_for_memory(ended, status):
    answer = explained(ended)
    assert (answer["status"] if answer else None) == status


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryError(), OUT_OF_MEMORY),
        (OSError(12, "Cannot allocate memory"), OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried"), OUT_OF_MEMORY),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), OUT_OF_MEMORY),
        (RuntimeError("std::bad_alloc"), OUT_OF_MEMORY),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), FAILED),
        (OSError(2, "No such file"), FAILED),
    ],
)
def test_an_exception_is_read_with_what_it_came_from(error, status):
    assert isolated._failure(error)["status"] == status
    wrapped = ValueError("the layer failed")
    wrapped.__cause__ = error
    assert isolated._failure(wrapped)["status"] == status


@pytest.fixture(scope="module")
def free():
    """What a real point says without a limit."""
    return run_in_process(SETTINGS, limit=None, steps=2, warmup=1)


def test_a_real_point_says_what_it_took(free):
    assert free["status"] == DONE
    assert free["step_seconds"] > 0 and free["peak_bytes"] > 0
    assert free["process_peak_bytes"] > free["held_bytes"] > 100 * MIB


def test_a_real_point_below_what_the_process_holds_is_out_of_memory(free):
    low = run_in_process(SETTINGS, limit=free["held_bytes"] // 2, steps=1)
    assert low["status"] == OUT_OF_MEMORY
    assert low["detail"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_real_step_with_room_for_half_of_its_tensors_is_out_of_memory(dtype):
    # Blocks of a step that is far larger than what the heap has left over from the tiny one before
    # it: wherever it fails (a product, a primitive, an abort), it cannot end. How much a process
    # has left over differs by processor, so a limit a little above what it holds says nothing.
    settings = dataclasses.replace(SETTINGS, batch_size=64, seq_len=256, dtype=dtype)
    large = run_in_process(settings, limit=None, steps=2, warmup=1)
    assert large["peak_bytes"] > 100 * MIB
    limit = large["held_bytes"] + large["peak_bytes"] // 2
    low = run_in_process(settings, limit=limit, steps=1)
    assert low["status"] == OUT_OF_MEMORY
    assert low["detail"]


def test_a_mistake_has_failed_whatever_the_limit(tmp_path):
    mistake = isolated._failure(LabkitError("there is no layer out of memory"))
    answer, starts = run_fake(tmp_path, f"say(**{mistake!r})", always=True)
    assert (answer["status"], starts) == (FAILED, 1)
    assert answer["detail"] == "there is no layer out of memory"


def test_a_worker_does_not_outlive_the_process_that_started_it():
    code = (
        "from labkit.memory.process.isolated import run_in_process\n"
        "from labkit.memory.settings import StepSettings\n"
        "run_in_process(StepSettings(model='tiny-llama', target='cpu', seq_len=4096,"
        " batch_size=4), limit=None, steps=1000)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    try:
        watched, worker = psutil.Process(parent.pid), None
        while worker is None or not any("libtorch" in m.path for m in worker.memory_maps()):
            assert parent.poll() is None
            time.sleep(0.1)
            worker = next(iter(watched.children()), None)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert psutil.wait_procs([worker], timeout=60)[1] == []
