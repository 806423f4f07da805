"""Find near-duplicates: MinHash signatures, bands on disk, and a count of what is really shared.

Two texts' likeness is the Jaccard index of their sets of 5-grams of words. A MinHash signature
(Broder 1997; datasketch computes it) agrees in each place with that probability. Signatures are cut
into 16 bands of 5 places: texts that agree in a whole band are candidates, which a pair of
likeness s becomes with probability 1 - (1 - s^5)^16 (0.998 at 0.8, 0.40 at 0.5). FineWeb stops
here and takes candidates for duplicates; we count each candidate pair's shared 5-grams, so that
the threshold is sharp and a wrong removal takes a collision of 64-bit numbers.

Of each pair one goes: in a fixed order, longest text first and then by its hash, a text stays
unless it is a near-duplicate of one that stays. So every text removed is like one that was kept,
which chains of pairs (connected components) do not promise, and the order of the input counts for
nothing.
"""

from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from typing import Any

import numpy as np

from labkit.datasets.corpus.words import Hashes, jaccard, numbers

N = 5
BANDS, ROWS = 16, 5
SEED = 1
NEIGHBOURS = 16
"""In a bucket each text is compared with its first and with so many before it."""

_HALF = np.uint64(32)
_STIRS = ((np.uint32(16), np.uint32(0x85EBCA6B)), (np.uint32(13), np.uint32(0xC2B2AE35)))

Array = np.ndarray[Any, Any]
Pair = tuple[int, int]


@cache
def permutations() -> tuple[Array, Array]:
    """Return datasketch's a and b: place k of the signature is the least a[k] h + b[k] mod 2^32."""
    from datasketch import MinHash

    a, b = MinHash(BANDS * ROWS, seed=SEED, scheme="affine32").permutations
    return a, b


@cache
def _weights() -> Hashes:
    return np.random.default_rng(SEED).integers(1, 2**63, ROWS, dtype=np.uint64) | np.uint64(1)


def mixed(shingles: Hashes) -> Array:
    """Return a set's numbers of 32 bits, stirred so that numbers near each other are not."""
    halves = (shingles >> _HALF).astype(np.uint32)
    for shift, factor in _STIRS:  # MurmurHash3's last step
        halves ^= halves >> shift
        halves *= factor
    halves ^= halves >> _STIRS[0][0]
    return halves


def signature(shingles: Hashes) -> Array:
    """Return the MinHash signature of a set, the very one that datasketch gives its high halves.

    datasketch itself takes a list of Python's numbers, four times as long as this.
    """
    a, b = permutations()
    permuted = a[:, None] * mixed(shingles)
    permuted += b[:, None]
    least: Array = np.minimum.reduce(permuted, axis=1)
    return least


def bands(shingles: Hashes) -> Hashes:
    """Return a number for each of the 16 bands of a set's signature."""
    rows = signature(shingles).astype(np.uint64).reshape(BANDS, ROWS)
    return (rows * _weights()).sum(axis=1, dtype=np.uint64)


def order(lengths: Array, *ties: Array) -> Array:
    """Return the places in the order of precedence: longest first, ties by the given numbers."""
    return np.lexsort([*reversed(ties), -lengths.astype(np.int64)])


def first_of_each(*numbers: Array) -> Array:
    """Return True where a row of numbers occurs for the first time, False where again."""
    kept = np.zeros(len(numbers[0]), bool)
    if len(kept):
        by = np.lexsort(numbers)  # stable: among equals the first stays first
        changes = np.zeros(len(by), bool)
        changes[0] = True
        for each in numbers:
            changes[1:] |= each[by][1:] != each[by][:-1]
        kept[by[changes]] = True
    return kept


def candidates(keys: Iterable[Hashes]) -> Array:
    """Return the pairs (a < b) that share a band, sorted; `keys` holds a number a text, by band."""
    pairs = np.empty((0, 2), np.int64)
    for band in keys:
        by = np.argsort(band, kind="stable")
        same = band[by][1:] == band[by][:-1]
        places = np.arange(len(by))
        head = np.maximum.accumulate(np.where(np.concatenate(([True], ~same)), places, 0))
        found = [np.stack([by[head], by], 1)[places - head > NEIGHBOURS]]
        for distance in range(1, NEIGHBOURS + 1):
            near = np.flatnonzero(places[distance:] - distance >= head[distance:]) + distance
            if not len(near):
                break
            found.append(np.stack([by[near - distance], by[near]], 1))
        pairs = np.unique(np.concatenate([pairs, *found]), axis=0)
    return pairs


def likeness(pairs: Iterable[Pair], text: Callable[[int], str]) -> list[float]:
    """Return the Jaccard index of each pair; sorted pairs read each text about once."""

    @lru_cache(4096)
    def grams(place: int) -> Hashes:
        return numbers(text(place)).shingles(N)

    return [jaccard(grams(a), grams(b)) for a, b in pairs]


def removed(pairs: Iterable[Pair]) -> dict[int, int]:
    """Return what goes, each with the text it is like that stays; smaller numbers come first."""
    before: dict[int, list[int]] = {}
    for a, b in pairs:
        before.setdefault(b, []).append(a)
    gone: dict[int, int] = {}
    for place in sorted(before):
        stays = [other for other in sorted(before[place]) if other not in gone]
        if stays:
            gone[place] = stays[0]
    return gone
