"""The trace against the real allocator, to the byte, for every choice that changes memory."""

import pytest

from labkit.errors import LabkitError
from labkit.memory.architectures import shape_of
from labkit.memory.formula import analytic
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
        {"method": "full", "hold_logits": True},
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


def test_logits_that_a_loop_holds_are_there_in_the_backward_pass():
    without, held = (settings_for("tiny-llama", method="full", seq_len=256, hold_logits=each)
                     for each in (False, True))  # fmt: skip
    shape = shape_of(held)
    size = 4 * held.batch_size * (held.seq_len - 1) * shape.vocab
    assert trace(without).peak.name == trace(held).peak.name == "backward.head"
    difference = trace(held).peak_bytes - trace(without).peak_bytes
    assert difference == pytest.approx(size, rel=0.02)
    assert analytic(held).peak_bytes - analytic(without).peak_bytes == pytest.approx(size, rel=0.02)


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
