"""Read the documents of a file, one at a time; what is none is told with its place.

Text, HTML and Markdown files are one document each. JSON lines, CSV rows and the pages of a
MediaWiki dump are one each; where such a record has a question and an answer, it is a conversation.
"""

import codecs
import contextlib
import csv
import io
import json
import lzma
import re
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from labkit.datasets import splits
from labkit.datasets.chat.turns import of_parts, with_what_is_beside
from labkit.datasets.corpus import markup
from labkit.datasets.corpus.normalise import cyrillic, cyrillic_encoding, whole_characters
from labkit.datasets.corpus.sources import (
    LONGEST_BYTES,
    File,
    Refusal,
    Refused,
    lines,
    open_file,
)  # fmt: skip
from labkit.errors import LabkitError, brief

Turns = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Document:
    """A text with its title, or a conversation's turns (role, content), and where they are from.

    Documents of one group stay in one split.
    """

    source: str
    place: str
    text: str = ""
    title: str = ""
    turns: Turns = ()
    group: str = ""
    licence: str = ""


Read = Iterator[Document | Refused]

_BOMS = {
    codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
_DAMAGE = Refusal, OSError, EOFError, zlib.error, lzma.LZMAError
FEW_BROKEN = 1e-3
"""Up to this share of characters a UTF-8 text may have lost; they are left out."""

# What the fields of JSON lines and CSV files are called in published data sets.
_PAIRS = (
    ("question", "answer"), ("prompt", "completion"), ("prompt", "response"),
    ("instruction", "output"), ("instruction", "response"), ("input", "output"),
    ("вопрос", "ответ"),
)  # fmt: skip
_ASKED = {asked for asked, _ in _PAIRS}
_TEXTS = ("text", "content", "article", "body", "markdown", "текст")
_TITLES = ("title", "headline", "name", "заголовок")
_GROUPS = ("group", "url")
_PLACE = re.compile(
    r"://|\.(?:txt|md|rst|tex|html?|xml|pdf|epub|docx?|odt|pptx?|xlsx?|csv|tsv|jsonl?)(?:[#@:]|$)",
    re.IGNORECASE,
)
"""A `source` that is an address or a file is a document; another names a whole collection."""
_LICENCES = ("license", "licence")


def documents(file: File, start: int = 0, end: int | None = None) -> Read:
    """Yield the documents of a file; of one of JSON lines those that begin in [start, end).

    Raises what reading and decompressing raise, and Refusal, where nothing more can be read.
    """
    yield from _READERS[file.kind](file, start, file.size if end is None else end)


def decode(content: bytes) -> str:
    """Return the text of bytes in UTF-8, UTF-16, cp1251, KOI8-R, cp1252 or what they look like.

    Raises:
        Refusal: they are no text, or in no encoding that can be told.
    """
    for bom, encoding in _BOMS.items():
        if content.startswith(bom):
            return content.decode(encoding, "replace").replace("\ufffd", "")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = content.decode("utf-8", "replace")
        broken, right = _beyond_ascii(text)
        if broken > FEW_BROKEN * len(text):
            text = cyrillic(content) or _guessed(content)
        elif broken > right:
            text = content.decode("cp1252", "replace")
        text = text.replace("\ufffd", "")
    if "\0" in text:
        raise Refusal("binary: it has null characters")
    return text


def _beyond_ascii(text: str) -> tuple[int, int]:
    """Return how many characters of a decoded text were broken, and how many others are not ASCII.

    In a text that is UTF-8 the second number is the larger one.
    """
    broken = text.count("\ufffd")
    return broken, len(text) - len(text.encode("ascii", "ignore")) - broken


def _guessed(content: bytes) -> str:
    from charset_normalizer import from_bytes

    best = from_bytes(content[: 2**16]).best()
    if best is None:
        raise Refusal("in no encoding that can be told: save it in UTF-8")
    return content.decode(best.encoding, "replace")


def _whole(file: File) -> str:
    with open_file(file) as stream:
        content = stream.read(LONGEST_BYTES + 1)
    if len(content) > LONGEST_BYTES:
        raise Refusal(f"one text of more than {LONGEST_BYTES:,} bytes: split it")
    return decode(content)


def _text(file: File, start: int, end: int) -> Read:
    title, text = markup.plain(_whole(file))
    yield Document(source=file.label, place="", title=title, text=text, group=file.label)


def _markdown(file: File, start: int, end: int) -> Read:
    title, text = markup.markdown(_whole(file))
    yield Document(source=file.label, place="", title=title, text=text, group=file.label)


def _html(file: File, start: int, end: int) -> Read:
    title, text, licence = markup.html(_whole(file))
    if not text:
        raise Refusal("a page without an article in it")
    yield Document(source=file.label, place="", title=title, text=text, licence=licence,
                   group=file.label)  # fmt: skip


def _jsonl(file: File, start: int, end: int) -> Read:
    with open_file(file) as stream:
        # The size of what is compressed says nothing about where it ends.
        last = 2**63 if file.path.suffix.lower() not in (".jsonl", ".ndjson") else end
        for place, line in lines(stream, start, last):
            if not line.strip():
                continue
            where = f"@{place}"
            try:
                if len(line) > LONGEST_BYTES:
                    raise Refusal(f"a line of more than {LONGEST_BYTES:,} bytes")
                yield _record(json.loads(line), file, where)
            except (ValueError, RecursionError, Refusal) as error:
                yield Refused(place=file.label + where, reason=_json_said(error))


def _json_said(error: Exception) -> str:
    if isinstance(error, Refusal):
        return str(error)
    if isinstance(error, UnicodeDecodeError):
        return "a line that is not UTF-8"
    return "a line that is no JSON"


def _csv(file: File, start: int, end: int) -> Read:
    csv.field_size_limit(LONGEST_BYTES)
    long: list[Refused] = []

    def bounded(text: io.TextIOWrapper) -> Iterator[str]:
        number = 0
        while line := text.readline(LONGEST_BYTES + 1):
            number += 1
            if len(line) <= LONGEST_BYTES:
                yield line
                continue
            reason = f"a line of more than {LONGEST_BYTES:,} characters"
            long.append(Refused(place=f"{file.label}:{number}", reason=reason))
            while line and not line.endswith(("\n", "\r")):
                line = text.readline(2**20)

    encoding = _encoding(file)
    with open_file(file) as stream:
        head = io.TextIOWrapper(stream, encoding, errors="replace").readline(LONGEST_BYTES)
    with open_file(file) as stream:
        text = io.TextIOWrapper(stream, encoding, errors="replace", newline="")
        delimiter = max(",;\t", key=head.count)
        if ".tsv" in file.path.suffixes:
            delimiter = "\t"
        rows = csv.DictReader(bounded(text), delimiter=delimiter)
        while True:
            try:
                row = next(rows, None)
                yield from long
                long.clear()
                if row is None:
                    return
                if any("\0" in value for value in row.values() if isinstance(value, str)):
                    raise Refusal("a row with null characters")
                yield _record(row, file, f":{rows.line_num}")
            except (csv.Error, Refusal) as error:
                yield Refused(place=f"{file.label}:{rows.line_num}", reason=str(error))


def _encoding(file: File) -> str:
    """Return the encoding of a whole file of rows: by its mark, UTF-8, or a table of one byte.

    Where it is not UTF-8, the lines that are not ASCII say which table it is: a Cyrillic one, or
    cp1252, which a spreadsheet's plain CSV has in the West.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    broken = right = 0
    beyond = b""
    with open_file(file) as stream, contextlib.suppress(*_DAMAGE):  # reading the rows tells it
        block = stream.read(4)
        for bom, encoding in _BOMS.items():
            if block.startswith(bom):
                return encoding
        while block:
            found = _beyond_ascii(decoder.decode(block))
            broken, right = broken + found[0], right + found[1]
            if not block.isascii() and len(beyond) < 2**16:
                beyond += b"\n".join(line for line in block.splitlines() if not line.isascii())
            block = stream.read(2**20)
    broken += len(decoder.getstate()[0]) > 0
    if broken <= right:
        return "utf-8-sig"
    return cyrillic_encoding(beyond) or "cp1252"


def _wiki(file: File, start: int, end: int) -> Read:
    """Yield the articles of a MediaWiki dump, of which one page at a time lies in memory."""
    parser: Any = ET.XMLPullParser(("start", "end"))
    root: Any = None
    pages = since = 0
    with open_file(file) as stream:
        while block := stream.read(2**16):
            parser.feed(block)
            since += len(block)
            for event, element in parser.read_events():
                if root is None:
                    root = element
                if event == "start" or _tag(element) != "page":
                    continue
                pages, since = pages + 1, 0
                fields: dict[str, str] = {}
                for each in element.iter():  # a page's id stands before its revision's
                    fields.setdefault(_tag(each), each.text or "")
                root.clear()
                if fields.get("ns", "0") != "0" or "redirect" in fields:
                    continue
                where = f":{fields.get('id', pages)}"
                yield Document(source=file.label, place=where, title=fields.get("title", ""),
                               text=markup.wiki(fields.get("text", "")),
                               group=file.label + where)  # fmt: skip
            if since > LONGEST_BYTES:
                raise Refusal(
                    f"XML with more than {LONGEST_BYTES:,} bytes outside of pages, or in one"
                )
    parser.close()
    if not pages:
        raise Refusal("XML without pages: MediaWiki dumps are read")


def _tag(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _first(record: Mapping[str, Any], names: tuple[str, ...]) -> str:
    found = (v for name in names if isinstance(v := record.get(name), str) and v.strip())
    return whole_characters(next(found, ""))


def _record(record: Any, file: File, place: str) -> Document:
    if not isinstance(record, dict):
        raise Refusal("a record that is no object with fields")
    record = {name.lower(): value for name, value in record.items() if isinstance(name, str)}
    name = _first(record, ("id", "uid"))
    place = f"#{name}" if name else place
    facts: dict[str, Any] = {
        "source": file.label,
        "place": place,
        "licence": _first(record, _LICENCES),
    }
    group = _first(record, _GROUPS)
    if not group and _PLACE.search(named := _first(record, ("source",))):
        group = named
    if turns := _turns(record):
        asked = next(content for role, content in turns if role == "user")
        return Document(turns=turns, group=group or splits.text_key(asked), **facts)
    facts["group"] = group or file.label + place
    if text := _first(record, _TEXTS):
        return Document(text=text, title=_first(record, _TITLES), **facts)
    raise Refusal(f"a record with neither a text nor a question and an answer, but with "
                  f"{brief(sorted(record)[:8])}")  # fmt: skip


def _turns(record: Mapping[str, Any]) -> Turns:
    messages = record.get("messages") or record.get("conversations")
    if isinstance(messages, list):
        turns = tuple(
            (whole_characters(str(each.get("role") or each.get("from"))),
             _content(each.get("content") or each.get("value") or ""))
            for each in messages if isinstance(each, dict)
        )  # fmt: skip
        roles = {"human": "user", "gpt": "assistant"}
        turns = tuple((roles.get(role, role), content) for role, content in turns)
        if turns and turns[-1][0] == "assistant" and "user" in (role for role, _ in turns):
            return _led(record, turns)
        return ()
    if not _ASKED & record.keys():
        return ()
    for asked, answered in _PAIRS:
        question, answer = record.get(asked), record.get(answered)
        if isinstance(question, str) and isinstance(answer, str) and question.strip():
            more = record.get("context") if asked in ("question", "instruction") else None
            if asked == "instruction":
                more = record.get("input") or more
            if isinstance(more, str) and more.strip():
                question = f"{question}\n\n{more}"
            return _led(record, (("user", question), ("assistant", answer)))
    return ()


def _led(record: Mapping[str, Any], turns: Turns) -> Turns:
    whole = with_what_is_beside(record, turns)
    return tuple((role, _content(content)) for role, content in whole)


def _content(content: Any) -> str:
    try:
        content = of_parts(content, "a message")
    except LabkitError as error:
        raise Refusal(str(error)) from None
    if not isinstance(content, str):
        raise Refusal(f"a message that is no text but {brief(content)}")
    return content


_READERS: dict[str, Callable[[File, int, int], Read]] = {
    "text": _text, "markdown": _markdown, "html": _html, "jsonl": _jsonl, "csv": _csv,
    "wiki": _wiki,
}  # fmt: skip
