"""Read submissions without trusting any of their content.

A submission is a folder, a zip (`labkit check --hand-in me.zip` writes one) or a notebook. Read
are answers.json, record.json, points of sweeps, measurements, and from notebooks the answers that
cards carry in outputs. Nothing is executed, unpacked or followed: a zip is read member by member
in memory, a symbolic link is reported, and every size has a limit before the first byte is read.
What cannot be read is a remark on that submission, and the others go on.

What makes a small file dangerous, and what is done about it:

    a zip bomb          only stored and deflated members, each read up to its limit
    a huge directory    a zip's list of names is measured before zipfile reads it
    ../ in a name       names only say what a member is, nothing is written
    deep JSON           Python's parser refuses it (RecursionError)
    NaN, 1e999          refused while parsing: JSON has neither
    a pipe, a device    opened without waiting, and read only when it is a regular file

Sources: PKWARE's APPNOTE 4.3.16 (end of central directory); RFC 8259 (JSON).
"""

import json
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from labkit.checkpoints.card import MIME
from labkit.checkpoints.cells import found_in
from labkit.checkpoints.records import as_measurement, as_point, as_record
from labkit.errors import LabkitError
from labkit.runs.records import RunRecord

MIB = 2**20
SMALL = {"point": MIB, "measurement": MIB}
LIMITS = {"answers.json": 2 * MIB, "record.json": 4 * MIB, ".ipynb": 16 * MIB} | SMALL
MOST_BYTES = 64 * MIB
MOST_FILES = 5_000
MOST_RECORDS = 200
MOST_REMARKS = 30
DEEPEST = 8
DIRECTORY_BYTES = 2 * MIB
ZIP_END, ZIP64_LOCATOR = b"PK\x05\x06", b"PK\x06\x07"
READABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Refused(Exception):
    """Something handed in that is not read, with the reason in words."""


