"""An encoder-decoder as a task: ids by hand, losses of a plain loop, every method, answers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from labkit import methods
from labkit.datasets import sentiment
from labkit.errors import LabkitError
from labkit.inference.evaluate import evaluate
from labkit.inference.seq2seq import write
from labkit.models import load, tiny
from labkit.runs.config import RunConfig
from labkit.train.run import train
from labkit.train.tasks.seq2seq import SEQ2SEQ, collator, prompt, rows

pytestmark = pytest.mark.usefixtures("runs", "few_objects")
Run = Callable[..., RunConfig]
LINES = (
    "revenue rose and all was well", "costs fell", "a good year for services and software",
    "income increased in Europe", "expense rose and nothing was well", "sales fell",
    "a bad year", "income decreased in Asia and in the Americas",
)  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora", "r": 4},
    "dora": {"method": "lora", "r": 4, "use_dora": True},
    "ia3": {"method": "ia3"},
    "bottleneck": {"method": "bottleneck", "bottleneck_size": 8},
    "prefix": {"method": "prefix", "num_virtual_tokens": 4},
    "prompt": {"method": "prompt", "num_virtual_tokens": 4},
}


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny T5 without dropout."""
    folder = tmp_path_factory.mktemp("t5") / "tiny"
    return tiny.build_tiny("tiny-t5", folder, dropout_rate=0.0)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Eight rated sentences, all of them in every split."""
    monkeypatch.setattr(sentiment, "_in", lambda split, text: True)
    file = tmp_path / "rated.txt"
    ratings = [2.0] * 4 + [-2.0] * 4
    rated = [f"{n}\t{r}\t{line}" for n, (r, line) in enumerate(zip(ratings, LINES, strict=True))]
    file.write_text("\n".join(rated))
    return f"reviews:{file}"


@pytest.fixture
def run(tiny_run: Run, t5: Path, data: str) -> Run:
    """Return a function that makes a run of a second on that model and data."""
    given = {"model": str(t5), "data": data, "task": "seq2seq", "per_device_train_batch_size": 4,
             "max_length": 32, "lr_scheduler_type": "constant", "warmup_steps": 0}  # fmt: skip
    return lambda **changes: tiny_run(**{**given, **changes})


def examples(data: str) -> list[Any]:
    return sentiment.load_reviews(data.partition(":")[2], "train")


def test_what_is_read_and_what_is_learned(t5: Path, data: str) -> None:
    tokenizer = load.load_tokenizer(t5)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    first = examples(data)[0]
    (row,) = rows(tokenizer, [first], RunConfig(), shared=False)
    assert tokenizer.decode(row["input_ids"][:-1]) == "sst2 sentence: " + LINES[0]
    assert tokenizer.decode(row["labels"][:-1]) == "positive"
    assert row["input_ids"][-1] == row["labels"][-1] == end
    # A text that is too long loses its end, never its last token, and the target loses nothing.
    (short,) = rows(tokenizer, [first], RunConfig(max_length=8), shared=False)
    assert short["input_ids"] == [*row["input_ids"][:7], end] and short["labels"] == row["labels"]
    assert prompt(tokenizer, first, 8) == short["input_ids"]
    with pytest.raises(LabkitError, match=r"answer of sentence .* tokens, more than max_length 2"):
        rows(tokenizer, [first], RunConfig(max_length=2), shared=False)


def test_padding_changes_no_loss(t5: Path, data: str) -> None:
    tokenizer = load.load_tokenizer(t5)
    model = load.load_model(t5, dtype="float32")
    encoded = rows(tokenizer, examples(data), RunConfig(), shared=False)
    encoded[0]["labels"] = encoded[0]["labels"][-2:]  # targets of unlike length
    collate = collator(tokenizer, False)
    with torch.no_grad():
        together = model(**collate([dict(row) for row in encoded]))
        apart = [model(**collate([dict(row)])).loss for row in encoded]
    lengths = [len(row["labels"]) for row in encoded]
    mean = sum(n * loss for n, loss in zip(lengths, apart, strict=True)) / sum(lengths)
    assert len({len(row["input_ids"]) for row in encoded}) > 3
    torch.testing.assert_close(together.loss, mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_losses_are_those_of_a_plain_loop(run: Run, data: str, accumulated: int) -> None:
    """AdamW on the same eight samples, mean over all labels of a step, gradients clipped at 1."""
    config = run(method="full", max_steps=3, per_device_train_batch_size=8 // accumulated,
                 gradient_accumulation_steps=accumulated)  # fmt: skip
    found = train(config, quiet=True).losses
    tokenizer = load.load_tokenizer(config.model)
    model = load.load_model(config.model, dtype="float32").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0)
    batch = collator(tokenizer, False)(rows(tokenizer, examples(data), config, shared=False))
    losses = []
    for _ in range(3):
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert found == pytest.approx(losses, rel=2e-5)


def test_eight_answers_are_learned_by_heart_and_scored(run: Run, data: str) -> None:
    config = run(method="full", max_steps=60, learning_rate=5e-3, eval_steps=30, name="heart")
    record = train(config, quiet=True)
    assert record.losses[-1] < 0.05 and len(record.summary["eval_losses"]) == 2
    learned = evaluate("heart", data=data, quiet=True)
    untouched = evaluate(config.model, data=data, quiet=True)
    assert (learned.metrics["em"]["value"], untouched.metrics["em"]["value"]) == (1.0, 0.0)
    assert set(learned.by_type) == {"positive", "negative"}
    assert set(json.loads(Path(learned.predictions).read_text()).values()) == {
        "positive", "negative",
    }  # fmt: skip
    assert evaluate("majority", data=data, quiet=True).metrics["em"]["value"] == 0.5


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_and_is_loaded_again(
    run: Run, data: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run(**METHODS[name], max_steps=30, learning_rate=2e-2, name=name)
    record = train(config, quiet=True)
    assert record.losses[-1] < record.losses[0]
    stored = load_file(record.model_path / "adapter_model.safetensors")
    numbers = sum(tensor.numel() for tensor in stored.values())
    assert numbers == record.summary["trainable_parameters"]
    # The loss of what is loaded is what a run that learns nothing more begins with.
    model = load.load_model(record.model_path, dtype="float32")
    tokenizer = load.load_tokenizer(config.model)
    batch = collator(tokenizer, False)(rows(tokenizer, examples(data), config, shared=False))
    with torch.no_grad():
        assert float(model(**batch).loss) < record.losses[0]
    asked = {"prompt": prompt, "dtype": "float32"}
    together = write(name, examples(data), **asked)
    monkeypatch.setattr("labkit.inference.seq2seq.TEXTS_PER_BATCH", 1)
    assert write(name, examples(data), **asked) == together
    # Greedy by full forwards, without a cache.
    ids = torch.tensor([prompt(tokenizer, examples(data)[0], 99)])
    decoded = torch.zeros((1, 1), dtype=torch.long)
    with torch.no_grad():
        for _ in range(3):
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids),
                           decoder_input_ids=decoded).logits  # fmt: skip
            decoded = torch.cat([decoded, logits[:, -1:].argmax(-1)], dim=1)
    assert together[0].startswith(
        tokenizer.decode(decoded[0, 1:], skip_special_tokens=True).strip()
    )


def test_checkpoints_change_no_loss(run: Run) -> None:
    plain = train(run(**METHODS["lora"]), quiet=True)
    again = train(run(**METHODS["lora"], gradient_checkpointing=True), quiet=True)
    assert again.losses == pytest.approx(plain.losses, rel=1e-5)
    assert again.losses[-1] != again.losses[0]


@pytest.mark.parametrize("method", ["full", "lora", "prefix", "prompt"])
def test_a_record_predicts_what_it_then_measures(run: Run, method: str) -> None:
    record = train(run(method=method, max_steps=3), quiet=True)
    peak = record.predicted["peak_bytes"]["analytic"]
    assert peak == pytest.approx(record.summary["peak_bytes"]["allocated"], rel=0.15)


def test_a_model_of_the_other_kind_is_one_sentence(
    run: Run, tiny_run: Run, tiny_llama: Path, t5: Path, data: str, runs: Path
) -> None:
    with pytest.raises(LabkitError, match="only writes on, and task seq2seq .*use a T5"):
        train(run(model=str(tiny_llama)), quiet=True)
    with pytest.raises(LabkitError, match="task sft is for .*smollm2.*or data for task seq2seq"):
        train(tiny_run(model=str(t5)), quiet=True)
    with pytest.raises(LabkitError, match="for the task 'seq2seq', not 'sft': set task to seq2"):
        train(run(task="sft"), quiet=True)
    with pytest.raises(LabkitError, match="only writes on, and these texts .*name a T5"):
        evaluate(str(tiny_llama), data=data, quiet=True)
    assert not list(runs.glob("*/record.json"))


def test_an_encoder_decoder_declines_what_its_method_cannot(run: Run) -> None:
    assert SEQ2SEQ.encoder_decoder and not SEQ2SEQ.shares_prompts
    with pytest.raises(LabkitError, match="llama and mistral alone; use"):
        train(run(method="llama-adapter"), quiet=True)
    assert not methods.METHODS["prefix"].check("t5")
