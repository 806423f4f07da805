"""A made-up class goes the whole way: release, collect, autograde, grade, join.

Half of it hands in on the hub, through nbgrader's exchange, and half on a learning platform, in one
zip as Canvas writes it. There are seven kinds of students, in turn:

    honest     right answers from own records, exercises solved
    mistaken   honest, and sure that a GB is a GiB: the misconception that the page has to find
    copied     the honest student before them, records and words, some words exchanged
    invented   numbers without any record, exercises not written
    broken     a notebook cut off in the middle; their zip, on the platform, as well
    late       honest, 30 hours after the date
    silent     notebooks alone: no answer at all

    python tests/lessons/simulated_class.py --students 80     a class, with the time of each step
"""

import argparse
import contextlib
import csv
import importlib.util
import io
import json
import os
import random
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nbformat

from labkit.checkpoints import grade, join
from labkit.checkpoints.alike import Pair, pairs
from labkit.checkpoints.marks import Graded
from labkit.checkpoints.questions import load_questions, marked_questions
from labkit.checkpoints.wrong import Missed, where_wrong
from labkit.course import hand_ins, release

ROOT = Path(__file__).parents[2]
KINDS = ("honest", "mistaken", "copied", "invented", "broken", "late", "silent")
DUE = datetime(2026, 9, 7, 22, 0, tzinfo=UTC)
HOURS_LATE = 30
MISCONCEPTION = ("01.1", "states_gib")
CUT = 500
EMBEDDED = "smollm2-135m-instruct"
# Nobody reads them; what counts is that two students never write the same by accident.
FIRST, LAST = ("un", "pre", "re", "de", "co", "sub"), ("moment", "batch", "step", "peak", "rank")
WORDS = [first + last for first in FIRST for last in (*LAST, "layer", "weight", "record", "scale")]


@dataclass(frozen=True, kw_only=True)
class Student:
    """One of the class, by number."""

    number: int
    on_platform: bool

    @property
    def kind(self) -> str:
        return KINDS[self.number % len(KINDS)]

    @property
    def login(self) -> str:
        """The name that the gradebook has."""
        return f"s{self.number:03}-canvas-{1000 + self.number}" if self.on_platform else self.plain

    @property
    def plain(self) -> str:
        return f"s{self.number:03}"


@dataclass(kw_only=True)
class Outcome:
    """What came of it."""

    students: list[Student]
    seconds: dict[str, float] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    graded: list[Graded] = field(default_factory=list)
    wrong: dict[str, list[Missed]] = field(default_factory=dict)
    alike: list[Pair] = field(default_factory=list)
    marks: dict[str, dict[str, str]] = field(default_factory=dict)

    def of(self, kind: str) -> list[Student]:
        return [student for student in self.students if student.kind == kind]


def _cases() -> Any:
    """Return the module that knows the right answers, tests/checkpoints/conftest.py."""
    place = ROOT / "tests" / "checkpoints" / "conftest.py"
    spec = importlib.util.spec_from_file_location("checkpoint_cases", place)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def explanation(seed: str) -> str:
    """Return words of a student's own, the same for the same seed and unlike anybody else's."""
    drawn = random.Random(seed)
    return " ".join(drawn.choice(WORDS) for _ in range(24)) + f" {drawn.uniform(1, 9):.3f}"


def exchanged(text: str) -> str:
    """Return a copy of a text with a few words exchanged."""
    words = text.split()
    return " ".join("indeed" if place % 9 == 4 else word for place, word in enumerate(words))


