"""The published rules for what is a text: Gopher, C4, FineWeb, each by name with its threshold.

Gopher  Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training
        Gopher", section A.1.1 and table A1
C4      Raffel et al. 2020, "Exploring the Limits of Transfer Learning", section 2.2, with the
        numbers of its code (tensorflow_datasets, text/c4_utils.py): five sentences, three words
FineWeb Penedo et al. 2024, "The FineWeb Datasets", section 3.6

As in FineWeb, C4's rule that each line ends in a punctuation mark is left out (it removes 30 % by
itself), and Gopher's repetition and quality rules, C4's and FineWeb's are asked in this order. C4's
list of bad words is not shipped. Stop words are Gopher's eight in English and eight of ours, as
common, in Russian; the rule says nothing about other languages. Words are runs of letters and
digits where the papers' tokenizers also split off punctuation.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property

from labkit.datasets.corpus.characters import NUMERAL, has
from labkit.datasets.corpus.words import Hashes, Numbers, lower, numbers, of_words, words
from labkit.errors import LabkitError, nearest

STOP_WORDS = {
    "en": frozenset(("the", "be", "to", "of", "and", "that", "have", "with")),
    "ru": frozenset(("и", "в", "не", "на", "что", "с", "как", "это")),
}
LEAST_WORDS_IN_LINE = 3
LONGEST_WORD = 1000
POLICY = (
    "terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies",
    "use cookies", "политика конфиденциальности", "использует файлы cookie",
)  # fmt: skip
WATCHED = ("javascript", "cookie", "privacy", "terms of use", "конфиденциальности")
"""One of these is in every line that `POLICY` and javascript are about."""
SHORT_LINE = 30

_SENTENCE_END = re.compile(r"[.!?…][\"'»)\]]*(?:\s|$)")
_BULLETS = ("•", "-", "*", "–", "—", "·")
_ENDS = (".", "!", "?", '"', "'", "…", "»", ":", ";")


class Page:
    """A text with what the rules count in it, each counted when first asked for."""

    def __init__(self, text: str, language: str) -> None:
        self.text, self.language = text, language

    @cached_property
    def words(self) -> list[str]:
        return words(self.text)

    @cached_property
    def numbers(self) -> Numbers:
        return numbers(self.text)

    @cached_property
    def count(self) -> int:
        return self.numbers.count

    @cached_property
    def mean_word_length(self) -> float:
        return self.share(int(self.numbers.lengths.sum()), self.count)

    @cached_property
    def lines(self) -> list[str]:
        return [line for line in self.text.split("\n") if line]

    @cached_property
    def paragraphs(self) -> list[str]:
        return [each for each in self.text.split("\n\n") if each]

    @cached_property
    def may_repeat(self) -> bool:
        """Whether one 2-, 3- or 4-gram can take 15 % of the text; hardly a text comes that far.

        No 4-gram occurs more often than the commonest pair of words, and none is longer than four
        times the longest word.
        """
        longest = 4 * int(self.numbers.lengths.max(initial=0)) + 3
        count = max(2, math.ceil(0.15 * len(self.text) / longest))
        pairs = self.numbers.sorted_ngrams(2)  # equal ones stand together
        again = pairs[count - 1 :] == pairs[: max(0, len(pairs) - count + 1)]
        return bool(again.any())

    @cached_property
    def repeats_five_words(self) -> bool:
        grams = self.numbers.sorted_ngrams(5)
        return bool((grams[1:] == grams[:-1]).any())

    def share(self, count: float, of: int) -> float:
        return count / of if of else 0.0


def _repeated(parts: list[str]) -> tuple[int, int]:
    """Return how many parts occurred before, and their characters."""
    if len(set(parts)) == len(parts):
        return 0, 0
    again = [(count - 1, len(part)) for part, count in Counter(parts).items() if count > 1]
    return sum(count for count, _ in again), sum(count * size for count, size in again)


def _top_gram(n: int) -> Callable[[Page], float]:
    def measure(page: Page) -> float:
        if not page.may_repeat:
            return 0.0
        grams = Counter(zip(*(page.words[i:] for i in range(n)), strict=False))
        if not grams or (most := max(grams.values())) < 2:
            return 0.0
        longest = max(sum(map(len, gram)) for gram, count in grams.items() if count == most)
        return page.share(most * (longest + n - 1), len(page.text))

    return measure


def _repeated_grams(n: int) -> Callable[[Page], float]:
    def measure(page: Page) -> float:
        if not page.repeats_five_words:
            return 0.0
        seen: set[int] = set()
        grams, place, characters = page.numbers.ngrams(n).tolist(), 0, 0
        while place < len(grams):
            if grams[place] in seen:
                characters += sum(map(len, page.words[place : place + n])) + n - 1
                place += n
            else:
                seen.add(grams[place])
                place += 1
        return page.share(characters, len(page.text))

    return measure


def _words_with_a_letter(page: Page) -> int:
    numbers = sum(map(str.isdigit, page.words)) if has(page.text, NUMERAL) else 0
    return page.count - numbers


def _stop_words(page: Page) -> float | None:
    known = _stop_numbers(page.language)
    if known is None:
        return None
    return int((known[:, None] == page.numbers.numbers).any(axis=1).sum())


@cache
def _stop_numbers(language: str) -> Hashes | None:
    known = STOP_WORDS.get(language)
    return of_words(sorted(known)).numbers if known else None


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule: a text's measure is at most, or at least, the limit; None says it does not apply."""

    name: str
    measure: Callable[[Page], float | None]
    limit: float
    says: str
    at_least: bool = False
    whole_texts: bool = True
    """Whether the rule is for pages of running text, and not for an answer of a few words."""


