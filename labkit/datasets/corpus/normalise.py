"""Repair a text's characters: encodings read wrongly, look-alike letters, invisible characters.

Mojibake is text that was decoded by the wrong table. ftfy (Speer 2019) undoes UTF-8 that was read
as Latin-1, cp1252 or cp1251; single-byte Cyrillic read as Latin-1 ("Ïðèâåò") it leaves alone,
because no byte of it is invalid. Here such a line is decoded again and kept if its letters then
come about as often as in Russian. ftfy takes longer than everything else together, so it is asked
only about lines with characters that mojibake has and ordinary text seldom, and not about those
that are UTF-8 throughout when they are encoded again.
"""

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator

from labkit.datasets.corpus.characters import (
    BEYOND,
    CLASSES,
    CONTROL,
    CURLED,
    INVISIBLE,
    LATIN,
    ODD_SPACE,
    RUSSIAN,
    SUSPECT,
    UNSTABLE,
    has,
)

COMMON_RUSSIAN = frozenset("оеаинтсрвлкмдпу")
"""The fifteen commonest letters: 80 % of those in Russian prose, under half of those in garbage."""
LEAST_COMMON = 0.6
LEAST_LETTERS = 8
"""A shorter line of accented letters alone may be one."""
_TABLES = ("latin-1", "sloppy-windows-1252", "cp1251")
_LATIN, _CYRILLIC = "AaBCcEeHKMOoPpTXxy", "АаВСсЕеНКМОоРрТХху"
_TO_CYRILLIC, _TO_LATIN = str.maketrans(_LATIN, _CYRILLIC), str.maketrans(_CYRILLIC, _LATIN)

# What the second byte of UTF-8 becomes in Latin-1 and cp1252, and in cp1251 after Р or С.
_SUSPECT = re.compile(
    r"[\x80-\x9fÀ-ÅÈ-Ïà-åè-ïÐÑðñØÙÞßøùþ][\x80-\xff€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
    r"|[РС][\x80-\xbfЂ-Џѓ-џђҐґ№€‚„…†‡‰‹‘’“”•–—™›]|â€|Ã|Â[\x80-\xbf]"
)
_NOT_ACCENTED, _NOT_LETTERS = re.compile(r"[^À-ÿ]+"), re.compile(r"[\W\d_]+")
_MIXED_BORDER = re.compile(r"[A-Za-z][А-яЁё]|[А-яЁё][A-Za-z]")
_MIXED_WORD = re.compile(
    r"(?<![A-Za-zА-яЁё])(?=[A-Za-z]*[А-яЁё])(?=[А-яЁё]*[A-Za-z])[A-Za-zА-яЁё]+"
)
_LATIN_LETTER, _CYRILLIC_LETTER = re.compile(CLASSES[LATIN]), re.compile(CLASSES[RUSSIAN])
_ENTITY = re.compile(r"&(?:amp|quot|lt|gt|nbsp|apos|laquo|raquo|mdash|ndash|#\d{2,5});")
_INVISIBLE, _CONTROL = re.compile(CLASSES[INVISIBLE]), re.compile(CLASSES[CONTROL])
_ODD_SPACES = re.compile(CLASSES[ODD_SPACE])
_MANY_SPACES = re.compile(" {2,}| +(?=\n)")
_BLANK_LINES = re.compile(r"\n{3,}")
_LINE_ENDS = re.compile(r"(?<![ \t])[ \t]+$", re.MULTILINE)
_FENCE = re.compile(
    r"^[ \t>]*(?P<item>(?:[-*+]|\d{1,9}[.)])[ \t]+)?(?P<mark>`{3,}|~{3,})(?P<rest>[^`\n]*)$",
    re.MULTILINE,
)
_QUOTES = {"“": '"', "”": '"', "„": '"', "‟": '"', "‘": "'", "’": "'", "‚": "'", "‛": "'"}


def normalise(text: str, *, layout: bool = False) -> tuple[str, Counter[str]]:
    """Return the text repaired, in NFC, and what was repaired, each kind once a text.

    Runs of spaces and of blank lines become one, but for code between fences, which needs them;
    with `layout` they stay everywhere.
    """
    done: Counter[str] = Counter()

    def step(name: str, changed: str) -> None:
        nonlocal text
        if changed != text:
            done[name] += 1
            text = changed

    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "&" in text and _ENTITY.search(text):
        step("entities", html.unescape(text))
    if not text.isascii():
        if has(text, BEYOND):
            step("surrogates", whole_characters(text))
        if has(text, SUSPECT) and _SUSPECT.search(text):
            step("mojibake", "\n".join(map(_repaired, text.split("\n"))))
        if has(text, UNSTABLE) and not unicodedata.is_normalized("NFC", text):
            step("nfc", unicodedata.normalize("NFC", text))
        if has(text, INVISIBLE):
            step("invisible", _INVISIBLE.sub("", text))
        if has(text, CURLED):
            curled = text
            for quote, plain in _QUOTES.items():
                curled = curled.replace(quote, plain)
            step("quotes", curled)
        if has(text, LATIN) and has(text, RUSSIAN) and _MIXED_BORDER.search(text):
            russian = len(_CYRILLIC_LETTER.findall(text)) > len(_LATIN_LETTER.findall(text))
            step("lookalikes", _MIXED_WORD.sub(lambda word: one_script(word[0], russian), text))
    if has(text, CONTROL):
        step("controls", _CONTROL.sub("", text))
    if layout:
        return _with_layout(text).strip("\n").rstrip(), done
    if "```" in text or "~~~" in text:
        parts = (_with_layout(part) if code else _without_layout(part)
                 for part, code in _stretches(text))  # fmt: skip
        return "".join(parts).strip(), done
    return _without_layout(text).strip(), done


