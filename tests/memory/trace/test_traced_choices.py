"""The trace against the real allocator, to the byte, for every choice that changes memory."""

import pytest

from labkit.errors import LabkitError
from labkit.memory.measured import measure
from labkit.memory.settings import StepSettings
from labkit.memory.trace.tracing import trace


def settings_for(model, **fields):
    given = {"batch_size": 4, "seq_len": 24, "target": "cpu", **fields}
    return StepSettings(model=model, **given)


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "full", "optim": "adamw_torch_foreach"},
        {"method": "full", "optim": "adamw_torch_loop"},
        {"method": "full", "optim": "adafactor"},
        {"method": "full", "gradient_accumulation_steps": 4},
        {"method": "full", "dtype": "float32"},
        {"attention": "eager"},
        {"padding": True},
        {"labelled_tokens": 5},
        {"loss": "chunked"},
        {"lora_dropout": 0.1, "cast_adapter_input": False},
        {"adapter_dtype": "bfloat16", "lora_target_modules": ("q_proj", "v_proj")},
        {"method": "prefix"},
        {"method": "prompt"},
        {"method": "qlora"},
    ],
    ids=lambda fields: "-".join(map(str, fields.values())),
)
def test_traced_is_measured_for_every_choice(fields):
    settings = settings_for("tiny-llama", **fields)
    traced, real = trace(settings).peak_bytes, measure(settings).peak_bytes
    assert abs(traced / real - 1) <= 0.03


def test_phases_and_parts_agree_too():
    settings = settings_for("tiny-llama", method="full", batch_size=8, seq_len=64)
    traced, real = trace(settings), measure(settings)
    for window in traced.windows:
        assert abs(window.peak_bytes - real.phases[window.name]) <= 0.05 * real.peak_bytes
    for part in ("weights", "optimizer_state"):
        assert traced.parts[part] == real.parts[part]


def test_measuring_on_a_card_that_is_not_there_says_so():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(LabkitError, match="no CUDA device"):
        measure(settings_for("tiny-llama", target="cuda"))
