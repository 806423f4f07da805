"""The record of answers: what is the same however a model is asked, and how fast batches are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labkit import infer
from labkit.bench import answering
from labkit.config import RunConfig
from labkit.train import train


@pytest.fixture
def adapter(tiny_run: Callable[..., RunConfig], runs: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for module in (infer, answering):
        monkeypatch.setattr(module, "MAX_NEW_TOKENS", 4)
    train(tiny_run(name="mine"), quiet=True)
    return "mine"


def counted(rows: list[dict[str, Any]], pair: str) -> dict[str, tuple[int, int]]:
    return {row["arithmetic"]: (row["same"], row["n"]) for row in rows if row["pair"] == pair}


def test_every_pair_is_asked_in_every_arithmetic(adapter: str) -> None:
    found = answering.measure(adapter, questions=8, singles=3, pairs=4)
    assert set(found) == {"facts", "speed", "identical"}
    for pair, n in (("merged", 8), ("one by one", 3), ("reloaded", 8)):
        same = counted(found["identical"], pair)
        assert set(same) == set(answering.ARITHMETIC)
        assert same["float32"] == (n, n)
    assert found["speed"]["pairs"] == 4 and found["speed"]["ratio"]["value"] > 0


def test_an_answer_that_differs_is_counted(adapter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering.plain
    count = iter(range(100))

    def sometimes_wrong(generator: infer.Generator, sample: Any) -> str:
        return asked(generator, sample) + ("?" if next(count) % 4 == 0 else "")

    monkeypatch.setattr(answering, "plain", sometimes_wrong)
    samples = answering.tatqa.samples(answering.tatqa.load("tables", "test"))[:8]
    base = answering.load_generator(adapter).model.get_base_model().config._name_or_path
    rows = answering.identical(
        adapter, {"float32": Path(base), "bfloat16": Path(base)}, samples, singles=4
    )
    assert counted(rows, "one by one")["float32"] == (3, 4)
    assert counted(rows, "reloaded")["float32"] == (8, 8)
    # The base is not the adapter merged into it.
    assert counted(rows, "merged")["float32"][0] < 8
