"""Each finding on a machine arranged to have it, and the report as a whole on this one."""

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from labkit.course import build
from labkit.doctor import checks, minutes, software
from labkit.doctor.machine import training_bytes
from labkit.machine import arithmetic, hardware
from labkit.machine.datasheets import GIB
from labkit.models import load
from labkit.runs import profiles


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LABKIT_MODELS", "LABKIT_MODEL", "LABKIT_PROFILE", "MEM_LIMIT", "CPU_LIMIT",
                 "OMP_NUM_THREADS", "CXX"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LABKIT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(arithmetic, "fastest", lambda: "bfloat16")
    monkeypatch.setattr(arithmetic, "int8_rate", lambda fresh=False: 900e9)


def machine(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    described = {"cpu": "X", "flags": ["amx_bf16"], "cores": 2, "gpus": [], **changes}
    monkeypatch.setattr(hardware, "describe", lambda: described)


def test_report_is_json_and_changes_nothing(tmp_path: Path) -> None:
    findings = checks.report()
    plain = [each.to_json() for each in findings]
    assert json.loads(json.dumps(plain)) == plain
    assert all(set(line) == {"what", "status", "detail", "advice"} for line in plain)
    assert [f.what for f in findings] == list(checks.CHECKS)
    assert {f.status for f in findings} <= {"ok", "warn", "fail"}
    # Nothing is left but what the processor reaches, which every command reads.
    assert [path.name for path in tmp_path.rglob("*") if path.suffix == ".json"] == [
        arithmetic.kept_file().name
    ]


def test_a_check_that_breaks_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> checks.Finding:
        raise RuntimeError("driver mismatch")

    monkeypatch.setitem(checks.CHECKS, "GPU", broken)
    findings = {f.what: f for f in checks.report()}
    assert findings["GPU"].status == "warn"
    assert "RuntimeError: driver mismatch" in findings["GPU"].detail
    assert len(findings) == len(checks.CHECKS)


ARITHMETIC = """
import json
from labkit.doctor import checks
print(json.dumps(checks.CHECKS["arithmetic"]().to_json()))
"""
RATES = {
    "amx": arithmetic.Rates(float32=165e9, bfloat16=1373e9, bandwidth_bytes_per_second=28e9),
    "avx2": arithmetic.Rates(float32=160e9, bfloat16=18e9, bandwidth_bytes_per_second=28e9),
}


def test_the_fast_type_is_said_with_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "rates", lambda fresh=False: RATES["avx2"])
    said = checks.CHECKS["arithmetic"]().detail
    assert said.startswith("float32 is the fast type") and "160 GFLOP/s, bfloat16 18" in said
    monkeypatch.setattr(arithmetic, "rates", lambda fresh=False: RATES["amx"])
    assert checks.CHECKS["arithmetic"]().detail.startswith("bfloat16 is the fast type")
    assert "bfloat16 1,373, int8 900, memory" in checks.CHECKS["arithmetic"]().detail


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [("CXX", "no-such-compiler", "int8 "), ("LABKIT_INT8", "amx2", "int8 not measured (LABKIT_")],
)
def test_int8_products_that_cannot_be_had_fail_no_doctor(
    variable: str, value: str, said: str, tmp_path: Path
) -> None:
    """In a process of its own: kernels that were built once stay in one."""
    done = subprocess.run(
        [sys.executable, "-c", ARITHMETIC],
        env={**os.environ, variable: value}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["status"] == "ok" and said in found["detail"]
    assert "float32 reaches" in found["detail"] and not list(tmp_path.rglob("*.so"))


def test_every_lesson_has_its_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    lessons = [path.stem for path in Path("lessons").glob("[0-9A][0-9]_*.py")]
    assert sorted(lessons) == list(build.LESSONS)
    numbers = [minutes.number(name) for name in build.LESSONS]
    assert numbers == list(minutes.work(profiles.PROFILES["cpu"]))
    monkeypatch.setattr(arithmetic, "rates", lambda fresh=False: RATES["avx2"])
    monkeypatch.setenv("LABKIT_PROFILE", "smoke")
    detail = checks.CHECKS["lessons"]().detail
    assert all(f"{number} " in detail for number in numbers) and "in all" in detail


@pytest.mark.parametrize("method", ["lora", "full"])
def test_minutes_of_training_are_those_of_a_run_on_such_a_machine(method: str) -> None:
    file = Path("tests/runs/before") / f"lora_vs_full.{method}.json"
    run = json.loads(file.read_text())
    tokens = sum(step["tokens"] for step in run["steps"])
    assert tokens == minutes.STEPS * minutes.TOKENS_A_STEP - 27  # TOKENS_A_STEP is rounded
    work = minutes.Work(fixed=0, **{f"{method}_tokens": tokens})
    predicted = minutes.seconds(work, RATES["amx"])
    assert predicted == pytest.approx(run["summary"]["train_seconds"], rel=0.4)


def test_a_slower_processor_takes_longer_and_a_smaller_profile_less() -> None:
    cpu, smoke = (profiles.PROFILES[name] for name in ("cpu", "smoke"))
    amx, avx2 = (minutes.lesson_seconds(cpu, RATES[name]) for name in ("amx", "avx2"))
    assert avx2["02"] > 1.4 * amx["02"]
    # Float32 on AVX2 is never as slow as imitated bfloat16, which took 22 hours.
    assert avx2["02"] < 3 * amx["02"]
    short = minutes.lesson_seconds(smoke, RATES["avx2"])
    assert all(short[number] < avx2[number] for number in avx2)


@pytest.mark.parametrize(
    ("changes", "threads", "status", "said"),
    [
        ({}, None, "ok", ""),
        ({"cores": 1}, None, "ok", ""),  # what it costs stands in the minutes
        ({"flags": ["avx2"]}, None, "ok", ""),
        ({}, "8", "warn", "8 threads on 2 cores"),
    ],
)
def test_cores(
    changes: dict, threads: str | None, status: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, **changes)
    if threads:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    finding = checks.check_cores()
    assert finding.status == status
    assert said in finding.advice


def test_cores_that_the_hub_promises_and_does_not_enforce(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cores=64)
    monkeypatch.setenv("CPU_LIMIT", "2.0")
    finding = checks.check_cores()
    assert finding.status == "warn" and "promises 2 but does not" in finding.detail
    assert finding.advice.endswith("set OMP_NUM_THREADS=2")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert checks.check_cores().status == "ok"
    monkeypatch.setenv("CPU_LIMIT", "None")  # as the hub writes no limit
    assert checks.check_cores().status == "ok"


def test_memory_limit_of_the_control_group_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "memory_limit_bytes", lambda: 2 * GIB)
    monkeypatch.setattr(hardware, "memory_available_bytes", lambda: GIB)
    finding = checks.check_memory()
    assert finding.status == "warn"
    assert "1.0 GiB left of 2.0 GiB (control group" in finding.detail


