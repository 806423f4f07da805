"""Run the parts of `labkit bench gpu`, the most valuable first, in case time runs out.

Every part is a process with a deadline. It writes each result the moment it has it; one that hangs
is killed, one that dies is written down, and the next part runs. A second call goes on: what is
done stays, what failed or was cut off is tried again.

    DIR/gpu/<part>.json    results by name, of one part
    DIR/gpu.json           the record: card, versions, every part, what it says of each claim

With `rehearsal` a CPU plays the card, with toy sizes and Triton's interpreter, and two parts more:
one that hangs and one that dies, on a clock that runs fast.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.bench.gpu import kernels, memory, report, training
from labkit.bench.gpu.card import Card, require
from labkit.console import run_tool
from labkit.errors import LabkitError
from labkit.files import write_json
from labkit.machine.processes import end_with_parent
from labkit.runs import records

Results = Iterator[tuple[str, dict[str, Any]]]
Say = Callable[[str], None]
POLL_SECONDS = 0.1
FAST_CLOCK = 100.0
LEAST_SECONDS = 5.0
REHEARSAL_SECONDS = 1800 * FAST_CLOCK


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part: what measures it, and the share of the whole time that it may take at most."""

    name: str
    measure: Callable[[Card, set[str]], Results]
    share: float
    needs: tuple[str, ...] = ()
    """libraries without which nothing of it can be measured"""


def _memory(part: str) -> Callable[[Card, set[str]], Results]:
    return lambda card, known: memory.measure_part(part, card, known)


def _hang(card: Card, known: set[str]) -> Results:
    yield "before it hangs", {}
    time.sleep(3600)


def _die(card: Card, known: set[str]) -> Results:
    yield "before it dies", {}
    os.kill(os.getpid(), signal.SIGKILL)


TIMED = ("triton", "scipy", "statsmodels")
"""What kernels and the intervals of their times need."""
PARTS = (
    Part(name="small models", measure=_memory("small models"), share=0.2),
    Part(name="8b", measure=_memory("8b"), share=0.3),
    Part(name="quantised", measure=_memory("quantised"), share=0.15),
    Part(name="largest batch", measure=memory.largest_batches, share=0.25),
    Part(name="kernels, exact", measure=kernels.correctness, share=0.25, needs=("triton",)),
    Part(name="kernels, speed", measure=kernels.speed, share=0.3, needs=TIMED),
    Part(name="training", measure=training.end_to_end, share=0.4, needs=(*TIMED, "transformers")),
)
BACKGROUND = (Part(name="traces", measure=lambda card, known: memory.trace_all(card), share=1.0),)
"""What keeps the processor busy and never the card: it runs beside the first parts. Nothing that
starts kernels may: the card would share its time between the two, and step times would double."""
ALONE = "largest batch"
"""The first part that wants the whole card: what is in the background has to be done by then."""
FAULTS = (
    Part(name="hangs", measure=_hang, share=1 / 3000),
    Part(name="dies", measure=_die, share=0.1),
)
"""Parts of a rehearsal, to see what becomes of them."""


def gpu(
    *, minutes: float = 8.0, output_dir: Path, rehearsal: bool = False, fresh: bool = False,
    say: Say = lambda line: None, parts: tuple[Part, ...] = PARTS,
) -> dict[str, Any]:  # fmt: skip
    """Measure all parts within `minutes`; return the record, which is in output_dir/gpu.json.

    LabkitError: no CUDA device and no rehearsal, or less than a minute.
    """
    if not minutes >= 1:
        raise LabkitError(f"minutes={minutes:g} is too short for any part: give 1 or more")
    if not rehearsal:
        require()
    card = Card(rehearsal=rehearsal)
    folder = output_dir / "gpu"
    facts = {"card": card.describe(), "versions": versions(), "rehearsal": rehearsal}
    _keep_only(facts, folder, fresh=fresh)
    clock = _fast if rehearsal else time.monotonic
    seconds = REHEARSAL_SECONDS if rehearsal else minutes * 60
    end = clock() + seconds
    behind = {
        part.name: _start(part.name, folder, rehearsal=rehearsal)
        for part in BACKGROUND if not _is_done(part.name, folder)
    }  # fmt: skip
    try:
        for part in (*parts, *(FAULTS if rehearsal else ())):
            if part.name == ALONE:
                _join(behind, end, clock, folder, say)
            if _is_done(part.name, folder):
                say(f"{part.name}: kept from an earlier call")
                continue
            if lacking := [name for name in part.needs if importlib.util.find_spec(name) is None]:
                outcome = f"left out: {' and '.join(lacking)} not installed"
                say(f"{part.name}: {outcome}")
                _note(part.name, folder, outcome)
                continue
            left = end - clock()
            if left < LEAST_SECONDS:
                say(f"{part.name}: not begun, the time was over")
                _note(part.name, folder, "not begun: the time was over")
                continue
            began = time.monotonic()
            process = _start(part.name, folder, rehearsal=rehearsal)
            outcome = _wait(process, clock() + min(left, part.share * seconds), clock)
            _note(part.name, folder, outcome)
            say(f"{part.name}: {outcome}, {len(_results(part.name, folder))} results, "
                f"{time.monotonic() - began:.0f} s")  # fmt: skip
            _write(output_dir, facts, folder)
        _join(behind, end, clock, folder, say)
    finally:
        for process in behind.values():
            _end(process)
    return _write(output_dir, facts, folder)


