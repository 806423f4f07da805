"""What cannot be read is counted and named, and the rest is built."""

import bz2
import gzip
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labkit.datasets.corpus import readers, sources, synthetic
from labkit.datasets.corpus.build import build
from labkit.datasets.corpus.readers import documents
from labkit.datasets.corpus.sources import Refusal, Refused, find
from labkit.datasets.corpus.unit import Settings
from labkit.errors import LabkitError

SETTINGS = Settings(form="text", against=(), fractions=(1.0, 0.0, 0.0))
TEXTS = [item["text"] for (item, truth), _ in zip(synthetic.texts(1), range(12), strict=False)
         if truth["kind"] == "clean"][:5]  # fmt: skip
LINE = json.dumps({"id": "a", "text": TEXTS[0]}).encode() + b"\n"


def made(out: Path) -> list[dict[str, Any]]:
    """Return the records of a data set."""
    return [json.loads(line) for line in (out / "train.jsonl").read_bytes().splitlines()]


BAD: dict[str, tuple[Callable[[Path], Any] | bytes, str]] = {
    "bytes.txt": (bytes(range(128, 256)) * 40, "in no encoding that can be told"),
    "binary.md": (b"\x7fELF" + bytes(100), "binary: it has null characters"),
    "late.txt": (b"x" * 5000 + b"\0", "binary: it has null characters"),
    "bomb.txt.gz": (gzip.compress(b"0" * 2**25), "as a zip bomb does"),
    "bomb.xml.bz2": (bz2.compress(b"<m>" + b" " * 2**25), "as a zip bomb does"),
    "bomb.zip": (b"PK\x03\x04" + bytes(64), "an archive: unpack it"),
    "loop.txt": (lambda file: file.symlink_to(file), "Too many levels of symbolic links"),
    "again": (lambda link: link.symlink_to(link.parent), "a link to a folder that is read already"),
    "gone.txt": (lambda link: link.symlink_to("nowhere"), "No such file or directory"),
    "pipe.txt": (os.mkfifo, "neither a file nor a folder"),
    "empty.txt": (b"", "empty"),
    "nulls.csv": (b"id,text\n1,a\0b\n", "null characters"),
    "cut.jsonl.gz": (gzip.compress(LINE * 50)[:-9], "damaged: "),
    "garbage.txt.gz": (b"no gzip", "damaged: "),
    "cut.pdf": (b"%PDF-1.7\n%\xe2\xe3", "a PDF: "),
    "cut.xml": (b"<mediawiki><page>", "XML that ends or errs"),
    "deep.jsonl": (b"[" * 100_000 + b"\n", "a line that is no JSON"),
    "list.jsonl": (b"[1, 2]\n", "a record that is no object"),
    os.fsdecode(b"name\xff.doc"): (b"x", "of a kind that is not read"),
}


@pytest.mark.parametrize("name", BAD)
def test_each_bad_input_is_named_and_the_rest_is_built(name: str, tmp_path: Path) -> None:
    make, reason = BAD[name]
    (tmp_path / "in").mkdir()
    bad = tmp_path / "in" / name
    bad.write_bytes(make) if isinstance(make, bytes) else make(bad)
    (tmp_path / "in/good.txt").write_text(TEXTS[1])
    report = build([tmp_path / "in"], tmp_path / "out", SETTINGS, workers=1)
    ((place, said),) = report["refused_places"]
    assert report["refused"] == 1 and reason in said
    written = os.fsencode(name).decode("utf-8", "backslashreplace")
    assert place.startswith(f"in/{written}")
    assert "in/good.txt" in [record["source"] for record in made(tmp_path / "out")]


def test_what_may_not_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Who runs this may be allowed to open everything.
    def guarded(path: Path, mode: str) -> Any:
        if Path(path).name in ("shut.txt", "LICENSE"):
            raise PermissionError(13, "Permission denied")
        return open(path, mode)

    monkeypatch.setattr(sources, "open", guarded, raising=False)
    (tmp_path / "in").mkdir()
    for name in ("shut.txt", "LICENSE", "good.txt"):
        (tmp_path / "in" / name).write_text(TEXTS[1])
    report = build([tmp_path / "in"], tmp_path / "out", SETTINGS, workers=1)
    assert report["refused_places"] == [
        ["in/LICENSE", "Permission denied"], ["in/shut.txt", "Permission denied"],
    ]  # fmt: skip
    assert report["records"]["train"] == 1


def test_halves_of_characters_and_odd_names_are_built(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    half = "\ud83d"
    fields = {name: half + name for name in ("id", "title", "license", "group")}
    rows = [{**fields, "text": TEXTS[0] + half},
            {"messages": [{"role": half, "content": TEXTS[1]}, {"role": "user", "content": half},
                          {"role": "assistant", "content": TEXTS[2]}]}]  # fmt: skip
    (tmp_path / "in/a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "in" / os.fsdecode(b"\xff.txt")).write_text(TEXTS[3])
    report = build([tmp_path / "in"], tmp_path / "out", SETTINGS, workers=1)
    records = made(tmp_path / "out")
    assert report["refused"] == 0 and len(records) == 3
    assert {"in/\\xff.txt", "in/a.jsonl#\ufffdid"} <= {each["source"] for each in records}


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt", "a.xml"])
def test_a_line_without_an_end_is_passed_over_in_little_memory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 2**16
    for module in (readers, sources):
        monkeypatch.setattr(module, "LONGEST_BYTES", limit)
    start, form = {
        "csv": ("text\n", "{}\n"), "xml": ("<mediawiki>", "<page><text>{}</text></page>"),
    }.get(name[2:], ("", '{{"text": {}}}\n'))  # fmt: skip
    rows = [form.format(json.dumps(text)).encode() for text in TEXTS]
    before = start.encode() + b"".join(rows[:3])
    assert 4096 < len(before) < limit
    file = tmp_path / name
    file.write_bytes(before + b"x" * (256 * limit) + b"\n" + rows[3])
    (found,) = find([tmp_path]).files
    read = []
    tracemalloc.start()
    try:
        read += documents(found)
    except Refusal as error:
        read.append(Refused(place=found.label, reason=str(error)))
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 64 * limit
    (refused,) = (each for each in read if isinstance(each, Refused))
    assert refused.place.startswith(found.label) and f"more than {limit:,} " in refused.reason
    assert len(read) == {"a.txt": 1, "a.xml": 4}.get(name, 5)


def test_a_data_set_is_not_built_from_itself(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text(TEXTS[0])
    build([tmp_path], tmp_path / "out", SETTINGS, workers=1)
    with pytest.raises(LabkitError, match="holds a data set of other sources"):
        build([tmp_path], tmp_path / "out", SETTINGS, workers=1)
