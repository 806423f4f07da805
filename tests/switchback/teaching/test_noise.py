"""What int8 costs: the yardstick on known numbers, and the study of a model against autograd."""

import math

import pytest
import torch
from torch import nn

from labkit.errors import LabkitError
from labkit.models import load
from labkit.switchback.teaching import noise

SAMPLES = [
    {"input_ids": list(range(3, 19)), "labels": [-100] * 8 + list(range(11, 19))},
    {"input_ids": list(range(30, 54)), "labels": [-100] * 20 + list(range(50, 54))},
]


@pytest.fixture(scope="module")
def model(tiny_llama):
    return load.load_model(tiny_llama, dtype="float32").train()


def test_decibels():
    ones = torch.ones(100)
    assert noise.snr_db(ones, ones * 1.1) == pytest.approx(20, abs=1e-4)
    assert noise.snr_db(ones, ones * 1.01) == pytest.approx(40, abs=1e-3)
    assert noise.snr_db(ones, ones) == math.inf


def test_over_layers_and_outliers():
    assert noise.sign_errors(torch.tensor([1.0, -2, 0, 4]), torch.tensor([1.0, 2, 0, 4])) == 0.25
    assert noise.outlier_factor(torch.tensor([3.0, 3.0, -3.0])) == pytest.approx(1)
    assert noise.outlier_factor(torch.tensor([0.0, 0.0, 0.0, 8.0])) == pytest.approx(2)


def test_gaussian_noise_is_what_the_formula_predicts():
    torch.manual_seed(0)  # else the tests before decide
    for row in noise.noise_by_inner_dimension([64, 1024, 4096], rows=48):
        # Both operands contribute (absmax / σ)² / (12 · 127²), absmax the mean largest of K.
        largest = torch.randn(200, row["inner"]).abs().amax(dim=1).square().mean().item()
        predicted = -10 * math.log10(2 * largest / (12 * 127**2))
        assert row["snr_db"] == pytest.approx(predicted, abs=0.6)
        assert row["signal_rms"] == pytest.approx(math.sqrt(row["inner"]), rel=0.05)


def test_noise_grows_with_the_inner_dimension_and_an_outlier_costs_decibels():
    inner = [64, 256, 1024, 4096]
    plain = noise.noise_by_inner_dimension(inner)
    spiky = noise.noise_by_inner_dimension(inner, outlier=30)
    for rows in (plain, spiky):
        rms = [row["noise_rms"] for row in rows]
        assert all(b > 1.5 * a for a, b in zip(rms, rms[1:], strict=False))
    for one, other in zip(plain, spiky, strict=True):
        assert one["snr_db"] - other["snr_db"] > 10


def test_the_study_leaves_the_model_as_it_was_and_names_every_layer(model):
    before = {name: p.clone() for name, p in model.named_parameters()}
    layers = noise.study(model, SAMPLES)
    linears = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    assert list(layers) == [name for name in linears if name != "lm_head"]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


def test_kept_tokens_give_the_weight_gradient_of_autograd(model):
    name = next(n for n, m in model.named_modules() if n.endswith("up_proj"))
    layer = noise.study(model, SAMPLES, keep=[name])[name]
    model.zero_grad()
    for sample in SAMPLES:
        ids, labels = (torch.tensor([sample[key]]) for key in ("input_ids", "labels"))
        model(input_ids=ids, labels=labels).loss.backward()
    want = model.get_submodule(name).weight.grad
    model.zero_grad()
    dw = torch.cat(layer.g).t() @ torch.cat(layer.x)
    torch.testing.assert_close(dw, want, rtol=1e-4, atol=1e-7)
    rows = noise.weight_gradient_noise(layer)
    assert [r["tokens"] for r in rows if r["precision"] == "int8"][-1] <= 40
    by_precision = {
        precision: [r["snr_db"] for r in rows if r["precision"] == precision]
        for precision in ("int8", "bfloat16")
    }
    pairs = zip(by_precision["bfloat16"], by_precision["int8"], strict=True)
    assert all(b > a + 3 for b, a in pairs)


