"""Read the questions, and validate the form of the values that answer them.

Each lesson has a file `lessons/questions_NN.yaml` with its questions: text, points, what
consistency means in words, and the fields of the answer with their types. A field is one of

    number   any finite number          integer  a whole number
    text     words, not a lone symbol   choice   one of `options`
    run      one of the student's runs: a record, its name or its id
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from labkit.checkpoints.collecting import FOLDER
from labkit.errors import LabkitError, nearest
from labkit.runs import records

TYPES = ("number", "integer", "text", "choice", "run")
LONGEST_TEXT = 20_000
LARGEST = 1e30  # beyond any byte, second or operation that a student counts


@dataclass(frozen=True, kw_only=True)
class Field:
    """One part of an answer."""

    name: str
    type: str
    text: str
    unit: str = ""
    options: tuple[str, ...] = ()

    @property
    def unit_text(self) -> str:
        """The unit or the options, in brackets, for a person who has to fill the field."""
        said = " | ".join(self.options) or self.unit
        return f" [{said}]" if said else ""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question: what is asked, how many points it is worth, what a right answer agrees with."""

    id: str
    lesson: str
    text: str
    consistent: str
    points: int
    fields: tuple[Field, ...]
    assignment: str = ""
    marked: bool = False
    """whether a person marks its explanation: one question a lesson"""

    @property
    def title(self) -> str:
        """The question's number, and the one it has in the assignment."""
        also = f" (assignment {self.assignment})" if self.assignment else ""
        return f"Question {self.id}{also}"


def marked_questions() -> tuple[str, ...]:
    """Return the ids of the questions whose explanations are marked, one a lesson."""
    return tuple(asked.id for asked in load_questions().values() if asked.marked)


@cache
def load_questions() -> Mapping[str, Question]:
    """Return all questions by id, in the order of the lessons."""
    import yaml

    found: dict[str, Question] = {}
    for path in sorted(FOLDER.glob("questions_*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        for entry in content["questions"]:
            fields = tuple(
                Field(name=name, **{**value, "options": tuple(value.get("options", ()))})
                for name, value in entry.pop("fields").items()
            )
            asked = Question(lesson=content["lesson"], fields=fields, **entry)
            found[asked.id] = asked
    return found


def question(question_id: str) -> Question:
    """Return one question, by its id or by its number in the assignment.

    Raises LabkitError for an id that nobody asks.
    """
    known = load_questions()
    named = {asked.assignment: asked for asked in known.values() if asked.assignment} | dict(known)
    if question_id not in named:
        hint = nearest(str(question_id), named)
        raise LabkitError(f"there is no question {question_id!r}: {hint}")
    return named[question_id]


def parse(
    asked: Question,
    given: Mapping[str, Any],
    runs: Iterable[records.RunRecord] | None = None,
    place: str = "",
) -> dict[str, Any]:
    """Return the given values as the types of the question's fields; None where not answered.

    A run is one of `runs`, by default one of those on this machine; `place` says in an error where
    it should have been. Raises LabkitError naming question, field, and what would be right.
    """
    names = [field.name for field in asked.fields]
    for name in given:
        if name not in names:
            raise LabkitError(f"question {asked.id} has no field {name!r}: {nearest(name, names)}")
    known = records.records() if runs is None else list(runs)
    place = place or f"in {records.runs_dir()}"
    return {
        field.name: _value(asked, field, given.get(field.name), known, place)
        for field in asked.fields
    }


def _value(
    asked: Question, field: Field, value: Any, runs: Sequence[records.RunRecord], place: str
) -> Any:
    if value is None or value is ... or (isinstance(value, str) and not value.strip(" .…?")):
        return None
    where = f"question {asked.id}, {field.name}"
    if field.type in ("number", "integer"):
        # NumPy's scalars and torch's zero-dimensional tensors are numbers to a student.
        with contextlib.suppress(ValueError, RuntimeError, TypeError):
            value = value.item() if hasattr(value, "item") else value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise LabkitError(f"{where}: give a number{field.unit_text}, not {_short(value)}")
        if not abs(value) < LARGEST:
            raise LabkitError(f"{where}: {_short(value)} is not a number that was measured")
        if field.type == "integer" and value != int(value):
            raise LabkitError(f"{where}: give a whole number{field.unit_text}, not {_short(value)}")
        return int(value) if field.type == "integer" else float(value)
    if field.type == "run":
        return _run(where, value, runs, place)
    if not isinstance(value, str):
        raise LabkitError(f"{where}: give text in quotes, not {_short(value)}")
    if field.type == "choice" and value not in field.options:
        raise LabkitError(f"{where}: give one of {', '.join(field.options)}, not {_short(value)}")
    if len(value) > LONGEST_TEXT:
        raise LabkitError(f"{where}: {len(value)} characters are more than {LONGEST_TEXT}")
    return value.strip()


def _run(
    where: str, value: Any, runs: Sequence[records.RunRecord], place: str
) -> records.RunRecord:
    """Return the student's record that a record, a name or an id stands for."""
    wanted = value.id if isinstance(value, records.RunRecord) else value
    for record in runs:
        if wanted in (record.id, record.name):
            return record
    names = [record.name for record in runs]
    hint = nearest(str(wanted), names) if names else "there are no runs yet"
    raise LabkitError(f"{where}: no run {_short(wanted)} {place}: {hint}")


def from_words(asked: Question, words: Mapping[str, str]) -> dict[str, Any]:
    """Return answers given as words on a command line, numbers read where the field is one."""
    types = {field.name: field.type for field in asked.fields}
    given: dict[str, Any] = dict(words)
    for name, word in words.items():
        if types.get(name) in ("number", "integer"):
            with contextlib.suppress(ValueError):
                given[name] = float(word)
    return given


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        text = "a number of thousands of digits"
    return text if len(text) <= 40 else text[:39] + "…"
