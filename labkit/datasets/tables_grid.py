"""Numbers of the embedded set: from a topic to a table that adds up.

A table is a grid of *lines* (line items, with a name to use in a question) and *columns* (periods
or facets, with the phrases a question may use for them). Numbers are integers scaled by a power of
ten, never floats: totals add up exactly, and the file is the same on every machine. The scale of
the money amounts ("million") stands in a header cell, in a header row or only in the text, as in
annual reports; the grid remembers where, because a question about a table whose scale stands in
the text needs both.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from labkit.datasets.tables_text import ALIASES, Topic

MONTH_ENDS = {"March": 31, "June": 30, "September": 30, "December": 31}
CURRENCIES = {"$": "US dollar", "€": "euro", "£": "pound sterling"}


@dataclass(kw_only=True)
class Line:
    """A line item or a column: its cell text, its name in questions and its unit."""

    label: str
    name: str
    phrases: tuple[str, ...] = ()
    unit: str = ""
    total: bool = False


@dataclass(kw_only=True)
class Grid:
    """A table before it is written as cells; `values[i][p]` belongs to item i and column p."""

    topic: Topic
    items: list[Line]
    columns: list[Line]
    values: list[list[int]]
    decimals: int
    year: int
    currency: str
    scale: str
    scale_in_text: bool
    timed: bool = True
    change: bool = False
    cells: list[list[str]] = field(default_factory=list)

    def unit(self, item: int, column: int) -> str:
        """Unit of one cell: the line's own, the column's own, or the topic's."""
        return self.items[item].unit or self.columns[column].unit or self.topic.unit

    def places(self, item: int, column: int) -> int:
        """Decimal places of one cell."""
        unit = self.unit(item, column)
        return {"money": self.decimals, "percent": 1, "share": 2}.get(unit, 0)

    def number(self, item: int, column: int) -> str:
        """The cell's number as printed in derivations: '1,234', '-5.6'."""
        return number(self.values[item][column], self.places(item, column))

    def answer(self, item: int, column: int) -> str:
        """The cell as an answer: its text without the currency sign."""
        return self.cells[item][column].replace(self.currency, "").strip()

    def scale_of(self, item: int, column: int) -> str:
        """Scale that belongs to the number of the cell."""
        return self.scale if self.unit(item, column) == "money" else ""


def number(value: int, places: int) -> str:
    """Write an integer scaled by 10**places with thousands separators."""
    whole, rest = divmod(abs(value), 10**places)
    text = f"{whole:,}" + (f".{rest:0{places}}" if places else "")
    return "-" + text if value < 0 else text


def name_of(label: str, proper: bool) -> str:
    """How a line item reads inside a sentence."""
    if proper or label.isupper():
        return label
    return label[0].lower() + label[1:]


