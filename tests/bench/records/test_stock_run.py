"""Stock TRL on the batches of a labkit run: the same losses, one sequence a question."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from labkit.bench.records import stock_run
from labkit.errors import LabkitError
from labkit.inference import evaluate
from labkit.models import registry
from labkit.runs import records
from labkit.runs.config import RunConfig
from labkit.train.run import train

Run = Callable[..., RunConfig]


def test_stock_sees_the_questions_of_each_step(tiny_run: Run, runs: Path) -> None:
    """Nine steps on six reports: the order of the second and third epoch counts too."""
    settings = {"method": "full", "learning_rate": 1e-3, "max_steps": 9}
    ours = train(tiny_run(**settings, name="mine"), quiet=True)
    stock = stock_run.stock_run(tiny_run(**settings, name="stock"))
    assert stock.losses == pytest.approx(ours.losses, rel=0.01)
    assert max(ours.losses) > 1.05 * min(ours.losses), "nothing was learned, so nothing shown"
    assert [s["samples"] for s in stock.steps] == [s["samples"] for s in ours.steps]
    # The report is read once for all questions on it, or once for each of them.
    assert all(a["tokens"] > 2 * b["tokens"] for a, b in zip(stock.steps, ours.steps, strict=True))

    assert records.load("stock").sha256 != ours.sha256, "it would be taken for the labkit run"
    assert evaluate.evaluate("stock", max_samples=2, quiet=True).n == 2
    with pytest.raises(LabkitError, match="there is a run stock already"):
        stock_run.stock_run(tiny_run(**settings, name="stock"))


def test_adapters_are_trained_by_stock_too(tiny_run: Run, runs: Path) -> None:
    stock = stock_run.stock_run(tiny_run(name="stock", max_steps=2, r=4, learning_rate=1e-3))
    adapter = json.loads((stock.model_path / "adapter_config.json").read_text())
    assert adapter["r"] == 4 and adapter["lora_alpha"] == 32
    named = {name.rsplit(".", 1)[-1] for name in adapter["target_modules"]}
    assert {"q_proj", "down_proj"} <= named


def test_what_cannot_be_paired_is_refused(tiny_run: Run, runs: Path) -> None:
    path = registry.resolve(tiny_run().model)
    with pytest.raises(LabkitError, match="as many samples in every step"):
        stock_run.batches(tiny_run(max_train_samples=9), path)
    with pytest.raises(LabkitError, match="as many samples in every step"):
        stock_run.batches(tiny_run(per_device_train_batch_size=4), path)
    with pytest.raises(LabkitError, match="needs max_steps and a name"):
        stock_run.stock_run(tiny_run())
