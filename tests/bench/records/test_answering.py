"""The record of answers: what is the same however a model is asked, and how fast batches are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from labkit.bench.records import answering
from labkit.console import run_tool
from labkit.inference import generate
from labkit.runs.config import RunConfig
from labkit.train.run import train


@pytest.fixture
def adapter(tiny_run: Callable[..., RunConfig], runs: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a run; whatever is loaded here gets a head of its own, or nobody would say a word."""

    def talkative(name: str, **settings: Any) -> generate.Generator:
        generator = generate.load_generator(name, **settings)
        head = generator.model.get_output_embeddings()
        draw = torch.Generator().manual_seed(0)
        weight = torch.randn(head.weight.shape, generator=draw).to(head.weight.dtype)
        head.weight = torch.nn.Parameter(weight)
        return generator

    monkeypatch.setattr(answering, "load_generator", talkative)
    train(tiny_run(name="mine", learning_rate=3e-2), quiet=True)
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
    replies = answering.load_generator(adapter).answer(
        answering.tatqa.samples(answering.tatqa.load("tables", "test"))[:8]
    )
    assert len({reply.text for reply in replies} - {""}) > 1, "nothing is said, so nothing compared"
    assert found["speed"]["pairs"] == 4 and found["speed"]["ratio"]["value"] > 0


def test_an_answer_that_differs_is_counted(
    adapter: str, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answering.plain
    count = iter(range(100))

    def sometimes_wrong(generator: generate.Generator, sample: Any) -> str:
        return asked(generator, sample) + ("?" if next(count) % 4 == 0 else "")

    monkeypatch.setattr(answering, "plain", sometimes_wrong)
    samples = answering.tatqa.samples(answering.tatqa.load("tables", "test"))[:8]
    base = tiny_model("tiny-llama")  # the adapter was forgotten
    merged = {"float32": base, "bfloat16": base}
    rows = answering.identical(adapter, merged, samples, singles=4)
    assert counted(rows, "one by one")["float32"] == (3, 4)
    assert counted(rows, "reloaded")["float32"] == (8, 8)
    assert counted(rows, "merged")["float32"][0] < 8


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no-such-run"], "no-such-run"),
        (["mine", "--questions", "0"], "ask one or more"),
        (["mine", "--pairs", "5"], "can't be balanced"),
        (["mine", "--output", "/no/such/folder/x.json"], "is not a folder"),
    ],
)
def test_mistakes_are_a_sentence(
    words: list[str], said: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = ["--output", str(tmp_path / "x.json")]
    arguments = words if "--output" in words else [*words, *target]
    with pytest.raises(SystemExit) as ended:
        run_tool(lambda: answering.main(arguments))
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("labkit: ") and said in err and err.count("\n") == 1
    assert not (tmp_path / "x.json").exists()
