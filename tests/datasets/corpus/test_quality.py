"""Rules: each is broken by a text made to break it, and the published definitions are counted."""

import re
from collections import Counter

import pytest

from labkit.datasets.corpus import quality
from labkit.datasets.corpus.quality import LIMITS, Page, first_broken
from labkit.datasets.corpus.synthetic_faults import Writer
from labkit.errors import LabkitError

GOOD = Writer(0, 0).paragraphs("en", 200)
SENTENCES = GOOD.replace("\n\n", " ").split(". ")


def measure(name: str, text: str, language: str = "en") -> float | None:
    (rule,) = (rule for rule in quality.RULES if rule.name == name)
    return rule.measure(Page(text, language))


def test_a_good_text_keeps_all_rules() -> None:
    assert first_broken(Page(GOOD, "en"), LIMITS) == ""


@pytest.mark.parametrize(("rule", "text"), [
    ("gopher_dup_paragraphs", "\n\n".join([*SENTENCES[:5], *["Again and again."] * 5])),
    ("gopher_dup_paragraph_chars", GOOD + ("\n\n" + GOOD.split("\n\n")[0]) * 2),
    ("gopher_dup_lines", "\n".join([*SENTENCES[:5], *["Again and again."] * 5])),
    ("gopher_top_2gram", GOOD + " go home" * 60),
    ("gopher_dup_5grams", " ".join(SENTENCES[:8] + SENTENCES[:3])),
    ("gopher_min_words", ". ".join(SENTENCES[:3])),
    ("gopher_min_mean_word_length", " ".join(f"{chr(97 + i % 26)}{chr(97 + i // 26)}."
                                             for i in range(200))),
    ("gopher_max_mean_word_length", "\n".join(s.replace(" ", "", 8) for s in SENTENCES)),
    ("gopher_hashes", GOOD.replace(" ", " #", 60)),
    ("gopher_ellipses", GOOD.replace(" ", "… ", 60)),
    ("gopher_bullet_lines", "\n".join(f"- {s}." for s in SENTENCES)),
    ("gopher_ellipsis_lines", "\n".join(f"{s}…" for s in SENTENCES)),
    ("gopher_alphabetic_words", GOOD + " ".join(map(str, range(100, 300)))),
    ("gopher_stop_words", re.sub(r"(?i)\b(be|to|of|and|that|have|with)\b", "never", GOOD)),
    ("c4_lorem_ipsum", GOOD + " Lorem ipsum."),
    ("c4_curly_bracket", GOOD + " {"),
    ("c4_sentences", GOOD.replace(".", ";") + "."),
    ("fineweb_line_punctuation", "\n".join([GOOD.replace("\n", " "), *(f"No {i} end to {i} it"
                                            for i in range(10))])),
    ("fineweb_short_lines", "\n".join([GOOD, *(f"Line {i} is short." for i in range(40))])),
])  # fmt: skip
def test_a_text_made_to_break_a_rule_breaks_it(rule: str, text: str) -> None:
    others = {name: limit for name, limit in LIMITS.items() if name != rule}
    (broken,) = (each for each in quality.RULES if each.name == rule)
    value = broken.measure(Page(text, "en"))
    assert value is not None
    assert value < LIMITS[rule] if broken.at_least else value > LIMITS[rule]
    assert first_broken(Page(text, "en"), {rule: LIMITS[rule]}) == rule
    assert first_broken(Page(text, "en"), others) != rule
    assert first_broken(Page(GOOD, "en"), {rule: LIMITS[rule]}) == ""


@pytest.mark.parametrize("n", [2, 3, 4])
def test_the_commonest_ngram_is_counted_as_published(n: int) -> None:
    text = " ".join(["the old bridge near the old mill"] * 9 + SENTENCES[:4])
    words = text.lower().replace(".", " ").split()
    grams = Counter(" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
    most = max(grams.values())
    longest = max(len(gram) for gram, count in grams.items() if count == most)
    assert (
        measure(f"gopher_top_{n}gram", text)
        == most * longest / len(text)
        > LIMITS[f"gopher_top_{n}gram"]
    )


@pytest.mark.parametrize("n", range(5, 11))
def test_repeated_ngrams_are_counted_without_overlap(n: int) -> None:
    unique = [f"w{i:02d}" for i in range(40)]
    repeated = unique[:20]
    text = " ".join(unique + repeated)
    whole = 20 // n  # of the repeated twenty words so many n-grams fit beside each other
    assert measure(f"gopher_dup_{n}grams", text) == whole * (4 * n - 1) / len(text)


def test_the_shortcut_never_hides_a_repetition() -> None:
    for number in range(40):
        writer = Writer(1, number)
        text = writer.paragraphs("en", 60) + (" " + writer.sentence("en")) * writer.below(9)
        words = Page(text, "en").words
        for n, limit in ((2, 0.20), (3, 0.18), (4, 0.16)):
            grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
            most = max(grams.values())
            longest = max(len(" ".join(gram)) for gram, count in grams.items() if count == most)
            found = measure(f"gopher_top_{n}gram", text)
            if most > 1 and most * longest / len(text) > limit:
                assert found == most * longest / len(text)
            else:
                assert found is not None and found <= limit


def test_stop_words_are_asked_for_in_known_languages_only() -> None:
    assert measure("gopher_stop_words", "и ещё не то", "ru") == 2
    assert measure("gopher_stop_words", "und noch nicht das", "de") is None


def test_c4_drops_lines() -> None:
    text = ("A heading\nThis line of text stays here.\nPlease enable JavaScript to go on.\n"
            f"We use cookies, see our cookie policy.\n{'x' * 1001} is one long word")  # fmt: skip
    kept, dropped = quality.drop_lines(text)
    assert kept == "This line of text stays here."
    assert dropped == {"c4_line_few_words": 1, "c4_line_javascript": 1, "c4_line_policy": 1,
                       "c4_line_long_word": 1}  # fmt: skip
    assert quality.drop_lines(GOOD) == (GOOD, {})


def test_limits_are_changed_by_name() -> None:
    changed = quality.limits({"gopher_min_words": "20", "c4_sentences": "off"})
    assert changed["gopher_min_words"] == 20 and "c4_sentences" not in changed
    with pytest.raises(LabkitError, match="did you mean 'gopher_min_words'"):
        quality.limits({"gopher_min_word": "20"})
    with pytest.raises(LabkitError, match="'many': write a number or off"):
        quality.limits({"gopher_min_words": "many"})


def test_an_answer_of_a_few_words_is_no_poor_page() -> None:
    assert first_broken(Page("Two words.", "en"), LIMITS, whole_text=False) == ""
    assert first_broken(Page("Lorem ipsum.", "en"), LIMITS, whole_text=False) == "c4_lorem_ipsum"
