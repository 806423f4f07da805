"""Find the files of the sources, in an order of their own, and open them within bounds.

A file is named by its source's folder and its path in there, so neither the order of the sources
nor the place where they lie changes what a build writes. What cannot be read is told, and the rest
goes on.
"""

import bz2
import gzip
import io
import lzma
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from labkit.errors import LabkitError

KINDS = {
    ".txt": "text", ".text": "text", ".html": "html", ".htm": "html", ".xhtml": "html",
    ".md": "markdown", ".markdown": "markdown", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".csv": "csv", ".tsv": "csv", ".xml": "wiki",
}  # fmt: skip
_OPENERS: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
_LICENCES = ("license", "licence", "copying", "copyright")

MOST_EXPANSION = 200
"""A compressed text is 3 to 20 times as large when it is read; a bomb, a thousand times or more."""
FREE_BYTES = 2**24
"""Below that no expansion is too much."""
LONGEST_BYTES = 2**24
"""The longest text that is one document, and the longest line of a file of lines."""


class Refusal(Exception):
    """Why a file, or one document of it, is not read; the build counts it and goes on."""


@dataclass(frozen=True, kw_only=True)
class File:
    """A file to read: `label` names it whatever machine it lies on, `kind` says how."""

    label: str
    path: Path
    size: int
    kind: str


@dataclass(frozen=True, kw_only=True)
class Refused:
    """What was not read: a file, or a place in one, and why."""

    place: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """The files below the sources, sorted by label, what is none to read, and the licences."""

    files: tuple[File, ...]
    refused: tuple[Refused, ...]
    licences: tuple[File, ...]


def find(sources: Iterable[str | Path]) -> Found:
    """Return what lies below the sources: folders, or single files.

    Raises:
        LabkitError: a source does not exist, two have one name, or there is no file to read.
    """
    roots: dict[str, Path] = {}
    for source in map(Path, sources):
        if not source.exists():
            raise LabkitError(f"there is no source {source}: give a folder or a file")
        root = source.resolve()
        if roots.setdefault(root.name, root) != root:
            raise LabkitError(f"{root} and {roots[root.name]} have one name, by which records name "
                              "their source: rename a folder")  # fmt: skip
    files: list[File] = []
    licences: list[File] = []
    refused: list[Refused] = []
    for name, root in sorted(roots.items()):
        for path, reason in _below(root):
            inside = path.relative_to(root).as_posix() if path != root else ""
            label = _written(f"{name}/{inside}" if inside else name)
            try:
                if reason:
                    raise Refusal(reason)
                size = path.stat().st_size
                if path.name.lower().split(".")[0] in _LICENCES:
                    with open(path, "rb"):
                        licences.append(File(label=label, path=path, size=size, kind=""))
                    continue
                files.append(File(label=label, path=path, size=size, kind=_kind(path, size)))
            except (Refusal, OSError) as error:
                refused.append(Refused(place=label, reason=_said(error)))
    if not files:
        raise LabkitError("the sources hold no text, HTML, Markdown, JSONL, CSV or XML file"
                          + "".join(f"; {r.place}: {r.reason}" for r in refused[:3]))  # fmt: skip
    return Found(files=tuple(sorted(files, key=lambda file: file.label)),
                 refused=tuple(sorted(refused, key=lambda each: each.place)),
                 licences=tuple(sorted(licences, key=lambda file: file.label)))  # fmt: skip


def _written(label: str) -> str:
    """Return a label with the bytes of a name that is not UTF-8 written out."""
    return os.fsencode(label).decode("utf-8", "backslashreplace")


def _below(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield every file, each folder once, with a reason where there is nothing to read."""
    if root.is_file():
        yield root, ""
        return
    seen: set[tuple[int, int]] = set()
    todo = [root]
    while todo:
        folder = todo.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                yield folder, "a link to a folder that is read already"
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            yield folder, _said(error)
            continue
        folders = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                mode = entry.stat().st_mode
            except OSError as error:
                yield Path(entry.path), _said(error)
                continue
            if stat.S_ISDIR(mode):
                folders.append(Path(entry.path))
            else:
                known = stat.S_ISREG(mode)
                yield Path(entry.path), "" if known else "neither a file nor a folder"
        # Real folders before links to them, so that a text's name is its own.
        todo += sorted(folders, key=lambda path: (not path.is_symlink(), path.name), reverse=True)


def _said(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def _kind(path: Path, size: int) -> str:
    if size == 0:
        raise Refusal("empty")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = bool(suffixes) and suffixes[-1] in _OPENERS
    suffix = (suffixes[-2:-1] or [""])[0] if packed else (suffixes or [""])[-1]
    with open(path, "rb") as file:
        head = file.read(4096)
    if head.startswith(b"%PDF"):
        raise Refusal("a PDF: write its text with `pdftotext FILE.pdf FILE.txt`, which is read")
    if head.startswith((b"PK\x03\x04", b"7z\xbc\xaf", b"Rar!")):
        raise Refusal("an archive: unpack it")
    if suffix not in KINDS:
        raise Refusal(f"of a kind that is not read ({suffix or 'no suffix'})")
    if not packed and b"\0" in head and not head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Refusal("binary: it has null characters")
    return KINDS[suffix]


class _Bounded(io.RawIOBase):
    """A stream that ends with a Refusal where it gives more bytes than it may."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self._stream, self._left, self._most = stream, most, most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        content = self._stream.read(len(buffer))
        self._left -= len(content)
        if self._left < 0:
            raise Refusal(f"it expands to more than {self._most:,} bytes, as a zip bomb does")
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._stream.close()
        super().close()


def open_file(file: File) -> IO[bytes]:
    """Open a file for reading; a compressed one through its decompressor, within bounds."""
    opener = _OPENERS.get(file.path.suffix.lower())
    if opener is None:
        return open(file.path, "rb")
    most = max(FREE_BYTES, MOST_EXPANSION * file.size)
    return io.BufferedReader(_Bounded(opener(file.path, "rb"), most), 2**18)


def lines(stream: IO[bytes], start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that begin in [start, end), each with the byte where it does.

    A line of more than LONGEST_BYTES is given as its first bytes without an end, and the rest of it
    is passed over.
    """
    if start:
        stream.seek(start - 1)
        _pass_over(stream, stream.readline(2**16))
    place = stream.tell() if start else 0
    while place < end and (line := stream.readline(LONGEST_BYTES + 1)):
        yield place, line
        place += len(line) + _pass_over(stream, line)


def _pass_over(stream: IO[bytes], line: bytes) -> int:
    """Read on to the end of a line that was read in part; return the bytes passed over."""
    passed = 0
    while line and not line.endswith(b"\n"):
        line = stream.readline(2**20)
        passed += len(line)
    return passed
