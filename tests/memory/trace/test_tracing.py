"""The trace of some layers stands for that of all, and of a card for code that runs on none."""

import dataclasses

import pytest

from labkit.errors import LabkitError
from labkit.memory.settings import StepSettings
from labkit.memory.trace.tracing import trace


def settings_for(model, **fields):
    given = {"batch_size": 4, "seq_len": 24, "target": "cpu", **fields}
    return StepSettings(model=model, **given)


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("tiny-llama", {"method": "full"}),
        ("tiny-llama", {"method": "lora", "gradient_checkpointing": True}),
        ("tiny-llama", {"method": "full", "optim": "adamw_torch_foreach", "dtype": "float32"}),
        ("tiny-phi", {"method": "lora"}),
        ("tiny-t5", {"method": "full"}),
    ],
)
def test_extrapolated_is_fully_traced(model, fields):
    layers = {"num_layers": 9, "num_decoder_layers": 9} if model == "tiny-t5" else {
        "num_hidden_layers": 9
    }  # fmt: skip
    settings = settings_for(model, config_overrides=layers, **fields)
    short, full = trace(settings), trace(settings, extrapolate=False)
    assert short.traced_layers == (3, 4) and full.traced_layers == (9,)
    assert short.peak_bytes == full.peak_bytes
    assert short.peak.name == full.peak.name
    assert short.parts == full.parts
    assert short.total_parameters == full.total_parameters
    assert short.trainable_parameters == full.trainable_parameters
    assert [name for name, _ in short.timeline()] == [name for name, _ in full.timeline()]
    for (_, one), (_, other) in zip(short.timeline(), full.timeline(), strict=True):
        assert one == other


def test_a_scan_is_extrapolated_along_its_length():
    settings = settings_for("tiny-mamba", method="lora", batch_size=2, seq_len=30)
    short, full = trace(settings), trace(settings, extrapolate=False)
    assert [(w.name, w.peak_bytes) for w in short.windows] == [
        (w.name, w.peak_bytes) for w in full.windows
    ]
    assert short.parts["activations"] == full.parts["activations"]


def test_seventy_billion_parameters_take_no_memory():
    result = trace(StepSettings(model="llama-3-70b", batch_size=1, seq_len=16))
    assert result.total_parameters - result.trainable_parameters == 70_553_706_496
    assert result.parts["weights"] >= 2 * 70_553_706_496


@pytest.mark.parametrize("model", ["smollm2-135m-instruct", "t5-large", "bloom-3b", "phi-1.5"])
def test_tied_and_packed_parameters_are_counted_once_and_in_full(model):
    """Counted on the model's shape, which is compared with the model class elsewhere."""
    from labkit.memory.formula import analytic

    for method in ("full", "lora", "qlora"):
        settings = StepSettings(model=model, method=method, seq_len=32)
        traced, formula = trace(settings), analytic(settings)
        assert traced.total_parameters == formula.total_parameters
        assert traced.trainable_parameters == formula.trainable_parameters


def test_cuda_takes_the_flash_kernel_and_a_cpu_trace_does_not_round():
    cuda = settings_for("tiny-llama", method="lora", target="cuda", lora_dropout=0.5)
    cpu = dataclasses.replace(cuda, target="cpu")
    # A mask of one byte against a factor of two in the input's type, for every adapter.
    kept = trace(cpu).parts["activations"] - trace(cuda).parts["activations"]
    assert kept > 0
    assert trace(cuda).parts["weights"] % 512 == 0


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(LabkitError, match="tiny-llama"):
        trace(settings_for("tiny-lama"))
    with pytest.raises(LabkitError, match="q_proj"):
        trace(settings_for("tiny-llama", lora_target_modules=("q_prj",)))
    with pytest.raises(LabkitError, match="hidden_act"):
        trace(settings_for("tiny-llama", config_overrides={"hiden_act": "gelu"}))
    with pytest.raises(LabkitError, match="encoder-decoder"):
        trace(settings_for("tiny-t5", loss="chunked"))
