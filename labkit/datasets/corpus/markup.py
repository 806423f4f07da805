"""Turn HTML, Markdown, wiki markup and wrapped or paged plain text into paragraphs of text.

What comes out has a blank line between paragraphs and none inside one, which is what the rules on
lines count on. HTML goes through trafilatura (Barbaresi 2021), which finds the article in a page;
wiki markup through mwparserfromhell.
"""

import logging
import re
from collections import Counter
from typing import Any

_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.S)
_COMMENT = re.compile(r"<!--.*?-->", re.S)
_IMAGE = re.compile(r"!\[[^\]]*\](?:\([^)]*\)|\[[^\]]*\])")
_LINK = re.compile(r"\[([^\]]+)\](?:\([^)]*\)|\[[^\]]*\])")
_EMPHASIS = re.compile(r"(\*\*|__|\*|`)(?=\S)(.+?)(?<=\S)\1")
_HEADING = re.compile(r"^#{1,6} +(.*?)[ #]*$", re.M)
_LIST_ITEM = re.compile(r"\s*(?:[-*•–]|\d{1,3}[.)]) ")
_PAGE_NUMBER = re.compile(r"\s*[-–—]?\s*(?:(?:page|стр\.?|страница)\s*)?\d{1,4}\s*[-–—]?\s*", re.I)
_HYPHENATED = re.compile(r"(?<=[a-zа-яё])[-\u2010]\n\s*(?=[a-zа-яё])")
_WIKI_LEFT = re.compile(
    r"\[\[(?:File|Image|Category|Файл|Изображение|Категория):[^\[\]]*\]\]", re.I
)
_WIKI_EMPHASIS = re.compile("'{2,5}")
TITLE_CHARACTERS = 120


def html(text: str) -> tuple[str, str, str]:
    """Return title, article and licence of an HTML page; empty where there is no article."""
    import trafilatura

    # Its advice about pages in which it finds little is ours to count, not to print.
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    found: Any = trafilatura.bare_extraction(text, include_comments=False, with_metadata=True)
    if found is None:
        return "", "", ""
    paragraphs = (found.text or "").replace("\n", "\n\n")
    return found.title or "", paragraphs, found.license or ""


def markdown(text: str) -> tuple[str, str]:
    """Return title and text of a Markdown page: its first heading, and the rest without marks."""
    text = _COMMENT.sub("", _FRONT_MATTER.sub("", text.replace("\r\n", "\n")))
    title = ""
    if heading := _HEADING.search(text):
        title = _plain(heading[1])
        if not text[: heading.start()].strip():
            text = text[heading.end() :]
    return title, unwrap(_plain(_HEADING.sub(r"\n\1\n", text)))


def _plain(text: str) -> str:
    return _EMPHASIS.sub(r"\2", _LINK.sub(r"\1", _IMAGE.sub("", text))).strip()


def wiki(text: str) -> str:
    """Return the text of wiki markup, without templates, tables, files and references."""
    import mwparserfromhell

    text = _WIKI_EMPHASIS.sub("", _WIKI_LEFT.sub("", text))
    parsed = mwparserfromhell.parse(text, skip_style_tags=True)
    for tag in parsed.filter_tags(matches=lambda node: node.tag in ("ref", "table", "gallery")):
        try:
            parsed.remove(tag)
        except ValueError:  # it went with the tag around it
            continue
    return str(parsed.strip_code(keep_template_params=False)).replace("\n", "\n\n")


def plain(text: str) -> tuple[str, str]:
    """Return title and text of a plain text file; one with form feeds has the pages of a PDF."""
    text = text.replace("\r\n", "\n")
    if "\f" in text:
        text = _without_page_furniture(text)
    head, _, rest = text.strip().partition("\n\n")
    title = ""
    if rest and len(head) <= TITLE_CHARACTERS and "\n" not in head and head[-1] not in ".,;:":
        title, text = head.strip(), rest
    return title, unwrap(text)


def _without_page_furniture(text: str) -> str:
    """Drop page numbers, and the first and last lines that more than half of the pages share."""
    pages = [[line for line in page.split("\n") if not _PAGE_NUMBER.fullmatch(line)]
             for page in text.split("\f")]  # fmt: skip
    pages = [page for page in pages if any(map(str.strip, page))]
    ends: Counter[str] = Counter()
    for page in pages:
        filled = [line for line in page if line.strip()]
        ends.update({filled[0], filled[-1]})
    common = {line for line, count in ends.items() if count > max(1, len(pages) / 2)}
    return "\n".join(line for page in pages for line in page if line not in common)


def unwrap(text: str) -> str:
    """Return the text with each paragraph on one line and the words cut at line ends joined."""
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", text):
        lines = [line.rstrip() for line in paragraph.split("\n") if line.strip()]
        if any(_LIST_ITEM.match(line) for line in lines[1:]):
            paragraphs.append("\n".join(lines))
        elif lines:
            joined = _HYPHENATED.sub("", "\n".join(lines))
            paragraphs.append(" ".join(map(str.strip, joined.split("\n"))))
    return "\n\n".join(paragraphs)
