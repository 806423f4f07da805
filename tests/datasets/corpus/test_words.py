"""Words as numbers: n-grams and likeness equal those counted with tuples and sets."""

import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.datasets.corpus import words

TEXTS = st.lists(st.sampled_from(["a", "b", "c", "мир", "7"]), max_size=40)


def tuples(text: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


@given(TEXTS, TEXTS, st.integers(1, 13))
def test_ngrams_are_equal_where_the_words_are(one: list[str], other: list[str], n: int) -> None:
    a, b = (words.of_words(text).ngrams(n).tolist() for text in (one, other))
    as_tuples = tuples(one, n) + tuples(other, n)
    numbers = a + b
    assert len(numbers) == len(as_tuples)
    assert len(set(numbers)) == len(set(as_tuples))
    assert len(set(zip(numbers, as_tuples, strict=True))) == len(set(as_tuples))


@given(TEXTS, TEXTS)
def test_likeness_is_that_of_sets_of_tuples(one: list[str], other: list[str]) -> None:
    a, b = (words.of_words(text).shingles(2) for text in (one, other))
    if len(one) > 1 and len(other) > 1:
        sets = set(tuples(one, 2)), set(tuples(other, 2))
        assert words.jaccard(a, b) == len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@given(TEXTS)
def test_the_whole_text_is_one_ngram(text: list[str]) -> None:
    if text:
        assert words.of_words(["x", *text]).ngrams(len(text))[1] == words.of_words(text).whole()


def test_case_and_punctuation_count_for_nothing() -> None:
    assert words.words("Мир, «мир»… И: ёлка-2!") == ["мир", "мир", "и", "ёлка", "2"]


@pytest.mark.parametrize("seed", ["1", "2"])
def test_numbers_do_not_depend_on_the_process(seed: str) -> None:
    code = "from labkit.datasets.corpus.words import numbers; print(numbers('a b мир').whole())"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed,
                          "PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True,
                          check=True)  # fmt: skip
    assert int(done.stdout) == words.numbers("a b мир").whole()


LETTERS = st.text(st.sampled_from("aб7_é\u0307 .,-Иİ字\n😀𝟗"), max_size=40)


@settings(deadline=None)
@given(st.lists(LETTERS, min_size=1, max_size=4))
def test_numbers_of_a_text_are_those_of_its_words(texts: list[str]) -> None:
    for text in texts:
        one, other = words.numbers(text), words.of_words(words.words(text))
        assert one.count == other.count and one.lengths.tolist() == other.lengths.tolist()
        assert one.numbers.tolist() == other.numbers.tolist()


def test_words_that_share_a_slot_keep_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(f"w{n * n % 37}" for n in range(80))
    expected = words.of_words(text.split()).numbers.tolist()
    monkeypatch.setattr(words, "SLOTS_BITS", 3)
    monkeypatch.setattr(words, "_slots", cache(lambda: np.zeros((8, 2), np.uint64)))
    for _ in range(2):
        assert words.numbers(text).numbers.tolist() == expected
    monkeypatch.setattr(words, "LONGEST_AT_ONCE", 10)
    assert words.numbers(text).numbers.tolist() == expected


def test_small_letters_of_the_first_plane_stay_in_it() -> None:
    assert all(max(chr(n).lower()) < "\U00010000" for n in range(2**16))
