"""TAT-QA: questions over a table and the paragraphs around it.

A report is one table of a company's annual report with at least two paragraphs
that speak about it. Each question has one of four answer types:

    span         one piece of text, copied             "fixed-price type"
    multi-span   several pieces of text                ["2019", "2018"]
    arithmetic   a number, with its derivation         (44.1 - 56.7) / 56.7
    count        how many pieces of text there are     3

and a scale ("", thousand, million, billion, percent), which is part of the
answer: 1,496.5 without "million" is wrong. The split is by report, never by
question, so that a model cannot see a test table while it trains.

The file is a JSON list; each item holds `table` (uid, table: rows of strings),
`paragraphs` (uid, order, text) and `questions` (uid, order, question, answer,
derivation, answer_type, answer_from, scale …). labkit's own embedded set is
written in the same form, so one loader reads both.

A single file without splits (the development file alone, say) is cut by report
into 80 % train, 5 % dev and 15 % test. Reports are ranked by the sha256 of their
uid, so the cut is the same everywhere and does not depend on the file's order.

Source: Zhu et al., "TAT-QA: A Question Answering Benchmark on a Hybrid of Tabular
and Textual Content in Finance", ACL 2021; data CC BY 4.0.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.datasets import fields, splits
from labkit.datasets.splits import SPLITS
from labkit.errors import LabkitError, brief, nearest, read_json
from labkit.files import expanded

ANSWER_TYPES = ("span", "multi-span", "arithmetic", "count")
SCALES = ("", "thousand", "million", "billion", "percent")
TATQA_URL = (
    "https://raw.githubusercontent.com/NExTplusplus/TAT-QA/master/dataset_raw/tatqa_dataset_{}.json"
)
TATQA_FILES = {"train": "train", "dev": "dev", "test": "test_gold"}
TATQA_SHA256: dict[str, str | None] = {
    "train": None,
    "dev": "8da095a819af6db3c14877c6df2d4d29960e41d1a63dd1fa853507bd2a616af5",
    "test": None,
}
"""sha256 of each official file; None where it is recorded at the first download."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question of a report and its gold answer.

    `answer` holds the strings of the file: several for multi-span, one otherwise
    (for arithmetic and count the number as a string). `scale` is one of SCALES,
    `answer_from` is table, text or table-text.
    """

    uid: str
    text: str
    answer: tuple[str, ...]
    answer_type: str
    answer_from: str
    scale: str
    derivation: str
    order: int


@dataclass(frozen=True, kw_only=True)
class Report:
    """A table (rows of cells), its paragraphs in reading order, and its questions."""

    uid: str
    table: tuple[tuple[str, ...], ...]
    paragraphs: tuple[str, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One training or test item: a question with the report it is asked about."""

    report: Report
    question: Question


def samples(reports: Iterable[Report]) -> list[Sample]:
    """Every question of `reports` with its report, in file order; a sid is an index here."""
    return [Sample(report=r, question=q) for r in reports for q in r.questions]


def read_reports(path: str | Path) -> list[Report]:
    """Read a file in the official TAT-QA form.

    Raises LabkitError when the file is missing, is not JSON, has another shape
    (naming the key and the place) or holds no question.
    """
    path = Path(path)
    content = _read_json(path)
    if not isinstance(content, list):
        raise LabkitError(
            f"{path} holds a JSON {type(content).__name__} where the TAT-QA form has a list of "
            "reports, each with 'table', 'paragraphs' and 'questions'"
        )
    reports = [_report(item, f"{path}: [{i}]") for i, item in enumerate(content)]
    if not any(report.questions for report in reports):
        raise LabkitError(f"{path} holds no questions; give a TAT-QA file with at least one report")
    seen: set[str] = set()
    for sample in samples(reports):
        if sample.question.uid in seen:
            raise LabkitError(
                f"{path} has two questions with the uid {sample.question.uid!r}; each needs its own"
            )
        seen.add(sample.question.uid)
    return reports


