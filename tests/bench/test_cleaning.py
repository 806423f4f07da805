"""What lesson 09 measures with: choices, leaks, files of so many tokens, differences."""

import json
import math
import os

import pytest
import torch
from torch.nn import functional

from labkit.bench import cleaning
from labkit.datasets import tatqa
from labkit.datasets.corpus import synthetic
from labkit.errors import LabkitError
from labkit.inference.generate import load_generator


class Words:
    """A tokenizer of words."""

    def __call__(self, text, **options):
        return {"input_ids": text.split()}


def test_an_item_is_a_passage_of_the_test_and_others_that_differ_in_one_number():
    reports = tatqa.load("tables", "test")
    passages = {paragraph for report in reports for paragraph in report.paragraphs}
    found = cleaning.items(20, seed=3)
    assert len({item.passage for item in found}) == 20
    for item in found:
        assert item.passage in passages and len(set(item.options)) == cleaning.OPTIONS
        assert item.passage in item.options
        words = item.passage.split()
        for option in set(item.options) - {item.passage}:
            other = option.split()
            changed = [(a, b) for a, b in zip(words, other, strict=True) if a != b]
            ((before, after),) = changed
            digits = [int("".join(filter(str.isdigit, each))) for each in (before, after)]
            assert 0 < abs(digits[0] - digits[1]) <= cleaning.NEAR
            assert len(before) == len(after)
    assert len({item.options.index(item.passage) for item in found}) > 1, "no place gives it away"


def test_planted_texts_hold_each_passage_so_many_times():
    found = cleaning.planted(["Before.", "Again."], ["one two", "three"], copies=3, seed=0)
    assert sum(text.endswith(" one two") for text in found) == 3
    assert sum(text.endswith(" three") for text in found) == 3


def test_a_file_has_the_first_texts_of_so_many_tokens_as_one(tmp_path):
    texts = ["a b c", "d e", "f g h i", "never read"]
    assert cleaning.write_tokens(tmp_path / "x.jsonl", texts, Words(), 6) == 9
    (row,) = cleaning.rows(tmp_path / "x.jsonl")
    assert sorted(row["text"].split("\n\n")) == sorted(texts[:3])
    with pytest.raises(LabkitError, match=r"texts for y.jsonl have 11 tokens and not 12"):
        cleaning.write_tokens(tmp_path / "y.jsonl", texts, Words(), 12)


def test_rows_end_at_line_ends_alone(tmp_path):
    cleaning.write_texts(tmp_path / "x.jsonl", ["one\x85two\u2028three", "four"])
    assert [row["text"] for row in cleaning.rows(tmp_path / "x.jsonl")] == [
        "one\x85two\u2028three", "four",
    ]  # fmt: skip


def test_a_file_that_holds_the_texts_already_is_left_alone(tmp_path):
    """A build knows its sources by their time: a cell that is run again finds it finished."""
    file = tmp_path / "x.jsonl"
    cleaning.write_texts(file, ["one", "two"])
    os.utime(file, (1, 1))
    cleaning.write_texts(file, ["one", "two"])
    assert file.stat().st_mtime == 1
    cleaning.write_texts(file, ["one", "three"])
    assert file.stat().st_mtime > 1
    assert [row["text"] for row in cleaning.rows(file)] == ["one", "three"]


def test_raw_texts_are_those_of_the_corpus_and_what_is_damaged_ends_it_for_nobody(tmp_path):
    synthetic.generate(tmp_path / "c", 0.05, seed=4, every=25)
    truth = cleaning.rows(tmp_path / "c" / "truth.jsonl")
    ours = [row["id"] for row in truth if row["kind"] != "bad"]
    texts = cleaning.raw_texts(tmp_path / "c" / "raw")
    expected = [item["text"] for (item, _), _ in zip(synthetic.texts(4, 25), ours, strict=False)]
    assert len(set(expected) & set(texts)) > 0.8 * len(expected)  # markup is left out of the others


def test_a_dirtier_corpus_has_each_fault_more_often():
    def kinds(every):
        found = synthetic.texts(0, every)
        return [truth["kind"] for _, (_, truth) in zip(range(100), found, strict=False)]

    assert kinds(25).count("mojibake") == 4 and kinds(50).count("mojibake") == 2
    assert kinds(25).count("clean") == 56 and kinds(50).count("clean") == 78


def test_held_out_texts_are_clean_and_of_another_seed():
    clean = [item["text"] for item, truth in (next(iter(synthetic.texts(7))),)]
    found = cleaning.held_out(3, seed=7)
    assert clean[0].startswith(found[0]) and len(set(found)) == 3
    assert set(found).isdisjoint(cleaning.held_out(3, seed=8))


def test_bits_are_those_of_each_text_alone(tiny_model):
    generator = load_generator(str(tiny_model("tiny-llama")), dtype="float32", exact=True)
    texts = ["The cat sat.", "A much longer text about a cat that sat on a mat for hours.", "Hm hm"]
    for text, bits in zip(texts, cleaning.bits(generator, texts), strict=True):
        ids = torch.tensor([generator.tokenizer(text)["input_ids"]])
        with torch.inference_mode():
            logits = generator.model(input_ids=ids).logits[0, :-1]
        nats = functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        assert bits == pytest.approx(nats / math.log(2), rel=1e-4)


def test_the_likeliest_option_is_chosen(monkeypatch):
    asked = [
        cleaning.Item(name="x", passage="b", options=("a", "b")),
        cleaning.Item(name="y", passage="c", options=("c", "d")),
    ]
    monkeypatch.setattr(cleaning, "nats", lambda generator, texts: [2.0, 1.0, 5.0, 3.0])
    assert cleaning.choose(None, asked) == [1.0, 0.0]


def test_bits_per_byte_are_compared_by_bytes():
    found = cleaning.compare_bits([4.0, 8.0], [2.0, 4.0], ["ab", "cdef"])
    assert (found["first"], found["second"], found["value"]) == (2.0, 1.0, -1.0)


def test_a_leak_is_the_change_on_planted_items():
    clean, leaked = [0, 0, 1, 0, 1, 1], [1, 1, 1, 1, 0, 1]
    planted = [True, True, True, True, False, False]
    found = cleaning.compare_choices(clean, leaked, planted)
    assert found["planted_clean"] == 25 and found["planted_leaked"] == 100
    assert found["others_clean"] == 100 and found["others_leaked"] == 50
    assert found["value"] == 75 and found["low"] < 75 < found["high"]


def test_a_run_reads_the_file_once_in_whole_steps(tmp_path):
    file = tmp_path / "raw.jsonl"
    config = cleaning.config(file, "tiny-llama", 8 * 1024)
    assert config.max_steps == 8 and config.task == "pretrain"
    assert config.name == f"{tmp_path.name}-raw"
    assert json.loads(json.dumps(config.data)) == str(file)
