"""Compute int8 on the CPU: the operations of `reference.py` in C++, at the matrix unit's speed.

A processor with AMX multiplies int8 at twice the rate of bfloat16, one with AVX2 alone at twice the
rate of float32. What a linear layer gains of that depends on everything around the matmul, and for
a weight that changes at every step that used to be more than the matmul itself: scale, round,
write out, read again, reorder for the matrix unit. The library does it in one pass: `pack_weight`
reads a weight as it lies in memory and writes what the matrix unit reads, transposed or not, and
`packed_mm` scales and rounds each block of sums when it is done.

    W [N, K] ── pack_weight ──> panels int8, absmax ─┐
    X [M, K] ── quantize_rowwise ──> int8, absmax ───┴── packed_mm ──> Y [M, N]

For a frozen weight the panels are made once and kept. The integers and their sums are those of
the reference, bit for bit; so are the results, save that the AVX-512 processors' own conversion to
bfloat16 turns numbers below 2⁻¹²⁶ into zero.

There is a library for each kind of processor (`levels.py`). It is compiled at first use (half a
minute) and kept in the cache. `why_not` says in a sentence why that cannot be done here: no AVX2 in
the processor, no compiler. SwitchBack then computes with `onednn.py` or `reference.py`.

Source: Wortsman et al. 2023 (arXiv 2304.13013) for the arithmetic; `cpu_kernels.cpp` and
`cpu_avx2.cpp` for the rest.
"""

import functools
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labkit.console import say
from labkit.files import cache_dir, locked
from labkit.switchback import levels, reference
from labkit.switchback.reference import (
    quantize_columnwise_and_transpose as quantize_columnwise_and_transpose,
)
from labkit.switchback.reference import (
    quantize_global_transpose as quantize_global_transpose,
)

NAME = "cpu"

level = "none"
"""The level whose library computes. Set by `load`."""

use_amx = False
"""Whether products use AMX; without it VNNI, several times slower. Set by `load`."""

use_amx_bf16 = "amx_bf16" in levels.processor_flags()
"""Whether tiles multiply bfloat16 too, which `weight_gradient` needs."""

_loaded = False
_ops: Any = None
"""The operators of that library in `torch.ops`. Set by `load`."""


def serves(device: torch.device, dtype: torch.dtype) -> bool:
    """Say whether `load` has made this backend ready and it computes `dtype` on `device`."""
    return _loaded and device.type == "cpu" and dtype in reference.DTYPES


def why_not() -> str:
    """Say in a few words why the kernels cannot be built on this machine; "" when they can.

    LabkitError: `LABKIT_INT8` names a level that is not there.
    """
    if levels.chosen() == "none":
        return levels.why_none()
    if levels.compiler() is None:
        return "no C++ compiler was found"
    return ""


@functools.cache
def load() -> str:
    """Build the kernels or take them from the cache; return "", or why there are none.

    Processes that start together build once. Safe to kill at any moment. LabkitError: as `why_not`.
    """
    global _loaded
    reason = why_not()
    if reason:
        return reason
    try:
        use(levels.chosen())
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        return f"the compiler failed ({str(error).splitlines()[0]})"
    _loaded = True
    return ""


def use(name: str) -> None:
    """Compute with the library of level `name` from now on, building it if need be.

    RuntimeError, OSError or CalledProcessError: the compiler failed.
    """
    global level, use_amx, _ops
    _load_library(name)
    # The kernel lets a process use tiles only after it has asked once.
    use_amx = name == "amx" and torch.cpu._init_amx()
    level, _ops = name, getattr(torch.ops, levels.LEVELS[name].namespace)


@functools.cache
def _load_library(name: str) -> None:
    """Load a level's kernels: one file for each source, torch, compiler flags and processor."""
    chosen = levels.LEVELS[name]
    library = library_file(name)
    sources = [str(Path(__file__).with_name(source)) for source in chosen.sources]
    _build(library, sources[0], chosen.flags)
    _load_operators(str(library), chosen.namespace)


def library_file(name: str) -> Path:
    """Return where the compiled kernels of a level lie, or will lie, in the cache."""
    chosen = levels.LEVELS[name]
    native = "-march=native" in chosen.flags
    parts = [
        *(
            Path(__file__).with_name(source).read_text(encoding="utf-8")
            for source in chosen.sources
        ),
        torch.__version__,
        chosen.namespace,
        *chosen.flags,
        *(sorted(levels.processor_flags()) if native else ()),
    ]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    kind = chosen.namespace.removeprefix("labkit_int8").replace("_", "-")
    return cache_dir() / "kernels" / f"switchback{kind}-{key}.so"


@functools.cache
def _load_operators(library: str, namespace: str) -> None:
    # AMX and AVX-512 VNNI share a library, whose operators can be defined only once.
    torch.ops.load_library(library)
    for name, fake in _FAKES.items():
        if hasattr(getattr(torch.ops, namespace), name):
            torch.library.register_fake(f"{namespace}::{name}", fake)


def _build(library: Path, source: str, flags: tuple[str, ...]) -> None:
    """Compile `source` into `library` unless it is there."""
    if library.is_file():
        return
    with locked(library.with_suffix(".lock"), "the int8 kernels"):
        if library.is_file():
            return
        say("compiling the int8 kernels, once on this machine: about half a minute")
        from torch.utils import cpp_extension

        # PyTorch would only look for `c++`.
        os.environ["CXX"] = os.environ.get("CXX") or levels.compiler() or "c++"
        # A folder of its own: a build that was killed leaves a lock that the next one waits for.
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            name = library.stem.replace("-", "_")
            cpp_extension.load(
                name, [source], extra_cflags=list(flags), extra_ldflags=["-fopenmp"],
                build_directory=folder, is_python_module=False,
            )  # fmt: skip
            os.replace(Path(folder) / f"{name}.so", library)


