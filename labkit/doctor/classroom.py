"""Compute what a class needs: cores, memory, disk, and how many students one machine holds at once.

    a lesson alone      `minutes`, at the rates of two threads, which is what a student's server has
    at once, measured   pairs of cores, or servers that fit the memory: the smaller
    at once, read       as many more as a lesson is read and not computed, `LOAD` of the cores busy
    waves               students / at once, rounded up

A student reads most of the time, so two cores carry several students who do not all start a long
cell together. Where a lesson measures time, that sharing spoils it: `neighbours` says by how much
on this machine. Products of the course's layer are timed in two types, in turns, alone and beside
as many busy processes as there are cores. Times get longer and spread; the ratio of two things
measured in turns keeps its middle, because a neighbour slows both, and its interval gets wider.

Minutes and memory of a lesson are those of its first cell.
"""

import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil

from labkit.doctor import minutes
from labkit.doctor.finding import EMBEDDED, gib
from labkit.errors import LabkitError
from labkit.machine import arithmetic, hardware
from labkit.machine.datasheets import GIB
from labkit.memory.calculator import parameters_of
from labkit.runs import profiles

CORES = 2
"""of a student's server, and threads of what runs on it"""
JUPYTER_BYTES = GIB
"""of a server beside its lesson"""
SYSTEM_BYTES = 2 * GIB
"""of a machine beside its servers"""
LOAD = 0.7
"""share of the cores that may be busy on average, so that a long cell seldom waits"""
MOST_STUDENTS = 100_000
LESSONS = {
    "00": (60, 2), "01": (90, 5), "02": (130, 9), "03": (110, 6), "04": (215, 6), "05": (90, 6),
    "06": (90, 6), "07": (85, 6), "08": (85, 8), "09": (90, 6),
}  # fmt: skip
"""minutes and GiB, as the first cells say"""
MEASURES = ("03", "04")
"""lessons whose subject is time: their servers share no core"""
HOME_BYTES_A_PARAMETER = 32
"""two checkpoints of full fine-tuning while one replaces the other (weights and moments, 12 each),
what is kept of it, and the merged model of lesson 05 (4 each in float32)"""
SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class LessonNeeds:
    """What one lesson needs, of a student and of the class."""

    lesson: str
    lesson_minutes: int
    """of the student, reading included"""
    computing_minutes: float
    """of two cores alone, from nothing"""
    server_bytes: int
    at_once: int
    """students whom this machine holds at the same time; 0 where not even one fits"""
    limited_by: str
    waves: int | None
    """groups that come one after another; None where not even one student fits"""
    class_cores: int
    """cores for the whole class at once"""
    class_bytes: int
    core_hours: float


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """What busy neighbours do to a measurement on this machine."""

    busy_processes: int
    slowdown: float
    """time of a product beside them over its time alone"""
    spread_alone: float
    """ninth over first tenth of the times, less 1"""
    spread_beside: float
    ratio_alone: float
    """float32 over bfloat16, measured in turns: the middle of the ratios of neighbours in time"""
    ratio_beside: float
    ratio_spread_alone: float
    ratio_spread_beside: float


@dataclass(frozen=True, kw_only=True)
class Classroom:
    """What a class needs, lesson by lesson, and what this machine can give."""

    students: int
    cores: int
    memory_bytes: int
    free_disk_bytes: int
    home_bytes: int
    """of one student at most"""
    class_homes_bytes: int
    lessons: list[LessonNeeds]
    neighbours: Neighbours

    def to_json(self) -> dict[str, Any]:
        """Return it as one JSON object."""
        return asdict(self)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads for a while."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def needs(
    lesson: str, seconds: float, students: int, *, cores: int, memory_bytes: int
) -> LessonNeeds:
    """Return what a lesson needs that computes for `seconds` on two cores alone."""
    minutes_of_lesson, gibibytes = LESSONS[lesson]
    server = gibibytes * GIB + JUPYTER_BYTES
    pairs = cores // CORES
    share = min(1.0, seconds / 60 / minutes_of_lesson)
    by_cores = pairs if lesson in MEASURES else max(pairs, math.floor(LOAD * pairs / share))
    by_memory = max(0, memory_bytes - SYSTEM_BYTES) // server
    at_once = min(by_cores, by_memory, students)
    limit = "nothing" if at_once == students else "cores" if by_cores <= by_memory else "memory"
    return LessonNeeds(
        lesson=lesson, lesson_minutes=minutes_of_lesson, computing_minutes=seconds / 60,
        server_bytes=server, at_once=at_once, limited_by=limit,
        waves=math.ceil(students / at_once) if at_once else None,
        class_cores=CORES * (students if lesson in MEASURES
                             else min(students, math.ceil(students * share / LOAD))),
        class_bytes=students * server + SYSTEM_BYTES,
        core_hours=students * CORES * seconds / 3600,
    )  # fmt: skip


