"""Identify a text's language offline.

py3langid (Lui and Baldwin 2012, trained on 97 languages) decides, except where letters alone do:
text in the Russian alphabet that has ы or э is Russian, since each neighbour that writes those has
letters of its own (і, ў, ә, ү …), and Bulgarian, Serbian and Macedonian do without them. Likewise a
text of which one word in sixteen is "the", "of", "and" or another of nine is English. py3langid
takes as long as all the rest of the cleaning; most texts are told without it.
"""

import re
from functools import cache
from typing import Any

from labkit.datasets.corpus.characters import CYRILLIC as CYRILLIC_SCRIPT
from labkit.datasets.corpus.characters import LATIN_SCRIPT, count, has

CYRILLIC = ("ru", "uk", "be", "bg")
SAMPLE_CHARACTERS = 400
"""Of a longer text the middle is looked at."""
LEAST_LETTERS = 20
"""Below that no answer is better than a guess."""

_NOT_RUSSIAN = re.compile("[\u0400\u0402-\u040f\u0450\u0452-\u04ff]")
_ONLY_RUSSIAN = re.compile(r"[ыэЫЭ]")
_ENGLISH = re.compile(r"\b(?:the|of|and|that|with|this|from|which|are)\b", re.I)
_ENGLISH_SHARE, _ENGLISH_KINDS = 1 / 16, 3


@cache
def _identifier() -> Any:
    from py3langid import langid

    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)


def identify(text: str) -> tuple[str, float]:
    """Return the ISO 639 code of a text's language and a confidence, 0 to 1.

    The code is "und" for a text with too few letters to say.
    """
    if len(text) > SAMPLE_CHARACTERS:
        start = (len(text) - SAMPLE_CHARACTERS) // 2
        text = text[start : start + SAMPLE_CHARACTERS]
    cyrillic = 0 if text.isascii() else count(text, CYRILLIC_SCRIPT)
    latin = count(text, LATIN_SCRIPT)
    if cyrillic > latin and cyrillic >= LEAST_LETTERS:
        if _ONLY_RUSSIAN.search(text) and not _NOT_RUSSIAN.search(text):
            return "ru", 1.0
    elif latin >= LEAST_LETTERS:
        found = _ENGLISH.findall(text)
        if len(found) > text.count(" ") * _ENGLISH_SHARE and len(set(found)) >= _ENGLISH_KINDS:
            return "en", 1.0
    elif sum(map(str.isalpha, text)) < LEAST_LETTERS:
        return "und", 0.0
    code, confidence = _identifier().classify(text)
    return code, round(float(confidence), 3)


def foreign(paragraph: str, language: str) -> bool:
    """Say whether a paragraph of a Cyrillic text was left in English: prose, not code or a name."""
    if language not in CYRILLIC:
        return False
    latin, cyrillic = count(paragraph, LATIN_SCRIPT), count(paragraph, CYRILLIC_SCRIPT)
    return latin > 9 * cyrillic and len(_ENGLISH.findall(paragraph)) >= 2


def without_foreign(text: str, language: str) -> tuple[str, int]:
    """Return a text without its foreign paragraphs, and how many those were."""
    if not has(text, LATIN_SCRIPT):
        return text, 0
    paragraphs = text.split("\n\n")
    kept = [each for each in paragraphs if not foreign(each, language)]
    return "\n\n".join(kept), len(paragraphs) - len(kept)
