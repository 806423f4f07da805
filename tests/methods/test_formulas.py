"""Every method's forward pass against its published formula, written out in `by_hand`."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, FalconConfig, MistralConfig

from labkit import methods
from labkit.errors import LabkitError
from labkit.methods import virtual_tokens
from labkit.models import load
from labkit.runs.config import RunConfig

from . import by_hand

IDS = torch.tensor([[5, 17, 300, 4, 99, 250, 31, 8], [9, 9, 41, 640, 2, 77, 500, 1]])


def attached(folder: Path, method: str, **settings: Any) -> nn.Module:
    """Return the tiny model with a method whose added weights are random numbers.

    The base is four times as large as it starts, so that attention is not flat.
    """
    torch.manual_seed(0)
    base = load.load_model(folder, dtype="float32")
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if "proj" in name:
                parameter.mul_(4)
        config = RunConfig(method=method, dtype="float32", **settings)
        model = methods.METHODS[method].attach(base, config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def base_weights(folder: Path) -> tuple[dict[str, torch.Tensor], Any]:
    model = load.load_model(folder, dtype="float32")
    weights = dict(model.state_dict())
    return {k: 4 * v if "proj" in k else v for k, v in weights.items()}, model.config


def assert_by_hand(model: nn.Module, folder: Path, **changes: Any) -> None:
    """Compare logits with those written out, and see that the change is no small one."""
    weights, config = base_weights(folder)
    with torch.no_grad():
        exact = by_hand.llama(weights, config, IDS, **changes)
        found = model(input_ids=IDS).logits[:, virtual_tokens.rows(model) :]
        base = by_hand.llama(weights, config, IDS)
    torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-5)
    assert (exact - base).abs().max() > 1e-2


def test_the_model_by_hand_is_the_model(tiny_llama: Path) -> None:
    model = load.load_model(tiny_llama, dtype="float32")
    with torch.no_grad():
        exact = by_hand.llama(dict(model.state_dict()), model.config, IDS)
        torch.testing.assert_close(model(input_ids=IDS).logits, exact, rtol=1e-5, atol=1e-5)


def part(model: nn.Module, layer: str, name: str) -> torch.Tensor:
    """Return an added weight of a layer, by the name that PEFT gives it."""
    found: nn.Module = model.get_base_model().get_submodule(layer).get_submodule(name)
    return found.weight if hasattr(found, "weight") else found.default


@pytest.mark.parametrize(
    "settings", [{}, {"use_rslora": True}, {"use_dora": True}], ids=["lora", "rslora", "dora"]
)
def test_lora_and_its_variants(tiny_llama: Path, settings: dict[str, bool]) -> None:
    model = attached(tiny_llama, "lora", r=4, lora_alpha=6, **settings)
    weights, _ = base_weights(tiny_llama)
    scale = 6 / 2 if "use_rslora" in settings else 6 / 4

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        a, b = (part(model, name, f"lora_{x}.default") for x in "AB")
        weight = weights[f"{name}.weight"] + scale * b @ a
        if "use_dora" in settings:
            lengths = part(model, name, "lora_magnitude_vector.default")
            weight = lengths[:, None] * weight / weight.norm(dim=1, keepdim=True)
        return x @ weight.T

    assert_by_hand(model, tiny_llama, linear=linear)


def test_dora_counts_its_norm_as_a_constant(tiny_llama: Path) -> None:
    """Liu et al. 2024, section 4.3; and each gradient is that of the formula."""
    model = attached(tiny_llama, "lora", r=4, lora_alpha=6, use_dora=True)
    weights, config = base_weights(tiny_llama)
    added = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        a, b = (part(model, name, f"lora_{x}.default") for x in "AB")
        weight = weights[f"{name}.weight"] + 1.5 * b @ a
        lengths = part(model, name, "lora_magnitude_vector.default")
        return x @ (lengths[:, None] * weight / weight.norm(dim=1, keepdim=True).detach()).T

    def gradients(logits: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = F.cross_entropy(logits.flatten(0, 1), IDS.roll(-1).flatten())
        return dict(zip(added, torch.autograd.grad(loss, list(added.values())), strict=True))

    exact = gradients(by_hand.llama(weights, config, IDS, linear=linear))
    found = gradients(model(input_ids=IDS).logits)
    for name, gradient in exact.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_ia3(tiny_llama: Path) -> None:
    model = attached(tiny_llama, "ia3")
    plain = by_hand.plain(base_weights(tiny_llama)[0])

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        leaf = name.rsplit(".", 1)[-1]
        if leaf in ("k_proj", "v_proj"):
            return part(model, name, "ia3_l").flatten() * plain(name, x)
        if leaf == "down_proj":
            return plain(name, part(model, name, "ia3_l").flatten() * x)
        return plain(name, x)

    assert_by_hand(model, tiny_llama, linear=linear)


def test_bottleneck(tiny_llama: Path) -> None:
    model = attached(tiny_llama, "bottleneck", bottleneck_size=8)
    plain = by_hand.plain(base_weights(tiny_llama)[0])

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        y = plain(name, x)
        if name.endswith(("o_proj", "down_proj")):
            layer = model.get_base_model().get_submodule(name)
            down, up = layer.bottleneck_down.default, layer.bottleneck_up.default
            y = y + F.gelu(y @ down.weight.T + down.bias) @ up.weight.T + up.bias
        return y

    assert_by_hand(model, tiny_llama, linear=linear)


def test_bottleneck_after_attention_alone(tiny_llama: Path) -> None:
    model = attached(tiny_llama, "bottleneck", bottleneck_after=("attention",))
    places = {n.split(".bottleneck")[0].rsplit(".", 1)[-1] for n, _ in model.named_parameters()
              if "bottleneck" in n}  # fmt: skip
    assert places == {"o_proj"}


@pytest.mark.parametrize("upper", [0, 1])
def test_llama_adapter(tiny_llama: Path, upper: int) -> None:
    model = attached(tiny_llama, "llama-adapter", adapter_len=3, adapter_layers=upper)
    _, config = base_weights(tiny_llama)
    gated = []
    for layer in model.get_base_model().model.layers:
        attention = layer.self_attn
        if hasattr(attention, "adaption_prompt"):
            gated.append((attention.adaption_prompt[0], attention.adaption_gate))
        else:
            gated.append((torch.zeros(1, config.hidden_size), torch.zeros(1)))
    assert sum(bool(gate) for _, gate in gated) == (upper or 2)
    assert_by_hand(model, tiny_llama, gated=gated)


def test_prompt(tiny_llama: Path) -> None:
    model = attached(tiny_llama, "prompt", num_virtual_tokens=3)
    table = model.prompt_encoder["default"].embedding.weight
    assert table.shape == (3, 64)
    assert_by_hand(model, tiny_llama, prompt_NE=table)


def test_prefix(tiny_llama: Path) -> None:
    model = attached(tiny_llama, "prefix", num_virtual_tokens=3)
    table = model.prompt_encoder["default"].embedding.weight
    # A row a token: keys, then values of each of 2 layers, 2 heads of 16.
    tokens = table.view(3, 2, 2, 2, 16).permute(1, 2, 3, 0, 4)
    assert_by_hand(model, tiny_llama, prefix=[(layer[0], layer[1]) for layer in tokens])


SIZES = {"vocab_size": 800, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize("window", [None, 3])
def test_a_prefix_begins_as_the_keys_and_values_of_tokens(
    tiny_llama: Path, tmp_path: Path, window: int | None
) -> None:
    """Then it does what those tokens do in front of the text, whatever they are."""
    torch.manual_seed(3)
    if window:
        config = MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=window)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
        tiny_llama = tmp_path
    base = load.load_model(tiny_llama, dtype="float32")
    config = RunConfig(method="prefix", dtype="float32", num_virtual_tokens=3)
    state = torch.get_rng_state()
    drawn = []
    draw = torch.randint
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randint", lambda *a, **k: drawn.append(draw(*a, **k)) or drawn[-1])
        model = methods.METHODS["prefix"].attach(base, config)
    assert not torch.equal(state, torch.get_rng_state())
    (tokens,) = drawn
    text = torch.cat([tokens.expand(len(IDS), -1), IDS], dim=1)
    plain = load.load_model(tiny_llama, dtype="float32")
    with torch.no_grad():
        torch.testing.assert_close(
            model(input_ids=IDS).logits, plain(input_ids=text).logits[:, 3:], rtol=1e-5, atol=1e-5
        )


def test_a_prefix_of_another_size_than_the_keys_is_refused(tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(FalconConfig(**SIZES)).save_pretrained(tmp_path)
    base = load.load_model(tmp_path, dtype="float32")
    with pytest.raises(LabkitError, match="falcon has 32 keys and values .* of 128: use another"):
        methods.METHODS["prefix"].attach(base, RunConfig(method="prefix", num_virtual_tokens=3))
