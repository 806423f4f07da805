"""Conversations of several turns: a loss on every answer, on nothing else, and on what is read."""

from collections.abc import Sequence
from typing import Any

import pytest

from labkit.datasets import encode, templates
from labkit.datasets.base import Example
from labkit.errors import LabkitError
from labkit.models import tiny
from labkit.runs.config import RunConfig
from labkit.train.tasks.sft import SFT


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny.build_tokenizer()


def talk(*texts: str, system: str = "", uid: str = "t") -> Example:
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    if system:
        turns.insert(0, {"role": "system", "content": system})
    return Example(uid=uid, messages=tuple(turns), every_answer=True)


THREE = talk("Sales?", "44.1", "And 2018?", "56.7", "Sum?", "100.8", system="Be short.")


def text(tokenizer: Any, ids: Sequence[int]) -> str:
    said: str = tokenizer.decode(ids)
    return said


def trained(tokenizer: Any, row: dict[str, Any]) -> list[str]:
    """Return the stretches of a row that have labels, as text."""
    stretches: list[list[int]] = [[]]
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        assert label in (encode.IGNORED, token)
        if label != encode.IGNORED:
            stretches[-1].append(label)
        elif stretches[-1]:
            stretches.append([])
    return [text(tokenizer, ids) for ids in stretches if ids]


def test_every_answer_with_its_end_is_learned_and_nothing_else(tokenizer: Any) -> None:
    (row,) = encode.encode_turns(tokenizer, THREE, max_length=2000)
    assert trained(tokenizer, row) == ["44.1<|im_end|>", "56.7<|im_end|>", "100.8<|im_end|>"]
    assert row["answers"] == 3
    # The text is the template's, written out by hand.
    assert text(tokenizer, row["input_ids"]) == (
        "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nSales?<|im_end|>\n"
        "<|im_start|>assistant\n44.1<|im_end|>\n<|im_start|>user\nAnd 2018?<|im_end|>\n"
        "<|im_start|>assistant\n56.7<|im_end|>\n<|im_start|>user\nSum?<|im_end|>\n"
        "<|im_start|>assistant\n100.8<|im_end|>"
    )


def test_each_answer_follows_the_very_tokens_that_the_model_is_asked_with(tokenizer: Any) -> None:
    (row,) = encode.encode_turns(tokenizer, THREE, max_length=2000)
    for place in (2, 4, 6):
        part = Example(uid="p", messages=THREE.messages[: place + 1])
        asked = encode.prompt_ids(tokenizer, part, 2000)
        assert row["input_ids"][: len(asked)] == asked
        assert row["labels"][len(asked)] != encode.IGNORED
        assert row["labels"][len(asked) - 1] == encode.IGNORED


def test_of_one_exchange_it_is_what_encode_example_gives(tokenizer: Any) -> None:
    one = talk("Sales?", "44.1")
    (row,) = encode.encode_turns(tokenizer, one, max_length=2000)
    del row["answers"]
    assert row == encode.encode_example(tokenizer, one, max_length=2000)


REWRITES = {
    # Without a template, and with one that leaves earlier answers without an end.
    "no template": None,
    "no end": "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
    # As Qwen3 does it: what stands before the last question is written otherwise.
    "drops what was thought": "{% for m in messages %}{% if m['role'] == 'assistant' and "
    "not loop.last %}{{ 'A: -' }}{% else %}{{ m['role'] + ': ' + m['content'] }}{% endif %}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
}


@pytest.mark.parametrize("how", REWRITES)
def test_a_template_that_writes_earlier_turns_otherwise_gives_each_answer_a_row(how: str) -> None:
    tokenizer = tiny.build_tokenizer()
    tokenizer.chat_template = REWRITES[how]
    rows = encode.encode_turns(tokenizer, THREE, max_length=2000)
    assert len(rows) == 3
    for row, place in zip(rows, (2, 4, 6), strict=True):
        part = Example(uid="p", messages=THREE.messages[: place + 1])
        wanted = encode.encode_example(tokenizer, part, max_length=2000)
        assert {key: row[key] for key in wanted} == wanted
        assert row["labels"][-1] == tokenizer.eos_token_id


def test_turns_that_do_not_fit_go_from_the_end_and_the_first_has_to_fit(tokenizer: Any) -> None:
    (whole,) = encode.encode_turns(tokenizer, THREE, max_length=2000)
    (cut,) = encode.encode_turns(tokenizer, THREE, max_length=len(whole["input_ids"]) - 1)
    assert trained(tokenizer, cut) == ["44.1<|im_end|>", "56.7<|im_end|>"] and cut["answers"] == 2
    assert whole["input_ids"][: len(cut["input_ids"])] == cut["input_ids"]
    with pytest.raises(
        LabkitError, match="t needs .* tokens of prompt and .* raise it to at least"
    ):
        encode.encode_turns(tokenizer, THREE, max_length=10)


def rows(tokenizer: Any, examples: list[Example], **settings: Any) -> list[dict[str, Any]]:
    shared = settings.pop("shared", False)
    return SFT.rows(tokenizer, examples, RunConfig(**settings), shared=shared)


def test_rows_that_do_not_fit_are_refused_or_skipped_and_counted(
    tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    examples = [talk("Q?", "A.", uid="short"), talk("word " * 300, "A.", uid="long"), THREE]
    with pytest.raises(LabkitError, match="long needs"):
        rows(tokenizer, examples, max_length=100)
    assert len(rows(tokenizer, examples, max_length=100, bad_rows="skip")) == 2
    said = capsys.readouterr().err
    assert "1 of 3 rows left out: example long needs" in said and "later turns" not in said
    rows(tokenizer, examples, max_length=60, bad_rows="skip")
    assert "1 of 3 conversations are longer than max_length 60" in capsys.readouterr().err
    with pytest.raises(LabkitError, match="no row fits into max_length 5"):
        rows(tokenizer, examples, max_length=5, bad_rows="skip")


def test_conversations_that_begin_alike_share_a_row_with_all_their_answers(tokenizer: Any) -> None:
    other = Example(uid="u", group="t", every_answer=True, messages=talk(
        "Sales?", "44.1", "And 2018?", "56.7", "Why?", "Who knows.", system="Be short."
    ).messages)  # fmt: skip
    three = Example(uid="t", group="t", messages=THREE.messages, every_answer=True)
    apart = rows(tokenizer, [three, other])
    (row,) = rows(tokenizer, [three, other], shared=True)
    for segment, alone in enumerate(apart, start=1):
        seen = [i for i, s in enumerate(row["segment_ids"]) if s in (0, segment)]
        assert [row["input_ids"][i] for i in seen] == alone["input_ids"]
        assert [row["labels"][i] for i in seen] == alone["labels"]
        assert [row["position_ids"][i] for i in seen] == list(range(len(seen)))


def test_a_system_message_that_a_template_refuses_opens_the_first_question() -> None:
    tokenizer = tiny.build_tokenizer()
    templates.use(tokenizer, "mistral")
    (row,) = encode.encode_turns(tokenizer, THREE, max_length=2000)
    assert row["answers"] == 3
    assert "[INST] Be short.\n\nSales? [/INST]44.1" in text(tokenizer, row["input_ids"])
