"""A step of preference tuning: formula, trace and a real one, for every reference."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labkit.errors import LabkitError
from labkit.memory.estimates import estimate_run
from labkit.memory.formula import analytic
from labkit.memory.measured import measure
from labkit.memory.of_run import of_run
from labkit.memory.settings import StepSettings
from labkit.memory.trace.tracing import trace
from labkit.runs.config import RunConfig
from labkit.train.run import train

REFERENCES = ("adapter_off", "copy", "precomputed")
ROWS = [
    (method, reference)
    for method, reference in itertools.product(("lora", "full"), REFERENCES)
    if (method, reference) != ("full", "adapter_off")
]


def settings_for(method: str, reference: str, **changes: Any) -> StepSettings:
    given: dict[str, Any] = {
        "model": "tiny-llama", "method": method, "reference": reference, "batch_size": 4,
        "seq_len": 64, "target": "cpu", "dtype": "float32", "padding": True,
        "cast_adapter_input": False,
    }  # fmt: skip
    return StepSettings(**{**given, **changes})


@pytest.mark.parametrize(("method", "reference"), ROWS)
@pytest.mark.parametrize(
    "changes",
    [{}, {"labelled_tokens": 9, "dtype": "bfloat16"},
     {"attention": "eager", "gradient_accumulation_steps": 2, "gradient_checkpointing": True}],
    ids=["plain", "labelled, bfloat16", "eager, accumulated, checkpointed"],
)  # fmt: skip
def test_traced_is_measured(method: str, reference: str, changes: dict[str, Any]) -> None:
    settings = settings_for(method, reference, **changes)
    traced, real = trace(settings).peak_bytes, measure(settings).peak_bytes
    assert abs(traced / real - 1) <= 0.03
    formula = analytic(settings)
    assert formula is not None
    assert abs(formula.peak_bytes / real - 1) <= 0.15


def test_a_pair_is_two_sequences_and_the_reference_one_more_pass() -> None:
    pairs = settings_for("lora", "precomputed", batch_size=2)
    alone = settings_for("lora", "none", batch_size=4, loss="chunked")
    assert abs(trace(pairs).peak_bytes / trace(alone).peak_bytes - 1) <= 0.01
    phases = [window.name for window in trace(settings_for("lora", "adapter_off")).windows]
    assert phases.index("loss") < phases.index("reference") < phases.index("backward.head")


@pytest.mark.parametrize(
    ("method", "model", "batch"),
    [("lora", "tiny-llama", 4), ("full", "tiny-llama", 4), ("lora", "llama-3-8b", 1)],
)
def test_what_a_copy_costs_is_the_weights(method: str, model: str, batch: int) -> None:
    """At 8B as well: what computing the reference before the first step saves."""
    copied, before = (
        settings_for(method, kind, model=model, batch_size=batch, dtype="bfloat16", seq_len=128,
                     gradient_checkpointing=True)
        for kind in ("copy", "precomputed")
    )  # fmt: skip
    one, other = trace(copied), trace(before)
    weights = other.parts["weights"]
    assert one.parts["weights"] == 2 * weights
    assert abs((one.peak_bytes - other.peak_bytes) / weights - 1) <= 0.03
    formulas = analytic(copied), analytic(before)
    assert formulas[0] is not None and formulas[1] is not None
    saved = formulas[0].peak_bytes - formulas[1].peak_bytes
    assert abs(saved / weights - 1) <= 0.03


def test_what_cannot_be_is_one_sentence() -> None:
    with pytest.raises(LabkitError, match="full has no adapter to switch off"):
        settings_for("full", "adapter_off")
    with pytest.raises(LabkitError, match="a prefix begins as drawn tokens"):
        settings_for("prefix", "copy")
    with pytest.raises(LabkitError, match="preference tuning is worked out for one device"):
        settings_for("lora", "copy", sharding="fsdp2", num_gpus=2)
    with pytest.raises(LabkitError, match="reference 'off' is unknown"):
        settings_for("lora", "off")


def test_a_run_is_estimated_by_its_configuration() -> None:
    config = RunConfig(model="llama-3-8b", task="dpo", lora_dropout=0.1, max_length=512)
    found = of_run(config, target="cuda")
    assert (found.reference, found.loss, found.lora_dropout) == ("adapter_off", "chunked", 0.0)
    assert (found.batch_size, found.sequences) == (2, 4)
    result = estimate_run(config, device="a100-80gb")
    assert result.to_json()["assumed"]["reference"] == "adapter_off" and result.fits
    both = estimate_run(config.replace(task="sft"), device="a100-80gb", batch_size=4)
    assert "reference" not in both.to_json()["assumed"]
    assert result.step_seconds is not None and both.step_seconds is not None
    assert both.step_seconds[0] < result.step_seconds[0] < 2 * both.step_seconds[0]


@pytest.mark.usefixtures("runs", "few_objects")
@pytest.mark.parametrize(("method", "reference"), ROWS[::2])
def test_a_run_takes_what_its_step_does(
    tiny_run: Callable[..., RunConfig], tmp_path: Path, method: str, reference: str
) -> None:
    """`labkit train` against the trace of the batch that its record names."""
    rows = [{"prompt": "How much? " * 9, "chosen": "12 million " * 9, "rejected": "no " * 20}] * 4
    for split in ("train", "dev"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = tiny_run(data=f"jsonl:{tmp_path}", task="dpo", method=method, reference=reference,
                      per_device_train_batch_size=4, max_steps=3)  # fmt: skip
    record = train(config, quiet=True)
    batch = record.predicted["batches"]["largest"]
    step = of_run(config, target="cpu", padding=True, **batch)
    measured = record.summary["peak_bytes"]["allocated"]
    assert abs(trace(step).peak_bytes / measured - 1) <= 0.05
    assert abs(record.predicted["peak_bytes"]["analytic"] / measured - 1) <= 0.15
