"""The embedded set: made-up financial reports in TAT-QA's file format.

TAT-QA (Zhu et al. 2021, "TAT-QA: A Question Answering Benchmark on a Hybrid of Tabular and Textual
Content in Finance", ACL) asks questions about a table and the paragraphs around it: copy a number,
quote a phrase, list several, count, or compute, and always say the scale. A course needs such a
set that it may ship, that is small enough for two cores, and whose every answer is right by
construction. This module writes one:

    topic (tables_text) -> grid of integers (tables_grid) -> table, in cells
                        -> facts (tables_facts)           -> paragraphs
    grid, facts         -> questions (tables_questions)   -> answer, derivation, scale

What keeps a model from winning by template: companies, firms and sentences of one split never
occur in another (a sentence drawn twice is thrown away), and topic, line items, shape, period,
unit and the place of the scale are drawn independently. What keeps the file the same everywhere:
one `random.Random` per report, seeded with text, integers throughout and no set order.

The mix of answer types is held by error diffusion: each question takes the type whose share lags
most behind TAT-QA's. Run `python -m labkit.datasets.tables OUT_DIR` to write the three files.
"""

from __future__ import annotations

import json
import random
import re
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

from labkit.datasets.tables_facts import BANKS, FACTS, REASONS, Fact
from labkit.datasets.tables_grid import CURRENCIES, Grid, build_grid, number, write_cells
from labkit.datasets.tables_questions import (
    ARITHMETIC,
    COUNTS,
    MULTI,
    SPANS,
    Ask,
    Kind,
    Namer,
    TableAsker,
    exact,
    listing,
    pick,
    rounded,
    sentence,
)
from labkit.datasets.tables_text import DISTRACTORS, LEADS, SCALE_NOTES, TOPICS, Topic

SEED = "labkit tables 1"
SPLITS = {"train": 400, "dev": 60, "test": 120}
QUESTIONS = 6
MIX = {"arithmetic": 43, "span": 42, "multi-span": 13, "count": 2}
COMPANIES = {
    "train": "Arvent;Belmora;Cadrix;Delvane;Eskor;Fenwick;Galtra;Hollis;Inveris;Jorvik;Kelden;"
             "Lumera;Morvan;Nexira;Ostrava;Pellworth;Quorin;Radley;Selwick;Tavira;Umbria;Valcor;"
             "Westrin;Yelland;Zorbach;Ashdown;Bramley;Corvane;Dunmore;Elstow",
    "dev": "Abrin;Birkdale;Castor;Dovran;Emberly;Farrow;Granby;Harlund",
    "test": "Isvik;Jessop;Kintra;Lowick;Mistral;Norvale;Orbane;Penrose;Quantock;Rivenhall;"
            "Stavely;Torvin",
}
FORMS = ("plc", "Inc.", "Group", "AG", "N.V.", "Holdings", "Ltd", "Corp.", "SE", "Oyj")


@dataclass(kw_only=True)
class Paragraph:
    """A sentence of the report with the questions it answers."""

    text: str
    asks: list[Ask]