def test_a_promise_of_the_hub_is_told_from_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "memory_limit_bytes", lambda: None)
    monkeypatch.setattr(hardware, "memory_available_bytes", lambda: 20 * GIB)
    monkeypatch.setenv("MEM_LIMIT", str(4 * GIB))
    finding = checks.check_memory()
    assert finding.status == "ok"
    assert "promises 4.0 GiB but does not enforce it" in finding.detail
    assert checks.check_training("lora").status == "ok"
    monkeypatch.setenv("MEM_LIMIT", str(GIB))
    assert checks.check_memory().status == "warn"
    assert "no, 1.0 GiB are left" in checks.check_training("lora").detail


@pytest.mark.parametrize(("size", "status"), [(64 * 2**20, "warn"), (GIB, "ok")])
def test_shared_memory(
    size: int, status: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=size, free=size))
    assert checks.check_shared_memory(tmp_path).status == status
    assert checks.check_shared_memory(tmp_path / "absent").status == "ok"


def test_gpu_says_who_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    card: dict[str, Any] = {
        "name": "A40",
        "free_bytes": 20 * GIB,
        "memory_bytes": 44 * GIB,
        "users": [],
    }
    other = {"pid": 1, "user": "anna", "bytes": 24 * GIB}
    monkeypatch.setattr(hardware, "gpus", lambda: [{**card, "users": [other]}])
    finding = checks.check_gpu()
    assert finding.status == "warn"
    assert finding.detail == "A40: 20.0 GiB free of 44.0 GiB, used by anna"
    mine = {"pid": os.getpid(), "user": "me", "bytes": GIB}
    monkeypatch.setattr(
        hardware, "gpus", lambda: [{**card, "free_bytes": 43 * GIB, "users": [mine]}]
    )
    assert checks.check_gpu().status == "ok"