def _rule(name: str, limit: float, says: str, measure: Callable[[Page], float | None], *,
          at_least: bool = False, whole_texts: bool = True) -> Rule:  # fmt: skip
    return Rule(name=name, measure=measure, limit=limit, says=says, at_least=at_least,
                whole_texts=whole_texts)  # fmt: skip


RULES: tuple[Rule, ...] = (
    _rule("gopher_dup_paragraphs", 0.30, "paragraphs that occurred before",
          lambda p: p.share(_repeated(p.paragraphs)[0], len(p.paragraphs))),
    _rule("gopher_dup_paragraph_chars", 0.20, "characters in such paragraphs",
          lambda p: p.share(_repeated(p.paragraphs)[1], len(p.text))),
    _rule("gopher_dup_lines", 0.30, "lines that occurred before",
          lambda p: p.share(_repeated(p.lines)[0], len(p.lines))),
    _rule("gopher_dup_line_chars", 0.20, "characters in such lines",
          lambda p: p.share(_repeated(p.lines)[1], len(p.text))),
    *(_rule(f"gopher_top_{n}gram", limit, f"characters in the commonest {n}-gram", _top_gram(n))
      for n, limit in ((2, 0.20), (3, 0.18), (4, 0.16))),
    *(_rule(f"gopher_dup_{n}grams", limit, f"characters in {n}-grams that occurred before",
            _repeated_grams(n), whole_texts=False)
      for n, limit in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))),
    _rule("gopher_min_words", 50, "words", lambda p: p.count, at_least=True),
    _rule("gopher_max_words", 100_000, "words", lambda p: p.count, whole_texts=False),
    _rule("gopher_min_mean_word_length", 3, "mean word length",
          lambda p: p.mean_word_length, at_least=True),
    _rule("gopher_max_mean_word_length", 10, "mean word length",
          lambda p: p.mean_word_length),
    _rule("gopher_hashes", 0.1, "hash signs for each word",
          lambda p: p.share(p.text.count("#"), p.count), whole_texts=False),
    _rule("gopher_ellipses", 0.1, "ellipses for each word",
          lambda p: p.share(p.text.count("...") + p.text.count("…"), p.count),
          whole_texts=False),
    _rule("gopher_bullet_lines", 0.9, "lines that begin with a bullet",
          lambda p: p.share(sum(line.lstrip().startswith(_BULLETS) for line in p.lines),
                            len(p.lines))),
    _rule("gopher_ellipsis_lines", 0.3, "lines that end with an ellipsis",
          lambda p: p.share(sum(line.endswith(("...", "…")) for line in p.lines), len(p.lines))),
    _rule("gopher_alphabetic_words", 0.8, "words with a letter",
          lambda p: p.share(_words_with_a_letter(p), p.count), at_least=True),
    _rule("gopher_stop_words", 2, "different stop words", _stop_words, at_least=True),
    _rule("c4_lorem_ipsum", 0, "lorem ipsum", lambda p: lower(p.text).count("lorem ipsum"),
          whole_texts=False),
    _rule("c4_curly_bracket", 0, "curly brackets", lambda p: p.text.count("{")),
    _rule("c4_sentences", 5, "sentences", lambda p: len(_SENTENCE_END.findall(p.text)),
          at_least=True),
    _rule("fineweb_line_punctuation", 0.12, "lines that end in a punctuation mark",
          lambda p: p.share(sum(line.endswith(_ENDS) for line in p.lines), len(p.lines)),
          at_least=True),
    _rule("fineweb_short_lines", 0.67, f"lines of at most {SHORT_LINE} characters",
          lambda p: p.share(sum(len(line) <= SHORT_LINE for line in p.lines), len(p.lines))),
    _rule("fineweb_dup_line_chars", 0.1, "characters in lines that occurred before",
          lambda p: p.share(_repeated(p.lines)[1], len(p.text))),
)  # fmt: skip
LIMITS: dict[str, float] = {rule.name: rule.limit for rule in RULES}


