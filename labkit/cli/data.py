"""Define the commands of `labkit data`: show, list, and audit and reverse from `corpus`."""

from typing import Annotated

import typer

from labkit.cli import corpus
from labkit.cli.options import FREE_FORM, Json, emit, key_values

app = typer.Typer(
    help="Look at training data as the model gets it, and check it.", no_args_is_help=True
)


@app.callback()
def data() -> None:
    """Look at training data as the model gets it."""


@app.command(context_settings=FREE_FORM)
def show(
    context: typer.Context,
    config: Annotated[str, typer.Argument(help="a configuration: a file, or a shipped one's name")],
    n: Annotated[int, typer.Option(help="how many samples to show")] = 3,
    split: Annotated[str, typer.Option(help="train, dev or test")] = "train",
    json_: Json = False,
) -> None:
    """Show every token with its label or –, the end token, and what was cut; warn of mistakes.

    Settings of the configuration are changed as with train: --key value.
    """
    from labkit.runs.config import load_config
    from labkit.train import samples_shown as shown

    found = shown.show(load_config(config, key_values(context.args)), count=n, split=split)
    emit(found, json_, shown.render(found))


@app.command("list")
def list_(json_: Json = False) -> None:
    """List the data sets there are: what they can be trained for, licence and source."""
    from labkit.datasets.registry import DATASETS

    found = [
        {"name": name, "tasks": [data.task, *data.also], "licence": data.licence,
         "source": data.source}
        for name, data in DATASETS.items()
    ]  # fmt: skip
    lines = [
        f"{data['name']}  ({', '.join(data['tasks'])}; {data['licence']})\n    {data['source']}"
        for data in found
    ]
    emit({"data": found}, json_, "\n".join(lines))


app.command()(corpus.audit)
app.command()(corpus.reverse)
