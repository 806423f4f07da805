"""Contamination: 13 words in a row are found whatever their case, 12 are not; items are whole."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.datasets import tatqa
from labkit.datasets.corpus.contamination import LEAST_WORDS, guard, items_of
from labkit.datasets.corpus.words import numbers
from labkit.errors import LabkitError

WORDS = [f"word{n}" for n in range(40)]
ITEMS = [
    ("long", [" ".join(WORDS[:20])]),
    ("short", ["ten words that are an item of a test whole"]),
    ("tiny", ["is it so"]),
]


@pytest.mark.parametrize(("text", "found"), [
    (" ".join(WORDS[3:16]), {0}), (" ".join(WORDS[3:15]), set()),
    ("Before: " + ", ".join(WORDS[:13]).upper() + "! After.", {0}),
    ("we say ten words that are an item of a test whole here", {1}),
    ("we say ten words that are an item of a test only here", set()),
    ("is it so", set()), ("", set()),
    (" ".join(WORDS[:20]) + ". Ten words that are an item of a test whole.", {0, 1}),
])  # fmt: skip
def test_thirteen_words_in_a_row(text: str, found: set[int]) -> None:
    against = guard(ITEMS)
    assert against.find(numbers(text)) == found
    assert against.unchecked == 1


def test_a_system_message_of_a_test_is_no_items(tmp_path: Path) -> None:
    said, asked = " ".join(WORDS[:20]), " ".join(WORDS[20:])
    rows = [
        {"messages": [{"role": "system", "content": said}, {"role": "user", "content": asked}]},
        {"conversations": [{"from": "system", "value": said}, {"from": "human", "value": asked}]},
        {"system": said, "prompt": asked},
    ]
    file = tmp_path / "test.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    against = guard(items_of(str(file)))
    assert against.find(numbers(asked)) == {0, 1, 2} and against.find(numbers(said)) == set()


STRETCHES = st.lists(st.sampled_from([" ".join(WORDS[a:b]) for a in (0, 5) for b in (9, 13, 22)]),
                     max_size=4).map(" ".join)  # fmt: skip


@settings(deadline=None)
@given(st.lists(STRETCHES, max_size=4), STRETCHES)
def test_what_is_found_is_what_shares_words_in_a_row(items: list[str], text: str) -> None:
    def grams(part: str, n: int) -> set[tuple[str, ...]]:
        words = part.split()
        return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}

    expected = set()
    for place, item in enumerate(items):
        n = min(13, len(item.split()))
        if n >= LEAST_WORDS and grams(item, n) & grams(text, n):
            expected.add(place)
    assert guard((str(n), [item]) for n, item in enumerate(items)).find(numbers(text)) == expected


def test_nothing_to_keep_out() -> None:
    assert guard([]).find(numbers(" ".join(WORDS))) == set()


def test_every_question_of_the_tables_test_is_found_by_its_report() -> None:
    items = items_of("tables")
    against = guard(items)
    assert len(items) == len(tatqa.samples(tatqa.load("tables", "test")))
    for place, (_, texts) in enumerate(items):
        long = [text for text in texts if numbers(text).count >= LEAST_WORDS]
        assert long and all(place in against.find(numbers(f"x {text} y")) for text in long)


def test_files_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one item\n\nanother item\n")
    (tmp_path / "b.jsonl").write_text(json.dumps({"q": "ask", "choices": ["x", {"y": "z"}]}) + "\n")
    assert items_of(str(tmp_path / "a.txt")) == [
        ("a.txt:1", ["one item"]),
        ("a.txt:2", ["another item"]),
    ]
    assert items_of(str(tmp_path / "b.jsonl")) == [("b.jsonl:1", ["ask", "x", "z"])]
    assert items_of(str(tatqa.path_of("tables", "dev")))[0][0].startswith("dev.json:")
    for content, sentence in (
        ("", "has no test items"),
        ("{", "is not valid JSON"),
        ("1", "no text"),
    ):
        (tmp_path / "c.jsonl").write_text(content)
        with pytest.raises(LabkitError, match=sentence):
            items_of(str(tmp_path / "c.jsonl"))
    with pytest.raises(LabkitError, match="there is no test nowhere"):
        items_of("nowhere")
