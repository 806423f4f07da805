"""Define the commands check and grade."""

from pathlib import Path
from typing import Annotated

import typer

from labkit.cli.options import Json, emit, key_values
from labkit.errors import LabkitError


def check(
    context: typer.Context,
    question: Annotated[str | None, typer.Argument(help="such as 02.1; all when left out")] = None,
    hand_in: Annotated[
        Path | None, typer.Option(help="write answers and records, no weights, into this zip")
    ] = None,
    json_: Json = False,
) -> None:
    """Answer a checkpoint question with --field value, or show where the answers stand."""
    from labkit import checkpoints

    words = key_values(context.args)
    if hand_in is not None:
        if question is not None or words:
            raise LabkitError("--hand-in takes every answer: leave the question out")
        packed = checkpoints.hand_in(hand_in)
        emit(packed, json_, f"{packed['answers']} answers and {packed['runs']} runs in {hand_in}")
    elif question is None:
        if words:
            raise LabkitError(f"--{next(iter(words))}: say which question it answers, such as 02.1")
        rows = checkpoints.status()
        emit({"questions": rows}, json_, checkpoints.render_status(rows))
    else:
        verdict = checkpoints.answer(question, words)
        rows = [row for row in checkpoints.status() if row["id"] == verdict.about]
        emit({"questions": rows, "verdict": verdict.to_json()}, json_, str(verdict))


def grade(
    submissions: Annotated[
        Path, typer.Argument(help="folder of folders, zips and notebooks; a class's zip; a CSV")
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="the CSV to write")] = None,
    join: Annotated[
        Path | None,
        typer.Option(help="exercises.csv of the gradebook: write one mark a student"),
    ] = None,
    lesson: Annotated[
        list[str] | None, typer.Option(help="with --join: count only this lesson, such as 02")
    ] = None,
    json_: Json = False,
) -> None:
    """Grade what students handed in, from their records and without executing anything.

    With --join, SUBMISSIONS is the CSV that this wrote, its rubric columns filled in, and the
    mark is 50 for questions, 25 for exercises and 25 for explanations.
    """
    if join is not None:
        from labkit.checkpoints import join as join_

        joined = join_.write_marks(submissions, join, out or Path("marks.csv"), lesson or ())
        emit(joined, json_, join_.render(joined))
        return
    if lesson:
        raise LabkitError("--lesson says which lessons a mark counts: give --join exercises.csv")
    from labkit.checkpoints import grade as grade_

    outcome = grade_.write_grades(submissions, out or Path("grades.csv"))
    emit(outcome, json_, grade_.render(outcome))
