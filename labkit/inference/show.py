"""Show one question, its gold answer and every model's answer side by side.

What a score of 0.55 means is best seen on single questions. A view shows the table, the
paragraphs, the question and the gold answer, then a line per model: its mark (exact match and
F1), the answer as read back, and the text the model wrote where that is something else (an
expression, say).

Where the models differ, colour shows it: a right answer is green, and in a wrong one the words
that the gold answer does not have are red. Where all models answer alike nothing is coloured.
Signs say the same as the colours (✓ right, ◐ partly, ✗ wrong; brackets around the words), so
nothing is lost on paper or to a reader who does not see them.

The same rows become text for a terminal and HTML for a notebook. Everything in the HTML is
escaped: reports and answers are other people's text, and a model can write anything.
"""

import io
import re
from collections.abc import Sequence
from typing import Any

from labkit.errors import LabkitError

WIDTH = 100
STYLE = """<style>
.labkit-view {max-width: 60em; line-height: 1.45}
.labkit-view table {border-collapse: collapse; margin: .4em 0}
.labkit-view td, .labkit-view th {border: 1px solid #8886; padding: .15em .6em; text-align: left}
.labkit-view mark.right {background: #009E7333; color: inherit}
.labkit-view mark.wrong {background: #D55E0040; color: inherit; text-decoration: underline dotted}
</style>"""
VIEW = """<div class="labkit-view">
{% for row in rows %}
<p><b>sample {{ row.sid }}</b> ({{ row.uid }})</p>
<table>{% for line in row.table %}
<tr>{% for value in line %}<td>{{ value }}</td>{% endfor %}</tr>{% endfor %}</table>
<details><summary>{{ row.paragraphs|length }} paragraphs</summary>
{% for text in row.paragraphs %}<p>{{ text }}</p>{% endfor %}</details>
<p><b>Question:</b> {{ row.question }}<br><b>Gold answer:</b> {{ reading(row.gold) }}</p>
<table><tr><th>model</th><th></th><th>exact match</th><th>F1</th><th>answer</th>
<th>as written</th></tr>
{% for answer in row.answers %}
<tr><td>{{ answer.model }}</td><td>{{ sign(answer) }}</td><td>{{ "%.0f"|format(answer.em) }}</td>
<td>{{ "%.2f"|format(answer.f1) }}</td><td>{% for word, how in marked(row, answer) %}
{% if how %}<mark class="{{ how }}">{{ word }}</mark>{% else %}{{ word }}{% endif %}
{{ "" if loop.last else " " }}{% endfor %}</td><td><code>{{ answer.text }}</code></td></tr>
{% endfor %}</table>{{ "" if loop.last else "<hr>"|safe }}
{% endfor %}</div>"""


def parse_sids(text: str) -> list[int]:
    """Read sample ids such as '100', '3,7' or '0-4,9'.

    Raises:
        LabkitError: anything else.
    """
    sids: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last or last - first >= 10_000:
            raise LabkitError(f"--sid {text!r} is not a sample id: write 100, 3,7 or 0-4,9")
        sids.extend(range(first, last + 1))
    return sids


class SideBySide(list[dict[str, Any]]):
    """Rows of `generate.compare`: a list, shown by a notebook as tables."""

    def _repr_html_(self) -> str:
        return to_html(self)

    def __str__(self) -> str:
        return render(self)


def reading(answer: dict[str, Any]) -> str:
    """Return an answer as read back: values joined by ' | ', then the scale."""
    values = answer.get("values", answer.get("answer", []))
    return " | ".join(values) + (f" {answer['scale']}" if answer["scale"] else "")


def sign(answer: dict[str, Any]) -> str:
    """Return ✓ for an exact match, ◐ for a part of it (F1 above 0), ✗ for neither."""
    return "✓" if answer["em"] == 1 else "◐" if answer["f1"] > 0 else "✗"


def differ(row: dict[str, Any]) -> bool:
    """Say whether models answer this sample differently; one alone is compared with the gold."""
    readings = {reading(answer) for answer in row["answers"]}
    if len(row["answers"]) == 1:
        readings.add(reading(row["gold"]))
    return len(readings) > 1


def marked(row: dict[str, Any], answer: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the words of an answer, each with 'right', 'wrong' or '' for how to show it."""
    words = reading(answer).split()
    if not differ(row):
        return [(word, "") for word in words]
    if answer["em"] == 1:
        return [(word, "right") for word in words]
    gold = set(reading(row["gold"]).lower().split())
    return [(word, "" if word == "|" or word.lower() in gold else "wrong") for word in words]


def render(rows: Sequence[dict[str, Any]], *, colour: bool = False) -> str:
    """Return compared samples as text: table, question, gold answer, then a line per model.

    `colour` adds a terminal's colours; signs and brackets are there in any case.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    page = io.StringIO()
    console = Console(
        file=page, force_terminal=colour, color_system="standard" if colour else None,
        width=WIDTH, highlight=False, markup=False, emoji=False, legacy_windows=False,
    )  # fmt: skip
    for number, row in enumerate(rows):
        if number:
            console.print()
        console.print(Text(f"sample {row['sid']}  ({row['uid']})", style="bold"), soft_wrap=True)
        table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
        for cells in row["table"]:
            table.add_row(*map(Text, cells))
        console.print(table)
        for paragraph in row["paragraphs"]:
            console.print(Text(paragraph))
        width = max(len("gold"), *(len(answer["model"]) for answer in row["answers"]))
        console.print(Text(f"\nQuestion: {row['question']}", style="bold"), soft_wrap=True)
        console.print(Text(f"{'gold':<{width}}  {'':<26}{reading(row['gold'])}"), soft_wrap=True)
        for answer in row["answers"]:
            line = Text(f"{answer['model']:<{width}}  {sign(answer)} exact match "
                        f"{answer['em']:.0f}  F1 {answer['f1']:.2f}  ")  # fmt: skip
            line.append_text(_coloured(marked(row, answer)))
            if answer["text"].strip() != reading(answer):
                line.append(f"   ← {' '.join(answer['text'].split())}", style="dim")
            console.print(line, soft_wrap=True)
    return page.getvalue().rstrip("\n")


def _coloured(words: Sequence[tuple[str, str]]) -> Any:
    from rich.text import Text

    line = Text()
    for number, (word, how) in enumerate(words):
        shown = f"[{word}]" if how == "wrong" else word
        style = {"right": "green", "wrong": "red", "": ""}[how]
        line.append(" " if number else "").append(shown, style=style)
    return line


def to_html(rows: Sequence[dict[str, Any]]) -> str:
    """Return compared samples as HTML, with everything that came from outside escaped."""
    from jinja2 import Environment

    template = Environment(autoescape=True, trim_blocks=True).from_string(VIEW)
    return STYLE + template.render(rows=rows, marked=marked, reading=reading, sign=sign)
