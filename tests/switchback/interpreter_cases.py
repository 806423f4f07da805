"""The Triton kernels in the interpreter: run by `test_triton_interpreter.py`, in a process that
chose the interpreter before triton was imported. Every access to memory is watched.
"""

import pytest
import torch
from torch import nn

from labkit.switchback import SwitchBackLinear, reference, triton_hopper, triton_kernels
from labkit.switchback.teaching.kernel_check import watched_memory

QUANTIZERS = (
    "quantize_rowwise",
    "quantize_columnwise_and_transpose",
    "quantize_global",
    "quantize_global_transpose",
)
# Below, at, and past the tiles (4 × 1024 and 64 × 64 to quantise, 32 × 32 × 64 to multiply).
SHAPES = [(1, 1), (5, 13), (64, 64), (65, 130), (3, 1030)]


@pytest.fixture(autouse=True)
def nothing_outside_the_tensors():
    with watched_memory() as outside:
        yield
    assert not outside, outside


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def integers(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)


def assert_same(found, want) -> None:
    for a, b in zip(found, want, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        assert a.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", QUANTIZERS)
def test_quantising_equals_the_reference(name, shape, dtype):
    x = normal(*shape, dtype=dtype)
    x[0] = 0
    assert_same(getattr(triton_kernels, name)(x), getattr(reference, name)(x))


@pytest.mark.parametrize("name", QUANTIZERS)
def test_quantising_ties_zeros_and_layouts_equals_the_reference(name):
    ties = torch.cat([torch.tensor([127.0]), torch.arange(-3.5, 4.0)])[None, :].repeat(9, 1)
    base = normal(12, 40)
    for x in (ties, torch.zeros(3, 5), base.t(), base[::2, 1::3], base[:, :1].expand(12, 7)):
        assert_same(getattr(triton_kernels, name)(x), getattr(reference, name)(x))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_spoils_its_row(bad):
    x = torch.ones(3, 4)
    x[1, 2] = bad
    _, absmax = triton_kernels.quantize_rowwise(x)
    assert absmax.isfinite().tolist() == [True, False, True]
    _, absmax = triton_kernels.quantize_columnwise_and_transpose(x)
    assert absmax.isfinite().tolist() == [True, True, False, True]


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 19, 33), (32, 64, 32), (70, 130, 45)], ids=str)
@pytest.mark.parametrize("vector", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("out_dtype", [torch.float32, torch.float16], ids=str)
def test_products_equal_the_reference(shape, vector, with_bias, out_dtype):
    M, K, N = shape
    a, b = integers(M, K), integers(N, K, seed=1)
    a_absmax, b_absmax = normal(M).abs(), normal(N, seed=1).abs() if vector else normal(()).abs()
    bias = normal(N, seed=2) if with_bias else None
    arguments = (a, b, a_absmax, b_absmax, bias, out_dtype)
    found = triton_kernels.scaled_int8_mm(*arguments)
    assert_same([found], [reference.scaled_int8_mm(*arguments)])


@pytest.mark.parametrize("inner", [1, 63, 64, 65])
def test_the_bare_kernel_masks_an_inner_dimension_the_wrapper_would_pad(inner):
    a, b, y = integers(5, inner), integers(33, inner, seed=1), torch.empty(5, 33)
    ones, block = (torch.ones(5), torch.ones(33)), {"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_K": 64}
    triton_kernels.scaled_int8_mm_kernel[(2,)](
        a, b, y, *ones, y, 5, 33, inner, B_PER_ROW=True, HAS_BIAS=False, GROUP_M=2, **block
    )
    assert torch.equal(y, reference.scaled_int8_mm(a, b, *ones))


def test_the_largest_sums_do_not_overflow_or_round():
    a = torch.full((2, 5000), 127, dtype=torch.int8)
    scale = torch.tensor([127.0**2, 127.0**2])  # undoes the division: the sums themselves
    y = triton_kernels.scaled_int8_mm(a, a, scale, torch.tensor(1.0))
    assert y.tolist() == [[127.0**2 * 5000] * 2] * 2


def test_many_tiles_are_each_computed_once():
    # More tile rows than GROUP_M, and a last group that is not full.
    a, b = integers(32 * 3 + 1, 8), integers(32 * 2 + 1, 8, seed=1)
    ones = torch.ones(97), torch.ones(65)
    found = triton_kernels.scaled_int8_mm(a, b, *ones)
    assert torch.equal(found, reference.scaled_int8_mm(a, b, *ones))


def test_operands_that_are_not_contiguous():
    a, b = integers(40, 12).t(), integers(9, 80, seed=1)[:, ::2]
    scales = normal(12).abs(), normal(9).abs()
    found = triton_kernels.scaled_int8_mm(a, b, *scales)
    assert_same([found], [reference.scaled_int8_mm(a, b, *scales)])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("out_dtype", [torch.float32, torch.float16], ids=str)
def test_dequantising_equals_the_reference(shape, out_dtype):
    q, absmax = integers(*shape), normal(shape[0]).abs()
    found = triton_kernels.dequantize_rowwise(q, absmax, out_dtype)
    assert_same([found], [reference.dequantize_rowwise(q, absmax, out_dtype)])


def test_nothing_at_all_launches_nothing():
    q, absmax = triton_kernels.quantize_rowwise(torch.empty(0, 8))
    assert q.shape == (0, 8) and absmax.shape == (0,)
    b = integers(3, 8)
    assert triton_kernels.scaled_int8_mm(q, b, absmax, torch.ones(3)).shape == (0, 3)
    assert triton_kernels.dequantize_rowwise(q, absmax).shape == (0, 8)


@pytest.mark.parametrize("scale", ["row", "tensor"])
@pytest.mark.parametrize("save", ["16bit", "int8"])
def test_the_layer_gives_the_same_gradients_on_both_backends(scale, save):
    results = []
    for backend in ("triton", "reference"):
        torch.manual_seed(0)
        linear = nn.Linear(70, 37)
        layer = SwitchBackLinear.from_linear(linear, weight_scale=scale, save=save, backend=backend)
        x = normal(2, 9, 70).requires_grad_()
        y = layer(x)
        y.backward(normal(2, 9, 37, seed=1))
        results.append([y.detach(), x.grad, layer.weight.grad, layer.bias.grad])
    assert_same(*results)


def test_auto_chooses_triton_where_it_serves():
    from labkit.switchback.backends import choose

    assert choose("auto", torch.device("cpu"), torch.float32) is triton_kernels


@pytest.mark.parametrize("per_row", [True, False], ids=["rows", "one-scale"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "plain"])
@pytest.mark.parametrize("shape", [(16, 16, 16), (40, 72, 80), (33, 31, 48)], ids=str)
def test_the_persistent_product_equals_the_reference(shape, bias, per_row):
    from triton.tools.tensor_descriptor import TensorDescriptor

    M, N, K = shape
    a, b = integers(M, K), integers(N, K, seed=1)
    a_absmax, b_absmax = normal(M, seed=2).abs(), normal(N, seed=3).abs()
    added = normal(N, seed=4) if bias else None
    b_absmax = b_absmax if per_row else b_absmax[0].clone()
    c = torch.full((M, N), float("nan"))
    stores_tiles = N % 4 == 0
    descriptors = [TensorDescriptor.from_tensor(t, [16, 16]) for t in (a, b)]
    last = TensorDescriptor.from_tensor(c, [16, 8]) if stores_tiles else descriptors[0]
    # Two programs for up to fifteen tiles: each works through several.
    triton_hopper.persistent_int8_mm_kernel[(2,)](
        *descriptors, last, c, a_absmax, b_absmax, c if added is None else added, M, N, K, 2,
        B_PER_ROW=per_row, HAS_BIAS=bias, STORE_TILES=stores_tiles,
        BLOCK_M=16, BLOCK_N=16, BLOCK_K=16, GROUP_M=2,
    )  # fmt: skip
    assert torch.equal(c, reference.scaled_int8_mm(a, b, a_absmax, b_absmax, added))
