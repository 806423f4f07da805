"""Whatever is handed in: a line in the report, and nothing else happens."""

import csv
import html.parser
import json
import os
import stat
import zipfile
from pathlib import Path

import pytest

from labkit.checkpoints import grade
from labkit.checkpoints.card import MIME
from labkit.checkpoints.marks import Graded
from labkit.checkpoints.questions import load_questions
from labkit.checkpoints.submissions import MOST_RECORDS, parse_json

REAL = Path(__file__).parents[2] / "data" / "results" / "lora_vs_full.lora.json"
FIELDS = {"card": "my laptop", "rate": 4, "full_ceiling": 2, "frozen_ceiling": 4}
FIELDS |= {"explanation": "of three products only two are in int8 when weights are trained"}


@pytest.fixture
def class_(tmp_path):
    """Return a folder for submissions with a good one in it."""
    folder = tmp_path / "class"
    (folder / "zoe").mkdir(parents=True)
    (folder / "zoe" / "answers.json").write_bytes(good())
    return folder


def value(*, question="04.4", **fields) -> str:
    return json.dumps({"schema": 1, "answers": {question: {"fields": {**FIELDS, **fields}}}})


def good() -> bytes:
    return value().encode()


def graded(place: Path) -> dict[str, Graded]:
    return {each.submission.student: each for each in grade.grade(place)[0]}


def zipped(path: Path, members: dict[str, bytes], **options) -> Path:
    with zipfile.ZipFile(path, "w", **{"compression": zipfile.ZIP_DEFLATED, **options}) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def bomb_that_lies(path: Path) -> None:
    """A member of 50 MiB whose headers say that it has ten bytes."""
    zipped(path, {"answers.json": b" " * 50 * 2**20})
    content = path.read_bytes()
    size = (50 * 2**20).to_bytes(4, "little")
    assert content.count(size) == 2
    path.write_bytes(content.replace(size, (10).to_bytes(4, "little")))


def link_in_zip(path: Path) -> None:
    info = zipfile.ZipInfo("answers.json")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "/etc/passwd")


def encrypted(path: Path) -> None:
    zipped(path, {"answers.json": good()})
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the flag in the local header, and in the directory
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


def many_names(path: Path) -> None:
    zipped(path, {f"{'n' * 200}{number}": b"" for number in range(9000)})


def zip64(path: Path) -> None:
    zipped(path, {"answers.json": good()})
    content = path.read_bytes()
    at = content.rindex(b"PK\x05\x06")
    path.write_bytes(content[:at] + b"PK\x06\x07" + bytes(16) + content[at:])


def deep_folders(path: Path) -> None:
    inner = path
    for _ in range(12):
        inner = inner / "d"
    inner.mkdir(parents=True)


def huge(path: Path) -> None:
    path.mkdir()
    with (path / "answers.json").open("wb") as file:
        file.truncate(40 * 2**30)  # without taking the space


def pipe(path: Path) -> None:
    path.mkdir()
    os.mkfifo(path / "answers.json")


def links(path: Path) -> None:
    path.mkdir()
    (path / "answers.json").symlink_to("/etc/passwd")
    (path / "runs").symlink_to("/")


def text(content: str | bytes, name="answers.json"):
    def make(path: Path) -> None:
        path.mkdir()
        raw = content if isinstance(content, bytes) else content.encode()
        (path / name).write_bytes(raw)

    return make


def zip_with(name, content=None, **options):
    return lambda path: zipped(path, {name: content or good()}, **options)


def raw(content: str | bytes):
    return lambda path: path.write_bytes(content.encode() if isinstance(content, str) else content)


def cut_off(path: Path) -> None:
    zipped(path, {"answers.json": good()})
    path.write_bytes(path.read_bytes()[:-9])


def damaged(path: Path) -> None:
    zipped(path, {"answers.json": good()}, compression=zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"explanation", b"explanatiom"))


def too_many_records(path: Path) -> None:
    path.mkdir()
    for number in range(MOST_RECORDS + 5):
        (path / str(number)).mkdir()
        record = {**json.loads(REAL.read_text()), "id": f"r{number}", "steps": []}
        (path / str(number) / "record.json").write_text(json.dumps(record))