@dataclass(kw_only=True)
class Submission:
    """What one student handed in, as far as it could be read."""

    student: str
    source: str
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    records: dict[str, RunRecord] = field(default_factory=dict)
    points: list[dict[str, Any]] = field(default_factory=list)
    measurements: list[dict[str, Any]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    bytes_read: int = 0

    def remark(self, text: str) -> None:
        """Add a line to the report."""
        if len(self.remarks) < MOST_REMARKS:
            self.remarks.append(printable(text, 300))
        elif len(self.remarks) == MOST_REMARKS:
            self.remarks.append("more remarks are left out")


@dataclass(frozen=True)
class Member:
    """A file of a submission: what it is called in it, and how to read at most so many bytes."""

    name: str
    read: Callable[[int], bytes]


def printable(text: str, longest: int) -> str:
    """Return text on one line that any file and page can hold, cut to a length."""
    text = text[: 4 * longest].encode("utf-8", "backslashreplace").decode()
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def find(place: Path) -> tuple[list[Path], list[str]]:
    """Return the submissions in a folder (or the one that `place` is), and what was left aside.

    Raises LabkitError when there is no such place, or nothing in it that could be graded.
    """
    place = place.absolute()
    if not place.exists():
        raise LabkitError(f"there is no folder of submissions {place}")
    if place.is_file():
        if not _is_submission(place):
            raise LabkitError(f"{place} is not a submission: give a folder, a zip or a notebook")
        return [place], []
    try:
        entries = sorted(path for path in place.iterdir() if not path.name.startswith((".", "__")))
    except OSError as error:
        raise LabkitError(f"{place} cannot be read: {error.strerror}") from None
    if (place / "answers.json").is_file():
        return [place], []
    chosen = [path for path in entries if _is_submission(path)]
    if not chosen:
        raise LabkitError(f"{place} holds no submission: neither a folder, a zip nor a notebook")
    return chosen, [printable(path.name, 100) for path in entries if path not in chosen]


def _is_submission(path: Path) -> bool:
    return path.is_symlink() or path.is_dir() or path.suffix.lower() in (".zip", ".ipynb")


def read(place: Path) -> Submission:
    """Return what one submission holds; what cannot be read is a remark in it."""
    plain = printable(place.name, 100)
    student = printable(place.name if place.is_dir() else place.stem, 100)
    found = Submission(student=student or plain, source=plain)
    try:
        for number, member in enumerate(_members(place, found)):
            if number >= MOST_FILES:
                raise Refused(f"more than {MOST_FILES:,} files: the rest is not looked at")
            try:
                _take(member, found)
            except Refused as reason:
                found.remark(f"{member.name}: {reason}")
    except Refused as reason:
        found.remark(str(reason))
    except OSError as error:
        found.remark(f"cannot be read: {error.strerror or error}")
    if not found.answers and not found.remarks:
        found.remark("no answers in it")
    return found


def _members(place: Path, found: Submission) -> Iterator[Member]:
    if place.is_symlink():
        raise Refused("a symbolic link, which is not followed")
    if place.is_dir():
        yield from _folder(place, place, found)
    elif place.suffix.lower() == ".zip":
        yield from zip_members(place, "", found)
    else:
        yield Member(place.name, _reader(place))


def _folder(folder: Path, top: Path, found: Submission, depth: int = 0) -> Iterator[Member]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = Path(entry.path)
            name = str(path.relative_to(top))
            if entry.is_symlink():
                found.remark(f"{name}: a symbolic link, which is not followed")
            elif entry.is_dir(follow_symlinks=False):
                if depth >= DEEPEST:
                    found.remark(f"{name}: too deep in folders, not looked at")
                elif entry.name not in (".ipynb_checkpoints", "__MACOSX", "checkpoints", "model"):
                    yield from _folder(path, top, found, depth + 1)
            elif entry.name.lower().endswith(".zip"):
                try:
                    yield from zip_members(path, f"{name}/", found)
                except Refused as reason:
                    found.remark(f"{name}: {reason}")
            else:
                yield Member(name, _reader(path))


def _reader(path: Path) -> Callable[[int], bytes]:
    def read_bytes(limit: int) -> bytes:
        with _open(path) as file:
            if os.fstat(file.fileno()).st_size > limit:
                raise Refused(f"larger than {limit / MIB:.0f} MiB, not read")
            return file.read(limit)

    return read_bytes


def _open(path: Path) -> Any:
    """Open a regular file: no link is followed and no pipe waited for."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Refused(f"cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise Refused("not a regular file")
    return os.fdopen(handle, "rb")


def zip_members(path: Path, inside: str, found: Submission) -> Iterator[Member]:
    """Yield a zip's members, their names after `inside`. Raises Refused for what is no zip."""
    with _open(path) as file:
        _check_directory(file)
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
            raise Refused(f"not a readable zip ({error})") from None
        for info in archive.infolist():
            name = inside + info.filename
            parts = PurePosixPath(info.filename.replace("\\", "/")).parts
            if ".." in parts or parts[:1] == ("/",) or ":" in "".join(parts[:1]):
                found.remark(f"{name}: a name that leads out of the zip, ignored")
            elif stat.S_ISLNK(info.external_attr >> 16):
                found.remark(f"{name}: a symbolic link, which is not followed")
            elif not info.is_dir() and "__MACOSX" not in parts:
                yield Member(name, _zip_reader(archive, info))


def _check_directory(file: Any) -> None:
    """Refuse a list of names that is too long, before anything reads it."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 2**16 - 22))
    tail = file.read()
    at = tail.rfind(ZIP_END)
    if at < 0 or len(tail) < at + 22:
        raise Refused("not a readable zip (it has no end)")
    (directory,) = struct.unpack_from("<L", tail, at + 12)
    if directory > DIRECTORY_BYTES or tail[max(0, at - 20) : at].startswith(ZIP64_LOCATOR):
        raise Refused("a zip with far too many files, not read")
    file.seek(0)


def _zip_reader(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[int], bytes]:
    def read_bytes(limit: int) -> bytes:
        if info.compress_type not in READABLE or info.flag_bits & 1:
            raise Refused("encrypted, or compressed in a way that is not read")
        if info.file_size > limit:
            raise Refused(f"larger than {limit / MIB:.0f} MiB unpacked, not read")
        try:
            with archive.open(info) as file:
                content = file.read(limit + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError) as error:
            raise Refused(f"damaged ({error})") from None
        if len(content) > limit:
            raise Refused(f"larger than {limit / MIB:.0f} MiB unpacked, not read")
        return content

    return read_bytes


def _take(member: Member, found: Submission) -> None:
    """Add what a file says to the submission. Raises Refused with what is wrong."""
    name = PurePosixPath(member.name.replace("\\", "/")).name
    kind = ".ipynb" if name.endswith(".ipynb") else name
    if name.endswith(".json") and name.startswith(("point-", "measurement-")):
        kind = name.partition("-")[0]
    if kind not in LIMITS:
        return
    left = MOST_BYTES - found.bytes_read
    if left <= 0:
        raise Refused(f"beyond the {MOST_BYTES / MIB:.0f} MiB that are read of a submission")
    content = member.read(min(LIMITS[kind], left))
    found.bytes_read += len(content)
    value = parse_json(content)
    if kind == "answers.json":
        _take_answers(value, found)
    elif kind == "record.json":
        _take_record(value, found)
    elif kind == "point":
        _take_point(value, found)
    elif kind == "measurement":
        _take_measurement(value, found)
    else:
        _take_notebook(value, name, found)


def parse_json(content: bytes) -> Any:
    """Return the value of a JSON text. Raises Refused for anything else."""
    try:
        return json.loads(content.decode("utf-8-sig"), parse_constant=_constant, parse_float=_float)
    except RecursionError:
        raise Refused("nested too deeply, not read") from None
    except UnicodeDecodeError:
        raise Refused("not text in UTF-8") from None
    except ValueError as error:
        raise Refused(f"not readable as JSON ({error})") from None


def _constant(word: str) -> float:
    raise ValueError(f"{word} is not a number")


def _float(word: str) -> float:
    value = float(word)
    if value - value != 0:
        raise ValueError(f"{word} is not a finite number")
    return value


def _take_answers(value: Any, found: Submission) -> None:
    given = value.get("answers") if isinstance(value, dict) else None
    if not isinstance(given, dict):
        raise Refused('not in the form of answers.json, {"answers": {question: …}}')
    for question, entry in given.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("fields"), dict):
            found.remark(f"answer {printable(question, 40)}: not in the form of answers.json")
            continue
        known = found.answers.get(question)
        if known is None or _time(entry) > _time(known):
            found.answers[question] = entry


def _time(entry: dict[str, Any]) -> str:
    """Return when an answer was given; ISO 8601 sorts as text, and no time is the earliest."""
    return str(entry.get("recorded_at") or "")


def _take_record(value: Any, found: Submission) -> None:
    try:
        record = as_record(value)
    except ValueError as error:
        raise Refused(f"not a usable record: {error}") from None
    known = found.records.setdefault(record.id, record)
    if known != record:
        found.remark(f"two records that differ have the id {record.id}")
    if len(found.records) > MOST_RECORDS:
        del found.records[record.id]
        raise Refused(f"more than {MOST_RECORDS} records, not read")


def _take_point(value: Any, found: Submission) -> None:
    _take_plain(value, as_point, found.points, "points of sweeps")


def _take_measurement(value: Any, found: Submission) -> None:
    _take_plain(value, as_measurement, found.measurements, "measurements")
    found.measurements.sort(key=lambda each: each["made_at"])


def _take_plain(
    value: Any, valid: Callable[[Any], dict[str, Any]], kept: list[dict[str, Any]], what: str
) -> None:
    """Add a file of plain values to those of its kind. Raises Refused with what is wrong."""
    try:
        entry = valid(value)
    except ValueError as error:
        raise Refused(f"not usable among the {what}: {error}") from None
    if entry not in kept:
        if len(kept) >= MOST_RECORDS:
            raise Refused(f"more than {MOST_RECORDS} {what}, not read")
        kept.append(entry)


CARRIED = {"records": _take_record, "points": _take_point, "measurements": _take_measurement}
"""What a card carries beside its answer, and what reads an entry of it."""


def _take_notebook(value: Any, name: str, found: Submission) -> None:
    """Read the answers that cards carry, and name the cells that nbgrader would stumble over."""
    cells = value.get("cells") if isinstance(value, dict) else None
    if not isinstance(cells, list):
        raise Refused("not a notebook")
    cells = [cell for cell in cells if isinstance(cell, dict)]
    for sentence in found_in({"cells": cells}):
        if (line := printable(f"{name}: {sentence}", 300)) not in found.remarks:
            found.remark(line)
    for cell in cells:
        outputs = cell.get("outputs")
        for output in outputs if isinstance(outputs, list) else ():
            data = output.get("data") if isinstance(output, dict) else None
            carried = data.get(MIME) if isinstance(data, dict) else None
            if not isinstance(carried, dict):
                continue
            todo: list[tuple[Callable[[Any, Submission], None], Any]] = [(_take_answers, carried)]
            for kind, take in CARRIED.items():
                entries = carried.get(kind)
                todo += [(take, entry) for entry in (entries if isinstance(entries, list) else ())]
            for reader, entry in todo:
                try:
                    reader(entry, found)
                except Refused as reason:
                    found.remark(f"in the notebook: {reason}")
