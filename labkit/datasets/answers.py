"""The form in which a model writes an answer, and the reader that takes it back.

A 135 M-parameter model cannot divide 294 by 1,202 in its head, and it need not:
it writes down *what* to calculate and a calculator does the rest. So the model
is taught to answer

    span, multi-span   services revenue   ·   1,496.5 # million   ·   2019 | 2018
    arithmetic         = (1,496 - 1,202) / 1,202 * 100 # percent
    count              = count(2019 | 2018)

that is: values joined by " | ", or "= " and an expression whose value is the
answer, and, after " # ", the scale when there is one.

The taught expression comes from the derivation of the data set, rewritten until
its value is the gold answer: percent answers carry "* 100", brackets become
parentheses, currency signs go. A derivation that cannot be brought to give the
gold answer ("60.3 million + 32,137 thousand") is dropped and the plain number is
taught.

The calculator is a recursive-descent parser over

    sum     = product { ("+" | "-") product }
    product = signed { ("*" | "/") signed }
    signed  = ("+" | "-") signed | atom
    atom    = ( number | "(" sum ")" ) ["%"]

and knows nothing else: no names, no powers, no attribute access, so text that a
model made up is never run as code. Currency signs are skipped. Two habits of
accountants are kept: (1,202), a bare number in parentheses, is minus 1,202, and
5% is 0.05.

A calculated value is rounded to two decimals, as the data set's numbers are. Where
no scale is written four are kept, because the official score also accepts the bare
ratio 0.2222 for 22.22 percent and looks at four.

The reader sees the text alone, never the gold answer, its type or its scale. Reasoning before the
answer is dropped (`reasoning`).
"""

import math
import re
from dataclasses import dataclass

from labkit.datasets import reasoning
from labkit.datasets.tatqa import SCALES, Question

MOST_CHARACTERS = 400
MOST_NESTED = 20

_TOKEN = re.compile(r"\s*(?:(\d+(?:,\d{2,3})*(?:\.\d*)?|\.\d+)|(\S))")
_LOOK_ALIKES = str.maketrans("−–—×÷[]", "---*/()")
_CURRENCY = "$€£¥"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model's text says: values, scale, and the expression if it wrote one."""

    values: tuple[str, ...]
    scale: str
    expression: str = ""


def format_answer(question: Question) -> str:
    """The text the model is taught to write for `question`."""
    if question.answer_type == "count":
        text = _count_text(question)
    elif question.answer_type == "arithmetic":
        expression = taught_expression(question)
        text = f"= {expression}" if expression else _one_line(question.answer[0])
    else:
        text = " | ".join(_one_line(value) for value in question.answer)
    return f"{text} # {question.scale}" if question.scale else text


def taught_expression(question: Question) -> str:
    """An expression from the question's derivation whose value is the gold answer, or "".

    Tried in turn: as it stands and without percent signs; when the scale is percent,
    each of these also times 100, which comes first for a plain ratio (a change of nothing
    is 0 either way, and should be taught like any other change).
    """
    try:
        gold = calculate(question.answer[0])
        plain = _spaced(question.derivation)
    except ValueError:
        return ""
    candidates = [plain, plain.replace("%", "")]
    if question.scale == "percent":
        pairs = [(base, _times_100(base)) for base in reversed(candidates)]
        is_ratio = "/" in plain and "%" not in plain
        candidates = [c for pair in pairs for c in (reversed(pair) if is_ratio else pair)]
    for candidate in candidates:
        try:
            if rounded(calculate(candidate)) == rounded(gold):
                return candidate
        except ValueError:
            continue
    return ""


def parse_answer(text: str) -> Answer:
    """Read a model's text back; never raises, whatever the text.

    Only the first line that is not blank is read. An expression that cannot be
    calculated is handed on as it stands, so that it is marked wrong, not lost.
    """
    text, _ = reasoning.drop(text)
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    line, scale = _cut_scale(line)
    if not line.startswith("="):
        values = tuple(part.strip() for part in line.split("|") if part.strip())
        return Answer(values=values, scale=scale)
    expression = line[1:].strip()
    counted = re.fullmatch(r"count\s*\((.*?)\)?", expression, re.IGNORECASE)
    if counted:
        items = [part for part in counted[1].split("|") if part.strip()]
        return Answer(values=(str(len(items)),), scale=scale, expression=expression)
    try:
        # Some models go on and write the result: "= 3 + 4 = 7".
        value = rounded(calculate(expression.split("=")[0]), 2 if scale else 4)
    except ValueError:
        return Answer(values=(expression,) if expression else (), scale=scale)
    return Answer(values=(value,), scale=scale, expression=expression)