def own_notebook(outputs) -> str:
    return json.dumps({"cells": [{"cell_type": "code", "outputs": outputs}]})


# What it is called, how it is made, what its line in the report says.
FOLDERS = {
    "huge file": (huge, "answers.json: larger than 2 MiB, not read"),
    "deep JSON": (text("[" * 10**6), "nested too deeply"),
    "deep objects": (text('{"answers":' * 10**5), "nested too deeply"),
    "NaN": (text('{"answers": {"04.4": {"fields": {"rate": NaN}}}}'), "NaN is not a number"),
    "endless": (text('{"answers": {"04.4": {"fields": {"rate": 1e999}}}}'), "not a finite"),
    "long number": (text('{"answers": ' + "9" * 5000 + "}"), "not readable as JSON"),
    "large number": (text(value(rate=10**400)), "is not a number that was measured"),
    "not UTF-8": (text(b"\xff\xfe\x00"), "not text in UTF-8"),
    "null bytes": (text(bytes(1000)), "not readable as JSON"),
    "empty file": (text(""), "not readable as JSON"),
    "a list": (text("[1, 2]"), "not in the form of answers.json"),
    "answers a list": (text('{"answers": [1]}'), "not in the form of answers.json"),
    "an entry a text": (text('{"answers": {"04.4": "4"}}'), "answer 04.4: not in the form"),
    "fields a list": (text('{"answers": {"04.4": {"fields": []}}}'), "answer 04.4: not in"),
    "a field a mapping": (text(value(rate={"a": 1})), "rate: give a number"),
    "a field a list": (text(value(rate=[4])), "rate: give a number"),
    "text a number": (text(value(explanation=5)), "explanation: give text in quotes"),
    "unknown field": (text(value(bonus=100)), "04.4: no field is called bonus"),
    "unknown question": (text(value(question="99.9")), "an answer to 99.9, which nobody"),
    "run a mapping": (text(value(question="02.1", run={"id": 1})), "02.1: no field is called"),
    "symbolic link": (lambda p: p.symlink_to("/etc"), "a symbolic link, which is not"),
    "links inside": (links, "answers.json: a symbolic link, which is not followed"),
    "a pipe": (pipe, "answers.json: not a regular file"),
    "deep folders": (deep_folders, "too deep in folders"),
    "too many records": (too_many_records, f"more than {MOST_RECORDS} records"),
    "record a list": (text("[]", "record.json"), "not a usable record: the record is a list"),
    "measurement a list": (text("[]", "measurement-a-1.json"), "not usable among the measurements"),
    "measurement unnamed": (
        text('{"values": {}, "settings": {}, "machine": {}, "made_at": "x"}', "measurement-1.json"),
        "kind is not text",
    ),
    "point a list": (text("[]", "point-1.json"), "not usable among the points of sweeps"),
}
OUT, LEADS_OUT = "it has no end", "a name that leads out"
BZIP2 = zip_with("answers.json", compression=zipfile.ZIP_BZIP2)
ZIPS = {
    "nothing": (raw(b""), OUT),
    "cut off": (cut_off, OUT),
    "noise": (raw(b"PK\x05\x06" * 99), "not a readable zip"),
    "damaged": (damaged, "damaged"),
    "traversal": (zip_with("../../answers.json"), LEADS_OUT),
    "absolute": (zip_with("/tmp/answers.json"), LEADS_OUT),
    "backslash": (zip_with("..\\answers.json"), LEADS_OUT),
    "drive": (zip_with("C:\\answers.json"), LEADS_OUT),
    "link": (link_in_zip, "answers.json: a symbolic link"),
    "bomb": (zip_with("answers.json", bytes(40 * 2**20)), "larger than 2 MiB unpacked"),
    "bomb that lies": (bomb_that_lies, "damaged"),
    "bzip2": (BZIP2, "compressed in a way"),
    "encrypted": (encrypted, "encrypted"),
    "many names": (many_names, "far too many files"),
    "zip64": (zip64, "far too many files"),
}
ODD = [1, None, {"outputs": 3}, {"outputs": [1, {"data": []}, {"data": {MIME: 4}}]}]
CARRIED = {MIME: {"answers": 3, "records": [4], "points": "x"}}
NOTEBOOKS = {
    "no JSON": (raw("print(1)"), "not readable as JSON"),
    "a list": (raw("[]"), "not a notebook"),
    "cells a text": (raw('{"cells": "x"}'), "not a notebook"),
    "odd cells": (raw(json.dumps({"cells": ODD})), "no answers in it"),
    "odd answer": (raw(own_notebook([{"data": CARRIED}])), "in the notebook: not"),
    "deep": (raw('{"cells":' * 10**5), "nested too deeply"),
}
HOSTILE = [
    pytest.param(f"evil{ending}", make, says, id=f"{ending}-{case}")
    for ending, table in (("", FOLDERS), (".zip", ZIPS), (".ipynb", NOTEBOOKS))
    for case, (make, says) in table.items()
]


