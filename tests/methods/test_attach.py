"""Methods against what they promise: the same first forward, the count by hand, an exact merge."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn

from labkit import methods
from labkit.errors import LabkitError
from labkit.memory.formula import analytic
from labkit.memory.settings import StepSettings
from labkit.methods.base import attach_by_peft
from labkit.models import load
from labkit.models.layers import count_parameters
from labkit.runs.config import RunConfig

TokenIds = torch.tensor([[5, 17, 300, 4, 99, 250, 31, 8]])


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=TokenIds).logits


def lora(folder: Path, **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    config = RunConfig(**{"dtype": "float32", "r": 4, "lora_alpha": 8, **changes})
    model = load.load_model(folder, dtype=methods.weights_dtype(config))
    return methods.METHODS["lora"].attach(model, config)


def fill_b(model: nn.Module) -> None:
    """Give B, which starts at zero, random numbers, so that the adapter does something."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=generator)


@pytest.mark.parametrize(
    "name", ["tiny-llama", "tiny-gemma", "tiny-phi", "tiny-bloom", "tiny-mamba"]
)
def test_lora_starts_as_the_base_model(tiny_model: Callable[[str], Path], name: str) -> None:
    base = load.load_model(tiny_model(name), dtype="float32")
    adapted = lora(tiny_model(name))
    assert torch.equal(logits(adapted), logits(base))
    fill_b(adapted)
    assert not torch.allclose(logits(adapted), logits(base), atol=1e-3)


TARGETS = {
    "all-linear": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "q_proj,v_proj": ("q_proj", "v_proj"),
    "self_attn.o_proj": ("o_proj",),
}


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("r", [1, 7])
def test_trainable_is_r_times_in_plus_out_over_the_targets(
    tiny_llama: Path, targets: str, r: int
) -> None:
    # By hand from the configuration: width 64, MLP 160, 4 heads of 16, 2 key-value heads, 2 layers.
    shapes = {
        "q_proj": (64, 64), "k_proj": (64, 32), "v_proj": (64, 32), "o_proj": (64, 64),
        "gate_proj": (64, 160), "up_proj": (64, 160), "down_proj": (160, 64),
    }  # fmt: skip
    expected = 2 * sum(r * sum(shapes[name]) for name in TARGETS[targets])
    model = lora(tiny_llama, r=r, target_modules=tuple(targets.split(",")))
    trainable, total = count_parameters(model)
    per_layer = sum(a * b for a, b in shapes.values()) + 2 * 64
    base = 2 * per_layer + 768 * 64 + 64  # embeddings are tied to the head, one last norm
    assert (trainable, total) == (expected, base + expected)


def test_full_trains_every_weight_in_float32(tiny_llama: Path) -> None:
    config = RunConfig(method="full", dtype="bfloat16")
    assert methods.weights_dtype(config) == "float32"
    model = load.load_model(tiny_llama, dtype=methods.weights_dtype(config))
    model = methods.METHODS["full"].attach(model, config)
    trainable, total = count_parameters(model)
    assert trainable == total == sum(p.numel() for p in set(model.parameters()))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_lora_keeps_a_bfloat16_base_and_float32_adapters(tiny_llama: Path) -> None:
    model = lora(tiny_llama, dtype="bfloat16")
    types = {p.requires_grad: set() for p in model.parameters()}
    for parameter in model.parameters():
        types[parameter.requires_grad].add(parameter.dtype)
    assert types == {True: {torch.float32}, False: {torch.bfloat16}}
    # The forward pass needs autocast then, as the trainer has it.
    with torch.autocast("cpu", torch.bfloat16):
        assert logits(model).isfinite().all()


@pytest.mark.parametrize("use_rslora", [False, True])
def test_merge_is_the_unmerged_forward(tiny_llama: Path, use_rslora: bool) -> None:
    model = lora(tiny_llama, use_rslora=use_rslora)
    fill_b(model)
    before = logits(model)
    name = "model.layers.1.mlp.up_proj"
    layer = model.get_base_model().get_submodule(name)
    a, b = (layer.get_submodule(f"lora_{x}.default").weight for x in "AB")
    scale = 8 / 4**0.5 if use_rslora else 8 / 4
    weight = layer.base_layer.weight + scale * b @ a
    merged = methods.merge(copy.deepcopy(model))
    torch.testing.assert_close(merged.get_submodule(name).weight, weight)
    torch.testing.assert_close(logits(merged), before, rtol=1e-5, atol=1e-5)
    assert not hasattr(merged, "peft_config")
    assert (
        count_parameters(merged)[1]
        == count_parameters(load.load_model(tiny_llama, dtype="float32"))[1]
    )


def test_a_model_without_an_adapter_cannot_be_merged(tiny_llama: Path) -> None:
    with pytest.raises(LabkitError, match="no adapter to merge"):
        methods.merge(load.load_model(tiny_llama))


@pytest.mark.parametrize(
    ("target", "hint"),
    [("qproj", "q_proj"), ("up_prj", "up_proj"), ("all_linear", "all-linear"), ("lm_head", "")],
)
def test_a_target_the_model_does_not_have_names_the_nearest(
    tiny_llama: Path, target: str, hint: str
) -> None:
    with pytest.raises(LabkitError, match=f"target_modules: .* no linear layer '{target}'.*{hint}"):
        lora(tiny_llama, target_modules=("q_proj", target))


