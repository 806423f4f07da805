"""Choose this machine's int8 instructions by a table, the processor's flags and $LABKIT_INT8.

    amx          tiles of 16 × 64 bytes, TDPBSSD; what remains as for avx512_vnni
    avx512_vnni  64 bytes at a time, VPDPBUSD
    avx_vnni     32 bytes at a time as 16-bit integers, VPDPWSSD
    avx2         the same with VPMADDWD and an addition
    none         no instructions of its own: PyTorch's matmuls (`onednn.py`, `reference.py`)

The highest level that the processor has is the one that runs. `LABKIT_INT8` names a lower one, so
that a machine can play a lesser: results are the same bit for bit, times are not. Together with
`ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2` the rest of PyTorch does the same.

Each level is compiled for its own instructions only (AMX with AVX-512 VNNI for the very processor),
so what was compiled for `avx2` on a bigger machine runs on one that has no more.
"""

import functools
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from labkit.errors import LabkitError, nearest

VARIABLE = "LABKIT_INT8"
_AVX512 = ("avx512f", "avx512bw", "avx512vl", "avx512_vnni", "f16c")
_AVX2 = ("avx2", "fma", "f16c")
_COMMON = ("-O3", "-fopenmp", "-ffp-contract=off", "-std=c++20")


@dataclass(frozen=True, kw_only=True)
class Level:
    """What a level needs of the processor, and how its library is compiled."""

    needed: tuple[str, ...]
    """flags of /proc/cpuinfo"""
    namespace: str
    """of the operators in `torch.ops`"""
    sources: tuple[str, ...]
    """the one that is compiled, then what it includes"""
    flags: tuple[str, ...]
    """of the compiler"""
    vnni: bool = True
    """whether oneDNN's int8 products are exact at this level: others add in 16 bits"""


def _wide(*needed: str) -> Level:
    return Level(
        needed=needed, namespace="labkit_int8",
        sources=("cpu_kernels.cpp", "cpu_pack.h", "cpu_ops.h", "cpu_common.h"),
        # Tiles are named in the source whether or not this processor has them.
        flags=(*_COMMON, "-march=native", "-mamx-tile", "-mamx-int8", "-mamx-bf16"),
    )  # fmt: skip


def _narrow(*more: str, namespace: str, vnni: bool) -> Level:
    return Level(
        needed=(*_AVX2, *more), namespace=namespace, vnni=vnni,
        sources=("cpu_avx2.cpp", "cpu_avx2_pack.h", "cpu_ops.h", "cpu_common.h"),
        flags=(*_COMMON, *(f"-m{flag.replace('_', '')}" for flag in (*_AVX2, *more))),
    )  # fmt: skip


LEVELS: dict[str, Level] = {
    "amx": _wide(*_AVX512, "amx_tile", "amx_int8"),
    "avx512_vnni": _wide(*_AVX512),
    "avx_vnni": _narrow("avx_vnni", namespace="labkit_int8_avx_vnni", vnni=True),
    "avx2": _narrow(namespace="labkit_int8_avx2", vnni=False),
}
"""Levels with a library, best first; "none" has none."""

NAMES = (*LEVELS, "none")


@functools.cache
def processor_flags() -> frozenset[str]:
    """Return the processor's flags; empty elsewhere than on Linux on x86."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    found = (line.partition(":")[2].split() for line in lines if line.startswith("flags"))
    return frozenset(next(found, []))


def missing(level: str) -> str:
    """Return the first flag of `level` that the processor lacks; "" when it has all."""
    flags = processor_flags()
    return next((flag for flag in LEVELS[level].needed if flag not in flags), "")


def playable() -> tuple[str, ...]:
    """Return the levels this machine can run, best first, not above `LABKIT_INT8`."""
    best = LEVELS if not _asked() else NAMES[NAMES.index(chosen()) :]
    return tuple(name for name in best if name in LEVELS and not missing(name))


def chosen() -> str:
    """Return the level that runs here: the processor's best, or the one `LABKIT_INT8` names.

    LabkitError: it names no level, or one whose instructions the processor lacks.
    """
    name = _asked()
    if not name:
        return next((level for level in LEVELS if not missing(level)), "none")
    if name not in NAMES:
        raise LabkitError(f"{VARIABLE}={name!r} is not a level of int8: {nearest(name, NAMES)}")
    if name != "none" and missing(name):
        best = next((level for level in LEVELS if not missing(level)), "none")
        raise LabkitError(
            f"{VARIABLE}={name} is not possible here: this {platform.machine()} processor has no "
            f"{missing(name)}: use {best!r} or leave it out"
        )
    return name


def compiler() -> str | None:
    """Return the C++ compiler that builds kernels here: $CXX, or the first that is on the path."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "c++", "clang++"]
    return next((found for name in names if (found := shutil.which(name))), None)


def why_none() -> str:
    """Say in a few words why the level is "none"."""
    if _asked() == "none":
        return f"{VARIABLE}=none"
    return f"this {platform.machine()} processor has no {missing('avx2')}"


def has_vnni() -> bool:
    """Say whether VNNI may be used: the processor has it and was not told to do without.

    Raises nothing, because it is asked at import; `chosen` says what is wrong with the variable.
    """
    told = _asked()
    if told == "none" or (told in LEVELS and not LEVELS[told].vnni):
        return False
    return not processor_flags().isdisjoint({"avx512_vnni", "avx_vnni"})


def has_amx() -> bool:
    """Say whether AMX may be used, as `has_vnni` does."""
    return _asked() in ("", "amx") and not missing("amx")


def _asked() -> str:
    return os.environ.get(VARIABLE, "").strip().lower()
