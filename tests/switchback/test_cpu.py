"""The CPU backends against the reference, bit for bit: all operations, odd shapes, all levels."""

import os
import re
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

from labkit import console
from labkit.errors import LabkitError
from labkit.switchback import (
    SwitchBackLinear,
    backends,
    convert,
    cpu,
    freeze_base,
    levels,
    onednn,
    reference,
)  # fmt: skip

SHAPES = [(1, 1, 1), (3, 5, 7), (33, 70, 45), (64, 64, 64), (129, 576, 257), (31, 63, 1000)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
HAVE_KERNELS = not cpu.load()
needs_kernels = pytest.mark.skipif(not HAVE_KERNELS, reason=f"no int8 kernels: {cpu.load()}")
needs_vnni = pytest.mark.skipif(not onednn._exact, reason="oneDNN has no VNNI here")


@pytest.fixture(params=levels.playable() if HAVE_KERNELS else ["none"])
def kernel(request, monkeypatch):
    """Compute with every level in turn that this machine can run."""
    for name in ("level", "use_amx", "_ops"):
        monkeypatch.setattr(cpu, name, getattr(cpu, name))  # put back at the end
    if request.param != "none":
        cpu.use(request.param)
    return request.param


@pytest.mark.parametrize("level", levels.LEVELS)
def test_a_level_is_tested_here(level, monkeypatch):
    """Count what a green run on this machine doesn't cover: one skip a level."""
    if level not in levels.playable():
        lacks = levels.missing(level) or f"an order: {levels.VARIABLE} is below it"
        pytest.skip(f"int8 level {level} is not run here, which lacks {lacks}")
    for name in ("level", "use_amx", "_ops"):
        monkeypatch.setattr(cpu, name, getattr(cpu, name))
    cpu.use(level)
    assert cpu.level == level and cpu._ops.name == levels.LEVELS[level].namespace
    assert cpu.int8_mm(integers(1, 64), integers(1, 64)).item() == sum(
        x * x for x in integers(1, 64)[0].tolist()
    )


def integers(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-127, 128, shape, dtype=torch.int8, generator=generator)


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Normal numbers with a row of zeros, and ties where a row's absmax is 127."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    x[0] = 0
    if shape[0] > 2:
        x[2] = torch.arange(shape[1]) % 64 + 0.5
        x[2, 0] = 127
    return x.to(dtype)


def assert_same(found: tuple[torch.Tensor, ...], exact: tuple[torch.Tensor, ...]) -> None:
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


@needs_kernels
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_are_exact(shape, kernel):
    m, k, n = shape
    a, b = integers(m, k), integers(n, k, seed=1)
    exact = (a.long() @ b.long().t()).int()
    assert torch.equal(cpu.int8_mm(a, b), exact)
    wide = integers(k, m).t(), integers(n, 2 * k, seed=1)[:, ::2]  # neither is contiguous
    assert torch.equal(cpu.int8_mm(*wide), (wide[0].long() @ wide[1].long().t()).int())


@needs_kernels
def test_the_largest_sums_do_not_overflow(kernel):
    # The longest inner dimension that a layer accepts, at the most negative and positive ends.
    k = backends_max_inner()
    a = torch.full((2, k), 127, dtype=torch.int8)
    b = torch.stack([a[0], -a[0]])
    assert cpu.int8_mm(a, b).tolist() == [[127 * 127 * k, -127 * 127 * k]] * 2


def backends_max_inner() -> int:
    from labkit.switchback.layer import MAX_INNER

    return MAX_INNER


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_quantisation_equals_the_reference(shape, dtype, kernel):
    m, k, _ = shape
    for x in (numbers(m, k, dtype=dtype), numbers(k, m, dtype=dtype).t()):
        assert_same(cpu.quantize_rowwise(x), reference.quantize_rowwise(x))
        assert_same(cpu.quantize_global(x), reference.quantize_global(x))
        q, absmax = reference.quantize_rowwise(x)
        exact = reference.dequantize_rowwise(q, absmax, dtype)
        assert torch.equal(cpu.dequantize_rowwise(q, absmax, dtype), exact)


@needs_kernels
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_what_is_not_finite_stays_so(value, kernel):
    x = numbers(4, 40)
    x[1, 33] = value
    _, absmax = cpu.quantize_rowwise(x)
    assert absmax.isfinite().tolist() == [True, False, True, True]
    assert not cpu.quantize_global(x)[1].isfinite()
    _, columns = cpu.pack_weight(x, "row", transpose=True)
    assert columns.isfinite().sum() == 39 and not columns[33].isfinite()


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scaled_products_equal_the_reference(shape, dtype, kernel):
    m, k, n = shape
    a, b, bias = integers(m, k), integers(n, k, seed=1), numbers(1, n, seed=2)[0]
    rows, columns = torch.rand(m) + 0.1, torch.rand(n) + 0.1
    for scale in (columns, columns[0].clone()):
        for shift in (None, bias, bias.to(dtype)):
            exact = reference.scaled_int8_mm(a, b, rows, scale, shift, dtype)
            assert_same((cpu.scaled_int8_mm(a, b, rows, scale, shift, dtype),), (exact,))


@needs_kernels
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("scale", ["row", "tensor"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_packed_weights_give_the_same_products(shape, dtype, scale, transpose, kernel):
    m, k, n = shape
    w = numbers(n, k, dtype=dtype)
    w_int8, absmax = backends.quantize_weight(w, scale, reference, transpose=transpose)
    panels, found = cpu.pack_weight(w, scale, transpose=transpose)
    assert torch.equal(found, absmax)
    a, rows, out_features = integers(m, w_int8.shape[1]), torch.rand(m), len(w_int8)
    y = cpu.packed_mm(a, panels, rows, absmax, None, out_features, dtype)
    assert torch.equal(y, reference.scaled_int8_mm(a, w_int8, rows, absmax, None, dtype))


@needs_kernels
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_any_number_of_threads_gives_the_same(threads, kernel):
    before = torch.get_num_threads()
    a, b = integers(300, 320), integers(200, 320, seed=1)
    x, w = numbers(300, 320), numbers(200, 320, seed=1)
    torch.set_num_threads(threads)
    try:
        assert torch.equal(cpu.int8_mm(a, b), reference.int8_mm(a, b))
        assert_same(cpu.quantize_global(x), reference.quantize_global(x))
        exact = reference.quantize_columnwise_and_transpose(w)[1]
        assert torch.equal(cpu.pack_weight(w, "row", transpose=True)[1], exact)
    finally:
        torch.set_num_threads(before)


TILE_SHAPES = [*SHAPES, (2048, 96, 160)] if cpu.tiles() else SHAPES[:1]  # one skip, not seven


@pytest.mark.skipif(not cpu.tiles(), reason="no AMX with bfloat16")
@pytest.mark.parametrize("shape", TILE_SHAPES, ids=str)
def test_weight_gradients_on_tiles_are_as_right_as_torch_s(shape):
    m, k, n = shape
    x, g = numbers(m, k, dtype=torch.bfloat16), numbers(m, n, seed=1, dtype=torch.bfloat16)
    exact = g.double().t() @ x.double()
    # g is not contiguous
    found, wide = (
        cpu.weight_gradient(g.t().contiguous().t(), x, dtype)
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert (found.dtype, wide.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(wide.bfloat16(), found)
    # One rounding to bfloat16, after float32 sums whose error is far below it.
    size = g.double().abs().t() @ x.double().abs()
    assert ((found - exact).abs() <= 2.0**-8 * exact.abs() + 1e-6 * size).all()
    if m <= 129:  # as one chain of sums, which is what oneDNN computes too as long as it is short
        assert torch.equal(found, g.t() @ x)


@needs_kernels
def test_weight_gradients_on_tiles_are_the_layer_s_choice():
    def gradient(**options) -> torch.Tensor:
        torch.manual_seed(0)
        layer = SwitchBackLinear(192, 128, bias=False, dtype=torch.bfloat16, **options)
        layer(numbers(4096, 192, dtype=torch.bfloat16)).backward(
            numbers(4096, 128, seed=1, dtype=torch.bfloat16)
        )
        return layer.weight.grad

    plain, tiles = gradient(), gradient(weight_gradient="tiles")
    exact = numbers(4096, 128, seed=1, dtype=torch.bfloat16).t() @ numbers(
        4096, 192, dtype=torch.bfloat16
    )
    assert torch.equal(plain, exact)
    torch.testing.assert_close(tiles, exact, rtol=2.0**-6, atol=0.05)
    with pytest.raises(LabkitError, match="weight_gradient='tile' is unknown"):
        SwitchBackLinear(8, 8, weight_gradient="tile")


@needs_kernels
def test_empty_batches(kernel):
    empty = torch.empty(0, 64)
    q, absmax = cpu.quantize_rowwise(empty)
    assert q.shape == (0, 64) and absmax.shape == (0,)
    assert SwitchBackLinear(64, 32, backend="cpu")(empty).shape == (0, 32)


@needs_kernels
@pytest.mark.parametrize("scale", ["row", "tensor"])
@pytest.mark.parametrize("save", ["16bit", "int8"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_layer_computes_what_the_reference_computes(dtype, save, scale, kernel):
    def step(backend: str) -> list[torch.Tensor]:
        torch.manual_seed(0)
        layer = SwitchBackLinear(
            70, 45, dtype=dtype, save=save, weight_scale=scale, backend=backend
        )
        x = numbers(6, 70, dtype=dtype).requires_grad_()
        y = layer(x)
        y.backward(numbers(6, 45, seed=3, dtype=dtype))
        return [y, x.grad, layer.weight.grad, layer.bias.grad]

    assert_same(tuple(step("cpu")), tuple(step("reference")))
    if onednn._exact:
        assert_same(tuple(step("onednn")), tuple(step("reference")))


# What isn't here is counted once, by test_a_level_is_tested_here and by the test of its kernels.
FROZEN = [
    *(["cpu"] if HAVE_KERNELS else []), *(["onednn"] if onednn._exact else []), "reference"
]  # fmt: skip


@pytest.mark.parametrize("scale", ["row", "tensor"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", FROZEN)
def test_a_frozen_weight_gives_the_same_and_is_quantised_once(backend, dtype, scale, monkeypatch):
    torch.manual_seed(0)
    layer = SwitchBackLinear(96, 64, dtype=dtype, backend=backend, weight_scale=scale)
    layer.weight.requires_grad_(False)
    x = numbers(40, 96, dtype=dtype).requires_grad_()
    g = numbers(40, 64, seed=1, dtype=dtype)

    def step() -> list[torch.Tensor]:
        y = layer(x)
        grads = torch.autograd.grad(y, (x, layer.bias), g)
        return [y, *grads]

    exact = step()
    layer.freeze()
    with monkeypatch.context() as patched:
        patched.setattr(backends, "pack_weight", None)  # nothing is quantised any more
        assert_same(tuple(step()), tuple(exact))
        with torch.no_grad():
            assert torch.equal(layer(x), exact[0])
    assert list(layer.state_dict()) == ["weight", "bias"]
    with torch.no_grad():
        layer.weight.mul_(-2)
    after = step()
    assert not torch.equal(after[0], exact[0])
    assert_same(tuple(after[1:2]), (-2 * exact[1],))


def test_freezing_follows_a_model_to_another_type():
    layer = SwitchBackLinear(64, 32, bias=False)
    layer.weight.requires_grad_(False)
    layer.freeze()
    layer.bfloat16()
    x = numbers(4, 64, dtype=torch.bfloat16)
    fresh = SwitchBackLinear.from_linear(layer)
    assert layer._frozen is not None and torch.equal(layer(x), fresh(x))


def test_freeze_base_takes_what_is_not_trained():
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    convert(model, min_features=0)
    with pytest.raises(LabkitError, match="2 SwitchBack layers, all of them trained"):
        freeze_base(model)
    with pytest.raises(LabkitError, match="requires_grad=False"):
        model[0].freeze()
    model[0].weight.requires_grad_(False)
    assert freeze_base(model) == 1
    assert model[0]._frozen is not None and model[1]._frozen is None


VERBOSE = """
    import torch
    from labkit.switchback import SwitchBackLinear
    layer = SwitchBackLinear(256, 256, dtype=torch.bfloat16, backend="onednn")
    layer.weight.requires_grad_(False)
    layer.freeze()
    x = torch.randn(64, 256, dtype=torch.bfloat16, requires_grad=True)
    layer(x).sum().backward()
    loose = SwitchBackLinear(256, 256, dtype=torch.bfloat16, backend="onednn")
    loose(x).sum().backward()
"""


@needs_vnni
def test_onednn_runs_its_matrix_kernel_and_never_the_reference_kernel():
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(VERBOSE)], capture_output=True, text=True,
        check=True, env={**os.environ, "ONEDNN_VERBOSE": "1"},
    ).stdout  # fmt: skip
    executed = [line.split(",") for line in ran.splitlines() if ",exec,cpu," in line]
    int8 = [line for line in executed if "src:s8" in line[8] or "src_s8" in line[8]]
    products = [line[6] for line in int8 if line[5] == "matmul"]
    # Y and dX: on the frozen weight ordered where that has a fast kernel, and on the loose one.
    assert len(products) == (2 if onednn._orders else 0), ran
    assert [line[5] for line in int8].count("gemm_api") == 4 - len(products), ran
    assert not any("ref" in line[6] for line in executed), executed
    if onednn._orders:
        assert all("amx" in kernel for kernel in products), products


REASONS = {
    "an ARM processor": (frozenset(), "has no avx2"),
    "no AVX2": (frozenset({"avx", "f16c"}), "has no avx2"),
}


@pytest.mark.parametrize("case", REASONS.values(), ids=REASONS.keys())
def test_without_the_processor_it_says_so_once_and_goes_on(case, monkeypatch, capsys):
    flags, reason = case
    monkeypatch.delenv(levels.VARIABLE, raising=False)
    monkeypatch.setattr(levels, "processor_flags", lambda: flags)
    fallback(monkeypatch, capsys, reason)


def test_without_a_compiler_it_says_so_once_and_goes_on(monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    fallback(monkeypatch, capsys, "no C++ compiler" if levels.playable() else "no")


def fallback(monkeypatch, capsys, reason: str) -> None:
    monkeypatch.setattr(cpu, "_loaded", False)
    monkeypatch.setattr(cpu, "load", cpu.why_not)
    console.say_once.cache_clear()
    x = numbers(8, 64)
    layers = [SwitchBackLinear(64, 64) for _ in range(2)]
    said = capsys.readouterr().err
    assert said.count("without its fast int8 kernels") == 1 and reason in said
    assert backends.choose("auto", x.device, x.dtype).NAME in ("onednn", "reference")
    w_int8, absmax = reference.quantize_rowwise(layers[0].weight.detach())
    q, rows = reference.quantize_rowwise(x)
    exact = reference.scaled_int8_mm(q, w_int8, rows, absmax, layers[0].bias)
    assert torch.equal(layers[0](x), exact)
    with pytest.raises(LabkitError, match=re.escape(reason)):
        SwitchBackLinear(64, 64, backend="cpu")


BUILD = """
    import sys
    from labkit.switchback import cpu
    sys.exit(cpu.load())
"""


@needs_kernels
def test_a_compiler_that_fails_is_a_reason_and_leaves_nothing(tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
    compiler.chmod(0o755)
    cache = tmp_path / "cache"
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(BUILD)], capture_output=True, text=True,
        env={**os.environ, "CXX": str(compiler), "LABKIT_CACHE": str(cache)},
    )  # fmt: skip
    assert ran.returncode == 1 and "the compiler failed" in ran.stderr
    assert [path.suffix for path in (cache / "kernels").iterdir()] == [".lock"]