def _join(
    behind: dict[str, subprocess.Popen], end: float, clock: Callable[[], float], folder: Path,
    say: Say,
) -> None:  # fmt: skip
    """Wait for what runs in the background, at least for a moment and at most until the end."""
    for name in list(behind):
        outcome = _wait(behind[name], max(end, clock() + LEAST_SECONDS), clock)
        del behind[name]
        _note(name, folder, outcome)
        say(f"{name}: {outcome}, {len(_results(name, folder))} results, in the background")


def versions() -> dict[str, str]:
    """Return the versions of what was measured with, Triton's among them."""
    from importlib import metadata

    found = records.versions()
    for name in ("triton", "bitsandbytes"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _fast() -> float:
    return FAST_CLOCK * time.monotonic()


def _keep_only(facts: dict[str, Any], folder: Path, *, fresh: bool) -> None:
    """Remove what another card or other versions left, or everything for a fresh start."""
    note = folder / "facts.json"
    if fresh or (folder.is_dir() and _read(note) != facts):
        shutil.rmtree(folder, ignore_errors=True)
    write_json(note, facts)


def _file(part: str, folder: Path) -> Path:
    return folder / f"{part.replace(', ', '-').replace(' ', '-')}.json"


def _read(file: Path) -> dict[str, Any] | None:
    """Return what a file of a part holds; None where there is none, or it is damaged."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _results(part: str, folder: Path) -> dict[str, dict[str, Any]]:
    found = _read(_file(part, folder))
    return found["results"] if found else {}


def _is_done(part: str, folder: Path) -> bool:
    found = _read(_file(part, folder))
    if found is None:
        return False
    return found["outcome"] == "done" and not _failed(found["results"])


def _failed(found: dict[str, dict[str, Any]]) -> set[str]:
    return {name for name, result in found.items() if "error" in result}


def _note(part: str, folder: Path, outcome: str) -> None:
    write_json(_file(part, folder), {"outcome": outcome, "results": _results(part, folder)})


def _write(output_dir: Path, facts: dict[str, Any], folder: Path) -> dict[str, Any]:
    names = (part.name for part in (*BACKGROUND, *PARTS, *FAULTS))
    found = {name: _read(_file(name, folder)) for name in names}
    known = {name: value for name, value in found.items() if value}
    record = {**facts, "made_at": records.now(), "parts": known}
    record["claims"] = report.claims(record)
    write_json(output_dir / "gpu.json", record)
    return record


def _start(part: str, folder: Path, *, rehearsal: bool) -> subprocess.Popen:
    command = [sys.executable, "-m", "labkit.bench.gpu.run", part, "--folder", str(folder),
               "--parent", str(os.getpid())]  # fmt: skip
    environment = dict(os.environ)
    if rehearsal:
        command.append("--rehearse")
        environment |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    if part in {each.name for each in BACKGROUND}:
        environment |= {"OMP_NUM_THREADS": "1"}
    log = (folder / f"{_file(part, folder).stem}.log").open("wb")
    with log:
        return subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )


def _wait(process: subprocess.Popen, deadline: float, clock: Callable[[], float]) -> str:
    """Wait for a part until its deadline, then kill it; return "done", or what became of it."""
    try:
        while process.poll() is None:
            if clock() > deadline:
                return "killed at its deadline"
            time.sleep(POLL_SECONDS)
    finally:
        if process.poll() is None:
            _end(process)
    code = process.returncode
    return "done" if code == 0 else f"died with code {code}"


def _end(process: subprocess.Popen) -> None:
    """Kill a part and the processes it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def measure(part: Part, folder: Path, card: Card) -> None:
    """Measure one part in this process, and keep every result as it comes."""
    found = _results(part.name, folder)
    for name in _failed(found):
        del found[name]
    for name, result in part.measure(card, set(found)):
        found[name] = result
        write_json(_file(part.name, folder), {"outcome": "running", "results": found})


def main() -> None:
    """Measure the part that the command line names; see `gpu`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    known = {part.name: part for part in (*BACKGROUND, *PARTS, *FAULTS)}
    parser.add_argument("part", choices=list(known))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--parent", type=int, required=True, help="ends this process as it ends")
    parser.add_argument("--rehearse", action="store_true")
    chosen = parser.parse_args()
    end_with_parent(chosen.parent)
    measure(known[chosen.part], chosen.folder, Card(rehearsal=chosen.rehearse))


if __name__ == "__main__":
    run_tool(main)