def _stretches(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the parts of a text, and whether each is code between fences (CommonMark, 4.5).

    What is never closed is none: a line of tildes may be a title's.
    """
    lines, start, place = list(_FENCE.finditer(text)), 0, 0
    unclosed: dict[str, int] = {}
    while place < len(lines):
        mark, end = lines[place]["mark"], None
        if len(mark) < unclosed.get(mark[0], len(text)):
            end = next((i for i in range(place + 1, len(lines)) if _closes(lines[i], mark)), None)
        if end is None:
            unclosed[mark[0]] = min(len(mark), unclosed.get(mark[0], len(mark)))
            place += 1
            continue
        yield text[start : lines[place].start()], False
        yield text[lines[place].start() : lines[end].end()], True
        start, place = lines[end].end(), end + 1
    yield text[start:], False


def _closes(line: re.Match[str], mark: str) -> bool:
    return line["mark"].startswith(mark) and not (line["item"] or line["rest"].strip())


def _without_layout(text: str) -> str:
    if has(text, ODD_SPACE):
        text = _ODD_SPACES.sub(" ", text)
    if "  " in text or " \n" in text:
        text = _MANY_SPACES.sub(
            lambda found: " " * (found.end() < len(text) and text[found.end()] != "\n"), text
        )
    return _BLANK_LINES.sub("\n\n", text) if "\n\n\n" in text else text


def _with_layout(text: str) -> str:
    if has(text, ODD_SPACE):
        text = _ODD_SPACES.sub(lambda found: "\t" if found[0] == "\t" else " ", text)
    return _LINE_ENDS.sub("", text)


def whole_characters(text: str) -> str:
    """Return the text with halves of a character joined, or replaced where one is alone."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def one_script(word: str, cyrillic_first: bool = True) -> str:
    """Return a word of Latin and Cyrillic letters in the one script that it can be written in.

    That is a script in which each letter of the other has a twin; where both will do, the text's.
    A word that neither can write stays as it is.

    >>> one_script("cлово")  # with a Latin c
    'слово'
    """
    latin = {letter for letter in word if letter < "\u0250"}
    cyrillic = {letter for letter in word if letter > "\u0250"}
    if not latin or not cyrillic:
        return word
    to_cyrillic, to_latin = latin <= set(_LATIN), cyrillic <= set(_CYRILLIC)
    if to_cyrillic and (cyrillic_first or not to_latin):
        return word.translate(_TO_CYRILLIC)
    return word.translate(_TO_LATIN) if to_latin else word


def russian(text: str) -> float:
    """Return the share of Russian's fifteen commonest letters among all letters, 0 to 1."""
    return sum(map(text.count, COMMON_RUSSIAN)) / max(1, len(_NOT_LETTERS.sub("", text)))


def cyrillic(content: bytes) -> str | None:
    """Decode bytes in cp1251 or KOI8-R, whichever reads like Russian; None where neither does."""
    encoding = cyrillic_encoding(content)
    return content.decode(encoding) if encoding else None


def cyrillic_encoding(content: bytes) -> str | None:
    """Return cp1251 or koi8-r, in which bytes read like Russian; None where in neither they do."""
    score, encoding = max((russian(_decoded(content, name)), name) for name in ("cp1251", "koi8-r"))
    return encoding if score >= LEAST_COMMON else None


def _decoded(content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        return ""


def _repaired(line: str) -> str:
    if not _SUSPECT.search(line):
        return line
    import ftfy  # brings the codec sloppy-windows-1252

    others = len(line) - len(line.encode("ascii", "ignore"))
    for table in _TABLES if others >= LEAST_LETTERS else ():
        try:
            # Bytes that are UTF-8 by chance are not met in lines of so many.
            return line.encode(table).decode("utf-8")
        except UnicodeError:
            continue
    letters = len(_NOT_LETTERS.sub("", line))
    if letters >= LEAST_LETTERS and len(_NOT_ACCENTED.sub("", line)) > 0.6 * letters:
        try:
            if found := cyrillic(line.encode("sloppy-windows-1252")):
                return found
        except UnicodeEncodeError:
            pass
    return str(ftfy.fix_encoding(line))