def test_the_table_agrees_with_a_layer_computed_by_hand(model):
    name = next(n for n, m in model.named_modules() if n.endswith("down_proj"))
    seen = []
    handle = model.get_submodule(name).register_forward_hook(
        lambda _m, inputs, _y: seen.append(inputs[0][0].detach())
    )
    layers = noise.study(model, SAMPLES)
    handle.remove()
    row = next(r for r in noise.layer_table(layers) if r["layer"] == name)
    x, w = torch.cat(seen), model.get_submodule(name).weight.detach()
    for scale in ("row", "tensor"):
        want = noise.snr_db(x @ w.t(), noise.int8_product(x, w, scale))
        assert row[f"y_{scale}_db"] == pytest.approx(want, abs=1e-3)
    assert row["x_outlier"] == pytest.approx(noise.outlier_factor(x), rel=1e-5)
    assert row["x_feature"] == int(x.abs().amax(dim=0).argmax())
    assert row["kind"] == "down_proj" and row["depth"] == 0
    columns = w.square().sum(dim=0).sqrt()
    use = columns[row["x_feature"]] / columns.median()
    assert row["feature_use"] == pytest.approx(use.item(), rel=1e-5)
    absmax = torch.cat(layers[name].g_absmax)
    assert absmax.shape == (40,) and row["g_spread"] >= 1


def test_summaries_count_and_compare(model):
    table = noise.layer_table(noise.study(model, SAMPLES))
    kinds = noise.kind_table(table, ["q_proj", "down_proj", "no_such"])
    assert [row["kind"] for row in kinds] == ["q_proj", "down_proj"]
    assert sum(r["kind"] == "q_proj" for r in table) == kinds[0]["layers"]
    for row in noise.scale_table(table, floor_db=math.inf):
        assert row["layers_below_row"] == row["layers_below_tensor"] == len(table)
        assert row["most_lost_db"] >= row["median_lost_db"]
        worst = next(r for r in table if r["layer"] == row["worst_layer"])
        for scale in ("row", "tensor"):
            assert row[f"worst_{scale}_db"] == worst[f"{row['product']}_{scale}_db"]
        lost = row["worst_row_db"] - row["worst_tensor_db"]
        assert row["most_lost_db"] == pytest.approx(lost)
    rows = noise.over_layers(
        {
            "a": [{"precision": "int8", "tokens": 4, "snr_db": 20, "wrong_sign": 0.1}],
            "b": [{"precision": "int8", "tokens": 4, "snr_db": 40, "wrong_sign": 0.3}],
        }
    )
    want = {"precision": "int8", "tokens": 4, "snr_db": 30, "wrong_sign": pytest.approx(0.2)}
    assert rows == [want]


def test_divergence_is_zero_for_the_same_and_that_of_torch_else(model):
    logits = noise.next_token_logits(model, SAMPLES)
    assert logits.shape[0] == sum(len(sample["input_ids"]) for sample in SAMPLES)
    assert noise.divergence(logits, logits) == {"kl_nats": 0.0, "same_token": 1.0}
    other = logits.roll(1, dims=0)
    want = nn.functional.kl_div(
        other.log_softmax(-1), logits.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    assert noise.divergence(logits, other)["kl_nats"] == pytest.approx(want.item(), rel=1e-4)


def test_a_layer_that_is_not_there_is_named(model):
    with pytest.raises(LabkitError, match="the model has no linear layer 'model.layers.99'"):
        noise.study(model, SAMPLES, keep=["model.layers.99"])


def test_kept_layers_alone_are_watched_and_brief_rows_are_theirs(model):
    name = "model.layers.0.mlp.up_proj"
    assert list(noise.study(model, SAMPLES, keep=[name])) == [name]
    (full,) = noise.layer_table(noise.study(model, SAMPLES, keep=[name]))
    (row,) = noise.brief([full])
    weight = model.get_submodule(name).weight
    assert row["w_absmax"] == pytest.approx(weight.abs().max().item(), rel=1e-4)
    assert row["w_absmax"] / row["w_rms"] == pytest.approx(full["w_outlier"], rel=1e-3)
    assert row["x_absmax"] / row["x_rms"] == pytest.approx(full["x_outlier"], rel=1e-3)
    assert set(row) <= set(full) and row["layer"] == name


def test_layers_below_y_are_counted_by_tokens():
    gradients = {
        name: [{"precision": "int8", "tokens": 16, "snr_db": 40.0},
               {"precision": "int8", "tokens": 32, "snr_db": many},
               {"precision": "bfloat16", "tokens": 32, "snr_db": 10.0}]
        for name, many in (("a", 20.0), ("b", 30.0))
    }  # fmt: skip
    table = [{"layer": name, "y_row_db": 25.0} for name in "ab"]
    assert noise.below_y(gradients, table) == [
        {"tokens": 16, "layers": 2, "below": 0}, {"tokens": 32, "layers": 2, "below": 1},
    ]  # fmt: skip
