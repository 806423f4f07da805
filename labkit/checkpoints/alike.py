"""Find explanations that are nearly the same, for a person to read side by side.

Two texts are compared word by word with difflib's ratio, 2·M / T: M words stand in the same order
in both, T is the words of both together. It is 1 for the same words and 0 for none in common; a
copy with some words exchanged stays above `ALIKE`, and two students who say the same thing in
words of their own lie far below. Nothing is decided here: classmates who worked together write
alike as well.

Source: Ratcliff and Metzener, "Pattern Matching: The Gestalt Approach", Dr. Dobb's Journal, 1988,
as difflib has it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher

ALIKE = 0.8
FEWEST_WORDS = 12
MOST_WORDS = 400
"""words of a text that are compared; longer ones are cut"""
MOST_PAIRS = 200
"""pairs that are returned, the most alike first"""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two explanations of one question, and how much of their words they share."""

    question: str
    one: str
    other: str
    ratio: float
    texts: tuple[str, str]


def words(text: str) -> list[str]:
    """Return the words and numbers of a text in lower case, at most `MOST_WORDS`."""
    return re.findall(r"[\w.]*\w", text.lower())[:MOST_WORDS]


def pairs(explanations: Mapping[str, Mapping[str, str]]) -> list[Pair]:
    """Return the pairs that are alike, {question: {student: text}} being given; most alike first.

    Texts of fewer than `FEWEST_WORDS` words are left out: short ones are alike by accident.
    """
    found = []
    for question, texts in explanations.items():
        split = {student: words(text) for student, text in texts.items()}
        long = {student: each for student, each in split.items() if len(each) >= FEWEST_WORDS}
        matcher = SequenceMatcher(autojunk=False)
        students = sorted(long)
        for place, one in enumerate(students, start=1):
            matcher.set_seq2(long[one])  # the one that difflib indexes and keeps
            for other in students[place:]:
                matcher.set_seq1(long[other])
                # Both are upper bounds, and cheap: most pairs end here.
                if matcher.real_quick_ratio() < ALIKE or matcher.quick_ratio() < ALIKE:
                    continue
                if (ratio := matcher.ratio()) >= ALIKE:
                    found.append(Pair(question=question, one=one, other=other, ratio=ratio,
                                      texts=(texts[one], texts[other])))  # fmt: skip
    found.sort(key=lambda pair: (-pair.ratio, pair.question, pair.one, pair.other))
    return found[:MOST_PAIRS]
