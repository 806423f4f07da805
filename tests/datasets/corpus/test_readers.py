"""Files: every kind gives its documents whole, and what is none is told with its place."""

import bz2
import gzip
import json
import lzma
import os
from pathlib import Path
from xml.etree.ElementTree import ParseError
from xml.sax.saxutils import escape

import pytest

from labkit.datasets.corpus import readers, sources
from labkit.datasets.corpus.readers import Document, documents
from labkit.datasets.corpus.sources import Refusal, Refused, find
from labkit.errors import LabkitError

RUSSIAN = "Старый мастер каждый вечер закрывал двери лавки и шёл вдоль реки домой."


def read(folder: Path) -> dict[str, list[Document | Refused]]:
    return {file.label.split("/", 1)[1]: list(documents(file)) for file in find([folder]).files}


def written(folder: Path, name: str, content: str | bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def test_pages_of_every_kind(tmp_path: Path) -> None:
    body = [f"{n}. {RUSSIAN} {RUSSIAN} {RUSSIAN}" for n in (1, 2)]
    written(tmp_path, "a.txt", f"Мастер\n\n{RUSSIAN}\nВторая строка абза-\nца.\n\n- один\n- два\n")
    written(tmp_path, "b.md", f"---\nx: 1\n---\n# Мастер и *лавка*\n\nСм. [сайт](http://a.b) и\n"
                              f"**дальше**.\n\n## Что?\n\n{RUSSIAN}\n")  # fmt: skip
    written(
        tmp_path,
        "c.html",
        "<html><head><title>Мастер</title></head><body><nav>Меню</nav>"
        f"<article><p>{body[0]}</p><p>{body[1]}</p></article></body></html>",
    )
    found = {name: page[0] for name, page in read(tmp_path).items()}
    assert all(isinstance(page, Document) for page in found.values())
    assert (found["a.txt"].title, found["a.txt"].text) == (
        "Мастер", f"{RUSSIAN} Вторая строка абзаца.\n\n- один\n- два",
    )  # fmt: skip
    assert (found["b.md"].title, found["b.md"].text) == (
        "Мастер и лавка", f"См. сайт и дальше.\n\nЧто?\n\n{RUSSIAN}",
    )  # fmt: skip
    assert found["c.html"].title == "Мастер" and "Меню" not in found["c.html"].text
    assert found["c.html"].text.split("\n\n") == body


def test_text_of_a_pdf_loses_page_numbers_and_running_heads(tmp_path: Path) -> None:
    pages = [f"Annual report\n\nPage {n} says some-\nthing of its own, {n}.\n\n- {n} -\n" for n in
             (1, 2, 3)]  # fmt: skip
    written(tmp_path, "a.txt", "\f".join(pages))
    (page,) = read(tmp_path)["a.txt"]
    assert page.text.split("\n\n") == [
        f"Page {n} says something of its own, {n}." for n in (1, 2, 3)
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1251", "koi8-r"])
def test_encodings_of_russian_text(tmp_path: Path, encoding: str) -> None:
    written(tmp_path, "a.txt", RUSSIAN.encode(encoding))
    assert read(tmp_path)["a.txt"][0].text == RUSSIAN


RECORDS = [
    ({"title": "T", "text": "Some text."}, ("T", "Some text.")),
    ({"headline": "T", "Content": "Some text."}, ("T", "Some text.")),
    ({"Question": "Why?", "answer": "So."}, (("user", "Why?"), ("assistant", "So."))),
    ({"instruction": "Add.", "input": "1 2", "output": "3"},
     (("user", "Add.\n\n1 2"), ("assistant", "3"))),
    ({"instruction": "Add.", "context": "1 2", "response": "3"},
     (("user", "Add.\n\n1 2"), ("assistant", "3"))),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"},
                                                {"type": "text", "text": "there"}]},
                   {"role": "assistant", "content": [{"type": "text", "text": "Ho"}]}]},
     (("user", "Hi\n\nthere"), ("assistant", "Ho"))),
    ({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
     (("user", "Hi"), ("assistant", "Ho"))),
    ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}],
      "system": "Be kind."}, (("system", "Be kind."), ("user", "Hi"), ("assistant", "Ho"))),
    ({"prompt": "And?", "response": "So.", "system": "Be kind.", "history": [["Hi", "Ho"]]},
     (("system", "Be kind."), ("user", "Hi"), ("assistant", "Ho"), ("user", "And?"),
      ("assistant", "So."))),
    ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]},
     (("user", "Hi"), ("assistant", "Ho"))),
]  # fmt: skip


@pytest.mark.parametrize(("record", "expected"), RECORDS)
def test_records_in_published_forms(tmp_path: Path, record: dict, expected: object) -> None:
    written(tmp_path, "a.jsonl", json.dumps(record))
    (found,) = read(tmp_path)["a.jsonl"]
    assert isinstance(found, Document)
    assert expected == (found.turns or (found.title, found.text))