def test_models_folder(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.check_models_folder().status == "ok"
    monkeypatch.setenv("LABKIT_MODELS", str(tmp_path / "absent"))
    finding = checks.check_models_folder()
    assert finding.status == "fail"
    assert "No such file" in finding.detail
    monkeypatch.setenv("LABKIT_MODELS", str(tmp_path))
    assert checks.check_models_folder().status == "warn"
    monkeypatch.setenv("LABKIT_MODELS", str(tiny_llama.parent))
    finding = checks.check_models_folder()
    assert finding.status == "ok"
    assert "tiny-llama" in finding.detail


def test_embedded_model(embedded_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = checks.check_embedded_model()
    assert finding.status == "warn"
    assert finding.advice == "run labkit fetch"
    monkeypatch.setenv("LABKIT_MODELS", str(embedded_model.parent))
    assert checks.check_embedded_model().detail == str(embedded_model)


@pytest.mark.parametrize(
    ("check", "setting"),
    [(checks.check_cache, "LABKIT_CACHE"), (checks.check_runs, "LABKIT_RUNS")],
)
def test_places_to_write(
    check: Callable[[], checks.Finding],
    setting: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert check().status == "ok"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=GIB // 2))
    finding = check()
    assert finding.status == "warn"
    assert "0.5 GiB left" in finding.detail
    (tmp_path / "a-file").write_text("")
    monkeypatch.setenv(setting, str(tmp_path / "a-file" / "x"))
    finding = check()
    assert finding.status == "fail"
    assert setting in finding.advice


QUOTA = """Disk quotas for user anna (uid 1000):
     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace
       {device} {used} {soft} {hard}       0      10       0       0       0
"""


@pytest.mark.parametrize(
    ("used", "soft", "hard", "left"),
    [
        ("3145728", 0, 5242880, "2.0 GiB of your quota"),
        ("4718592", 4194304, 5242880, "0.5 GiB of your quota"),
        ("6000000*", 4194304, 5242880, "0.0 GiB of your quota"),
        ("1048576", 4194304, 0, "3.0 GiB of your quota"),
        ("1048576", 0, 0, None),
    ],
)
def test_a_quota_is_read_for_the_right_disk(
    used: str,
    soft: int,
    hard: int,
    left: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places = [
        SimpleNamespace(mountpoint="/", device="/dev/root"),
        SimpleNamespace(mountpoint=str(tmp_path), device="nas:/homes"),
    ]
    monkeypatch.setattr(hardware.psutil, "disk_partitions", lambda all: places)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=90 * GIB))
    table = QUOTA.format(device="/dev/root", used="1", soft=0, hard=9)
    table += QUOTA.format(device="nas:/homes", used=used, soft=soft, hard=hard)
    (tmp_path / "table").write_text(table)
    command = tmp_path / "bin" / "quota"
    command.parent.mkdir()
    command.write_text(f"#!/bin/sh\ncat {tmp_path}/table\nexit 1\n")  # 1: over the quota
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    finding = checks.check_runs()
    assert (left in finding.detail) if left else ("your quota" not in finding.detail)
    short = left is not None and left[0] == "0"
    assert finding.status == ("warn" if short else "ok")
    command.write_text("#!/bin/sh\necho none\n")
    assert "your quota" not in checks.check_runs().detail
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hardware.quota_left_bytes(tmp_path) is None


def test_a_disk_can_run_out_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = SimpleNamespace(f_files=10**6, f_favail=7)
    monkeypatch.setattr(os, "statvfs", lambda path: counts)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=90 * GIB))
    finding = checks.check_runs()
    assert finding.status == "warn" and "room for 7 more files only" in finding.detail
    counts.f_files = counts.f_favail = 0  # not counted, as on btrfs
    assert checks.check_runs().status == "ok"


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert checks.check_home().status == "ok"
    (tmp_path / "a-file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "a-file" / "home"))
    finding = checks.check_home()
    assert finding.status == "fail" and "JupyterLab cannot save" in finding.advice


def test_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.check_profile().detail == "cpu: lessons use smollm2-135m-instruct"
    monkeypatch.setenv("LABKIT_PROFILE", "gpuu")
    finding = checks.check_profile()
    assert finding.status == "fail" and "did you mean 'gpu'" in finding.detail
    monkeypatch.setenv("LABKIT_PROFILE", "gpu")
    monkeypatch.setattr(hardware, "gpus", list)
    finding = checks.check_profile()
    assert finding.status == "warn" and "there is no GPU" in finding.detail
    monkeypatch.setattr(hardware, "gpus", lambda: [{}])
    finding = checks.check_profile()
    assert finding.status == "warn" and "tinyllama-1.1b, which is not here" in finding.detail


def test_versions_against_a_lock(tmp_path: Path) -> None:
    import numpy
    import torch

    plain = torch.__version__.split("+")[0]  # what a lock names for every build
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"# comment\nnumpy=={numpy.__version__}\ntorch=={plain}\nno-such-thing==1.0\n")
    finding = checks.check_versions(lock)
    assert finding.status == "ok"
    assert finding.detail.startswith("2 packages as in requirements.lock, 1 not installed")
    lock.write_text(f"numpy==0.0.1\ntorch=={plain}\n")
    finding = checks.check_versions(lock)
    assert finding.status == "warn"
    assert f"numpy {numpy.__version__} instead of 0.0.1" in finding.detail


