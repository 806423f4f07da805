"""Define the command stats."""

from pathlib import Path
from typing import Annotated

import typer

from labkit.cli.options import Json, emit

Side = "records, Trainer logs, lm-eval results or scores: a file or a folder"


def stats(
    a: Annotated[Path, typer.Argument(help=Side)],
    b: Annotated[Path, typer.Argument(help="the same for the other side")],
    more: Annotated[
        list[Path] | None, typer.Argument(help="more pairs C D …, such as another data set")
    ] = None,
    alpha: Annotated[float, typer.Option(help="how often a false alarm is accepted")] = 0.05,
    margin: Annotated[
        float | None, typer.Option(help="largest difference of scores that counts as equal: 0.02")
    ] = None,
    output_dir: Annotated[Path, typer.Option(help="folder for stats.json and stats.png")] = Path(
        "stats"
    ),
    json_: Json = False,
) -> None:
    """Say whether B is faster or better than A, by how much, and how sure that is.

    With A B C D … each pair is compared, and what is significant counts all of them (Holm).
    """
    from labkit.significance import compare as significance
    from labkit.significance import show

    outcome = significance.compare(a, b, *(more or []), alpha=alpha, margin=margin,
                                   output_dir=output_dir)  # fmt: skip
    emit(outcome.to_json(), json_, f"{show.render(outcome)}\nfigure and numbers in {output_dir}")
