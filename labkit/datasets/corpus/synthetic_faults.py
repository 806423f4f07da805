"""The faults of the synthetic corpus: each a function that writes a text and what is true of it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from labkit.datasets import tatqa
from labkit.datasets.corpus.synthetic_words import HEADINGS, QUESTIONS, VOCABULARY

LIKENESSES = (0.95, 0.9, 0.85, 0.82, 0.78, 0.75, 0.7, 0.6, 0.5)
"""What near-duplicates are made at; those from 0.8 on are to be found, the others kept."""
MOJIBAKE = (("utf-8", "latin-1"), ("utf-8", "cp1251"), ("cp1251", "latin-1"))
_TWINS = str.maketrans("аеорсух", "aeopcyx")

Item = dict[str, Any]


class Writer:
    """Makes sentences, paragraphs and texts of a language by seeded chance."""

    def __init__(self, seed: int, number: int) -> None:
        self._random = Random(f"{seed}:{number}").random

    def below(self, count: int) -> int:
        """Return a whole number from 0 to count - 1."""
        return int(self._random() * count)

    def one_of(self, choices: Sequence[Any]) -> Any:
        """Return one of the choices."""
        return choices[int(self._random() * len(choices))]

    def sentence(self, language: str) -> str:
        """Return a sentence of 6 to 16 words, of which a third hold it together."""
        small, large = VOCABULARY[language]
        chance, words = self._random, []
        for place in range(6 + int(chance() * 11)):
            bank = small if place % 3 == 1 else large
            words.append(bank[int(chance() * len(bank))])
        return " ".join(words).capitalize() + "."

    def paragraphs(self, language: str, words: int) -> str:
        """Return paragraphs of three to six sentences, of about so many words."""
        parts: list[str] = []
        have = 0
        while have < words:
            sentences = [self.sentence(language) for _ in range(3 + self.below(4))]
            have += sum(sentence.count(" ") + 1 for sentence in sentences)
            parts.append(" ".join(sentences))
        return "\n\n".join(parts)

    def title(self, language: str) -> str:
        """Return a title of four words."""
        words = VOCABULARY[language][1]
        return f"{self.one_of(HEADINGS[language])}: " + " ".join(
            self.one_of(words) for _ in range(3)
        )

    def text(self, language: str) -> str:
        """Return a text of 100 to 600 words, most of them short."""
        return self.paragraphs(language, int(100 * math.exp(1.8 * self._random())))


def likeness(one: str, other: str) -> float:
    """Return the Jaccard index of two texts' sets of five words in a row."""

    def grams(text: str) -> set[tuple[str, ...]]:
        words = text.lower().replace(".", " ").replace(",", " ").split()
        return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}

    a, b = grams(one), grams(other)
    return len(a & b) / len(a | b)


def near_copy(text: str, target: float, writer: Writer, language: str) -> str:
    """Return the text with so many words exchanged that about `target` of its 5-grams are shared.

    k words that are far enough apart are in 5k of n 5-grams, so the index is (n - 5k) / (n + 5k).
    """
    words = text.split(" ")
    bank = VOCABULARY[language][1]
    count = max(1, int(len(words) * (1 - target) / (5 * (1 + target))))
    for number in range(count):
        place = int((number + writer.below(1000) / 1000) * len(words) / count)
        while not words[place].isalpha():
            place = (place + 1) % len(words)
        words[place] = writer.one_of(bank)
    return " ".join(words)


@dataclass(frozen=True, kw_only=True)
class Around:
    """What a fault is made from: the clean text before it, its number, the test's passages."""

    base: Item
    planted: int
    passages: list[tuple[str, str]]


def _near(writer: Writer, item: Item, around: Around) -> Item:
    target = LIKENESSES[writer.below(len(LIKENESSES))]
    item["text"] = near_copy(around.base["text"], target, writer, around.base["language"])
    return {"kind": "near", "of": around.base["id"], "language": around.base["language"],
            "jaccard": round(likeness(around.base["text"], item["text"]), 4)}  # fmt: skip


def _exact(writer: Writer, item: Item, around: Around) -> Item:
    item["text"] = around.base["text"].replace(". ", "! ", 1)
    return {"kind": "exact", "of": around.base["id"], "language": around.base["language"]}


def _mojibake(writer: Writer, item: Item, around: Around) -> Item:
    text = writer.text("ru")
    right, wrong = MOJIBAKE[around.planted % len(MOJIBAKE)]
    # What a table has no character for would be lost: such letters are written otherwise.
    text = text.replace("И", "и") if (right, wrong) == ("utf-8", "cp1251") else text
    item["text"] = text.encode(right).decode(wrong)
    return {"kind": "mojibake", "language": "ru", "text": text, "table": f"{right} as {wrong}"}


def _lookalikes(writer: Writer, item: Item, around: Around) -> Item:
    text = writer.text("ru")
    words = text.split(" ")
    for place in range(0, len(words), 7):
        word = words[place]
        if len(word) > 3:
            words[place] = word[:2] + word[2:].translate(_TWINS)
    item["text"] = " ".join(words)
    return {"kind": "lookalikes", "language": "ru", "text": text}


