"""Join the three parts of a student's work into one mark out of 100.

    mark = 50 · points of questions / possible        `labkit grade DIR -o questions.csv`
         + 25 · points of exercises / possible        `nbgrader export`, LessonExport
         + 25 · rubric of explanations / possible     typed into the rubric columns by a person

Of explanations one a lesson counts, that of the question marked in `questions_NN.yaml`; the rubric
gives 0 to `RUBRIC` points. An answer without an explanation has 0 without anybody reading it. A
student whose explanation nobody has marked yet gets no mark but a reason, and so does everybody
else who lacks a part: nobody is silently at 0.

Both tables may come back from a spreadsheet: comma, semicolon or tab between the cells, a decimal
comma, a byte-order mark, an apostrophe before what looks like a formula.

Marks are written three times: for people, for Canvas (`Student, ID, SIS User ID, SIS Login ID,
Section, the assignment`) and for Moodle (`Identifier, …, Grade, Maximum Grade, Last modified
(grade), Feedback comments`, its grading worksheet). A folder that came out of a platform's zip has
the platform's id in its name; any other name is taken for the student's login.

Sources: Canvas, `lib/gradebook_importer.rb`; Moodle, `mod/assign/feedback/offline`.
"""

import csv
import io
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labkit.checkpoints.class_zip import identity
from labkit.checkpoints.grade import FORMULA, guarded, write_together
from labkit.checkpoints.questions import marked_questions
from labkit.errors import LabkitError

QUESTIONS, EXERCISES, EXPLANATIONS = 50.0, 25.0, 25.0
RUBRIC = 3
POINTS = re.compile(r"(\d\d\.\d+)(?: = [\w.]+)? \(of (\d+(?:\.\d+)?)\)")
MOST_BYTES = 64 * 2**20

Row = Mapping[str, str]


@dataclass(kw_only=True)
class Part:
    """Points of one of the three parts."""

    points: float = 0.0
    possible: float = 0.0

    def share(self, worth: float) -> float:
        """Return the part's share of the mark."""
        return worth * self.points / self.possible if self.possible else 0.0


@dataclass(kw_only=True)
class Joined:
    """One student's parts, and what has to be said about them."""

    student: str
    questions: Part
    exercises: Part
    explanations: Part
    unmarked: list[str] = field(default_factory=list)
    """questions whose explanation waits for its rubric points"""
    reasons: list[str] = field(default_factory=list)
    """why points are missing, in words that the student may read"""
    notes: list[str] = field(default_factory=list)
    """what a person should look into, which names other students: for the instructor alone"""

    @property
    def mark(self) -> float | None:
        """The mark out of 100 to a tenth, or None while an explanation waits for its points."""
        if self.unmarked:
            return None
        return round(self.questions.share(QUESTIONS) + self.exercises.share(EXERCISES)
                     + self.explanations.share(EXPLANATIONS), 1)  # fmt: skip


def join(
    questions: Sequence[Row], exercises: Sequence[Row], lessons: Collection[str] = ()
) -> list[Joined]:
    """Join the rows of both tables by student, in the order of their names.

    `lessons` are the numbers of those that count, such as "02"; all of the tables' when empty.
    Raises LabkitError for a cell that is no number of points, naming student and column.
    """
    answered = _best(questions, lessons)
    possible: dict[str, float] = {}
    for row in exercises:
        if not lessons or row["lesson"][:2] in lessons:
            worth = _number(row, "of", row["student"])
            possible[row["lesson"]] = max(worth, possible.get(row["lesson"], 0.0))
    solved: dict[str, list[Row]] = {}
    for row in exercises:
        if row["lesson"] in possible:
            solved.setdefault(unguarded(row["student"]), []).append(row)
    asked = _asked(questions, lessons)
    joined = []
    for student in sorted({*answered, *solved}):
        each = answered.get(student) or Joined(
            student=student, questions=Part(), exercises=Part(), explanations=Part(),
            reasons=["no answers handed in"],
        )  # fmt: skip
        each.questions.possible = sum(asked.values())
        each.explanations.possible = RUBRIC * len([q for q in marked_questions() if q in asked])
        each.exercises = Part(possible=sum(possible.values()))
        _add_exercises(each, solved.get(student), possible)
        joined.append(each)
    return joined


