"""Sort the folders that students hand in into a gradebook: an assignment for each lesson.

A student works on all lessons in one folder, beside `runs/` and `answers.json`, and hands in that
folder. nbgrader grades an assignment whole or not at all: were all lessons one, a notebook that
cannot be read would cost every lesson. So each notebook goes into an assignment of its own:

    HANDED_IN/STUDENT/…/02_lora_vs_full.ipynb
        -> GRADEBOOK/submitted/STUDENT/02_lora_vs_full/02_lora_vs_full.ipynb

A notebook under another name (`02_lora_vs_full-Copy1.ipynb`, `02_lora_vs_full (1).ipynb`) is none
of a lesson: it is named where the lesson is missing, for only its student knows which one counts.

A notebook that is no JSON stays where it is and is named: that student has no points in that
lesson until it is handed in again. One in another encoding than UTF-8 is written in that. Records
and answers are not copied: `labkit grade HANDED_IN` reads them where they are.

A class's zip from Canvas or Moodle is unpacked first (`checkpoints/class_zip.py`), each student's
files into GRADEBOOK/submitted/STUDENT/lessons/; what the student handed in before is replaced. What
was left out, or late, is said in unpacked.txt beside it, for `labkit grade` to repeat.

    python -m labkit.course.hand_ins gradebook/submitted gradebook
    python -m labkit.course.hand_ins class.zip gradebook
"""

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labkit.checkpoints import class_zip
from labkit.checkpoints.cells import found_in
from labkit.console import run_tool
from labkit.errors import LabkitError, parse_json
from labkit.files import appearing

MOST_BYTES = 16 * 2**20
"""what is read of one notebook, as `labkit grade` does"""
LATE = "timestamp.txt"
"""nbgrader's own file of when a folder was handed in"""
TOGETHER = "lessons"
"""the folder that holds all that a student handed in"""
_COPY = re.compile(r"[ _-]{0,3}(copy ?\d{0,2}|final\d{0,2}|\(\d{1,2}\))$", re.IGNORECASE)
"""what programs and people put behind the name of a copy"""


def notebooks(folder: Path) -> Iterator[Path]:
    """Yield the notebooks below a folder in the order of their names; no link is followed."""
    for place, inside, files in os.walk(folder):
        inside[:] = sorted(name for name in inside if name != ".ipynb_checkpoints")
        for name in sorted(files):
            path = Path(place, name)
            if name.lower().endswith(".ipynb") and path.is_file() and not path.is_symlink():
                yield path


def read_notebook(file: Path) -> tuple[bytes, Any]:
    """Return a notebook's bytes and its JSON.

    Raises LabkitError for what is too large, is no JSON in any encoding, or has no cells.
    """
    try:
        with file.open("rb") as handle:
            content = handle.read(MOST_BYTES + 1)
    except OSError as error:
        raise LabkitError(f"{file} cannot be read: {error.strerror}") from None
    if len(content) > MOST_BYTES:
        raise LabkitError(f"{file} is larger than {MOST_BYTES / 2**20:g} MiB, more than is read of "
                          "a notebook")  # fmt: skip
    value = parse_json(content, str(file))
    cells = value.get("cells") if isinstance(value, dict) else None
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise LabkitError(f"{file} has no list of cells: ask for it again")
    return content, value


def name_cells(folders: list[Path]) -> list[str]:
    """Return a sentence for each odd cell in the notebooks below folders, and changes nothing.

    Raises LabkitError for a folder that is not there.
    """
    said = []
    for folder in folders:
        if not folder.is_dir():
            raise LabkitError(f"there is no folder {folder}: give one with submitted notebooks")
        for file in notebooks(folder):
            try:
                said += [f"{file}: {sentence}" for sentence in found_in(read_notebook(file)[1])]
            except LabkitError as error:
                said.append(str(error))
    return said


