"""Which number type is fast on this processor: measured, kept, and asked by everything that runs.

bfloat16 halves the bytes, and a processor with units for it (AMX, AVX512-BF16) multiplies it
faster than float32. One without them has to imitate it, ten times slower than float32. A list of
flags says which instructions there are and not how a library uses them, so the products of the
course's own layers are timed once, forward and backward, in each type:

    Y = X·Wᵀ      dX = G·W      dW = Gᵀ·X        X [1280, 576], W [1536, 576], G [1280, 1536]

That takes less than two seconds, since a type that is imitated gets one product and no more.
What was found is kept in the cache under everything that changes it: processor, flags, threads,
torch's version and the environment that restricts instructions. When many start at once, one
measures and the others read.

`resolve("auto")` is then bfloat16 where that is clearly faster, and float32 where it is not, since
float32 is the more exact. `device("cpu")` is this machine as a `Device`.
"""

import functools
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from labkit.console import say_once
from labkit.errors import LabkitError, nearest
from labkit.files import cache_dir, take_lock, write_json
from labkit.machine import hardware
from labkit.machine.datasheets import GIB, Device, find

TYPES = ("bfloat16", "float16", "float32")
AUTO = "auto"
CHOICES = (AUTO, *TYPES)
MARGIN = 1.2
"""bfloat16 is taken when its products are this much faster: below, float32 is as fast once casts
are counted, and more exact"""
REMARKABLE = 2.0
"""an explicit type that is this much slower than the best is worth a remark"""
ENVIRONMENT = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "LABKIT_INT8")
ROWS, IN, OUT = 1280, 576, 1536
SECONDS = 0.4
"""time for a type's products, one of them at least"""
BANDWIDTH, INT8 = "bandwidth", "int8"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What this processor reaches: operations a second of each type's products, and bytes."""

    float32: float
    bfloat16: float
    bandwidth_bytes_per_second: float

    @property
    def fastest(self) -> str:
        """The type that runs take by themselves: bfloat16 where it is `MARGIN` times as fast."""
        return "bfloat16" if self.bfloat16 >= MARGIN * self.float32 else "float32"


def rates(*, fresh: bool = False) -> Rates:
    """Return the rates of this processor, measured now or read from the cache.

    `fresh` measures once more and keeps the better: other work only makes a measurement slower.
    """
    found = _rates(("float32", "bfloat16", BANDWIDTH), fresh=fresh)
    return Rates(float32=found["float32"], bfloat16=found["bfloat16"],
                 bandwidth_bytes_per_second=found[BANDWIDTH])  # fmt: skip


def fastest() -> str:
    """Return the type that is fast on this processor: bfloat16 or float32."""
    return rates().fastest


def int8_rate(*, fresh: bool = False) -> float:
    """Return the operations a second of SwitchBack's int8 products, kernels being built first.

    `fresh` as for `rates`. LabkitError: `LABKIT_INT8` names a level that is not there.
    """
    return _rates((INT8,), fresh=fresh)[INT8]


def resolve(dtype: str, device: str | None = None) -> str:
    """Return the type that `dtype` means on `device` (cpu or cuda; by default where runs go).

    `auto` is bfloat16 on a GPU and the fastest type on a CPU. Any other type is itself; one that is
    much slower than the best is remarked upon, once in the life of a process.

    Raises:
        LabkitError: no such type, or one that this processor cannot multiply.
    """
    if dtype not in CHOICES:
        raise LabkitError(f"dtype {dtype!r} is not known: {nearest(dtype, CHOICES)}")
    if (device or _where()) != "cpu":
        return "bfloat16" if dtype == AUTO else dtype
    if dtype == AUTO:
        return fastest()
    if said := remark(dtype):
        say_once(said)
    return dtype


def remark(dtype: str) -> str | None:
    """Return a sentence about a type that is more than twice as slow here as the best; else None.

    Raises:
        LabkitError: a type that this processor cannot multiply.
    """
    if dtype == AUTO:
        return None
    rate = _rates((dtype,))[dtype]
    if rate == 0.0:
        raise LabkitError(
            f"dtype {dtype} cannot be multiplied on this processor: set it to auto, or float32"
        )
    best = max(("float32", "bfloat16"), key=lambda name: getattr(rates(), name))
    factor = getattr(rates(), best) / rate
    if factor <= REMARKABLE:
        return None
    return (
        f"dtype {dtype}: its products take {factor:.1f} times as long as {best}'s on this "
        "processor; auto takes the faster"
    )


def of_step(dtype: str | None, *, target: str, quantised: bool = False) -> str:
    """Return the type of a step that is predicted or swept: `resolve`, None being auto.

    On a quantised base a step computes in 16 bit, so auto is bfloat16 there. Names that are not
    those of a type are returned as they are, for `StepSettings` to read or refuse.
    """
    if dtype in (None, AUTO) and quantised:
        return "bfloat16"
    return resolve(dtype or AUTO, target) if dtype in (None, *CHOICES) else str(dtype)


def device(name: str) -> Device:
    """Return a device by its name; `cpu` is this machine, measured when first asked for.

    Raises `LabkitError` with the nearest names.
    """
    return cpu_device() if name.strip().lower() == "cpu" else find(name)


def cpu_device() -> Device:
    """Return this machine as a `Device`: its measured rates and what memory a process may use."""
    found, total = rates(), psutil.virtual_memory().total
    return Device(
        name="cpu",
        label=hardware.describe()["cpu"],
        compute_capability=None,
        memory_bytes=total,
        usable_bytes=min(total, hardware.memory_limit_bytes() or total),
        bandwidth_bytes_per_second=found.bandwidth_bytes_per_second,
        flops={"bfloat16": found.bfloat16, "float32": found.float32},
        sources=(f"measured on this machine with {hardware.cores()} cores",),
    )


