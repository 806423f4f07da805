"""The ways a layer is computed without int8: equal to nn.Linear, tried or left out."""

import time
from typing import Any

import pytest
import torch
from torch import nn

from labkit.bench.switchback import ways

CPU = torch.device("cpu")
# A processor without bfloat16 instructions has no kernel for that, and any has one in float32.
PACKED = [
    (name, way)
    for name, way in ways.WAYS.items()
    if way.packed_by and ways.can_prepack(way.packed_by, way.dtype, CPU)
]


def test_float32_can_be_packed_on_any_x86_processor() -> None:
    assert "float32 prepacked" in dict(PACKED) or not torch.backends.mkldnn.is_available()
    assert not ways.can_prepack("onednn", torch.float32, torch.device("cuda"))
    assert not ways.can_prepack("onednn", torch.complex64, CPU)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(("name", "way"), PACKED, ids=[name for name, _ in PACKED])
def test_the_prepacked_baseline_computes_what_a_linear_layer_does(
    name: str, way: ways.Way, frozen: bool
) -> None:
    torch.manual_seed(1)
    linear = nn.Linear(48, 32, bias=False, dtype=way.dtype)
    linear.weight.requires_grad_(not frozen)
    packed = ways.layer(name, linear, tokens=24)
    assert isinstance(packed, ways.PrepackedLinear)
    x, g = torch.randn(24, 48).to(way.dtype), torch.randn(24, 32).to(way.dtype)
    found = {}
    for name, layer in (("linear", linear), ("packed", packed)):
        inputs = x.clone().requires_grad_()
        linear.weight.grad = None
        y = layer(inputs)
        y.backward(g)
        assert inputs.grad is not None
        found[name] = [y.detach(), inputs.grad, linear.weight.grad]
    for expected, got in zip(found["linear"], found["packed"], strict=True):
        if expected is None:
            assert frozen and got is None
        else:
            torch.testing.assert_close(got, expected, rtol=2**-7, atol=2**-5)


def test_the_tile_gradient_differs_from_a_linear_layer_in_nothing_else() -> None:
    torch.manual_seed(1)
    linear = nn.Linear(48, 32, bias=False, dtype=torch.bfloat16)
    x, g = torch.randn(24, 48).bfloat16(), torch.randn(24, 32).bfloat16()
    found = []
    for layer in (linear, ways.TileGradientLinear(linear)):
        inputs = x.clone().requires_grad_()
        linear.weight.grad = None
        layer(inputs).backward(g)
        found.append((inputs.grad, linear.weight.grad))
    for expected, got in zip(*found, strict=True):
        assert expected is not None and got is not None and expected.count_nonzero() > 0
        torch.testing.assert_close(got, expected, rtol=2**-7, atol=2**-5)


@pytest.mark.parametrize(("name", "way"), PACKED, ids=[name for name, _ in PACKED])
def test_a_trained_weight_s_packed_copy_is_never_reused(name: str, way: ways.Way) -> None:
    linear = nn.Linear(48, 32, bias=False, dtype=way.dtype)
    packed, x = ways.layer(name, linear, tokens=4), torch.randn(4, 48).to(way.dtype)
    packed(x)
    with torch.no_grad():
        linear.weight.zero_()
    assert packed(x).eq(0).all()


def test_tiles_under_autocast_keep_the_gradient_in_the_weight_s_type() -> None:
    torch.manual_seed(1)
    linear = nn.Linear(48, 32, bias=False)
    x, found = torch.randn(2, 3, 48), []
    for layer in (linear, ways.TileGradientLinear(linear)):
        linear.weight.grad = None
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = layer(x)
        y.float().square().sum().backward()
        assert y.dtype == torch.bfloat16 and y.shape == (2, 3, 32)
        assert linear.weight.grad is not None
        found.append(linear.weight.grad)
    assert found[1].dtype == torch.float32 and found[0].count_nonzero() > 0
    torch.testing.assert_close(found[1], found[0], rtol=2**-6, atol=2**-4)


SLOWNESS = {torch.float32: 1.0, torch.bfloat16: 1.0}


def test_every_way_is_tried_where_both_types_are_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "can_prepack", lambda by, dtype, device: True)
    monkeypatch.setattr(ways.cpu, "tiles", lambda: True)
    assert ways.candidates("full", "tiles", SLOWNESS, CPU) == (list(ways.WAYS), {})
    without = [name for name, way in ways.WAYS.items() if not way.tiles]
    assert ways.candidates("frozen", "tiles", SLOWNESS, CPU) == (without, {})
    assert ways.candidates("full", "torch", SLOWNESS, CPU) == (without, {})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_slow_type_is_tried_once_and_a_hopeless_one_not_at_all(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "can_prepack", lambda by, dtype, device: True)
    plain = "float32" if dtype == torch.float32 else "eager"
    for factor, kept in ((4.0, {plain}), (9.0, set())):
        tried, left_out = ways.candidates("frozen", "torch", SLOWNESS | {dtype: factor}, CPU)
        assert {name for name in tried if ways.WAYS[name].dtype == dtype} == kept
        assert {ways.WAYS[name].dtype for name in left_out} == {dtype}
        assert all(f"{factor:.1f} times as long" in why for why in left_out.values())
        assert len(tried) + len(left_out) == sum(not way.tiles for way in ways.WAYS.values())


def test_a_way_without_a_kernel_is_left_out_and_nothing_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*arguments: Any) -> Any:
        raise RuntimeError("could not create a primitive descriptor for the matmul primitive")

    monkeypatch.setattr(ways, "_linear", refuse)
    tried, left_out = ways.candidates("frozen", "torch", SLOWNESS, CPU)
    assert set(left_out) == {n for n, way in ways.WAYS.items() if way.packed_by and not way.tiles}
    assert tried == ["eager", "compiled", "float32", "float32 compiled"]


@pytest.mark.parametrize(("mode", "shapes"), [
    ("full", [(4, 6), (4, 5), (6, 5)]), ("frozen", [(4, 6), (4, 5)]),
])  # fmt: skip
def test_a_type_is_probed_in_every_product_of_a_step(
    mode: str, shapes: list[tuple[int, int]]
) -> None:
    case = {"tokens": 9, "in_features": 5, "out_features": 6, "mode": mode}
    products = ways._products(case, torch.bfloat16, CPU, tokens=4)
    assert [tuple(product().shape) for product in products] == shapes
    assert {product().dtype for product in products} == {torch.bfloat16}


@pytest.mark.parametrize("slow", [0, 1])
def test_one_product_that_takes_long_makes_a_type_hopeless_after_a_few_tokens(
    slow: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def products(case: Any, dtype: torch.dtype, device: Any, *, tokens: int) -> list[Any]:
        tried.append(tokens)
        seconds = [0.001, 0.001]
        seconds[slow] *= 100 if dtype == torch.bfloat16 else 1
        return [lambda each=each: time.sleep(each) for each in seconds]

    monkeypatch.setattr(ways, "_products", products)
    found = ways.slowness({"tokens": 999}, CPU)
    assert found[torch.float32] == 1 and found[torch.bfloat16] > 5 * ways.HOPELESS
    assert set(tried) == {min(ways.PROBE_TOKENS)}
