"""`labkit data show`: every token with its label, and the mistakes that cost a training."""

import json
from pathlib import Path
from typing import Any

import pytest

from labkit import cli
from labkit.datasets import encode, tatqa
from labkit.datasets.answers import format_answer
from labkit.errors import LabkitError
from labkit.models.load import load_tokenizer
from labkit.runs.config import RunConfig
from labkit.train import samples_shown as show


@pytest.fixture
def folder(tmp_path: Path, write_json: Any, make_report: Any) -> Path:
    for split in tatqa.SPLITS:
        write_json([make_report(f"{split}{i}") for i in range(2)], f"set/{split}.json")
    return tmp_path / "set"


def test_every_token_is_there_with_the_label_that_training_gives_it(
    folder: Path, tiny_llama: Path
) -> None:
    config = RunConfig(model=str(tiny_llama), data=str(folder))
    found = show.show(config, count=3)
    tokenizer = load_tokenizer(tiny_llama)
    samples = tatqa.samples(tatqa.load(folder, "train"))
    assert len(found["samples"]) == 3 and found["checked"] == len(samples) == 4
    for shown, sample in zip(found["samples"], samples, strict=False):
        encoded = encode.encode(tokenizer, sample, max_length=config.max_length)
        assert [t["id"] for t in shown["tokens"]] == encoded["input_ids"]
        trained = [t["id"] for t in shown["tokens"] if t["trained"]]
        assert tokenizer.decode(trained).startswith(format_answer(sample.question))
        assert trained[-1] == encoded["input_ids"][-1]
        assert shown["end_token"] == tokenizer.convert_ids_to_tokens(trained[-1])
        assert shown["end_trained"] and shown["cut"] == {"paragraphs": [], "rows": 0}
        text = show.render(found)
        assert all(f"{token:>8}  {token:>8}" in text for token in trained)
        assert f"{encoded['input_ids'][0]:>8}  {'–':>8}" in text


def test_what_is_cut_to_fit_is_shown(folder: Path, tiny_llama: Path) -> None:
    whole = show.show(RunConfig(model=str(tiny_llama), data=str(folder)), count=1)["samples"][0]
    config = RunConfig(model=str(tiny_llama), data=str(folder), max_length=whole["length"] - 1)
    found = show.show(config, count=1)
    assert found["samples"][0]["cut"] == {"paragraphs": ["Second paragraph."], "rows": 0}
    assert "cut to fit: 0 rows, 1 paragraphs\n  Second paragraph." in show.render(found)
    assert any("lose paragraphs or rows" in warning for warning in found["warnings"])


@pytest.mark.parametrize("how", ["the same question", "the same uid", "other spacing"])
def test_a_question_in_train_and_test_is_said(
    how: str, folder: Path, write_json: Any, make_report: Any, tiny_llama: Path
) -> None:
    config = RunConfig(model=str(tiny_llama), data=str(folder))
    warned = show.show(config)["warnings"]  # the fixture's reports differ in their uids alone
    assert any("stand in test as well" in warning for warning in warned)
    for split, sales in (("train", "7"), ("dev", "8"), ("test", "9")):
        report = make_report(split)
        report["table"]["table"][1][1] = sales
        if split == "test" and how == "the same uid":
            report["questions"][0]["uid"] = "train-q1"
        if split == "test" and how != "the same uid":
            report["table"]["table"][1][1] = "7" if how == "the same question" else " 7 "
        write_json([report], f"set/{split}.json")
    (warning,) = show.show(config)["warnings"]
    assert "questions of train stand in test as well" in warning


class Words:
    """A tokenizer of which only the marks count: 1 begins, 2 ends, 3 is a turn's end."""

    eos_token_id, all_special_ids = 2, [1, 3]

    def convert_ids_to_tokens(self, token: int) -> str:
        return f"<{token}>"

    def decode(self, ids: list[int]) -> str:
        return f"<{ids[0]}>"


