"""Grade what students handed in: their answers against their own records, nothing executed.

Every answer is judged again with the rules of the notebook, on the records of the same
submission; what answers.json says about itself counts for nothing. A question's points are the
share of its findings that agree, in halves. An explanation is for a person: its text stands beside
an empty rubric column.

What looks wrong is reported and takes no points, because a person has to decide:

    records with the same id, or the same step times to the nanosecond, from two students
    the same explanation, word for word, from two students; those that are only alike stand side
    by side on the summary page (`alike`)
    records that contradict themselves, or figures that no machine reaches (`plausible`)
    whatever could not be read (`submissions`)

grades.csv has a line for each submission, and a summary page beside it shows distributions. A cell
that a spreadsheet would take for a formula gets an apostrophe before it (OWASP, "CSV
Injection"); both files are written whole or not at all.
"""

import csv
import io
import json
import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from labkit.checkpoints import alike, class_zip
from labkit.checkpoints.checking import judge
from labkit.checkpoints.marks import Graded, Mark
from labkit.checkpoints.plausible import contradictions, impossible, point_problems
from labkit.checkpoints.questions import Question, load_questions, parse
from labkit.checkpoints.rules import Evidence
from labkit.checkpoints.submissions import Submission, find, printable, read
from labkit.errors import LabkitError
from labkit.models.registry import known_names
from labkit.runs import records

FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠", "|", "%")
FEWEST_TIMED_STEPS = 3
FEWEST_SHARED_WORDS = 12
MOST_NAMES = 3
STATES = ("consistent", "incomplete", "contradicts", "refused", "unanswered")


def grade(place: Path) -> tuple[list[Graded], list[str]]:
    """Grade every submission, in the order of their names; return them and what was skipped.

    `place` is a folder of submissions, one submission, or a class's zip from Canvas or Moodle.
    Raises LabkitError when there is nothing to grade.
    """
    if not class_zip.is_class(place):
        return _grade_all(place)
    with tempfile.TemporaryDirectory(prefix="labkit-class-") as folder:
        unpacked = class_zip.unpack(place, Path(folder))
        graded, ignored = _grade_all(Path(folder))
    for each in graded:
        each.submission.source = place.name
        for remark in unpacked.remarks.get(each.submission.student, ()):
            each.submission.remark(remark)
    return graded, [*ignored, *unpacked.skipped]


def _grade_all(place: Path) -> tuple[list[Graded], list[str]]:
    places, ignored = find(place)
    fingerprints = Fingerprints()
    graded = []
    for path in places:
        submission = read(path)
        _repeat(path / class_zip.UNPACKED, submission)
        graded.append(_grade_one(submission))
        fingerprints.add(submission)
        # A thousand students' records do not fit into memory at once, and are not needed again.
        submission.records, submission.points, submission.measurements = {}, [], []
    names = Counter(each.submission.student for each in graded)
    for each in graded:
        if names[each.submission.student] > 1:
            each.submission.remark("this student handed in more than once")
    for number, flags in fingerprints.shared([each.submission for each in graded]).items():
        graded[number].flags += flags
    return graded, ignored


def _repeat(file: Path, submission: Submission) -> None:
    """Add what was said when a class's zip was unpacked, if anything was."""
    if file.is_file() and not file.is_symlink():
        with suppress(OSError), file.open("rb") as handle:
            for line in handle.read(2**16).decode("utf-8", "replace").splitlines():
                submission.remark(line)


def _grade_one(submission: Submission) -> Graded:
    asked = load_questions()
    flags = []
    for record in submission.records.values():
        for problem in (*impossible(record), *contradictions(record)):
            flags.append(f"record {record.id}: {problem}")
    for point in submission.points:
        flags += [f"a point of a sweep: {problem}" for problem in point_problems(point)]
    for name in submission.answers:
        if name not in asked:
            submission.remark(f"an answer to {printable(name, 40)}, which nobody asks")
    marks = {each.id: _mark(each, submission) for each in asked.values()}
    return Graded(submission=submission, marks=marks, flags=flags)


