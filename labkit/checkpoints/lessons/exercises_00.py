"""Exercises of lesson 00: the normalisation that a comparison of answers needs."""

from collections.abc import Callable

from labkit.checkpoints.exercises import Exercise, Student

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
        (
            "commas that group digits do not matter",
            _equal([("1,496.5", "1496.5"), ("1,234,567", "1234567")]),
        ),
        (
            "a comma between words stays one",
            _different([("Paris, Texas", "Paris Texas"), ("a,b", "ab")]),
        ),
        (
            "a part of the gold answer is not the gold answer",
            _different([("revenue", "services revenue"), ("", "2019"), ("19", "2019")]),
        ),
    ),
)


EXERCISES = {"exact_match": EXACT_MATCH}
