"""Numbers of the embedded set: from a topic to a table that adds up.

A table is a grid of *items* (with a name to use in a question) and *columns* (periods or facets,
with the phrases a question may use for them). Numbers are integers scaled by a power of ten, never
floats: totals and roll-forwards add up exactly, and the file is the same on every machine. The
scale of the money amounts ("million") stands in a header cell, in a header row or only in the
text, as in annual reports; the grid remembers where, because a question about a table whose scale
stands in the text needs both.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from fractions import Fraction

from labkit.datasets.tables.text import Topic

MONTH_ENDS = {"March": 31, "June": 30, "September": 30, "December": 31}
CURRENCIES = {"$": "US dollar", "€": "euro", "£": "pound"}
_PLACES = {"percent": 1, "share": 2}
_HEADERS = {"kt": "(kt)", "tonnes": "(tonnes CO2)"}


@dataclass(kw_only=True)
class Line:
    """A line item or a column: its cell text, its name in questions and its unit."""

    label: str
    name: str
    phrases: tuple[str, ...] = ()
    unit: str = ""
    size: tuple[int, int] = (0, 0)
    sign: str = ""
    total: bool = False


@dataclass(kw_only=True)
class Grid:
    """A table before it is written as cells; `values[i][p]` belongs to item i and column p."""

    topic: Topic
    items: list[Line]
    columns: list[Line]
    decimals: int
    year: int
    currency: str
    scale: str
    scale_in_text: bool
    timed: bool
    values: list[list[int]] = field(default_factory=list)
    transposed: bool = False
    change: str = ""
    changes: list[str] = field(default_factory=list)
    cells: list[list[str]] = field(default_factory=list)

    @property
    def roll(self) -> bool:
        """Whether the items roll an opening balance forward to a closing one."""
        return self.items[0].label == "Opening balance"

    def unit(self, item: int, column: int) -> str:
        """Unit of one cell: the item's own, the column's own, or the topic's."""
        return self.items[item].unit or self.columns[column].unit or self.topic.unit

    def places(self, item: int, column: int) -> int:
        """Decimal places of one cell."""
        unit = self.unit(item, column)
        return self.decimals if unit == "money" else _PLACES.get(unit, 0)

    def number(self, item: int, column: int) -> str:
        """The cell's number as written in derivations: '1,234', '-5.6'."""
        return number(self.values[item][column], self.places(item, column))

    def answer(self, item: int, column: int) -> str:
        """The cell as an answer: its text without the currency sign."""
        return self.cells[item][column].replace(self.currency, "")

    def scale_of(self, item: int, column: int) -> str:
        """Scale that belongs to the number of the cell."""
        return self.scale if self.unit(item, column) in ("money", "shares") else ""


def number(value: int, places: int) -> str:
    """Write an integer scaled by 10**places with thousands separators."""
    whole, rest = divmod(abs(value), 10**places)
    text = f"{whole:,}" + (f".{rest:0{places}}" if places else "")
    return "-" + text if value < 0 else text


def name_of(label: str, proper: bool = False) -> str:
    """How a line item reads inside a sentence: no bracketed unit, no capital."""
    label = label.split(" (")[0]
    return label if proper else label[0].lower() + label[1:]


