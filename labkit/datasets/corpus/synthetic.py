"""Write a raw corpus with known faults, and a file that says which: a builder is measured by it.

    python -m labkit.datasets.corpus.synthetic OUT --megabytes 1

Every text has a name, and `truth.jsonl` says of each what it is:

    clean          stays, in the language that is named
    near           a copy of `of` with some words changed; `jaccard` is counted here, on sets of
                   five-word tuples, without the builder's code
    exact          a copy of `of` with other punctuation
    mojibake       text read by a wrong table; `text` is what it said
    lookalikes     some Russian letters replaced by their Latin twins
    pii            `secrets` that may not stay, `decoys` that have to
    contaminated   holds a passage of the test item `of`
    foreign        in German
    poor           breaks the rule that is named
    questions      a list of questions with answers
    bad            a file that cannot be read

The same seed and size give the same bytes on every machine: the random numbers are Python's
`random.Random`, of which only `random()` and what it is made of here are used.
"""

import argparse
import bz2
import csv
import gzip
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.sax.saxutils import escape

from labkit.console import run_tool, say
from labkit.datasets.corpus.synthetic_faults import (
    KINDS,
    Around,
    Item,
    Writer,
    passages_of_tests,
)  # fmt: skip
from labkit.datasets.corpus.synthetic_words import HEADINGS
from labkit.errors import LabkitError

SHARD_TEXTS = 4000
PERIOD = 50
"""Of so many texts one has each kind of fault, and three are near-duplicates."""
FOREIGN_FORMS = 2000
"""So many of the first texts are written in turn as text, HTML, Markdown, CSV and a wiki dump."""


