"""Replies of models that think first: what is read of them, and when there is nothing to read."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.datasets import reasoning
from labkit.datasets.answers import parse_answer
from labkit.inference.evaluate import Evaluation, render

READ = {
    "<think>Sales rose, 2 | 3 # million.</think>\n\n= 4 - 1 # percent": ("= 4 - 1 # percent"),
    "<think>\n\n</think>\n\n1,496 # million": "1,496 # million",
    "so it must be 7\n</think>\n7 # thousand": "7 # thousand",
    "<think>a</think>no, wait<think>b</think> 12": "12",
    "<Thinking>a\n42</Thinking>\n43": "43",
    "[THINK]5[/THINK]6": "6",
    "◁think▷5◁/think▷6": "6",
    "<seed:think>5</seed:think>6": "6",
    "<think><think>5</think>6</think>7": "7",
    "8 # million\n<think>or is it": "8 # million",
    "a < b | think": "a < b | think",
}


WRITTEN = {
    "<think>1 + 1</think>2": "2",
    "so it is 2\n</think>\n\n2": "2",
    "so it is 2</think>\n2": "2",
    "<think>a</think>\n\n<THINK>b</THINK>x": "x",
    "<think><think>5</think>6\n</think>\n7": "7",
    "<think>use </thinking> then</think> ans": "ans",
    "[THINK]5[/THINK]6": "6",
    "<think>never closed": "",
    "<thought>Use this</thought> tag in XML.": "<thought>Use this</thought> tag in XML.",
    "Close it with </think> and not before.": "Close it with </think> and not before.",
    "First <think>\nand then\n</think>\nlast.": "First <think>\nand then\n</think>\nlast.",
}


@pytest.mark.parametrize("text", WRITTEN)
def test_an_answer_of_data_begins_after_its_thoughts(text: str) -> None:
    assert reasoning.without(text) == WRITTEN[text]


def test_blanks_and_marks_are_looked_at_once() -> None:
    """This would take an hour where the rest is looked at for each of them."""
    blanks, many = " " * 10**6, 10**5
    assert reasoning.without(f"{blanks}x") == f"{blanks}x"
    assert reasoning.without("<think>\n" * many) == ""
    assert reasoning.without("x </think>\n" * many) == "x </think>\n" * (many - 1)


@pytest.mark.parametrize("text", READ)
def test_the_answer_is_what_follows_the_thought(text: str) -> None:
    assert parse_answer(text) == parse_answer(READ[text])
    assert reasoning.drop(text)[1] is False


@pytest.mark.parametrize(
    "text", ["<think>", "  <think>\n1,496 # million", "<think>a</think><think>b 42",
             "[THINK]so 42", "<reasoning>\n= 1 + 1", "</think><think>"],
)  # fmt: skip
def test_a_reply_cut_off_in_mid_thought_has_no_answer(text: str) -> None:
    assert reasoning.drop(text) == ("", True)
    assert parse_answer(text).values == ()


@given(st.text(alphabet="<>/think[]THINK 1|#\n◁▷", max_size=60))
def test_no_mark_of_reasoning_is_ever_read(text: str) -> None:
    left, cut_off = reasoning.drop(text)
    assert "</think>" not in left and "<think>" not in left
    assert not (cut_off and left)


def test_replies_cut_off_are_said() -> None:
    share = {"value": 0.5, "low": 0.4, "high": 0.6}
    outcome = Evaluation(
        model="m", task="sft", data="d", split="test", n=9, examples=0, by_type={}, by_source={},
        metrics={"em": share, "f1": share}, predictions="p.json", seconds=1.0,
    )  # fmt: skip
    assert "4 of 9 replies were cut off" in render(replace(outcome, cut_off=4))
    assert "cut off" not in render(outcome)


def test_marks_that_are_special_tokens_are_kept_for_the_reader() -> None:
    """A tokenizer that leaves out its special tokens would leave the thought and lose its end."""
    words = ["<s>", "[THINK]", "[/THINK]", "5", "6", "</s>"]

    def batch_decode(rows: list[list[int]], *, skip_special_tokens: bool) -> list[str]:
        kept = [[words[i] for i in row if not (skip_special_tokens and words[i][0] in "<[")]
                for row in rows]  # fmt: skip
        return ["".join(row) for row in kept]

    special = [word for word in words if word[0] in "<["]
    tokenizer = SimpleNamespace(batch_decode=batch_decode, all_special_tokens=special)
    (text,) = reasoning.decode(tokenizer, [[0, 1, 3, 2, 4, 5]])
    assert text == "[THINK]5[/THINK]6" and parse_answer(text).values == ("6",)
    plain = SimpleNamespace(batch_decode=batch_decode, all_special_tokens=["<s>", "</s>"])
    assert reasoning.decode(plain, [[0, 3, 5]]) == ["5"]
