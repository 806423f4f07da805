"""The builder against the synthetic corpus, whose faults are known; order, pieces, kills."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from labkit.datasets.corpus import build as building
from labkit.datasets.corpus import markup, synthetic
from labkit.datasets.corpus.build import build
from labkit.datasets.corpus.unit import Settings
from labkit.datasets.corpus.write import split_of
from labkit.errors import LabkitError

SETTINGS = Settings(against=("tables",), licence="CC0-1.0")
MEGABYTES = 1.2


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "made"
    synthetic.generate(folder, MEGABYTES)
    return folder


@pytest.fixture(scope="module")
def built(corpus: Path) -> Path:
    build([corpus / "raw"], corpus / "out", SETTINGS, workers=1)
    return corpus / "out"


@pytest.fixture(scope="module")
def truth(corpus: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (corpus / "truth.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def records(built: Path) -> dict[str, list[dict[str, Any]]]:
    """The records by their source."""
    found: dict[str, list[dict[str, Any]]] = {}
    for split in ("train", "dev", "test"):
        for line in (built / f"{split}.jsonl").read_text().splitlines():
            record = json.loads(line)
            found.setdefault(record["source"], []).append(record)
    return found


def of(truth: list[dict[str, Any]], kind: str) -> Iterator[dict[str, Any]]:
    found = [each for each in truth if each["kind"] == kind]
    assert len(found) > 4
    yield from found


def answer(record: dict[str, Any]) -> str:
    return str(record["messages"][-1]["content"])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_near_duplicates_are_told_from_texts_less_alike(truth: Any, records: Any) -> None:
    places = {each["id"]: each["source"] for each in truth}
    told = Counter(
        (each["jaccard"] >= SETTINGS.near, not {each["source"], places[each["of"]]} <= set(records))
        for each in of(truth, "near")
    )
    assert told[True, True] > 2 and told[False, False] > 2
    assert not told[True, False] and not told[False, True]


def test_of_exact_copies_one_stays(truth: Any, records: Any) -> None:
    places = {each["id"]: each["source"] for each in truth}
    for each in of(truth, "exact"):
        assert (each["source"] in records) != (places[each["of"]] in records)


def test_what_has_no_fault_stays_in_its_language(truth: Any, records: Any) -> None:
    copied = {each["of"] for each in truth if each["kind"] in ("near", "exact")}
    for each in of(truth, "clean"):
        if each["id"] not in copied:
            (record,) = records[each["source"]]
            assert record["language"] == each["language"] and record["licence"] == "CC0-1.0"
            assert record["form"] == "title"
            assert [turn["role"] for turn in record["messages"]] == ["user", "assistant"]


@pytest.mark.parametrize("kind", ["mojibake", "lookalikes"])
def test_characters_are_repaired(truth: Any, records: Any, kind: str) -> None:
    for each in of(truth, kind):
        (record,) = records[each["source"]]
        assert answer(record) == each["text"]


def test_personal_data_goes_and_other_numbers_stay(truth: Any, records: Any) -> None:
    for each in of(truth, "pii"):
        (record,) = records[each["source"]]
        assert not [secret for secret in each["secrets"] if secret in answer(record)]
        assert all(decoy in answer(record) for decoy in each["decoys"])


def test_no_file_of_a_build_shows_personal_data(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.txt").write_text("Too short, from anna@mail.example.org or +7 (495) 123-45-67.")
    report = build([source], tmp_path / "out", SETTINGS, workers=1)
    assert report["removed"] == {"gopher_min_words": 1} and report["records"]["train"] == 0
    shown = b"".join(contents(tmp_path / "out").values())
    assert b"[EMAIL] or [PHONE]" in shown and b"anna" not in shown and b"123-45-67" not in shown


def test_a_page_that_a_library_stumbles_over_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(text: str) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr(markup, "html", stumble)
    (tmp_path / "source").mkdir()
    (tmp_path / "source/a.html").write_text("<p>text</p>")
    report = build([tmp_path / "source"], tmp_path / "out", SETTINGS, workers=1)
    assert report["refused_places"] == [
        ["source/a.html", "not understood (RecursionError: too deep)"]
    ]


def test_every_contaminated_text_goes_and_its_item_is_named(
    truth: Any, records: Any, built: Path
) -> None:
    found = json.loads((built / "build.json").read_text())["tests"]["found"]
    for each in of(truth, "contaminated"):
        assert each["of"] in found and each["source"] not in records


def test_poor_texts_go_by_the_rule_they_break(truth: Any, records: Any, built: Path) -> None:
    removed = json.loads((built / "build.json").read_text())["removed"]
    expected = Counter(each["rule"] for each in of(truth, "poor"))
    assert {rule: removed.get(rule, 0) for rule in expected} == expected
    assert sum(removed.values()) == expected.total() + len(list(of(truth, "contaminated")))


def test_questions_become_pairs(truth: Any, records: Any) -> None:
    for each in of(truth, "questions"):
        pairs = [[turn["content"] for turn in record["messages"]]
                 for record in records[each["source"]]]  # fmt: skip
        assert sorted(pairs) == sorted(each["pairs"])


def test_languages_are_kept_by_name(truth: Any, corpus: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, languages=("ru",), form="text")
    report = build([corpus / "raw"], tmp_path / "out", settings, workers=1)
    assert set(report["languages"]) == {"ru"} and set(report["forms"]) == {"text"}
    line = (tmp_path / "out/train.jsonl").read_text().splitlines()[0]
    assert {"text", "title", "id"} <= set(json.loads(line))


def test_bad_files_are_counted_and_named(truth: Any, records: Any, built: Path) -> None:
    report = json.loads((built / "build.json").read_text())
    named = {place.split("@")[0] for place, _ in report["refused_places"]}
    bad = {each["source"] for each in of(truth, "bad")}
    assert len(bad) >= 10 and named == bad
    assert report["refused"] == len(bad) + 2  # broken.jsonl has three lines
    assert not [source for source in records if source.startswith("raw/bad")]


def test_splits_are_by_source(records: Any, built: Path) -> None:
    where: dict[str, set[str]] = {}
    sizes = {}
    for split in ("train", "dev", "test"):
        lines = (built / f"{split}.jsonl").read_text().splitlines()
        sizes[split] = len(lines)
        for line in lines:
            where.setdefault(json.loads(line)["source"], set()).add(split)
    assert all(len(splits) == 1 for splits in where.values())
    assert sizes["train"] > 0.8 * sum(sizes.values()) and min(sizes.values()) > 0


def conversations(folder: Path, rows: list[list[tuple[str, str]]]) -> Path:
    folder.mkdir()
    lines = [json.dumps({"messages": [{"role": r, "content": c} for r, c in row]}) for row in rows]
    (folder / "chat.jsonl").write_text("\n".join(lines))
    return folder


def contents_of(out: Path) -> dict[str, list[tuple[str, ...]]]:
    return {
        file.stem: [
            tuple(turn["content"] for turn in json.loads(line)["messages"])
            for line in file.read_text().splitlines()
        ]
        for file in out.glob("*.jsonl")
    }


RULES = " ".join(f"Follow rule {n} of the house at all times." for n in range(9))


def test_conversations_under_one_system_message_are_not_alike(tmp_path: Path) -> None:
    rows = [[("system", RULES), ("user", f"Where is the {n}th house of them?"),
             ("assistant", f"Behind the {n + 1}th one, I think.")] for n in range(60)]  # fmt: skip
    test = tmp_path / "test.jsonl"
    asked = [{"role": role, "content": content} for role, content in rows[7][:2]]
    test.write_text(json.dumps({"messages": asked}))
    rows += [rows[3], [("system", "Be kind."), *rows[4][1:]]]
    build([conversations(tmp_path / "in", rows)], tmp_path / "out",
          replace(SETTINGS, limits={}, against=(str(test),)), workers=1)  # fmt: skip
    found = [row for rows in contents_of(tmp_path / "out").values() for row in rows]
    # The test's question, of too few words for a check, stays; both repetitions go.
    assert len(found) == 60 and {row[0] for row in found} <= {RULES, "Be kind."}


def test_code_in_an_answer_still_runs(tmp_path: Path) -> None:
    answer = "So:\n\n```python\nfor i in 1, 2:\n    if i:\n\n\n        print(i)\n```\n\n- a\n   - b"
    rows = [[("user", "How do I print two numbers in Python?"), ("assistant", answer)]]
    build([conversations(tmp_path / "in", rows)], tmp_path / "out", replace(SETTINGS, limits={}),
          workers=1)  # fmt: skip
    (found,) = (row for rows in contents_of(tmp_path / "out").values() for row in rows)
    assert found[1] == answer


@pytest.mark.parametrize("masked", [True, False])
def test_a_test_item_is_found_by_the_personal_data_in_it(tmp_path: Path, masked: bool) -> None:
    item = "Write to help.desk@example.com or call +44 20 7946 0958 before noon"
    (tmp_path / "test.txt").write_text(item)
    rows = [[("user", "How can I reach somebody there?"), ("assistant", f"{item}, on any day.")],
            [("user", "And at night?"), ("assistant", "Try a@example.com then.")]]  # fmt: skip
    settings = replace(SETTINGS, limits={}, against=(str(tmp_path / "test.txt"),), mask=masked)
    report = build([conversations(tmp_path / "in", rows)], tmp_path / "out", settings, workers=1)
    assert report["removed"] == {"contaminated": 1}
    (found,) = (row for rows in contents_of(tmp_path / "out").values() for row in rows)
    assert ("[EMAIL]" in found[1]) == masked


def test_equal_requests_stay_in_one_split(tmp_path: Path) -> None:
    rows = [[("user", f"Where is the {n % 40}th house of them?"),
             ("assistant", f"Behind the {n}th one, I think.")] for n in range(120)]  # fmt: skip
    build([conversations(tmp_path / "in", rows)], tmp_path / "out",
          replace(SETTINGS, limits={}, near=1.0, fractions=(0.6, 0.2, 0.2)), workers=1)  # fmt: skip
    asked = {
        split: {row[0] for row in rows} for split, rows in contents_of(tmp_path / "out").items()
    }
    assert {split: len(requests) for split, requests in asked.items()} == {
        "train": 24, "dev": 8, "test": 8,
    }  # fmt: skip
    assert sum(map(len, asked.values())) == len(set().union(*asked.values()))


def test_small_sets_have_all_splits() -> None:
    groups = np.array([5, 5, 9, 2**60, 7, 9], np.uint64)
    parts = split_of(groups, (0.9, 0.05, 0.05))
    assert sorted(set(parts.tolist())) == [0, 1, 2]
    assert parts[0] == parts[1] and parts[2] == parts[5]
    assert set(split_of(groups, (1.0, 0.0, 0.0)).tolist()) == {0}


def test_neither_order_nor_pieces_nor_processes_change_a_byte(corpus: Path, tmp_path: Path) -> None:
    parts = [tmp_path / name for name in ("a", "b")]
    for part in parts:
        part.mkdir()
    for number, file in enumerate(sorted((corpus / "raw").rglob("*"))):
        if file.is_file():
            os.link(file, parts[number % 2] / file.name)
    made = []
    for number, (order, workers, size) in enumerate(
        [(parts, 1, 2**23), (parts[::-1], 1, 50_000), (parts, 2, 200_000)]
    ):
        out = tmp_path / f"out{number}"
        build(order, out, SETTINGS, workers=workers, piece_bytes=size)
        made.append(contents(out))
    assert made[0] == made[1] == made[2]
    assert len(made[0]) == 5


def test_killed_and_started_again_it_writes_the_same_bytes(
    corpus: Path, built: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code = f"""
