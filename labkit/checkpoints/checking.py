"""Check a student's answers to checkpoint questions against the student's own measurements.

An answer key with one machine's numbers would be wrong on every other machine. What can be
checked anywhere is whether an answer agrees with itself and with the records of the person who
gives it: a ratio is the ratio of the two runs it names, a setting said not to change the memory
does not change it in any pair of runs that differ in that setting alone.

    check("02.2", lora_run=lora, full_run=full, time_ratio=1.4, memory_ratio=2.1, explanation="…")

records the answer with the runs it rests on and says what is consistent, what contradicts, and
what is missing. A message never gives the number away: it names the contradiction, and where to
look again. `check.exercise("lora_forward", my_function)` does the same for code.
"""

import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from labkit.checkpoints import answers, exercises
from labkit.checkpoints.card import Verdict
from labkit.checkpoints.collecting import collect
from labkit.checkpoints.questions import Question, from_words, load_questions, parse, question
from labkit.checkpoints.rules import Evidence


def judge(asked: Question, values: dict[str, Any], evidence: Evidence) -> Verdict:
    """Return what is consistent, contradictory and missing in an answer, recording nothing.

    `values` are parsed already; None stands for a field that is not answered.
    """
    verdict = Verdict(title=asked.title, text=asked.text, about=asked.id)
    for field in asked.fields:
        if values.get(field.name) is None:
            verdict.missing.append(f"{field.name}: {field.text}{field.unit_text}")
    if len(verdict.missing) == len(asked.fields):
        verdict.unanswered = True
        return verdict
    try:
        for finding in collect("rules")[asked.id](values, evidence):
            getattr(verdict, finding.kind).append(finding.text)
    except ArithmeticError:
        verdict.contradicts.append("a number is far from anything that could be measured")
    return verdict


class _Check:
    """Callable as `check(question, **answers)`; `check.exercise(name, function)` checks code."""

    def __call__(self, question_id: str, **given: Any) -> Verdict:
        """Record an answer and return what is consistent with the student's own records.

        A field that is None or ... is not answered yet. Raises LabkitError for a question or a
        field that nobody asks, a value of the wrong type, a run that does not exist.
        """
        asked = question(question_id)
        evidence = Evidence()
        values = parse(asked, given, evidence.runs)
        verdict = judge(asked, values, evidence)
        if not verdict.unanswered:
            verdict.carries = answers.record(asked, values, verdict, evidence)
            verdict.recorded = True
        return verdict

    def exercise(self, name: str, function: Callable[..., Any]) -> Verdict:
        """Run a student's function against the reference and say which property fails.

        Any callable with the right signature will do. Raises LabkitError for an unknown name.
        """
        return exercises.run(name, function)


check = _Check()


def answer(question_id: str, words: Mapping[str, str]) -> Verdict:
    """Record an answer given as words, or without any review the one that is recorded.

    A recorded answer is judged by the records as they are now. Raises LabkitError as `check` does.
    """
    asked = question(question_id)
    if words:
        return check(asked.id, **from_words(asked, words))
    given = answers.read().get(asked.id, {}).get("fields", {})
    evidence = Evidence()
    verdict = judge(asked, parse(asked, given, evidence.runs), evidence)
    verdict.recorded = not verdict.unanswered
    return verdict


def status() -> list[dict[str, Any]]:
    """Return one entry per question, with its state.

    unanswered, contradicts, incomplete or consistent: as it was when the answer was given.
    """
    given = answers.read()
    return [
        {"id": asked.id, "assignment": asked.assignment, "lesson": asked.lesson}
        | {"points": asked.points, "text": asked.text}
        | {"state": given.get(asked.id, {}).get("state", "unanswered")}
        for asked in load_questions().values()
    ]


def render_status(rows: list[dict[str, Any]]) -> str:
    """Return a line for each question, its numbers, its state and what it asks."""
    lines = []
    for row in rows:
        number = row["id"] + (f" = {row['assignment']}" if row["assignment"] else "")
        text = textwrap.shorten(row["text"], 100, placeholder=" …")
        lines.append(f"{number:<11} {row['state']:<12} {text}")
    return "\n".join(lines)