def calculate(expression: str) -> float:
    """The value of an arithmetic expression, without running any code.

    Knows + - * / ( ) [ ], signs, thousands commas, leading currency signs, trailing
    % (hundredths), and parentheses around a bare number as a negative.

    Raises ValueError, saying why, when the text is not such an expression, divides by
    zero, overflows, or is longer or deeper than MOST_CHARACTERS or MOST_NESTED.
    """
    if len(expression) > MOST_CHARACTERS:
        raise ValueError(f"an expression of {len(expression)} characters is too long")
    tokens = _tokens(expression)
    value, end = _sum(tokens, 0, 0)
    if end < len(tokens):
        raise ValueError(f"{tokens[end]!r} is out of place")
    if not math.isfinite(value):
        raise ValueError("the value is too large")
    return value


def rounded(value: float, places: int = 2) -> str:
    """A number as TAT-QA writes it: at most `places` decimals, no exponent, no minus zero.

    >>> rounded(-22.2222), rounded(40.0), rounded(-0.001)
    ('-22.22', '40', '0')
    """
    text = f"{round(value, places):.{places}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _tokens(expression: str) -> list[str]:
    tokens = []
    for number, sign in _TOKEN.findall(expression.translate(_LOOK_ALIKES)):
        if sign and sign in _CURRENCY:
            continue
        if sign and sign not in "+-*/()%":
            raise ValueError(f"{sign!r} has no meaning in arithmetic")
        tokens.append(number or sign)
    return tokens


def _at(tokens: list[str], i: int) -> str:
    return tokens[i] if i < len(tokens) else ""


def _sum(tokens: list[str], i: int, depth: int) -> tuple[float, int]:
    value, i = _product(tokens, i, depth)
    while _at(tokens, i) in ("+", "-"):
        sign = tokens[i]
        term, i = _product(tokens, i + 1, depth)
        value = value + term if sign == "+" else value - term
    return value, i


def _product(tokens: list[str], i: int, depth: int) -> tuple[float, int]:
    value, i = _signed(tokens, i, depth)
    while _at(tokens, i) in ("*", "/"):
        sign = tokens[i]
        factor, i = _signed(tokens, i + 1, depth)
        if sign == "/" and factor == 0:
            raise ValueError("division by zero")
        value = value * factor if sign == "*" else value / factor
    return value, i


def _signed(tokens: list[str], i: int, depth: int) -> tuple[float, int]:
    sign = 1.0
    while _at(tokens, i) in ("+", "-"):
        sign = -sign if tokens[i] == "-" else sign
        i += 1
    value, i = _atom(tokens, i, depth)
    return sign * value, i


def _atom(tokens: list[str], i: int, depth: int) -> tuple[float, int]:
    if depth > MOST_NESTED:
        raise ValueError("too many nested parentheses")
    token = _at(tokens, i)
    if token == "(":
        start = i
        value, i = _sum(tokens, i + 1, depth + 1)
        if _at(tokens, i) != ")":
            raise ValueError("a parenthesis is not closed")
        if _is_bare_number(tokens[start + 1 : i]):
            value = -value
    elif token and token not in "+-*/)%":
        value = float(token.replace(",", ""))
    else:
        raise ValueError(
            f"a number is missing before {token!r}" if token else "a number is missing"
        )
    i += 1
    if _at(tokens, i) == "%":
        return value / 100, i + 1
    return value, i


def _is_bare_number(tokens: list[str]) -> bool:
    return len(tokens) == 1 or (len(tokens) == 2 and tokens[1] == "%")


def _spaced(derivation: str) -> str:
    """A derivation in the taught spelling: spaces round binary signs, no currency."""
    text = ""
    previous = ""
    for token in _tokens(derivation):
        binary = token in "+-*/" and previous not in ("", "(", *"+-*/")
        text += f" {token} " if binary else token
        previous = token
    return text


def _times_100(expression: str) -> str:
    tokens = _tokens(expression)
    depth = 0
    for i, token in enumerate(tokens):
        depth += {"(": 1, ")": -1}.get(token, 0)
        if depth == 0 and i and token in "+-" and tokens[i - 1] not in "+-*/":
            return f"({expression}) * 100"
    return f"{expression} * 100"


def _count_text(question: Question) -> str:
    items = [_one_line(item) for item in question.derivation.split("##") if item.strip()]
    if str(len(items)) == question.answer[0]:
        return f"= count({' | '.join(items)})"
    return question.answer[0]


def _cut_scale(line: str) -> tuple[str, str]:
    head, sign, tail = line.rpartition("#")
    scale = tail.strip().lower()
    if sign and scale in SCALES:
        return head.strip(), scale
    return line, ""


def _one_line(text: str) -> str:
    return " ".join(text.split())