class Slots:
    """Fills the slots of one report's sentences; a slot's value is drawn once per fact."""

    def __init__(self, rng: random.Random, grid: Grid, company: str) -> None:
        self.rng, self.grid, self.company = rng, grid, company
        self.name = Namer(rng, grid)
        self.used: set[str] = set()
        self.american = rng.random() < 0.5

    def _from(self, bank: str) -> str:
        while True:
            word = self.rng.choice(BANKS[bank].split(";"))
            if word not in self.used:
                self.used.add(word)
                return word

    def firm(self) -> str:
        """A made-up firm: 'Kestrel Foods'."""
        return f"{self._from('stems')} {self._from('trades')}"

    def money(self) -> str:
        """An amount with its currency and scale, in words: '$45 million'."""
        rng, sign = self.rng, self.grid.currency
        if rng.random() < 0.25:
            return f"{sign}{rng.randint(2, 19)}.{rng.randint(1, 9)} million"
        return f"{sign}{rng.choice((rng.randint(11, 99), rng.randint(11, 480)))} million"

    def value(self, slot: str) -> str:
        """Draw a value for a slot name without its digit."""
        rng, year = self.rng, self.grid.year
        banks = {"city": "cities", "country": "countries", "month": "months",
                 "product": "products", "person": "people", "place": "place",
                 "project": "projects", "transfer": "transfer", "basis": "basis",
                 "method": "methods", "dispute": "disputes", "outage": "outages"}
        if slot in banks:
            return self._from(banks[slot])
        if slot == "date":
            day, month = rng.randint(1, 28), self._from("months")
            return f"{month} {day}, {year}" if self.american else f"{day} {month} {year}"
        plain = {
            "y": str(year), "y1": str(year - 1), "next": str(year + 1),
            "future": str(year + rng.randint(2, 8)), "past": str(year - rng.randint(3, 12)),
            "n": str(rng.randint(31, 980)), "pct": f"{rng.randint(2, 24)}.{rng.randint(1, 9)}%",
            "small": str(rng.randint(2, 4)), "digit": str(rng.randint(1, 9)),
            "days": str(rng.choice((10, 14, 21, 30, 45, 60, 90))), "tiny": "1",
            "currency": CURRENCIES["€" if self.grid.currency != "€" else "$"], "co": self.company,
        }
        if slot == "firm":
            return self.firm()
        return self.money() if slot == "money" else plain[slot]

    def fill(self, text: str, known: dict[str, str]) -> str:
        """Replace the slots of `text`, drawing those that are not known yet."""
        for name in re.findall(r"\{(\w+)\}", text):
            while name not in known:
                value = self.value(re.sub(r"(?<=[a-z])\d$", "", name)
                                   if name != "y1" else name)
                base = re.sub(r"\d$", "", name)
                if name == "small2":
                    value = str(int(value) + 3)
                elif name != base and name != "y1" and known.get(base) == value:
                    continue
                known[name] = value
        return text.format(**known)


def _flavour(topic: Topic) -> str:
    """Which bank of reasons suits a topic; '' when none does."""
    words = topic.tags.split()
    for flavour in ("revenue", "cost", "volume", "tax"):
        if flavour in words:
            return flavour
    if topic.unit == "percent" or not words or words[0] in ("shares", "lease", "audit", "staff"):
        return ""
    return "pension" if "pension" in words else "balance"


def _movement(slots: Slots, up: bool) -> dict[str, str] | None:
    """A line item that rose (or fell) in the latest period, and why."""
    grid, flavour = slots.grid, _flavour(slots.grid.topic)
    times = TableAsker(slots.rng, grid, "").times
    if not grid.timed or grid.topic.columns == "schedule" or not flavour:
        return None
    old, new = times[-2], times[-1]
    moved = [i for i, row in enumerate(grid.values) if row[old] > 0 and row[new] > 0
             and (row[new] > row[old]) == up and not grid.items[i].total]
    if not moved:
        return None
    x = slots.name.line(slots.rng.choice(moved))
    why = slots.fill(slots.rng.choice(REASONS[flavour][not up].split(";")), {})
    return {"x": x, "X": sentence(x), "bare": x.removeprefix("the "), "why": why,
            "y": grid.columns[new].name}


def make_fact(slots: Slots, fact: Fact) -> Paragraph | None:
    """Draw the sentence and the questions of a fact; None when the table does not suit it."""
    rng, grid = slots.rng, slots.grid
    known: dict[str, str] = {}
    lists: dict[str, list[str]] = {}
    i = p = 0
    if fact.tags in ("up", "down"):
        moved = _movement(slots, fact.tags == "up")
        if moved is None:
            return None
        known = moved
    elif fact.tags in ("business", "part"):
        if not grid.timed or not grid.topic.group:
            return None
        i = rng.choice([k for k, item in enumerate(grid.items) if not item.total])
        p = rng.randrange(len(grid.columns))
        if grid.values[i][p] <= 0:
            return None
        row = grid.items[i].name
        noun = next((n for n in grid.topic.nouns.split(";") if n.endswith("{row}")), "")
        known = {"row": row, "Row": sentence(row), "when": slots.name.when(p),
                 "of": noun.format(row=f"the {grid.topic.group}").removeprefix("the ")}
        if fact.tags == "business" and not noun:
            return None
        if fact.tags == "part":
            if grid.unit(i, p) != "money" or grid.values[i][p] < 100:
                return None
            part = grid.values[i][p] * rng.randint(12, 70) // 100
            amount = number(part, grid.places(i, p))
            cell = slots.name.cell(i, p)
            known |= {"cellname": cell, "Cellname": sentence(cell), "amount": amount,
                      "part": f"{grid.currency}{amount} {grid.scale}".strip()}
        else:
            known["of"] = "the " + known["of"]
    if fact.lists:
        bank = BANKS[fact.lists].split(";")
        lists["items"] = rng.sample(bank, rng.choice((2, 2, 3, 3, 4)))
        known["items"] = listing(lists["items"])
    text = sentence(slots.fill(rng.choice(fact.sentences), known))
    asks = []
    for line in fact.asks:
        words, _, answer = line.partition(" => ")
        question = sentence(slots.fill(pick(rng, words), known))
        asks.append(_fact_ask(question, answer, known, lists, grid, (i, p)))
    return Paragraph(text=text, asks=asks)