def _columns(rng: random.Random, topic: Topic, year: int) -> list[Line]:
    """Draw the period columns (or facets) of a table, in the order they are printed."""
    if topic.columns == "schedule":
        count = rng.choice((3, 3, 4))
        lines = [Line(label=str(year + k + 1), name=str(year + k + 1),
                      phrases=(f"in {year + k + 1}",)) for k in range(count)]
        if rng.random() < 0.5:
            lines.append(Line(label="Thereafter", name="later years",
                              phrases=(f"after {year + count}",)))
        return lines
    if topic.columns not in ("flow", "stock"):
        return [Line(label=facet, name=name_of(facet.split(" (")[0], False),
                     unit="years" if "years" in facet else "") for facet in
                topic.columns.split(";")]
    count = 3 if rng.random() < 0.4 else 2
    style = rng.random()
    lines = []
    if topic.columns == "flow" and style < 0.14:
        word, last, long = rng.choice((
            ("Q", 4, ("first", "second", "third", "fourth")), ("H", 2, ("first", "second"))))
        end = rng.randint(count, 4) if last == 4 else 2
        for k in range(count):
            part, back = (end - k, 0) if last == 4 else (2 - k % 2, k // 2)
            kind = "quarter" if word == "Q" else "half"
            label = f"{word}{part} {year - back}"
            lines.append(Line(label=label, name=label, phrases=(
                f"in {label}", f"in the {long[part - 1]} {kind} of {year - back}")))
    elif topic.columns == "stock" and style < 0.4:
        month = rng.choice(tuple(MONTH_ENDS))
        for k in range(count):
            y = year - k
            dates = (f"{month} {MONTH_ENDS[month]}, {y}", f"{MONTH_ENDS[month]} {month} {y}")
            lines.append(Line(label=dates[style < 0.2], name=str(y), phrases=(
                f"at the end of {month} {y}", f"in {y}", f"as of {dates[style < 0.2]}")))
    else:
        form = rng.choice(("{}", "{}", "{}", "{}", "FY{}", "FY{}", "Fiscal {}"))
        for k in range(count):
            label = form.format(year - k)
            stock = ("at the end of {}", "in {}", "at year-end {}")
            flow = ("in {}", "for {}", "in {}", "for the year {}")
            phrases = tuple(p.format(year - k) for p in
                            (stock if topic.columns == "stock" else flow))
            if form.startswith("FY"):
                phrases = (f"in {label}", f"for {label}", f"in fiscal {year - k}")
            lines.append(Line(label=label, name=label if form.startswith("FY") else str(year - k),
                              phrases=phrases))
    return lines[::-1] if rng.random() < 0.25 else lines


def _items(rng: random.Random, topic: Topic) -> list[Line]:
    labels = topic.rows.split(";")
    if topic.columns == "schedule":
        chosen = rng.sample(labels, rng.choice((1, 2, 2)))
    elif topic.name in ("trade receivables by age", "earnings per share"):
        start = rng.randint(0, 1)
        chosen = labels[start:start + rng.randint(3, 4)]
    else:
        most = min(5 if topic.total else 4, len(labels))
        chosen = rng.sample(labels, rng.choice([k for k in (2, 3, 3, 3, 4, 4, 5) if k <= most]))
        chosen.sort(key=lambda label: (label.startswith("Other"), rng.random()))
    lines = []
    for label in chosen:
        label, _, unit = label.partition("@")
        name = name_of(label.split(" (")[0], topic.proper)
        lines.append(Line(label=label, name=name, unit=unit))
    return lines


def _values(rng: random.Random, grid: Grid) -> None:
    """Draw the numbers: every item moves by -30 % to +40 % between neighbouring columns."""
    topic, big = grid.topic, rng.random() < 0.12 and grid.topic.unit == "money"
    ages = sorted(range(len(grid.columns)), key=lambda p: -p)
    if grid.columns[0].name < grid.columns[-1].name:
        ages = ages[::-1]
    for i in range(len(grid.items)):
        unit = grid.unit(i, 0)
        low, high = topic.size if unit != "share" else (45, 990)
        if unit == "years":
            low, high = 2, 9
        value = rng.randint(low, rng.choice((high, (low + high) // 2)))
        if big and unit == "money":
            value = value * 10 + rng.randint(0, 9)
        if topic.signed and rng.random() < 0.3:
            value = -value
        row = [0] * len(grid.columns)
        for p in ages:
            row[p] = value
            step = value
            while step == value:
                step = value * rng.randint(70, 140) // 100 + rng.choice((-1, 0, 1))
            value = step
        grid.values.append(row)
    facets = [c.name for c in grid.columns]
    if facets and facets[-1] == "useful life":
        for row in grid.values:
            row[1] = row[0] * rng.randint(20, 80) // 100
            row[2] = row[0] - row[1]
            row[3] = rng.randint(3, 20)
    elif topic.columns != "schedule" and topic.unit == "money" and len(grid.items) > 2 \
            and rng.random() < 0.08:
        grid.values[-1][-1] = 0


def build_grid(rng: random.Random, topic: Topic) -> Grid:
    """Draw a table for a topic: lines, columns, numbers, totals and the place of the scale."""
    year = rng.randint(2012, 2023)
    money = topic.unit == "money"
    scale = rng.choice(("million",) * 5 + ("thousand",) * 5 + ("",) + ("billion",)) if money else ""
    grid = Grid(
        topic=topic, items=_items(rng, topic), columns=_columns(rng, topic, year), values=[],
        decimals=1 if money and scale in ("million", "billion") and rng.random() < 0.35 else 0,
        year=year, currency=rng.choice("$$$€€£"), scale=scale,
        scale_in_text=bool(scale) and rng.random() < 0.22,
        timed=topic.columns in ("flow", "stock", "schedule"))
    while True:
        grid.values.clear()
        _values(rng, grid)
        flat = [v for row in grid.values for v in row if v]
        ties = any(len({row[p] for row in grid.values}) < len(grid.items)
                   for p in range(len(grid.columns)))
        if (grid.timed and len(set(flat)) == len(flat)) or (not grid.timed and not ties):
            break
    if topic.total and len(grid.items) > 1 and (grid.timed and rng.random() < 0.75):
        total = [sum(row[p] for row in grid.values) for p in range(len(grid.columns))]
        if len(set(total)) == len(total) and 0 not in total:
            label = rng.choice(topic.total.split(";"))
            grid.items.append(Line(label=label, name=name_of(label, False), total=True))
            grid.values.append(total)
    grid.change = (grid.timed and topic.columns != "schedule" and len(grid.columns) == 2
                   and topic.unit in ("money", "count") and not topic.signed
                   and rng.random() < 0.13 and all(v for row in grid.values for v in row))
    return grid


def _cell(grid: Grid, i: int, p: int, sign: bool) -> str:
    value, places, unit = grid.values[i][p], grid.places(i, p), grid.unit(i, p)
    if value == 0:
        return "–"
    text = number(abs(value), places)
    if unit == "percent":
        text += "%"
    if unit == "share" or (sign and unit == "money"):
        text = grid.currency + text
    return f"({text})" if value < 0 else text


def write_cells(rng: random.Random, grid: Grid) -> list[list[str]]:
    """Fill `grid.cells` and return the printed table, header first."""
    topic, scale, sign = grid.topic, grid.scale, grid.currency
    signs = rng.random() < 0.2
    last = len(grid.items) - 1
    grid.cells = [[_cell(grid, i, p, signs and i in (0, last)) for p in range(len(grid.columns))]
                  for i in range(len(grid.items))]
    has_money = any(grid.unit(i, p) == "money" for i in range(len(grid.items))
                    for p in range(len(grid.columns)))
    short = {"million": "m", "thousand": "k" if sign == "€" else "'000", "billion": "bn"}
    corner, under = "", ""
    if has_money and scale and not grid.scale_in_text:
        where = rng.random()
        if where < 0.2:
            under = sign + short[scale] if sign != "€" or scale != "thousand" else "€ thousand"
        else:
            corner = rng.choice((
                f"({sign} in {scale}s)", f"In {scale}s", f"({sign} {scale}s)", f"{sign} {scale}",
                f"(in {scale}s of {CURRENCIES[sign]}s)".replace("pound sterlings",
                                                                "pounds sterling"),
                f"{sign} in {scale}s", f"Amounts in {scale}s"))
    elif topic.unit in ("kt", "tonnes"):
        corner = {"kt": "(kt)", "tonnes": "(tonnes CO2)"}[topic.unit]
    elif has_money and not scale:
        corner = rng.choice((f"({sign})", f"In {CURRENCIES[sign]}s".replace(
            "pound sterlings", "pounds sterling")))
    elif rng.random() < 0.25:
        corner = topic.name[0].upper() + topic.name[1:]
    if topic.columns == "schedule":
        return _transposed(grid, corner)
    rows = [[corner, *(c.label for c in grid.columns)]]
    if under:
        rows.append(["", *(under if c.unit in ("", "money") else "" for c in grid.columns)])
    rows += [[item.label, *cells] for item, cells in zip(grid.items, grid.cells, strict=True)]
    if grid.change:
        newest = max((0, 1), key=lambda p: grid.columns[p].name)
        rows[0].append("Change")
        if under:
            rows[1].append(under)
        for row, values in zip(rows[-len(grid.values):], grid.values, strict=True):
            difference = values[newest] - values[1 - newest]
            text = number(abs(difference), grid.decimals if topic.unit == "money" else 0)
            row.append(f"({text})" if difference < 0 else text)
    return rows


def _transposed(grid: Grid, corner: str) -> list[list[str]]:
    """Print the columns downwards: schedules have one line for each year."""
    rows = [[corner or ("Year" if grid.scale else ""), *(item.label for item in grid.items)]]
    for p, column in enumerate(grid.columns):
        rows.append([column.label, *(grid.cells[i][p] for i in range(len(grid.items)))])
    return rows


def alias(rng: random.Random, name: str) -> str:
    """A shorter name of the line item now and then."""
    return ALIASES[name] if name in ALIASES and rng.random() < 0.3 else name