def _asked(questions: Sequence[Row], lessons: Collection[str]) -> dict[str, float]:
    """Return the points of each question that counts, by the heads of the table."""
    found = {}
    for head in questions[0] if questions else ():
        if (match := POINTS.fullmatch(head)) and (not lessons or match[1][:2] in lessons):
            found[match[1]] = float(match[2])
    return found


def _best(questions: Sequence[Row], lessons: Collection[str]) -> dict[str, Joined]:
    """Return each student's answers; of two submissions those with more points."""
    asked = _asked(questions, lessons)
    found: dict[str, Joined] = {}
    for row in questions:
        student = unguarded(row["student"])
        each = Joined(student=student, questions=Part(), exercises=Part(), explanations=Part())
        for head in row:
            match = POINTS.fullmatch(head)
            if match and match[1] in asked:
                each.questions.points += _points(row, head, student, asked[match[1]])
        for question in marked_questions():
            if question in asked:
                _add_explanation(each, row, question)
        for column in ("flags", "remarks"):
            each.notes += [unguarded(row[column])] if row.get(column) else []
        known = found.get(student)
        if known is not None:
            better = max(known, each, key=lambda one: one.questions.points)
            better.reasons.append("handed in more than once: the better one counts")
            each = better
        found[student] = each
    return found


def _add_explanation(each: Joined, row: Row, question: str) -> None:
    head = f"{question} rubric"
    if row.get(head, "").strip():
        each.explanations.points += _points(row, head, each.student, RUBRIC)
    elif row.get(f"{question} explanation", "").strip():
        each.unmarked.append(question)
        each.reasons.append(f"the explanation of {question} has no rubric points yet")
    else:
        each.reasons.append(f"no explanation of {question}")


def _add_exercises(each: Joined, rows: Sequence[Row] | None, possible: Mapping[str, float]) -> None:
    if rows is None:
        if possible:
            each.reasons.append("no notebook in the gradebook")
        return
    for row in rows:
        of = possible[row["lesson"]]
        each.exercises.points += _points(row, "points", each.student, of)
        if row.get("needs_reading", "").strip().lower() == "true":
            each.reasons.append(f"{row['lesson']}: a person has to grade it in the gradebook")
        if row.get("handed_in", "").strip().lower() == "false":
            each.reasons.append(f"{row['lesson']}: no notebook that could be graded")
        late = row.get("late_hours", "").strip()
        if late and (hours := _number(row, "late_hours", each.student)) > 0:
            each.reasons.append(f"{row['lesson']}: {hours:g} hours late")


def _points(row: Row, column: str, student: str, most: float) -> float:
    value = _number(row, column, student)
    if not 0 <= value <= most:
        raise LabkitError(f"{student}, column {column!r}: {value:g} is not from 0 to {most:g}")
    return value


def _number(row: Row, column: str, student: str) -> float:
    text = row.get(column, "").strip().lstrip("'").replace(",", ".")
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if value - value != 0:
        raise LabkitError(f"{student}, column {column!r}: {text!r} is not a number of points")
    return value


def unguarded(text: str) -> str:
    """Return text without the apostrophe that keeps a spreadsheet from taking it for a formula."""
    inner = text[1:]
    guard = text.startswith("'") and (inner.lstrip().startswith(FORMULA) or inner[:1].isspace())
    return inner if guard else text


