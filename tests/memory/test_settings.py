"""Bad input is refused in one sentence that names what is wrong and what would be right."""

from typing import Any

import pytest

from labkit.errors import LabkitError
from labkit.memory.formula import analytic
from labkit.memory.settings import StepSettings


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"method": "lorra"}, "did you mean 'lora'"),
        ({"optim": "adamw_torch_fuse"}, "adamw_torch_fused"),
        ({"sharding": "zero4", "num_gpus": 2}, "zero1"),
        ({"dtype": "bf8"}, "dtype 'bf8' is unknown"),
        ({"batch_size": 0}, "batch_size must be a whole number above 0"),
        ({"seq_len": 1.5}, "seq_len must be a whole number"),
        ({"batch_size": True}, "batch_size"),
        ({"lora_dropout": 1.0}, "lora_dropout"),
        ({"lora_target_modules": ""}, "lora_target_modules is empty"),
        ({"labelled_tokens": 2000}, "labelled_tokens must be between 1 and seq_len"),
        ({"method": "prefix", "gradient_checkpointing": True}, "choose one of the two"),
        ({"sharding": "zero2"}, "set num_gpus to 2 or more"),
        ({"sharding": "fsdp2", "num_gpus": 4, "method": "qlora"}, "quantised weights are not"),
        ({"sharding": "zero1", "num_gpus": 2, "optim": "adafactor"}, "adamw_torch_fused or sgd"),
        ({"method": "lora", "master_weights": True}, "full fine-tuning"),
        (
            {"method": "full", "master_weights": False, "sharding": "zero3", "num_gpus": 4},
            "set sharding to fsdp2",
        ),
    ],
)
def test_one_sentence_for_each_mistake(fields, sentence):
    with pytest.raises(LabkitError, match=sentence) as raised:
        StepSettings(model="tiny-llama", **fields)
    assert "\n" not in str(raised.value)


def test_names_used_elsewhere_mean_the_same_thing():
    settings = StepSettings(
        model="tiny-llama", method="int8", optim="paged_adamw_8bit", dtype="bf16",
        lora_target_modules="q_proj, v_proj",
    )  # fmt: skip
    assert settings.method == "8bit"
    assert settings.optim == "adamw_bnb_8bit"
    assert settings.dtype == "bfloat16"
    assert settings.lora_target_modules == ("q_proj", "v_proj")


@pytest.mark.parametrize(
    ("fields", "autocast", "weights", "added"),
    [
        ({"method": "full"}, True, "float32", "float32"),
        ({"method": "full", "master_weights": False}, False, "bfloat16", "float32"),
        ({"method": "full", "dtype": "float32"}, False, "float32", "float32"),
        ({"method": "lora"}, True, "bfloat16", "float32"),
        ({"method": "lora", "adapter_dtype": "bfloat16"}, False, "bfloat16", "bfloat16"),
        ({"method": "qlora"}, False, "bfloat16", "bfloat16"),
    ],
)
def test_types_follow_from_method_and_compute_type(fields, autocast, weights, added):
    settings = StepSettings(model="tiny-llama", **fields)
    assert settings.autocast is autocast
    assert settings.weight_dtype == weights
    assert settings.added_dtype == added


def test_adamw_torch_is_foreach_on_cuda_and_the_loop_on_a_cpu():
    settings = {"model": "tiny-llama", "optim": "adamw_torch"}
    assert StepSettings(**settings).optimizer_kind == "adamw_torch_foreach"
    assert StepSettings(**settings, target="cpu").optimizer_kind == "adamw_torch_loop"


@pytest.mark.parametrize(("method", "base", "name"), [
    ("lora", "nf4", "qlora"), ("lora", "8bit", "8bit"), ("lora", "plain", "lora"),
    ("qlora", "nf4", "qlora"), ("full", "plain", "full"),
])  # fmt: skip
def test_a_method_on_a_base_is_what_its_name_says(method: str, base: str, name: str) -> None:
    assert StepSettings(model="tiny-llama", method=method, base=base) == StepSettings(
        model="tiny-llama", method=name
    )


def test_the_base_is_an_axis_of_its_own() -> None:
    """A prompt on nf4 holds the weights that QLoRA does, and trains what a prompt does."""
    prompt, both, qlora = (
        analytic(StepSettings(model="llama-3-8b", **choices))
        for choices in ({"method": "prompt"}, {"method": "prompt", "base": "nf4"},
                        {"method": "qlora"})
    )  # fmt: skip
    assert prompt and both and qlora
    assert both.parts["weights"] == qlora.parts["weights"] < prompt.parts["weights"]
    assert both.trainable_parameters == prompt.trainable_parameters


@pytest.mark.parametrize(("choices", "message"), [
    ({"method": "full", "base": "nf4"}, "full trains the pretrained weights, .* as nf4"),
    ({"method": "qlora", "base": "8bit"}, "qlora is lora on nf4, not on 8bit"),
    ({"method": "lora", "base": "nf5"}, "base 'nf5' is unknown: did you mean 'nf4'"),
])  # fmt: skip
def test_a_base_that_does_not_go_with_the_rest_is_refused(
    choices: dict[str, Any], message: str
) -> None:
    with pytest.raises(LabkitError, match=message):
        StepSettings(model="tiny-llama", **choices)


@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_adafactor_keeps_a_row_and_a_column_of_what_is_trained(method: str) -> None:
    """Not of adapters that are not there: 20 virtual tokens of 2 layers · 2 · 32, or of 64."""
    columns = {"prefix": 2 * 2 * 32, "prompt": 64}[method]
    found = analytic(StepSettings(model="tiny-llama", method=method, optim="adafactor"))
    assert found is not None
    assert found.parts["optimizer_state"] == 4 * (20 + columns)
