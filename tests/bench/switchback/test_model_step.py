"""The model whose whole step is timed: its size, and whether it fits."""

import pytest

from labkit.bench.paired import Plan
from labkit.bench.switchback import model_step
from labkit.errors import LabkitError


@pytest.mark.parametrize(("layer_count", "dtype"), [(1, "bfloat16"), (3, "float32")])
def test_the_trained_model_is_a_llama_of_the_said_size(layer_count: int, dtype: str) -> None:
    spec = {
        "widths": model_step.TINY, "layers": layer_count, "batch_size": 2, "seq_len": 24,
        "weight_scale": "row", "backend": "reference", "min_features": 0, "compiled": False,
        "weight_gradient": "torch", "dtype": dtype,
    }  # fmt: skip
    plan = Plan(warmup=1, steps=2, run_seconds=0.0, max_steps=2)
    assert model_step.choose(spec)[0] in ("float32", "bfloat16")
    plain = model_step.measure_training(spec, plan, switchback=False)
    int8 = model_step.measure_training(spec, plan, switchback=True)
    assert plain["parameters"] == int8["parameters"]
    assert plain["parameters"] == model_step.parameters(model_step.TINY, layer_count)
    assert (plain["converted"], int8["converted"]) == (0, 7 * layer_count)
    tiles = model_step.measure_training(spec, plan, switchback=False, tiles=True)
    assert (tiles["converted"], tiles["parameters"]) == (0, plain["parameters"])
    assert len(plain["seconds"]) == 2 and len(plain["warmup_seconds"]) == 1


def test_tinyllama_s_widths_are_tinyllama_s() -> None:
    from labkit.models.specs import MODELS

    config = MODELS["tinyllama-1.1b"].config
    assert {key: config[key] for key in model_step.TINYLLAMA} == model_step.TINYLLAMA
    assert config["num_hidden_layers"] == model_step.TINYLLAMA_LAYERS
    assert model_step.parameters(model_step.TINYLLAMA, 22) == 1_100_048_384


def test_a_shallow_model_keeps_the_vocabulary_s_share() -> None:
    def share(layers: int) -> float:
        table = (
            model_step.vocabulary(model_step.TINYLLAMA, layers)
            * model_step.TINYLLAMA["hidden_size"]
        )
        return 2 * table / model_step.parameters(model_step.TINYLLAMA, layers)

    whole = 2 * model_step.TINYLLAMA["vocab_size"] * model_step.TINYLLAMA["hidden_size"]
    shrunk = (
        2 * model_step.vocabulary(model_step.TINYLLAMA, 2) * model_step.TINYLLAMA["hidden_size"]
    )
    layers_alone = model_step.parameters(model_step.TINYLLAMA, 2) - shrunk
    assert whole / (whole + layers_alone) > 0.5
    assert share(22) == pytest.approx(1 / 8, abs=0.01)
    assert share(2) == pytest.approx(share(22), rel=0.03)
    assert share(1) == pytest.approx(share(22), rel=0.03)


def test_a_model_that_does_not_fit_is_refused_before_anything_runs() -> None:
    with pytest.raises(LabkitError, match="use fewer --layers"):
        model_step.check_memory({"widths": model_step.TINYLLAMA, "layers": 4000})
