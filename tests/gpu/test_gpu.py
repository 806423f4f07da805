"""On a real card: kernels against the reference, a layer, and traced against allocated memory.

`make test-gpu`. Without CUDA the file is skipped as one.
"""

from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("no CUDA device here: tests/gpu needs one", allow_module_level=True)

from labkit.bench.gpu import kernels, memory
from labkit.bench.gpu.card import Card
from labkit.memory.measured import measure
from labkit.memory.settings import StepSettings
from labkit.memory.trace.tracing import trace

CARD = Card()
each_type = pytest.mark.parametrize("dtype", kernels.TYPES)


@each_type
@pytest.mark.parametrize("name", kernels.QUANTIZERS)
def test_integers_are_the_references(name: str, dtype: str) -> None:
    assert kernels._check_quantizer(name, dtype, CARD)["faults"] == []


@each_type
def test_products_are_the_references(dtype: str) -> None:
    assert kernels._check_products(dtype, CARD)["faults"] == []


@each_type
def test_a_layers_output_and_gradients_are_the_references(dtype: str) -> None:
    assert kernels._check_layers(dtype, CARD)["faults"] == []


@pytest.mark.parametrize("choices", [
    {"method": "full"}, {"method": "full", "gradient_checkpointing": True}, {"method": "lora"},
])  # fmt: skip
def test_a_step_allocates_what_its_trace_says(choices: dict[str, Any]) -> None:
    if library := memory.missing(choices):
        pytest.skip(f"{library} is not installed")
    major, minor = torch.cuda.get_device_capability()
    step = StepSettings(
        model="smollm2-135m-instruct", batch_size=2, seq_len=256, target="cuda",
        compute_capability=(major, minor), **choices,
    )  # fmt: skip
    measured = measure(step).peak_bytes
    # The bound of `labkit bench gpu`.
    assert trace(step).peak_bytes == pytest.approx(measured, rel=0.03)