@pytest.mark.parametrize(("name", "make", "says"), HOSTILE)
def test_hostile_input_is_a_line_in_the_report_and_nothing_else(name, make, says, class_, tmp_path):
    make(class_ / name)
    before = sorted(tmp_path.rglob("*"))
    found = graded(class_)
    assert sorted(tmp_path.rglob("*")) == before
    assert found["zoe"].points == 2 and found["zoe"].submission.remarks == []
    each = found["evil"]
    lines = [*each.submission.remarks, *(line for m in each.marks.values() for line in m.found)]
    assert any(says in line for line in lines), lines
    assert all(len(line) <= 300 and line.isprintable() for line in lines)
    assert each.points < 1 or says == "04.4: no field is called bonus"


def test_a_zip_in_a_folder_is_read_and_a_broken_one_beside_it_reported(class_):
    (class_ / "anna").mkdir()
    zipped(class_ / "anna" / "mine.zip", {"x/answers.json": good()})
    (class_ / "anna" / "broken.zip").write_bytes(b"PK")
    each = graded(class_)["anna"]
    assert each.points == 2
    assert each.submission.remarks == ["broken.zip: not a readable zip (it has no end)"]


NAMES = [
    "<script>alert(1)</script>".replace("/", "∕"), "<img src=x onerror=alert(1)>", '"onload="x',
    "=cmd|' ∕C calc'!A0", "+1+1", "-2+3", "@SUM(1)", "\t=1", " =1", "＝1+1", "new\nline", "a,b;c",
    "‮evil", "x" * 240, b"\xff\xfe".decode("utf-8", "surrogateescape"), "&amp;<b>",
]  # fmt: skip


class Tags(html.parser.HTMLParser):
    """Collects the tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag, attributes):
        self.found |= {tag, *(name for name, _ in attributes)}


def test_names_and_explanations_can_do_nothing_in_page_or_spreadsheet(class_, tmp_path):
    for name in NAMES:
        plain = name.encode("utf-8", "backslashreplace").decode()
        (class_ / name).mkdir()
        # Long enough to be compared with others', and one of them wrong.
        long = f"{plain} {FIELDS['explanation']}"
        given = value(explanation=long, full_ceiling=2 + (name == NAMES[0]), **{plain: 1})
        (class_ / name / "answers.json").write_text(given)
        (class_ / f"{plain[:50]}.txt").write_text("left aside")
    grade.write_grades(class_, tmp_path / "grades.csv")
    with (tmp_path / "grades.csv").open(newline="", encoding="utf-8") as lines:
        table = list(csv.reader(lines))
    assert {len(row) for row in table} == {6 + 3 * len(load_questions())}
    assert len(table) == 2 + len(NAMES)
    for cell in (cell for row in table for cell in row):
        assert cell.isprintable() and not cell.lstrip().startswith(grade.FORMULA), cell
    tags = Tags()
    page = (tmp_path / "grades.html").read_text(encoding="utf-8")
    tags.feed(page)
    assert tags.found == {
        "html", "lang", "head", "meta", "charset", "http-equiv", "content", "title", "style",
        "body", "h1", "h2", "p", "img", "alt", "src", "width", "div", "class", "table", "tr", "th",
        "td", "br", "b", "span", "colspan",
    }  # fmt: skip
    assert "&lt;script&gt;" in page and "src=x" in page


def test_numbers_that_python_would_take_are_json_s_only():
    assert parse_json(b'\xef\xbb\xbf{"a": [1, -2.5e3, true, null]}') == {
        "a": [1, -2500.0, True, None]
    }
