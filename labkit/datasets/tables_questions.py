"""Questions of the embedded set that are asked of the table.

Every function draws one question of its kind or returns None when the table does not allow it:
a tie, a zero, a single column. Arithmetic answers come from the derivation itself, evaluated in
exact fractions; a derivation whose third decimal would be a tie (x.xx5) is refused, so that
rounding half up, half even and binary floats all give the same answer.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from labkit.datasets.tables_grid import Grid, Line, alias


@dataclass(kw_only=True)
class Ask:
    """A question before it gets its uid; `source` is table, text or table-text."""

    text: str
    answer: list[str]
    kind: str
    source: str
    scale: str = ""
    derivation: str = ""
    percent_of: bool = False
    comparison: bool = False
    paragraphs: tuple[str, ...] = ()


def exact(expression: str) -> Fraction:
    """Evaluate + - * / and parentheses on decimal numbers without rounding."""
    def walk(node: ast.expr) -> Fraction:
        if isinstance(node, ast.UnaryOp):
            return -walk(node.operand)
        if isinstance(node, ast.BinOp):
            left, right = walk(node.left), walk(node.right)
            if isinstance(node.op, ast.Add):
                return left + right
            if isinstance(node.op, ast.Sub):
                return left - right
            return left * right if isinstance(node.op, ast.Mult) else left / right
        assert isinstance(node, ast.Constant)
        return Fraction(str(node.value))

    return walk(ast.parse(re.sub(r"(?<=\d),(?=\d)", "", expression), mode="eval").body)


def rounded(value: Fraction) -> int | float | None:
    """Round to two decimals; None when the value lies exactly between two of them."""
    hundredths = value * 100
    if (hundredths * 2).denominator == 1 and hundredths.denominator == 2:
        return None
    whole = round(hundredths)
    return whole // 100 if whole % 100 == 0 else whole / 100


def pick(rng: random.Random, choices: str) -> str:
    """Draw one of the alternatives separated by ' / '."""
    return rng.choice(choices.split(" / "))


def sentence(text: str) -> str:
    """Upper-case the first letter."""
    return text[0].upper() + text[1:]


class Namer:
    """Names of lines and cells in running text, drawn anew for every question."""

    def __init__(self, rng: random.Random, grid: Grid) -> None:
        self.rng, self.grid = rng, grid

    def line(self, i: int) -> str:
        """Noun phrase of a line item: 'revenue from hardware'."""
        item, topic = self.grid.items[i], self.grid.topic
        if item.total:
            name = item.name
            if name == "total":
                name = f"the total of {topic.name}"
            return name if name.startswith("the ") or self.rng.random() < 0.5 else "the " + name
        noun = self.rng.choice(topic.nouns.split(";"))
        return noun.format(row=alias(self.rng, item.name)).replace("the the ", "the ")

    def when(self, p: int) -> str:
        """Phrase of a column: 'in 2019'."""
        return self.rng.choice(self.grid.columns[p].phrases)

    def cell(self, i: int, p: int) -> str:
        """Noun phrase of one cell."""
        if self.grid.timed:
            return f"{self.line(i)} {self.when(p)}"
        return f"the {self.grid.columns[p].name} of {self.line(i)}"


CELL = ("What was {c}? / How much was {c}? / What did {co} report as {c}? / State {c}. / "
        "What is the figure for {c}? / Give {c}. / What amount is shown for {c}? / "
        "How high was {c}? / Which figure is given for {c}? / What was {c} according to the table?")
CHANGE = ("What was the change in {x} from {a} to {b}? / How much did {x} change between {a} and "
          "{b}? / What is the difference in {x} between {b} and {a}? / By what amount did {x} "
          "change from {a} to {b}? / Calculate the change in {x} between {a} and {b}. / "
          "What was the increase or decrease in {x} from {a} to {b}?")
PERCENT = ("What was the percentage change in {x} from {a} to {b}? / By what percentage did {x} "
           "change between {a} and {b}? / What is the percentage change of {x} in {b} compared to "
           "{a}? / How did {x} change in percent from {a} to {b}? / Calculate the percentage "
           "change in {x} between {a} and {b}. / What was the growth rate of {x} from {a} to {b}, "
           "in percent?")
AVERAGE = ("What was the average of {x} for {l}? / What is the average {bare} over {l}? / "
           "Calculate the mean of {x} for {l}. / How much was {x} on average in {l}? / "
           "What was {x} on average over {l}? / What is the mean {bare} for {l}?")
TOTAL = ("What was the sum of {x} and {z} {when}? / How much were {x} and {z} together {when}? / "
         "What is the combined amount of {x} and {z} {when}? / Add up {x} and {z} {when}. / "
         "What do {x} and {z} add up to {when}? / What was the total of {x} and {z} {when}?")
TOTAL_TIME = ("What was the sum of {x} for {l}? / How much was {x} in {l} together? / What is the "
              "total of {x} over {l}? / Add up {x} for {l}. / What does {x} add up to over {l}? / "
              "What was {x} in {l} combined?")
BETWEEN = ("What was the difference between {x} and {z} {when}? / By how much did {x} exceed {z} "
           "{when}? / How much larger was {x} than {z} {when}? / How much higher was {x} than {z} "
           "{when}? / What is {x} less {z} {when}? / How much more was {x} than {z} {when}?")
SHARE = ("What percentage of {t} was {x} {when}? / What share of {t} was {x} {when}, in percent? / "
         "How many percent of {t} did {x} make up {when}? / What was {x} as a percentage of {t} "
         "{when}? / Express {x} {when} as a percentage of {t}. / What proportion of {t} came from "
         "{x} {when}, as a percentage?")
RATIO = ("What was the ratio of {x} to {z} {when}? / Calculate the ratio of {x} to {z} {when}. / "
         "What is {x} divided by {z} {when}? / How many times {z} was {x} {when}? / "
         "What is the ratio between {x} and {z} {when}? / What multiple of {z} was {x} {when}?")
AVERAGES = ("What is the difference between the average of {x} and the average of {z} for {l}? / "
            "By how much does the average of {x} for {l} exceed that of {z}? / Over {l}, how much "
            "higher was average {bx} than average {bz}?")
YEAR = ("In which {unit} was {x} {larger}? / Which {unit} had the {larger} {bare}? / When was {x} "
        "{larger}? / In what {unit} did {co} report the {larger} {bare}? / Which {unit} shows the "
        "{larger} {bare}? / {Larger} {bare}: which {unit}?")
WHICH = ("Which {g} had the {largest} figure {when}? / What was the {largest} {g} {when}? / "
         "Which {g} was {largest} {when}? / Which {g} shows the {largest} amount {when}? / "
         "Name the {g} with the {largest} amount {when}. / {when}, which {g} had the {largest} "
         "amount?")
TWO_TIMES = ("What was {x} in {a} and {b}, respectively? / How much was {x} in {a} and in {b}? / "
             "What were the figures for {x} in {a} and {b}? / State {x} for {a} and {b}. / "
             "Give {x} in {a} and {b}, in this order. / What are the respective amounts of {x} in "
             "{a} and {b}?")
TWO_LINES = ("What were {x} and {z} {when}, respectively? / How much were {x} and {z} {when}? / "
             "State {x} and {z} {when}. / Give {x} and {z} {when}, in this order. / What are the "
             "respective amounts of {x} and {z} {when}? / What figures are shown for {x} and {z} "
             "{when}?")
LINES = ("Which {gs} are shown in the table? / What {gs} does the table list? / Name the {gs} in "
         "the table. / List the {gs}. / Into which {gs} is the table divided? / What are the {gs} "
         "reported?")
ABOVE = ("Which {gs} were {above} {n} {when}? / Name the {gs} {above} {n} {when}. / What {gs} had "
         "figures {above} {n} {when}? / {when}, which {gs} were {above} {n}? / List the {gs} with "
         "amounts {above} {n} {when}. / Which {gs} had an amount {above} {n} {when}?")
YEARS = ("In which {units} was {x} {above} {n}? / Which {units} had {bare} {above} {n}? / Name the "
         "{units} with {bare} {above} {n}. / In what {units} did {co} report {bare} {above} {n}? / "
         "List the {units} in which {x} was {above} {n}. / When was {x} {above} {n}?")
COUNT_LINES = ("How many {gs} were {above} {n} {when}? / For how many {gs} was the amount {above} "
               "{n} {when}? / {when}, how many {gs} had an amount {above} {n}? / How many of the "
               "{gs} had figures {above} {n} {when}? / What is the number of {gs} {above} {n} "
               "{when}? / Count the {gs} {above} {n} {when}.")
COUNT_YEARS = ("In how many {units} was {x} {above} {n}? / For how many {units} was {x} {above} "
               "{n}? / How many {units} had {bare} {above} {n}? / Count the {units} with {bare} "
               "{above} {n}. / How often was {x} {above} {n}? / In how many of the {units} did "
               "{bare} come out {above} {n}?")
COUNT_ALL = ("How many {gs} are shown in the table? / How many {gs} does the table list? / What is "
             "the number of {gs} in the table? / Count the {gs} in the table. / Into how many {gs} "
             "is the table divided? / How many {gs} are reported?")


def plural(word: str) -> str:
    """Plural of a group noun."""
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "ch")) else "s")


def bare(phrase: str) -> str:
    """A noun phrase without its article."""
    return phrase.removeprefix("the ")


def listing(names: list[str]) -> str:
    """'2019 and 2018', '2019, 2018 and 2017'."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


