"""Define the commands of `labkit bench`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from labkit import plots
from labkit.bench.paired import Plan
from labkit.bench.switchback.grid import QUICK, Grid
from labkit.cli.options import Json, emit
from labkit.console import say
from labkit.errors import LabkitError
from labkit.runs import records

app = typer.Typer(no_args_is_help=True, help="Two ways side by side: ratios with intervals.")

Quick = Annotated[
    bool, typer.Option("--quick", help="tiny sizes: does it run? Ratios mean nothing")
]
Pairs = Annotated[int | None, typer.Option(help="paired runs, an even number")]
Tokens = Annotated[str | None, typer.Option(help="such as 256,1024,4096")]
Backend = Annotated[str, typer.Option(help="auto, triton, cpu, onednn or reference")]
Out = Annotated[Path | None, typer.Option(help="folder of results; bench in the runs' folder")]
Fresh = Annotated[bool, typer.Option("--fresh", help="measure what is kept again")]


@app.command()
def switchback(
    tokens: Tokens = None,
    layers: Annotated[
        int | None, typer.Option(help="of the model trained end to end; 0 leaves that out")
    ] = None,
    compile_layers: Annotated[
        bool, typer.Option("--compile", help="compile the decoder layers of both sides")
    ] = False,
    weight_gradient: Annotated[
        str, typer.Option(help="SwitchBack's dW: tiles, its own 16-bit product, or torch")
    ] = "tiles",
    pairs: Pairs = None,
    backend: Backend = "auto",
    output_dir: Out = None,
    quick: Quick = False,
    fresh: Fresh = False,
    json_: Json = False,
) -> None:
    """Compare int8 layers and whole training steps with the fastest 16 bit, by size.

    Takes about a quarter of an hour on two cores; what is done is kept, and a second call goes on.
    """
    from labkit.bench.switchback import grid as bench
    from labkit.bench.switchback import report

    folder = output_dir or records.runs_dir() / "bench"
    grid = _grid(quick, tokens=tokens, layers=layers, pairs=pairs, backend=backend)
    grid = dataclasses.replace(grid, compiled=compile_layers, weight_gradient=weight_gradient)
    outcome = bench.switchback(grid, output_dir=folder, fresh=fresh)
    figure, axes = plots.new_figure(2, 2, width=8.6, height=5.4, sharex=True, sharey=True)
    alt = report.draw_heatmaps(figure, axes.flat, outcome["rows"])
    plots.save_figure(figure, folder / "switchback.png", alt=alt)
    if outcome["end_to_end"] is not None:
        figure, ax = plots.new_figure(width=8.4, height=2.6)
        alt = report.draw_pairs(ax, outcome["end_to_end"])
        plots.save_figure(figure, folder / "switchback_end_to_end.png", alt=alt)
    emit(outcome, json_, f"{report.render(outcome)}\n\nfigures and records in {folder}")


@app.command()
def kernels(
    tokens: Tokens = None,
    pairs: Pairs = None,
    backend: Backend = "auto",
    output_dir: Out = None,
    quick: Quick = False,
    fresh: Fresh = False,
    json_: Json = False,
) -> None:
    """Time the parts of a layer's step apart: quantising, ordering, products, scaling back."""
    from labkit.bench.switchback import grid as bench
    from labkit.bench.switchback import report

    folder = output_dir or records.runs_dir() / "bench"
    grid = _grid(quick, tokens=tokens, pairs=pairs, backend=backend)
    outcome = bench.kernels(grid, output_dir=folder, fresh=fresh)
    figure, ax = plots.new_figure(width=9, height=1.2 + 0.5 * len(outcome["rows"]))
    alt = report.draw_parts(ax, outcome["rows"])
    plots.save_figure(figure, folder / "kernels.png", alt=alt)
    emit(outcome, json_, f"{report.render_kernels(outcome)}\n\nfigures and records in {folder}")


@app.command()
def step(
    models: Annotated[
        str | None, typer.Option(help="smollm2-135m-instruct (default), tinyllama-shaped")
    ] = None,
    methods: Annotated[str | None, typer.Option(help="lora,full")] = None,
    lengths: Annotated[str | None, typer.Option(help="tokens a sample: 160,512,1024")] = None,
    pairs: Pairs = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="timed steps of a run, after two that are not")
    ] = None,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="the first case also with each trick left off")
    ] = False,
    output_dir: Out = None,
    quick: Quick = False,
    fresh: Fresh = False,
    json_: Json = False,
) -> None:
    """Compare a fine-tuning step of stock TRL with labkit's: tokens/s, memory, ratio.

    What is done is kept, and a second call goes on.
    """
    from labkit.bench.step import compare as bench

    settings: dict[str, Any] = {**(bench.QUICK if quick else {}), "ablate": ablate}
    for key, value in (("models", models), ("methods", methods)):
        if value is not None:
            settings[key] = tuple(value.split(","))
    if lengths is not None:
        settings["lengths"] = _numbers("--lengths", lengths)
    chosen = bench.Steps(**settings)
    plan = chosen.plan
    if pairs is not None:
        plan = dataclasses.replace(plan, pairs=pairs)
    if steps is not None:
        plan = dataclasses.replace(plan, steps=steps, max_steps=steps)
    chosen = dataclasses.replace(chosen, plan=plan)
    folder = output_dir or records.runs_dir() / "bench"
    outcome = bench.step(chosen, output_dir=folder, fresh=fresh, say=say)
    emit(outcome, json_, f"{bench.render(outcome)}\n\nrecords in {folder}")


