"""Unpack what a learning platform hands out: one zip that holds the submissions of a whole class.

Whose a file is stands in its name, which the platform makes:

    Canvas   doejane_12345_67890_me.zip        name, user, attachment, the student's own name of it
             doejane_LATE_12345_67890_me.zip   handed in after the due date
    Moodle   Jane Doe_12345_assignsubmission_file_/me.zip      (or _me.zip, without folders)

Each becomes a folder, named so that marks find their way back:

    FOLDER/doejane-canvas-12345/me/…        FOLDER/Jane-Doe-moodle-12345/me/…

Notebooks and JSON files are taken out of it, and out of the zips that students upload, and nothing
else. A student decides what lies in a submission, so every zip is read as `submissions` reads one:
sizes have limits before the first byte, a name never leads out of the folder, links are not
followed. What is left out is a remark on that student, or a name in `skipped`; the others go on.

Sources: Canvas, `lib/content_zipper.rb`; Moodle, `mod/assign/locallib.php` and the files that its
"Download all submissions" makes.
"""

import errno
import re
import tempfile
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from labkit.checkpoints.submissions import (
    MIB,
    MOST_BYTES,
    MOST_FILES,
    Member,
    Refused,
    Submission,
    printable,
    zip_members,
)
from labkit.errors import LabkitError

CANVAS = re.compile(
    r"(?:(?P<name>[\w\x80-\U0010ffff]+?)(?P<late>_LATE)?_(?P<id>\d+)|(?P<anon_late>LATE_)?anon_(?P<anon>[A-Za-z0-9]+))"
    r"_(?:(?P<attachment>\d+)_(?P<file>[^/]+)|(?P<typed>text|link)\.html)"
)
MOODLE = re.compile(
    r"(?P<name>[^/]+?)_(?P<id>\d+)_assignsubmission_"
    r"(?:file(?:_/|/|_)(?P<file>.+)|(?P<typed>onlinetext)(?:_|/|\.).*)"
)
BACK = re.compile(r"(?P<name>.+)-(?P<platform>canvas|moodle)-(?P<id>\d+)")
TAKEN = (".json", ".ipynb")
UNPACKED = "unpacked.txt"
"""what was said when a zip was unpacked, a remark a line, beside the student's files"""
LARGEST_FILE = 16 * MIB
LARGEST_ZIP = 1024 * MIB
"""of one that a student uploaded, weights and all; little of it is unpacked"""
MOST_STUDENTS = 5_000
LONGEST_PART, MOST_PARTS = 80, 8
LONGEST_BYTES = 200
"""of a name; file systems take 255, and more comes after it"""
ODD_NAMES = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL,
             errno.EILSEQ)  # fmt: skip
"""what is wrong with the names of one upload, and not with the disk"""


@dataclass(frozen=True, kw_only=True)
class Whose:
    """Whose file a member of a platform's zip is, by its name."""

    student: str
    """the folder's name, such as doejane-canvas-12345"""
    file: str
    """what the student called it; empty for text typed into the platform"""
    late: bool = False


@dataclass(kw_only=True)
class Unpacked:
    """What came out of a class's zip."""

    remarks: dict[str, list[str]] = field(default_factory=dict)
    """by the folder of each student, in the order of the zip"""
    skipped: list[str] = field(default_factory=list)
    """names that no platform gives a submission"""


def whose(name: str) -> Whose | None:
    """Return whose a member is, or None for a name that neither Canvas nor Moodle makes.

    >>> whose("doejane_LATE_12345_67890_me.zip").student
    'doejane-canvas-12345'
    >>> whose("Jane Doe_77_assignsubmission_file_/me.zip").student
    'Jane-Doe-moodle-77'
    """
    if match := MOODLE.fullmatch(name):
        return Whose(student=f"{_plain(match['name'])}-moodle-{match['id']}",
                     file=match["file"] or "")  # fmt: skip
    if match := CANVAS.fullmatch(name):
        known = f"{_plain(match['name'])}-canvas-{match['id']}" if match["name"] else ""
        late = bool(match["late"] or match["anon_late"])
        return Whose(student=known or f"anonymous-canvas-{match['anon']}", late=late,
                     file=match["file"] or "")  # fmt: skip
    return None


def identity(student: str) -> tuple[str, str, str] | None:
    """Return (platform, the id there, name) of a folder that `unpack` named; else None.

    >>> identity("doejane-canvas-12345")
    ('canvas', '12345', 'doejane')
    """
    match = BACK.fullmatch(student)
    return (match["platform"], match["id"], match["name"]) if match else None


def is_class(place: Path) -> bool:
    """Return whether a file is a zip in which a name is one of Canvas's or Moodle's."""
    if not place.is_file() or place.suffix.lower() != ".zip":
        return False
    try:
        return any(whose(member.name) for member in _members(place, _nobody(place)))
    except Refused:
        return False  # read as a single submission, which says what is wrong with it


