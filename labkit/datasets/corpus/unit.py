"""Clean one piece of the sources and write what stays of it: the work of one process.

A piece is a few files, or a stretch of a long one. Its records go to one file, what is compared
between pieces (word hash, length, MinHash bands) to an array beside it, and what was counted to a
third, which is written last: a piece that has it is done, and is not read again.
"""

import heapq
import json
import lzma
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import numpy as np

from labkit.datasets.corpus import duplicates, instructions, language, pii, quality
from labkit.datasets.corpus.contamination import Guard
from labkit.datasets.corpus.normalise import normalise
from labkit.datasets.corpus.quality import Page
from labkit.datasets.corpus.readers import Document, Turns, documents
from labkit.datasets.corpus.sources import File, Refusal, Refused
from labkit.datasets.corpus.words import number_of
from labkit.files import appearing, write_json

FORMS = ("instructions", "text")
MOST_EXAMPLES, EXCERPT = 3, 300
MOST_REFUSED = 200
"""Places that are named; all are counted."""
LEAST_CONFIDENCE = 0.65
"""Below that a language is not believed (FineWeb)."""

INDEX = np.dtype([
    ("words", "u8"), ("length", "u4"), ("place", "u8"), ("group", "u8"), ("language", "S3"),
    ("offset", "u8"), ("size", "u4"), ("bands", "u8", (duplicates.BANDS,)),
])  # fmt: skip

_ENCODER = json.JSONEncoder(ensure_ascii=False)

Stretch = tuple[File, int, int]
"""A file, and the bytes between which its documents begin."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a data set is built by; the same settings and sources give the same bytes.

    form: instructions, or text for continued pretraining. languages: ISO codes to keep, all where
    empty. limits: of `quality.RULES`; a rule without one is off. near: Jaccard index from which two
    texts are near-duplicates. against: tests to keep out. fractions: of train, dev and test.
    """

    form: str = "instructions"
    languages: tuple[str, ...] = ()
    limits: Mapping[str, float] = field(default_factory=lambda: dict(quality.LIMITS))
    near: float = 0.8
    against: tuple[str, ...] = ("tables", "tatqa")
    mask: bool = True
    fractions: tuple[float, float, float] = (0.9, 0.05, 0.05)
    seed: int = 0
    licence: str = ""
    parquet: bool = False


@dataclass(kw_only=True)
class Tally:
    """What was counted: sums, so that the order of the pieces counts for nothing.

    removed: documents by the filter that removed them. examples: by filter, those with the smallest
    numbers, [number, place, text].
    """

    read: int = 0
    read_bytes: int = 0
    removed: Counter[str] = field(default_factory=Counter)
    removed_bytes: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Any]] = field(default_factory=dict)
    lines: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    masked: Counter[str] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    contaminated: list[int] = field(default_factory=list)
    refused: int = 0
    refused_places: list[Any] = field(default_factory=list)

    def remove(self, reason: str, place: str, text: str) -> None:
        """Count a text as removed, and keep it as an example if it is one of the first."""
        self.removed[reason] += 1
        self.removed_bytes[reason] += len(text.encode())
        # Examples are shown in the card, so personal data is masked in them whatever is built.
        excerpt = pii.mask(text[: 2 * EXCERPT])[0][:EXCERPT]
        self._keep(reason, [[number_of(place, excerpt), place, excerpt]])

    def refuse(self, refused: Refused) -> None:
        """Count what could not be read."""
        self.refused += 1
        self.refused_places = sorted([*self.refused_places, [refused.place, refused.reason]])
        del self.refused_places[MOST_REFUSED:]

    def _keep(self, reason: str, examples: list[Any]) -> None:
        found = self.examples.get(reason, []) + examples
        self.examples[reason] = heapq.nsmallest(MOST_EXAMPLES, found)

    def add(self, other: Mapping[str, Any]) -> None:
        """Add what another tally counted, as JSON has it."""
        for name, value in other.items():
            mine = getattr(self, name)
            if isinstance(mine, Counter):
                mine.update(value)
            elif name == "examples":
                for reason, examples in value.items():
                    self._keep(reason, examples)
            elif name == "contaminated":
                self.contaminated = sorted({*mine, *value})
            elif name == "refused_places":
                self.refused_places = sorted([*mine, *value])[:MOST_REFUSED]
            else:
                setattr(self, name, mine + value)


@dataclass(frozen=True, kw_only=True)
class Record:
    """What becomes of a document, or of a part of it: its line, and what it is compared by."""

    line: bytes
    numbers: tuple[Any, ...]


def process(stretches: list[Stretch], name: Path, settings: Settings, guard: Guard) -> None:
    """Clean the documents of some stretches into NAME.jsonl, NAME.npy and NAME.json."""
    tally = Tally()
    rows = []
    with appearing(name.with_suffix(".jsonl")) as partial_file, open(partial_file, "wb") as out:
        for stretch in stretches:
            for document in _documents(stretch, tally):
                for record in clean(document, settings, guard, tally):
                    rows.append((*record.numbers[:5], out.tell(), len(record.line),
                                 record.numbers[5]))  # fmt: skip
                    out.write(record.line)
    with appearing(name.with_suffix(".npy")) as partial_file, open(partial_file, "wb") as out:
        np.save(out, np.array(rows, INDEX))
    write_json(name.with_suffix(".json"), vars(tally))