class TableAsker:
    """Draws questions about one table."""

    def __init__(self, rng: random.Random, grid: Grid, company: str) -> None:
        self.rng, self.grid, self.company = rng, grid, company
        self.name = Namer(rng, grid)
        self.plain = [i for i, item in enumerate(grid.items) if not item.total]
        self.totals = [i for i, item in enumerate(grid.items) if item.total]
        # Oldest first, whatever the printed order.
        self.times = sorted(range(len(grid.columns)), key=lambda p: self._age(grid.columns[p]))

    @staticmethod
    def _age(column: Line) -> tuple[str, str]:
        year = re.findall(r"\d{4}", column.name)
        return (year[0] if year else "9999", column.name)

    def _ask(self, words: str, kind: str, answer: list[str], cells: list[tuple[int, int]],
             slots: dict[str, str], **more: object) -> Ask | None:
        text = sentence(pick(self.rng, words).format(co=self.company, **slots))
        money = any(self.grid.unit(i, p) == "money" for i, p in cells)
        source = "table-text" if money and self.grid.scale_in_text else "table"
        return Ask(text=text, answer=answer, kind=kind, source=source, **more)  # type: ignore[arg-type]

    def _term(self, i: int, p: int, first: bool = True) -> str:
        text = self.grid.number(i, p)
        return f"({text})" if text.startswith("-") and not first else text

    def _sum(self, cells: list[tuple[int, int]]) -> str:
        return "+".join(self._term(i, p, k == 0) for k, (i, p) in enumerate(cells))

    def _compute(self, words: str, derivation: str, cells: list[tuple[int, int]],
                 slots: dict[str, str], scale: str | None = None) -> Ask | None:
        return self._ask(words, "arithmetic", [], cells, slots, derivation=derivation,
                         scale=self.grid.scale_of(*cells[0]) if scale is None else scale,
                         percent_of=scale == "percent")

    def _line(self, positive: bool = False) -> int | None:
        """A line with a number in every column (above zero, if asked)."""
        fits = [i for i, row in enumerate(self.grid.values) if all(row)
                and not (positive and min(row) <= 0)]
        return self.rng.choice(fits) if fits else None

    def _two_lines(self, p: int, positive: bool = False) -> tuple[int, int] | None:
        """Two lines of one unit; the larger first."""
        rows = [i for i in self.plain if self.grid.values[i][p]
                and (not positive or self.grid.values[i][p] > 0)]
        pairs = [(i, j) for i in rows for j in rows
                 if self.grid.values[i][p] > self.grid.values[j][p]
                 and self.grid.unit(i, p) == self.grid.unit(j, p) not in ("percent", "years")]
        return self.rng.choice(pairs) if pairs else None

    def _two_times(self) -> tuple[int, int] | None:
        if not self.grid.timed or len(self.times) < 2:
            return None
        k = self.rng.randrange(len(self.times) - 1)
        return self.times[k], self.times[k + 1]

    def _label(self, p: int) -> str:
        return self.grid.columns[p].name

    # --- spans ---

    def cell(self) -> Ask | None:
        """Look up one cell."""
        i, p = self.rng.randrange(len(self.grid.items)), self.rng.choice(self.times)
        if not self.grid.values[i][p]:
            return None
        return self._ask(CELL, "span", [self.grid.answer(i, p)], [(i, p)],
                         {"c": self.name.cell(i, p)}, scale=self.grid.scale_of(i, p))

    def best_time(self) -> Ask | None:
        """The period with the largest or smallest number of a line."""
        i = self._line()
        if i is None or not self.grid.timed or self.grid.topic.columns == "schedule":
            return None
        most = self.rng.random() < 0.6
        row = self.grid.values[i]
        p = (max if most else min)(self.times, key=lambda p: row[p])
        two = len(row) == 2
        word = (("higher" if most else "lower") if two else ("highest" if most else "lowest"))
        x = self.name.line(i)
        return self._ask(YEAR, "span", [self.grid.columns[p].label], [], {
            "x": x, "bare": bare(x), "unit": self._unit(), "larger": word,
            "Larger": sentence(word)}, comparison=True)

    def best_line(self) -> Ask | None:
        """The line item with the largest or smallest number of a period."""
        group, p = self.grid.topic.group, self.rng.choice(self.times)
        if not group or not self.grid.timed or len(self.plain) < 2:
            return None
        most = self.rng.random() < 0.65
        two = len(self.plain) == 2
        word = (("larger" if most else "smaller") if two else ("largest" if most else "smallest"))
        i = (max if most else min)(self.plain, key=lambda i: self.grid.values[i][p])
        return self._ask(WHICH, "span", [self.grid.items[i].label], [], {
            "g": group, "largest": word, "when": self.name.when(p)}, comparison=True)

    def _unit(self) -> str:
        label = self.grid.columns[0].label
        if label[0] == "Q":
            return "quarter"
        return "half-year" if label[0] == "H" else "year"

    # --- multi-spans ---

    def two_times(self) -> Ask | None:
        """The numbers of one line in two periods."""
        i, pair = self._line(), self._two_times()
        if i is None or pair is None:
            return None
        if self.rng.random() < 0.6:
            pair = pair[::-1]
        a, b = pair
        if self.grid.columns[a].label == "Thereafter" or self.grid.columns[b].label == "Thereafter":
            return None
        return self._ask(TWO_TIMES, "multi-span", [self.grid.answer(i, a), self.grid.answer(i, b)],
                         [(i, a)], {"x": self.name.line(i), "a": self._label(a),
                                    "b": self._label(b)}, scale=self.grid.scale_of(i, a))

    def two_lines(self) -> Ask | None:
        """The numbers of two lines in one period."""
        p = self.rng.choice(self.times)
        pair = self._two_lines(p) if self.grid.timed else None
        if pair is None:
            return None
        i, j = pair if self.rng.random() < 0.5 else pair[::-1]
        return self._ask(TWO_LINES, "multi-span", [self.grid.answer(i, p), self.grid.answer(j, p)],
                         [(i, p)], {"x": self.name.line(i), "z": self.name.line(j),
                                    "when": self.name.when(p)}, scale=self.grid.scale_of(i, p))

    def all_lines(self) -> Ask | None:
        """Every line item of the table."""
        return self._lines(LINES, "multi-span")

    def count_all(self) -> Ask | None:
        """How many line items the table has."""
        return self._lines(COUNT_ALL, "count")

    def _lines(self, words: str, kind: str) -> Ask | None:
        if not self.grid.topic.group:
            return None
        labels = [self.grid.items[i].label for i in self.plain]
        return self._ask(words, kind, labels, [], {"gs": plural(self.grid.topic.group)})

    def lines_above(self, words: str = ABOVE, kind: str = "multi-span") -> Ask | None:
        """The line items above (or below) a round threshold."""
        group, p = self.grid.topic.group, self.rng.choice(self.times)
        if not group or not self.grid.timed:
            return None
        values = {i: self.grid.values[i][p] for i in self.plain}
        cut = self._cut(list(values.values()), self.grid.places(self.plain[0], p))
        if cut is None:
            return None
        threshold, above, text = cut
        chosen = [self.grid.items[i].label for i, v in values.items() if (v > threshold) == above]
        if len(chosen) < 2:
            return None
        return self._ask(words, kind, chosen, [(self.plain[0], p)], {
            "gs": plural(group), "above": "above" if above else "below",
            "n": self._amount(text, self.plain[0], p), "when": self.name.when(p)}, comparison=True)

    def times_above(self, words: str = YEARS, kind: str = "multi-span") -> Ask | None:
        """The periods in which a line was above (or below) a round threshold."""
        i = self._line()
        if i is None or not self.grid.timed or len(self.times) < 3 \
                or self.grid.topic.columns == "schedule":
            return None
        row = self.grid.values[i]
        cut = self._cut(row, self.grid.places(i, 0))
        if cut is None:
            return None
        threshold, above, text = cut
        chosen = [c.label for c, v in zip(self.grid.columns, row, strict=True)
                  if (v > threshold) == above]
        if len(chosen) < 2:
            return None
        x = self.name.line(i)
        return self._ask(words, kind, chosen, [(i, 0)], {
            "x": x, "bare": bare(x), "units": plural(self._unit()),
            "above": "above" if above else "below", "n": self._amount(text, i, 0)},
            comparison=True)

    def count_lines(self) -> Ask | None:
        """How many line items are above a threshold."""
        return self.lines_above(COUNT_LINES, "count")

    def count_times(self) -> Ask | None:
        """In how many periods a line was above a threshold."""
        return self.times_above(COUNT_YEARS, "count")

    def _amount(self, text: str, i: int, p: int) -> str:
        unit = self.grid.unit(i, p)
        if unit == "percent":
            return text + "%"
        if unit == "money":
            return f"{self.grid.currency}{text} {self.grid.scale}".strip()
        return text

    def _cut(self, values: list[int], places: int) -> tuple[int, bool, str] | None:
        """A round threshold strictly between two values: (threshold, above, text)."""
        above = self.rng.random() < 0.75
        ordered = sorted(values)
        gaps = []
        for low, high in zip(ordered, ordered[1:], strict=False):
            for step in (10000, 1000, 500, 100, 50, 10, 5):
                cut = (low // step + 1) * step
                if 0 < low < cut < high and cut % 10**places == 0:
                    gaps.append(cut)
                    break
        if not gaps:
            return None
        cut = self.rng.choice(gaps)
        return cut, above, f"{cut // 10**places:,}"

    # --- arithmetic ---

    def change(self) -> Ask | None:
        """Difference of one line between two periods."""
        return self._movement(CHANGE, percent=False)

    def percent_change(self) -> Ask | None:
        """Percentage change of one line between two periods."""
        return self._movement(PERCENT, percent=True)

    def _movement(self, words: str, percent: bool) -> Ask | None:
        i, pair = self._line(positive=percent), self._two_times()
        if i is None or pair is None or (self.grid.change and not percent):
            return None
        a, b = pair
        if "Thereafter" in (self.grid.columns[a].label, self.grid.columns[b].label):
            return None
        unit = self.grid.unit(i, a)
        if percent and unit == "percent":
            return None
        old, new = self._term(i, a, first=False), self._term(i, b)
        slots = {"x": self.name.line(i), "a": self._label(a), "b": self._label(b)}
        if percent:
            return self._compute(words, f"({new}-{old})/{old}", [(i, a)], slots, "percent")
        ask = self._compute(words, f"{new}-{old}", [(i, a)], slots)
        if ask and unit == "percent":
            ask.scale = "percent"
        return ask

    def average(self) -> Ask | None:
        """Mean of one line over two or three periods."""
        i = self._line()
        if i is None or not self.grid.timed:
            return None
        times = self._some_times()
        if not times:
            return None
        cells = [(i, p) for p in times]
        x = self.name.line(i)
        ask = self._compute(AVERAGE, f"({self._sum(cells)})/{len(cells)}", cells, {
            "x": x, "bare": bare(x), "l": listing([self._label(p) for p in times])})
        if ask and self.grid.unit(i, 0) == "percent":
            ask.scale = "percent"
        return ask

    def _some_times(self) -> list[int]:
        times = [p for p in self.times if self.grid.columns[p].label != "Thereafter"]
        if len(times) < 2:
            return []
        if len(times) > 2 and self.rng.random() < 0.6:
            start = self.rng.randrange(len(times) - 1)
            times = times[start:start + 2]
        return times[:3] if self.rng.random() < 0.5 else times[:3][::-1]

    def total_lines(self) -> Ask | None:
        """Sum of two lines in one period."""
        return self._pair(TOTAL, "{0}+{1}", summable=True)

    def difference_lines(self) -> Ask | None:
        """Difference of two lines in one period."""
        return self._pair(BETWEEN, "{0}-{1}")

    def ratio(self) -> Ask | None:
        """Ratio of two lines in one period."""
        return self._pair(RATIO, "{0}/{1}", scale="")

    def _pair(self, words: str, form: str, scale: str | None = None,
              summable: bool = False) -> Ask | None:
        p = self.rng.choice(self.times)
        pair = self._two_lines(p, positive=True) if self.grid.timed else None
        if pair is None:
            return None
        i, j = pair
        if summable and (self.rng.random() < 0.5):
            i, j = j, i
        if summable and self.grid.unit(i, p) == "share":
            return None
        return self._compute(words, form.format(self._term(i, p), self._term(j, p)),
                             [(i, p), (j, p)], {"x": self.name.line(i), "z": self.name.line(j),
                                                "when": self.name.when(p)}, scale)

    def total_times(self) -> Ask | None:
        """Sum of one line over periods; only where amounts of periods may be added."""
        i, times = self._line(), self._some_times() if self.grid.timed else []
        if i is None or not times or self.grid.topic.columns == "stock" \
                or self.grid.unit(i, 0) in ("percent", "share"):
            return None
        cells = [(i, p) for p in times]
        return self._compute(TOTAL_TIME, self._sum(cells), cells, {
            "x": self.name.line(i), "l": listing([self._label(p) for p in times])})

    def share(self) -> Ask | None:
        """One line as a percentage of the total row."""
        p = self.rng.choice(self.times)
        rows = [i for i in self.plain if self.grid.values[i][p] > 0]
        if not self.totals or not rows or min(row[p] for row in self.grid.values) < 0:
            return None
        i, t = self.rng.choice(rows), self.totals[0]
        return self._compute(SHARE, f"{self._term(i, p)}/{self._term(t, p)}", [(i, p)], {
            "x": self.name.line(i), "t": self.name.line(t), "when": self.name.when(p)}, "percent")

    def averages(self) -> Ask | None:
        """Difference between the averages of two lines."""
        times = self._some_times() if self.grid.timed else []
        if len(times) != 2:
            return None
        pair = self._two_lines(times[0], positive=True)
        if pair is None or sum(self.grid.values[pair[0]][p] - self.grid.values[pair[1]][p]
                               for p in times) <= 0:
            return None
        first, second = ([(i, p) for p in times] for i in pair)
        if not all(self.grid.values[i][p] for i, p in first + second):
            return None
        x, z = (self.name.line(i) for i in pair)
        return self._compute(AVERAGES, f"({self._sum(first)})/2-({self._sum(second)})/2", first, {
            "x": x, "z": z, "bx": bare(x), "bz": bare(z),
            "l": listing([self._label(p) for p in times])})


Kind = tuple[Callable[[TableAsker], Ask | None], int]
SPANS: tuple[Kind, ...] = (
    (TableAsker.cell, 76), (TableAsker.best_time, 12), (TableAsker.best_line, 12))
MULTI: tuple[Kind, ...] = (
    (TableAsker.two_times, 40), (TableAsker.two_lines, 22), (TableAsker.all_lines, 14),
    (TableAsker.lines_above, 10), (TableAsker.times_above, 8))
ARITHMETIC: tuple[Kind, ...] = (
    (TableAsker.change, 27), (TableAsker.percent_change, 27), (TableAsker.average, 17),
    (TableAsker.total_lines, 6), (TableAsker.total_times, 4), (TableAsker.difference_lines, 6),
    (TableAsker.share, 9), (TableAsker.ratio, 5), (TableAsker.averages, 2))
COUNTS: tuple[Kind, ...] = (
    (TableAsker.count_lines, 3), (TableAsker.count_times, 3), (TableAsker.count_all, 1))
