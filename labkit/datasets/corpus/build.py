"""Build the data set: `labkit build-dataset`.

    pieces of the sources ──(processes)──▶ clean records, an array of hashes, counts
    arrays of all pieces  ──▶ exact duplicates ──▶ near-duplicates ──▶ what stays
    what stays            ──▶ train, dev and test, in an order by hash ──▶ card and counts

Nothing that is written depends on the order of the sources, on the pieces or on the number of
processes. What a process keeps in memory is one document and a table of words; the last steps keep
a row of 51 bytes for each record, a few times over, and a number for each pair of candidates.
"""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from labkit.console import say
from labkit.datasets import tatqa
from labkit.datasets.corpus import card, contamination
from labkit.datasets.corpus.contamination import Guard
from labkit.datasets.corpus.merge import Pieces, deduplicated
from labkit.datasets.corpus.sources import File, Found, find
from labkit.datasets.corpus.unit import Settings, Stretch, Tally, process
from labkit.datasets.corpus.words import number_of
from labkit.datasets.corpus.write import write
from labkit.errors import LabkitError, extra, read_json
from labkit.files import lock_folder, sha256_file, write_json, write_text

VERSION = 2
"""Of what a build does; pieces of another version are not taken up."""
PIECE_BYTES = 2**23
SAY_EVERY_SECONDS = 45.0


def build(
    sources: Sequence[str | Path], out: Path, settings: Settings, *, workers: int = 0,
    piece_bytes: int = PIECE_BYTES,
) -> dict[str, Any]:  # fmt: skip
    """Build a data set in the folder `out` and return what was counted, which is in `build.json`.

    A build that was cut off goes on where it stopped; one that is finished is returned as it is.

    Raises:
        LabkitError: there is nothing to read, a test is not there, `out` holds other things, or a
            library of the extra `data` is missing.
    """
    with extra("data", "building a data set"):
        import datasketch  # noqa: F401
        import ftfy  # noqa: F401
        import mwparserfromhell  # noqa: F401
        import py3langid  # noqa: F401
        import trafilatura  # noqa: F401
    found = find(sources)
    against, guard = _guard(settings.against)
    pieces = cut(found.files, piece_bytes)
    identity = _identity(found, settings, against)
    work = out / ".build"
    if (kept := _finished(out, work, identity)) is not None:
        return kept
    from filelock import Timeout

    try:
        lock = lock_folder(work, timeout=0)
    except Timeout:
        raise LabkitError(f"another process builds in {out}: wait for it") from None
    try:
        started = time.monotonic()
        _take_up(work, f"{identity}-{piece_bytes}")
        units = _clean(pieces, work, settings, guard, workers or len(os.sched_getaffinity(0)))
        tally = Tally()
        for refused in found.refused:
            tally.refuse(refused)
        for unit in units:
            tally.add(read_json(unit.with_suffix(".json")))
        with Pieces(units) as records:
            rows, after = deduplicated(records, settings.near)
            counts = write(records, rows, out, settings)
        report = {
            "version": VERSION, "identity": identity, "settings": asdict(settings),
            "sources": sorted({file.label.split("/")[0] for file in found.files}),
            "files": len(found.files), **vars(tally), **after, **counts,
            "tests": {
                "names": against, "items": len(guard.names), "unchecked": guard.unchecked,
                "found": [guard.names[place] for place in tally.contaminated],
            },
            "licence_files": [
                {"file": file.label, "sha256": sha256_file(file.path)} for file in found.licences
            ],
        }  # fmt: skip
        write_text(out / "README.md", card.render(report))
        write_json(out / "build.json", report)
        say(f"{sum(report['records'].values()):,} records in {time.monotonic() - started:.0f} s")
        shutil.rmtree(work, ignore_errors=True)
        return report
    finally:
        lock.release()


def cut(files: Sequence[File], piece_bytes: int) -> list[list[Stretch]]:
    """Return the pieces: files together up to a size, and long files of lines in stretches."""
    pieces: list[list[Stretch]] = []
    current: list[Stretch] = []
    size = 0
    for file in files:
        if file.kind == "jsonl" and file.path.suffix.lower() in (".jsonl", ".ndjson"):
            starts = range(0, file.size, piece_bytes)
        else:
            starts = range(1)
        for start in starts:
            end = min(start + piece_bytes, file.size) if len(starts) > 1 else file.size
            if current and size + end - start > piece_bytes:
                pieces.append(current)
                current, size = [], 0
            current.append((file, start, end))
            size += end - start
    return [*pieces, current] if current else pieces


