"""Rows of published data files: JSON, JSON lines, both also as gz, and Parquet.

What a file is is told by what it holds, not by its name: many a `.json` is lines. A row that cannot
be read is a row with a problem, named as a reader of the file counts, and reading goes on after it.

    train.jsonl line 3      JSON lines, counted from 1
    alpaca.json [2]         a JSON list, counted from 0, as in the rest of labkit
    a.parquet row 2         Parquet, counted from 0
"""

import contextlib
import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any

from labkit.datasets.splits import SPLITS
from labkit.errors import MOST_JSON_BYTES, LabkitError, parse_json
from labkit.files import hub_errors, sha256_file

ENDINGS = (".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz", ".parquet")
NO_ROWS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""What the `datasets` library writes beside its files."""
WORDS = {"train": "train", "dev": "dev", "validation": "dev", "valid": "dev", "val": "dev",
         "eval": "dev", "test": "test"}  # fmt: skip
"""Words in a file's path that say which split it is."""
MOST_LINE_BYTES = 2**24
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BATCH = 1024


@dataclass(frozen=True)
class Row:
    """One row of a file: where it stands, and its value, or a sentence on what is wrong with it."""

    where: str
    value: Any = None
    problem: str = ""


def read(file: Path) -> Iterator[Row]:
    """Yield the rows of a file.

    Raises:
        LabkitError: the file as a whole cannot be read.
    """
    try:
        if file.name.lower().endswith(".parquet"):
            yield from _parquet(file)
        else:
            yield from _json(file)
    except (EOFError, zlib.error, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LabkitError(f"{file} cannot be read to its end ({reason}): fetch it anew") from None


def of_split(path: Path, split: str, patterns: tuple[str, ...]) -> tuple[list[Path], bool]:
    """Return the files that hold a split, and whether it still has to be cut from them.

    In a folder the first pattern that any file fits chooses the files. Their paths may say which
    split they are (`train-00000.parquet`, `validation.json`); where nothing but train is named, the
    other splits are cut from all of it.

    Raises:
        LabkitError: no such split, or no file with rows.
    """
    if split not in (*SPLITS, "all"):
        raise LabkitError(f"there is no split {split!r}: choose from {', '.join(SPLITS)}, all")
    if path.is_file():
        return [path], True
    there = [
        file for file in sorted(path.rglob("*"))
        if file.name.lower().endswith(ENDINGS) and file.is_file() and file.name not in NO_ROWS
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]  # fmt: skip
    files: list[Path] = []
    for pattern in patterns:
        if files := [file for file in there if fnmatch(file.name.lower(), pattern)]:
            break
    if not files:
        raise LabkitError(f"{path} holds no file with rows: put {' or '.join(ENDINGS)} there")
    named = {file: _split_of(file.relative_to(path)) for file in files}
    if not {"dev", "test"} & set(named.values()):
        return files, True
    if split == "all":
        return files, False
    if found := [file for file in files if named[file] == split]:
        return found, False
    raise LabkitError(
        f"{path} has no {split} split, its files are "
        f"{', '.join(sorted({name for name in named.values() if name}))}: "
        f"put a file {split}.jsonl there, or name one file, which is then cut in three"
    )


def _split_of(file: Path) -> str:
    words = re.split(r"[^a-z]+", str(file).lower())
    return next((WORDS[word] for word in words if word in WORDS), "")


def sha256(files: list[Path]) -> str:
    """Return the checksum of what files hold, one after the other."""
    return hashlib.sha256("".join(map(sha256_file, files)).encode()).hexdigest()


def snapshot(hub_id: str, patterns: tuple[str, ...]) -> Path:
    """Return the folder of a data set of the Hugging Face Hub, downloaded if it is not here yet.

    Raises:
        LabkitError: it cannot be had.
    """
    from huggingface_hub import errors, snapshot_download

    wanted: dict[str, Any] = {
        "repo_type": "dataset",
        "allow_patterns": [f"*{ending}" for ending in ENDINGS],
    }
    with contextlib.suppress(errors.LocalEntryNotFoundError, OSError, LabkitError):
        here = Path(snapshot_download(hub_id, local_files_only=True, **wanted))
        of_split(here, "train", patterns)
        return here
    elsewhere = f"name a local file or folder, as in NAME:PATH, with the files of {hub_id}"
    with hub_errors(hub_id, "data set", elsewhere):
        return Path(snapshot_download(hub_id, **wanted))


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    """Open a file, unpacked where it is gz, as UTF-8 where it is UTF-16 or 32."""
    with open(file, "rb") as plain:
        handle: Any = plain
        if plain.peek(2)[:2] == b"\x1f\x8b":
            handle = gzip.GzipFile(fileobj=plain)
        encoding = json.detect_encoding(handle.peek(4)[:4])
        if encoding.startswith("utf-8"):
            yield handle
            return
        content = _whole(handle, file)
        try:
            yield io.BytesIO(content.decode(encoding).lstrip("\ufeff").encode())
        except UnicodeError as error:
            raise LabkitError(
                f"{file} cannot be read as text ({error}): save it in UTF-8"
            ) from None


def _whole(handle: IO[bytes], file: Path) -> bytes:
    content = handle.read(MOST_JSON_BYTES + 1)
    if len(content) > MOST_JSON_BYTES:
        raise LabkitError(f"{file} is larger than {MOST_JSON_BYTES / 2**20:g} MiB, and no JSON "
                          "lines, which can be of any size")  # fmt: skip
    return content


def _json(file: Path) -> Iterator[Row]:
    with _opened(file) as handle:
        lines = _lines(handle, file.name)
        first = next(lines, None)
        if first is None:
            return
        # A list on one line is a whole file, or the first line of a file of lists.
        if first.problem or isinstance(first.value, list):
            rows = _of_a_whole_file(file)
            if rows is not None:
                yield from rows
                return
        yield first
        yield from lines


def _of_a_whole_file(file: Path) -> list[Row] | None:
    """Return the rows of a file that is one JSON value, or None where it is not.

    Raises LabkitError, with the place, for a list that is broken: none of its lines is a row.
    """
    with _opened(file) as handle:
        begins = handle.read(64).removeprefix(BYTE_ORDER_MARK).lstrip()
    with _opened(file) as handle:
        try:
            content = _whole(handle, file).removeprefix(BYTE_ORDER_MARK)
            value = parse_json(content, str(file))
        except LabkitError:
            if begins.startswith(b"[") and not _begins_a_file_of_lists(file):
                raise
            return None
    values = value if isinstance(value, list) else [value]
    return [Row(f"{file.name} [{i}]", row) for i, row in enumerate(values)]


def _begins_a_file_of_lists(file: Path) -> bool:
    with _opened(file) as handle:
        first = next(_lines(handle, file.name), Row(""))
    return isinstance(first.value, list)


def _lines(handle: IO[bytes], name: str) -> Iterator[Row]:
    """Yield the rows of JSON lines; empty lines are none."""
    number = 0
    while line := handle.readline(MOST_LINE_BYTES + 1):
        number += 1
        where = f"{name} line {number}"
        if len(line) <= MOST_LINE_BYTES:
            if line := line.removeprefix(BYTE_ORDER_MARK).strip():
                yield _parsed(line, where)
            continue
        while line and not line.endswith(b"\n"):
            line = handle.readline(MOST_LINE_BYTES)
        yield Row(where, problem=f"{where} is longer than {MOST_LINE_BYTES / 2**20:g} MiB")


def _parsed(line: bytes, where: str) -> Row:
    try:
        return Row(where, parse_json(line, where))
    except LabkitError as error:
        return Row(where, problem=str(error))


def _parquet(file: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        batches = parquet.ParquetFile(file).iter_batches(batch_size=BATCH)
        number = 0
        for batch in batches:
            for i in range(batch.num_rows):
                where = f"{file.name} row {number}"
                try:
                    yield Row(where, batch.slice(i, 1).to_pylist()[0])
                except UnicodeDecodeError as error:
                    yield Row(where, problem=f"{where} is not UTF-8 ({error.reason})")
                number += 1
    except (pyarrow.ArrowException, ValueError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0][:160]
        raise LabkitError(f"{file} is not a Parquet file that can be read: {reason}") from None