def identity() -> dict[str, Any]:
    """Return what the rates depend on: processor, flags, threads, torch and the environment."""
    import torch

    name, flags = hardware.processor()
    return {
        "cpu": name, "flags": flags, "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "environment": {key: os.environ.get(key, "") for key in ENVIRONMENT},
    }  # fmt: skip


def kept_file(about: dict[str, Any] | None = None) -> Path:
    """Return the file that keeps the rates of what `identity` says."""
    text = json.dumps(about or identity(), sort_keys=True)
    return cache_dir() / "arithmetic" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def _where() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


_known: dict[str, dict[str, float]] = {}


def _rates(names: Sequence[str], *, fresh: bool = False) -> dict[str, float]:
    """Return the rates called `names`; those that nobody has measured here yet are measured."""
    about = identity()
    file = kept_file(about)
    known = _known.setdefault(str(file), {})
    if fresh or not all(name in known for name in names):
        known |= _read(file, about)
        if fresh or not all(name in known for name in names):
            _measure_once(file, about, names, known, fresh=fresh)
    return {name: known[name] for name in names}


def _measure_once(
    file: Path, about: dict[str, Any], names: Sequence[str], known: dict[str, float], *, fresh: bool
) -> None:
    """Measure what `known` lacks of `names` and keep it; others that start now wait and read."""
    from filelock import Timeout

    lock = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Whoever holds it needs seconds, or was stopped in between.
        lock = take_lock(file.with_suffix(".lock"), timeout=60)
    except (OSError, Timeout, NotImplementedError) as error:
        lock = None
        held = isinstance(error, Timeout)
        reason = "its lock is held" if held else getattr(error, "strerror", None) or error
        say_once(
            f"the measured rates of this processor are not kept ({file.parent}: {reason}), "
            "so every process measures again: set LABKIT_CACHE to a folder of yours"
        )
    try:
        if lock is not None:
            known |= _read(file, about)
        missing = [name for name in names if fresh or name not in known]
        for name in missing:
            known[name] = max(_MEASURES[name](), known.get(name, 0.0))
        if lock is not None and missing:
            try:
                write_json(file, {"schema": SCHEMA, "about": about, "rates": known})
            except LabkitError as error:
                say_once(
                    f"the measured rates of this processor are not kept ({error}), "
                    "so every process measures again: set LABKIT_CACHE to a folder of yours"
                )
    finally:
        if lock is not None:
            lock.release()


def _read(file: Path, about: dict[str, Any]) -> dict[str, float]:
    """Return the rates in a file; none when it is absent, damaged or about another machine."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values["schema"] != SCHEMA or values["about"] != about:
            return {}
        found = {str(name): float(rate) for name, rate in values["rates"].items()}
        return found if all(0 <= rate < math.inf for rate in found.values()) else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def best_seconds(work: Callable[[], object], seconds: float) -> float:
    """Return the shortest time of `work` within `seconds`.

    The first call also prepares, so it only counts where it alone takes that long.
    """
    start = time.perf_counter()
    work()
    first = time.perf_counter() - start
    shortest, end = math.inf, start + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        work()
        shortest = min(shortest, time.perf_counter() - start)
    return first if shortest is math.inf else shortest


def _products(dtype: str) -> float:
    """Return the operations a second of a layer's three products in a type; 0 if there are none."""
    import torch

    kind = getattr(torch, dtype)
    x, w, g = (torch.randn(size).to(kind) for size in ((ROWS, IN), (OUT, IN), (ROWS, OUT)))
    works: list[Callable[[], object]] = [lambda: x @ w.t(), lambda: g @ w, lambda: g.t() @ x]
    times: list[float] = []
    began = time.perf_counter()
    try:
        with torch.inference_mode():
            for work in works:
                if not times or time.perf_counter() - began < SECONDS:
                    times.append(best_seconds(work, SECONDS / len(works)))
    except RuntimeError:  # "not implemented for", or oneDNN has no kernel
        return 0.0
    return 2 * len(times) * ROWS * IN * OUT / sum(times)


def _int8_products() -> float:
    """Return the operations a second of SwitchBack's products, quantising the input included."""
    import torch

    from labkit.switchback import backends

    backends.prepare("auto")
    ops = backends.choose("auto", torch.device("cpu"), torch.float32)
    x, w = torch.randn(ROWS, IN), torch.randn(OUT, IN)
    packed = backends.pack_weight(w, "row", ops, transpose=False)

    def work() -> object:
        x_int8, absmax = ops.quantize_rowwise(x)
        return backends.packed_linear(x_int8, absmax, packed, None, OUT, x.dtype, ops)

    with torch.inference_mode():
        return 2 * ROWS * IN * OUT / best_seconds(work, SECONDS)


def _bandwidth() -> float:
    """Return bytes a second of copies between arrays larger than the caches, both ways counted."""
    import torch

    size = min(GIB // 8, hardware.memory_available_bytes() // 8)
    source, target = (torch.ones(size, dtype=torch.uint8) for _ in range(2))
    target.copy_(source)  # a page costs more when it is touched first
    return 2 * size / best_seconds(lambda: target.copy_(source), SECONDS / 2)


_MEASURES: dict[str, Callable[[], float]] = {
    **{name: functools.partial(_products, name) for name in TYPES},
    INT8: _int8_products,
    BANDWIDTH: _bandwidth,
}
