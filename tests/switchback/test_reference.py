"""The arithmetic, against NumPy's integers, NumPy's float32 and float64."""

import numpy as np
import pytest
import torch

from labkit.switchback import reference
from labkit.switchback.teaching.defects import EveryResultFinite

QUANTIZERS = (
    "quantize_rowwise",
    "quantize_columnwise_and_transpose",
    "quantize_global",
    "quantize_global_transpose",
)
SHAPES = [(1, 1), (3, 5), (7, 64), (33, 129), (130, 1030)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def exact_quantize(x: torch.Tensor, axis: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Quantise in NumPy's float32, one IEEE operation at a time: rint is half to even."""
    values = x.float().numpy()
    absmax = np.maximum(np.abs(values).max(axis=axis, keepdims=True), np.float32(2.0**-100))
    scale = np.float32(127) / absmax
    return np.rint(values * scale).astype(np.int8), absmax


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


@pytest.fixture(params=SHAPES, ids=str)
def x(request, dtype):
    generator = torch.Generator().manual_seed(sum(request.param))
    return (torch.randn(request.param, generator=generator) * 3).to(dtype)


def test_rowwise_is_bit_exact(x):
    q, absmax = reference.quantize_rowwise(x)
    want_q, want_absmax = exact_quantize(x, axis=1)
    assert q.dtype == torch.int8 and absmax.dtype == torch.float32
    np.testing.assert_array_equal(q.numpy(), want_q)
    np.testing.assert_array_equal(absmax.numpy(), want_absmax[:, 0])


def test_columnwise_and_transpose_is_bit_exact(x):
    q, absmax = reference.quantize_columnwise_and_transpose(x)
    want_q, want_absmax = exact_quantize(x, axis=0)
    np.testing.assert_array_equal(q.numpy(), want_q.T)
    np.testing.assert_array_equal(absmax.numpy(), want_absmax[0])
    assert q.is_contiguous()


def test_global_is_bit_exact_and_its_transpose_has_the_same_integers(x):
    q, absmax = reference.quantize_global(x)
    transposed, same_absmax = reference.quantize_global_transpose(x)
    want_q, want_absmax = exact_quantize(x, axis=None)
    np.testing.assert_array_equal(q.numpy(), want_q)
    assert absmax.shape == () and absmax.item() == want_absmax.item() == same_absmax.item()
    assert torch.equal(transposed, q.t()) and transposed.is_contiguous()


def test_ties_go_to_even_and_match_torch_round():
    halves = torch.arange(-126.5, 127.0)
    x = torch.cat([torch.tensor([127.0]), halves])[None, :]  # absmax 127: the scale is 1
    q, _ = reference.quantize_rowwise(x)
    assert torch.equal(q[0].float(), x[0].round())
    assert q[0, 1:].remainder(2).eq(0).all()


def test_the_scale_is_divided_once():
    # Rows n, n-1 … 1 with absmax n: every odd n·(2k+1)/254 is a tie, and a scale that is off by
    # one unit in the last place, as 127 · (1/n) is for a quarter of all n, breaks it.
    for n in (254, 762, 1270, 1778, 2540):
        x = torch.arange(n, 0, -1.0)[None, :]
        want, _ = exact_quantize(x, axis=1)
        np.testing.assert_array_equal(reference.quantize_rowwise(x)[0].numpy(), want)


@pytest.mark.parametrize("name", ["quantize_rowwise", "quantize_columnwise_and_transpose"])
def test_rows_of_zeros_stay_zeros_and_divide_nothing_by_zero(name):
    x = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 4.0]])
    x = x if name == "quantize_rowwise" else x.t()
    q, absmax = getattr(reference, name)(x)
    back = reference.dequantize_rowwise(q, absmax)
    assert back.isfinite().all() and back[0].tolist() == [0.0, 0.0, 0.0]
    assert back[1, 2].item() == 4.0


@pytest.mark.parametrize("name", QUANTIZERS)
def test_zeros_make_nothing_that_is_not_finite_on_the_way(name):
    with EveryResultFinite():
        q, absmax = getattr(reference, name)(torch.zeros(2, 3))
    assert q.eq(0).all() and absmax.eq(reference.TINY).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_spoils_its_row_and_no_other(bad):
    x = torch.ones(3, 4)
    x[1, 2] = bad
    q, absmax = reference.quantize_rowwise(x)
    y = reference.scaled_int8_mm(q, torch.ones(5, 4, dtype=torch.int8), absmax, torch.ones(5))
    assert not y[1].isfinite().any()
    assert y[[0, 2]].isfinite().all()