def limits(changes: Mapping[str, str]) -> dict[str, float]:
    """Return the limits with changes such as {"gopher_min_words": "20", "c4_sentences": "off"}.

    Raises:
        LabkitError: there is no such rule, or a limit is neither a number nor off.
    """
    changed = dict(LIMITS)
    for name, value in changes.items():
        if name not in LIMITS:
            raise LabkitError(f"there is no rule {name!r}; {nearest(name, LIMITS)}")
        if value == "off":
            del changed[name]
            continue
        try:
            changed[name] = float(value)
        except ValueError:
            raise LabkitError(f"rule {name} is given {value!r}: write a number or off") from None
    return changed


def first_broken(page: Page, limits: Mapping[str, float], *, whole_text: bool = True) -> str:
    """Return the name of the first rule that a text breaks, or "" when it keeps them all."""
    for rule in RULES:
        limit = limits.get(rule.name)
        if limit is None or (rule.whole_texts and not whole_text):
            continue
        value = rule.measure(page)
        if value is not None and (value < limit if rule.at_least else value > limit):
            return rule.name
    return ""


def drop_lines(text: str) -> tuple[str, Counter[str]]:
    """Return the text without the lines that C4 drops, and how many for which reason."""
    dropped: Counter[str] = Counter()
    low = lower(text)
    watched = any(word in low for word in WATCHED)
    kept = []
    for line in text.split("\n"):
        reason = ""
        if line:
            if line.count(" ") < LEAST_WORDS_IN_LINE - 1:
                reason = "c4_line_few_words"
            elif len(line) > LONGEST_WORD and max(map(len, line.split())) > LONGEST_WORD:
                reason = "c4_line_long_word"
            elif watched:
                small = line.lower()
                if "javascript" in small:
                    reason = "c4_line_javascript"
                elif any(phrase in small for phrase in POLICY):
                    reason = "c4_line_policy"
        if reason:
            dropped[reason] += 1
        else:
            kept.append(line)
    return ("\n".join(kept).strip() if dropped else text), dropped
