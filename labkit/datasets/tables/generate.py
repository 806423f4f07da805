"""The embedded set: made-up financial reports in TAT-QA's file format.

TAT-QA (Zhu et al. 2021, "TAT-QA: A Question Answering Benchmark on a Hybrid of Tabular and Textual
Content in Finance", ACL) asks questions about a table and the paragraphs around it: copy a number,
quote a phrase, list several, count, or compute, and always say the scale. A course needs such a
set that it may ship, that is small enough for two cores, and whose every answer is right by
construction. This module writes one:

    topics (text)  -> numbers that add up (grid) -> the table
    facts (facts), words (banks)  -> slots -> the paragraphs
    numbers, wordings (wording)  -> questions -> questions on the table
    facts  -> slots -> questions on the text

What keeps a model from winning by template: the companies of one split never occur in another, no
sentence of facts occurs twice in the whole set, and topic, line items, shape, periods, units and
the place of the scale are drawn independently. What keeps the files the same everywhere: one
`random.Random` per report, seeded with text; integers throughout; no order taken from a set.

The mix of answer types is held by error diffusion: each question takes the type whose share lags
most behind TAT-QA's. `python -m labkit.datasets.tables.generate OUT_DIR` writes the three files.
"""

import json
import random
import sys
import uuid
from pathlib import Path
from typing import Any

from labkit.datasets.tables.asks import Ask, Paragraph, rounded
from labkit.datasets.tables.grid import build_grid, write_cells
from labkit.datasets.tables.questions import ARITHMETIC, COUNTS, MULTI, SPANS, Kinds, TableAsker
from labkit.datasets.tables.slots import Slots, make_paragraphs
from labkit.datasets.tables.text import TOPICS

SEED = "labkit tables 1"
SPLITS = {"train": 400, "dev": 60, "test": 120}
QUESTIONS = 6
MIX = {"arithmetic": 43, "span": 42, "multi-span": 13, "count": 2}
COMPANIES = {
    "train": "Arvent;Belmora;Cadrix;Delvane;Eskor;Fenwick;Galtra;Hollis;Inveris;Jorvik;Kelden;"
             "Lumera;Morvan;Nexira;Ostrava;Pellworth;Quorin;Radley;Selwick;Tavira;Umbria;Valcor;"
             "Westrin;Yelland;Zorbach;Ashdown;Bramley;Corvane;Dunmore;Elstow",
    "dev": "Abrin;Birkdale;Castor;Dovran;Emberly;Farrow;Granby;Harlund",
    "test": "Isvik;Jessop;Kintra;Lowick;Mistrel;Norvale;Orbane;Penrose;Quantock;Rivenhall;"
            "Stavely;Torvin",
}
KINDS: dict[str, tuple[Kinds, float]] = {
    "span": (SPANS, 0.5), "multi-span": (MULTI, 0.3), "arithmetic": (ARITHMETIC, 0.2),
    "count": (COUNTS, 0.4)}
"""Kinds of questions on the table per answer type, and how often the text is asked instead."""
STRIDE = 7
FORMS = ("plc", "Inc.", "Group", "AG", "N.V.", "Holdings", "Ltd", "Corp.", "SE", "Oyj")


def _questions(rng: random.Random, asker: TableAsker, texts: list[Ask],
               counts: dict[str, int]) -> list[Ask]:
    """Draw a report's questions, each of the type that lags most behind the mix."""
    chosen: list[Ask] = []
    stuck: set[str] = set()
    while len(chosen) < QUESTIONS and len(stuck) < len(MIX):
        lag = {t: MIX[t] * (sum(counts.values()) + 1) - 100 * counts[t] for t in MIX
               if t not in stuck}
        kind = max(lag, key=lambda t: lag[t])
        table, from_text = KINDS[kind]
        pool = [a for a in texts if a.kind == kind]
        for _ in range(60):
            if pool and rng.random() < from_text:
                ask: Ask | None = rng.choice(pool)
            else:
                draw = rng.choices([k for k, _ in table], [w for _, w in table])[0]
                ask = draw(asker)
            if ask and _fits(ask, chosen):
                chosen.append(ask)
                counts[kind] += 1
                break
        else:
            stuck.add(kind)
    rng.shuffle(chosen)
    return chosen


def _fits(ask: Ask, chosen: list[Ask]) -> bool:
    """No repeated question or answer, and a result that rounds in one way only, not to zero."""
    if any(a.text == ask.text or (a.kind, a.answer, a.derivation) ==
           (ask.kind, ask.answer, ask.derivation) for a in chosen):
        return False
    return ask.kind != "arithmetic" or bool(rounded(ask.value()))


def make_report(split: str, index: int, seen: set[str], counts: dict[str, int]) -> dict[str, Any]:
    """Write one context in TAT-QA's schema; `seen` and `counts` are carried along and grow."""
    rng = random.Random(f"{SEED} {split} {index}")

    def uid() -> str:
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))

    name = f"{rng.choice(COMPANIES[split].split(';'))} {rng.choice(FORMS)}"
    company = rng.choice(("the Company", "the Group", name))
    # A stride prime to the number of topics visits each of them once before any twice.
    grid = build_grid(rng, TOPICS[(index * STRIDE + len(split)) % len(TOPICS)])
    table = write_cells(rng, grid)
    paragraphs = make_paragraphs(Slots(rng, grid, company), table, name, seen)
    asks = _questions(rng, TableAsker(rng, grid, company),
                      [a for part in paragraphs for a in part.asks], counts)
    return {
        "table": {"uid": uid(), "table": table},
        "paragraphs": [{"uid": uid(), "order": k, "text": part.text}
                       for k, part in enumerate(paragraphs, 1)],
        "questions": [_question(uid(), k, ask, paragraphs) for k, ask in enumerate(asks, 1)],
    }


def _question(uid: str, order: int, ask: Ask, paragraphs: list[Paragraph]) -> dict[str, Any]:
    answer: list[str] | int | float | None = ask.answer
    derivation = ask.derivation
    if ask.kind == "arithmetic":
        answer = rounded(ask.value())
    elif ask.kind == "count":
        answer, derivation = len(ask.answer), "##".join(ask.answer)
    # A question on a fact rests on its paragraph, one that needs the scale on the note saying it.
    related = [str(k) for k, part in enumerate(paragraphs, 1)
               if any(a is ask for a in part.asks)
               or (part.scale and ask.source == "table-text" and ask.scale in part.text)]
    return {"uid": uid, "order": order, "question": ask.text, "answer": answer,
            "derivation": derivation, "answer_type": ask.kind, "answer_from": ask.source,
            "rel_paragraphs": related, "req_comparison": ask.comparison, "scale": ask.scale}


def generate() -> dict[str, list[dict[str, Any]]]:
    """All three splits, in order; a sentence of facts occurs in one report only."""
    seen: set[str] = set()
    reports = {}
    for split, size in SPLITS.items():
        counts = dict.fromkeys(MIX, 0)
        reports[split] = [make_report(split, index, seen, counts) for index in range(size)]
    return reports


def dump(reports: list[dict[str, Any]]) -> str:
    """JSON with one context per line, so that a change shows as few changed lines."""
    lines = (json.dumps(r, ensure_ascii=False, separators=(",", ":")) for r in reports)
    return "[\n" + ",\n".join(lines) + "\n]\n"


def write(directory: Path) -> None:
    """Write train.json, dev.json and test.json into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    for split, reports in generate().items():
        (directory / f"{split}.json").write_text(dump(reports), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m labkit.datasets.tables.generate OUT_DIR")
    write(Path(sys.argv[1]))