def test_inputs_that_are_not_contiguous_give_the_same(dtype):
    base = torch.randn(12, 40, generator=torch.Generator().manual_seed(1)).to(dtype)
    for view in (base.t(), base[::2, 1::3], base[:, :1].expand(12, 7)):
        for name in QUANTIZERS:
            quantize = getattr(reference, name)
            for found, want in zip(quantize(view), quantize(view.contiguous()), strict=True):
                assert torch.equal(found, want), name


def test_dequantising_is_off_by_at_most_half_a_step(x):
    q, absmax = reference.quantize_rowwise(x)
    back = reference.dequantize_rowwise(q, absmax)
    step = absmax[:, None] / 127
    assert ((back - x.float()).abs() <= step * 0.5 * (1 + 1e-5)).all()
    assert reference.dequantize_rowwise(q, absmax, torch.float16).dtype == torch.float16


def integers(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)


@pytest.mark.parametrize("inner", [1, 3, 1023, 1024, 1025, 5000])
def test_int32_accumulation_is_exact(inner):
    a, b = integers(9, inner), integers(11, inner, seed=1)
    want = a.numpy().astype(np.int64) @ b.numpy().astype(np.int64).T
    found = reference.int8_mm(a, b)
    assert found.dtype == torch.int32
    np.testing.assert_array_equal(found.numpy(), want)


def test_int32_accumulation_is_exact_at_the_largest_sums():
    a = torch.full((2, 133_144), 127, dtype=torch.int8)
    assert reference.int8_mm(a, a).tolist() == [[127**2 * 133_144] * 2] * 2
    assert reference.int8_mm(a, -a).tolist() == [[-(127**2) * 133_144] * 2] * 2
    # All but saturated, and with sums that use every bit.
    a, b = integers(4, 40_000).abs() // 64 + 126, integers(4, 40_000, seed=1).abs() // 64 + 126
    want = a.long() @ b.long().t()
    assert want.min() > 2**29 and torch.equal(reference.int8_mm(a, b).long(), want)


@pytest.mark.parametrize("setting", ["autocast", "medium"])
def test_no_setting_of_lower_precision_reaches_the_sums(setting):
    a, b = integers(16, 2000), integers(16, 2000, seed=1)
    want = a.long() @ b.long().t()
    before = torch.get_float32_matmul_precision()
    try:
        if setting == "medium":
            torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16, enabled=setting == "autocast"):
            found = reference.int8_mm(a, b)
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(found.long(), want)


@pytest.mark.parametrize("vector", [True, False], ids=["row × row", "row × scalar"])
@pytest.mark.parametrize("with_bias", [True, False])
def test_scaling_is_within_float32_rounding_of_float64(vector, with_bias):
    a, b = integers(7, 1500), integers(5, 1500, seed=1)
    generator = torch.Generator().manual_seed(2)
    a_absmax, bias = torch.rand(7, generator=generator) * 9, torch.randn(5, generator=generator)
    b_absmax = torch.rand(5 if vector else (), generator=generator)
    y = reference.scaled_int8_mm(a, b, a_absmax, b_absmax, bias if with_bias else None)
    product = (a.double() @ b.double().t()) * a_absmax.double()[:, None] * b_absmax.double()
    want = product / 127**2 + (bias.double() if with_bias else 0)
    scale = (product / 127**2).abs() + 1
    assert ((y.double() - want).abs() <= 4 * 2.0**-24 * scale).all()


@pytest.mark.parametrize("out_dtype", DTYPES, ids=str)
def test_the_output_is_rounded_once_to_the_chosen_type(out_dtype):
    a, b = integers(4, 50), integers(3, 50, seed=1)
    scales = torch.rand(4), torch.rand(3)
    bias = torch.randn(3)
    full = reference.scaled_int8_mm(a, b, *scales, bias, torch.float32)
    y = reference.scaled_int8_mm(a, b, *scales, bias, out_dtype)
    assert y.dtype == out_dtype and torch.equal(y, full.to(out_dtype))


def test_inner_dimensions_that_differ_are_refused():
    with pytest.raises(ValueError, match="inner dimensions differ: 1024 and 2048"):
        reference.int8_mm(integers(2, 1024), integers(2, 2048))