@contextlib.contextmanager
def runs_in(folder: Path) -> Iterator[None]:
    before = os.environ.get("LABKIT_RUNS")
    os.environ["LABKIT_RUNS"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["LABKIT_RUNS"]
        else:
            os.environ["LABKIT_RUNS"] = before


def work(student: Student, home: Path, lessons: Sequence[str], cases: Any) -> None:
    """Write what a student measured and answered: runs/ and answers.json."""
    # Who copies has the files of the one two places before, who is honest.
    source = student.number - 2 if student.kind == "copied" else student.number
    if student.kind != "invented":
        for lesson in lessons:
            with tempfile.TemporaryDirectory() as folder:
                with runs_in(Path(folder)):
                    cases.do_lesson(lesson)
                _take(Path(folder), home / "runs", lesson)
        for place in (home / "runs").rglob("*.json"):
            _make_own(place, source)
    given = {}
    for name, question in load_questions().items():
        if name[:2] in lessons:
            fields = dict(cases.TABLE[name][0])
            if fields.get("model") == "{model}":
                fields |= {"model": EMBEDDED, "weights_bytes": 2 * 134_515_008,
                           "float32_bytes": 4 * 134_515_008}  # fmt: skip
            for field_ in question.fields:
                if field_.type == "run":
                    fields[field_.name] = f"{name[:2]}-{fields[field_.name]}"
            if student.kind == "mistaken" and name == MISCONCEPTION[0]:
                fields["states_gib"] = fields["states_gb"]
            text = explanation(f"{source} {name}")
            fields["explanation"] = exchanged(text) if student.kind == "copied" else text
            given[name] = {"fields": fields, "recorded_at": "2026-09-01T10:00:00+00:00"}
    (home / "answers.json").write_text(json.dumps({"schema": 1, "answers": given}))


def _take(runs: Path, to: Path, lesson: str) -> None:
    """Move the files of one lesson to a student's, with its number before the name of each run.

    Runs of two lessons may have one name in the cases of the tests, and are not the same run.
    """
    named = {place.parent.name for place in runs.glob("*/record.json")}
    for place in sorted(runs.rglob("*.json")):
        value, folder = json.loads(place.read_text()), place.parent.relative_to(runs)
        if place.name == "record.json":
            folder = Path(f"{lesson}-{folder}")
            value["name"] = value["config"]["name"] = folder.name
            value["id"] = f"{lesson}-{value['id']}"
        elif "values" in value:
            for key, each in value["settings"].items():
                if isinstance(each, str) and each in named:
                    value["settings"][key] = f"{lesson}-{each}"
        name = place.name if place.name == "record.json" else f"{place.stem}-{lesson}.json"
        (to / folder).mkdir(parents=True, exist_ok=True)
        (to / folder / name).write_text(json.dumps(value))


def _make_own(place: Path, number: int) -> None:
    """Give a record the id and the times of one student's."""
    value = json.loads(place.read_text())
    if "id" in value:
        value["id"] = f"{number}-{value['id']}"
    place.write_text(json.dumps(_slower(value, 1 + number / 1e6)))


def _slower(value: Any, factor: float, name: str = "") -> Any:
    """Return plain JSON with every number of seconds longer by a factor."""
    if isinstance(value, dict):
        return {key: _slower(inner, factor, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [_slower(inner, factor, name) for inner in value]
    timed = "seconds" in name and isinstance(value, float)
    return value * factor if timed else value


def texts(lessons: Sequence[str], gradebook: Path) -> dict[str, tuple[str, str]]:
    """Return each lesson's notebook as it was given out, and with every exercise solved."""
    found = {}
    for place in sorted((gradebook / "source").iterdir()):
        stem = place.name
        if stem[:2] not in lessons:
            continue
        copy = nbformat.read(gradebook / "release" / stem / f"{stem}.ipynb", as_version=4)
        given_out = nbformat.writes(copy)
        written = nbformat.read(place / f"{stem}.ipynb", as_version=4)
        mine = {c.metadata.nbgrader.grade_id: c.source for c in written.cells
                if c.metadata.get("nbgrader", {}).get("solution")}  # fmt: skip
        for cell in copy.cells:
            if cell.metadata.get("nbgrader", {}).get("solution"):
                cell.source = mine[cell.metadata.nbgrader.grade_id]
        found[stem] = (given_out, nbformat.writes(copy))
    return found


def notebooks(student: Student, every: Mapping[str, tuple[str, str]]) -> dict[str, bytes]:
    """Return the notebooks that a student hands in."""
    solved = student.kind not in ("invented", "silent")
    found = {}
    for stem, (given_out, written) in every.items():
        text = written if solved else given_out
        cut = student.kind == "broken" and not found
        found[f"{stem}.ipynb"] = (text[:-CUT] if cut else text).encode()
    return found


def hand_in_on_hub(student: Student, home: Path, inbound: Path) -> None:
    """Put a folder where `nbgrader submit` puts it."""
    late = timedelta(hours=HOURS_LATE if student.kind == "late" else -1)
    stamp = f"{DUE + late:%Y-%m-%d %H:%M:%S.%f UTC}"
    target = inbound / f"{student.plain}+lessons+{stamp}+{student.number:08}"
    shutil.copytree(home, target)
    (target / "timestamp.txt").write_text(stamp)


def platform_zip(students: Sequence[Student], homes: Path, place: Path) -> None:
    """Write the zip that Canvas makes of what students uploaded."""
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        for student in students:
            mine = io.BytesIO()
            with zipfile.ZipFile(mine, "w", zipfile.ZIP_DEFLATED) as upload:
                for path in sorted((homes / student.plain).rglob("*")):
                    if path.is_file():
                        upload.write(path, path.relative_to(homes / student.plain))
            content = mine.getvalue()
            if student.kind == "broken":
                content = content[: len(content) // 2]
            late = "_LATE" if student.kind == "late" else ""
            number = 1000 + student.number
            archive.writestr(f"{student.plain}{late}_{number}_{5000 + number}_me.zip", content)
        archive.writestr("readme.txt", "not a submission")


def mark(place: Path) -> None:
    """Fill in the rubric of every explanation, as a person does."""
    with place.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for name in marked_questions():
            if row[f"{name} explanation"]:
                row[f"{name} rubric"] = str(1 + len(row["student"] + name) % join.RUBRIC)
    with place.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def shared_out(workers: int) -> list[str]:
    """Return patterns of students by the last digit of their number, one a process.

    Every process has all lessons, so none is left with the long ones.

    >>> shared_out(2)
    ['*[02468]', '*[13579]']
    """
    return [f"*[{''.join(map(str, range(first, 10, workers)))}]" for first in range(workers)]


def simulate(folder: Path, count: int, lessons: Sequence[str], *, workers: int = 1) -> Outcome:
    """Take `count` students through `lessons` (numbers such as "02"); all that is written is below
    `folder`."""
    outcome = Outcome(students=[Student(number=n, on_platform=n % 2 == 1) for n in range(count)])
    cases, gradebook, homes = _cases(), folder / "gradebook", folder / "homes"
    exchange = folder / "exchange"

    @contextlib.contextmanager
    def timed(step: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        outcome.seconds[step] = time.monotonic() - began
        print(f"{step:<10}{outcome.seconds[step]:8.1f} s", file=sys.stderr, flush=True)

    with timed("release"):
        release.release(ROOT / "lessons", gradebook, DUE.isoformat())
        exchange.mkdir(mode=0o777)
        with (gradebook / release.CONFIG).open("a") as config:
            config.write(f"\nc.Exchange.root = {str(exchange)!r}\n")
            config.write(f"c.Exchange.cache = {str(folder / 'cache')!r}\n")
        release.nbgrader("release_assignment", "lessons", cwd=gradebook)
    with timed("students"):
        every = texts(lessons, gradebook)
        for student in outcome.students:
            home = homes / student.plain
            home.mkdir(parents=True)
            if student.kind != "silent":
                work(student, home, lessons, cases)
            for name, content in notebooks(student, every).items():
                (home / name).write_bytes(content)
            if not student.on_platform:
                hand_in_on_hub(student, home, exchange / "labkit" / "inbound")
        on_platform = [student for student in outcome.students if student.on_platform]
        platform_zip(on_platform, homes, folder / "class.zip")
    with timed("collect"):
        release.nbgrader("collect", "lessons", cwd=gradebook)
        outcome.said = hand_ins.sort(gradebook / "submitted", gradebook)
        outcome.said += hand_ins.sort(folder / "class.zip", gradebook)
    with timed("autograde"), ThreadPoolExecutor(workers) as pool:
        stems = f"0[{''.join(sorted({stem[1] for stem in every}))}]*"
        asked = (("autograde", stems, "--student", each) for each in shared_out(workers))
        list(pool.map(lambda words: release.nbgrader(*words, cwd=gradebook), asked))
    with timed("grade"):
        table = folder / "questions.csv"
        grade.write_grades(gradebook / "submitted", table)
    with timed("join"):
        mark(table)
        export = "--exporter=labkit.course.nbgrader_plugins.LessonExport"
        points = folder / "exercises.csv"
        release.nbgrader("export", export, f"--to={points}", cwd=gradebook)
        join.write_marks(table, points, folder / "marks.csv", lessons)
    with (folder / "marks.csv").open(newline="", encoding="utf-8") as file:
        outcome.marks = {row["student"]: row for row in csv.DictReader(file)}
    outcome.graded, _ = grade.grade(gradebook / "submitted")
    outcome.wrong = dict(where_wrong(outcome.graded))
    outcome.alike = pairs(grade.explanations(outcome.graded))
    return outcome


def wanting(outcome: Outcome) -> list[str]:
    """Return what did not come out as it has to, a sentence each."""
    said = []
    for student in outcome.students:
        row = outcome.marks.get(student.login)
        if row is None or not (row["mark"] or row["reasons"]):
            said.append(f"{student.login} ({student.kind}) has neither a mark nor a reason")
    question, name = MISCONCEPTION
    planted = {student.login for student in outcome.of("mistaken")}
    first = next(iter(outcome.wrong.get(question, ())), None)
    if first is None or not first.sentence.startswith(name) or set(first.students) != planted:
        said.append(f"{question}: the page does not show {name} first, with those who have it")
    who = {student.number: student.login for student in outcome.students}
    copies = {frozenset((who[s.number], who[s.number - 2])) for s in outcome.of("copied")}
    if {frozenset((pair.one, pair.other)) for pair in outcome.alike} != copies:
        said.append("explanations that are alike are not those of who copied and from whom")
    # Records of the tests are toys, so much else of them is reported as well.
    sharing = {each.submission.student for each in outcome.graded
               if any(flag.startswith("the same ") for flag in each.flags)}  # fmt: skip
    if sharing != set().union(*copies):
        said.append("what is reported as shared is not that of who copied")
    for each in outcome.graded:
        (kind,) = [s.kind for s in outcome.students if s.login == each.submission.student]
        allowed = {"honest": (), "late": (), "copied": (), "mistaken": (question,)}.get(kind)
        wrong = [asked for asked, mark in each.marks.items()
                 if mark.state not in ("consistent", "unanswered") and allowed is not None
                 and asked not in allowed]  # fmt: skip
        if wrong:
            said.append(f"{each.submission.student} ({kind}) is not right in {', '.join(wrong)}")
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--students", type=int, default=80)
    parser.add_argument("--lessons", nargs="*", default=sorted({q[:2] for q in load_questions()}))
    parser.add_argument("--workers", type=int, default=2, help="nbgrader processes at once")
    parser.add_argument("--keep", type=Path, help="an empty folder in which all of it stays")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        outcome = simulate(folder.resolve(), options.students, options.lessons,
                           workers=options.workers)  # fmt: skip
    said = wanting(outcome)
    print(*said, sep="\n", end="\n" if said else "")
    marked = sum(bool(row["mark"]) for row in outcome.marks.values())
    print(f"{len(outcome.students)} students, {marked} with a mark, the others with a reason"
          if not said else f"{len(said)} things are not as they have to be")  # fmt: skip
    print(f"{sum(outcome.seconds.values()):.0f} s in all")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