def _mark(asked: Question, submission: Submission) -> Mark:
    entry = submission.answers.get(asked.id)
    if entry is None:
        return Mark(state="unanswered")
    fields = {field.name for field in asked.fields}
    for name in sorted(set(entry["fields"]) - fields):
        submission.remark(f"{asked.id}: no field is called {printable(name, 40)}")
    given = {name: value for name, value in entry["fields"].items() if name in fields}
    text = given.get("explanation")
    text = printable(text, 20_000) if isinstance(text, str) else ""
    unknown = given.get("model")
    if isinstance(unknown, str) and unknown.strip() not in known_names():
        # A name may be a folder, or a model to download: not on this machine, for anybody.
        given["model"] = None
    else:
        unknown = None
    runs = sorted(submission.records.values(), key=lambda record: record.started_at)
    evidence = Evidence(
        runs=runs, sweeps=submission.points, measurements=submission.measurements, here=False
    )
    try:
        verdict = judge(asked, parse(asked, given, runs, "among the runs handed in"), evidence)
    except LabkitError as error:
        return Mark(state="refused", explanation=text, found=(printable(str(error), 300),))
    except Exception as error:
        # A rule that meets what it was not made for must not stop the others' grades.
        reason = f"cannot be judged ({type(error).__name__}: {printable(str(error), 100)})"
        submission.remark(f"{asked.id}: {reason}")
        return Mark(state="refused", explanation=text, found=(reason,))
    if unknown is not None:
        verdict.missing = [line for line in verdict.missing if not line.startswith("model:")]
        verdict.missing.append(f"model: {printable(unknown, 60)} is not in labkit's registry, so "
                               "a person has to look")  # fmt: skip
    agree, against = len(verdict.consistent), len(verdict.contradicts) + len(verdict.missing)
    share = agree / (agree + against) if agree else 0.0
    return Mark(
        state=verdict.state,
        points=math.floor(2 * asked.points * share) / 2,
        explanation=text,
        found=tuple(printable(line, 400) for line in (*verdict.contradicts, *verdict.missing)),
    )


class Fingerprints:
    """What no two students have in common by accident, and who has it."""

    def __init__(self) -> None:
        """Start without any."""
        self.seen: dict[tuple[str, Any], list[int]] = {}
        self.count = 0

    def add(self, submission: Submission) -> None:
        """Take the fingerprints of the next submission."""
        number, self.count = self.count, self.count + 1
        for record in submission.records.values():
            self._put("record", record.id, number)
            times = tuple(step.get("seconds") for step in record.steps)
            if len(times) >= FEWEST_TIMED_STEPS and None not in times:
                self._put("step times of a run", hash(times), number)
        for point in submission.points:
            if seconds := point.get("step_seconds"):
                self._put("step time of a sweep", seconds, number)
        for measured in submission.measurements:
            # Errors of arithmetic are the same for everybody; times are not.
            taken = {k: v for k, v in measured["values"].items() if "seconds" in k and v}
            if taken:
                what = f"measured times of {printable(measured['kind'], 20)}"
                self._put(what, json.dumps(taken, sort_keys=True), number)
        for question, entry in submission.answers.items():
            text = entry["fields"].get("explanation")
            words = text.lower().split() if isinstance(text, str) else []
            if len(words) >= FEWEST_SHARED_WORDS:
                self._put(f"explanation of {printable(question, 20)}", hash(tuple(words)), number)

    def _put(self, what: str, value: Any, number: int) -> None:
        numbers = self.seen.setdefault((what, value), [])
        if number not in numbers:
            numbers.append(number)

    def shared(self, submissions: list[Submission]) -> dict[int, list[str]]:
        """Return the flags of each submission that shares something with another student's."""
        flags: dict[int, list[str]] = {}
        for (what, value), numbers in self.seen.items():
            for number in numbers:
                me = submissions[number].student
                others = [n for n in numbers if submissions[n].student != me]
                if others:
                    named = ", ".join(submissions[n].student for n in others[:MOST_NAMES])
                    named += f" and {len(others) - MOST_NAMES} more" * (len(others) > MOST_NAMES)
                    which = f" {printable(str(value), 60)}" if what == "record" else ""
                    line = f"the same {what}{which} as {named}"
                    if line not in flags.setdefault(number, []):
                        flags[number].append(line)
        return flags