def _fact_ask(question: str, answer: str, known: dict[str, str], lists: dict[str, list[str]],
              grid: Grid, cell: tuple[int, int]) -> Ask:
    """Read the answer notation of tables_facts."""
    if answer == "@cell":
        return Ask(text=question, answer=[grid.answer(*cell)], kind="span", source="table-text",
                   scale=grid.scale_of(*cell))
    if answer == "=@share":
        return Ask(text=question, answer=[], kind="arithmetic", source="table-text",
                   scale="percent", derivation=f"{known['amount']}/{grid.number(*cell)}",
                   percent_of=True)
    if answer[0] in "*#":
        names = answer[1:].split(",")
        values = lists[names[0]] if names[0] in lists else [known[n] for n in names]
        kind = "multi-span" if answer[0] == "*" else "count"
        return Ask(text=question, answer=values, kind=kind, source="text")
    if answer[0] == "=":
        expression, _, scale = answer[1:].partition(" # ")
        return Ask(text=question, answer=[], kind="arithmetic", source="text", scale=scale,
                   derivation=expression.format(**known), percent_of=scale == "percent")
    return Ask(text=question, answer=[answer.format(**known)], kind="span", source="text")


def _paragraphs(slots: Slots, seen: set[str], name: str) -> list[Paragraph]:
    """Draw the text of a report: a lead, one or two facts, the scale, sometimes a distraction."""
    rng, grid = slots.rng, slots.grid
    topic = grid.topic
    words = set(topic.tags.split())
    if "revenue" in words:
        words.add("part")
    own = [f for f in FACTS if words & set(f.tags.split())]
    moves = [f for f in FACTS if f.tags in ("up", "down")]
    general = [f for f in FACTS if f.tags == "any"]
    facts: list[Paragraph] = []
    wanted = rng.choice((1, 2, 2))
    taken: list[Fact] = []
    while len(facts) < wanted:
        pool = rng.choice((own, own, own, own, moves, moves, moves, general))
        fact = rng.choice(pool or general)
        if fact in taken or (fact.tags in ("up", "down") and taken and taken[0].tags == fact.tags):
            continue
        made = make_fact(slots, fact)
        if made and made.text not in seen:
            taken.append(fact)
            facts.append(made)
            seen.add(made.text)
    parts = facts
    if rng.random() < 0.16:
        n = str(rng.randint(2, 29))
        known = {"n": n, "month": rng.choice(BANKS["months"].split(";"))}
        parts.insert(rng.randint(0, len(parts)),
                     Paragraph(text=rng.choice(DISTRACTORS).format(**known), asks=[]))
    if grid.scale_in_text:
        money = {"$": "US dollars", "€": "euros", "£": "pounds"}[grid.currency]
        note = Paragraph(text=rng.choice(SCALE_NOTES).format(scale=grid.scale, money=money),
                         asks=[])
        parts.insert(rng.choice((0, len(parts))), note)
    if rng.random() < 0.7 or slots.company == name:
        lead = rng.choice(LEADS).format(name=name, topic=topic.name, Topic=sentence(topic.name),
                                        n=rng.randint(2, 29))
        parts.insert(0, Paragraph(text=lead, asks=[]))
    return parts


def _draw(rng: random.Random, kinds: tuple[Kind, ...], asker: TableAsker) -> Ask | None:
    kind = rng.choices([k for k, _ in kinds], [w for _, w in kinds])[0]
    return kind(asker)