def test_lock_is_found_from_inside_a_checkout(tmp_path: Path) -> None:
    (tmp_path / "labkit").mkdir()
    (tmp_path / "requirements.lock").write_text("")
    (tmp_path / "lessons").mkdir()
    assert software.find_lock(tmp_path / "lessons") == tmp_path / "requirements.lock"


def test_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert checks.check_compiler().status == "warn"
    compiler = tmp_path / "clang++"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    assert checks.check_compiler().detail == str(compiler)


@pytest.mark.parametrize(
    ("argv0", "status"),
    [("python", "ok"), (sys.executable, "ok"), ("/opt/other/bin/python3", "warn")],
)
def test_kernel(argv0: str, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kernels" / "python3").mkdir(parents=True)
    spec = {"argv": [argv0, "-m", "ipykernel_launcher", "-f", "{connection_file}"]}
    spec |= {"display_name": "Python 3", "language": "python"}
    (tmp_path / "kernels" / "python3" / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))  # searched before the environment's own
    finding = checks.check_kernel()
    assert finding.status == status
    assert (argv0 if argv0 != "python" else sys.executable) in finding.detail


def test_missing_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    def absent(self: object, name: str) -> None:
        raise NoSuchKernel(name)

    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", absent)
    assert checks.check_kernel().status == "fail"


def test_memory_rule_uses_the_models_own_numbers(embedded_model: Path) -> None:
    count = load.load_model(embedded_model).num_parameters()
    # fp32 weights, gradients and two moments; LoRA leaves the weights in 16 bit. What is added for
    # activations and the process takes less than 3 GiB.
    assert 16 * count < training_bytes("full") < 16 * count + 3 * GIB
    assert 2 * count < training_bytes("lora") < 2 * count + 3 * GIB


@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_fits(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    need = training_bytes(method)
    monkeypatch.setattr(hardware, "memory_available_bytes", lambda: need)
    assert checks.check_training(method).status == "ok"
    monkeypatch.setattr(hardware, "memory_available_bytes", lambda: need - 1)
    finding = checks.check_training(method)
    assert finding.status == "warn"
    assert "gradient_checkpointing" in finding.advice


def test_table_for_people() -> None:
    findings = [
        checks.Finding("memory", "ok", "plenty [1]"),
        checks.Finding("GPU", "warn", "busy", "wait"),
    ]
    text = checks.render(findings, width=60)
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines[0] == "ok    memory  plenty [1]"
    assert lines[1:3] == ["warn  GPU     busy", "              → wait"]
    assert lines[-1] == "1 ok, 1 warn, 0 fail: the course runs here, within what the warnings say"
    assert max(map(len, checks.render(checks.report(), width=70).splitlines())) <= 78