def sort(handed_in: Path, gradebook: Path) -> list[str]:
    """Copy each student's notebooks into the gradebook; return a line for what needs a look.

    `handed_in` is a folder with a folder each student, or a class's zip. Those that were sorted
    before are replaced. Raises LabkitError without students or a gradebook.
    """
    lessons = {path.name for path in gradebook.glob("source/*") if path.is_dir()}
    if not lessons:
        raise LabkitError(f"{gradebook} is no gradebook: make release writes one")
    if handed_in.is_file():
        return _sort_zip(handed_in, gradebook, lessons)
    if not handed_in.is_dir():
        raise LabkitError(f"there is no folder {handed_in}: give one with a folder each student")
    students = sorted(path for path in handed_in.iterdir()
                      if path.is_dir() and not path.name.startswith("."))  # fmt: skip
    if not students:
        raise LabkitError(f"{handed_in} has no folder of a student in it")
    said = [f"{path} is no folder of a student: unpack it into one" for path in handed_in.iterdir()
            if path.is_file() and path.suffix.lower() in (".zip", ".gz", ".ipynb")]  # fmt: skip
    for student in students:
        said += _sort_one(student, gradebook / "submitted" / student.name, lessons)
    return said


def _sort_zip(zipped: Path, gradebook: Path, lessons: set[str]) -> list[str]:
    """Unpack a class's zip into `submitted/`, a student whole or not at all, and sort it."""
    submitted = gradebook / "submitted"
    submitted.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=gradebook, prefix=".class-") as folder:
        unpacked = class_zip.unpack(zipped, Path(folder))
        for student, remarks in unpacked.remarks.items():
            # A notebook sorted from an earlier hand-in is not this one's.
            shutil.rmtree(submitted / student, ignore_errors=True)
            (submitted / student).mkdir()
            (Path(folder) / student).replace(submitted / student / TOGETHER)
            if remarks:
                text = "\n".join(remarks) + "\n"
                (submitted / student / class_zip.UNPACKED).write_text(text, encoding="utf-8")
    said = [f"{name}: not a name that Canvas or Moodle gives a submission, left aside"
            for name in unpacked.skipped]  # fmt: skip
    for student, remarks in unpacked.remarks.items():
        said += [f"{student}: {remark}" for remark in remarks]
        said += _sort_one(submitted / student, submitted / student, lessons)
    return said


def _sort_one(student: Path, sorted_into: Path, lessons: set[str]) -> list[str]:
    said: list[str] = []
    taken: dict[str, Path] = {}
    others: list[Path] = []
    for file in notebooks(student):
        target = sorted_into / file.stem / f"{file.stem}.ipynb"
        if file.stem not in lessons:
            others.append(file)
            continue
        if file.resolve() == target.resolve():
            continue
        if file.stem in taken:
            said.append(f"{file} was handed in as well: {taken[file.stem]} is the one graded")
            continue
        taken[file.stem] = file
        try:
            content, value = read_notebook(file)
        except LabkitError as error:
            said.append(f"{error}; the other lessons of {student.name} are graded")
            continue
        said += [f"{file}: {sentence}" for sentence in found_in(value)]
        _place(file, target, content, value)
    for file in others:
        lesson = _COPY.sub("", _COPY.sub("", file.stem))  # such as " - Copy (2)"
        if lesson in lessons and lesson not in taken and not (sorted_into / lesson).is_dir():
            said.append(f"{file} is not graded: call it {lesson}.ipynb if it is what counts")
    if not taken and not any(sorted_into.glob("*/*.ipynb")):
        said.append(f"{student} has no notebook of a lesson in it")
    return said


def _place(file: Path, target: Path, content: bytes, value: Any) -> None:
    try:
        content.decode("utf-8")
        plain = not content.startswith(b"\xef\xbb\xbf") and b"\0" not in content
    except UnicodeDecodeError:
        plain = False
    with appearing(target) as partial:
        partial.write_bytes(content if plain else json.dumps(value).encode())
    if (late := file.with_name(LATE)).is_file() and not late.is_symlink():
        with appearing(target.with_name(LATE)) as partial:
            shutil.copyfile(late, partial)


def main() -> None:
    """Sort the hand-ins of a folder or a class's zip into the gradebook that is named second."""
    if len(sys.argv) != 3:
        raise LabkitError("give a folder or a class's zip, and the gradebook: "
                          "python -m labkit.course.hand_ins HANDED_IN GRADEBOOK")  # fmt: skip
    print("\n".join(sort(Path(sys.argv[1]), Path(sys.argv[2]))) or "nothing odd")


if __name__ == "__main__":
    run_tool(main)
