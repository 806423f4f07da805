"""Define the commands build-dataset and data audit."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from labkit.cli.options import Json, emit
from labkit.errors import LabkitError


def build_dataset(
    places: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE... OUT", help="folders or files to read, folder to write"),
    ],
    form: Annotated[str, typer.Option(help="instructions, or text for pretraining")] = (
        "instructions"
    ),
    languages: Annotated[
        str, typer.Option(help="ISO codes to keep, such as ru,en; all when left out")
    ] = "",
    rule: Annotated[
        list[str] | None,
        typer.Option(help="change a rule: NAME=NUMBER, or NAME=off; may be given again"),
    ] = None,
    near: Annotated[
        float, typer.Option(min=0.1, max=1.0, help="Jaccard index of near-duplicates")
    ] = 0.8,
    against: Annotated[
        list[str] | None,
        typer.Option(help="test to keep out beside tables and tatqa: a file; may be given again"),
    ] = None,
    mask: Annotated[bool, typer.Option("--mask/--no-mask", help="mask personal data")] = True,
    fractions: Annotated[str, typer.Option(help="of train, dev and test")] = "0.9,0.05,0.05",
    seed: Annotated[int, typer.Option(help="of the split, the order and the wordings")] = 0,
    licence: Annotated[str, typer.Option(help="of records that state none, by its SPDX name")] = "",
    parquet: Annotated[bool, typer.Option("--parquet", help="Parquet instead of JSONL")] = False,
    workers: Annotated[int, typer.Option(min=0, help="processes; all cores when 0")] = 0,
    json_: Json = False,
) -> None:
    """Build a data set from raw text: cleaned, de-duplicated, decontaminated, split, with a card.

    Reads text, HTML, Markdown, JSONL, CSV and MediaWiki dumps, also in gz, bz2 and xz. Cut off, the
    same command goes on where it stopped.
    """
    if len(places) < 2:
        raise LabkitError("build-dataset needs at least one SOURCE and then OUT, a new folder")
    from labkit.datasets.corpus import quality
    from labkit.datasets.corpus.build import build
    from labkit.datasets.corpus.unit import FORMS, Settings

    if form not in FORMS:
        raise LabkitError(f"--form is {form!r}, but it is one of {', '.join(FORMS)}")
    changes = {}
    for each in rule or []:
        name, equals, value = each.partition("=")
        if not equals:
            raise LabkitError(f"--rule is {each!r}: write NAME=NUMBER or NAME=off")
        changes[name] = value
    report = build(
        places[:-1], Path(places[-1]),
        Settings(
            form=form, languages=tuple(filter(None, languages.replace(" ", "").split(","))),
            limits=quality.limits(changes), near=near,
            against=("tables", "tatqa", *(against or [])), mask=mask,
            fractions=_fractions(fractions), seed=seed, licence=licence, parquet=parquet,
        ),
        workers=workers,
    )  # fmt: skip
    records = ", ".join(f"{count:,} {split}" for split, count in report["records"].items())
    removed = sum(report["removed"].values())
    lines = [
        f"{places[-1]}: {records}",
        f"{report['read']:,} texts read, {removed:,} removed by filters, "
        f"{report['exact_duplicates']:,} exact and {report['near_duplicates']:,} near-duplicates, "
        f"{len(report['tests']['found']):,} test items found and kept out",
        f"what each filter removed, by example: {Path(places[-1]) / 'README.md'}",
    ]
    if report["refused"]:
        lines.append(f"{report['refused']:,} files or places were not read, such as:")
        lines += [f"  {place}: {reason}" for place, reason in report["refused_places"][:10]]
    emit(report, json_, "\n".join(lines))


def _fractions(text: str) -> tuple[float, float, float]:
    try:
        train, dev, test = (float(part) for part in text.split(","))
    except ValueError:
        raise LabkitError(f"--fractions is {text!r}: write three numbers, such as 0.9,0.05,0.05"
                          ) from None  # fmt: skip
    if min(train, dev, test) < 0 or abs(train + dev + test - 1) > 1e-6 or not train:
        raise LabkitError(f"--fractions is {text!r}, but the three are positive and make 1")
    return train, dev, test


def audit(
    file: Annotated[str, typer.Argument(help="JSONL or CSV file, folder of them, or 'tables' …")],
    near: Annotated[
        float, typer.Option(min=0.1, max=1.0, help="Jaccard index of near-duplicates")
    ] = 0.8,
    against: Annotated[
        list[str] | None,
        typer.Option(help="test that may not be in it beside tables: tatqa, or a file"),
    ] = None,
    model: Annotated[
        str, typer.Option(help="count tokens with this model's tokenizer; not at all without")
    ] = "",
    max_length: Annotated[int, typer.Option(min=1, help="window, in tokens")] = 1024,
    json_: Json = False,
) -> None:
    """Check a data set: duplicates across splits, empty or cut answers, leaks, mojibake, tests."""
    from labkit.datasets.corpus import audit as auditing

    report = auditing.audit(
        file, near=near, against=("tables", *(against or [])), max_length=max_length,
        tokens=_counter(model) if model else None,
    )  # fmt: skip
    emit(report, json_, auditing.render(report))


def _counter(model: str) -> Callable[[list[str]], list[int]]:
    from labkit.models.load import load_tokenizer

    tokenizer = load_tokenizer(model)
    return lambda texts: [len(ids) for ids in tokenizer(texts)["input_ids"]]


def reverse(
    source: Annotated[Path, typer.Argument(help="JSON lines with text: build with --form text")],
    out: Annotated[Path, typer.Argument(help="file to write, JSON lines of messages")],
    model: Annotated[str, typer.Option(help="who writes the requests: a model, or a run")],
    server: Annotated[
        str, typer.Option(help="ask the model of an OpenAI-compatible server, at its /v1")
    ] = "",
    most: Annotated[int | None, typer.Option(min=1, help="only the first so many texts")] = None,
    json_: Json = False,
) -> None:
    """Write to each text the request that it would answer, by a model of your choice (LongForm).

    Cut off, the same command goes on where it stopped.
    """
    import dataclasses

    from labkit.inference import reverse as reversing

    found = reversing.reverse(source, out, reversing.asking(model, server), most=most,
                              asked=reversing.identity(model, server))  # fmt: skip
    refused = ", ".join(f"{count} {why}" for why, count in found.refused.items()) or "none"
    emit(dataclasses.asdict(found), json_,
         f"{out}: {found.written:,} rows; requests that cannot stand: {refused}")  # fmt: skip