PICTURE = {"type": "image_url", "image_url": {"url": "a.png"}}


@pytest.mark.parametrize("content", [[PICTURE], [{"type": "text"}], {"text": "Hi"}, 5])
def test_what_is_said_in_no_text_is_refused(tmp_path: Path, content: object) -> None:
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": "Ho"}]
    written(tmp_path, "a.jsonl", json.dumps({"messages": turns}))
    (found,) = read(tmp_path)["a.jsonl"]
    assert isinstance(found, Refused) and "no text" in found.reason


def asked(question: str, **more: str) -> dict[str, str]:
    return {"question": question, "answer": "So.", **more}


@pytest.mark.parametrize(("one", "other", "together"), [
    (asked("Why?"), asked("why? "), True),
    (asked("Why?"), asked("How?"), False),
    (asked("Why?", source="FLAN"), asked("How?", source="FLAN"), False),
    (asked("Why?", source="http://a.b/c"), asked("How?", source="http://a.b/c"), True),
    (asked("Why?", source="in/a.PDF"), asked("How?", source="in/a.PDF"), True),
    (asked("Why?", group="g"), asked("How?", group="g"), True),
    (asked("Why?", group="g"), asked("Why?", group="h"), False),
    ({"text": "One.", "source": "a.md"}, {"text": "Two.", "source": "a.md"}, True),
    ({"text": "One.", "source": "wikihow.com"}, {"text": "Two.", "source": "wikihow.com"}, False),
])  # fmt: skip
def test_what_stays_in_one_split(
    tmp_path: Path, one: dict[str, str], other: dict[str, str], together: bool
) -> None:
    written(tmp_path, "a.jsonl", "\n".join(map(json.dumps, (one, other))))
    first, second = read(tmp_path)["a.jsonl"]
    assert isinstance(first, Document) and isinstance(second, Document)
    assert first.group and (first.group == second.group) is together


PRICE = "It costs 20 € – the “naïve” price"
MANY = "".join(f"Question {n}?,Answer {n}.\n" for n in range(20_000))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encodings_of_tables_are_told_by_all_of_them(tmp_path: Path, encoding: str) -> None:
    assert len(MANY) > 2**17
    for name, rows in (("a.csv", f"Why?,{PRICE}\n"), ("b.csv", f"{MANY}Why?,{PRICE}\n")):
        written(tmp_path, name, ("question,answer\n" + rows).encode(encoding))
    for found in read(tmp_path).values():
        assert isinstance(found[-1], Document) and found[-1].turns[1][1] == PRICE


def test_tables_in_koi8_and_tables_with_a_broken_byte(tmp_path: Path) -> None:
    rows = f"вопрос,ответ\nПочему?,{RUSSIAN}\n"
    written(tmp_path, "a.csv", rows.encode("koi8-r"))
    written(tmp_path, "b.csv", rows.encode() + b"\xff?,yes\n")
    found = read(tmp_path)
    for name in ("a.csv", "b.csv"):
        assert isinstance(found[name][0], Document) and found[name][0].turns[1][1] == RUSSIAN


def test_one_foreign_letter_in_a_long_western_text(tmp_path: Path) -> None:
    written(
        tmp_path, "a.txt", ("Every day is like the one before. " * 100 + "Café.").encode("cp1252")
    )
    (page,) = read(tmp_path)["a.txt"]
    assert isinstance(page, Document) and page.text.endswith("Café.")


def test_csv_and_tsv(tmp_path: Path) -> None:
    written(tmp_path, "a.csv", 'question,answer\n"Why, then?","So\nit is."\n')
    written(tmp_path, "b.tsv", "title\ttext\nT\tSome text.\n")
    written(
        tmp_path, "c.csv", "вопрос;ответ\nПочему же так?;Потому что так надо.\n".encode("cp1251")
    )
    found = read(tmp_path)
    assert found["a.csv"][0].turns == (("user", "Why, then?"), ("assistant", "So\nit is."))
    assert found["b.tsv"][0].text == "Some text."
    assert found["c.csv"][0].turns[1][1] == "Потому что так надо."


PAGE = """{{Вид|x=1}}'''Мост''' — это [[сооружение|постройка]] через [[река|реку]].<ref>Да</ref>

[[Файл:Мост.jpg|мини|Вид]]
== История ==
Старый текст."""
DUMP = f"""<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/">
<page><title>Мост</title><ns>0</ns><id>7</id><revision><id>1</id><text>{escape(PAGE)}</text>
</revision></page>
<page><title>Talk</title><ns>1</ns><id>8</id><revision><text>no</text></revision></page>
<page><title>Old</title><ns>0</ns><id>9</id><redirect title="Мост"/>
<revision><text>no</text></revision></page>
</mediawiki>"""


