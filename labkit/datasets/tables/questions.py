"""Questions of the embedded set that are asked of the table.

Every method of `TableAsker` draws one question of its kind, or returns None when the table does
not allow it: a tie, an empty cell, a single column. The tables of weights at the end say how often
each kind is tried; they follow what TAT-QA asks, with fewer comparisons over many rows.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from labkit.datasets.tables import wording
from labkit.datasets.tables.asks import Ask, Namer, age, bare, listing, pick, plural, sentence
from labkit.datasets.tables.grid import Grid

Cell = tuple[int, int]


class TableAsker:
    """Draws questions about one table; `times` are its columns from old to new."""

    def __init__(self, rng: random.Random, grid: Grid, company: str) -> None:
        self.rng, self.grid, self.company = rng, grid, company
        self.name = Namer(rng, grid)
        self.plain = [i for i, item in enumerate(grid.items) if not item.total]
        self.total = next((i for i, item in enumerate(grid.items) if item.total), None)
        self.times = sorted(range(len(grid.columns)), key=lambda p: age(grid.columns[p])) \
            if grid.timed else list(range(len(grid.columns)))
        self.years = [p for p in self.times if grid.columns[p].label != "Thereafter"]

    def _ask(self, words: str, kind: str, answer: list[str], cells: list[Cell],
             slots: dict[str, str], *, scale: str = "", comparison: bool = False) -> Ask:
        text = sentence(pick(self.rng, words).format(co=self.company, **slots))
        needs_scale = any(self.grid.scale_of(i, p) for i, p in cells) and kind != "count"
        return Ask(text=text, answer=answer, kind=kind, scale=scale, comparison=comparison,
                   source="table-text" if needs_scale and self.grid.scale_in_text else "table")

    def _compute(self, words: str, derivation: str, cells: list[Cell], slots: dict[str, str],
                 scale: str | None = None) -> Ask:
        own = "percent" if self.grid.unit(*cells[0]) == "percent" else self.grid.scale_of(*cells[0])
        ask = self._ask(words, "arithmetic", [], cells if scale is None else [], slots,
                        scale=own if scale is None else scale)
        ask.derivation, ask.percent_of = derivation, scale == "percent"
        return ask

    def _term(self, cell: Cell, first: bool = True) -> str:
        text = self.grid.number(*cell)
        return f"({text})" if text.startswith("-") and not first else text

    def _sum(self, cells: list[Cell]) -> str:
        return "+".join(self._term(cell, k == 0) for k, cell in enumerate(cells))

    def _line(self, positive: bool = False) -> int | None:
        """An item with a number in every period (above zero, if asked)."""
        fits = [i for i, row in enumerate(self.grid.values) if all(row)
                and not (positive and min(row) <= 0)]
        return self.rng.choice(fits) if fits and self.grid.timed else None

    def _two_cells(self, rates: bool = False) -> tuple[Cell, Cell] | None:
        """Two positive cells of one column and unit, the larger first; for facets also one row."""
        grid, p = self.grid, self.rng.choice(self.times)
        cells = [(i, p) for i in self.plain]
        if not grid.timed and self.rng.random() < 0.3:
            i = self.rng.choice(self.plain)
            cells = [(i, q) for q in self.times]
        units = ("money", "count", "kt", "tonnes") + (("percent", "share") if rates else ())
        pairs = [(a, b) for a in cells for b in cells
                 if grid.values[a[0]][a[1]] > grid.values[b[0]][b[1]] > 0
                 and grid.unit(*a) == grid.unit(*b) in units]
        return self.rng.choice(pairs) if pairs else None

    def _two_times(self) -> tuple[int, int] | None:
        """Two neighbouring periods, old and new."""
        if len(self.years) < 2:
            return None
        k = self.rng.randrange(len(self.years) - 1)
        return self.years[k], self.years[k + 1]

    def _some_times(self) -> list[int]:
        """Two or three neighbouring periods, in either order."""
        times = self.years[:3]
        if len(times) > 2 and self.rng.random() < 0.6:
            start = self.rng.randrange(2)
            times = times[start:start + 2]
        return times if self.rng.random() < 0.5 else times[::-1]

    def _label(self, p: int) -> str:
        return self.grid.columns[p].name

    def _unit(self) -> str:
        first = self.grid.columns[0].label[:2]
        if first[0] == "Q":
            return "quarter"
        return "half-year" if first in ("H1", "H2") else "year"

    # --- spans ---

    def cell(self) -> Ask | None:
        """Look up one cell."""
        i, p = self.rng.randrange(len(self.grid.items)), self.rng.choice(self.times)
        if not self.grid.values[i][p]:
            return None
        amount = self.grid.unit(i, p) in ("money", "kt", "tonnes")
        return self._ask(wording.CELL if amount else wording.CELL_RATE, "span",
                         [self.grid.answer(i, p)], [(i, p)], {"c": self.name.cell(i, p)},
                         scale=self.grid.scale_of(i, p))

    def change_cell(self) -> Ask | None:
        """Look up the change column."""
        if not self.grid.change:
            return None
        i, percent = self.rng.randrange(len(self.grid.items)), "%" in self.grid.change
        scale = "" if self.grid.change[0] == "%" else "percent" if percent else self.grid.scale
        return self._ask(wording.CHANGE_CELL, "span", [self.grid.changes[i]],
                         [] if percent else [(i, 0)], {"x": self.name.line(i)}, scale=scale)

    def best_time(self) -> Ask | None:
        """The period with the largest or smallest number of an item."""
        i, most = self._line(), self.rng.random() < 0.6
        if i is None or self.grid.topic.columns == "schedule":
            return None
        row = self.grid.values[i]
        p = (max if most else min)(self.times, key=lambda p: row[p])
        ending = "er" if len(row) == 2 else "est"
        x = self.name.line(i)
        return self._ask(wording.YEAR, "span", [self._label(p)], [], {
            "x": x, "bare": bare(x), "unit": self._unit(),
            "larger": ("high" if most else "low") + ending}, comparison=True)

    def best_line(self) -> Ask | None:
        """The item with the largest or smallest number of a column."""
        group, p = self.grid.topic.group, self.rng.choice(self.times)
        most = self.rng.random() < 0.65
        if not group or len(self.plain) < 2:
            return None
        if len(self.plain) == 2:
            word = "larger" if most else "smaller"
        else:
            word = "largest" if most else "smallest"
        i = (max if most else min)(self.plain, key=lambda i: self.grid.values[i][p])
        slots = {"g": group, "largest": word, "when": self.name.when(p),
                 "facet": self.grid.columns[p].name}
        return self._ask(wording.WHICH if self.grid.timed else wording.WHICH_FACET, "span",
                         [self.grid.items[i].label], [], slots, comparison=True)

    # --- multi-spans and counts ---

    def two_times(self) -> Ask | None:
        """The numbers of one item in two periods."""
        i, pair = self._line(), self._two_times()
        if i is None or pair is None:
            return None
        a, b = pair if self.rng.random() < 0.4 else pair[::-1]
        return self._ask(wording.TWO_TIMES, "multi-span",
                         [self.grid.answer(i, a), self.grid.answer(i, b)], [(i, a)],
                         {"x": self.name.line(i), "a": self._label(a), "b": self._label(b)},
                         scale=self.grid.scale_of(i, a))

    def two_lines(self) -> Ask | None:
        """The numbers of two items in one column."""
        pair = self._two_cells(rates=True)
        if pair is None:
            return None
        first, second = pair if self.rng.random() < 0.5 else pair[::-1]
        return self._ask(wording.TWO_LINES, "multi-span",
                         [self.grid.answer(*first), self.grid.answer(*second)], [first],
                         self._pair_slots(first, second), scale=self.grid.scale_of(*first))

    def _pair_slots(self, first: Cell, second: Cell) -> dict[str, str]:
        return {"x": self.name.cell(*first, when=False), "z": self.name.cell(*second, when=False),
                "when": self.name.when(first[1])}

    def all_lines(self, words: str = wording.LINES, kind: str = "multi-span") -> Ask | None:
        """Every item of the table, without its total."""
        if not self.grid.topic.group or len(self.plain) < 2:
            return None
        return self._ask(words, kind, [self.grid.items[i].label for i in self.plain], [],
                         {"gs": plural(self.grid.topic.group)})

    def all_times(self) -> Ask | None:
        """Every period of the table, as printed."""
        if not self.grid.timed or self.grid.topic.columns == "schedule":
            return None
        return self._ask(wording.PERIODS, "multi-span", [c.name for c in self.grid.columns], [],
                         {"units": plural(self._unit())})

    def lines_above(self, words: str = wording.ABOVE, kind: str = "multi-span") -> Ask | None:
        """The items above (or below) a round threshold."""
        group, p = self.grid.topic.group, self.rng.choice(self.times)
        if not group or not self.grid.timed:
            return None
        values = {i: self.grid.values[i][p] for i in self.plain}
        cut = self._cut(list(values.values()), (self.plain[0], p))
        if cut is None:
            return None
        threshold, above, text = cut
        chosen = [self.grid.items[i].label for i, v in values.items() if (v > threshold) == above]
        if len(chosen) < 2:
            return None
        return self._ask(words, kind, chosen, [(self.plain[0], p)], {
            "gs": plural(group), "above": "above" if above else "below", "n": text,
            "when": self.name.when(p)}, comparison=True)

    def times_above(self, words: str = wording.YEARS, kind: str = "multi-span") -> Ask | None:
        """The periods in which an item was above (or below) a round threshold."""
        i = self._line()
        if i is None or len(self.times) < 3 or self.grid.topic.columns == "schedule":
            return None
        row = self.grid.values[i]
        cut = self._cut(row, (i, 0))
        if cut is None:
            return None
        threshold, above, text = cut
        chosen = [c.name for c, v in zip(self.grid.columns, row, strict=True)
                  if (v > threshold) == above]
        if len(chosen) < 2:
            return None
        x = self.name.line(i)
        return self._ask(words, kind, chosen, [(i, 0)], {
            "x": x, "bare": bare(x), "units": plural(self._unit()),
            "above": "above" if above else "below", "n": text}, comparison=True)

    def _cut(self, values: list[int], cell: Cell) -> tuple[int, bool, str] | None:
        """A round threshold strictly between two values: (threshold, above, text)."""
        grid, places, ordered = self.grid, self.grid.places(*cell), sorted(values)
        cuts = []
        for low, high in zip(ordered, ordered[1:], strict=False):
            for step in (10000, 1000, 500, 100, 50, 10, 5):
                cut = (low // step + 1) * step
                if 0 < low < cut < high and cut % 10**places == 0:
                    cuts.append(cut)
                    break
        if not cuts:
            return None
        cut, text = self.rng.choice(cuts), ""
        text = f"{cut // 10**places:,}"
        if grid.unit(*cell) == "percent":
            text += "%"
        elif grid.unit(*cell) == "money":
            text = f"{grid.currency}{text} {grid.scale}"
        return cut, self.rng.random() < 0.75, text

    def count_lines(self) -> Ask | None:
        """How many items are above a threshold."""
        return self.lines_above(wording.COUNT_LINES, "count")

    def count_times(self) -> Ask | None:
        """In how many periods an item was above a threshold."""
        return self.times_above(wording.COUNT_YEARS, "count")

    def count_all(self) -> Ask | None:
        """How many items the table has."""
        return self.all_lines(wording.COUNT_ALL, "count")

    # --- arithmetic ---

    def change(self) -> Ask | None:
        """Difference of one item between two periods."""
        i, pair = self._line(), self._two_times()
        if i is None or pair is None or self.grid.change.startswith("Change") and \
                "%" not in self.grid.change:
            return None
        a, b = pair
        return self._compute(
            wording.CHANGE, f"{self._term((i, b))}-{self._term((i, a), first=False)}", [(i, a)],
            {"x": self.name.line(i), "a": self._label(a), "b": self._label(b)})

    def percent_change(self) -> Ask | None:
        """Percentage change of one item between two periods."""
        i, pair = self._line(positive=True), self._two_times()
        if i is None or pair is None or "%" in self.grid.change or \
                self.grid.unit(i, 0) in ("percent", "years"):
            return None
        a, b = pair
        old, new = self._term((i, a)), self._term((i, b))
        return self._compute(
            wording.PERCENT, f"({new}-{old})/{old}", [(i, a)],
            {"x": self.name.line(i), "a": self._label(a), "b": self._label(b)}, "percent")

    def average(self) -> Ask | None:
        """Mean of one item over two or three periods."""
        i, times = self._line(), self._some_times()
        if i is None:
            return None
        cells, x = [(i, p) for p in times], self.name.line(i)
        return self._compute(wording.AVERAGE, f"({self._sum(cells)})/{len(cells)}", cells, {
            "x": x, "bare": bare(x), "l": listing([self._label(p) for p in times])})

    def total_times(self) -> Ask | None:
        """Sum of one item over periods; only where amounts of periods may be added."""
        i, times = self._line(), self._some_times()
        if i is None or self.grid.topic.columns == "stock" or self.grid.roll or \
                self.grid.unit(i, 0) not in ("money", "kt", "tonnes"):
            return None
        cells = [(i, p) for p in times]
        return self._compute(wording.TOTAL_TIME, self._sum(cells), cells, {
            "x": self.name.line(i), "l": listing([self._label(p) for p in times])})

    def total_lines(self) -> Ask | None:
        """Sum of two items in one column."""
        pair = self._two_cells()
        if pair and pair[0][1] != pair[1][1]:
            return None
        return self._pair(pair, wording.TOTAL, "+")

    def difference_lines(self) -> Ask | None:
        """Difference of two items in one column."""
        return self._pair(self._two_cells(rates=True), wording.BETWEEN, "-")

    def ratio(self) -> Ask | None:
        """Ratio of two items in one column."""
        return self._pair(self._two_cells(), wording.RATIO, "/", "")

    def _pair(self, pair: tuple[Cell, Cell] | None, words: str, operator: str,
              scale: str | None = None) -> Ask | None:
        if pair is None:
            return None
        first, second = pair if operator != "+" or self.rng.random() < 0.5 else pair[::-1]
        return self._compute(words, self._term(first) + operator + self._term(second),
                             [first, second], self._pair_slots(first, second), scale)

    def share(self) -> Ask | None:
        """One item as a percentage of the total; of facets, the part written off so far."""
        grid, p = self.grid, self.rng.choice(self.times)
        if not grid.timed:
            i, part = self.rng.choice(self.plain), self.rng.choice((1, 2))
            return self._compute(
                wording.SHARE_FACET, f"{self._term((i, part))}/{self._term((i, 0))}", [(i, part)],
                {"x": self.name.cell(i, part), "t": f"its {grid.columns[0].name}"}, "percent")
        if self.total is None or grid.topic.unit == "percent" or \
                min(row[p] for row in grid.values) < 0:
            return None
        rows = [i for i in self.plain if grid.values[i][p] > 0]
        i = self.rng.choice(rows)
        return self._compute(
            wording.SHARE, f"{self._term((i, p))}/{self._term((self.total, p))}", [(i, p)],
            {"x": self.name.line(i), "t": self.name.line(self.total), "when": self.name.when(p)},
            "percent")

    def averages(self) -> Ask | None:
        """Difference between the averages of two items."""
        times, pair = self._some_times(), self._two_cells()
        if len(times) != 2 or pair is None or not self.grid.timed:
            return None
        first, second = ([(cell[0], p) for p in times] for cell in pair)
        values = [[self.grid.values[i][p] for i, p in cells] for cells in (first, second)]
        if min(values[0] + values[1]) <= 0 or sum(values[0]) <= sum(values[1]):
            return None
        x, z = (self.name.line(cell[0]) for cell in pair)
        return self._compute(
            wording.AVERAGES, f"({self._sum(first)})/2-({self._sum(second)})/2", first,
            {"x": x, "z": z, "bare": bare(x), "bare2": bare(z),
             "l": listing([self._label(p) for p in times])})


Kinds = tuple[tuple[Callable[[TableAsker], Ask | None], int], ...]
SPANS: Kinds = (
    (TableAsker.cell, 76), (TableAsker.change_cell, 40), (TableAsker.best_time, 11),
    (TableAsker.best_line, 13))
MULTI: Kinds = (
    (TableAsker.two_times, 40), (TableAsker.two_lines, 24), (TableAsker.all_lines, 12),
    (TableAsker.all_times, 6), (TableAsker.lines_above, 12), (TableAsker.times_above, 10))
ARITHMETIC: Kinds = (
    (TableAsker.change, 28), (TableAsker.percent_change, 27), (TableAsker.average, 17),
    (TableAsker.total_lines, 6), (TableAsker.total_times, 4), (TableAsker.difference_lines, 6),
    (TableAsker.share, 10), (TableAsker.ratio, 5), (TableAsker.averages, 2))
COUNTS: Kinds = (
    (TableAsker.count_lines, 3), (TableAsker.count_times, 3), (TableAsker.count_all, 1))
