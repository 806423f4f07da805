"""The layer inside what people train with: checkpointing, hooks, compile, PEFT, transformers."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from labkit.errors import LabkitError
from labkit.models.specs import MODELS
from labkit.switchback import SwitchBackLinear, convert
from labkit.switchback.teaching.noise import snr_db


def block(**options) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 24))
    convert(model, min_features=0, **options)
    return model


def gradients(model: nn.Module, run) -> list[torch.Tensor]:
    """Every gradient of a step whose forward is `run(x)`, the input's first."""
    x = torch.randn(6, 24, generator=torch.Generator().manual_seed(1)).requires_grad_()
    model.zero_grad()
    y = run(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad.clone() for p in model.parameters())]


def assert_equal(found: list[torch.Tensor], want: list[torch.Tensor]) -> None:
    assert len(found) == len(want)
    assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))


OPTIONS = [{"weight_scale": s, "save": k} for s in ("row", "tensor") for k in ("16bit", "int8")]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_nothing(options, reentrant):
    model = block(**options)
    want = gradients(model, model)
    assert_equal(gradients(model, lambda x: checkpoint(model, x, use_reentrant=reentrant)), want)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_saved_tensor_hooks_see_everything_that_is_saved(options):
    model = block(**options)
    want = gradients(model, model)
    packed = []

    def pack(tensor: torch.Tensor) -> tuple[int, torch.Tensor]:
        packed.append(tensor.dtype)
        return len(packed), tensor.clone()

    def run(x: torch.Tensor) -> torch.Tensor:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept[1]):
            return model(x)

    assert_equal(gradients(model, run), want)
    assert packed.count(torch.int8) == {"16bit": 0, "int8": 2}[options["save"]] * (
        2 if options["weight_scale"] == "tensor" else 1
    )


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_compile_captures_the_whole_layer_and_changes_nothing(options):
    model = block(**options)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_equal(gradients(model, compiled), gradients(model, model))


def test_compile_with_inductor_agrees_to_rounding():
    model = block()
    want = gradients(model, model)
    found = gradients(model, torch.compile(model, fullgraph=True))
    for a, b in zip(found, want, strict=True):
        assert snr_db(b, a) > 60  # an int8 value may fall to the other side of a tie


def test_autocast_inside_checkpointing():
    model = block()

    def run(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return checkpoint(model, x, use_reentrant=False)

    def plain(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(x)

    assert_equal(gradients(model, run), gradients(model, plain))


def llama(**config) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 99}
    return LlamaForCausalLM(LlamaConfig(**sizes | heads | config))


def test_the_embedded_model_has_210_layers_to_convert():
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**MODELS["smollm2-135m-instruct"].config))
    names = convert(model, min_features=0)
    assert len(names) == 210 == len(set(names))
    assert all(name.startswith("model.layers.") for name in names)
    left = [n for n, m in model.named_modules() if type(m) is nn.Linear]
    assert left == ["lm_head"]


def test_a_converted_model_saves_and_loads_as_the_model_it_was(tmp_path):
    from transformers import LlamaForCausalLM

    model = llama(tie_word_embeddings=True)
    before = copy.deepcopy(model.state_dict())
    convert(model, min_features=0)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in before.items()
    }
    model.save_pretrained(tmp_path)
    loaded = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_convert_chooses_by_width_and_name():
    model = llama()
    assert convert(copy.deepcopy(model), min_features=0, skip=()).count("lm_head") == 1
    names = convert(copy.deepcopy(model), min_features=32)
    assert {n.split(".")[-1] for n in names} == {
        "q_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    names = convert(copy.deepcopy(model), min_features=0, skip=("lm_head", "layers.0", "mlp"))
    assert names == [f"model.layers.1.self_attn.{p}_proj" for p in "qkvo"]
    twice = nn.ModuleDict({"a": nn.Linear(4, 4)})
    twice["b"] = twice["a"]
    assert convert(twice, min_features=0) == ["a", "b"] and twice["a"] is twice["b"]


def test_nothing_to_convert_says_what_would_be():
    with pytest.raises(LabkitError, match=r"min_features=1024, the widest has 32: set min_f.* 32"):
        convert(llama())
    with pytest.raises(LabkitError, match="the model has no nn.Linear outside skip"):
        convert(nn.Sequential(nn.Embedding(4, 4)))
    converted = llama()
    convert(converted, min_features=0)
    with pytest.raises(LabkitError, match="there is nothing to convert"):
        convert(converted, min_features=0)


@pytest.mark.parametrize("first", ["convert", "peft"])
def test_lora_goes_around_the_layer(first):
    from peft import LoraConfig, get_peft_model

    model, config = llama(), LoraConfig(r=4, target_modules="all-linear")
    if first == "convert":
        assert len(convert(model, min_features=0)) == 14
        model = get_peft_model(model, config)
    else:
        model = get_peft_model(model, config)
        names = convert(model, min_features=0)
        assert len(names) == 14 and all(name.endswith(".base_layer") for name in names)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, SwitchBackLinear)}
    assert len(layers) == 14 and all(n.endswith("base_layer") for n in layers)
    adapters = [m for n, m in model.named_modules() if "lora_" in n and isinstance(m, nn.Linear)]
    assert len(adapters) == 28 and all(type(m) is nn.Linear for m in adapters)

    called = []
    for name, module in layers.items():
        module.register_forward_hook(lambda _m, _i, _o, name=name: called.append(name))
    ids = torch.arange(12).reshape(2, 6)
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    assert sorted(called) == sorted(layers), "LoRA's forward runs the int8 forward"
    trained = {n for n, p in model.named_parameters() if p.grad is not None}
    assert trained and all("lora_" in name for name in trained)

    # Merging edits the base weight through .data; the merged layer is ours and computes with it.
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.05)
        model.eval()
        want = model(input_ids=ids).logits
        merged = model.merge_and_unload()
        found = merged(input_ids=ids).logits
    assert sum(isinstance(m, SwitchBackLinear) for m in merged.modules()) == 14
    assert snr_db(want, found) > 20


def test_lora_trains_in_bfloat16_with_float32_adapters():
    from peft import LoraConfig, get_peft_model

    model = llama().bfloat16()
    convert(model, min_features=0)
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    ids = torch.arange(12).reshape(2, 6)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
