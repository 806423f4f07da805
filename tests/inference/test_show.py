"""Side by side: everything shown, nothing unescaped, colour only where models differ."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from labkit.inference.show import SideBySide, differ, marked, reading, render, sign, to_html


def answer(model: str, values: list[str], *, scale: str = "", em: float = 0, f1: float = 0,
           text: str | None = None) -> dict[str, Any]:  # fmt: skip
    return {"model": model, "values": values, "scale": scale, "em": em, "f1": f1,
            "text": " | ".join(values) if text is None else text}  # fmt: skip


def row(*answers: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "sid": 7, "uid": "u-7", "report": "", "table": [["", "2019"], ["Sales", "1,496"]],
        "paragraphs": ["Sales rose."], "question": "What were sales?",
        "gold": {"answer": ["1,496"], "scale": "million", "answer_type": "span"},
        "answers": list(answers), **changes,
    }  # fmt: skip


RIGHT = answer("good", ["1,496"], scale="million", em=1, f1=1)
PART = answer("part", ["1,496"], f1=0.5)
WRONG = answer("bad", ["1,202"], scale="million")


class Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(html: str) -> Text:
    parser = Text()
    parser.feed(html)
    return parser


def test_text_shows_table_question_gold_and_every_answer() -> None:
    shown = render([row(RIGHT, WRONG)])
    for part in ("sample 7", "u-7", "Sales", "1,496", "Sales rose.", "What were sales?", "good",
                 "✓ exact match 1  F1 1.00", "✗ exact match 0  F1 0.00"):  # fmt: skip
        assert part in shown
    assert "\x1b" not in shown


def test_the_text_as_written_is_shown_where_it_says_more() -> None:
    calculated = answer("model", ["24.46"], em=0, text="= 294 / 1,202 * 100")
    assert "← = 294 / 1,202 * 100" in render([row(calculated)])
    assert "←" not in render([row(answer("model", ["1,202"]))])


def test_signs() -> None:
    assert [sign(a) for a in (RIGHT, PART, WRONG)] == ["✓", "◐", "✗"]
    assert reading(RIGHT) == "1,496 million" and reading(PART) == "1,496"


def test_colour_is_where_models_differ_and_says_what_the_gold_answer_lacks() -> None:
    both = row(RIGHT, WRONG)
    assert differ(both)
    assert marked(both, RIGHT) == [("1,496", "right"), ("million", "right")]
    assert marked(both, WRONG) == [("1,202", "wrong"), ("million", "")]
    alike = row(WRONG, {**WRONG, "model": "other"})
    assert not differ(alike)
    assert {how for a in alike["answers"] for _, how in marked(alike, a)} == {""}
    # One model is held against the gold answer.
    assert differ(row(WRONG)) and not differ(row(RIGHT))


def test_terminal_colours_only_when_asked_and_brackets_in_any_case() -> None:
    coloured = render([row(RIGHT, WRONG)], colour=True)
    assert re.search(r"\x1b\[31m\[1,202\]", coloured) and re.search(r"\x1b\[32m1,496", coloured)
    assert "[1,202] million" in render([row(RIGHT, WRONG)])
    assert "[1,202]" not in render([row(WRONG, {**WRONG, "model": "other"})])


def test_markup_of_the_terminal_library_is_plain_text() -> None:
    sneaky = answer("[bold]m[/bold]", ["[red]x[/red]", ":smile:"])
    shown = render([row(sneaky, table=[["[link=x]cell"]], question="[b]?")])
    for part in ("[bold]m[/bold]", ":smile:", "[link=x]cell", "[b]?"):
        assert part in shown


EVIL = "<script>alert('x')</script>&amp;<img src=x onerror=y>\""


@pytest.mark.parametrize("where", ["table", "paragraphs", "question", "uid", "gold", "model",
                                   "values", "text", "scale"])  # fmt: skip
def test_html_escapes_whatever_comes_from_outside(where: str) -> None:
    given = row(answer("m", ["1"]), answer("n", ["2"]))
    if where in ("model", "values", "text", "scale"):
        given["answers"][0][where] = [EVIL] if where == "values" else EVIL
    elif where == "gold":
        given["gold"] = {**given["gold"], "answer": [EVIL]}
    else:
        given[where] = {"table": [[EVIL]], "paragraphs": [EVIL]}.get(where, EVIL)
    page = parsed(to_html([given]))
    assert not {"script", "img"} & set(page.tags)
    assert EVIL.split()[0] in page.text


def test_a_notebook_shows_all_rows_with_marks() -> None:
    rows = SideBySide([row(RIGHT, WRONG), row(PART, sid=8)])
    html = rows._repr_html_()
    assert parsed(html).text.count("Question:") == 2
    assert '<mark class="right">1,496</mark>' in html
    assert '<mark class="wrong">1,202</mark>' in html
    assert html.count("✓") == 1 and html.count("◐") == 1
    assert str(rows) == render(rows)