def _documents(stretch: Stretch, tally: Tally) -> Iterator[Document]:
    file, start, end = stretch
    try:
        for found in documents(file, start, end):
            if isinstance(found, Refused):
                tally.refuse(found)
            else:
                yield found
    except Exception as error:  # a page that a library stumbles over is told; the rest is built
        tally.refuse(Refused(place=file.label, reason=_said(error)))


def _said(error: Exception) -> str:
    if isinstance(error, Refusal):
        return str(error)
    if isinstance(error, ParseError):
        return f"XML that ends or errs at line {error.position[0]}: what comes before was read"
    if isinstance(error, OSError | EOFError | zlib.error | lzma.LZMAError):
        return f"damaged: {getattr(error, 'strerror', None) or error}"
    return f"not understood ({type(error).__name__}: {str(error)[:100]})"


def clean(document: Document, settings: Settings, guard: Guard, tally: Tally) -> Iterator[Record]:
    """Yield the records that a document becomes; none where a filter removes it."""
    place = document.source + document.place
    tally.read += 1
    turns = document.turns or (("", document.text),)
    tally.read_bytes += sum(len(text.encode("utf-8", "surrogatepass")) for _, text in turns)
    remove = partial(tally.remove, place=place)
    roles, texts = [role for role, _ in turns], []
    for _, text in turns:
        text, repaired = normalise(text, layout=bool(document.turns))
        texts.append(text)
        if repaired:
            tally.repaired.update(repaired)
    whole = "\n\n".join(texts)
    if not texts[-1] or not any(map(str.isalnum, texts[-1])):
        return remove("empty", text=whole)
    code, confidence = language.identify(whole)
    if settings.languages and (code not in settings.languages or confidence < LEAST_CONFIDENCE):
        return remove("language", text=whole)
    if not document.turns:
        if code in language.CYRILLIC:
            whole, foreign = language.without_foreign(whole, code)
            tally.lines["foreign_paragraph"] += foreign
        if "c4_sentences" in settings.limits:
            whole, dropped = quality.drop_lines(whole)
            if dropped:
                tally.lines.update(dropped)
        texts = [whole]
    page = Page(whole, code)
    if reason := quality.first_broken(page, settings.limits, whole_text=not document.turns):
        return remove(reason, text=whole)
    if document.turns:
        parts = [("conversation", tuple(zip(roles, texts, strict=True)))]
    else:
        parts = _forms(document, texts[0], code, settings, page)
        if not parts:
            return remove("no_instruction", text=texts[0])
    for form, messages in parts:
        yield from _record(document, form, messages, code, page, settings, guard, tally)


def _forms(
    document: Document, text: str, code: str, settings: Settings, page: Page
) -> list[tuple[str, Turns]]:
    if settings.form == "text":
        return [("text", (("", text),))]
    if pairs := instructions.questions(text):
        return [("question", pair) for pair in pairs]
    title = pii.mask(normalise(document.title)[0])[0] if document.title else ""
    if not title:
        return []
    choice = page.numbers.whole() + settings.seed
    return [("title", instructions.from_title(title, text, code, choice))]


def compared(form: str, turns: Turns) -> str:
    """Return the text by which a record is compared: without what many share.

    That is a system message, and the request where we worded it.
    """
    contents = [content for role, content in turns if role != "system"]
    return contents[-1] if form == "title" else "\n\n".join(contents)


def _record(
    document: Document, form: str, messages: Turns, code: str, page: Page, settings: Settings,
    guard: Guard, tally: Tally,
) -> Iterator[Record]:  # fmt: skip
    place = document.source + document.place
    text = compared(form, messages)
    if text != page.text:
        page = Page(text, code)
    if not page.count:
        return tally.remove("empty", place, text)
    if found := guard.find(page.numbers):
        tally.contaminated = sorted({*tally.contaminated, *found})
        return tally.remove("contaminated", place, text)
    if settings.mask:
        masked = [(role, *pii.mask(content)) for role, content in messages]
        if any(counts for *_, counts in masked):
            for *_, counts in masked:
                tally.masked.update(counts)
            messages = tuple((role, content) for role, content, _ in masked)
            text = compared(form, messages)
            page = Page(text, code)
    number = page.numbers.whole()
    fields: dict[str, Any] = {"id": f"{number:016x}", "form": form}
    if form == "text":
        fields |= {"title": document.title, "text": text}
    else:
        fields["messages"] = [{"role": role, "content": content} for role, content in messages]
    licence = document.licence or settings.licence
    fields |= {"language": code, "licence": licence, "source": place}
    line = (_ENCODER.encode(fields) + "\n").encode()
    tally.forms[form] += 1
    tally.licences[licence] += 1
    group = number_of(str(settings.seed), document.group)
    bands = duplicates.bands(page.numbers.shingles(duplicates.N))
    yield Record(line=line, numbers=(number, len(text), number_of(place, text), group,
                                     code.encode(), bands))  # fmt: skip
