"""Limits read from trees of control groups laid out as the kernel lays them out; this machine."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from labkit.machine import hardware

GIB = 2**30


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_version_2_takes_the_smallest_on_the_way_up(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/kubepods/pod1/user\n",
            "sys/fs/cgroup/kubepods/memory.max": f"{8 * GIB}\n",
            "sys/fs/cgroup/kubepods/pod1/memory.max": f"{2 * GIB}\n",
            "sys/fs/cgroup/kubepods/pod1/user/memory.max": "max\n",
            "sys/fs/cgroup/kubepods/pod1/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/kubepods/pod1/user/cpu.max": "max 100000\n",
        },
    )
    assert hardware.memory_limit_bytes(root) == 2 * GIB
    assert hardware.cores(root) == min(2, len(os.sched_getaffinity(0)))


def test_version_2_in_a_container_that_is_its_own_root(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{GIB}\n"},
    )
    assert hardware.memory_limit_bytes(root) == GIB


def test_version_1(tmp_path: Path) -> None:
    memory = "sys/fs/cgroup/memory"
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpuset:/\n4:memory:/jupyter/anna\n2:cpu:/\n0::/\n",
            f"{memory}/memory.limit_in_bytes": "9223372036854771712\n",
            f"{memory}/jupyter/memory.limit_in_bytes": f"{6 * GIB}\n",
            f"{memory}/jupyter/anna/memory.limit_in_bytes": f"{3 * GIB}\n",
        },
    )
    assert hardware.memory_limit_bytes(root) == 3 * GIB


@pytest.mark.parametrize("name", ["cpu", "cpu,cpuacct"])
def test_version_1_quota_under_either_name_of_its_tree(name: str, tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "2:cpu,cpuacct:/jupyter\n0::/\n",
            f"sys/fs/cgroup/{name}/jupyter/cpu.cfs_quota_us": "50000\n",
            f"sys/fs/cgroup/{name}/jupyter/cpu.cfs_period_us": "100000\n",
        },
    )
    assert hardware.cores(root) == 1


def test_version_1_in_a_container_that_sees_the_hosts_path(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/docker/0123abcd\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{4 * GIB}\n",
        },
    )
    assert hardware.memory_limit_bytes(root) == 4 * GIB


def test_no_limit_is_none(tmp_path: Path) -> None:
    assert hardware.memory_limit_bytes(tmp_path) is None
    unlimited = {
        "proc/self/cgroup": "4:memory:/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    assert hardware.memory_limit_bytes(write(tmp_path, unlimited)) is None
    assert hardware.cores(tmp_path) == len(os.sched_getaffinity(0))


def test_available_counts_cached_files_as_free(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/user\n",
            "sys/fs/cgroup/user/memory.max": "1000000\n",
            "sys/fs/cgroup/user/memory.current": "900000\n",
            "sys/fs/cgroup/user/memory.stat": "anon 600000\ninactive_file 250000\n",
        },
    )
    assert hardware.memory_available_bytes(root) == 350_000


def test_affinity_is_respected() -> None:
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]);"
        "from labkit.machine import hardware; print(hardware.cores())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_describe_this_machine() -> None:
    found = hardware.describe()
    assert found["memory_bytes"] == psutil.virtual_memory().total
    assert 1 <= found["cores"] <= (os.cpu_count() or 1)
    text = Path("/proc/cpuinfo").read_text()
    assert found["cpu"] in text
    words = set(text.split())
    assert set(found["flags"]) == set(hardware.FLAGS) & words


def test_gpus_and_their_users(monkeypatch: pytest.MonkeyPatch) -> None:
    # torch's answers on a machine with one card, in the shapes that torch gives them.
    import torch

    card = SimpleNamespace(name="NVIDIA A40", major=8, minor=6, uuid="1234-abcd")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (30 * GIB, 44 * GIB))
    listing = f"GPU-1234-abcd, {os.getpid()}, 14000\nGPU-other, 999999999, [N/A]\n"
    monkeypatch.setattr(
        subprocess, "run", lambda *args, **kw: SimpleNamespace(stdout=listing, returncode=0)
    )
    (gpu,) = hardware.gpus()
    assert gpu["memory_bytes"] == 44 * GIB
    assert gpu["free_bytes"] == 30 * GIB
    assert gpu["compute_capability"] == [8, 6]
    me = psutil.Process().username()
    assert gpu["users"] == [{"pid": os.getpid(), "user": me, "bytes": 14000 * 2**20}]


def test_no_driver_means_no_torch() -> None:
    code = (
        "import sys; from labkit.machine import hardware; hardware.describe();"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": ""},
    )
    if not Path("/dev/nvidiactl").exists():
        assert done.stdout.strip() == "False"