def _guard(names: Sequence[str]) -> tuple[list[str], Guard]:
    """Return the tests that are there and the guard against them."""
    items: list[contamination.Item] = []
    there = []
    for name in names:
        if name == "tatqa" and not tatqa.tatqa_dir().is_dir():
            say("TAT-QA is not kept out: `labkit fetch tatqa` brings it")
            continue
        items += contamination.items_of(name)
        there.append(name if name in ("tables", "tatqa") else Path(name).name)
    return there, contamination.guard(items)


def _identity(found: Found, settings: Settings, against: list[str]) -> str:
    files = [(f.label, f.size, f.path.stat().st_mtime_ns) for f in found.files]
    tests = [sha256_file(Path(name)) for name in settings.against if Path(name).is_file()]
    return f"{number_of(json.dumps([VERSION, files, against, tests, asdict(settings)])):016x}"


def _finished(out: Path, work: Path, identity: str) -> dict[str, Any] | None:
    """Return the finished build that `out` holds, if it is this one; make sure of the place."""
    if not out.exists():
        return None
    if not out.is_dir():
        raise LabkitError(f"{out} is a file: name a folder to build in")
    if (out / "build.json").is_file():
        kept: dict[str, Any] = read_json(out / "build.json")
        if kept.get("identity") == identity:
            say(f"{out} holds this data set already")
            return kept
        raise LabkitError(f"{out} holds a data set of other sources or settings: "
                          "name another folder, or remove it")  # fmt: skip
    if not work.exists() and any(out.iterdir()):
        raise LabkitError(f"{out} holds other things: name a new folder")
    return None


def _take_up(work: Path, identity: str) -> None:
    """Keep the pieces of the same build, remove those of another."""
    plan = work / "plan"
    if not plan.exists() or plan.read_text(encoding="utf-8") != identity:
        for file in work.iterdir():
            if file.name != ".lock":
                shutil.rmtree(file) if file.is_dir() else file.unlink()
        write_text(plan, identity)


def _clean(
    pieces: list[list[Stretch]], work: Path, settings: Settings, guard: Guard, workers: int
) -> list[Path]:
    """Process the pieces that are not done yet; return the names of all."""
    units = [work / f"{number:06d}" for number in range(len(pieces))]
    todo = [n for n, unit in enumerate(units) if not unit.with_suffix(".json").exists()]
    if len(todo) < len(units):
        say(f"going on: {len(units) - len(todo)} of {len(units)} pieces are done")
    total = sum(end - start for piece in pieces for _, start, end in piece)
    done = total - sum(end - start for n in todo for _, start, end in pieces[n])
    said, began, before = time.monotonic(), time.monotonic(), done
    say(f"cleaning {total / 1e6:,.1f} MB in {len(units)} pieces")
    with _pool(min(workers, len(todo)), settings, guard) as submit:
        for n in _ended(todo, lambda n: submit(pieces[n], units[n]), alone=workers <= 1):
            done += sum(end - start for _, start, end in pieces[n])
            if time.monotonic() - said > SAY_EVERY_SECONDS:
                said = time.monotonic()
                speed = (done - before) / (said - began)
                say(f"  {done / total:.0%}  {speed / 1e6:.1f} MB/s  "
                    f"{(total - done) / speed / 60:.0f} min left")  # fmt: skip
    return units


def _ended(
    todo: Sequence[int], submit: Callable[[int], Future[None]], *, alone: bool
) -> Iterator[int]:
    """Submit the pieces and yield each when it is done; alone, a piece is done when it returns."""
    if alone:
        for n in todo:
            submit(n).result()
            yield n
        return
    waiting = {submit(n): n for n in todo}
    for future in as_completed(waiting):
        future.result()
        yield waiting[future]


_WORKER: dict[str, Any] = {}


def _start_worker(settings: Settings, guard: Guard, parent: int) -> None:
    _WORKER.update(settings=settings, guard=guard)

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _work(piece: list[Stretch], name: Path) -> None:
    process(piece, name, _WORKER["settings"], _WORKER["guard"])


@contextmanager
def _pool(
    workers: int, settings: Settings, guard: Guard
) -> Iterator[Callable[[list[Stretch], Path], "Future[None]"]]:
    """Yield what runs a piece: here, where one process is enough, or in processes."""
    if workers <= 1:

        def here(piece: list[Stretch], name: Path) -> "Future[None]":
            future: Future[None] = Future()
            process(piece, name, settings, guard)
            future.set_result(None)
            return future

        yield here
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_start_worker,
        initargs=(settings, guard, os.getpid()),
    )  # fmt: skip
    try:
        yield lambda piece, name: pool.submit(_work, piece, name)
    except BrokenProcessPool:
        raise LabkitError("a process was killed, perhaps for want of memory: the same command "
                          "goes on where it stopped; --workers 1 takes less") from None  # fmt: skip
    finally:
        pool.shutdown(cancel_futures=True)