def _pii(writer: Writer, item: Item, around: Around) -> Item:
    digits = "".join(str(writer.below(10)) for _ in range(7))
    secrets = [
        f"user{digits}@mail{writer.below(90)}.example.org",
        f"+7 (495) {digits[:3]}-{digits[3:5]}-{digits[5:]}",
        _card(writer),
        _snils(writer),
        f"93.184.{writer.below(200) + 1}.{writer.below(200) + 1}",
    ]
    decoys = [f"{1900 + writer.below(120)}", f"{writer.below(900) + 100} 000 000", "192.168.0.1",
              f"3.{writer.below(20)}.{writer.below(20)}"]  # fmt: skip
    language = "ru"
    parts = [f"{writer.sentence(language)[:-1]} {each}." for each in [*secrets, *decoys]]
    item["text"] = writer.text(language) + "\n\n" + " ".join(parts)
    return {"kind": "pii", "language": language, "secrets": secrets, "decoys": decoys}


def _card(writer: Writer) -> str:
    digits = [4] + [writer.below(10) for _ in range(14)]
    doubled = [d * 2 - 9 * (d > 4) for d in digits[::2]]
    digits.append(-(sum(doubled) + sum(digits[1::2])) % 10)
    text = "".join(map(str, digits))
    return " ".join(text[i : i + 4] for i in range(0, 16, 4))


def _snils(writer: Writer) -> str:
    digits = [writer.below(10) for _ in range(9)]
    check = sum((9 - i) * d for i, d in enumerate(digits)) % 101 % 100
    text = "".join(map(str, digits))
    return f"{text[:3]}-{text[3:6]}-{text[6:]} {check:02d}"


def _contaminated(writer: Writer, item: Item, around: Around) -> Item:
    name, passage = around.passages[around.planted % len(around.passages)]
    item["text"] = f"{writer.text('en')} {passage} {writer.sentence('en')}"
    return {"kind": "contaminated", "of": name, "language": "en"}


def _foreign(writer: Writer, item: Item, around: Around) -> Item:
    item["text"] = writer.text("de")
    return {"kind": "foreign", "language": "de"}


def _poor(writer: Writer, item: Item, around: Around) -> Item:
    language = "en"
    text = writer.text(language)
    line = writer.sentence(language)
    poor: dict[str, str] = {
        "gopher_min_words": " ".join(writer.sentence(language) for _ in range(2)),
        "gopher_dup_lines": "\n".join([line] * 20),
        "gopher_top_2gram": " ".join([writer.sentence(language)[:20] + "."] + ["to see"] * 80),
        "gopher_hashes": text.replace(" ", " # "),
        "gopher_ellipsis_lines": text.replace(".\n", "…\n")[:-1] + "…",
        "gopher_alphabetic_words": " ".join(str(writer.below(9000)) + "." for _ in range(120)),
        "gopher_stop_words": " ".join(
            writer.one_of(VOCABULARY[language][1]).capitalize() + "." * (i % 9 == 8)
            for i in range(150)
        ),
        "c4_lorem_ipsum": text + " Lorem ipsum dolor sit amet.",
        "c4_curly_bracket": text + " if (x) { return; }",
        "c4_sentences": text.replace(".", ",") + ".",
        "fineweb_short_lines": "\n".join(
            " ".join(writer.one_of(VOCABULARY[language][i % 2]) for i in range(4))[:28] + "."
            for _ in range(60)
        ),
    }
    rule = sorted(poor)[around.planted % len(poor)]
    item["text"] = poor[rule]
    return {"kind": "poor", "language": language, "rule": rule}


def _questions(writer: Writer, item: Item, around: Around) -> Item:
    language = "ru" if around.planted % 2 else "en"
    pairs = []
    for number in range(3 + writer.below(4)):
        noun = writer.one_of(VOCABULARY[language][1])
        asked = QUESTIONS[language][number % len(QUESTIONS[language])].format(noun) + "?"
        pairs.append([asked, writer.paragraphs(language, 30)])
    item["text"] = "\n\n".join(f"{n}. {q}\n\n{a}" for n, (q, a) in enumerate(pairs, 1))
    return {"kind": "questions", "language": language, "pairs": pairs}


KINDS: dict[int, Callable[..., Item]] = {
    2: _near, 5: _near, 8: _near, 11: _exact, 13: _mojibake, 15: _lookalikes, 17: _pii,
    19: _contaminated, 21: _foreign, 22: _poor, 23: _questions,
}  # fmt: skip


def passages_of_tests() -> list[tuple[str, str]]:
    """Return for each question of the tables test split a passage that gives it away."""
    found = []
    for report in tatqa.load("tables", "test"):
        passage = max(report.paragraphs, key=len)
        found += [(f"tables:{question.uid}", passage) for question in report.questions]
    return found[::6] + [item for place, item in enumerate(found) if place % 6]
