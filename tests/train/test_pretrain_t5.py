"""Span corruption hides what it says, and a model pretrained with it is a model."""

import random
from pathlib import Path

import pytest

from labkit.errors import LabkitError
from labkit.models import load
from labkit.models.tiny import training_lines
from labkit.train.pretrain_t5 import MARKS, TOKENS, build_tokenizer, corrupt, pieces, pretrain

SIZES = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}


def test_what_is_hidden_is_written_and_nothing_else() -> None:
    marks = list(range(1000, 1000 + MARKS))
    draw = random.Random(1)
    for length in (4, 7, 20, TOKENS, 400):
        text = [draw.randrange(900) for _ in range(length)]
        read, written = corrupt(text, marks, draw)
        spans: dict[int, list[int]] = {}
        for token in written:
            if token >= 1000:
                spans[token] = []
            else:
                spans[list(spans)[-1]].append(token)
        assert list(spans) == marks[: len(spans)] == [t for t in read if t >= 1000]
        assert all(spans.values()) and read[0] == text[0]
        whole = [t for token in read for t in (spans[token] if token >= 1000 else [token])]
        assert whole == text
        assert sum(map(len, spans.values())) == max(1, round(0.15 * length))
    # Three tokens a span: 60 of 400 are 20 spans.
    assert len(spans) == 20


def test_every_partition_of_what_is_hidden_comes_up() -> None:
    """Forty tokens hide six in two spans, so that the first has one to five of them."""
    marks = [1000, 1001]
    written = [corrupt(range(40), marks, random.Random(seed))[1] for seed in range(200)]
    assert {each.index(1001) - 1 for each in written} == {1, 2, 3, 4, 5}
    assert len({each[1] for each in written}) > 25  # where it begins


def test_a_model_learns_and_is_loaded(tmp_path: Path) -> None:
    lines = training_lines(400)
    losses = pretrain(tmp_path / "t5", lines, steps=40, batch_size=8, learning_rate=1e-2,
                      quiet_progress=True, **SIZES)  # fmt: skip
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])
    model = load.load_model(tmp_path / "t5", dtype="float32")
    tokenizer = load.load_tokenizer(tmp_path / "t5")
    assert model.config.is_encoder_decoder and model.config.dropout_rate == 0.1
    assert tokenizer.pad_token_id == model.config.pad_token_id == 0
    text = "Revenue rose 5.1 (%) in 2019"
    assert tokenizer.decode(tokenizer(text)["input_ids"]).strip() == text
    assert model.config.vocab_size == len(tokenizer) > 300


def test_pieces_are_the_text_in_order() -> None:
    lines = training_lines(60)
    tokenizer = build_tokenizer(lines, vocabulary=500)
    found = pieces(tokenizer, lines)
    assert {len(piece) for piece in found} == {TOKENS}
    joined = "".join(tokenizer.decode([t for piece in found for t in piece]).split())
    assert "".join("".join(lines).split()).startswith(joined)


def test_too_little_text_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LabkitError, match="too little text to pretrain on.* a batch of 32"):
        pretrain(tmp_path / "t5", ["a few words"], steps=1, quiet_progress=True)
    assert not (tmp_path / "t5").exists()