def _columns(rng: random.Random, topic: Topic, year: int) -> list[Line]:
    """Draw the period columns (or facets) of a table, in the order they are printed."""
    if topic.columns == "schedule":
        years = [str(year + k + 1) for k in range(rng.choice((3, 3, 4)))]
        lines = [Line(label=y, name=y, phrases=(f"in {y}",)) for y in years]
        if rng.random() < 0.4:
            lines.append(Line(label="Thereafter", name="later years",
                              phrases=(f"after {years[-1]}",)))
        return lines
    if topic.columns not in ("flow", "stock"):
        return [Line(label=facet, name=name_of(facet), unit="years" if "years" in facet else "")
                for facet in topic.columns.split(";")]
    count = 3 if rng.random() < 0.33 else 2
    style = rng.random()
    if topic.columns == "flow" and style < 0.14 and not topic.rows.startswith("Opening"):
        lines = _parts_of_years(rng, year, count)
    elif topic.columns == "stock" and style < 0.3:
        lines = _dates(rng, year, count, american=style < 0.2)
    else:
        form = rng.choice(("{}", "{}", "{}", "{}", "FY{}", "FY{}", "Fiscal {}"))
        words = {"stock": ("at the end of {}", "in {}", "at year-end {}"),
                 "flow": ("in {}", "for {}", "in {}", "for the year {}")}[topic.columns]
        lines = []
        for y in range(year, year - count, -1):
            label = form.format(y)
            phrases = tuple(w.format(y) for w in words)
            if form.startswith("F"):
                phrases = (f"in {label.replace('Fis', 'fis')}", f"in fiscal {y}", f"for fiscal {y}")
            name = label if form.startswith("FY") else str(y)
            lines.append(Line(label=label, name=name, phrases=phrases))
    return lines[::-1] if rng.random() < 0.25 else lines


def _parts_of_years(rng: random.Random, year: int, count: int) -> list[Line]:
    if rng.random() < 0.7:
        last = rng.randint(count, 4)
        parts = [(f"Q{k} {year}", f"in the {('first', 'second', 'third', 'fourth')[k - 1]} quarter "
                  f"of {year}") for k in range(last, last - count, -1)]
    else:
        parts = [(f"H{2 - k % 2} {year - k // 2}",
                  f"in the {('second', 'first')[k % 2]} half of {year - k // 2}")
                 for k in range(count)]
    return [Line(label=label, name=label, phrases=(f"in {label}", long)) for label, long in parts]


def _dates(rng: random.Random, year: int, count: int, american: bool) -> list[Line]:
    month = rng.choice(tuple(MONTH_ENDS))
    lines = []
    for y in range(year, year - count, -1):
        day = MONTH_ENDS[month]
        date = f"{month} {day}, {y}" if american else f"{day} {month} {y}"
        lines.append(Line(label=date, name=str(y), phrases=(
            f"at the end of {month} {y}", f"in {y}", f"as of {date}")))
    return lines


def _items(rng: random.Random, topic: Topic, columns: int) -> list[Line]:
    """Draw line items; no name is part of another, so that a loose name stays clear."""
    labels = topic.rows.split(";")
    few = [2, 2, 3, 3, 4] if columns > 2 else [2, 3, 3, 3, 4, 4]
    if topic.columns == "schedule":
        few = [1, 2, 2]
    while True:
        if topic.rows.startswith("Opening"):
            chosen = [labels[0], *rng.sample(labels[1:-1], rng.choice((2, 2, 3))), labels[-1]]
        elif topic.name in ("trade receivables by age", "earnings per share"):
            start = rng.randint(0, 1)
            chosen = labels[start:start + rng.randint(3, 4)]
        else:
            first = [labels[0]] if topic.name in ("cash flows", "the tax rate reconciliation") \
                else []
            rest = [label for label in labels if label not in first]
            chosen = first + rng.sample(rest, min(rng.choice(few), len(rest)) - len(first))
            chosen.sort(key=lambda label: label.startswith("Other"))
        lines = []
        for spec in chosen:
            label, _, more = spec.lstrip("-~").partition("@")
            unit, _, size = more.partition(":")
            low, _, high = size.partition(":")
            lines.append(Line(label=label, name=name_of(label, topic.proper), unit=unit,
                              size=(int(low), int(high)) if size else (0, 0),
                              sign=spec[0] if spec[0] in "-~" else ""))
        names = [line.name.lower() for line in lines]
        if not any(a != b and a in b for a in names for b in names):
            return lines


