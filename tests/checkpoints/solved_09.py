"""Lesson 09: right functions, and wrong ones with what is said of them."""

import re
from itertools import combinations

import numpy as np

from labkit.checkpoints.lessons.exercises_09 import reference_contaminated, reference_shingles

MODULUS = 2**32


def rows_of(text, n):
    found = re.findall(r"\w+", text.lower())
    if len(found) < n:
        return {tuple(found)}
    return set(zip(*(found[i:] for i in range(n)), strict=False))


def signed(numbers, a, b):
    return [min((x * n + y) % MODULUS for n in numbers) for x, y in zip(a, b, strict=True)]


def signed_by_numpy(numbers, a, b):
    a, b, numbers = (np.array(each, np.uint32) for each in (a, b, numbers))
    return (a[:, None] * numbers + b[:, None]).min(axis=1)


def alike(one, other):
    return sum(x == y for x, y in zip(one, other, strict=True)) / len(one)


def banded(signatures, rows, *, place=True, part=None, key_of=tuple):
    """Put texts into buckets; the switches are mistakes."""
    buckets = {}
    for number, each in enumerate(signatures):
        for start in range(0, len(each), rows):
            key = (start * place, key_of(each[start : start + (part or rows)]))
            buckets.setdefault(key, []).append(number)
    return {pair for bucket in buckets.values() for pair in combinations(bucket, 2)}


def neighbours(signatures, rows):
    return {p for p in banded(signatures, rows) if p[1] - p[0] == 1}


def every_pair(signatures, rows):
    return [
        (i, j) for i, j in combinations(range(len(signatures)), 2)
        if any(signatures[i][k : k + rows] == signatures[j][k : k + rows]
               for k in range(0, len(signatures[i]), rows))
    ]  # fmt: skip


def twice(signatures, rows):
    found = []
    for start in range(0, len(signatures[0]), rows):
        found += banded([each[start : start + rows] for each in signatures], rows)
    return found


def in_words(text, item, n, least=8, edge=" "):
    """Look for the words as text; a space at both ends keeps words whole."""
    said, asked = (re.findall(r"\w+", each.lower()) for each in (text, item))
    n = min(n, len(asked))
    inside = f" {' '.join(said)} "
    return n >= least and any(
        f"{edge}{' '.join(asked[i : i + n])}{edge}" in inside for i in range(len(asked) - n + 1)
    )


def shared_words(text, item, n):
    """Count words that are in the item, wherever they stand."""
    said, asked = (re.findall(r"\w+", each.lower()) for each in (text, item))
    return sum(word in asked for word in said) >= min(n, len(asked))


def stripped(text, item, n):
    """Take punctuation out of the text, and then cut it into words."""
    said, asked = (re.sub(r"[^\w\s]", "", each.lower()).split() for each in (text, item))
    n = min(n, len(asked))
    rows = [{tuple(each[i : i + n]) for i in range(len(each) - n + 1)} for each in (said, asked)]
    return n >= 8 and bool(rows[0] & rows[1])


RIGHT = {
    "shingles": [reference_shingles, rows_of],
    "signature": [signed, signed_by_numpy],
    "likeness": [alike, lambda one, other: float(np.mean(np.array(one) == np.array(other)))],
    "candidates": [banded],
    "contaminated": [reference_contaminated, in_words, stripped],
}

WRONG = [
    ("shingles", lambda t, n: {tuple(t.lower()[i : i + n]) for i in range(len(t))},
     "every n words"),
    ("shingles", lambda t, n: rows_of(t, n + 1), "every n words"),
    ("shingles", lambda t, n: {tuple(t.split()[i : i + n]) for i in range(len(t.split()) - n + 1)},
     "capital letters"),
    ("shingles", lambda t, n: list(rows_of(re.sub(r"[^a-z ]", "", t.lower()), n)),
     "Russian"),
    ("shingles", lambda t, n: {r for r in rows_of(t, n) if len(r) == n}, "one shingle"),
    ("signature", lambda n, a, b: min(n), "one number for each"),
    ("signature", lambda n, a, b: [min(x * i for i in n) for x in a], "b is added"),
    ("signature", lambda n, a, b: [max((x * i + y) % MODULUS for i in n)
                                   for x, y in zip(a, b, strict=True)], "least"),
    ("signature", lambda n, a, b: [min(x * i + y for i in n)
                                   for x, y in zip(a, b, strict=True)], "modulo"),
    ("signature", lambda n, a, b: [(x * n[0] + y) % MODULUS
                                   for x, y in zip(a, b, strict=True)], "least"),
    ("likeness", lambda one, other: sum(x == y for x, y in zip(one, other, strict=True)),
     "wholly like"),
    ("likeness", lambda one, other: len(set(one) & set(other)) / len(set(one) | set(other)),
     "share of places"),
    ("likeness", lambda one, other: sum(x in other for x in one) / len(one), "its own place"),
    ("likeness", lambda one, other: float(one == other), "share of places"),
    ("candidates", every_pair, "not compared"),
    ("candidates", lambda s, rows: banded(s, rows, part=1), "part of a band"),
    ("candidates", lambda s, rows: banded(s, rows, place=False), "same band"),
    ("candidates", lambda s, rows: banded(s, rows, key_of=frozenset), "in its own place"),
    ("candidates", lambda s, rows: banded(s, rows, key_of=sum), "in its own place"),
    ("candidates", lambda s, rows: banded(s, rows, key_of=lambda band: "".join(map(str, band))),
     "in its own place"),
    ("candidates", neighbours, "three pairs"),
    ("candidates", twice, "given once"),
    ("candidates", lambda s, rows: banded(s, len(s[0])), "whole band"),
    ("contaminated", lambda t, i, n: i in t, "capital letters"),
    ("contaminated", lambda t, i, n: i.lower() in t.lower(), "punctuation"),
    ("contaminated", lambda t, i, n: rows_of(i, 40) == rows_of(t, 40), "is found"),
    ("contaminated", shared_words, "another order"),
    ("contaminated", lambda t, i, n: reference_contaminated(t, i, 8), "twelve words"),
    ("contaminated", lambda t, i, n: bool(rows_of(t, n) & {r for r in rows_of(i, n)
                                                          if len(r) == n}), "looked for whole"),
    ("contaminated", lambda t, i, n: bool(rows_of(t, min(n, len(re.findall(r"\w+", i))))
                                          & rows_of(i, min(n, len(re.findall(r"\w+", i))))),
     "could be anybody"),
    ("contaminated", lambda t, i, n: reference_contaminated(t, i, 13), "where n is 10"),
    ("contaminated", lambda t, i, n: len(i.split()) > 8 and reference_contaminated(t, i, n),
     "looked for whole"),
    ("contaminated", lambda t, i, n: in_words(t, i, n, 7), "could be anybody"),
    ("contaminated", lambda t, i, n: in_words(t, i, n, edge=""), "within a longer one"),
]  # fmt: skip