def test_a_dump_gives_its_articles(tmp_path: Path) -> None:
    written(tmp_path, "d.xml.bz2", bz2.compress(DUMP.encode()))
    (page,) = read(tmp_path)["d.xml.bz2"]
    assert isinstance(page, Document) and page.title == "Мост" and page.place == ":7"
    text = " ".join(page.text.split())
    assert text == "Мост — это постройка через реку. История Старый текст."


def test_xml_that_grows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entities = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 20}">' for n in range(12))
    laughs = f'<!DOCTYPE m [<!ENTITY e0 "ha">{entities}]><mediawiki><page>&e12;</page></mediawiki>'
    written(tmp_path, "a.xml", laughs)
    with pytest.raises(ParseError, match="amplification"):
        read(tmp_path)
    monkeypatch.setattr(readers, "LONGEST_BYTES", 100_000)
    written(tmp_path, "a.xml", f"<mediawiki><page>{'x' * 200_000}</page></mediawiki>")
    with pytest.raises(Refusal, match="bytes outside of pages, or in one"):
        read(tmp_path)


@pytest.mark.parametrize("size", [1, 7, 40, 10_000])
def test_stretches_give_each_line_once(tmp_path: Path, size: int) -> None:
    lines = [json.dumps({"text": f"text {n} " + "x" * (n % 50)}) for n in range(40)]
    written(tmp_path, "a.jsonl", "\n\n".join(lines) + "\n")
    (file,) = find([tmp_path]).files
    found = [each for start in range(0, file.size, size)
             for each in documents(file, start, min(start + size, file.size))]  # fmt: skip
    assert found == list(documents(file)) and len(found) == 40


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip), ("bz2", bz2), ("xz", lzma)])
def test_packed_files_and_bombs(tmp_path: Path, suffix: str, pack: object) -> None:
    written(tmp_path, f"a.txt.{suffix}", pack.compress(RUSSIAN.encode()))  # type: ignore[attr-defined]
    written(tmp_path, f"b.jsonl.{suffix}", pack.compress(b" " * 2**25))  # type: ignore[attr-defined]
    fine, bomb = find([tmp_path]).files
    assert next(iter(documents(fine))).text == RUSSIAN
    with pytest.raises(Refusal, match="expands to more than"):
        list(documents(bomb))


def test_a_line_too_long_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LONGEST_BYTES", 1000)
    monkeypatch.setattr(readers, "LONGEST_BYTES", 1000)
    written(tmp_path, "a.jsonl", '{"text": "one"}\n' + "x" * 3_000_000 + '\n{"text": "two"}\n')
    one, refused, two = read(tmp_path)["a.jsonl"]
    assert (one.text, two.text) == ("one", "two")
    assert refused == Refused(
        place=f"{tmp_path.name}/a.jsonl@16", reason="a line of more than 1,000 bytes"
    )
    written(tmp_path, "b.txt", "x" * 1001)
    with pytest.raises(Refusal, match="one text of more than 1,000 bytes"):
        read(tmp_path)


def test_what_is_no_file_to_read_is_told(tmp_path: Path) -> None:
    written(tmp_path, "in/a.txt", RUSSIAN)
    (tmp_path / "in/loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "self.txt").symlink_to(tmp_path / "self.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    written(tmp_path, "LICENSE", "Free.")
    found = find([tmp_path])
    name = tmp_path.name
    assert [file.label for file in found.files] == [f"{name}/in/a.txt"]
    assert [file.label for file in found.licences] == [f"{name}/LICENSE"]
    reasons = {each.place.removeprefix(f"{name}/"): each.reason for each in found.refused}
    assert reasons == {
        "in/loop": "a link to a folder that is read already",
        "gone.txt": "No such file or directory",
        "self.txt": "Too many levels of symbolic links",
        "pipe.txt": "neither a file nor a folder",
    }


def test_what_cannot_be_opened_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, "a.txt", RUSSIAN)
    written(tmp_path, "b.txt", RUSSIAN)

    def refusing(path: Path, size: int) -> str:
        if path.name == "a.txt":
            raise PermissionError(13, "Permission denied")
        return "text"

    monkeypatch.setattr(sources, "_kind", refusing)
    found = find([tmp_path])
    assert [each.reason for each in found.refused] == ["Permission denied"]
    assert len(found.files) == 1


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(LabkitError, match="there is no source"):
        find([tmp_path / "nowhere"])
    with pytest.raises(LabkitError, match="hold no text"):
        find([tmp_path])
    for parent in ("one", "two"):
        written(tmp_path, f"{parent}/docs/a.txt", "x")
    with pytest.raises(LabkitError, match="have one name"):
        find([tmp_path / "one/docs", tmp_path / "two/docs"])
