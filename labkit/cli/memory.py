"""Define the command estimate, without importing torch."""

import dataclasses
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
    Reference,
    RepeatKv,
    Sharding,
    StepDtype,
    StepOf,
    emit,
    model_and_settings,
    picture,
)
from labkit.errors import LabkitError


def estimate(
    context: typer.Context,
    words: ModelWords = None,
    config: StepOf = None,
    method: Annotated[str | None, typer.Option(help="full, lora, qlora, 8bit …")] = None,
    device: Annotated[
        str | None, typer.Option(help="GPU by its datasheet (a100-80gb if none is given), or cpu")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="samples in one pass on one device; 1, or the run's")
    ] = None,
    seq_len: Annotated[
        int | None, typer.Option(help="tokens of every sample; 1024, or the run's max_length")
    ] = None,
    target_len: Annotated[
        int | None, typer.Option(help="tokens that an encoder-decoder writes; seq_len")
    ] = None,
    dtype: StepDtype = None,
    optim: Optim = None,
    lora_r: Rank = None,
    lora_target_modules: LoraTargets = None,
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--gradient-checkpointing/--no-gradient-checkpointing", help="keep layer inputs only"
        ),
    ] = None,
    loss: Loss = None,
    sharding: Sharding = None,
    num_gpus: Annotated[int | None, typer.Option(help="devices")] = None,
    link: Annotated[
        str | None,
        typer.Option(help="what joins them: pcie-4, nvlink-3 …; what such cards come with"),
    ] = None,
    master_weights: MasterWeights = None,
    adapter_dtype: AdapterDtype = None,
    attention: Attention = None,
    padding: Padding = None,
    repeat_kv: RepeatKv = None,
    labelled_tokens: LabelledTokens = None,
    reference: Reference = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="a third column from a real step on this machine")
    ] = False,
    timeline: Annotated[
        Path | None,
        typer.Option(callback=picture, help="draw memory within a step into this PNG"),
    ] = None,
    json_: Json = False,
) -> None:
    """Predict memory and time of a training step without allocating anything.

    Without --method and --config: all methods on common GPUs, in one table. Settings of the method
    and of its base (labkit train --settings lists them) can follow as --key value, with --config
    any setting of the run.
    """
    from labkit import plots
    from labkit.memory import estimates, report
    from labkit.memory.of_run import chosen_of_methods, of_methods
    from labkit.runs.config import load_config

    model, overrides = model_and_settings(context, words or [], config, alone=of_methods())
    choices: dict[str, Any] = {
        "batch_size": batch_size, "seq_len": seq_len, "dtype": dtype, "optim": optim, "loss": loss,
        "lora_r": lora_r, "lora_target_modules": lora_target_modules, "sharding": sharding,
        "num_gpus": num_gpus, "master_weights": master_weights, "adapter_dtype": adapter_dtype,
        "attention": attention, "padding": padding, "repeat_kv": repeat_kv,
        "labelled_tokens": labelled_tokens, "target_len": target_len, "reference": reference,
    }  # fmt: skip
    if config is not None:
        run = load_config(config, overrides)
        result = estimates.estimate_run(
            run, device=device or "a100-80gb", link=link, model=model, method=method,
            gradient_checkpointing=gradient_checkpointing, **choices,
        )  # fmt: skip
    else:
        assert model is not None
        for name, value in chosen_of_methods(overrides, method).items():
            if choices.get(name) is not None:
                raise LabkitError(f"{name} is set twice on the command line: keep one of the two")
            choices[name] = value
        choices["batch_size"] = batch_size = 1 if batch_size is None else batch_size
        choices["seq_len"] = seq_len = 1024 if seq_len is None else seq_len
        if method is None:
            if measure or timeline is not None or link is not None:
                raise LabkitError(
                    "--measure, --timeline and --link are of one step: choose a --method for it"
                )
            again = None if gradient_checkpointing is None else (gradient_checkpointing,)
            devices = (device,) if device else estimates.COMMON_GPUS
            rows = estimates.table(model, devices=devices, checkpointing=again, **choices)
            objects = [dataclasses.asdict(row) for row in rows]
            text = report.render_table(model, rows, seq_len=seq_len, batch_size=batch_size)
            emit({"model": model, "batch_size": batch_size, "seq_len": seq_len, "rows": objects},
                 json_, text)  # fmt: skip
            return
        result = estimates.estimate(
            model, method=method, device=device or "a100-80gb", link=link,
            gradient_checkpointing=gradient_checkpointing, **choices,
        )  # fmt: skip
    if measure:
        result = estimates.measured_column(result)
    if timeline is not None:
        plots.save_figure(report.plot_timeline(result), timeline, alt=report.timeline_alt(result))
    emit(result.to_json(), json_, report.render(result))
