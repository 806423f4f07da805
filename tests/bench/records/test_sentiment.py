"""The committed comparison on an encoder-decoder: whole, fair, and its conclusions are its own."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from labkit.bench.records import memory_methods, sentiment
from labkit.datasets import tatqa
from labkit.memory.formula import analytic
from labkit.memory.of_run import of_run
from labkit.memory.trace.tracing import trace
from labkit.runs.config import RunConfig

RECORD: dict[str, Any] = json.loads(
    (tatqa.data_dir() / "results" / "sentiment.json").read_text(encoding="utf-8")
)
LONGEST, ANSWER = 89, 3
"""tokens of the longest sentence of the training split, and of an answer with its end"""
YARDSTICKS = {"bag of words", "more frequent answer"}
SHARES = {name: share["value"] for name, share in RECORD["scores"]["right"].items()}


def test_every_method_answered_every_sentence() -> None:
    assert set(RECORD["methods"]) == set(sentiment.methods())
    assert {"full", "lora", "prefix", "prompt"} <= set(RECORD["methods"])
    assert set(RECORD["answers"]) == set(RECORD["methods"]) | YARDSTICKS
    asked = {frozenset(right) for right in RECORD["answers"].values()}
    assert len(asked) == 1 and len(next(iter(asked))) > 500


def test_shares_and_differences_are_those_of_the_answers() -> None:
    assert sentiment.scores(RECORD["answers"]) == RECORD["scores"]
    assert RECORD["command"] == sentiment.COMMAND


def test_the_rate_is_the_better_one_of_the_development_split() -> None:
    for name, found in RECORD["methods"].items():
        tried = {float(rate): share for rate, share in found["learning_rates"].items()}
        assert list(tried) == [run.learning_rate for run in sentiment.runs_of(name, {})]
        assert tried[found["learning_rate"]] == max(tried.values())


def test_what_was_learnt_is_more_than_one_answer_to_everything() -> None:
    """A model that says the same of every sentence has compared nothing."""
    for name in ("full", "lora"):
        low = RECORD["scores"]["right"][name]["low"]
        assert low > RECORD["scores"]["right"]["more frequent answer"]["high"]
    assert SHARES["bag of words"] > SHARES["more frequent answer"] + 0.2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the configuration of the model that was pretrained; its weights are not needed."""
    folder = tmp_path_factory.mktemp("t5")
    memory_methods.write_small_t5(folder)
    return folder


@pytest.mark.parametrize("method", RECORD["methods"])
def test_peaks_are_those_of_the_trace(method: str, model: Path) -> None:
    run = RunConfig(**{**RECORD["settings"], "method": method, "model": str(model)})
    step = replace(of_run(run, seq_len=LONGEST, dtype="float32"), target="cpu",
                   target_len=ANSWER, padding=True)  # fmt: skip
    found = RECORD["methods"][method]
    assert found["peak_bytes"] == pytest.approx(trace(step).peak_bytes, rel=0.03)
    assert found["peak_bytes"] == pytest.approx(analytic(step).peak_bytes, rel=0.03)