def test_dropout_changes_training_and_not_inference(tiny_llama: Path) -> None:
    model = lora(tiny_llama, lora_dropout=0.5)
    fill_b(model)
    assert torch.equal(logits(model.eval()), logits(model))
    assert not torch.equal(logits(model.train()), logits(model))


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_bias_trains_biases_too(tiny_model: Callable[[str], Path], bias: str) -> None:
    without = {n for n, p in lora(tiny_model("tiny-phi")).named_parameters() if p.requires_grad}
    model = lora(tiny_model("tiny-phi"), bias=bias, target_modules=("q_proj",))
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    biases = {n for n in trained if n.endswith("bias")}
    assert not any(n.endswith("bias") for n in without)
    assert biases
    assert all("q_proj" in n for n in biases) == (bias == "lora_only")


@pytest.mark.parametrize("start", ["gaussian", "pissa", "olora"])
def test_other_starts_still_begin_at_the_base_model(tiny_llama: Path, start: str) -> None:
    base = logits(load.load_model(tiny_llama, dtype="float32"))
    torch.testing.assert_close(
        logits(lora(tiny_llama, init_lora_weights=start)), base, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(("bits", "levels"), [(4, 16), (8, 255)])
@pytest.mark.parametrize("use_rslora", [False, True])
def test_loftq_comes_nearer_to_the_weight_with_each_turn(
    tiny_llama: Path, bits: int, levels: int, use_rslora: bool
) -> None:
    """The base holds quantised weights, and what the adapter adds is what that lost."""
    name = "model.layers.0.mlp.down_proj"
    exact = load.load_model(tiny_llama, dtype="float32").get_submodule(name).weight
    alone, errors = [], []
    for turns in (1, 5):
        model = lora(tiny_llama, init_lora_weights="loftq", r=16, lora_alpha=48,
                     use_rslora=use_rslora,
                     loftq_config={"loftq_bits": bits, "loftq_iter": turns})  # fmt: skip
        layer = model.get_base_model().get_submodule(name)
        quantised = layer.base_layer.weight
        a, b = (layer.get_submodule(f"lora_{x}.default").weight for x in "AB")
        scale = 48 / (4 if use_rslora else 16)
        alone.append((exact - quantised).norm())
        errors.append((exact - quantised - scale * b @ a).norm())
        # One scale per 64 numbers in 4 bits, one per row in 8: no more values than levels in each.
        blocks = quantised.reshape(-1, 64) if bits == 4 else quantised
        assert all(len(row.unique()) <= levels for row in blocks)
    assert errors[1] < errors[0] < alone[0]


def test_loftq_in_three_bits_is_refused(tiny_llama: Path) -> None:
    with pytest.raises(LabkitError, match="loftq_bits must be 4 or 8, got 3"):
        lora(tiny_llama, init_lora_weights="loftq", loftq_config={"loftq_bits": 3})


def adapted_leaves(model: nn.Module) -> set[str]:
    names = [name for name, _ in model.named_parameters() if "lora_A" in name]
    return {name.split(".lora_A")[0].rsplit(".", 1)[-1] for name in names}


def test_mamba_s_scan_never_runs_an_adapter_beside_dt_proj(
    tiny_model: Callable[[str], Path],
) -> None:
    """PEFT alone puts one there, and it cannot learn: the scan reads the weight of the layer."""
    model = load.load_model(tiny_model("tiny-mamba"), dtype="float32")
    config = peft.LoraConfig(target_modules=["in_proj", "dt_proj"], r=4, task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config)
    model(input_ids=TokenIds, labels=TokenIds).loss.backward()
    learns = {}
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            leaf = name.split(".lora_B")[0].rsplit(".", 1)[-1]
            gradient = parameter.grad
            learns.setdefault(leaf, set()).add(gradient is not None and bool(gradient.any()))
    assert learns == {"in_proj": {True}, "dt_proj": {False}}


def test_training_and_memory_adapt_the_same_layers_of_mamba(
    tiny_model: Callable[[str], Path],
) -> None:
    model = lora(tiny_model("tiny-mamba"))
    assert adapted_leaves(model) == {"in_proj", "x_proj"}
    formula = analytic(StepSettings(model="tiny-mamba", lora_r=4))
    assert formula is not None
    assert count_parameters(model)[0] == formula.trainable_parameters


@pytest.mark.parametrize("target", ["out_proj", "dt_proj"])
def test_a_layer_that_mamba_s_scan_reads_past_is_refused_by_name(
    tiny_model: Callable[[str], Path], target: str
) -> None:
    message = f"target_modules: LoRA cannot be attached to {target}.*choose from in_proj, x_proj"
    with pytest.raises(LabkitError, match=message):
        lora(tiny_model("tiny-mamba"), target_modules=("in_proj", target))
    with pytest.raises(LabkitError, match=f"lora_{message}"):
        analytic(StepSettings(model="tiny-mamba", lora_target_modules=("in_proj", target)))


def test_what_peft_refuses_is_one_sentence(tiny_llama: Path) -> None:
    config = peft.LoraConfig(target_modules=["nothing_of_that_name"])
    with pytest.raises(LabkitError, match="LoRA cannot be attached: .*nothing_of_that") as caught:
        attach_by_peft(load.load_model(tiny_llama), config, what="LoRA")
    assert "\n" not in str(caught.value)
