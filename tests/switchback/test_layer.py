"""The layer, against float64 over the same integers, against 16-bit products, and nn.Linear."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from labkit.errors import LabkitError
from labkit.switchback import SwitchBackLinear, backends, reference
from labkit.switchback.teaching.noise import snr_db

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SCALES = ["row", "tensor"]
SAVES = ["16bit", "int8"]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def pair(
    in_features: int, out_features: int, dtype: torch.dtype, **options
) -> tuple[nn.Linear, SwitchBackLinear]:
    """A linear layer and a SwitchBack layer with copies of its parameters."""
    linear = nn.Linear(in_features, out_features, dtype=dtype)
    with torch.no_grad():
        linear.weight.copy_(random(out_features, in_features, seed=1) / in_features**0.5)
        linear.bias.copy_(random(out_features, seed=2))
    return linear, SwitchBackLinear.from_linear(copy.deepcopy(linear), **options)


def dequantized(x: torch.Tensor, axis: int | None) -> np.ndarray:
    """What int8 makes of x, in float64; the scale is taken along `axis`."""
    values = x.detach().float().numpy()
    absmax = np.maximum(np.abs(values).max(axis=axis, keepdims=True), np.float32(2.0**-100))
    q = np.rint(values * (np.float32(127) / absmax))
    return q.astype(np.float64) * absmax / 127


def assert_rounds_to(found: torch.Tensor, exact: np.ndarray, largest: np.ndarray) -> None:
    """`found` is `exact` rounded once to its type, after float32 sums no larger than `largest`."""
    half_unit = torch.finfo(found.dtype).eps / 2
    error = np.abs(found.detach().double().numpy() - exact)
    assert (error <= half_unit * np.abs(exact) * 1.001 + 2.0**-22 * largest + 1e-7).all()


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layer_is_within_rounding_of_dequantised_float64(dtype, scale, save):
    _, sb = pair(70, 45, dtype, weight_scale=scale, save=save)
    x = random(6, 11, 70, dtype=dtype).requires_grad_()
    g = random(6, 11, 45, seed=3, dtype=dtype)
    y = sb(x)
    y.backward(g)
    assert y.shape == (6, 11, 45) and y.dtype == x.grad.dtype == dtype
    rows, grads = x.flatten(0, 1), g.flatten(0, 1)
    w_axis = {"row": 1, "tensor": None}[scale]
    product = dequantized(rows, 1) @ dequantized(sb.weight, w_axis).T
    exact = product + sb.bias.detach().double().numpy()
    assert_rounds_to(y.flatten(0, 1), exact, np.abs(product) + 3)
    wt_axis = {"row": 0, "tensor": None}[scale]
    exact = dequantized(grads, 1) @ dequantized(sb.weight, wt_axis)
    assert_rounds_to(x.grad.flatten(0, 1), exact, np.abs(exact))
    if save == "16bit":
        assert torch.equal(sb.weight.grad, grads.t() @ rows.detach())
    else:
        kept = torch.from_numpy(dequantized(rows, 1)).to(dtype)
        slack = {"rtol": 1e-5, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(sb.weight.grad, grads.t() @ kept, **slack)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("width", [(1024, 512), (2048, 5632)], ids=str)
def test_signal_to_noise_is_at_least_30_db_for_gaussian_input(width, scale):
    in_features, out_features = width
    linear, sb = pair(in_features, out_features, torch.float32, weight_scale=scale)
    x1, g = random(64, in_features).requires_grad_(), random(64, out_features, seed=5)
    x2 = x1.detach().clone().requires_grad_()
    y1, y2 = linear(x1), sb(x2)
    y1.backward(g)
    y2.backward(g)
    assert snr_db(y1 - linear.bias, y2 - sb.bias) >= 30
    assert snr_db(x1.grad, x2.grad) >= 30


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weight_gradient_is_bit_for_bit_that_of_nn_linear(dtype):
    linear, sb = pair(96, 64, dtype)
    x, g = random(3, 50, 96, dtype=dtype), random(3, 50, 64, seed=3, dtype=dtype)
    linear(x).backward(g)
    sb(x).backward(g)
    assert torch.equal(sb.weight.grad, linear.weight.grad)
    assert torch.equal(sb.bias.grad, linear.bias.grad)


def saved_bytes(module: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, dict[int, int]]:
    """Run forward; return y and the bytes kept for backward beside the parameters, by address."""
    kept: dict[int, int] = {}
    there = {p.data_ptr() for p in module.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in there:
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = module(x)
    return y, kept


@pytest.mark.parametrize("scale", SCALES)
def test_what_is_kept_for_backward(scale):
    tokens, wide, out = 200, 64, 32
    x = random(tokens, wide, dtype=torch.bfloat16).requires_grad_()
    linear, full = pair(wide, out, torch.bfloat16, weight_scale=scale)
    y, kept = saved_bytes(full, x)
    assert kept == saved_bytes(linear, x)[1] == {x.data_ptr(): tokens * wide * 2}  # x, no copy
    _, small = pair(wide, out, torch.bfloat16, weight_scale=scale, save="int8")
    y, kept = saved_bytes(small, x)
    weight = out * wide + 4 if scale == "tensor" else 0
    assert sum(kept.values()) == tokens * wide + tokens * 4 + weight
    full.weight.requires_grad_(False)
    y, kept = saved_bytes(full, x)
    assert not kept
    y.sum().backward()
    assert x.grad is not None and full.weight.grad is None


def test_gradients_that_are_not_needed_are_not_computed():
    _, sb = pair(8, 4, torch.float32)
    x = random(5, 8)
    sb(x).sum().backward()  # x needs none
    sb.weight.requires_grad_(False)
    sb.bias.requires_grad_(False)
    assert not sb(x).requires_grad


def test_no_bias_one_row_and_no_row():
    sb = SwitchBackLinear(8, 4, bias=False)
    assert sb.bias is None and sb(random(8)).shape == (4,)
    x = random(0, 8).requires_grad_()
    sb(x).sum().backward()
    assert x.grad.shape == (0, 8) and sb.weight.grad.eq(0).all()


def test_inputs_and_gradients_of_any_layout_give_the_same():
    _, sb = pair(16, 8, torch.float32)
    x = random(5, 3, 16).transpose(0, 1)
    g = random(5, 3, 8, seed=1).transpose(0, 1)
    results = []
    for layout in (lambda t: t, lambda t: t.contiguous()):
        one = layout(x).detach().requires_grad_()
        y = sb(one)
        y.backward(layout(g))
        results.append((y, one.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    one = x.detach().requires_grad_()
    sb(one).sum().backward()  # the gradient of a sum is an expanded scalar
    assert one.grad.isfinite().all()


def test_an_edit_between_forward_and_backward_is_refused():
    _, sb = pair(8, 4, torch.float32)
    y = sb(random(5, 8).requires_grad_())
    with torch.no_grad():
        sb.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_second_derivative_is_refused_not_wrong():
    _, sb = pair(8, 4, torch.float32)
    x = random(5, 8).requires_grad_()
    (dx,) = torch.autograd.grad(sb(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_an_overflow_reaches_the_gradient_scaler(bad):
    _, sb = pair(8, 4, torch.float16)
    x = random(3, 8, dtype=torch.float16).requires_grad_()
    g = torch.ones(3, 4, dtype=torch.float16)
    g[1, 2] = bad
    sb(x).backward(g)
    assert not x.grad[1].isfinite().any() and x.grad[[0, 2]].isfinite().all()
    assert not sb.weight.grad.isfinite().all()


def test_autocast_computes_in_its_type_and_keeps_float32_master_weights():
    _, sb = pair(2000, 16, torch.float32)
    x = random(9, 2000).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = sb(x)
    g = random(9, 16, seed=3, dtype=torch.bfloat16)
    y.backward(g)
    assert y.dtype == torch.bfloat16
    assert sb.weight.grad.dtype == x.grad.dtype == torch.float32
    half = x.detach().bfloat16()
    assert torch.equal(sb.weight.grad, (g.t() @ half).float())
    # The weight is quantised from float32: no bfloat16 copy of it is made first.
    exact = dequantized(half, 1) @ dequantized(sb.weight, 1).T + sb.bias.detach().numpy()
    assert_rounds_to(y, exact, np.abs(exact) + 3)


def test_state_dicts_are_interchangeable_with_nn_linear(tmp_path):
    linear, sb = pair(8, 4, torch.bfloat16)
    assert list(sb.state_dict()) == list(linear.state_dict()) == ["weight", "bias"]
    torch.save(sb.state_dict(), tmp_path / "sb.pt")
    other = nn.Linear(8, 4, dtype=torch.bfloat16)
    other.load_state_dict(torch.load(tmp_path / "sb.pt"), strict=True)
    assert torch.equal(other.weight, sb.weight)
    fresh = SwitchBackLinear(8, 4, dtype=torch.bfloat16)
    fresh.load_state_dict(linear.state_dict(), strict=True)
    assert torch.equal(fresh(random(2, 8).bfloat16()), sb(random(2, 8).bfloat16()))


FOREIGN = {
    "LLM.int8": (
        {"weight": torch.zeros(4, 8, dtype=torch.int8), "SCB": torch.ones(4)},
        "it holds SCB",
    ),
    "the original after prepare_for_eval": (
        {"W_int8": torch.zeros(4, 8, dtype=torch.int8), "state_W": torch.ones(1)},
        "it holds W_int8, state_W",
    ),
    "int8 weights": ({"weight": torch.zeros(4, 8, dtype=torch.int8)}, "its weight is int8"),
    "another shape": ({"weight": torch.zeros(8, 4)}, r"its weight is \[8, 4\] and not \[4, 8\]"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_checkpoint_of_another_layer_is_refused_in_one_sentence(name):
    state, why = FOREIGN[name]
    model = nn.Sequential(SwitchBackLinear(8, 4, bias=False))
    before = model[0].weight.clone()
    with pytest.raises(LabkitError, match=f"checkpoint of 0 was saved by another layer, {why}"):
        model.load_state_dict({f"0.{key}": value for key, value in state.items()})
    assert torch.equal(model[0].weight, before)


def test_from_linear_shares_the_parameters():
    linear = nn.Linear(8, 4).eval()
    linear.weight.requires_grad_(False)
    sb = SwitchBackLinear.from_linear(linear, weight_scale="tensor")
    assert sb.weight is linear.weight and sb.bias is linear.bias
    assert not sb.training and sb.weight_scale == "tensor"


@pytest.mark.parametrize("scale", SCALES)
def test_prepare_for_eval_quantises_once_and_never_serves_a_stale_weight(scale, monkeypatch):
    _, sb = pair(8, 4, torch.float32, weight_scale=scale)
    x = random(5, 8)
    calls = []
    pack = backends.pack_weight
    monkeypatch.setattr(
        backends, "pack_weight", lambda *a, **options: calls.append(1) or pack(*a, **options)
    )
    want = sb(x)
    calls.clear()
    sb.prepare_for_eval()
    with torch.no_grad():
        assert torch.equal(sb(x), want) and torch.equal(sb(x), want)
    assert len(calls) == 1 and not sb.training
    assert list(sb.state_dict()) == ["weight", "bias"]
    changes = {
        "an edit": lambda: sb.weight.mul_(3),
        "a load": lambda: sb.load_state_dict({"weight": random(4, 8), "bias": random(4)}),
        "a cast": lambda: sb.half().float(),
    }
    for what, change in changes.items():
        sb.prepare_for_eval()
        with torch.no_grad():
            change()
            fresh = copy.deepcopy(sb).train()(x)
            assert torch.equal(sb(x), fresh), what
    sb.prepare_for_eval()
    assert sb.train()._prepared is None
    sb.prepare_for_eval()
    sb(x).sum().backward()  # in evaluation, but somebody wants gradients
    assert sb.weight.grad is not None


def test_copies_and_pickles_work():
    _, sb = pair(8, 4, torch.float32, save="int8")
    x = random(3, 8)
    for twin in (copy.deepcopy(sb), pickle.loads(pickle.dumps(sb))):
        assert torch.equal(twin(x), sb(x)) and twin.save == "int8"
    assert "weight_scale=row, save=int8, backend=auto" in repr(sb)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"weight_scale": "rows"}, "weight_scale='rows' is unknown: choose from row, tensor"),
        ({"save": "8bit"}, "save='8bit' is unknown: choose from 16bit, int8"),
        ({"backend": "cuda"}, "backend='cuda' is unknown: choose from auto, triton"),
        ({"in_features": 133_145}, "at most 133,144"),
    ],
)
def test_unknown_options_are_named(options, sentence):
    with pytest.raises(LabkitError, match=sentence):
        SwitchBackLinear(**{"in_features": 8, "out_features": 4} | options)


def test_dtypes_devices_and_widths_nobody_serves_are_named():
    sb = SwitchBackLinear(8, 4)
    with pytest.raises(LabkitError, match="no SwitchBack backend computes float64 on cpu: use"):
        sb(random(2, 8).double())
    with pytest.raises(LabkitError, match="no SwitchBack backend computes float32 on meta: use"):
        SwitchBackLinear(8, 4, device="meta")(torch.empty(2, 8, device="meta"))
    with pytest.raises(LabkitError, match="got 16 features and takes 8"):
        sb(random(2, 16))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_triton_without_a_gpu_is_refused_in_one_sentence():
    sb = SwitchBackLinear(8, 4, backend="triton")
    with pytest.raises(LabkitError, match="'triton' does not compute float32 on cpu here: use"):
        sb(random(2, 8))


def test_a_backend_is_a_module_with_the_functions_of_the_reference(monkeypatch):
    functions = [
        name
        for name, value in vars(reference).items()
        if callable(value) and getattr(value, "__module__", "") == reference.__name__
    ]
    public = {name for name in functions if not name.startswith("_")} - {"int8_mm"}
    assert public == {
        "serves",
        "quantize_rowwise",
        "quantize_columnwise_and_transpose",
        "quantize_global",
        "quantize_global_transpose",
        "scaled_int8_mm",
        "dequantize_rowwise",
    }

    class Recording:
        """The reference, noting what is called; "auto" must prefer it where it serves."""

        called: list[str] = []

        def __getattr__(self, name):
            found = getattr(reference, name)
            self.called.append(name)
            return found

    monkeypatch.setitem(backends.LOADED, "cpu", Recording())
    x = random(3, 8).requires_grad_()
    SwitchBackLinear(8, 4, save="int8")(x).sum().backward()
    assert set(Recording.called) == public - {"quantize_global", "quantize_global_transpose"}