def _questions(rng: random.Random, asker: TableAsker, texts: list[Ask],
               counts: dict[str, int]) -> list[Ask]:
    """Draw a report's questions, each of the type that lags most behind the mix."""
    chosen: list[Ask] = []
    kinds = {"span": (SPANS, 0.5), "multi-span": (MULTI, 0.35), "arithmetic": (ARITHMETIC, 0.12),
             "count": (COUNTS, 0.4)}
    stuck: set[str] = set()
    while len(chosen) < QUESTIONS and len(stuck) < 4:
        lag = {t: MIX[t] * (sum(counts.values()) + 1) - 100 * counts[t] for t in MIX
               if t not in stuck}
        kind = max(lag, key=lambda t: lag[t])
        table, from_text = kinds[kind]
        for _ in range(60):
            pool = [a for a in texts if a.kind == kind]
            if pool and rng.random() < from_text:
                ask: Ask | None = rng.choice(pool)
            else:
                ask = _draw(rng, table, asker)
            if ask and _fits(ask, chosen):
                chosen.append(ask)
                counts[kind] += 1
                break
        else:
            stuck.add(kind)
    rng.shuffle(chosen)
    return chosen


def _fits(ask: Ask, chosen: list[Ask]) -> bool:
    """No repeated question or derivation, and an answer that rounds in one way only."""
    if any(a.text == ask.text or (a.kind, a.answer, a.derivation) ==
           (ask.kind, ask.answer, ask.derivation) for a in chosen):
        return False
    if ask.kind != "arithmetic":
        return True
    value = exact(ask.derivation) * (100 if ask.percent_of else 1)
    return rounded(value) is not None and abs(value) * 200 > 1


def make_report(split: str, index: int, seen: set[str], counts: dict[str, int]) -> dict[str, object]:
    """Write one context in TAT-QA's schema."""
    rng = random.Random(f"{SEED} {split} {index}")

    def uid() -> str:
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))

    name = f"{rng.choice(COMPANIES[split].split(';'))} {rng.choice(FORMS)}"
    company = rng.choice(("the Company", "the Group", name))
    grid = build_grid(rng, TOPICS[(index * 7 + len(split)) % len(TOPICS)])
    table = write_cells(rng, grid)
    paragraphs = _paragraphs(Slots(rng, grid, company), seen, name)
    asks = _questions(rng, TableAsker(rng, grid, company),
                      [a for part in paragraphs for a in part.asks], counts)
    orders = {id(a): str(k) for k, part in enumerate(paragraphs, 1) for a in part.asks}
    notes = [str(k) for k, part in enumerate(paragraphs, 1)
             if grid.scale_in_text and not part.asks and f"{grid.scale}s" in part.text]
    return {
        "table": {"uid": uid(), "table": table},
        "paragraphs": [{"uid": uid(), "order": k, "text": part.text}
                       for k, part in enumerate(paragraphs, 1)],
        "questions": [_question(uid(), k, ask, orders.get(id(ask), ""), notes)
                      for k, ask in enumerate(asks, 1)],
    }


def _question(uid: str, order: int, ask: Ask, paragraph: str, notes: list[str]) -> dict[str, object]:
    answer: object = ask.answer
    derivation = ask.derivation
    if ask.kind == "arithmetic":
        answer = rounded(exact(derivation) * (100 if ask.percent_of else 1))
    elif ask.kind == "count":
        answer, derivation = len(ask.answer), "##".join(ask.answer)
    return {"uid": uid, "order": order, "question": ask.text, "answer": answer,
            "derivation": derivation, "answer_type": ask.kind, "answer_from": ask.source,
            "rel_paragraphs": [] if ask.source == "table" else [paragraph] if paragraph else notes,
            "req_comparison": ask.comparison, "scale": ask.scale}


def generate() -> dict[str, list[dict[str, object]]]:
    """All three splits, in order; a sentence of facts occurs in one report only."""
    seen: set[str] = set()
    reports = {}
    for split, size in SPLITS.items():
        counts = dict.fromkeys(MIX, 0)
        reports[split] = [make_report(split, index, seen, counts) for index in range(size)]
    return reports


def dump(reports: list[dict[str, object]]) -> str:
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
        sys.exit("usage: python -m labkit.datasets.tables OUT_DIR")
    write(Path(sys.argv[1]))
