"""Exercises of lesson 09: near-duplicates by MinHash, and test items by their words in a row."""

from collections.abc import Callable, Sequence
from typing import Any

from labkit.checkpoints.exercises import Exercise, Student
from labkit.datasets.corpus import contamination, duplicates
from labkit.datasets.corpus.words import numbers, words

ONE = "The old bridge leads over the river to the quiet part of the town, where nobody hurries."
OTHER = "The old bridge leads over the river to the noisy part of the town, where nobody hurries."
NEITHER = "Letters from the front were read aloud in the library every evening of that winter."
TEXTS = (ONE, OTHER, NEITHER)

# shingles(text, n) -> set of n words in a row


def reference_shingles(text: str, n: int) -> set[tuple[str, ...]]:
    """Return the set of n words in a row, in small letters; a shorter text is one of them."""
    found = words(text)
    return {tuple(found[i : i + n]) for i in range(max(1, len(found) - n + 1))}


def _set_of(text: str, n: int, expected: Sequence[str]) -> Callable[[Student], bool]:
    """Compare with tuples that are written out here, words apart."""

    def holds(student: Student) -> bool:
        return set(map(tuple, student(text, n))) == {tuple(each.split()) for each in expected}

    return holds


def _as_many_as_the_library(student: Student) -> bool:
    return all(len(set(student(text, 5))) == len(numbers(text).shingles(5)) for text in TEXTS)


SHINGLES = Exercise(
    signature="shingles(text, n)",
    parameters=2,
    properties=(
        ("every n words in a row", _set_of("to be or not", 2, ["to be", "be or", "or not"])),
        ("neither capital letters nor punctuation count",
         _set_of("To be, or not.", 3, ["to be or", "be or not"])),
        ("what stands twice is in the set once", _set_of("so so so so", 2, ["so so"])),
        ("Russian words are words", _set_of("Мама мыла раму!", 2, ["мама мыла", "мыла раму"])),
        ("a text of fewer words is one shingle", _set_of("To be", 5, ["to be"])),
        ("as many as the builder finds", _as_many_as_the_library),
    ),
)  # fmt: skip

# signature(numbers, a, b) -> a number for each a


def hashed(text: str) -> list[int]:
    """Return the numbers of a text's shingles of five words, of 32 bits, as the builder has it."""
    return [int(each) for each in duplicates.mixed(numbers(text).shingles(duplicates.N))]


def factors() -> tuple[list[int], list[int]]:
    """Return the a and b of datasketch by which a text is signed."""
    a, b = duplicates.permutations()
    return a.tolist(), b.tolist()


def of_datasketch(text: str) -> Any:
    """Return datasketch's own MinHash of a text's shingles."""
    from datasketch import MinHash

    sketch = MinHash(duplicates.BANDS * duplicates.ROWS, seed=duplicates.SEED, scheme="affine32",
                     hashfunc=lambda number: number)  # fmt: skip
    for shingle in numbers(text).shingles(duplicates.N):
        sketch.update(int(shingle) >> 32)
    return sketch


def _signed(given: list[int], a: list[int], b: list[int], expected: list[int]) -> Any:
    """Compare with a signature that is worked out by hand."""
    return lambda student: [int(each) for each in student(given, a, b)] == expected


def _as_datasketch(student: Student) -> bool:
    a, b = factors()
    return all(
        [int(each) for each in student(hashed(text), a, b)]
        == of_datasketch(text).hashvalues.tolist()
        for text in TEXTS
    )


def _order_counts_for_nothing(student: Student) -> bool:
    a, b = factors()
    given = hashed(ONE)
    return list(student(given, a, b)) == list(student(given[::-1], a, b))


SIGNATURE = Exercise(
    signature="signature(numbers, a, b)",
    parameters=3,
    properties=(
        ("one number for each a and b",
         lambda student: len(student([7], [1, 3, 5], [0, 0, 1])) == 3),
        ("a number is multiplied by a, and b is added", _signed([7], [3, 5], [1, 2], [22, 37])),
        ("of all numbers the least result stays", _signed([7, 2, 9], [3, 5], [1, 2], [7, 12])),
        ("results are taken modulo 2³²", _signed([2**31], [3, 2], [5, 1], [2**31 + 5, 1])),
        ("the order of the numbers counts for nothing", _order_counts_for_nothing),
        ("the signature that datasketch gives", _as_datasketch),
    ),
    modules=("datasketch",),
)  # fmt: skip

# likeness(one, other) -> the estimated Jaccard index


def _likeness(one: list[int], other: list[int], expected: float) -> Callable[[Student], bool]:
    return lambda student: abs(student(one, other) - expected) < 1e-6


def _as_datasketch_estimates(student: Student) -> bool:
    for one in TEXTS:
        for other in TEXTS:
            a, b = of_datasketch(one), of_datasketch(other)
            if abs(student(a.hashvalues.tolist(), b.hashvalues.tolist()) - a.jaccard(b)) > 1e-6:
                return False
    return True


LIKENESS = Exercise(
    signature="likeness(one, other)",
    parameters=2,
    properties=(
        ("a signature is wholly like itself", _likeness([4, 8, 2], [4, 8, 2], 1.0)),
        ("the share of places that agree", _likeness([4, 8, 2, 6], [4, 9, 2, 6], 0.75)),
        ("a number counts in its own place alone", _likeness([4, 8], [8, 4], 0.0)),
        ("a number that stands twice counts twice", _likeness([5, 5, 5, 1], [5, 5, 2, 2], 0.5)),
        ("the estimate that datasketch gives", _as_datasketch_estimates),
    ),
    modules=("datasketch",),
)  # fmt: skip

