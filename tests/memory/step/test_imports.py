"""What is left out of the imports is not missing afterwards."""

import copy
import subprocess
import sys

import pytest
import torch

from labkit.memory.settings import StepSettings
from labkit.memory.step import imports
from labkit.memory.step.build import load_config

AFTERWARDS = """
import functools, gc, inspect, sys
before = functools.lru_cache, inspect.getframeinfo
from labkit.memory.step.imports import import_libraries
import_libraries()
for heavy in ("scipy.optimize", "torch._inductor.compile_fx"):
    assert heavy not in sys.modules, heavy
for needed in ("torch", "transformers.modeling_utils", "bitsandbytes", "peft"):
    assert needed in sys.modules, needed
import torch
assert (functools.lru_cache, inspect.getframeinfo) == before
assert torch.compile.__module__ == "torch" and gc.isenabled()

from transformers.loss.loss_for_object_detection import linear_sum_assignment
rows, columns = linear_sum_assignment([[2.0, 1.0], [1.0, 2.0]])
assert list(columns) == [1, 0]
import scipy.optimize
assert scipy.optimize.minimize_scalar(lambda x: (x - 2) ** 2).x

import bitsandbytes.functional as bnb
x = torch.randn(4, 64)
packed, state = bnb.quantize_4bit(x, quant_type="nf4")
assert (bnb.dequantize_4bit(packed, state) - x).abs().max() < 1
from bitsandbytes.backends.default import ops
assert any(hasattr(value, "__wrapped__") for value in vars(ops).values())
"""


def test_libraries_are_whole_after_the_import():
    ended = subprocess.run([sys.executable, "-c", AFTERWARDS], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("architecture", imports.PLAIN)
def test_former_names_change_no_adapter_of_a_plain_architecture(architecture):
    import peft
    import transformers
    from peft.utils import transformers_weight_conversion as conversion

    config = load_config(StepSettings(model=f"tiny-{architecture}"))
    assert config.model_type == architecture
    auto = transformers.AutoModelForCausalLM
    if config.is_encoder_decoder:
        auto = transformers.AutoModelForSeq2SeqLM
    with torch.device("meta"):
        model = auto.from_config(config)
    names = {name.rpartition(".")[2] for name, each in model.named_modules() if "." in name}
    settings = peft.LoraConfig(r=16, target_modules=sorted(names))
    before = copy.deepcopy(settings.to_dict())
    names = conversion.get_model_conversion_mapping(model)
    conversion.convert_peft_config_for_transformers(settings, model=model, conversions=names)
    assert names and settings.to_dict() == before


def test_a_function_is_compiled_when_it_is_called_and_once():
    compiled = []

    def compile_(function, **options):
        compiled.append(options)
        return lambda x: function(x) + 1

    for wrap in (
        lambda f: imports._at_first_call(compile_, f, dynamic=True),
        lambda f: imports._at_first_call(compile_, dynamic=True)(f),
    ):
        compiled.clear()
        function = wrap(lambda x: 10 * x)
        assert compiled == []
        assert [function(1), function(2)] == [11, 21] and compiled == [{"dynamic": True}]
