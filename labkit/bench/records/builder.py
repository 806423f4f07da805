"""Make `builder.json`: what a build finds of the faults planted in a corpus, and what it takes.

    python -m labkit.bench.records.builder --output data/results/builder.json

The synthetic corpus says of every text what is wrong with it. Here it is built into a data set of
running text and what stayed is held against that: of each kind how many texts were planted and how
many stayed, how many pairs of near-duplicates lost one of the two, by how alike they are, and how
many of the planted test items were found. The counts are the same on every machine; seconds and
memory, of all processes of the build together, are not. Then the build is killed half-way and taken
up again, and done once more with its sources the other way round and the lines of each reversed.
"""

import argparse
import json
import os
import resource
import shutil
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from labkit.bench import paired
from labkit.console import run_tool, say
from labkit.datasets.corpus.build import PIECE_BYTES, build
from labkit.datasets.corpus.synthetic import PERIOD, generate
from labkit.datasets.corpus.unit import Settings
from labkit.files import sha256_file, write_json

NEAR = 0.8
"""Jaccard index from which two texts are to be found alike."""
GOOD = ("clean", "mojibake", "lookalikes", "pii", "questions")
"""Kinds of texts that should stay, as they are or repaired."""
SETTINGS = Settings(form="text", languages=("ru", "en"), against=("tables",), near=NEAR,
                    fractions=(1.0, 0.0, 0.0))  # fmt: skip
PARTS = ("one", "two")
"""Folders of the corpus, which are the sources."""
LOOK_EVERY_SECONDS = 0.1


def measure(
    folder: Path, megabytes: float, *, seed: int = 0, every: int = PERIOD, workers: int = 1
) -> dict[str, Any]:
    """Write a corpus, build it, and return what was planted, what stayed and what it took.

    settings, facts, counts (read, removed by filter, exact, near, kept), kinds {kind: [planted,
    stayed]}, pairs {percent alike: [planted, both stayed]}, items [planted, found], lost, cost
    (bytes, cpu_seconds, wall_seconds, peak_rss_bytes).
    """
    corpus = folder / "corpus"
    generate(corpus, megabytes, seed, every)
    sources = _in_two(corpus / "raw", folder / "sources")
    out = folder / "out"
    with _cost() as cost:
        report = build(sources, out, SETTINGS, workers=workers)
    kept = {_inside(row["source"]) for row in _rows(out / "train.jsonl")}
    return {
        "schema": 2, "facts": paired.facts(),
        "settings": {"megabytes": megabytes, "seed": seed, "every": every, "near": NEAR,
                     "workers": workers},
        "counts": {
            "read": report["read"], "removed": report["removed"],
            "exact": report["exact_duplicates"], "near": report["near_duplicates"],
            "kept": sum(report["records"].values()), "refused": report["refused"],
        },
        **held_against(list(_rows(corpus / "truth.jsonl")), kept, report["tests"]["found"]),
        "cost": {"bytes": sum(file.stat().st_size for file in _files(sources)), **cost},
    }  # fmt: skip


def repeat(folder: Path, workers: int) -> dict[str, bool]:
    """Build what was measured in a folder twice more and say whether the same came out.

    killed_and_resumed: every file, after a build that was killed half-way and taken up.
    another_order: the data, from the sources the other way round with the lines of each reversed.
    """
    sources, out = [folder / "sources" / part for part in PARTS], folder / "out"
    written = _sums(out)
    shutil.rmtree(out)
    _killed(sources, out, workers)
    build(sources, out, SETTINGS, workers=workers)
    resumed = _sums(out)
    shutil.rmtree(out)
    for file in _files(sources):
        if file.name.startswith("web-"):
            _reverse(file)
    build(sources[::-1], out, SETTINGS, workers=workers)
    data = "train.jsonl"
    return {"killed_and_resumed": resumed == written,
            "another_order": _sums(out)[data] == written[data]}  # fmt: skip


def _in_two(raw: Path, out: Path) -> list[Path]:
    """Link the files of a folder into two, in turn, and return those."""
    parts = [out / part for part in PARTS]
    for number, file in enumerate(_files([raw])):
        link = parts[number % 2] / file.relative_to(raw)
        link.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, link)
    return parts


def _files(folders: Sequence[Path]) -> list[Path]:
    return sorted(file for folder in folders for file in folder.rglob("*") if file.is_file())


def _inside(source: str) -> str:
    return source.partition("/")[2]


def _reverse(file: Path) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    file.unlink()  # a link: the corpus stays as it was
    file.write_bytes(b"".join(reversed(lines)))


def _sums(folder: Path) -> dict[str, str]:
    return {file.name: sha256_file(file) for file in folder.iterdir() if file.is_file()}


