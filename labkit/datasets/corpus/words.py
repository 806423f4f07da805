"""Words of a text as 64-bit numbers, and its n-grams without a loop over them.

A word is a run of letters and digits, in small letters, so that neither case nor punctuation tells
two texts apart. With h the words' numbers, the n-gram at place i is the polynomial

    g(i) = h(i) + h(i+1) P + … + h(i+n-1) P^(n-1)        mod 2^64,

the difference of two sums from the beginning times the inverse of P^i (Karp and Rabin 1987): two
array operations for a text of any length and any n. Two different n-grams agree by chance about
once in 2^64.
"""

import hashlib
import re
from functools import cache, lru_cache
from typing import Any

import numpy as np

from labkit.datasets.corpus.characters import BEYOND, has, units

_WORD = re.compile(r"\w+")
_P = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_STIR = np.uint64(0xBF58476D1CE4E5B9)
SLOTS_BITS = 18
"""Of the number of slots in which words' numbers are remembered; each takes 16 bytes."""
LONGEST_AT_ONCE = 2**20
"""Characters of a text whose words are hashed by array operations, which take 50 bytes for each."""

Hashes = np.ndarray[Any, np.dtype[np.uint64]]


def number_of(*parts: str) -> int:
    """Return a 64-bit number for these texts, the same on every machine."""
    return int.from_bytes(_digest("\0".join(parts)), "little")


def _digest(text: str) -> bytes:
    content = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=8).digest()


_remembered = lru_cache(2**16)(_digest)


@cache
def _word_or_space() -> np.ndarray[Any, Any]:
    """Return for each character of the first plane itself if it is of a word, else a space."""
    every = map(chr, range(2**16))
    of_word = np.fromiter((c.isalnum() or c == "_" for c in every), bool, 2**16)
    return np.where(of_word, np.arange(2**16), ord(" ")).astype("<u2")


@lru_cache(4)
def lower(text: str) -> str:
    """Return a text in small letters; several steps ask for those of one text."""
    return text.lower()


def words(text: str) -> list[str]:
    """Return the words of a text in small letters."""
    if has(text, BEYOND):
        return _WORD.findall(lower(text))
    # The same words in less than half the time.
    return _word_or_space().take(units(lower(text))).tobytes().decode("utf-16-le").split()


class Numbers:
    """The words of a text as numbers, in order, and its n-grams.

    numbers: (words,) of 64 bits. lengths: (words,), of their characters.
    """

    def __init__(self, numbers: Hashes, lengths: np.ndarray[Any, Any]) -> None:
        self.numbers, self.lengths = numbers, lengths
        count = self.count = len(numbers)
        forth, self._back = _powers(1 << max(10, count.bit_length()))
        self._sums = np.zeros(count + 1, np.uint64)
        np.cumsum(numbers * forth[:count], out=self._sums[1:])
        self._sorted: dict[int, Hashes] = {}

    def ngrams(self, n: int) -> Hashes:
        """Return a number for each n-gram, in order; none for a text of fewer than n words."""
        places = self.count - n + 1
        if places < 1:
            return np.empty(0, np.uint64)
        return (self._sums[n:] - self._sums[:-n]) * self._back[:places]

    def sorted_ngrams(self, n: int) -> Hashes:
        """Return the numbers of the n-grams, in order of size."""
        if n not in self._sorted:
            self._sorted[n] = np.sort(self.ngrams(n))
        return self._sorted[n]

    def shingles(self, n: int) -> Hashes:
        """Return the set of n-grams, sorted; a shorter text is one shingle."""
        grams = self.sorted_ngrams(max(1, min(n, self.count)))
        first = np.ones(len(grams), bool)
        np.not_equal(grams[1:], grams[:-1], out=first[1:])
        return grams[first]

    def whole(self) -> int:
        """Return one number for all the words in their order."""
        return int(self.ngrams(self.count)[0])


def of_words(words: list[str]) -> Numbers:
    """Return words as numbers: one after the other."""
    numbers = np.frombuffer(b"".join(map(_remembered, words)), "<u8")
    return Numbers(numbers, np.fromiter(map(len, words), np.int64, len(words)))


def numbers(text: str) -> Numbers:
    """Return the words of a text as numbers: those of `of_words(words(text))`, without a list.

    Each word is hashed as the polynomial of its characters, and by that its number is looked up in
    a table with one slot for many words: the last one stays.
    """
    if len(text) > LONGEST_AT_ONCE or has(text, BEYOND):
        return of_words(words(text))
    text = lower(text)
    characters = _word_or_space().take(units(text))
    inside = np.zeros(len(text) + 2, bool)
    np.not_equal(characters, ord(" "), out=inside[1:-1])
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts, ends = edges[::2], edges[1::2]
    forth, back = _powers(1 << max(11, len(text).bit_length()))
    sums = np.zeros(len(text) + 1, np.uint64)
    np.cumsum(characters * forth[: len(text)], out=sums[1:])
    hashes = (sums[ends] - sums[starts]) * back[starts]
    slots = (hashes * _STIR) >> np.uint64(64 - SLOTS_BITS)
    table = _slots()
    remembered = table.take(slots, axis=0)
    found = remembered[:, 1]
    for place in np.flatnonzero(remembered[:, 0] != hashes).tolist():
        number = _digest(text[starts[place] : ends[place]])
        found[place] = int.from_bytes(number, "little")
        table[slots[place]] = hashes[place], found[place]
    return Numbers(found, ends - starts)


@cache
def _slots() -> Hashes:
    return np.zeros((2**SLOTS_BITS, 2), np.uint64)


@cache
def _powers(length: int) -> tuple[Hashes, Hashes]:
    def powers(base: int) -> Hashes:
        filled = np.full(length, base, np.uint64)
        filled[0] = 1
        return np.cumprod(filled, dtype=np.uint64)

    return powers(_P), powers(pow(_P, -1, 2**64))


def jaccard(a: Hashes, b: Hashes) -> float:
    """Return the size of the intersection over that of the union of two sorted sets."""
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / max(1, len(a) + len(b) - common)
