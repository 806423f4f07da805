"""What a question of the embedded set is before it is written, and how it names things.

Arithmetic answers are never typed in: the derivation is evaluated in exact fractions and rounded
to two decimals. A value that lies between two roundings (x.xx5) is refused, so rounding
half up, half to even and in binary floats all give the answer in the file.
"""

from __future__ import annotations

import ast
import random
import re
from dataclasses import dataclass, field
from fractions import Fraction

from labkit.datasets.tables.grid import Grid, Line
from labkit.datasets.tables.text import ALIASES


@dataclass(kw_only=True)
class Ask:
    """A question with its answer; for a count the answer lists what is counted."""

    text: str
    answer: list[str]
    kind: str
    """span, multi-span, arithmetic or count"""
    source: str
    """table, text or table-text"""
    scale: str = ""
    derivation: str = ""
    percent_of: bool = False
    """Whether the answer is the derivation's value times 100."""
    comparison: bool = False

    def value(self) -> Fraction:
        """Exact value of an arithmetic answer."""
        return exact(self.derivation) * (100 if self.percent_of else 1)


@dataclass(kw_only=True)
class Paragraph:
    """A sentence of the report with the questions it answers."""

    text: str
    asks: list[Ask] = field(default_factory=list)
    scale: bool = False
    """Whether it says the scale of the table."""


def exact(expression: str) -> Fraction:
    """Evaluate + - * / and parentheses on decimal numbers without rounding."""
    return _walk(ast.parse(re.sub(r"(?<=\d),(?=\d)", "", expression), mode="eval").body)


def _walk(node: ast.expr) -> Fraction:
    if isinstance(node, ast.UnaryOp):
        return -_walk(node.operand)
    if isinstance(node, ast.BinOp):
        left, right = _walk(node.left), _walk(node.right)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        return left * right if isinstance(node.op, ast.Mult) else left / right
    assert isinstance(node, ast.Constant)
    return Fraction(str(node.value))


def rounded(value: Fraction) -> int | float | None:
    """Round to two decimals; None when the value lies between two of them, or almost.

    Almost: so that rounding to four decimals first, as readers of answers do, changes nothing.
    """
    hundredths = value * 100
    if abs(hundredths % 1 - Fraction(1, 2)) < Fraction(1, 100):
        return None
    whole = round(hundredths)
    return whole // 100 if whole % 100 == 0 else whole / 100


def pick(rng: random.Random, choices: str) -> str:
    """Draw one of the alternatives separated by ' / '."""
    return rng.choice(choices.split(" / "))


def sentence(text: str) -> str:
    """Close gaps that empty slots left, drop the second dot of "Inc..", capitalise."""
    text = re.sub(r" +(?=[ ?.,])", "", text).replace("..", ".").strip()
    return text[0].upper() + text[1:]


def listing(names: list[str]) -> str:
    """'2019 and 2018', '2019, 2018 and 2017'."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def plural(word: str) -> str:
    """Plural of a group noun."""
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "ch")) else "s")


def bare(phrase: str) -> str:
    """A noun phrase without its article."""
    return phrase.removeprefix("the ")


def age(column: Line) -> tuple[str, str]:
    """Sort key of a period, old before new; 'later years' come last."""
    year = re.findall(r"\d{4}", column.name)
    return (year[0] if year else "9999", column.name)


_WITH_ARTICLE = ("change", "net", "effective", "provision", "fees")
"""First words of totals that take an article: 'the net change in cash', but 'total revenue'."""


class Namer:
    """Names of items and cells in running text, drawn anew for every question."""

    def __init__(self, rng: random.Random, grid: Grid) -> None:
        self.rng, self.grid = rng, grid

    def line(self, i: int) -> str:
        """Noun phrase of an item: 'revenue from hardware'."""
        item, topic = self.grid.items[i], self.grid.topic
        if item.total:
            if item.name == "total":
                return self.rng.choice(("the total", "total " + topic.name.removeprefix("the ")))
            return f"the {item.name}" if item.name.split()[0] in _WITH_ARTICLE else item.name
        name = item.name
        if name in ALIASES and self.rng.random() < 0.3:
            name = ALIASES[name]
        return self.rng.choice(topic.nouns.split(";")).format(row=name)

    def when(self, p: int) -> str:
        """Phrase of a period: 'in 2019'; nothing for a facet."""
        return self.rng.choice(self.grid.columns[p].phrases) if self.grid.timed else ""

    def cell(self, i: int, p: int, when: bool = True) -> str:
        """Noun phrase of one cell, with or without its period."""
        if not self.grid.timed:
            return f"the {self.grid.columns[p].name} of {self.line(i)}"
        return f"{self.line(i)} {self.when(p)}" if when else self.line(i)
