"""Lesson 00: right functions, and wrong ones with what is said of them."""

import contextlib
import re

from labkit.datasets.answers import parse_answer, rounded


def exact_match(answer, gold):
    clean = [re.sub(r"(?<=\d),(?=\d)", "", " ".join(t.lower().split())) for t in (answer, gold)]
    return clean[0] == clean[1]


def read_answer(text):
    """Read with the course's own reader."""
    read = parse_answer(text)
    return list(read.values), read.scale


def without_spaces(text):
    return re.sub(r"(?<=\d),(?=\d)", "", "".join(text.lower().split()))


def read_with_eval(text):
    """Read by running what stands after the equals sign, which is what must never be done."""
    values, scale = read_answer(text)
    line = text.strip().partition("#")[0].strip()
    if line.startswith("=") and not line.startswith("= count"):
        with contextlib.suppress(Exception):
            value = eval(line[1:].replace(",", ""), {})
            return [rounded(value, 2 if scale else 4)], scale
    return values, scale


def read_left_to_right(text):
    """Read arithmetic in the order in which it stands."""
    values, scale = read_answer(text)
    words = text.partition("#")[0].replace(",", "").split()
    if words[:1] != ["="] or not all(word.strip("()").isdigit() for word in words[1::2]):
        return values, scale
    total = float(words[1].strip("()"))
    for sign, word in zip(words[2::2], words[3::2], strict=True):
        number = float(word.strip("()"))
        total = {"+": total + number, "-": total - number, "*": total * number,
                 "/": total / (number or 1)}[sign]  # fmt: skip
    return [f"{total:.{2 if scale else 4}f}".rstrip("0").rstrip(".")], scale


def read_two_decimals(text):
    values, scale = read_answer(text)
    with contextlib.suppress(ValueError):
        values = [f"{round(float(values[0]), 2):g}", *values[1:]] if "=" in text else values
    return values, scale


def written(form):
    """Return a reader that calculates rightly and writes a result as `form(value, scale)`."""

    def read(text):
        values, scale = read_answer(text)
        line = text.strip().partition("#")[0].strip()
        if re.fullmatch(r"=[\d\s.,+*/()-]+", line):
            with contextlib.suppress(ArithmeticError, SyntaxError):
                return [form(eval(line[1:].replace(",", "")), scale)], scale
        return values, scale

    return read


def read_plain_numbers_only(text):
    """Take a number with commas for no arithmetic."""
    values, scale = read_answer(text)
    line = text.partition("#")[0].strip()
    return ([line[1:].strip()], scale) if line.startswith("=") and "," in line else (values, scale)


def read_one_thing(text):
    """Count the parentheses and not what stands in them."""
    values, scale = read_answer(text)
    return (["1"], scale) if "count(" in text else (values, scale)


RIGHT = {"read_answer": [read_answer], "exact_match": [exact_match]}

WRONG = [
    ("read_answer", lambda text: text, "list of one string"),
    ("read_answer", lambda text: (text.split("#")[0].split("|"), text.split("#")[-1]), "list of"),
    ("read_answer", lambda text: ([text.split("#")[0].strip()], text.partition("#")[2]), "after #"),
    (
        "read_answer",
        lambda text: ([text], "") if "|" in text.replace(" | ", "") else read_answer(text),
        "separated by",
    ),
    ("read_answer", lambda text: (read_answer(text)[0][:1], read_answer(text)[1]), "separated by"),
    ("read_answer", lambda text: read_answer(" ".join(text.split())), "first line"),
    ("read_answer", read_left_to_right, "products come before sums"),
    ("read_answer", read_two_decimals, "two decimals"),
    ("read_answer", written(lambda v, s: str(v)), "decimals are kept.*'= 44.1 - 56.7 # million'"),
    ("read_answer", written(lambda v, s: str(round(v, 2 if s else 4))), "no zeros.*'= 6 / 3'"),
    ("read_answer", written(lambda v, s: f"{v:.2f}"), "without zeros behind it.*'= 3 \\+ 4'"),
    (
        "read_answer",
        written(lambda v, s: f"{v:.{2 if s else 4}f}".rstrip("0").rstrip(".")),
        "never -0",
    ),
    ("read_answer", read_plain_numbers_only, "commas that group"),
    ("read_answer", written(lambda v, s: f"{round(v, 2 if s else 4):g}"), "no zeros at the end"),
    ("read_answer", read_one_thing, "number of things"),
    ("read_answer", read_with_eval, "never run as code"),
    ("exact_match", lambda a, b: a == b, "capital letters"),
    ("exact_match", lambda a, b: b in a, "different numbers"),
    ("exact_match", lambda a, b: a.lower() == b.lower(), "white space"),
    ("exact_match", lambda a, b: a.lower().split() == b.lower().split(), "commas that group"),
    (
        "exact_match",
        lambda a, b: (
            [t.lower().replace(",", "").split() for t in (a,)]
            == [t.lower().replace(",", "").split() for t in (b,)]
        ),
        "a comma between words",
    ),
    ("exact_match", lambda a, b: exact_match(a, b) or exact_match(a, b.split(" ")[-1]), "a part"),
    ("exact_match", lambda a, b: 1 if a == b else 0, "the result is True"),
    ("exact_match", lambda a, b: None, "the same text"),
    ("exact_match", lambda a, b: without_spaces(a) == without_spaces(b), "between words stays"),
    (
        "exact_match",
        lambda a, b: exact_match(*(re.sub(r",(?=\d)", "", t) for t in (a, b))),
        "comma",
    ),
]
