"""Continued pretraining: packed texts that do not see each other, and bits per byte."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cut_off import cut_off_and_again, same_weights

from labkit.datasets.base import Example
from labkit.errors import LabkitError
from labkit.models import load
from labkit.runs import records
from labkit.runs.config import RunConfig
from labkit.train import fast_step
from labkit.train.rows import encode_split
from labkit.train.run import train
from labkit.train.tasks import pretrain

pytestmark = pytest.mark.usefixtures("runs", "few_objects")
Run = Callable[..., RunConfig]
TEXTS = [
    "Net sales rose.",
    "Ёлка стоит 12 € — дорого 🙂 and the rest is cash.",
    "Revenue was 44.1 million and costs were 12.9 million. " * 4,
    "Goodwill.",
    "Depreciation and tax increased compared with the previous year.",
    "Cash fell to 3.",
]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("texts")
    for split in ("train", "dev", "test"):
        lines = [json.dumps({"text": text}) for text in TEXTS]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return f"jsonl:{folder}"


@pytest.fixture
def reading(tiny_run: Run, texts: str) -> Run:
    """Return a function that makes a short run of pretraining, exact and small."""

    def config(**changes: Any) -> RunConfig:
        settings = {"data": texts, "task": "pretrain", "max_length": 64, "method": "full",
                    "warmup_steps": 0}  # fmt: skip
        return tiny_run(**{**settings, **changes})

    return config


def split_rows(row: dict[str, Any]) -> list[list[int]]:
    """Return the token ids of each text of a row."""
    segments = range(1, max(row["segment_ids"]) + 1)
    return [[i for i, s in zip(row["input_ids"], row["segment_ids"], strict=True) if s == number]
            for number in segments]  # fmt: skip


def rows_of(config: RunConfig, *, shared: bool = True) -> list[dict[str, Any]]:
    return encode_split(load.load_tokenizer(config.model), config, "train", shared=shared)


def test_every_token_is_predicted_once_and_by_its_own_text(reading: Run, tiny_llama: Path) -> None:
    tokenizer = load.load_tokenizer(tiny_llama)
    wanted = []
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        wanted += [*zip(ids, [*ids[1:], tokenizer.eos_token_id], strict=True)]
    found = []
    packed = rows_of(reading())
    for row in packed:
        assert len(row["input_ids"]) <= 64
        before = 0
        for part in split_rows(row):
            place = slice(before, before + len(part))
            assert row["position_ids"][place] == list(range(len(part)))
            assert row["labels"][place] == [-100, *part[1:]]
            found += zip(part, part[1:], strict=False)
            before += len(part)
    assert sorted(found) == sorted(wanted)
    assert len(packed) < len(rows_of(reading(packing=False)))


def test_bytes_are_those_of_what_is_predicted(reading: Run, tiny_llama: Path) -> None:
    tokenizer = load.load_tokenizer(tiny_llama)
    total = 0
    for text in TEXTS:
        first = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        total += len(text.encode()) - len(text[: first["offset_mapping"][0][1]].encode())
    for packing in (True, False):
        rows = rows_of(reading(packing=packing))
        assert sum(row["text_bytes"] for row in rows) == total


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_no_text_sees_its_neighbour(reading: Run, attention: str) -> None:
    model = load.load_model(reading().model, dtype="float32", attn_implementation=attention).eval()
    row = next(r for r in rows_of(reading()) if max(r["segment_ids"]) > 1)
    collate = pretrain.TextCollator(0)

    def logits(row: dict[str, Any], *, mask: bool = True) -> torch.Tensor:
        batch = collate([row])
        del batch["text_bytes"]
        batch["labels"] = batch["input_ids"].clone()
        if not mask:
            batch["segment_ids"] = torch.ones_like(batch["segment_ids"])
        with torch.no_grad():
            found, _ = fast_step.labelled_logits(model, batch)
        return found

    first = row["segment_ids"].count(1)
    changed = {**row, "input_ids": [(i + 7) % 700 for i in row["input_ids"][:first]]
               + row["input_ids"][first:]}  # fmt: skip
    before, after = logits(row), logits(changed)
    assert (before[: first - 1] - after[: first - 1]).abs().max() > 0.1
    assert torch.equal(before[first:], after[first:])
    leaking = logits(row, mask=False)[first:] - logits(changed, mask=False)[first:]
    assert leaking.abs().max() > 1e-3, "the test would not see it"


def test_packed_texts_train_as_texts_of_their_own(reading: Run) -> None:
    """The same losses, and so the same steps, whether or not they share a sequence."""
    whole = {"per_device_train_batch_size": 32, "max_steps": 3, "learning_rate": 1e-3,
             "eval_steps": 3}  # fmt: skip
    packed = train(reading(**whole), quiet=True)
    apart = train(reading(**whole, packing=False), quiet=True)
    assert packed.losses == pytest.approx(apart.losses, abs=1e-5)
    assert packed.losses[-1] < packed.losses[0] - 0.01
    for key in ("bits_per_byte", "tokens"):
        one, other = ([step[key] for step in record.steps] for record in (packed, apart))
        assert one == pytest.approx(other, rel=1e-5)
    assert packed.steps[0]["padded_tokens"] < apart.steps[0]["padded_tokens"]
    one, other = (r.summary["eval_losses"][-1]["bits_per_byte"] for r in (packed, apart))
    assert one == pytest.approx(other, rel=1e-5)


def test_bits_per_byte_are_those_counted_by_hand(reading: Run, tiny_llama: Path) -> None:
    """Text by text, with the model as it is; batches of unlike size change nothing."""
    config = reading(learning_rate=1e-12, max_steps=1, eval_steps=1)
    record = train(config, quiet=True)
    model = load.load_model(tiny_llama, dtype="float32").eval()
    nats, size = 0.0, 0
    for row in rows_of(reading(packing=False)):
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1]
        nats += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        size += row["text_bytes"]
    found = record.summary["eval_losses"][0]["bits_per_byte"]
    assert found == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert f"bits per byte {found:.3f}" in records.render(record)


@pytest.mark.parametrize("changes", [{}, {"method": "prefix"}, {"packing": False}],
                         ids=["full", "prefix", "apart"])  # fmt: skip
def test_a_run_that_is_cut_off_ends_as_one_that_is_not(
    reading: Run, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = reading(**changes, max_steps=5, save_steps=2)
    whole = train(config, quiet=True)
    assert whole.losses[-1] < whole.losses[0]

    again = cut_off_and_again(config, tmp_path / "others", monkeypatch)
    assert again.losses == whole.losses
    assert [s["bits_per_byte"] for s in again.steps] == [s["bits_per_byte"] for s in whole.steps]
    same_weights(whole, again)


@pytest.mark.parametrize("changes", [{"model": "tiny-bloom"}, {"fast": False}],
                         ids=["takes no mask", "stock loss"])  # fmt: skip
def test_where_texts_cannot_share_each_has_a_sequence(
    reading: Run, tiny_model: Callable[[str], Path], changes: dict[str, Any]
) -> None:
    if "model" in changes:
        changes = {"model": str(tiny_model(changes["model"]))}
    record = train(reading(**changes, max_steps=2), quiet=True)
    assert record.data["samples"] == len(rows_of(reading(packing=False)))
    assert record.steps[0]["bits_per_byte"] > 0


def test_what_is_no_text_is_one_sentence(reading: Run, tiny_llama: Path) -> None:
    tokenizer = load.load_tokenizer(tiny_llama)
    example = Example(uid="x", messages=({"role": "user", "content": "hi"},))
    with pytest.raises(LabkitError, match="example x has no text to learn: task pretrain needs"):
        pretrain.rows(tokenizer, [example], reading(), shared=True)
    with pytest.raises(LabkitError, match="max_length 1 leaves nothing to predict"):
        pretrain.rows(tokenizer, [example], reading(max_length=1), shared=True)
