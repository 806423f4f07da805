"""Exercises of lesson 00: read an answer back, and the normalisation that comparing two needs.

What an answer says is known twice: by hand for the short texts below, and by the course's own
reader (`datasets.answers`) for every target of the test split.
"""

from collections.abc import Callable, Sequence

from labkit.checkpoints.exercises import Exercise, Student

# read_answer(text) -> (values, scale)

Said = tuple[str, Sequence[str], str]


def _reads(*cases: Said) -> Callable[[Student], bool]:
    """Check what a text says: its values as a list of strings, and its scale."""

    def holds(student: Student) -> bool:
        return all(_same(student(text), values, scale) for text, values, scale in cases)

    return holds


def _same(read: object, values: Sequence[str], scale: str) -> bool:
    if not isinstance(read, tuple | list) or len(read) != 2:
        return False
    said, of = read
    return isinstance(said, tuple | list) and list(said) == list(values) and of == scale


def _every_target(student: Student) -> bool:
    from labkit.datasets import tatqa
    from labkit.datasets.answers import format_answer, parse_answer

    for sample in tatqa.samples(tatqa.load("tables", "test")):
        text = format_answer(sample.question)
        answer = parse_answer(text)
        if not _same(student(text), answer.values, answer.scale):
            raise ValueError(f"read {text!r} again")
    return True


READ_ANSWER = Exercise(
    signature="read_answer(text)",
    parameters=1,
    properties=(
        (
            "a copied value comes back as a list of one string, with an empty scale",
            _reads(("services revenue", ["services revenue"], ""), ("1,496.5", ["1,496.5"], "")),
        ),
        (
            "what stands after # is the scale, without the white space around it",
            _reads(("1,496.5 # million", ["1,496.5"], "million"), ("81 #thousand", ["81"],
                                                                   "thousand")),
        ),
        (
            "values are separated by |",
            _reads(
                ("2019 | 2018", ["2019", "2018"], ""), ("2019|2018", ["2019", "2018"], ""),
                ("21 | 19 # million", ["21", "19"], "million"),
            ),
        ),
        (
            "only the first line that is not blank is read",
            _reads(("\n 2019 \nbecause the table says so", ["2019"], "")),
        ),
        (
            "after = stands arithmetic, which is calculated; 7 is written without zeros behind it",
            _reads(("= 3 + 4", ["7"], ""), ("= 12.5 - 20 # million", ["-7.5"], "million")),
        ),
        (
            "numbers may have commas that group digits",
            _reads(("= 3,184 - 1,780 # thousand", ["1404"], "thousand")),
        ),
        (
            "with a scale two decimals are kept, without one four, and no zeros at the end",
            _reads(
                ("= 44.1 - 56.7 # million", ["-12.6"], "million"),
                ("= 2 / 3 # percent", ["0.67"], "percent"),
                ("= 2 / 3", ["0.6667"], ""),
                ("= 6 / 3", ["2"], ""),
                ("= 100 * 10", ["1000"], ""),
                ("= 3 / 2", ["1.5"], ""),
                ("= 1,234,567 * 2.5", ["3086417.5"], ""),
            ),
        ),
        (
            "products come before sums, parentheses before both, and equals from left to right",
            _reads(
                ("= 2 + 3 * 4", ["14"], ""),
                ("= (2 + 3) * 4", ["20"], ""),
                ("= 10 - 3 - 2", ["5"], ""),
                ("= 64 / 4 / 2", ["8"], ""),
                ("= -(2 - 6) * 3", ["12"], ""),
            ),
        ),
        ("a result of nothing is 0, never -0", _reads(("= (2 - 3) / 1,000,000", ["0"], ""))),
        (
            "count(…) is the number of things in it",
            _reads(("= count(2019 | 2018 | 2017)", ["3"], ""), ("= count(Stock awards)", ["1"],
                                                                "")),
        ),
        (
            "what can't be calculated comes back as it stands, without the = sign",
            _reads(("= 3 +", ["3 +"], ""), ("= 1 / 0 # million", ["1 / 0"], "million"),
                   ("= revenue / 2", ["revenue / 2"], "")),
        ),
        (
            "a model's text is never run as code",
            _reads(
                ("= len('abc')", ["len('abc')"], ""),
                ("= [7].pop() or 3", ["[7].pop() or 3"], ""),
                ("= 2 ** 3", ["2 ** 3"], ""),
                ("= 7 if 1 else 0", ["7 if 1 else 0"], ""),
            ),
        ),
        ("every target of the test split is read as the course reads it", _every_target),
    ),
)  # fmt: skip


# exact_match(answer, gold) -> bool


def _equal(pairs: list[tuple[str, str]]) -> Callable[[Student], bool]:
    return lambda student: all(student(one, other) is True for one, other in pairs)


def _different(pairs: list[tuple[str, str]]) -> Callable[[Student], bool]:
    return lambda student: all(student(one, other) is False for one, other in pairs)


EXACT_MATCH = Exercise(
    signature="exact_match(answer, gold)",
    parameters=2,
    properties=(
        ("the same text matches, and the result is True", _equal([("2019", "2019"), ("", "")])),
        (
            "different numbers do not match, and the result is False",
            _different([("2019", "2018"), ("1.5", "15"), ("-3", "3")]),
        ),
        ("capital letters do not matter", _equal([("Services Revenue", "services revenue")])),
        (
            "white space at the ends does not matter, and inside any amount is one space",
            _equal([(" 2019\n", "2019"), ("services  revenue", "services revenue")]),
        ),
        ("a space between words stays one", _different([("services revenue", "servicesrevenue")])),
        (
            "commas that group digits do not matter",
            _equal([("1,496.5", "1496.5"), ("1,234,567", "1234567")]),
        ),
        (
            "a comma between words stays one",
            _different(
                [
                    ("Paris, Texas", "Paris Texas"),
                    ("a,b", "ab"),
                    ("May,2019", "May2019"),
                    ("in 2019, 2018", "in 2019 2018"),
                ]
            ),
        ),
        (
            "a part of the gold answer is not the gold answer",
            _different([("revenue", "services revenue"), ("", "2019"), ("19", "2019")]),
        ),
    ),
)


EXERCISES = {"read_answer": READ_ANSWER, "exact_match": EXACT_MATCH}