from pathlib import Path
from labkit.datasets.corpus.build import build
from labkit.datasets.corpus.unit import Settings
build([{str(corpus / "raw")!r}], Path({str(out)!r}), Settings(**{vars(SETTINGS)!r}),
      workers=2, piece_bytes=60_000)
"""
    script = tmp_path / "run.py"
    script.write_text(
        f"if __name__ == '__main__':\n    {code.strip().replace(chr(10), chr(10) + '    ')}\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen([sys.executable, str(script)], env=environment)
    while not list((out / ".build").glob("*.json")):
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(list((out / ".build").glob("*.json")))
    assert done and not (out / "build.json").exists()
    capfd.readouterr()
    build([corpus / "raw"], out, SETTINGS, workers=1, piece_bytes=60_000)
    assert f"going on: {done}" in capfd.readouterr().err
    assert contents(out) == contents(built)


def test_a_finished_build_is_not_done_again(
    corpus: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "_clean", lambda *_: pytest.fail("done again"))
    report = build([corpus / "raw"], built, SETTINGS)
    assert report == json.loads((built / "build.json").read_text())
    with pytest.raises(LabkitError, match="holds a data set of other sources or settings"):
        build([corpus / "raw"], built, replace(SETTINGS, seed=1))


def test_a_place_with_other_things_is_left_alone(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(LabkitError, match="holds other things"):
        build([corpus / "raw"], tmp_path, SETTINGS)
    with pytest.raises(LabkitError, match="is a file"):
        build([corpus / "raw"], tmp_path / "mine.txt", SETTINGS)
    with pytest.raises(LabkitError, match="there is no source"):
        build([tmp_path / "nowhere"], tmp_path / "new", SETTINGS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt"]


def test_parquet_holds_the_same_records(corpus: Path, records: Any, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    out = tmp_path / "out"
    build([corpus / "raw"], out, replace(SETTINGS, parquet=True), workers=1)
    rows = [row for split in ("train", "dev", "test")
            for row in pq.read_table(out / f"{split}.parquet").to_pylist()]  # fmt: skip
    expected = {record["id"]: record for found in records.values() for record in found}
    assert len(rows) == len(expected)
    for row in rows:
        assert {k: v for k, v in row.items() if v is not None} == expected[row["id"]]


def test_the_card_says_what_the_counts_do(built: Path) -> None:
    text = (built / "README.md").read_text()
    report = json.loads((built / "build.json").read_text())
    _, front, body = text.split("---\n", 2)
    head = yaml.safe_load(front)
    assert head["language"] == ["de", "en", "ru"] and head["license"] == "cc0-1.0"
    assert [each["path"] for each in head["configs"][0]["data_files"]] == [
        "train.jsonl", "dev.jsonl", "test.jsonl",
    ]  # fmt: skip
    for name, count in report["removed"].items():
        assert f"removed by {name} | {count:,} |" in body and f"Removed by `{name}`:" in body
    for digest in report["sha256"].values():
        assert digest in body
    assert "raw/LICENSE.txt" in body
    steps = [report["read"], *(-n for n in report["removed"].values())]
    assert sum(steps) > 0 and f"| read | {report['read']:,} |" in body
    made = sum(report["forms"].values())
    kept = made - report["exact_duplicates"] - report["near_duplicates"]
    assert kept == sum(report["records"].values()) and f"| kept | {kept:,} |" in body