@pytest.mark.parametrize(
    ("ids", "labels", "says"),
    [
        ([1, 7, 8, 2], [-100, -100, 8, 2], None),
        ([1, 7, 8, 3], [-100, -100, 8, 3], None),
        ([1, 7, 8, 2], [-100] * 4, "nothing is trained"),
        ([1, 7, 8, 2], [1, 7, 8, 2], "everything is trained"),
        ([1, 7, 8], [-100, -100, 8], "does not end in an end token"),
        ([1, 2, 8, 9], [-100, -100, 8, 9], "does not end in an end token"),
        ([1, 7, 8, 2], [-100, -100, 8, -100], "the end token has no label"),
        ([1, 7, 8, 3], [-100, -100, 8, -100], "the end token has no label"),
    ],
)
def test_masks_that_teach_something_else_are_warned_of(
    ids: list[int], labels: list[int], says: str | None
) -> None:
    right = show.described(Words(), "ok", [1, 7, 2], [-100, 7, 2])
    found = show.warnings_of([right, show.described(Words(), "odd", ids, labels)])
    assert (found == []) if says is None else any(
        w.startswith("1 of 2 samples (odd first)") and says in w for w in found)  # fmt: skip


def test_a_template_that_never_ends_is_warned_of(
    folder: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "encode_example", lambda *a, **k: {
        "input_ids": [5, 6, 7], "labels": [-100, 6, 7], "prompt_length": 1})  # fmt: skip
    found = show.show(RunConfig(model=str(tiny_llama), data=str(folder)))
    assert any("not taught to stop" in warning for warning in found["warnings"])


def test_the_command(folder: Path, tiny_llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data", "show", "lora", "--n", "2", "--model", str(tiny_llama), "--data",
                 str(folder)]  # fmt: skip
    for extra in (["--json"], []):
        with pytest.raises(SystemExit) as exit_:
            cli.main([*arguments, *extra])
        assert exit_.value.code == 0
        out = capsys.readouterr().out
        assert (len(json.loads(out)["samples"]) == 2) if extra else ("tokens," in out)
    with pytest.raises(SystemExit) as exit_:
        cli.main([*arguments, "--max-length", "5"])
    assert exit_.value.code == 2
    assert "max_length is 5" in capsys.readouterr().err
    with pytest.raises(LabkitError, match="--n 0 shows nothing"):
        show.show(RunConfig(), count=0)


# --- conversations -------------------------------------------------------------------------


def conversations(tmp_path: Path) -> Path:
    """Write a made-up file with a long conversation and a damaged row."""
    rows: list[Any] = [
        {"conversation": [{"human": "Sales?", "assistant": "44.1"},
                          {"human": "And 2018?", "assistant": "56.7"}]},
        {"conversation": [{"human": "Sales?", "assistant": "word " * 20 * k}
                          for k in (1, 9)]},
        {"conversation": [{"human": "Sales?", "assistant": ""}]},
    ]  # fmt: skip
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "all.jsonl"


def test_a_conversation_is_shown_with_a_label_on_every_answer(
    tmp_path: Path, tiny_llama: Path
) -> None:
    data = conversations(tmp_path)
    config = RunConfig(model=str(tiny_llama), data=str(data), max_length=100, bad_rows="skip")
    found = show.show(config, split="all")
    first = found["samples"][0]
    said = "".join(token["text"] for token in first["tokens"] if token["trained"])
    assert said == "44.1<|im_end|>56.7<|im_end|>" and first["end_trained"]
    assert found["samples"][1]["cut"]["answers"] == 1
    assert found["damaged"] == ["all.jsonl line 3: turn 2 (assistant) is empty"]
    text = show.render(found)
    assert "1 of 2 samples (all.jsonl line 2 first) lose their later turns to max_length" in text
    assert "warning: 1 row (all.jsonl line 3: turn 2 (assistant) is empty) cannot be" in text
    assert "cut to fit: the last 1 answers" in text


def test_a_named_template_is_the_one_that_is_shown(tmp_path: Path, tiny_llama: Path) -> None:
    data = conversations(tmp_path)
    config = RunConfig(model=str(tiny_llama), data=str(data), template_name="alpaca")
    found = show.show(config, split="all", count=1)
    said = "".join(token["text"] for token in found["samples"][0]["tokens"])
    assert said.endswith("### Instruction:\nAnd 2018?\n\n### Response:56.7<|im_end|>")
    assert "the chat template alpaca" in show.render(found)
    with pytest.raises(LabkitError, match="llama3 ends an answer with"):
        show.show(config.replace(template_name="llama3"), split="all")


def test_a_conversation_in_train_and_test_is_said(tmp_path: Path, tiny_llama: Path) -> None:
    for split, asked in (("train", "Why?"), ("dev", "How?"), ("test", " why? ")):
        row = {"prompt": asked, "completion": "So."}
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(row))
    config = RunConfig(model=str(tiny_llama), data=f"jsonl:{tmp_path}")
    (warning,) = show.show(config)["warnings"]
    assert "1 questions of train stand in test as well (test.jsonl line 1 first)" in warning


