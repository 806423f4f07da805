"""What a question of the embedded set is before it is written: text, answer, source, derivation.

Arithmetic answers are never typed in: the derivation is evaluated in exact fractions and rounded
to two decimals. A value that lies exactly between two roundings (x.xx5) is refused, so rounding
half up, half to even and in binary floats all give the answer in the file.
"""

from __future__ import annotations

import ast
import random
import re
from dataclasses import dataclass, field
from fractions import Fraction


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
    """Round to two decimals; None when the value lies exactly between two of them."""
    hundredths = value * 100
    if hundredths.denominator == 2:
        return None
    whole = round(hundredths)
    return whole // 100 if whole % 100 == 0 else whole / 100


def pick(rng: random.Random, choices: str) -> str:
    """Draw one of the alternatives separated by ' / '."""
    return rng.choice(choices.split(" / "))


def sentence(text: str) -> str:
    """Close gaps that empty slots left and upper-case the first letter."""
    text = re.sub(r" +(?=[ ?.,])", "", text).strip()
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