def load(name: str | Path, split: str = "test") -> list[Report]:
    """Reports of one split of a data set.

    `name` is "tables" (the embedded set), "tatqa" (the official one, after `labkit
    fetch tatqa`), a folder with one file per split, or a single JSON file, which is
    then cut by report into train, dev and test (splits.FRACTIONS). `split` is train, dev,
    test, or "all" for the three together.

    Raises LabkitError when there is no such data or split.
    """
    if split == "all":
        files = list(dict.fromkeys(path_of(name, part) for part in SPLITS))
        return [report for path in files for report in read_reports(path)]
    path = path_of(name, split)
    reports = read_reports(path)
    if not _is_single_file(name):
        return reports
    part = split_reports(reports)[split]
    if not part:
        raise LabkitError(
            f"{path} has {len(reports)} reports, too few to cut a {split} split from it; "
            "give a folder with train.json, dev.json and test.json instead"
        )
    return part


def data_sha256(name: str | Path, split: str) -> str:
    """sha256 of the file that `load(name, split)` reads (of all of them for "all")."""
    digest = hashlib.sha256()
    parts = SPLITS if split == "all" else (split,)
    for path in dict.fromkeys(path_of(name, part) for part in parts):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def split_reports(reports: Sequence[Report], seed: int = 0) -> dict[str, list[Report]]:
    """Cut reports into train, dev and test, each in file order.

    Reports are ranked by sha256(seed, uid) and the ranking is cut at the cumulated
    `splits.FRACTIONS`, rounded, with at least one report a part when there are three or more.
    """
    return splits.cut(reports, lambda report: report.uid, seed)


def path_of(name: str | Path, split: str) -> Path:
    """The file that holds `split` of the data set `name`; LabkitError when there is none."""
    if split not in SPLITS:
        raise LabkitError(f"there is no split {split!r}; {nearest(str(split), [*SPLITS, 'all'])}")
    if name == "tables":
        return _in_folder(data_dir() / "tables", split, "set LABKIT_DATA to the checkout's data/")
    if name == "tatqa":
        return _in_folder(tatqa_dir(), split, "run `labkit fetch tatqa` first")
    path = expanded(name)
    if path.is_file():
        return path
    if path.is_dir():
        return _in_folder(path, split, "put the file there or give the path of one JSON file")
    raise LabkitError(
        f"there is no data set at {str(name)!r}; give 'tables', 'tatqa', a JSON file in TAT-QA's "
        "form, or a folder with train.json, dev.json and test.json"
    )


def data_dir() -> Path:
    """The checkout's data/ folder: $LABKIT_DATA, else beside the package."""
    given = os.environ.get("LABKIT_DATA")
    return expanded(given) if given else Path(__file__).resolve().parents[2] / "data"


def tatqa_dir() -> Path:
    """Where `labkit fetch tatqa` puts the official files."""
    from labkit.files import cache_dir

    return cache_dir() / "tatqa"


def fetch_tatqa(*, progress: bool = True) -> Path:
    """Bring the official train, dev and test-gold files into the cache; return their folder.

    A file is checked against its sha256. Where that is not known the first download is
    recorded beside the file, in NAME.sha256, and every later one has to match it. Raises
    LabkitError when a file cannot be had or is not what it should be.
    """
    from labkit.files import download

    folder = tatqa_dir()
    for split, part in TATQA_FILES.items():
        url, path = TATQA_URL.format(part), folder / f"tatqa_dataset_{part}.json"
        known = TATQA_SHA256[split] or _recorded_sha256(url, path)
        download(url, path, known, progress=progress)
    return folder


def _recorded_sha256(url: str, path: Path) -> str:
    """The sha256 recorded at the first download of `path`, which happens here if need be."""
    from labkit.console import say
    from labkit.files import locked, sha256_file, writing

    record = path.with_suffix(".sha256")
    with locked(path.with_name(f".{path.name}.first.lock"), path.name), writing(path.parent):
        if not record.is_file():
            if not path.is_file():
                part = path.with_name(f".{path.name}.first")
                part.write_bytes(_get_bytes(url, path))
                try:
                    read_reports(part)
                except LabkitError as error:
                    part.unlink()
                    raise LabkitError(f"{url} did not give a TAT-QA file: {error}") from None
                os.replace(part, path)
            digest = sha256_file(path)
            say(f"{path.name}: checksum not known, first download recorded ({digest[:12]}…)")
            record.write_text(f"{digest}\n", encoding="utf-8")
        return record.read_text(encoding="utf-8").strip()


