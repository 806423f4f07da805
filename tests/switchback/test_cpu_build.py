"""What the compiler makes of the kernels: the instructions of each level, and nothing spilled."""

import os
import platform
import subprocess
from pathlib import Path

import pytest

from labkit.switchback import cpu, levels

needs_compiler = pytest.mark.skipif(
    levels.compiler() is None, reason="no C++ compiler was found"
)  # fmt: skip
INSTRUCTIONS = {
    "amx": ("tdpbssd", "vpdpbusd"), "avx512_vnni": ("vpdpbusd",), "avx_vnni": ("vpdpwssd",),
    "avx2": ("vpmaddwd",),
}  # fmt: skip


@pytest.mark.parametrize("kernel", levels.playable() if not cpu.load() else [])
def test_the_compiled_kernels_hold_their_instruction_and_none_above_their_level(kernel):
    cpu._load_library(kernel)
    assembly = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", str(cpu.library_file(kernel))],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert all(instruction in assembly for instruction in INSTRUCTIONS[kernel])
    if kernel in ("avx2", "avx_vnni"):
        assert "%zmm" not in assembly and "%k1" not in assembly, "AVX-512 in a library for AVX2"


@needs_compiler
@pytest.mark.parametrize("level", ["avx2", "avx_vnni"])
def test_a_level_compiles_on_any_machine_for_its_own_instructions(level, tmp_path):
    """Without running it: a tile of 6 rows takes all its products from registers."""
    if platform.machine() != "x86_64":
        pytest.skip("a compiler for another kind of processor")
    from torch.utils import cpp_extension

    source = Path(cpu.__file__).with_name(levels.LEVELS[level].sources[0])
    out = tmp_path / "kernel.s"
    includes = [f"-I{path}" for path in cpp_extension.include_paths()]
    subprocess.run(
        [os.environ.get("CXX", "c++"), "-S", "-fPIC", *levels.LEVELS[level].flags, *includes,
         str(source), "-o", str(out)], check=True,
    )  # fmt: skip
    assembly = out.read_text()
    # From the last label before the first product to the jump back to it.
    body = assembly[: assembly.index(INSTRUCTIONS[level][0])].rsplit("\n.L", 1)[1]
    label = ".L" + body.partition(":")[0]
    start = assembly.index(f"\n{label}:\n")
    loop, jump, _ = assembly[start:].partition(f"\t{label}\n")
    assert jump and loop.count(INSTRUCTIONS[level][0]) == 12
    assert ("{vex} vpdpwssd" in loop) == (level == "avx_vnni")  # without it an AVX-512 one
    assert "(%rsp)" not in loop and "(%rbp)" not in loop, "sums are spilled"