def quantize_rowwise(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise each row of x [M, K] by its own absmax: int8 [M, K] and absmax float32 [M]."""
    return _ops.quantize_rowwise(x.contiguous())


def quantize_global(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise x [M, K] by one absmax: int8 [M, K] and absmax float32 []."""
    return _ops.quantize_global(x.contiguous())


def pack_weight(w: Tensor, weight_scale: str, *, transpose: bool) -> tuple[Tensor, Tensor]:
    """Quantise w [N, K] and order it for `packed_mm`: int8 panels, absmax float32 [N], [K] or [].

    `transpose` makes the panels of Wᵀ, for dX = G·W, with a scale for each of the K columns.
    """
    return _ops.pack_weight(w.contiguous(), weight_scale == "row", transpose)


def packed_mm(
    a: Tensor,
    panels: Tensor,
    a_absmax: Tensor,
    b_absmax: Tensor,
    bias: Tensor | None,
    out_features: int,
    out_dtype: torch.dtype,
) -> Tensor:
    """Multiply a [M, K] int8 by panels of out_features rows, scale back: out_dtype [M, N]."""
    return _ops.packed_mm(
        a.contiguous(), panels, a_absmax, b_absmax, _float(bias), out_features, out_dtype, use_amx
    )


def int8_mm(a: Tensor, b: Tensor) -> Tensor:
    """Multiply a [M, K] int8 by the transpose of b [N, K] int8 into int32 [M, N], exactly."""
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"inner dimensions differ: {a.shape[1]} and {b.shape[1]}")
    return _ops.int8_mm(a.contiguous(), b.contiguous(), use_amx)


def scaled_int8_mm(
    a: Tensor,
    b: Tensor,
    a_absmax: Tensor,
    b_absmax: Tensor,
    bias: Tensor | None = None,
    out_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Multiply a [M, K] by bᵀ, b [N, K], scale, add the bias once: out_dtype [M, N]."""
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"inner dimensions differ: {a.shape[1]} and {b.shape[1]}")
    return _ops.scaled_int8_mm(
        a.contiguous(), b.contiguous(), a_absmax.contiguous(), b_absmax.contiguous(),
        _float(bias), out_dtype, use_amx,
    )  # fmt: skip


def tiles() -> bool:
    """Say whether `weight_gradient` has bfloat16 tiles to compute on here."""
    return _loaded and use_amx and use_amx_bf16


def weight_gradient(g: Tensor, x: Tensor, out_dtype: torch.dtype) -> Tensor:
    """Multiply gᵀ [N, M] by x [M, K] in 16 bit: out_dtype [N, K].

    In bfloat16 on AMX both are ordered for the tiles on the way in, which torch's matmul of a
    transposed matrix lacks; sums are float32 in both, in another order past some hundred rows.
    A gradient of float32 weights stays as it was summed; torch's matmul rounds it to 16 bit first.
    """
    if tiles() and x.dtype == g.dtype == torch.bfloat16 and out_dtype in reference.DTYPES:
        return _ops.weight_gradient(g.contiguous(), x.contiguous(), out_dtype)
    return (g.t() @ x).to(out_dtype)


def dequantize_rowwise(q: Tensor, absmax: Tensor, out_dtype: torch.dtype = torch.float32) -> Tensor:
    """Scale q [M, K] int8 with absmax float32 [M] back to out_dtype [M, K]."""
    return _ops.dequantize_rowwise(q.contiguous(), absmax.contiguous(), out_dtype)


def _float(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.float().contiguous()


# Shapes and types for `torch.compile` and for tracing memory, which must not compute.


def _absmax(x: Tensor, *shape: int) -> Tensor:
    return x.new_empty(shape, dtype=torch.float32)


def _panels(x: Tensor, rows: int, inner: int) -> Tensor:
    return x.new_empty(((rows + 31) // 32, 32 * ((inner + 63) // 64 * 64)), dtype=torch.int8)


_FAKES: dict[str, Any] = {
    "quantize_rowwise": lambda x: (
        torch.empty_like(x, dtype=torch.int8), _absmax(x, x.shape[0])
    ),
    "quantize_global": lambda x: (torch.empty_like(x, dtype=torch.int8), _absmax(x)),
    "pack_weight": lambda w, per_row, transpose: (
        _panels(w, *(w.shape[::-1] if transpose else w.shape)),
        _absmax(w, *((w.shape[1] if transpose else w.shape[0],) if per_row else ())),
    ),
    "int8_mm": lambda a, b, amx: a.new_empty((a.shape[0], b.shape[0]), dtype=torch.int32),
    "packed_mm": lambda a, panels, a_absmax, b_absmax, bias, out_features, out_dtype, amx: (
        a.new_empty((a.shape[0], out_features), dtype=out_dtype)
    ),
    "scaled_int8_mm": lambda a, b, a_absmax, b_absmax, bias, out_dtype, amx: (
        a.new_empty((a.shape[0], b.shape[0]), dtype=out_dtype)
    ),
    "weight_gradient": lambda g, x, out_dtype: (
        x.new_empty((g.shape[1], x.shape[1]), dtype=out_dtype)
    ),
    "dequantize_rowwise": lambda q, absmax, out_dtype: torch.empty_like(q, dtype=out_dtype),
}  # fmt: skip