def _get_bytes(url: str, path: Path) -> bytes:
    import http.client
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            content: bytes = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise LabkitError(
            f"cannot download {url} ({getattr(error, 'reason', error)}): check the network and "
            f"run again, or put the file at {path}"
        ) from error
    return content


def _is_single_file(name: str | Path) -> bool:
    return name not in ("tables", "tatqa") and expanded(name).is_file()


def _in_folder(folder: Path, split: str, remedy: str) -> Path:
    names = [f"{split}.json", f"tatqa_dataset_{TATQA_FILES[split]}.json"]
    names += [f"tatqa_dataset_{split}.json"] if split == "test" else []
    for file in names:
        if (folder / file).is_file():
            return folder / file
    raise LabkitError(f"{folder} has no {' or '.join(names)}; {remedy}")


def _read_json(path: Path) -> Any:
    if not path.exists():
        raise LabkitError(f"there is no file {path}; give a JSON file in TAT-QA's form")
    return read_json(path)


def _report(item: Any, where: str) -> Report:
    table = fields.get(item, "table", dict, where)
    rows = fields.get(table, "table", list, f"{where}.table")
    for i, row in enumerate(rows):
        if not isinstance(row, list):
            raise LabkitError(f"{where}.table.table[{i}] is not a list of cells")
    cells = tuple(
        tuple(fields.cell(cell, f"{where}.table.table[{i}][{j}]") for j, cell in enumerate(row))
        for i, row in enumerate(rows)
    )
    paragraphs = []
    for i, paragraph in enumerate(fields.get(item, "paragraphs", list, where)):
        place = f"{where}.paragraphs[{i}]"
        text = fields.get(paragraph, "text", str, place)
        paragraphs.append((fields.get(paragraph, "order", int, place), text))
    paragraphs.sort(key=lambda pair: pair[0])
    questions = fields.get(item, "questions", list, where)
    return Report(
        uid=fields.get(table, "uid", str, f"{where}.table"),
        table=cells,
        paragraphs=tuple(text for _, text in paragraphs),
        questions=tuple(_question(q, f"{where}.questions[{i}]") for i, q in enumerate(questions)),
    )


def _question(item: Any, where: str) -> Question:
    text = fields.get(item, "question", str, where)
    uid = fields.get(item, "uid", str, where)
    if "answer" not in item:
        raise LabkitError(
            f"{where} (uid {uid}) has no 'answer': this looks like TAT-QA's blind test file, "
            "which cannot be trained on or scored; use tatqa_dataset_test_gold.json"
        )
    answer_type = fields.one_of(item, "answer_type", ANSWER_TYPES, where)
    scale = fields.one_of(item, "scale", SCALES, where)
    return Question(
        uid=uid,
        text=text,
        answer=_answer(item, answer_type, where),
        answer_type=answer_type,
        answer_from=fields.cell(item.get("answer_from"), f"{where}.answer_from"),
        scale=scale,
        derivation=fields.cell(item.get("derivation"), f"{where}.derivation"),
        order=fields.get(item, "order", int, where),
    )


def _answer(item: dict[str, Any], answer_type: str, where: str) -> tuple[str, ...]:
    answer = item["answer"]
    if answer_type in ("span", "multi-span"):
        parts = fields.get(item, "answer", list, where)
        for i, part in enumerate(parts):
            if part is None:
                raise LabkitError(f"{where}.answer[{i}] is null, but an answer is text or a number")
        return tuple(fields.cell(part, f"{where}.answer[{i}]") for i, part in enumerate(parts))
    if isinstance(answer, bool) or not isinstance(answer, int | float | str):
        raise LabkitError(f"{where}.answer is not a number, as {answer_type} questions have it")
    if answer_type == "arithmetic":
        return (fields.cell(answer, f"{where}.answer"),)
    try:
        count = int(answer)
        whole = count >= 0 and (isinstance(answer, str) or count == answer)
    except (ValueError, OverflowError):
        whole = False
    if not whole:
        raise LabkitError(f"{where}.answer is {brief(answer)}, not a whole number") from None
    return (str(count),)
