"""Check cores, memory and GPUs: what this process may use, and which runs fit.

The memory that training needs is what `labkit estimate` computes by formula.
"""

import os
import shutil
from pathlib import Path
from typing import Literal

import psutil

from labkit.doctor import minutes
from labkit.doctor.finding import EMBEDDED, Finding, gib
from labkit.machine import arithmetic, hardware
from labkit.machine.datasheets import GIB
from labkit.memory.estimates import needed
from labkit.memory.formula import analytic
from labkit.memory.settings import StepSettings


def check_cores() -> Finding:
    """Check how many cores may be used, and whether the threads fit them."""
    machine = hardware.describe()
    detail = f"{machine['cores']} × {machine['cpu']}"
    threads = hardware.thread_count(machine["cores"])
    promised = _number("CPU_LIMIT")
    if promised is not None and promised < threads:
        detail += f"; the hub promises {promised:g} but does not enforce it"
        advice = f"others share this machine: set OMP_NUM_THREADS={max(1, round(promised))}"
        return Finding("cores", "warn", detail, advice)
    if threads > machine["cores"]:
        advice = f"{threads} threads on {machine['cores']} cores slow each other: "
        return Finding("cores", "warn", detail, advice + "unset OMP_NUM_THREADS")
    return Finding("cores", "ok", detail)


def check_arithmetic() -> Finding:
    """Report the type that is fast here, by measurement, and the rate of each."""
    found = arithmetic.rates(fresh=True)
    memory = found.bandwidth_bytes_per_second / GIB
    try:
        int8 = f"int8 {arithmetic.int8_rate(fresh=True) / 1e9:,.0f}"
    except Exception as error:  # a level that is not there, a compiler or a library that fails
        int8 = f"int8 not measured ({error})"
    detail = (
        f"{found.fastest} is the fast type: float32 reaches {found.float32 / 1e9:,.0f} GFLOP/s, "
        f"bfloat16 {found.bfloat16 / 1e9:,.0f}, {int8}, memory {memory:.0f} GiB/s"
    )
    return Finding("arithmetic", "ok", detail)


def check_minutes() -> Finding:
    """Estimate how long each lesson runs on this machine, at the measured rates."""
    times = minutes.lesson_seconds(rates=arithmetic.rates())
    each = ", ".join(f"{number} {max(1, round(t / 60))}" for number, t in times.items())
    total = max(1, round(sum(times.values()) / 60))
    detail = f"{each} min, {total} in all, from nothing and without your own reading"
    if hardware.gpus():
        detail += "; computed for the processor, a GPU takes less"
    return Finding("lessons", "ok", detail)


def check_memory() -> Finding:
    """Check the machine's memory, this process's limit, and what is left of both."""
    total, limit = psutil.virtual_memory().total, hardware.memory_limit_bytes()
    available = hardware.memory_available_bytes()
    detail = f"{gib(available)} left of {gib(min(total, limit or total))}"
    detail += f" (control group; the machine has {gib(total)})" if limit else ", no limit set"
    promised = _number("MEM_LIMIT")
    if promised is not None and (limit is None or promised < limit):
        detail += f"; the hub promises {gib(promised)} but does not enforce it"
    if memory_left_bytes() < training_bytes("lora"):
        return Finding("memory", "warn", detail, "close other notebooks or ask for a larger server")
    return Finding("memory", "ok", detail)


def memory_left_bytes() -> int:
    """Return what a run may use: what is left here, and not more than the hub promises."""
    promised = _number("MEM_LIMIT")
    available = hardware.memory_available_bytes()
    return available if promised is None else min(available, int(promised))


def _number(setting: str) -> float | None:
    """Return a number from the environment, such as JupyterHub's MEM_LIMIT and CPU_LIMIT."""
    try:
        return float(os.environ[setting])
    except (KeyError, ValueError):
        return None


def check_shared_memory(path: Path = Path("/dev/shm")) -> Finding:
    """Check the space in /dev/shm, through which processes of one training run pass tensors."""
    if not path.is_dir():
        return Finding("shared memory", "ok", f"{path} is not used on this system")
    size = shutil.disk_usage(path).total
    if size < GIB // 4:
        advice = "several processes need more: start the container with --shm-size=1g"
        return Finding("shared memory", "warn", f"{path} holds {size // 2**20} MiB", advice)
    return Finding("shared memory", "ok", f"{path} holds {gib(size)}")


def check_gpu() -> Finding:
    """Check GPUs, their free memory and who else uses them."""
    cards = hardware.gpus()
    if not cards:
        return Finding("GPU", "ok", "none: the profile cpu runs the whole course without one")
    parts, busy = [], []
    for card in cards:
        parts.append(
            f"{card['name']}: {gib(card['free_bytes'])} free of {gib(card['memory_bytes'])}"
        )
        others = [user for user in card["users"] if user["pid"] != os.getpid()]
        names = sorted({user["user"] or f"process {user['pid']}" for user in others})
        if names:
            parts[-1] += f", used by {', '.join(names)}"
        if card["free_bytes"] < 0.9 * card["memory_bytes"]:
            busy.append(card)
    if busy:
        advice = "wait, talk to them, or choose a free card with CUDA_VISIBLE_DEVICES"
        return Finding("GPU", "warn", "; ".join(parts), advice)
    return Finding("GPU", "ok", "; ".join(parts), "LABKIT_PROFILE=gpu uses it")


def training_bytes(method: Literal["lora", "full"]) -> int:
    """Return how many bytes a run on the embedded model takes in all, by formula.

    Of a batch of eight samples of 200 tokens, of which 32 have a label.
    """
    settings = StepSettings(
        model=EMBEDDED, method=method, batch_size=8, seq_len=200, labelled_tokens=32, target="cpu",
        dtype=arithmetic.fastest(), cast_adapter_input=False,
    )  # fmt: skip
    result = analytic(settings)
    assert result is not None
    return needed(result.peak_bytes, settings)


def check_training(method: Literal["lora", "full"]) -> Finding:
    """Check whether a run of this method on the embedded model fits into the memory left."""
    title = {"lora": "LoRA", "full": "full fine-tuning"}[method]
    need, available = training_bytes(method), memory_left_bytes()
    detail = f"{title} of the embedded model needs about {gib(need)}"
    if need > available:
        advice = "a smaller per_device_train_batch_size or gradient_checkpointing lowers it"
        return Finding(title, "warn", f"{detail}: no, {gib(available)} are left", advice)
    return Finding(title, "ok", f"{detail}: yes")
