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
MOST_WORDS_KEPT = 400_000
"""Words whose number is remembered; about 60 MB."""

Hashes = np.ndarray[Any, np.dtype[np.uint64]]


class _Numbers(dict[str, bytes]):
    def __missing__(self, word: str) -> bytes:
        if len(self) >= MOST_WORDS_KEPT:
            self.clear()
        number = self[word] = _digest(word)
        return number


_NUMBERS = _Numbers()


def number_of(*parts: str) -> int:
    """Return a 64-bit number for these texts, the same on every machine."""
    return int.from_bytes(_digest("\0".join(parts)), "little")


def _digest(text: str) -> bytes:
    content = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=8).digest()


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
    """The words of a text as numbers, in order, and its n-grams."""

    def __init__(self, words: list[str]) -> None:
        count = self.count = len(words)
        numbers = np.frombuffer(b"".join(map(_NUMBERS.__getitem__, words)), "<u8")
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


def numbers(text: str) -> Numbers:
    """Return the words of a text as numbers."""
    return Numbers(words(text))


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