def guarded(text: str) -> str:
    """Return text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.lstrip().startswith(FORMULA) or text[:1].isspace() else text


def to_csv(graded: Iterable[Graded]) -> str:
    """Return the grades: a line for each submission, three columns for each question."""
    asked = load_questions().values()
    out = io.StringIO()
    writer = csv.writer(out)
    head = ["student", "submission", "points", "of", "flags", "remarks"]
    for each in asked:
        name = each.id + (f" = {each.assignment}" if each.assignment else "")
        head += [f"{name} (of {each.points})", f"{each.id} explanation", f"{each.id} rubric"]
    writer.writerow(head)
    total = sum(each.points for each in asked)
    for row in graded:
        submission = row.submission
        cells: list[Any] = [guarded(submission.student), guarded(submission.source)]
        cells += [f"{row.points:g}", total]
        cells += [guarded("; ".join(row.flags)), guarded("; ".join(submission.remarks))]
        for each in asked:
            mark = row.marks[each.id]
            cells += [f"{mark.points:g}", guarded(mark.explanation), ""]
        writer.writerow(cells)
    return out.getvalue()


def write_grades(place: Path, out: Path) -> dict[str, Any]:
    """Grade a folder of submissions; write the CSV and a summary page beside it.

    Raises LabkitError when there is nothing to grade or the files cannot be written.
    """
    from labkit.checkpoints.summary import page

    if out.suffix.lower() != ".csv":
        raise LabkitError(f"-o {out}: give a file name that ends in .csv")
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise LabkitError(f"-o {out}: give a file in a folder that exists")
    graded, ignored = grade(place)
    pairs = alike.pairs(explanations(graded))
    summary = out.with_suffix(".html")
    write_together({out: to_csv(graded), summary: page(graded, ignored, pairs)})
    flagged = [each.submission.student for each in graded if each.flags]
    return {
        "submissions": len(graded),
        "grades": str(out),
        "summary": str(summary),
        "points_possible": sum(each.points for each in load_questions().values()),
        "flagged": flagged,
        "with_remarks": [each.submission.student for each in graded if each.submission.remarks],
        "alike": [[pair.question, pair.one, pair.other, round(pair.ratio, 3)] for pair in pairs],
        "ignored": ignored,
    }


def explanations(graded: Iterable[Graded]) -> dict[str, dict[str, str]]:
    """Return the explanations of each question by student, those that were written."""
    found: dict[str, dict[str, str]] = {name: {} for name in load_questions()}
    for each in graded:
        for name, mark in each.marks.items():
            if mark.explanation:
                found[name][each.submission.student] = mark.explanation
    return found


def write_together(contents: Mapping[Path, str]) -> None:
    """Write files so that none of them changes unless all are complete on the disk."""
    temporary = {path: path.with_name(f".{path.name}.{records.new_id()}") for path in contents}
    try:
        for path, text in contents.items():
            # Half a character in a student's file must not cost the others their grades.
            temporary[path].write_text(
                text, encoding="utf-8", errors="backslashreplace", newline=""
            )
        for path in contents:
            temporary[path].replace(path)
    except OSError as error:
        raise LabkitError(f"{error.filename} cannot be written: {error.strerror}") from None
    finally:
        for path in temporary.values():
            with suppress(OSError):
                path.unlink(missing_ok=True)


def render(outcome: Mapping[str, Any]) -> str:
    """Return what was graded as a few lines of text."""
    lines = [f"{outcome['submissions']} submissions graded"]
    lines += [f"  grades   {outcome['grades']}", f"  summary  {outcome['summary']}"]
    for key, text in (("flagged", "to look into"), ("with_remarks", "with remarks")):
        names = outcome[key]
        if names:
            more = f" and {len(names) - 10} more" if len(names) > 10 else ""
            lines.append(f"  {text}: {', '.join(names[:10])}{more}")
    if names := outcome["ignored"]:
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        lines.append(f"  left aside: {', '.join(names[:10])}{more}")
    if outcome["alike"]:
        lines.append(f"  {len(outcome['alike'])} pairs of explanations are alike: see the summary")
    return "\n".join(lines)
