"""The text of the embedded set's reports: facts with their slots filled, and the questions on them.

Slots are filled once per fact, so that a sentence and its questions speak of the same firm. What a
slot says fits the table beside it: amounts are of the table's order of magnitude, dates lie in its
year, and a movement ("revenue from hardware rose") is one the numbers show.
"""

from __future__ import annotations

import random
import re

from labkit.datasets.tables.asks import Ask, Paragraph, listing, pick, sentence
from labkit.datasets.tables.banks import BANKS, REASONS
from labkit.datasets.tables.facts import FACTS, Fact
from labkit.datasets.tables.grid import CURRENCIES, Grid, number
from labkit.datasets.tables.questions import TableAsker
from labkit.datasets.tables.text import DISTRACTORS, LEADS, SCALE_NOTES

_BANK_OF = {
    "city": "cities", "country": "countries", "month": "months", "product": "products",
    "person": "people", "place": "places", "project": "projects", "transfer": "transfers",
    "basis": "bases", "method": "methods", "outage": "outages", "standard": "standards",
    "transition": "transitions", "energy": "energies",
    "brand": "stems", "dispute": "disputes"}
_FIRMS = {"firm": "trades", "maker": "works", "fund": "funds"}


class Slots:
    """Draws what the slots of one report's sentences say; no name is drawn twice."""

    def __init__(self, rng: random.Random, grid: Grid, company: str) -> None:
        self.rng, self.grid, self.company = rng, grid, company
        self.table = TableAsker(rng, grid, company)
        self.used: set[str] = set()
        self.american = rng.random() < 0.5

    def _from(self, bank: str) -> str:
        while True:
            word = self.rng.choice(BANKS[bank].split(";"))
            if word not in self.used:
                self.used.add(word)
                return word

    def _money(self) -> str:
        """An amount in words and in the table's order of magnitude: '$45 million'."""
        rng, grid = self.rng, self.grid
        largest = max((grid.values[i][p] for i in self.table.plain
                       for p in range(len(grid.columns)) if grid.unit(i, p) == "money"),
                      default=rng.randint(40, 900) * 10**grid.decimals)
        if largest < 200 * 10**grid.decimals:
            largest *= 10
        tenths = max(largest * rng.randint(80, 700) // (100 * 10**grid.decimals), 11)
        if grid.scale == "thousand" and tenths >= 10000:
            return f"{grid.currency}{tenths // 10000}.{tenths // 1000 % 10} million"
        if grid.scale == "thousand":
            return f"{grid.currency}{tenths // 10},000"
        whole = f"{tenths // 10:,}" if tenths > 200 else f"{tenths // 10}.{tenths % 10}"
        return f"{grid.currency}{whole} {grid.scale or 'million'}"

    def _date(self, year: int) -> str:
        day, month = self.rng.randint(1, 28), self._from("months")
        return f"{month} {day}, {year}" if self.american else f"{day} {month} {year}"

    def _value(self, slot: str, known: dict[str, str]) -> str:
        rng, year = self.rng, self.grid.year
        base = slot.rstrip("2")
        if base in _FIRMS:
            return f"{self._from('stems')} {self._from(_FIRMS[base])}"
        if base in _BANK_OF:
            return self.fill(self._from(_BANK_OF[base]), {})
        if slot == "small2":
            return str(int(known["small"]) + rng.randint(2, 5))
        for pair in (("measure", "definition"), ("hedge", "risk")):
            if slot in pair:
                words = [BANKS[f"{name}s"].split(";") for name in pair]
                k = rng.randrange(len(words[0]))
                known |= {name: column[k] for name, column in zip(pair, words, strict=True)}
                return known[slot]
        if slot == "bank":
            return f"{self._from('stems')} Bank"
        if slot == "auditor":
            return f"{self._from('stems')} {self._from('stems')} LLP"
        if slot == "n2":
            return str(int(known["n"]) * rng.randint(70, 140) // 100 + 3)
        plain = {
            "y": str(year), "y1": str(year - 1), "next": str(year + 1), "co": self.company,
            "future": str(year + rng.randint(2, 8)), "past": str(year - rng.randint(3, 12)),
            "n": str(rng.randint(31, 690)), "pct": f"{rng.randint(2, 24)}.{rng.randint(1, 9)}%",
            "tax": f"{rng.randint(11, 34)}.{rng.randint(1, 9)}%",
            "growth": f"{rng.randint(0, 2)}.{rng.randint(1, 9)}%",
            "rate": f"{rng.randint(3, 9)}.{rng.randint(1, 9)}%",
            "small": str(rng.randint(2, 4)), "digit": str(rng.randint(1, 9)), "tiny": "1",
            "days": str(rng.choice((10, 14, 21, 30, 45, 60, 90))),
            "currency": CURRENCIES["€" if self.grid.currency != "€" else "$"],
        }
        if base == "date":
            return self._date(year)
        if slot == "date1":
            return self._date(year + 1)
        return self._money() if base == "money" else plain[base if slot != "y1" else slot]

    def fill(self, text: str, known: dict[str, str]) -> str:
        """Replace the slots of `text`, drawing those that are not in `known` yet."""
        for name in re.findall(r"\{(\w+)\}", text):
            while name not in known:
                value = self._value(name, known)
                if name[-1] != "2" or value != known.get(name[:-1]):
                    known[name] = value
        return text.format(**known)

    def movement(self, up: bool) -> dict[str, str] | None:
        """A line item that rose (or fell) in the latest period, and why; None without one."""
        grid = self.grid
        if not grid.timed or not grid.topic.reasons:
            return None
        old, new = self.table.times[-2:]
        moved = [i for i in self.table.plain if grid.values[i][old] > 0 and grid.values[i][new] > 0
                 and (grid.values[i][new] > grid.values[i][old]) == up]
        if not moved:
            return None
        x = self.table.name.line(self.rng.choice(moved))
        why = self.fill(self.rng.choice(REASONS[grid.topic.reasons][not up].split(";")), {})
        return {"x": x, "bare": x.removeprefix("the "), "why": why, "y": grid.columns[new].name}

    def described(self, part: bool) -> tuple[dict[str, str], tuple[int, int]] | None:
        """A cell whose line item a sentence describes; None when the table has none to offer."""
        grid, rng = self.grid, self.rng
        i, p = rng.choice(self.table.plain), rng.randrange(len(grid.columns))
        noun = next((n for n in grid.topic.nouns.split(";") if n.endswith("{row}")), "")
        if not grid.timed or not noun or grid.values[i][p] <= 0:
            return None
        of = noun.format(row=f"the {grid.topic.group}")
        known = {"row": grid.items[i].name, "when": self.table.name.when(p), "of": of}
        if part:
            if grid.values[i][p] < 100:
                return None
            amount = number(grid.values[i][p] * rng.randint(12, 70) // 100, grid.places(i, p))
            known |= {"cell": self.table.name.cell(i, p), "amount": amount,
                      "part": f"{grid.currency}{amount} {grid.scale}"}
        return known, (i, p)


def make_fact(slots: Slots, fact: Fact) -> Paragraph | None:
    """Draw the sentence and the questions of a fact; None when the table does not suit it."""
    known: dict[str, str] = {}
    lists: dict[str, list[str]] = {}
    cell = (0, 0)
    if fact.tags in ("up", "down"):
        moved = slots.movement(fact.tags == "up")
        if moved is None:
            return None
        known = moved
    elif "{row}" in fact.sentences[0] or fact.tags == "part":
        described = slots.described(fact.tags == "part")
        if described is None:
            return None
        known, cell = described
    if fact.lists:
        bank = [w for w in BANKS[fact.lists].split(";") if w not in slots.used]
        lists["items"] = slots.rng.sample(bank, slots.rng.choice((2, 2, 3, 3, 4)))
        slots.used.update(lists["items"])
        known["items"] = listing(lists["items"])
    text = sentence(slots.fill(slots.rng.choice(fact.sentences), known))
    asks = []
    for line in fact.asks:
        words, _, answer = line.partition(" => ")
        question = sentence(slots.fill(pick(slots.rng, words), known))
        asks.append(_ask(question, answer, known, lists, slots.grid, cell))
    return Paragraph(text=text, asks=asks)


def _ask(question: str, answer: str, known: dict[str, str], lists: dict[str, list[str]],
         grid: Grid, cell: tuple[int, int]) -> Ask:
    """Read the answer notation of facts."""
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


def make_paragraphs(slots: Slots, table: list[list[str]], name: str,
                    seen: set[str]) -> list[Paragraph]:
    """Draw the text of a report: a lead, one or two facts, the scale, sometimes a distraction.

    `seen` holds every fact sentence drawn so far and grows: none is used twice. A footnote puts its
    mark into the header cell of `table`.
    """
    rng, grid = slots.rng, slots.grid
    words = set(grid.topic.tags.split())
    # The share of a customer ties text to table; it is rare otherwise.
    own = [f for f in FACTS if words & set(f.tags.split())
           for _ in range(5 if f.tags == "part" else 1)]
    moves = [f for f in FACTS if f.tags in ("up", "down")]
    general = [f for f in FACTS if f.tags == "any" and not (words & {"staff"} and "{n2}" in
                                                            f.sentences[0])]
    parts: list[Paragraph] = []
    taken: list[Fact] = []
    wanted = rng.choice((1, 1, 2, 2))
    while len(parts) < wanted:
        fact = rng.choice(rng.choice((own, own, own, moves, moves, general)))
        if fact in taken or (fact in moves and any(f in moves for f in taken)):
            continue
        made = make_fact(slots, fact)
        if made and made.text not in seen:
            seen.add(made.text)
            taken.append(fact)
            parts.append(made)
    note = ""
    if rng.random() < 0.15:
        month = rng.choice(BANKS["months"].split(";"))
        note = rng.choice(DISTRACTORS).format(n=rng.randint(2, 29), month=month)
        if note.startswith("(1)"):
            parts.append(Paragraph(text=note))
            table[0][0] = f"{table[0][0]} (1)".strip()
        else:
            parts.insert(rng.randint(0, len(parts)), Paragraph(text=note))
    if grid.scale_in_text:
        money = {"$": "US dollars", "€": "euros", "£": "pounds"}[grid.currency]
        text = rng.choice(SCALE_NOTES if not note.startswith("(1)") else SCALE_NOTES[:3])
        if text.startswith("(1)"):
            table[0][0] = f"{table[0][0]} (1)".strip()
        parts.insert(0 if not text.startswith("(1)") and rng.random() < 0.5 else len(parts),
                     Paragraph(text=text.format(scale=grid.scale, money=money), scale=True))
    if rng.random() < 0.5 or slots.company == name:
        topic = grid.topic.name
        leads = [text for text in LEADS if "{name}" in text or slots.company != name]
        lead = rng.choice(leads).format(name=name, topic=topic, n=rng.randint(2, 29),
                                        Topic=sentence(topic.removeprefix("the ")))
        parts.insert(0, Paragraph(text=sentence(lead)))
    return parts
