"""This machine as a training run sees it: cores it may use, memory it may use, what is fast.

What a machine *has* and what a process *may use* differ on any shared server. A container on a
64-core machine with a quota of two runs two threads' worth of work, and 64 threads in it only
get in each other's way; a process that stays below the machine's memory and above its control
group's limit is killed without a word. So cores are the smallest of affinity mask and CPU
quota, and memory is the smallest limit on the way up the tree of control groups.

How fast its arithmetic is, `arithmetic` measures.

Source: Linux kernel documentation, "Control Group v2" (`memory.max`, `cpu.max`) and "Memory
Resource Controller" (v1, `memory.limit_in_bytes`). What cards can do is in `datasheets`.
"""

import math
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

FLAGS = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16"),
    *("amx_tile", "amx_bf16", "amx_int8"),
)
# Version 1 writes "no limit" as the largest multiple of a page in 63 bits.
_UNLIMITED = 1 << 60


def _control_groups(controller: str, root: Path) -> list[Path]:
    """Return this process's control group for `controller` and all above it, innermost first."""
    base, inner = root / "sys/fs/cgroup", ""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):  # version 1 has a tree for each controller
            mounted = base / controller  # usually a link to the tree it shares, "cpu,cpuacct"
            base, inner = mounted if mounted.exists() else base / controllers, path
            break
        if not controllers:
            inner = path
    group = base / inner.strip("/")
    # In a container the path may be the host's, which is not mounted here: start where it is.
    return [g for g in (group, *group.parents) if g.is_relative_to(base) and g.is_dir()]


def _read_number(path: Path) -> int | None:
    try:
        value = int(path.read_text(encoding="utf-8").split()[0])
    except (OSError, ValueError, IndexError):  # absent, or "max"
        return None
    return value if 0 <= value < _UNLIMITED else None


def memory_limit_bytes(root: Path = Path("/")) -> int | None:
    """Return the memory limit that control groups put on this process, or None without one."""
    limits = [
        _read_number(group / name)
        for group in _control_groups("memory", root)
        for name in ("memory.max", "memory.limit_in_bytes")
    ]
    return min((limit for limit in limits if limit is not None), default=None)


def memory_available_bytes(root: Path = Path("/")) -> int:
    """Return how much more memory this process may use now: on the machine and under its limit."""
    available = psutil.virtual_memory().available
    for group in _control_groups("memory", root):
        for maximum, current in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, used = _read_number(group / maximum), _read_number(group / current)
            if limit is not None and used is not None:
                # Cached files count as used but are dropped when memory is needed.
                available = min(available, limit - used + _inactive_file_bytes(group))
    return max(available, 0)


def _inactive_file_bytes(group: Path) -> int:
    try:
        text = (group / "memory.stat").read_text(encoding="utf-8")
        stat = dict(line.split() for line in text.splitlines())
    except (OSError, ValueError):
        return 0
    return int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))


def cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may use: affinity and CPU quota, at least one."""
    if hasattr(os, "sched_getaffinity"):
        allowed = float(len(os.sched_getaffinity(0)))
    else:
        allowed = float(os.cpu_count() or 1)
    for group in _control_groups("cpu", root):
        try:
            quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
            allowed = min(allowed, float(quota) / float(period))
        except (OSError, ValueError):  # not version 2, or "max"
            quota_us = _read_number(group / "cpu.cfs_quota_us")
            period_us = _read_number(group / "cpu.cfs_period_us")
            if quota_us and period_us:
                allowed = min(allowed, quota_us / period_us)
    return max(1, math.ceil(allowed))


def quota_left_bytes(folder: Path) -> int | None:
    """Return what this user's disk quota leaves where `folder` is, or None without a quota.

    Read with Linux's own `quota`, which also knows those of network file systems. A line is
    device, KiB used, soft and hard limit, grace, then the same of files; 0 is no limit.
    Source: quota(1) of linuxquota.
    """
    try:
        command = ["quota", "--no-wrap", "--raw-grace", "--user"]
        out = subprocess.run(command, capture_output=True, text=True, timeout=5).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    places = psutil.disk_partitions(all=True)
    around = [p for p in places if folder.absolute().is_relative_to(p.mountpoint)]
    device = max(around, key=lambda place: len(place.mountpoint)).device if around else ""
    for words in map(str.split, out.splitlines()):
        if len(words) == 9 and words[0] == device and words[3].isdigit():
            used, limit = int(words[1].rstrip("*")), int(words[3]) or int(words[2])
            return max(0, limit - used) * 1024 if limit else None
    return None


def processor(root: Path = Path("/")) -> tuple[str, list[str]]:
    """Return the processor's name and those of FLAGS that it has."""
    name, flags = platform.processor() or platform.machine(), set()
    try:
        for line in (root / "proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
                break
    except OSError:
        pass
    return name, [flag for flag in FLAGS if flag in flags]


def gpus() -> list[dict[str, Any]]:
    """Return the CUDA devices that torch can use, each with its memory and who uses it.

    torch is imported only where a driver is, so the answer is quick without one.
    """
    if "torch" not in sys.modules and not (
        Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi")
    ):
        return []
    try:
        import torch
    except ImportError:
        return []
    if not torch.cuda.is_available():
        return []
    users = _gpu_users()
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        found.append(
            {
                "index": index,
                "name": properties.name,
                "compute_capability": [properties.major, properties.minor],
                "memory_bytes": total,
                "free_bytes": free,
                "users": users.get(f"GPU-{getattr(properties, 'uuid', '')}", []),
            }
        )
    return found


def thread_count(default: int | None = None) -> int:
    """Return the threads that OMP_NUM_THREADS gives a process, else `default` or the cores.

    OpenMP allows a list, one number for each level of nesting (4,3,2): the first is ours.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    given = int(first) if first.isascii() and first.isdigit() else 0
    return given or default or cores()


def _gpu_users() -> dict[str, list[dict[str, Any]]]:
    """Return the processes on each GPU by its UUID, from nvidia-smi; empty when it cannot tell."""
    query = "--query-compute-apps=gpu_uuid,pid,used_memory"
    try:
        out = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=10,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    users: dict[str, list[dict[str, Any]]] = {}
    for line in out.splitlines():
        cells = [part.strip() for part in line.split(",")]
        # Under MIG or in a container it says "[Insufficient Permissions]", "[N/A]", or a sentence.
        if len(cells) != 3 or not (cells[1].isascii() and cells[1].isdigit()):
            continue
        uuid, pid, mebibytes = cells
        try:
            user = psutil.Process(int(pid)).username()
        except (psutil.Error, KeyError, OverflowError):  # in another container, gone, or nameless
            user = None
        said = mebibytes.isascii() and mebibytes.isdigit()
        used = int(mebibytes) * 2**20 if said else None
        users.setdefault(uuid, []).append({"pid": int(pid), "user": user, "bytes": used})
    return users


def describe() -> dict[str, Any]:
    """Return this machine for a run record; bytes, and None for what cannot be known."""
    name, flags = processor()
    loaded = sys.modules.get("torch")
    threads = loaded.get_num_threads() if loaded is not None else thread_count()
    return {
        "cpu": name,
        "flags": flags,
        "cores": cores(),
        "threads": threads,
        "memory_bytes": psutil.virtual_memory().total,
        "memory_limit_bytes": memory_limit_bytes(),
        "gpus": gpus(),
        "platform": platform.platform(terse=True),
    }
