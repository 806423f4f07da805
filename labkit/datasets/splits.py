"""Train, dev and test cut from one heap, the same everywhere and whatever order the heap is in."""

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

SPLITS = ("train", "dev", "test")
FRACTIONS = (0.80, 0.05, 0.15)
"""Shares of train, dev and test when a single file has to serve as all three."""

Item = TypeVar("Item")


def text_key(text: str) -> str:
    """Return what equal texts share, whatever their case and spaces: 16 hexadecimal digits."""
    words = " ".join(text.lower().split())
    return hashlib.sha256(words.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def cut(items: Sequence[Item], key: Callable[[Item], str], seed: int = 0) -> dict[str, list[Item]]:
    """Cut items into train, dev and test, each in the order given; those of one key stay together.

    Keys are ranked by sha256(seed, key) and the ranking is cut at the cumulated FRACTIONS, rounded,
    with at least one key a part when there are three or more.
    """
    keys = list(dict.fromkeys(map(key, items)))
    ranked = sorted(keys, key=lambda k: hashlib.sha256(f"{seed}:{k}".encode()).digest())
    least = min(1, len(keys) // len(SPLITS))
    sizes = [max(least, round(fraction * len(keys))) for fraction in FRACTIONS[1:]]
    ends = [len(keys) - sum(sizes), len(keys) - sizes[1], len(keys)]
    part: dict[str, str] = {}
    start = 0
    for split, end in zip(SPLITS, ends, strict=True):
        part |= dict.fromkeys(ranked[max(start, 0) : max(end, 0)], split)
        start = end
    return {split: [item for item in items if part[key(item)] == split] for split in SPLITS}