def texts(seed: int, every: int = PERIOD) -> Iterator[tuple[Item, Item]]:
    """Yield texts with what is true of them, without end: {id, title, text} and {id, kind, …}.

    Of `every` texts, at least 24, one has each kind of fault.
    """
    passages = passages_of_tests()
    base: Item = {}
    for number in itertools.count():
        writer = Writer(seed, number)
        language = "ru" if writer.below(2) else "en"
        name = f"t{number:07d}"
        item = {"id": name, "title": writer.title(language), "text": ""}
        make = KINDS.get(number % every)
        if make is None:
            item["text"] = writer.text(language)
            base = {**item, "language": language}
            yield item, {"id": name, "kind": "clean", "language": language}
        else:
            around = Around(base=base, planted=number // every, passages=passages)
            truth = {"id": name, **make(writer, item, around)}
            if truth["language"] in HEADINGS:
                item["title"] = writer.title(truth["language"])
            yield item, truth


def generate(out: Path, megabytes: float, seed: int = 0, every: int = PERIOD) -> None:
    """Write the corpus below OUT/raw, with `truth.jsonl` beside it; about so many MB of it.

    A smaller `every` makes a dirtier corpus: 25 gives a fault to 44 texts of 100, 50 to 22.

    Raises:
        LabkitError: OUT exists.
    """
    if out.exists():
        raise LabkitError(f"{out} exists: name a new folder")
    raw = out / "raw"
    for folder in (raw, raw / "pages", raw / "bad"):
        folder.mkdir(parents=True)
    written = 0
    rows: list[Item] = []
    dump: list[str] = []
    with open(out / "truth.jsonl", "w", encoding="utf-8") as truths:
        shard = None
        for number, (item, truth) in enumerate(texts(seed, every)):
            if written >= megabytes * 1e6:
                break
            form = number % PERIOD if number < FOREIGN_FORMS else 0
            page = raw / "pages" / f"{item['id']}{_PAGES.get(form, ('', None))[0]}"
            if form in _PAGES:
                content = _PAGES[form][1](item).encode()
                page.write_bytes(content)
                truth["source"] = f"raw/pages/{page.name}"
            elif form == _CSV:
                rows.append(item)
                truth["source"] = f"raw/table.csv#{item['id']}"
                content = item["text"].encode()
            elif form == _WIKI:
                dump.append(_wiki_page(number, item))
                truth["source"] = f"raw/dump.xml.bz2:{number}"
                content = dump[-1].encode()
            else:
                if number % SHARD_TEXTS == 0 or shard is None:
                    name = f"web-{number // SHARD_TEXTS:04d}.jsonl"
                    if shard:
                        shard.close()
                    shard = open(raw / name, "wb")  # noqa: SIM115  closed with the next, or below
                content = (json.dumps(item, ensure_ascii=False) + "\n").encode()
                shard.write(content)
                truth["source"] = f"raw/{name}#{item['id']}"
            written += len(content)
            truths.write(json.dumps(truth, ensure_ascii=False) + "\n")
        if shard:
            shard.close()
        for name, content in bad_files().items():
            (raw / "bad" / name).write_bytes(content)
            truth = {"id": name, "kind": "bad", "source": f"raw/bad/{name}"}
            truths.write(json.dumps(truth) + "\n")
    with open(raw / "table.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("id", "title", "text"), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    pages = "".join(["<mediawiki>\n", *dump, "</mediawiki>\n"])
    (raw / "dump.xml.bz2").write_bytes(bz2.compress(pages.encode()))
    (raw / "LICENSE.txt").write_text(
        "Written by a program; no rights are reserved (CC0-1.0).\n", encoding="utf-8"
    )


def _page_text(item: Item) -> str:
    return f"{item['title']}\n\n{item['text']}\n"


def _page_html(item: Item) -> str:
    body = "\n".join(f"<p>{escape(part)}</p>" for part in item["text"].split("\n\n"))
    return (
        f"<html><head><meta charset='utf-8'><title>{escape(item['title'])}</title></head><body>"
        "<nav><a href='/'>Home</a> <a href='/all'>All</a></nav>"
        f"<article><h1>{escape(item['title'])}</h1>\n{body}</article>"
        "<footer>All rights reserved</footer></body></html>\n"
    )


def _page_markdown(item: Item) -> str:
    return f"# {item['title']}\n\n{item['text']}\n"


def _wiki_page(number: int, item: Item) -> str:
    return (
        f" <page><title>{escape(item['title'])}</title><ns>0</ns><id>{number}</id>"
        f"<revision><text>{escape(item['text'])} {{{{stub}}}}</text></revision></page>\n"
    )


_PAGES: dict[int, tuple[str, Callable[[Item], str]]] = {
    3: (".txt", _page_text), 6: (".html", _page_html), 9: (".md", _page_markdown),
}  # fmt: skip
_CSV, _WIKI = 12, 14


def bad_files() -> dict[str, bytes]:
    """Return files that cannot be read, or only in part, by name."""
    line = json.dumps({"title": "Notes", "text": "x"}).encode()
    bomb = gzip.compress(b"0" * 2**25, mtime=0)
    return {
        "archive.zip": b"PK\x03\x04" + bytes(64),
        "binary.txt": bytes(range(256)) * 4,
        "bomb.txt.gz": bomb,
        "broken.jsonl": line[:-3] + b"\n" + b"\xff\xfe\xfd\n" + b"[" * 50_000 + b"\n",
        "cut.xml": b"<mediawiki><page><title>Notes</title><ns>0</ns><revision><text>half a",
        "empty.txt": b"",
        "nulls.csv": b"id,text\n1,a\0b\n",
        "paper.pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
        "scrambled.txt": bytes((i * 7919 + 128) % 128 + 128 for i in range(4000)),
        "truncated.jsonl.gz": gzip.compress(line * 2000, mtime=0)[:-20],
        "unknown.docx": b"no kind that is read",
    }


def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--megabytes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    generate(given.out, given.megabytes, given.seed)
    say(f"wrote {given.out}")


if __name__ == "__main__":
    run_tool(_main)