def read_table(file: Path, needed: Iterable[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV by column, however a spreadsheet saved it.

    Raises LabkitError for what is no such table, or has not the columns `needed`.
    """
    try:
        with open(file, "rb") as handle:
            content = handle.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or error
        raise LabkitError(f"{file} cannot be read: {reason}") from None
    if len(content) > MOST_BYTES:
        raise LabkitError(f"{file} is larger than {MOST_BYTES / 2**20:g} MiB, more than any table "
                          "of marks")  # fmt: skip
    try:
        wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        raise LabkitError(f"{file} is not text in UTF-8: save it as CSV in UTF-8") from None
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise LabkitError(f"{file} is not a readable CSV: {error}") from None
    columns = rows[0] if rows else []
    missing = [name for name in needed if name not in columns]
    if missing:
        raise LabkitError(f"{file} has no column {missing[0]!r}: give the table as it was written")
    full = ([*row, *[""] * len(columns)] for row in rows[1:] if any(row))
    return [dict(zip(columns, row, strict=False)) for row in full]


def write_marks(
    questions: Path, exercises: Path, out: Path, lessons: Sequence[str] = ()
) -> dict[str, Any]:
    """Join two tables; write marks for people, for Canvas and for Moodle; return what was done.

    Raises LabkitError when a table cannot be read or the files cannot be written.
    """
    if out.suffix.lower() != ".csv":
        raise LabkitError(f"-o {out}: give a file name that ends in .csv")
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise LabkitError(f"-o {out}: give a file in a folder that exists")
    answers = read_table(questions, ("student", "points"))
    if answers and not _asked(answers, ()):
        raise LabkitError(f"{questions} has no column such as '00.1 (of 1)': give the table that "
                          "labkit grade wrote")  # fmt: skip
    solved = read_table(exercises, ("student", "lesson", "points", "of"))
    known = {head[:2] for head in _asked(answers, ())} | {row["lesson"][:2] for row in solved}
    for lesson in lessons:
        if lesson not in known:
            raise LabkitError(f"--lesson {lesson}: the tables have {', '.join(sorted(known))}")
    joined = join(answers, solved, lessons)
    if not joined:
        raise LabkitError(f"{questions} and {exercises} have no student in them")
    title = "labkit" + "".join(f" {lesson}" for lesson in lessons)
    files = {out: to_csv(joined), out.with_suffix(".canvas.csv"): to_canvas(joined, title),
             out.with_suffix(".moodle.csv"): to_moodle(joined)}  # fmt: skip
    write_together(files)
    return {
        "students": len(joined),
        "marks": str(out),
        "canvas": str(out.with_suffix(".canvas.csv")),
        "moodle": str(out.with_suffix(".moodle.csv")),
        "without_mark": [each.student for each in joined if each.mark is None],
        "with_reasons": [each.student for each in joined if each.reasons],
    }


def _table(rows: Iterable[Iterable[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue()


def _shown(mark: float | None) -> str:
    return "" if mark is None else f"{mark:g}"


def to_csv(joined: Iterable[Joined]) -> str:
    """Return a line for each student: the mark, its parts, reasons, and what to look into."""
    parts = (("questions", QUESTIONS), ("exercises", EXERCISES), ("explanations", EXPLANATIONS))
    titles = [f"{name} (of {worth:g})" for name, worth in parts]
    rows: list[list[str]] = [["student", "mark", *titles, "reasons", "to look into"]]
    for each in joined:
        shares = [f"{getattr(each, name).share(worth):.1f}" for name, worth in parts]
        rows.append([guarded(each.student), _shown(each.mark), *shares,
                     guarded("; ".join(each.reasons)), guarded("; ".join(each.notes))])  # fmt: skip
    return _table(rows)


def to_canvas(joined: Iterable[Joined], title: str) -> str:
    """Return the marks as Canvas imports them into its gradebook, as an assignment `title`."""
    rows: list[list[str]] = [
        ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", title],
        ["Points Possible", "", "", "", "", "100"],
    ]
    for each in joined:
        platform, number, name = identity(each.student) or ("", "", each.student)
        own = platform == "canvas"
        rows.append([guarded(name), number if own else "", "", "" if own else guarded(each.student),
                     "", _shown(each.mark)])  # fmt: skip
    return _table(rows)


def to_moodle(joined: Iterable[Joined]) -> str:
    """Return the marks as Moodle's grading worksheet; a login is there for its plain import."""
    rows: list[list[str]] = [["Identifier", "Username", "Full name", "Grade", "Maximum Grade",
                              "Last modified (grade)", "Feedback comments"]]  # fmt: skip
    for each in joined:
        platform, number, name = identity(each.student) or ("", "", each.student)
        own = platform == "moodle"
        rows.append([f"Participant {number}" if own else "", "" if own else guarded(each.student),
                     guarded(name), _shown(each.mark), "100", "",
                     guarded("; ".join(each.reasons))])  # fmt: skip
    return _table(rows)


def render(outcome: Mapping[str, Any]) -> str:
    """Return what was joined as a few lines of text."""
    waiting = outcome["without_mark"]
    lines = [f"{outcome['students'] - len(waiting)} of {outcome['students']} students have a mark"]
    lines += [f"  {name:<7}{outcome[name]}" for name in ("marks", "canvas", "moodle")]
    if waiting:
        more = f" and {len(waiting) - 10} more" if len(waiting) > 10 else ""
        lines.append(f"  explanations wait for rubric points: {', '.join(waiting[:10])}{more}")
    return "\n".join(lines)
