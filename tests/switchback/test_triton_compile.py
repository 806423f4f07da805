"""The Triton kernels compiled for GPUs that are not here: instructions, spills, shared memory.

Whether they compute the right thing on a card is for `make test-gpu` and `labkit bench gpu`.
"""

import re

import pytest

from labkit.switchback import triton_hopper
from labkit.switchback import triton_kernels as kernels
from labkit.switchback.teaching.kernel_check import Compiled, compile_ahead

# Bytes of shared memory one program may have (CUDA programming guide, compute capabilities).
SHARED_BYTES = {80: 163 * 1024, 86: 99 * 1024, 89: 99 * 1024, 90: 227 * 1024}
INT8 = {
    80: r"mma\.sync\.aligned\.m16n8k32\.row\.col\.(satfinite\.)?s32\.s8\.s8\.s32",
    90: r"wgmma\.mma_async\.sync\.aligned\.m64n\d+k32\.s32\.s8\.s8",
}
INT8[86] = INT8[89] = INT8[80]

QUANTIZE = {"x_ptr": "*bf16", "q_ptr": "*i8", "absmax_ptr": "*fp32", "M": "i32", "K": "i32"}
STRIDES = {"stride_xm": "i32", "stride_xk": "i32"}
MATMUL = {"a_ptr": "*i8", "b_ptr": "*i8", "c_ptr": "*bf16", "a_absmax_ptr": "*fp32"}
MATMUL |= {"b_absmax_ptr": "*fp32", "bias_ptr": "*bf16", "M": "i32", "N": "i32", "K": "i32"}

capability = pytest.mark.parametrize("capability", SHARED_BYTES)


def tile_name(config: tuple) -> str:
    block, warps, stages = config
    return "x".join(str(block[f"BLOCK_{axis}"]) for axis in "MNK") + f" {warps}w {stages}s"


def compile_matmul(config: tuple, capability: int, divisible: tuple = ("N", "K")) -> Compiled:
    block, warps, stages = config
    constants = {"B_PER_ROW": True, "HAS_BIAS": True, **block}
    options = {"num_warps": warps, "num_stages": stages}
    return compile_ahead(
        kernels.scaled_int8_mm_kernel, MATMUL, constants, capability, divisible=divisible, **options
    )


@capability
@pytest.mark.parametrize("config", kernels.MATMULS, ids=tile_name)
def test_matmul_uses_int8_tensor_cores_and_spills_nothing(config, capability):
    compiled = compile_matmul(config, capability)
    assert re.search(INT8[capability], compiled.ptx)
    assert not re.search(r"mma.*\.f32\.(f16|bf16|tf32)", compiled.ptx), "a float product"
    assert compiled.stack_bytes == 0
    assert compiled.registers <= 255
    assert compiled.shared_bytes <= SHARED_BYTES[capability]


@capability
def test_an_odd_output_width_has_a_tile_that_does_not_spill(capability):
    # The wrapper pads K; an odd N is stored element by element, and larger tiles then spill.
    compiled = compile_matmul(kernels.MATMULS[-1], capability, divisible=("K",))
    assert re.search(INT8[capability], compiled.ptx)
    assert compiled.stack_bytes == 0


def test_the_spill_bound_can_fail():
    assert compile_matmul(kernels.MATMULS[1], 80, divisible=("K",)).stack_bytes > 0


@pytest.mark.parametrize(
    ("capability", "x"), [(c, "*bf16") for c in SHARED_BYTES] + [(80, "*fp16"), (80, "*fp32")]
)
def test_quantising_rows_rounds_as_ieee_says(capability, x):
    compiled = compile_ahead(
        kernels.quantize_rowwise_kernel,
        QUANTIZE | STRIDES | {"x_ptr": x},
        kernels.ROWWISE,
        capability,
        **kernels.EXACT,
    )
    assert_exact(compiled)


@capability
@pytest.mark.parametrize("per_column", [True, False])
def test_quantising_tiles_rounds_as_ieee_says(capability, per_column):
    compiled = compile_ahead(
        kernels.quantize_tiles_kernel,
        QUANTIZE | STRIDES | {"stride_qm": "i32", "stride_qk": "i32"},
        {"PER_COLUMN": per_column, **kernels.TILES},
        capability,
        **kernels.EXACT,
    )
    assert_exact(compiled)


def assert_exact(compiled: Compiled) -> None:
    """No fused multiply-add, an IEEE division, and rounding's two additions still there."""
    assert compiled.instructions(r"div\.\S*f32") == ["div.rn.f32"]
    assert not compiled.instructions(r"fma\.\S*f32")
    count = {
        op: len(re.findall(rf"^\s*{op}\.rn\.f32", compiled.ptx, re.M)) for op in ("mul", "add")
    }
    assert count["mul"] > 0 and count["add"] == 2 * count["mul"]
    assert compiled.stack_bytes == 0


