"""Define the command sweep, without importing torch."""

from pathlib import Path
from typing import Annotated, Any

import typer

from labkit.cli.options import (
    AdapterDtype,
    Attention,
    Json,
    LabelledTokens,
    LoraTargets,
    Loss,
    MasterWeights,
    ModelWords,
    Optim,
    Padding,
    Rank,
    RepeatKv,
    Sharding,
    StepDtype,
    StepOf,
    emit,
    model_and_settings,
    picture,
)
from labkit.console import say
from labkit.errors import LabkitError, nearest

Largest = Annotated[
    bool | None,
    typer.Option(
        "--largest/--no-largest",
        help="find the largest batch that fits, by prediction and by running; "
        "on when there is a memory limit",
    ),
]


def sweep(
    context: typer.Context,
    words: ModelWords = None,
    config: StepOf = None,
    method: Annotated[
        str | None, typer.Option(help="full, lora, qlora, 8bit …; lora, or the run's")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="cpu or cuda, measured here; or a GPU by its datasheet, predicted"),
    ] = None,
    seq_len: Annotated[
        int | None, typer.Option(help="tokens of every sample; 256, or the run's max_length")
    ] = None,
    batch_sizes: Annotated[str, typer.Option(help="with commas between")] = "1,2,4,8",
    variants: Annotated[
        str, typer.Option(help="plain, checkpointing, accumulation=N, with commas between")
    ] = "plain",
    memory_limit: Annotated[
        str | None, typer.Option(help="of the whole process, such as 3GiB")
    ] = None,
    largest: Largest = None,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="timed steps of a point")] = 3,
    samples: Annotated[
        int | None, typer.Option(min=1, help="samples of an epoch; default: the embedded set's")
    ] = None,
    dtype: StepDtype = None,
    optim: Optim = None,
    lora_r: Rank = None,
    lora_target_modules: LoraTargets = None,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="keep layer inputs only")
    ] = False,
    gradient_accumulation_steps: Annotated[
        int | None, typer.Option(help="passes summed before a step")
    ] = None,
    loss: Loss = None,
    sharding: Sharding = None,
    num_gpus: Annotated[int | None, typer.Option(help="devices, when they are predicted")] = None,
    master_weights: MasterWeights = None,
    adapter_dtype: AdapterDtype = None,
    attention: Attention = None,
    padding: Padding = None,
    repeat_kv: RepeatKv = None,
    labelled_tokens: LabelledTokens = None,
    plot: Annotated[
        Path | None, typer.Option(callback=picture, help="draw the sweep into this PNG")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="measure kept points again")] = False,
    json_: Json = False,
) -> None:
    """Measure batch sizes one by one: memory, throughput, and the largest batch that fits.

    Each is predicted, then run in a process of its own. What was measured is kept. With --config
    any setting of the run can follow as --key value.
    """
    from labkit import sweep as sweeping
    from labkit.runs.config import load_config

    named, overrides = model_and_settings(context, words or [], config)
    run = None if config is None else load_config(config, overrides)
    if run is None:
        method, seq_len = method or "lora", 256 if seq_len is None else seq_len
    model = named or (run.model if run else "")
    device = _device(device)
    limit = sweeping.parse_bytes(memory_limit) if memory_limit is not None else None
    changes = sweeping.parse_variants(variants)
    choices: dict[str, Any] = {
        "method": method, "seq_len": seq_len, "dtype": dtype, "optim": optim, "lora_r": lora_r,
        "lora_target_modules": lora_target_modules, "loss": loss, "sharding": sharding,
        "gradient_checkpointing": gradient_checkpointing or None,
        "gradient_accumulation_steps": gradient_accumulation_steps, "num_gpus": num_gpus,
        "master_weights": master_weights, "adapter_dtype": adapter_dtype, "attention": attention,
        "padding": padding, "repeat_kv": repeat_kv, "labelled_tokens": labelled_tokens,
    }  # fmt: skip
    points = []
    going = sweeping.sweep(
        model, batch_sizes=sweeping.parse_sizes(batch_sizes), variants=changes, device=device,
        memory_limit=limit, steps=steps, fresh=fresh, run=run, **choices,
    )  # fmt: skip
    for point in going:
        points.append(point)
        say(sweeping.say(point))
    wanted = largest if largest is not None else limit is not None
    found = [
        sweeping.largest_batch(
            model, memory_limit=limit, device=device, run=run, **{**choices, **variant}
        )
        for variant in (changes if wanted else [])
    ]  # fmt: skip
    samples = samples or _embedded_samples()
    if plot is not None:
        from labkit import plots

        figure, alt = plots.batch_sweep(points)
        plots.save_figure(figure, plot, alt=alt)
    result = {
        "model": model, "method": method or points[0].settings.method, "device": device,
        "seq_len": seq_len or points[0].settings.seq_len,
        "memory_limit_bytes": limit, "samples": samples,
        "points": [point.to_json(samples=samples) for point in points],
        "largest": [each.to_json() for each in found],
    }  # fmt: skip
    lines = [sweeping.render(points, samples=samples), *map(sweeping.say_largest, found)]
    emit(result, json_, "\n".join(lines))


def _device(name: str | None) -> str:
    from labkit.machine.datasheets import DEVICES
    from labkit.machine.hardware import gpus
    from labkit.memory.estimates import this_device
    from labkit.sweep import here

    if name is None:
        return here()
    name = name.lower()
    known = ["cpu", "cuda", *DEVICES]
    if name not in known:
        raise LabkitError(f"device {name!r} is unknown: {nearest(name, known)}")
    if name == "cuda" and not gpus():
        raise LabkitError(
            "there is no CUDA device here: measure with --device cpu, or name a GPU such as "
            "a100-40gb to have it predicted"
        )
    return "cuda" if name != "cpu" and name == this_device() else name


def _embedded_samples() -> int:
    from labkit.datasets import tatqa

    return len(tatqa.samples(tatqa.load("tables", "train")))