@app.command()
def methods(
    arms: Annotated[
        str | None, typer.Option(help="names or groups of arms: main,others (default), more, ranks")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="the arm that others are compared with")
    ] = None,
    model: Annotated[str | None, typer.Option(help="name or folder of the model")] = None,
    data: Annotated[str | None, typer.Option(help="tables, tatqa, or a file or folder")] = None,
    seeds: Annotated[int | None, typer.Option(help="of each arm of group main")] = None,
    other_seeds: Annotated[int | None, typer.Option(help="of each other arm")] = None,
    steps: Annotated[int | None, typer.Option(help="of each run")] = None,
    batch_size: Annotated[int | None, typer.Option(help="reports in a step")] = None,
    search_steps: Annotated[int | None, typer.Option(help="of each run of the search")] = None,
    questions: Annotated[int | None, typer.Option(help="of the test split")] = None,
    output_dir: Out = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="a toy model: does every arm run?")
    ] = False,
    json_: Json = False,
) -> None:
    """Compare fine-tuning methods on one model: quality, forgetting, memory, time, size.

    A short search finds each method's learning rate, and all train on the same tokens. What is
    done is kept among the runs: a second call goes on, with more seeds or questions if asked.
    """
    from labkit.bench.methods import grid as bench
    from labkit.bench.methods import report
    from labkit.bench.methods.conclude import conclude
    from labkit.bench.methods.plan import SMOKE
    from labkit.bench.methods.plan import Grid as MethodGrid
    from labkit.files import write_json

    said = {"against": against, "model": model, "data": data, "seeds": seeds,
            "other_seeds": other_seeds, "steps": steps, "batch_size": batch_size,
            "search_steps": search_steps, "questions": questions}  # fmt: skip
    settings = {**(SMOKE if smoke else {}),
                **{key: value for key, value in said.items() if value is not None}}  # fmt: skip
    grid = MethodGrid(arms=tuple(arms.split(",")) if arms else (), **settings)
    folder = output_dir or records.runs_dir() / "bench"
    measured = bench.measure(grid, say=say)
    write_json(folder / "methods.json", measured)
    found = {**measured, "rows": conclude(measured)}
    figure, alt = report.draw(found["rows"])
    plots.save_figure(figure, folder / "methods.png", alt=alt)
    emit(found, json_, f"{report.render(found)}\n\nfigure and record in {folder}")


@app.command()
def gpu(
    minutes: Annotated[float, typer.Option(help="at most; parts that find no time are named")] = 8,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="every part on the CPU, toy sizes: does it run?")
    ] = False,
    output_dir: Out = None,
    fresh: Fresh = False,
    json_: Json = False,
) -> None:
    """Hold what the course says of GPUs against the CUDA card that is here.

    Memory, kernels, a training step, step times. What is done is kept, and a second call goes on.
    """
    from labkit.bench.gpu import report, run

    folder = output_dir or records.runs_dir() / "bench"
    record = run.gpu(
        minutes=minutes, output_dir=folder, rehearsal=rehearse, fresh=fresh, say=say
    )  # fmt: skip
    emit(record, json_, f"{report.render(record)}\n\nrecord in {folder / 'gpu.json'}")


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise LabkitError(f"{option} {text!r}: write numbers, such as 256,1024") from None


def _grid(
    quick: bool, *, tokens: str | None, pairs: int | None, backend: str, layers: int | None = None
) -> Grid:
    settings: dict[str, Any] = dict(QUICK) if quick else {}
    if tokens is not None:
        settings["tokens"] = _numbers("--tokens", tokens)
    if layers is not None:
        settings["layers"] = layers
    grid = Grid(backend=backend, **settings)
    if pairs is None:
        return grid

    def with_pairs(plan: Plan) -> Plan:
        return dataclasses.replace(plan, pairs=pairs)

    return dataclasses.replace(
        grid, plan=with_pairs(grid.plan), parts_plan=with_pairs(grid.parts_plan),
        training_plan=with_pairs(grid.training_plan),
    )  # fmt: skip