# --- pairs and running text ----------------------------------------------------------------


def of_rows(tmp_path: Path, rows: list[dict[str, str]]) -> str:
    for split in tatqa.SPLITS:
        named = [{key: f"{value} ({split})" if key in ("prompt", "text") else value
                  for key, value in row.items()} for row in rows]  # fmt: skip
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, named)))
    return f"jsonl:{tmp_path}"


def test_a_pair_is_shown_with_the_labels_of_both_answers(tmp_path: Path, tiny_llama: Path) -> None:
    rows = [{"prompt": f"Sales in {year}?", "chosen": f"{year}.5", "rejected": "nobody knows it"}
            for year in (2018, 2019, 2020)]  # fmt: skip
    config = RunConfig(model=str(tiny_llama), data=of_rows(tmp_path, rows), task="dpo")
    found = show.show(config, count=2)
    assert [(s["uid"], s["answer"]) for s in found["samples"]] == [
        (f"train.jsonl line {line}", answer) for line in (1, 2) for answer in ("chosen", "rejected")
    ]
    said = ["".join(t["text"] for t in s["tokens"] if t["trained"]) for s in found["samples"]]
    assert said[:2] == ["2018.5<|im_end|>", "nobody knows it<|im_end|>"]
    prompts = [[t["id"] for t in s["tokens"] if not t["trained"]] for s in found["samples"]]
    assert prompts[0] == prompts[1] != prompts[2] == prompts[3]
    assert all(sample["end_trained"] for sample in found["samples"]) and not found["warnings"]
    assert "train.jsonl line 2, rejected: " in show.render(found)


@pytest.mark.parametrize(
    ("chosen", "rejected", "says"),
    [("yes", "no, and a long word more", "the shorter one in 20 of 20"),
     ("yes, and a long word more", "no", "the longer one in 20 of 20"), ("yes", "no", None)],
)  # fmt: skip
def test_pairs_that_length_tells_apart_are_warned_of(
    tmp_path: Path, tiny_llama: Path, chosen: str, rejected: str, says: str | None
) -> None:
    tokenizer = load_tokenizer(tiny_llama)
    if says is None:  # as many tokens, whatever the tokenizer
        rejected = tokenizer.decode(tokenizer(chosen)["input_ids"][::-1])
    rows = [{"prompt": f"Is {n} odd?", "chosen": chosen, "rejected": rejected} for n in range(20)]
    config = RunConfig(model=str(tiny_llama), data=of_rows(tmp_path, rows), task="dpo")
    warnings = show.show(config)["warnings"]
    assert (warnings == []) if says is None else (len(warnings) == 1 and says in warnings[0])
    assert show.show(config.replace(max_train_samples=19))["warnings"] == []


def test_texts_in_one_sequence_are_shown_with_their_boundaries(
    tmp_path: Path, tiny_llama: Path
) -> None:
    texts = ["Sales rose.", "Costs fell in 2019."]
    config = RunConfig(model=str(tiny_llama), data=of_rows(tmp_path, [{"text": t} for t in texts]),
                       task="pretrain", max_length=64)  # fmt: skip
    found = show.show(config, count=9)
    (together,) = found["samples"]
    assert not found["warnings"] and together["texts"] == 2
    eos = load_tokenizer(tiny_llama).eos_token
    for number in (1, 2):
        tokens = [t for t in together["tokens"] if t["text_number"] == number]
        said = "".join(t["text"] for t in tokens)
        assert any(said == f"{text} (train){eos}" for text in texts)
        assert [t["trained"] for t in tokens] == [False] + [True] * (len(tokens) - 1)
    text = show.render(found)
    assert text.count("--- text 2: sees none of the above") == 1
    apart = show.show(config.replace(packing=False), count=9)
    assert [sample["texts"] for sample in apart["samples"]] == [1, 1]
    assert "--- text" not in show.render(apart)


def test_data_of_another_task_is_refused(folder: Path, tiny_llama: Path) -> None:
    for task in ("dpo", "pretrain"):
        config = RunConfig(model=str(tiny_llama), data=str(folder), task=task)
        with pytest.raises(LabkitError, match=f"is for the task 'sft', not '{task}'"):
            show.show(config)