def plan(students: int, folder: Path | None = None) -> Classroom:
    """Measure this machine and return what a class of `students` needs on machines of its kind.

    `folder` is where homes would lie, by default the current one. Raises LabkitError for a number
    that is no class.
    """
    if not 1 <= students <= MOST_STUDENTS:
        raise LabkitError(
            f"--class {students}: give the number of students, 1 to {MOST_STUDENTS:,}"
        )
    cores = hardware.cores()
    total = psutil.virtual_memory().total
    memory = min(total, hardware.memory_limit_bytes() or total)
    with _threads(min(CORES, cores)):
        rates = arithmetic.rates(fresh=True)
        times = minutes.lesson_seconds(profiles.PROFILES["cpu"], rates)
        beside = neighbours(cores)
    home = HOME_BYTES_A_PARAMETER * parameters_of(EMBEDDED)
    return Classroom(
        students=students, cores=cores, memory_bytes=memory,
        free_disk_bytes=shutil.disk_usage(folder or Path()).free,
        home_bytes=home, class_homes_bytes=students * home,
        lessons=[needs(lesson, sum(time for number, time in times.items() if number[:2] == lesson),
                       students, cores=cores, memory_bytes=memory)
                 for lesson in LESSONS],
        neighbours=beside,
    )  # fmt: skip


def neighbours(busy: int, seconds: float = SECONDS) -> Neighbours:
    """Time products in two types, in turns, alone and beside `busy` busy processes.

    Takes twice `seconds`, and whatever the processes need to start.
    """
    import torch

    x, w = torch.randn(arithmetic.ROWS, arithmetic.IN), torch.randn(arithmetic.OUT, arithmetic.IN)
    x16, w16 = x.bfloat16(), w.bfloat16()
    with torch.inference_mode():
        wide, narrow = (lambda: x @ w.t()), (lambda: x16 @ w16.t())
        alone = _in_turns(wide, narrow, seconds)
        workers = [
            subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)
        ]
        try:
            beside = _in_turns(wide, narrow, seconds)
        finally:
            for worker in workers:
                worker.kill()
            for worker in workers:
                worker.wait()
    ratios = [[a / b for a, b in times] for times in (alone, beside)]
    first = [[a for a, _ in times] for times in (alone, beside)]
    return Neighbours(
        busy_processes=busy, slowdown=median(first[1]) / median(first[0]),
        spread_alone=_spread(first[0]), spread_beside=_spread(first[1]),
        ratio_alone=median(ratios[0]), ratio_beside=median(ratios[1]),
        ratio_spread_alone=_spread(ratios[0]), ratio_spread_beside=_spread(ratios[1]),
    )  # fmt: skip


def _in_turns(
    one: Callable[[], object], other: Callable[[], object], seconds: float
) -> list[tuple[float, float]]:
    """Return times of both, one after the other, for `seconds`; at least ten of each."""
    one(), other()  # the first call prepares
    times: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while len(times) < 10 or time.perf_counter() < end:
        began = time.perf_counter()
        one()
        middle = time.perf_counter()
        other()
        times.append((middle - began, time.perf_counter() - middle))
    return times


def _spread(values: list[float]) -> float:
    tenths = quantiles(values, n=10)
    return tenths[-1] / tenths[0] - 1


def render(found: Classroom) -> str:
    """Return the plan as text: a table of lessons, and what follows from it."""
    lines = [
        f"A class of {found.students} on machines like this one: {found.cores} cores, "
        f"{gib(found.memory_bytes)}",
        "",
        f"{'lesson':<7}{'minutes':>8}{'computing':>11}{'a server':>10}{'at once':>9}"
        f"{'waves':>7}  {'limited by':<11}{'all at once need':>22}",
    ]
    for each in found.lessons:
        need = f"{each.class_cores} cores, {each.class_bytes / GIB:,.0f} GiB"
        lines.append(
            f"{each.lesson:<7}{each.lesson_minutes:>8}{each.computing_minutes:>7.0f} min"
            f"{each.server_bytes / GIB:>6.0f} GiB{each.at_once:>9}{each.waves or '–':>7}  "
            f"{each.limited_by:<11}{need:>22}"
        )
    beside = found.neighbours
    hours = sum(each.core_hours for each in found.lessons)
    measuring = " and ".join(MEASURES)
    lines += [
        "",
        f"Disk: {gib(found.home_bytes)} a home at most, {gib(found.class_homes_bytes)} for all; "
        f"{gib(found.free_disk_bytes)} are free here.",
        f"Computing: {hours:,.0f} core hours for the whole course.",
        f"Stagger: lessons other than {measuring} share cores, {LOAD:.0%} of them busy on average; "
        "let groups start a lesson's long cells some minutes apart.",
        f"Neighbours, here: beside {beside.busy_processes} busy processes a product takes "
        f"{beside.slowdown:.1f} times as long here, and its times spread by "
        f"{beside.spread_beside:.0%} instead of {beside.spread_alone:.0%}. The ratio of two "
        f"types, measured in turns, is {beside.ratio_beside:.2f} instead of "
        f"{beside.ratio_alone:.2f}, with a spread of {beside.ratio_spread_beside:.0%} instead of "
        f"{beside.ratio_spread_alone:.0%}.",
        f"So {measuring} get cores of their own: beside neighbours their intervals widen, and the "
        "control, A against A, misses 1 more often.",
    ]
    return "\n".join(lines)
