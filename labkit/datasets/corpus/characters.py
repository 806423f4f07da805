"""See in one pass what kinds of characters a text has: most steps of the cleaning need none of it.

Each step looks for characters of its own, and nearly every text has none of those. A table gives
the kinds of each of the 65,536 characters of Unicode's first plane as bits; looked up for a whole
text and joined by "or", they say which steps have something to do. A step that is left out would
have changed nothing.
"""

import re
from functools import cache, lru_cache
from typing import Any

import numpy as np

(SUSPECT, INVISIBLE, CURLED, LATIN, RUSSIAN, CONTROL, ODD_SPACE, DIGIT, LATIN_SCRIPT, CYRILLIC,
 UNSTABLE, NUMERAL, BEYOND) = (1 << bit for bit in range(13))  # fmt: skip

CLASSES: dict[int, str] = {
    # What the second byte of UTF-8 becomes in Latin-1, cp1252 and cp1251 is among these.
    SUSPECT: "[\x80-\xff\u0402-\u040f\u0452-\u045f\u0490\u0491№†‡‰]",
    INVISIBLE: "[\u00ad\u200b\u2060\ufeff]",
    CURLED: "[“”„‟‘’‚‛]",
    LATIN: "[A-Za-z]",
    RUSSIAN: "[А-яЁё]",
    CONTROL: r"[\x00-\x08\x0b\x0e-\x1f\x7f]",
    ODD_SPACE: "[\t\xa0\u2000-\u200a\u202f\u3000]",
    DIGIT: "[0-9]",
    LATIN_SCRIPT: "[A-Za-zÀ-ɏ]",
    CYRILLIC: "[\u0400-\u04ff]",
    # All that may not be in NFC, alone or beside others: what is not known to be.
    UNSTABLE: "[^\x00-\u02ff\u0400-\u0482\u048a-\u052f\u2002-\u2027\u202f-\u205e\u20ac\u2116]",
    BEYOND: "[\ud800-\udfff]",  # a half of a pair in UTF-16, or one that is alone
}
"""Kinds as classes of regular expressions; NUMERAL is what `str.isdigit` says."""

Array = np.ndarray[Any, Any]


@cache
def _table() -> Array:
    every = "".join(map(chr, range(2**16)))
    table = np.zeros(2**16, np.uint16)
    table[np.fromiter(map(str.isdigit, every), bool, 2**16)] = NUMERAL
    for kind, characters in CLASSES.items():
        for run in re.finditer(characters + "+", every):
            table[run.start() : run.end()] |= kind
    table[0xD800:0xE000] |= UNSTABLE | NUMERAL
    return table


def units(text: str) -> Array:
    """Return the UTF-16 code units of a text, (units,) of 16 bits."""
    return np.frombuffer(text.encode("utf-16-le", "surrogatepass"), "<u2")


@lru_cache(4)
def kinds(text: str) -> int:
    """Return the kinds of characters that a text has, or-ed together."""
    return int(np.bitwise_or.reduce(_table().take(units(text)), initial=0))


def has(text: str, kind: int) -> bool:
    """Say whether a text has characters of a kind, or, of kinds or-ed together, of one of them.

    UNSTABLE and NUMERAL are also said of text with characters beyond the first plane.
    """
    return kinds(text) & kind != 0


def count(text: str, kind: int) -> int:
    """Return how many characters of a text are of a kind; one of the first plane's."""
    return int(np.count_nonzero(_table().take(units(text)) & kind))
