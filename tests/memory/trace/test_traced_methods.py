"""A real step of every method on every base takes what its trace says, and about its formula."""

import itertools
import statistics
from typing import Any

import pytest

from labkit.errors import LabkitError
from labkit.memory.formula import analytic
from labkit.memory.measured import measure
from labkit.memory.settings import StepSettings
from labkit.memory.trace.tracing import trace

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora", "lora_r": 4},
    "dora": {"method": "lora", "lora_r": 4, "use_dora": True},
    "ia3": {"method": "ia3"},
    "bottleneck": {"method": "bottleneck", "bottleneck_size": 16},
    "llama-adapter": {"method": "llama-adapter"},
    "prefix": {"method": "prefix"},
    "prompt": {"method": "prompt"},
}
STEPS: tuple[dict[str, Any], ...] = (
    {"dtype": "float32", "attention": "eager"},
    {"dtype": "float32", "gradient_checkpointing": True, "cast_adapter_input": False},
    {"dtype": "bfloat16", "adapter_dtype": "float32", "labelled_tokens": 9},
)


def rows(method: str) -> list[StepSettings]:
    found = []
    for base, step in itertools.product(("plain", "8bit", "nf4"), STEPS):
        try:
            found.append(StepSettings(model="tiny-llama", target="cpu", batch_size=4, seq_len=64,
                                      base=base, **METHODS[method], **step))  # fmt: skip
        except LabkitError as error:
            assert "use_dora needs whole" in str(error) or "choose one of the two" in str(error)
    return found


def test_the_grid_is_large_enough() -> None:
    assert sum(len(rows(method)) for method in METHODS) >= 50


@pytest.mark.parametrize("method", METHODS)
def test_traced_is_measured_for_every_method_on_every_base(method: str) -> None:
    errors = []
    for settings in rows(method):
        traced, real = trace(settings).peak_bytes, measure(settings).peak_bytes
        errors.append(abs(traced / real - 1))
    assert statistics.median(errors) <= 0.03
    assert max(errors) <= 0.05


SHORT = {"seq_len": 64, "target_len": 5, "padding": True}
"""An encoder-decoder that writes less than it reads."""


@pytest.mark.parametrize("method", ["full", *(name for name in METHODS if name != "llama-adapter")])
def test_an_encoder_decoder_that_writes_little_is_traced_as_measured(method: str) -> None:
    for step in ({"dtype": "float32"}, {"dtype": "bfloat16", "attention": "eager"}):
        settings = StepSettings(model="tiny-t5", target="cpu", batch_size=4, **SHORT, **step,
                                **METHODS.get(method, {"method": method}))  # fmt: skip
        assert trace(settings).peak_bytes == pytest.approx(measure(settings).peak_bytes, rel=0.02)


@pytest.mark.parametrize("method", ["full", *(name for name in METHODS if name != "llama-adapter")])
def test_its_formula_is_near_its_trace(method: str) -> None:
    """From a target of a few tokens to one as long as the text, at T5-large's widths."""
    chosen = METHODS.get(method, {"method": method})
    for target, again in ((3, False), (512, False), (128, True)):
        try:
            settings = StepSettings(model="t5-large", batch_size=4, seq_len=512, padding=True,
                                    target_len=target, gradient_checkpointing=again,
                                    **chosen)  # fmt: skip
        except LabkitError:
            assert again and method == "prefix"
            continue
        formula, traced = analytic(settings), trace(settings)
        assert formula is not None
        assert formula.total_parameters == traced.total_parameters
        assert formula.trainable_parameters == traced.trainable_parameters
        assert formula.peak_bytes == pytest.approx(traced.peak_bytes, rel=0.08)


@pytest.mark.parametrize("method", METHODS)
def test_the_formula_is_near_the_trace(method: str) -> None:
    """At a real model's widths, where a layer's own bytes are what counts."""
    for again in (False, True):
        try:
            settings = StepSettings(model="smollm2-135m-instruct", target="cpu", batch_size=4,
                                    seq_len=256, gradient_checkpointing=again,
                                    cast_adapter_input=False, **METHODS[method])  # fmt: skip
        except LabkitError:
            assert again and method == "prefix"
            continue
        formula = analytic(settings)
        assert formula is not None
        traced = trace(settings)
        assert formula.trainable_parameters == traced.trainable_parameters
        assert formula.peak_bytes == pytest.approx(traced.peak_bytes, rel=0.08)