# candidates(signatures, rows) -> pairs (i, j), i < j


def _pairs(
    signatures: list[list[int]], rows: int, *expected: tuple[int, int]
) -> Callable[[Student], bool]:
    """Compare with pairs that are found by eye."""

    def holds(student: Student) -> bool:
        given = [list(each) for each in signatures]
        found = [(int(i), int(j)) for i, j in student(given, rows)]
        return sorted(found) == sorted(expected)

    return holds


def _compares_few(student: Student) -> bool:
    """Two thousand texts that share nothing are two million pairs, if one compares them."""

    class Number(int):
        compared = 0

        def __eq__(self, other: object) -> bool:
            Number.compared += 1
            return int(self) == other

        __hash__ = int.__hash__

    found = student([[Number(10 * i + k) for k in range(10)] for i in range(2000)], 5)
    return not list(found) and Number.compared < 100_000


CANDIDATES = Exercise(
    signature="candidates(signatures, rows)",
    parameters=2,
    properties=(
        ("two texts that agree in a whole band are a pair",
         _pairs([[1, 2, 3, 4], [1, 2, 8, 9], [5, 6, 7, 8]], 2, (0, 1))),
        ("agreeing in a part of a band is not enough",
         _pairs([[1, 2, 3, 4], [1, 9, 3, 8]], 2)),
        ("a band's numbers agree each in its own place",
         _pairs([[1, 2, 3, 4], [2, 1, 8, 9], [12, 34, 1, 1], [1, 234, 2, 2]], 2)),
        ("a band is compared with the same band alone",
         _pairs([[1, 2, 3, 4], [3, 4, 1, 2]], 2)),
        ("three alike texts are three pairs",
         _pairs([[1, 2, 3, 4], [9, 9, 3, 4], [7, 7, 3, 4]], 2, (0, 1), (0, 2), (1, 2))),
        ("a pair that agrees in two bands is given once",
         _pairs([[1, 2, 3, 4], [1, 2, 3, 4]], 2, (0, 1))),
        ("texts that share no band are not compared with each other", _compares_few),
    ),
)  # fmt: skip

# contaminated(text, item, n) -> True or False

ITEM = "In 2029 the credit facility with the bank on the river matures, and its interest is fixed."
SHORT = "Mistrel Group defines net debt less its cash."
SEVEN = "Mistrel Group defines net debt by itself."
LEAD = "Nobody had read it until then. "


def reference_contaminated(text: str, item: str, n: int) -> bool:
    """Say whether a text holds n words in a row of an item, or all of a shorter one's."""
    item_words = words(item)
    n = min(n, len(item_words))
    if n < contamination.LEAST_WORDS:
        return False
    return bool(reference_shingles(item, n) & reference_shingles(text, n))


def _found(text: str, item: str, expected: bool, n: int = 13) -> Callable[[Student], bool]:
    return lambda student: bool(student(text, item, n)) is expected


def _as_the_guard(student: Student) -> bool:
    """Agree with the builder on each part of a text that holds an item."""
    guard = contamination.guard([("item", [ITEM])])
    said = words(LEAD + ITEM + " " + ONE)
    for start in range(0, len(said), 2):
        for length in (10, 13, 14, 20):
            part = " ".join(said[start : start + length])
            if bool(student(part, ITEM, 13)) != bool(guard.find(numbers(part))):
                return False
    return True


CONTAMINATED = Exercise(
    signature="contaminated(text, item, n)",
    parameters=3,
    properties=(
        ("an item within a text is found", _found(LEAD + ITEM + " " + ONE, ITEM, True)),
        ("a text without it is not suspected", _found(ONE + " " + NEITHER, ITEM, False)),
        ("neither capital letters nor punctuation hide it",
         _found(LEAD + ITEM.upper().replace(",", "").replace(".", ";"), ITEM, True)),
        ("thirteen words of it are enough", _found(LEAD + " ".join(ITEM.split()[:13]), ITEM, True)),
        ("the same words in another order are not it",
         _found(" ".join(reversed(ITEM.split())), ITEM, False)),
        ("twelve words of a longer item are not enough",
         _found(LEAD + " ".join(ITEM.split()[:12]), ITEM, False)),
        ("where n is 10 ten words are enough, and nine are not", lambda student: all(
            _found(LEAD + " ".join(ITEM.split()[:count]), ITEM, count == 10, 10)(student)
            for count in (9, 10))),
        ("an item of eight to twelve words is looked for whole",
         _found(LEAD + SHORT + " So it says.", SHORT, True)),
        ("a word is found whole, and not within a longer one",
         _found(LEAD + SHORT.replace("cash.", "cashflow."), SHORT, False)),
        ("an item of fewer than eight words could be anybody's",
         lambda student: all(_found(f"{LEAD} {item} {ONE}", item, False)(student)
                             for item in ("So it goes.", SEVEN))),
        ("what the builder finds", _as_the_guard),
    ),
)  # fmt: skip

EXERCISES = {
    "shingles": SHINGLES,
    "signature": SIGNATURE,
    "likeness": LIKENESS,
    "candidates": CANDIDATES,
    "contaminated": CONTAMINATED,
}