def unpack(place: Path, folder: Path) -> Unpacked:
    """Write the notebooks and JSON files of each student into a folder of its own.

    Raises LabkitError for a zip that cannot be read or has no name of a platform in it.
    """
    found, above = Unpacked(), _nobody(place)
    read: dict[str, int] = {}
    try:
        for member in _members(place, above):
            owner = whose(member.name)
            if owner is None:
                found.skipped.append(printable(member.name, 100))
                continue
            if owner.student not in found.remarks:
                if len(found.remarks) >= MOST_STUDENTS:
                    raise Refused(f"more than {MOST_STUDENTS:,} students")
                found.remarks[owner.student] = []
                (folder / owner.student).mkdir(parents=True, exist_ok=True)
            remarks = found.remarks[owner.student]
            if owner.late and LATE not in remarks:
                remarks.append(LATE)
            try:
                _take_out(member, owner, folder / owner.student, remarks, read)
            except Refused as reason:
                remarks.append(printable(f"{owner.file or member.name}: {reason}", 300))
    except Refused as reason:
        raise LabkitError(f"{place}: {reason}") from None
    except OSError as error:
        raise LabkitError(f"{place} cannot be unpacked: {error.strerror or error}") from None
    if not found.remarks:
        raise LabkitError(
            f"{place} has no name that Canvas or Moodle gives a submission "
            "(doejane_12345_67890_me.zip, Jane Doe_12345_assignsubmission_file_/me.zip): "
            "unpack it and give the folder"
        )
    found.skipped += above.remarks
    return found


LATE = "handed in late, as Canvas says"


def _nobody(place: Path) -> Submission:
    return Submission(student="", source=place.name)


def _members(place: Path, found: Submission) -> Iterator[Member]:
    """Yield the members of a platform's zip. Raises Refused when it has far too many."""
    for number, member in enumerate(zip_members(place, "", found)):
        if number >= 4 * MOST_STUDENTS:
            raise Refused(f"more than {4 * MOST_STUDENTS:,} files")
        yield member


def _take_out(
    member: Member, owner: Whose, folder: Path, remarks: list[str], read: dict[str, int]
) -> None:
    """Write what is taken of one upload. Raises Refused with what is wrong with it."""
    upload = PurePosixPath(owner.file.replace("\\", "/"))
    suffix = upload.suffix.lower()
    if suffix in TAKEN:
        _write(member, upload.parts, folder, owner.student, read)
    elif suffix != ".zip":
        raise Refused("neither notebook, JSON nor zip, not read" if owner.file
                      else "text typed into the platform, not read")  # fmt: skip
    else:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".upload-", suffix=".zip") as copy:
            copy.write(member.read(LARGEST_ZIP))
            copy.flush()
            inside = Submission(student=owner.student, source=upload.name)
            for number, each in enumerate(zip_members(Path(copy.name), "", inside)):
                if number >= MOST_FILES:
                    raise Refused(f"more than {MOST_FILES:,} files: the rest is not looked at")
                path = PurePosixPath(each.name.replace("\\", "/"))
                if path.suffix.lower() in TAKEN:
                    try:
                        _write(each, (upload.stem, *path.parts), folder, owner.student, read)
                    except Refused as reason:
                        inside.remark(f"{each.name}: {reason}")
            remarks += inside.remarks


def _write(
    member: Member, parts: tuple[str, ...], folder: Path, student: str, read: dict[str, int]
) -> None:
    left = MOST_BYTES - read.get(student, 0)
    if left <= 0:
        raise Refused(f"beyond the {MOST_BYTES / MIB:.0f} MiB that are read of a submission")
    content = member.read(min(LARGEST_FILE, left))
    read[student] = read.get(student, 0) + len(content)
    *above, name = [_plain(part) for part in parts][-MOST_PARTS:]
    target = folder.joinpath(*above, name)
    number = 1
    while target.exists():
        number += 1
        target = folder.joinpath(*above, str(number), name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    except OSError as error:
        if error.errno not in ODD_NAMES:
            raise
        raise Refused(f"no file can have this name beside the others: {error.strerror}") from None


def _plain(text: str) -> str:
    """Return a part of a path that means nothing to any file system: word characters, - and dot."""
    text = unicodedata.normalize("NFC", text)
    suffix = text.rpartition(".")[2]
    text = re.sub(r"[^\w.]+", "-", text).strip("-.")
    if len(text) > LONGEST_PART or len(text.encode()) > LONGEST_BYTES:
        end = f".{suffix}" if len(suffix) < 8 else ""
        start = text[: LONGEST_PART - 8].encode()[: LONGEST_BYTES - 32].decode(errors="ignore")
        text = start + end
    return text[:LONGEST_PART] or "unnamed"