def test_without_the_launch_option_the_compiler_would_fuse():
    compiled = compile_ahead(
        kernels.quantize_rowwise_kernel, QUANTIZE | STRIDES, kernels.ROWWISE, 80
    )
    assert compiled.instructions(r"fma\.rn\.f32")


@pytest.mark.parametrize("out", ["*bf16", "*fp16", "*fp32"])
def test_dequantising_compiles_for_every_output(out):
    compiled = compile_ahead(
        kernels.dequantize_rowwise_kernel,
        QUANTIZE | {"x_ptr": out},
        {key: kernels.TILES[key] for key in ("BLOCK_M", "BLOCK_K")},
        80,
    )
    assert compiled.stack_bytes == 0


def test_every_configuration_of_the_autotuner_is_one_of_those_compiled():
    tuned = kernels.scaled_int8_mm_tuned.configs
    found = [(config.kwargs, config.num_warps, config.num_stages) for config in tuned]
    assert found == [tuple(config) for config in kernels.MATMULS]


def compile_persistent(config: tuple, *, whole_tiles: bool, out: str = "bf16") -> Compiled:
    """Compile Hopper's product for 90; with `whole_tiles` results go out by the copy engine."""
    block, warps, stages = config
    m, n, k = (block[f"BLOCK_{axis}"] for axis in "MNK")
    descriptors = {
        "a_desc": f"tensordesc<i8[{m}, {k}]>",
        "b_desc": f"tensordesc<i8[{n}, {k}]>",
        # Where rows of the result begin at odd addresses it is a's, and not used.
        "c_desc": f"tensordesc<{f'{out}[{m}, {n // 2}]' if whole_tiles else f'i8[{m}, {k}]'}>",
    }
    constants = {"B_PER_ROW": True, "HAS_BIAS": True, "STORE_TILES": whole_tiles, **block}
    others = {name: kind for name, kind in MATMUL.items() if name not in ("a_ptr", "b_ptr")}
    others |= {"c_ptr": f"*{out}", "bias_ptr": f"*{out}"}
    return compile_ahead(
        triton_hopper.persistent_int8_mm_kernel, others | descriptors | {"PROGRAMS": "i32"},
        constants, 90, divisible=("N", "K") if whole_tiles else ("K",), num_warps=warps,
        num_stages=stages,
    )  # fmt: skip


@pytest.mark.parametrize("whole_tiles", [True, False])
@pytest.mark.parametrize("config", triton_hopper.TILES, ids=tile_name)
def test_hoppers_product_copies_tiles_and_multiplies_in_int8(config, whole_tiles):
    compiled = compile_persistent(config, whole_tiles=whole_tiles)
    assert re.search(INT8[90], compiled.ptx)
    assert "cp.async.bulk.tensor.2d.shared" in compiled.ptx, "tiles are not copied by TMA"
    stored = "cp.async.bulk.tensor.2d.global" in compiled.ptx
    assert stored is whole_tiles
    # An odd width is stored element by element, and the addresses spill; models have none.
    assert (compiled.stack_bytes == 0) is whole_tiles
    assert compiled.shared_bytes <= SHARED_BYTES[90]


@pytest.mark.parametrize("whole_tiles", [True, False])
@pytest.mark.parametrize("out", ["bf16", "fp16", "fp32"])
def test_every_type_of_result_has_a_tile_that_fits_on_hopper(out, whole_tiles):
    # The autotuner passes over tiles that do not; float32 results leave room for fewer stages.
    last = compile_persistent(triton_hopper.TILES[-1], whole_tiles=whole_tiles, out=out)
    assert last.shared_bytes <= SHARED_BYTES[90]
    first = compile_persistent(triton_hopper.TILES[0], whole_tiles=whole_tiles, out=out)
    assert (first.shared_bytes <= SHARED_BYTES[90]) is (out != "fp32")


@pytest.mark.parametrize("x", ["*bf16", "*fp16", "*fp32"])
@pytest.mark.parametrize("width", [kernels.LEAST_WHOLE_ROW, 8192, kernels.MOST_WHOLE_ROW])
def test_quantising_whole_rows_rounds_as_ieee_says(width, x):
    block = 1 << (width - 1).bit_length()
    compiled = compile_ahead(
        kernels.quantize_whole_rows_kernel,
        {key: kind for key, kind in QUANTIZE.items() if key != "M"} | STRIDES | {"x_ptr": x},
        {"BLOCK_K": block},
        90,
        num_warps=4 if block <= 8192 else 8,
        **kernels.EXACT,
    )
    assert_exact(compiled)
