"""Quantised layers hold what bitsandbytes holds and compute what it computes."""

import pytest
import torch

from labkit.console import quiet_bitsandbytes

quiet_bitsandbytes()
functional = pytest.importorskip("bitsandbytes.functional")


@pytest.mark.parametrize("double_quant", [True, False])
def test_nf4_layer_has_the_sizes_of_the_library_and_its_result(double_quant):
    from labkit.memory.step.quantised import NF4Linear

    linear = torch.nn.Linear(256, 512, bias=False, dtype=torch.bfloat16)
    packed, state = functional.quantize_4bit(
        linear.weight.data, quant_type="nf4", compress_statistics=double_quant, blocksize=64
    )
    layer = NF4Linear(linear, double_quant=double_quant)
    assert layer.weight.shape == packed.shape and layer.weight.dtype == packed.dtype
    assert layer.absmax.numel() == state.absmax.numel()
    assert layer.absmax.dtype == state.absmax.dtype
    layer.weight.data.copy_(packed)
    layer.absmax.copy_(state.absmax)
    layer.code.copy_(state.code)
    if double_quant:
        assert layer.nested_absmax.numel() == state.state2.absmax.numel()
        layer.nested_absmax.copy_(state.state2.absmax)
        layer.nested_code.copy_(state.state2.code)
        layer.offset.copy_(state.offset)
    x = torch.randn(4, 8, 256, dtype=torch.bfloat16)
    reference = x @ functional.dequantize_4bit(packed, state).t()
    assert torch.allclose(layer(x).float(), reference.float(), atol=0.05, rtol=0.02)
    # What DoRA's norm asks for, as PEFT asks for it.
    from peft.utils.integrations import dequantize_module_weight

    assert torch.equal(dequantize_module_weight(layer), functional.dequantize_4bit(packed, state))


def test_int8_layer_computes_the_product_of_its_rows():
    from labkit.memory.step.quantised import Int8Linear

    linear = torch.nn.Linear(64, 96, bias=False, dtype=torch.bfloat16)
    layer = Int8Linear(linear)
    quantised, absmax, _ = functional.int8_vectorwise_quant(linear.weight.data.half())
    layer.weight.data.copy_(quantised)
    layer.row_absmax.copy_(absmax)
    x = torch.randn(2, 4, 64, dtype=torch.bfloat16)
    difference = (layer(x).float() - linear(x).float()).abs().max()
    assert difference < 0.03 * linear(x).float().abs().max()


def test_head_and_layers_kept_for_their_range_stay_as_they_are():
    from labkit.memory.settings import StepSettings
    from labkit.memory.step.build import build_step, load_config
    from labkit.memory.step.quantised import NF4Linear

    for model, kept in (("tiny-llama", "lm_head"), ("tiny-t5", "wo")):
        settings = StepSettings(model=model, method="qlora", target="cpu")
        step = build_step(
            settings,
            load_config(settings),
            lambda shape, dtype: torch.zeros(tuple(shape), dtype=dtype),
        )
        linear = {
            name.removesuffix(".base_layer").rpartition(".")[2]: module
            for name, module in step.model.named_modules()
            if isinstance(module, torch.nn.Linear) and "lora_" not in name
        }
        assert not isinstance(linear[kept], NF4Linear)
        assert sum(isinstance(module, NF4Linear) for module in linear.values()) > 3
