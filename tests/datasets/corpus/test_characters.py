"""Kinds of characters: one pass says what searches would, so that what is skipped had no work."""

import re
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.datasets.corpus import characters, language, normalise, pii, quality, synthetic, words
from labkit.datasets.corpus.characters import BEYOND, CLASSES, NUMERAL, UNSTABLE, count, has

# Letters that steps look for, beside all others: chance alone seldom brings two of them together.
WATCHED = "aZйЁСР№™“’«\u00ad\u0301\u0300é\tÐ½Ã©\x07 \n&;{}09²٣@+()-.…#\ud83d😀𝟗ǅİΣςẞﬁ가ᄀ\u3000"
TEXTS = st.text(st.one_of(st.sampled_from(WATCHED), st.characters()), max_size=60)
STEPS: dict[str, Callable[[str], Any]] = {
    "normalise": normalise.normalise, "mask": pii.mask, "words": words.words,
    "foreign": lambda text: language.without_foreign(text, "ru"), "lines": quality.drop_lines,
    "rules": lambda text: quality.first_broken(quality.Page(text, "ru"), {
        "gopher_alphabetic_words": 0.8, "c4_lorem_ipsum": 0}),
}  # fmt: skip


@settings(deadline=None)  # the first asks for tables and libraries
@given(TEXTS)
def test_kinds_are_what_searches_find(text: str) -> None:
    units = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    for kind, pattern in CLASSES.items():
        if kind not in (BEYOND, UNSTABLE):
            assert has(text, kind) == bool(re.search(pattern, units)), pattern
            assert count(text, kind) == len(re.findall(pattern, units)), pattern
    assert has(text, BEYOND) == any(c > "\uffff" or "\ud800" <= c <= "\udfff" for c in text)
    assert has(text, NUMERAL) or not any(map(str.isdigit, text))


def test_a_text_of_stable_characters_is_in_its_normal_form() -> None:
    stable = [c for c in map(chr, range(2**16)) if not has(c, UNSTABLE)]
    assert len(stable) > 900 and {"й", "Ё", "é", "№", "«"} <= set(stable)
    # A pair may become one character: of stable ones none is the second of a pair.
    pairs = (unicodedata.decomposition(chr(n)).split() for n in range(0x110000))
    seconds = {pair[1] for pair in pairs if len(pair) == 2 and "<" not in pair[0]}
    for c in stable:
        assert unicodedata.is_normalized("NFC", c) and not unicodedata.combining(c)
        assert f"{ord(c):04X}" not in seconds


@pytest.mark.parametrize("name", STEPS)
@settings(deadline=None)
@given(text=TEXTS)
def test_what_is_skipped_would_have_changed_nothing(name: str, text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for module in (language, normalise, pii, quality, words):
            patch.setattr(module, "has", lambda text, kind: True)
        expected = STEPS[name](text)
    assert STEPS[name](text) == expected


def test_the_synthetic_texts_come_out_as_without_skipping() -> None:
    made = [item["text"] for (item, _), _ in zip(synthetic.texts(3, 25), range(60), strict=False)]
    with pytest.MonkeyPatch.context() as patch:
        for module in (language, normalise, pii, quality, words):
            patch.setattr(module, "has", lambda text, kind: True)
        expected = [[step(text) for step in STEPS.values()] for text in made]
    characters.kinds.cache_clear()
    assert [[step(text) for step in STEPS.values()] for text in made] == expected
