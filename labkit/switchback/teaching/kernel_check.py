"""Check a Triton kernel on a machine without a GPU.

Two things can be known without running it on one:

- what it *computes*: Triton's interpreter runs the kernel program by program with NumPy, on CPU
  tensors. It follows raw addresses as a GPU does, so a missing mask reads whatever lies behind the
  tensor and nobody notices. `watched_memory` compares every address with the tensors that were
  passed, stops the access and writes down what it was;
- what it *becomes*: Triton compiles for any target without a driver. The PTX says which
  instructions a kernel uses, the compiled binary how many registers it takes and how many bytes
  spill to slow memory when there are not enough.

The interpreter must be chosen before triton is imported (`TRITON_INTERPRET=1`), and then nothing
can be compiled. So both run in processes of their own: `check_quantize_rowwise` takes a student's
function, sends its source to one of each, and prints what they found.
"""

import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError

SECONDS = 120

PRELUDE = """\
import triton
import triton.language as tl
from labkit.switchback.triton_kernels import ROUND_MAGIC, TINY, round_to_int8

@triton.jit
"""


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What a kernel became: its PTX, registers a thread, bytes spilled a thread, shared memory."""

    ptx: str
    registers: int
    stack_bytes: int
    shared_bytes: int

    def instructions(self, pattern: str) -> list[str]:
        """Return the distinct instructions of the PTX that match, such as r"mma.*s32"."""
        return sorted(set(re.findall(rf"^\s*({pattern})", self.ptx, re.MULTILINE)))


def compile_ahead(
    kernel: Any,
    types: Mapping[str, str],
    constants: Mapping[str, Any],
    capability: int,
    *,
    divisible: Sequence[str] = (),
    **options: Any,
) -> Compiled:
    """Compile a bare `@triton.jit` kernel for compute capability 80, 86, 89 or 90; no GPU needed.

    `types` gives each run-time argument a Triton type ("*bf16", "i32"), `constants` the
    `tl.constexpr` ones. Pointers, and the arguments named in `divisible`, are taken to be
    multiples of 16, as PyTorch's allocator and most widths make them. `options` are launch
    options such as num_warps.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    aligned = [n for n in types if types[n].startswith("*") or n in divisible]
    source = ASTSource(
        fn=kernel,
        signature={name: types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        # Compiled ahead of time, Triton reports no spills (None): the binary has to be asked.
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        usage = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = dict(re.findall(r"(REG|STACK):(\d+)", usage))
    return Compiled(
        ptx=binary.asm["ptx"],
        registers=int(found["REG"]),
        stack_bytes=int(found["STACK"]),
        shared_bytes=binary.metadata.shared,
    )


@contextmanager
def watched_memory() -> Iterator[list[str]]:
    """Yield a list that receives every access outside the tensors of an interpreted kernel.

    Such an access is not carried out: a load gives zero (or `other`), a store is dropped.
    """
    import numpy as np
    from triton.language import int1
    from triton.runtime.interpreter import GridExecutor, InterpreterBuilder, TensorHandle

    violations: list[str] = []
    extents: list[tuple[int, int, str]] = []
    originals = {
        (cls, name): getattr(cls, name)
        for cls, name in (
            (GridExecutor, "_init_args_hst"),
            (InterpreterBuilder, "create_masked_load"),
            (InterpreterBuilder, "create_masked_store"),
            (InterpreterBuilder, "create_atomic_rmw"),
        )
    }
    init, load, store, rmw = originals.values()

    def note_arguments(self: Any, args: Any, kwargs: Any) -> Any:
        on_host, kwargs_on_host = init(self, args, kwargs)
        named = dict(zip(inspect.signature(self.fn).parameters, on_host, strict=False))
        extents.clear()
        for name, tensor in (named | kwargs_on_host).items():
            tensor = getattr(tensor, "base", tensor)  # of a tensor descriptor
            if hasattr(tensor, "data_ptr") and tensor.numel():
                sizes = zip(tensor.shape, tensor.stride(), strict=True)
                last = sum((size - 1) * stride for size, stride in sizes)
                start = tensor.data_ptr()
                extents.append((start, start + (last + 1) * tensor.element_size(), name))
        return on_host, kwargs_on_host

    def inside(what: str, pointers: Any, mask: Any) -> Any:
        addresses = pointers.data.astype(np.int64)
        allowed = np.zeros(addresses.shape, dtype=bool)
        for start, end, _ in extents:
            allowed |= (addresses >= start) & (addresses < end)
        wrong = addresses[mask.data & ~allowed]
        if wrong.size:
            name = min(extents, key=lambda e: min(abs(wrong[0] - e[0]), abs(wrong[0] - e[1])))[2]
            violations.append(f"{what} {wrong.size} elements outside {name}")
        return TensorHandle(mask.data & allowed, int1)

    def watched_load(self: Any, pointers: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        return load(self, pointers, inside("reads", pointers, mask), *rest, **named)

    def watched_store(
        self: Any, pointers: Any, value: Any, mask: Any, *rest: Any, **named: Any
    ) -> Any:
        return store(self, pointers, value, inside("writes", pointers, mask), *rest, **named)

    def watched_rmw(self: Any, op: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        return rmw(self, op, pointers, value, inside("updates", pointers, mask), *rest)

    watchers = (note_arguments, watched_load, watched_store, watched_rmw)
    for (cls, name), watcher in zip(originals, watchers, strict=True):
        setattr(cls, name, watcher)
    try:
        yield violations
    finally:
        for (cls, name), original in originals.items():
            setattr(cls, name, original)


def in_interpreter(job: str, *arguments: str, interpret: bool = True) -> Any:
    """Run a job of this module ("exercise", "compile", "watch") in a process; return its JSON.

    LabkitError: the process failed (with its last line) or took longer than `SECONDS`.
    """
    environment = os.environ | {"TRITON_INTERPRET": "1" if interpret else "0"}
    command = [sys.executable, "-m", __name__, job, *arguments]
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, env=environment
        )
    except subprocess.TimeoutExpired:
        raise LabkitError(f"the kernel did not finish within {SECONDS} seconds") from None
    if run.returncode:
        raise LabkitError(run.stderr.strip().splitlines()[-1] if run.stderr else "the check died")
    said, _, result = run.stdout.rstrip("\n").rpartition("\n")
    if said:
        print(said)  # what the kernel printed while it ran
    return json.loads(result)


def check_quantize_rowwise(kernel: Callable[..., None] | str) -> bool:
    """Run and compile a student's kernel; print a line per check; return whether all passed.

    `kernel` is a plain function (or its source) `(x_ptr, q_ptr, absmax_ptr, K, stride_x, BLOCK_K)`:
    one program per row of x [M, K], BLOCK_K a power of two of at least K. A kernel that is still
    to be written, or does not run at all, is one line too.
    """
    source = kernel if isinstance(kernel, str) else inspect.getsource(getattr(kernel, "fn", kernel))
    source = re.sub(r"^\s*@.*\n", "", textwrap.dedent(source))
    if "raise NotImplementedError" in source:
        print("the kernel is still to be written")
        return False
    try:
        results = _problems(source)
    except LabkitError as error:
        print(f"the kernel does not run: {error}")
        return False
    for name, problem in results.items():
        print(f"{name:28} {problem or 'ok'}")
    return not any(results.values())


@cache
def _problems(source: str) -> dict[str, str]:
    """Return what is wrong with a kernel by check; asked for the same source again, at once."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as pool:
        path = Path(folder) / "student_kernel.py"
        path.write_text(PRELUDE + source, encoding="utf-8")
        run = pool.submit(in_interpreter, "exercise", str(path))
        compiled = pool.submit(in_interpreter, "compile", str(path), interpret=False)
        return run.result() | compiled.result()


def _student_kernel(path: str) -> Any:
    # Triton reads a kernel's source from its file, so the file has to be imported, not executed.
    import importlib.util

    spec = importlib.util.spec_from_file_location("student_kernel", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kernels = [v for v in vars(module).values() if hasattr(v, "fn") and hasattr(v, "arg_names")]
    return next(k for k in kernels if k.fn.__module__ == module.__name__)


def _exercise(path: str) -> dict[str, str]:
    import torch

    from labkit.switchback import reference

    kernel = _student_kernel(path)
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Any:
        return torch.randn(*shape, generator=generator)

    zeros = normal(4, 6)
    zeros[2] = 0
    # absmax 127 makes the scale 1: every half is a tie.
    ties = torch.cat([torch.tensor([127.0]), torch.arange(-3.5, 4.0, 1.0)])[None, :]
    cases = {
        "3 × 8": normal(3, 8),
        "5 × 13 (needs the mask)": normal(5, 13),
        "ties round to even": ties,
        "a row of zeros": zeros,
        "float16": normal(2, 33).half(),
        "rows with a gap between": normal(4, 20)[:, :11],
    }
    results = {}
    outside: list[str] = []
    for name, x in cases.items():
        rows, K = x.shape
        q = torch.full((rows, K), 99, dtype=torch.int8)
        absmax = torch.full((rows,), -1.0)
        with watched_memory() as violations:
            block = 1 << (K - 1).bit_length()
            kernel[(rows,)](x, q, absmax, K, x.stride(0), BLOCK_K=block)
        outside += violations
        want_q, want_absmax = reference.quantize_rowwise(x)
        if not torch.equal(absmax, want_absmax):
            results[name] = f"absmax is {_short(absmax)}, not {_short(want_absmax)}"
        elif not torch.equal(q, want_q):
            row = int((q != want_q).any(dim=1).nonzero()[0])
            results[name] = f"q is {_short(q[row])}, not {_short(want_q[row])}"
        else:
            results[name] = ""
    results["stays inside its tensors"] = "; ".join(sorted(set(outside))[:3])
    return results


def _short(values: Any) -> str:
    numbers = ", ".join(f"{v:.4g}" for v in values.tolist()[:9])
    return f"[{numbers}{', …' if len(values) > 9 else ''}]"


def _compile(path: str) -> dict[str, str]:
    kernel = _student_kernel(path)
    types = {"x_ptr": "*bf16", "q_ptr": "*i8", "absmax_ptr": "*fp32", "K": "i32", "stride_x": "i32"}
    results = {}
    for capability in (80, 90):
        compiled = compile_ahead(kernel, types, {"BLOCK_K": 2048}, capability)
        spilled = compiled.stack_bytes if "vprintf" not in compiled.ptx else 0  # print needs some
        problem = f"{spilled} bytes spill out of the registers" if spilled else ""
        results[f"compiles for sm_{capability}"] = problem
    return results


def _watch(module: str, function: str) -> list[str]:
    import importlib

    with watched_memory() as violations:
        getattr(importlib.import_module(module), function)()
    return sorted(set(violations))


if __name__ == "__main__":
    jobs: dict[str, Callable[..., Any]]
    jobs = {"exercise": _exercise, "compile": _compile, "watch": _watch}
    print(json.dumps(jobs[sys.argv[1]](*sys.argv[2:])))