def _draw_values(rng: random.Random, grid: Grid, newest_first: list[int]) -> None:
    """Draw the numbers: every item moves by -30 % to +40 % from one period to the next."""
    larger = {"thousand": 0.4, "million": 0.08}.get(grid.scale, 0.0) > rng.random()
    for i, item in enumerate(grid.items):
        unit = grid.unit(i, 0)
        low, high = item.size if item.size[1] else grid.topic.size
        if unit in ("years", "share") and not item.size[1]:
            low, high = (2, 9) if unit == "years" else (45, 990)
        value = rng.randint(low, rng.choice((high, (low + high) // 2)))
        if larger and unit == "money":
            value = value * 10 + rng.randint(0, 9)
        if item.sign == "-" or (item.sign == "~" and rng.random() < 0.35):
            value = -value
        row = [0] * len(grid.columns)
        for p in newest_first:
            row[p], step = value, value
            while step == value or step == 0:
                step = value * rng.randint(70, 140) // 100 + rng.choice((-1, 0, 1))
            value = step
        grid.values.append(row)
    if grid.columns[-1].name == "useful life":
        for row in grid.values:
            row[1] = row[0] * rng.randint(20, 80) // 100
            row[2], row[3] = row[0] - row[1], rng.randint(3, 20)
    elif grid.roll:
        for old, new in zip([None, *newest_first[:0:-1]], newest_first[::-1], strict=True):
            if old is not None:
                grid.values[0][new] = grid.values[-1][old]
            grid.values[-1][new] = sum(row[new] for row in grid.values[:-1])
    elif grid.topic.name == "earnings per share":
        _earnings(rng, grid)
    elif grid.topic.columns != "schedule" and grid.topic.unit == "money" \
            and len(grid.items) > 2 and rng.random() < 0.08:
        grid.values[-1][newest_first[-1]] = 0


def _earnings(rng: random.Random, grid: Grid) -> None:
    """Make earnings = shares x earnings per share, and diluted a little below basic."""
    rows = {item.label.split()[0]: row for item, row in zip(grid.items, grid.values, strict=True)}
    basic, shares = rows.get("Basic"), rows["Weighted"]
    for p in range(len(grid.columns)):
        if basic and "Diluted" in rows:
            rows["Diluted"][p] = basic[p] - rng.randint(1, max(2, basic[p] // 20))
        if basic and "Net" in rows:
            rows["Net"][p] = shares[p] * basic[p] // 100
        if basic and "Dividend" in rows:
            rows["Dividend"][p] = basic[p] * rng.randint(20, 60) // 100


def build_grid(rng: random.Random, topic: Topic) -> Grid:
    """Draw a table for a topic: lines, columns, numbers, totals and the place of the scale."""
    year = rng.randint(2012, 2023)
    money, earnings = topic.unit == "money", topic.name == "earnings per share"
    scale = rng.choice(("million", "thousand")) if money and not earnings else ""
    if earnings or (set(topic.tags.split()) & {"part", "loans"} and rng.random() < 0.06):
        scale = "million" if earnings else "billion"
    columns = _columns(rng, topic, year)
    grid = Grid(
        topic=topic, items=_items(rng, topic, len(columns)), columns=columns,
        decimals=int(scale == "billion" or (scale == "million" and rng.random() < 0.35
                                            and not earnings)),
        year=year, currency=rng.choice("$$$€€£"), scale=scale,
        scale_in_text=bool(scale) and not earnings and rng.random() < 0.45,
        timed=topic.columns in ("flow", "stock", "schedule"))
    newest_first = list(range(len(columns)))
    if columns[0].name < columns[-1].name and topic.columns != "schedule":
        newest_first.reverse()
    while True:
        grid.values.clear()
        _draw_values(rng, grid, newest_first)
        flat = [v for row in grid.values for v in row if v]
        ties = any(len({row[p] for row in grid.values}) < len(grid.items)
                   for p in range(len(columns)))
        repeats = len(set(flat)) < len(flat) - (len(columns) - 1 if grid.roll else 0)
        low = min(grid.values[0] + grid.values[-1]) if grid.roll else 1
        if not ties and low > 0 and not (grid.timed and repeats):
            break
    if topic.total and len(grid.items) > 1 and grid.timed and \
            (topic.unit == "percent" or rng.random() < 0.75):
        total = [sum(row[p] for row in grid.values) for p in range(len(columns))]
        if len(set(total)) == len(total) and min(total) > 0:
            label = rng.choice(topic.total.split(";"))
            grid.items.append(Line(label=label, name=name_of(label), total=True))
            grid.values.append(total)
    plain = topic.columns != "schedule" and grid.timed and topic.unit != "percent" and not earnings
    grid.transposed = topic.columns == "schedule" or (
        plain and not grid.roll and len(grid.items) < 4 and rng.random() < 0.2)
    if plain and not grid.transposed and len(columns) == 2 and rng.random() < 0.16 and \
            min(v for row in grid.values for v in row) > 0:
        grid.change = rng.choice(("Change", "Change", "Change (%)", "% change"))
        grid.changes = [_change(grid, row, newest_first) for row in grid.values]
    return grid


def _change(grid: Grid, row: list[int], newest_first: list[int]) -> str:
    new, old = (row[p] for p in newest_first[:2])
    if "%" in grid.change:
        percent = round(Fraction(100 * (new - old), old))
        text = f"{abs(percent)}%" if grid.change[0] == "%" else f"{abs(percent)}"
        return f"({text})" if percent < 0 else text
    text = number(abs(new - old), grid.decimals if grid.topic.unit == "money" else 0)
    return f"({text})" if new < old else text


def _cell(grid: Grid, i: int, p: int, sign: bool, zero: str) -> str:
    value, unit = grid.values[i][p], grid.unit(i, p)
    if value == 0:
        return zero
    text = number(abs(value), grid.places(i, p)) + ("%" if unit == "percent" else "")
    if value < 0:
        text = f"({text})"
    return grid.currency + text if unit == "share" or (sign and unit == "money") else text


def write_cells(rng: random.Random, grid: Grid) -> list[list[str]]:
    """Fill `grid.cells` and return the printed table, header first."""
    signs, zero, last = rng.random() < 0.2, rng.choice("–—-"), len(grid.items) - 1
    grid.cells = [[_cell(grid, i, p, signs and i in (0, last), zero)
                   for p in range(len(grid.columns))] for i in range(len(grid.items))]
    corner, under = _scale_header(rng, grid)
    labels = [c.label for c in grid.columns]
    if grid.transposed:
        rows = [[corner, *(item.label for item in grid.items)]]
        under = ""
        rows += [[labels[p], *(row[p] for row in grid.cells)] for p in range(len(labels))]
        return rows
    rows = [[corner, *labels]]
    if under:
        rows.append(["", *(under if c.unit == "" else "" for c in grid.columns)])
    rows += [[item.label, *row] for item, row in zip(grid.items, grid.cells, strict=True)]
    if grid.change:
        rows[0].append(grid.change)
        if under:
            rows[1].append(under if "%" not in grid.change else "")
        for row, change in zip(rows[-len(grid.items):], grid.changes, strict=True):
            row.append(change)
    return rows


def _scale_header(rng: random.Random, grid: Grid) -> tuple[str, str]:
    """The header cell, and the text of a second header row ('' for none)."""
    sign, scale = grid.currency, grid.scale
    money = CURRENCIES[sign] + "s"
    if scale and not grid.scale_in_text:
        if grid.topic.name == "earnings per share":
            return rng.choice((f"({sign} in {scale}s, except per share)", f"In {scale}s, except "
                               "per share data")), ""
        if rng.random() < 0.15 and not grid.transposed:
            short = {"million": "m", "thousand": "k" if sign == "$" else "'000", "billion": "bn"}
            return "", sign + short[scale]
        return rng.choice((f"({sign} in {scale}s)", f"In {scale}s", f"({sign} {scale}s)",
                           f"{sign} {scale}", f"(in {scale}s of {money})", f"{sign} in {scale}s",
                           f"Amounts in {scale}s", f"{money} in {scale}s".capitalize()
                           if money[0].islower() else f"{money} in {scale}s")), ""
    if grid.topic.unit in _HEADERS:
        return _HEADERS[grid.topic.unit], ""
    if grid.transposed and rng.random() < 0.5:
        return "Year", ""
    named = rng.random() < 0.2
    title = grid.topic.name.removeprefix("the ")
    return (title[0].upper() + title[1:] if named else ""), ""