def _killed(sources: Sequence[Path], out: Path, workers: int) -> None:
    """Start a build and kill it when half of its pieces are done, or the first of few."""
    process = get_context("spawn").Process(
        target=build, args=(sources, out, SETTINGS), kwargs={"workers": workers}
    )
    process.start()
    half = max(1, sum(file.stat().st_size for file in _files(sources)) // PIECE_BYTES // 2)
    while process.is_alive() and len(list((out / ".build").glob("*.json"))) < half:
        time.sleep(0.02)
    process.kill()
    process.join()
    time.sleep(2)  # its own processes look every second whether it is there
    say("killed" if not (out / "build.json").exists() else "it was done before it could be killed")


@contextmanager
def _cost() -> Iterator[dict[str, float]]:
    """Fill in what the block takes of this process and its children: seconds and peak memory."""
    import psutil

    cost: dict[str, float] = {}
    done = threading.Event()
    peak = 0

    def watch() -> None:
        nonlocal peak
        me = psutil.Process()
        while not done.wait(LOOK_EVERY_SECONDS):
            now = 0
            for process in (me, *me.children(recursive=True)):
                try:
                    now += process.memory_info().rss
                except psutil.Error:  # it has just ended
                    continue
            peak = max(peak, now)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    began, used = time.monotonic(), _cpu_seconds()
    try:
        yield cost
    finally:
        done.set()
        watching.join()
        cost |= {"cpu_seconds": _cpu_seconds() - used, "wall_seconds": time.monotonic() - began,
                 "peak_rss_bytes": peak}  # fmt: skip


def _cpu_seconds() -> float:
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    with open(file, "rb") as lines:
        yield from map(json.loads, lines)


def held_against(
    truth: Sequence[Mapping[str, Any]], stayed: set[str], found: Sequence[str]
) -> dict[str, Any]:
    """Return kinds, pairs, items and lost of what is known of every text and what stayed of them.

    `lost` counts the good texts that are gone, and of which no copy stayed.
    """
    place = {each["id"]: _inside(each["source"]) for each in truth}
    planted = Counter(each["kind"] for each in truth)
    still = Counter(each["kind"] for each in truth if place[each["id"]] in stayed)
    pairs: dict[str, list[int]] = {}
    for each in truth:
        if each["kind"] == "near":
            # Of four decimals, so that no pair below a percent is counted with it.
            pair = pairs.setdefault(str(round(1e4 * each["jaccard"]) // 100), [0, 0])
            pair[0] += 1
            pair[1] += {place[each["id"]], place[each["of"]]} <= stayed
    copies = defaultdict(set)
    for each in truth:
        if each["kind"] in ("near", "exact"):
            copies[each["of"]].add(place[each["id"]])
    lost = [each["id"] for each in truth if each["kind"] in GOOD
            and not ({place[each["id"]]} | copies[each["id"]]) & stayed]  # fmt: skip
    items = {each["of"] for each in truth if each["kind"] == "contaminated"}
    return {
        "kinds": {kind: [planted[kind], still[kind]] for kind in sorted(planted)},
        "pairs": dict(sorted(pairs.items())), "items": [len(items), len(items & set(found))],
        "lost": len(lost),
    }  # fmt: skip


def conclude(found: Mapping[str, Any]) -> dict[str, float]:
    """Return recall and precision of near-duplicates, and shares of items found and good kept."""
    alike = [pair for percent, pair in found["pairs"].items() if int(percent) >= 100 * NEAR]
    parted = sum(planted - both for planted, both in found["pairs"].values())
    rightly = sum(planted - both for planted, both in alike)
    planted, items = found["items"]
    good = sum(found["kinds"][kind][0] for kind in GOOD if kind in found["kinds"])
    return {
        "near_recall": rightly / max(1, sum(planted for planted, _ in alike)),
        "near_precision": rightly / max(1, parted),
        "items_found": items / max(1, planted),
        "good_kept": 1 - found["lost"] / max(1, good),
    }


def speed(found: Mapping[str, Any]) -> dict[str, float]:
    """Return megabytes of raw text a second of a processor, and of the clock for each worker."""
    cost, workers = found["cost"], found["settings"]["workers"]
    return {
        "mb_per_cpu_second": cost["bytes"] / 1e6 / cost["cpu_seconds"],
        "mb_per_second_and_worker": cost["bytes"] / 1e6 / cost["wall_seconds"] / workers,
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(prog="python -m labkit.bench.records.builder")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--megabytes", type=float, default=1000.0)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), given.megabytes, workers=given.workers)
        write_json(given.output, found)
        found["same"] = repeat(Path(folder), given.workers)
    write_json(given.output, found)
    for name, value in {**conclude(found), **found["same"]}.items():
        print(f"{name:<26}{float(value):8.2%}")
    for name, value in speed(found).items():
        print(f"{name:<26}{value:8.2f}")
    print(f"{'peak_rss_bytes':<26}{found['cost']['peak_rss_bytes']:,}")


if __name__ == "__main__":
    run_tool(main)
