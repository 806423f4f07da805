"""The trace against the real allocator, to the byte, for every architecture."""

import statistics

import pytest
import torch
from torch import _meta_registrations as registered
from transformers import MixtralConfig

from labkit.memory.measured import measure
from labkit.memory.settings import StepSettings
from labkit.memory.trace.products import in_every_type
from labkit.memory.trace.tracing import trace


@pytest.mark.parametrize(
    "model", ["tiny-llama", "tiny-gemma", "tiny-phi", "tiny-bloom", "tiny-t5", "tiny-mamba"]
)
def test_traced_is_measured(model):
    errors = []
    length = 8 if model == "tiny-mamba" else 24  # a scan in Python takes its time
    for method, checkpointing in (("full", False), ("lora", True)):
        settings = StepSettings(
            model=model, method=method, gradient_checkpointing=checkpointing,
            batch_size=4, seq_len=length, target="cpu",
        )  # fmt: skip
        traced, real = trace(settings).peak_bytes, measure(settings).peak_bytes
        errors.append(abs(traced / real - 1))
    assert statistics.median(errors) <= 0.03
    assert max(errors) <= 0.05


@pytest.mark.parametrize(("method", "dtype"), [
    ("lora", "bfloat16"), ("lora", "float32"), ("full", "bfloat16"), ("full", "float32"),
])  # fmt: skip
def test_experts_are_traced_in_every_type(tmp_path, method, dtype):
    MixtralConfig(
        vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
    ).save_pretrained(tmp_path)  # fmt: skip
    settings = StepSettings(
        model=str(tmp_path), method=method, dtype=dtype, batch_size=2, seq_len=32, target="cpu"
    )
    assert trace(settings).peak_bytes == pytest.approx(measure(settings).peak_bytes, rel=0.03)


def test_a_torch_without_that_rule_is_left_alone(monkeypatch):
    monkeypatch.delattr(registered, "_meta_grouped_mm_common")
    before = dict(vars(registered))
    with in_every_type():
        assert vars(registered) == before
    assert vars(registered) == before


def test_the_rule_for_their_shapes_is_the_product_s():
    rows, ends = torch.ones(6, 16), torch.tensor([2, 6], dtype=torch.int32)
    weights = torch.ones(2, 16, 24)
    with in_every_type(), torch.device("meta"):
        for a, b in ((rows, weights), (rows.T, torch.ones(6, 24)), (weights[:, :, :16], rows.T)):
            real = torch.nn.functional.grouped_mm(a, b, offs=ends)
            given = [each.to("meta") for each in (a, b, ends)]
            found = torch.nn.functional.grouped_mm(given[0], given[1], offs=given[2])
            assert (found.shape, found.dtype) == (real.shape, real.dtype)
