"""Define infer, eval, parity, merge, consolidate and quantize, without importing torch."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from labkit.cli.options import Base, Dtype, Json, emit, picture
from labkit.errors import LabkitError

Models = Annotated[list[str], typer.Argument(help="registry names, runs, or folders")]
Data = Annotated[str, typer.Option(help="'tables', 'tatqa', or a TAT-QA file or folder")]
Split = Annotated[str, typer.Option(help="train, dev or test")]
Fresh = Annotated[bool, typer.Option("--fresh", help="do it again even if a result is kept")]
MaxSamples = Annotated[int | None, typer.Option(min=1, help="only the first samples")]
StoredDtype = Annotated[str, typer.Option(help="type in the files: bfloat16, float16 or float32")]
Run = Annotated[str, typer.Argument(help="a run, or a folder with a model or an adapter")]
Out = Annotated[Path, typer.Argument(help="folder for the new model, which must be new or empty")]


def infer(
    models: Models,
    sid: Annotated[str | None, typer.Option(help="sample ids: 100, 3,7 or 0-4,9")] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="compare over the whole split instead")
    ] = False,
    figure: Annotated[
        Path | None,
        typer.Option(callback=picture, help="with --all: draw the differences into this PNG"),
    ] = None,
    max_samples: MaxSamples = None,
    data: Data = "tables",
    split: Split = "test",
    dtype: Dtype = "auto",
    fresh: Fresh = False,
    base: Base = None,
    json_: Json = False,
) -> None:
    """Show question, gold answer and each model's answer with its score, side by side.

    With --all: scores, paired differences and tests over the split, and where models disagree.
    """
    if all_ == (sid is not None):
        raise LabkitError("say which samples: --sid 100, --sid 3,7,10-14, or --all for the split")
    if not all_:
        if figure is not None or max_samples is not None or fresh:
            raise LabkitError("--figure, --max-samples and --fresh belong to --all: add it")
        from labkit.inference import generate as infer_
        from labkit.inference import show

        rows = infer_.compare(models, show.parse_sids(sid or ""), data=data, split=split,
                              dtype=dtype)  # fmt: skip
        emit({"samples": rows}, json_, show.render(rows, colour=sys.stdout.isatty()))
        return
    from labkit import plots
    from labkit.inference import compare

    found = compare.compare_scores(
        models, data=data, split=split, max_samples=max_samples, dtype=dtype, fresh=fresh
    )
    if figure is not None:
        drawn, alt = plots.paired_differences(found.pairs)
        plots.save_figure(drawn, figure, alt=alt)
    emit(found.to_json(), json_, compare.render(found))


def eval_(
    model: Annotated[str, typer.Argument(help="registry name, run, folder, or 'majority'")],
    task: Annotated[
        str,
        typer.Option(help="tatqa, tables_choice, tables_answer, general_text, or lm-eval tasks"),
    ] = "tatqa",
    data: Data = "tables",
    split: Split = "test",
    examples: Annotated[int, typer.Option(min=0, max=8, help="worked examples before each")] = 0,
    max_samples: MaxSamples = None,
    dtype: Dtype = "auto",
    exact: Annotated[
        bool,
        typer.Option(help="calculate in float32 on a CPU; without, in --dtype"),
    ] = True,
    fresh: Fresh = False,
    base: Base = None,
    json_: Json = False,
) -> None:
    """Score a model with 95 % intervals: TAT-QA's score, or tasks of lm-eval by name."""
    from labkit.inference import evaluate

    tasks = [name.strip() for name in task.split(",")]
    others = [name for name in tasks if name != "tatqa"]
    if others and model == evaluate.MAJORITY:
        raise LabkitError("'majority' answers tatqa only: name a model for other tasks")
    outcomes: list[Any] = []
    texts = []
    if others:
        from labkit.inference.lm_eval_tasks import run as harness

        by_task = harness.evaluate_tasks(
            model, others, data=data, split=split, max_samples=max_samples, dtype=dtype, fresh=fresh
        )
        outcomes += by_task
        texts.append(harness.render(by_task))
    if "tatqa" in tasks:
        scored = evaluate.evaluate(
            model, data=data, split=split, examples=examples, max_samples=max_samples, dtype=dtype,
            exact=exact, fresh=fresh,
        )  # fmt: skip
        outcomes.append(scored)
        texts.append(evaluate.render(scored))
    if len(outcomes) == 1:
        emit(outcomes[0].to_json(), json_, texts[0])
        return
    together = {
        "model": model,
        "task": ",".join(outcome.task for outcome in outcomes),
        "n": sum(outcome.n for outcome in outcomes),
        "metrics": {f"{outcome.task}/{name}": metric for outcome in outcomes
                    for name, metric in outcome.metrics.items()},
        "predictions": {outcome.task: outcome.predictions for outcome in outcomes},
        "tasks": [outcome.to_json() for outcome in outcomes],
    }  # fmt: skip
    emit(together, json_, "\n".join(texts))


def parity(
    models: Annotated[
        list[str],
        typer.Argument(help="registry names, runs, folders, or http://HOST:PORT/v1#MODEL"),
    ],
    tolerance: Annotated[
        float | None,
        typer.Option(help="logits that may differ; what rounding to the coarser type gives"),
    ] = None,
    data: Data = "tables",
    split: Split = "test",
    max_samples: Annotated[int, typer.Option(min=1, help="questions to ask")] = 4,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="tokens an answer may have")] = 64,
    dtype: Annotated[
        str,
        typer.Option(help="type to load weights in: bfloat16, float16, float32; auto, as kept"),
    ] = "auto",
    base: Base = None,
    json_: Json = False,
) -> None:
    """Say whether models are the same, in logits and answers, and why not; exit code 1 if not.

    An adapter, merged, quantised, or behind a server: each is held against the first local one.
    """
    from labkit.inference import parity as parity_
    from labkit.inference import parity_shown

    found = parity_.compare(
        models, data=data, split=split, max_samples=max_samples, dtype=dtype,
        max_new_tokens=max_new_tokens, tolerance=tolerance,
    )  # fmt: skip
    emit(found.to_json(), json_, parity_shown.render(found))
    if not found.same:
        raise typer.Exit(1)


def merge(
    run: Run,
    out: Out,
    dtype: StoredDtype = "bfloat16",
    base: Base = None,
    json_: Json = False,
) -> None:
    """Turn an adapter and its base into one full model."""
    from labkit.inference import export

    made = export.merge(run, out, dtype=dtype)
    emit(made.to_json(), json_, f"{made.out}: {made.base} with its {made.method} adapter added, "
         f"{made.bytes / 2**20:,.0f} MiB in {made.dtype}")  # fmt: skip


def consolidate(
    checkpoint: Annotated[
        str, typer.Argument(help="a sharded checkpoint's folder, or a run, whose newest is taken")
    ],
    out: Out,
    tag: Annotated[
        str | None, typer.Option("--tag", "-t", help="DeepSpeed's, such as global_step10; latest")
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(help="auto (as stored; of DeepSpeed float32), bfloat16, float16, float32"),
    ] = "auto",
    max_shard_size: Annotated[
        str, typer.Option("--max-shard-size", "--max_shard_size", help="most bytes of a file")
    ] = "5GB",
    exclude_frozen: Annotated[
        bool,
        typer.Option(
            "--exclude-frozen-parameters", "--exclude_frozen_parameters", help="trained ones only"
        ),
    ] = False,
    safe: Annotated[
        bool,
        typer.Option("--safe-serialization", "--safe_serialization", help="always so", hidden=True),
    ] = True,
    like: Annotated[
        str | None, typer.Option(help="model or adapter whose configuration goes beside it")
    ] = None,
    show: Annotated[bool, typer.Option("-d", "--show", help="name each tensor")] = False,
    json_: Json = False,
) -> None:
    """Put a sharded checkpoint of torch or DeepSpeed together, in safetensors that load anywhere.

    Memory stays at the largest tensor. The options of DeepSpeed's zero_to_fp32.py are understood.
    """
    from labkit.console import say
    from labkit.train.sharded import consolidate as consolidate_

    made = consolidate_.consolidate(
        checkpoint, out, tag=tag, dtype=dtype, max_shard_size=max_shard_size, like=like,
        exclude_frozen=exclude_frozen, told=say if show else lambda line: None,
    )  # fmt: skip
    emit(made.to_json(), json_, consolidate_.render(made))


def quantize(
    run: Run,
    out: Out,
    to: Annotated[str, typer.Option(help="8bit or nf4")],
    max_samples: Annotated[
        int, typer.Option(min=0, help="questions to score on; 0 measures nothing")
    ] = 40,
    data: Data = "tables",
    split: Split = "test",
    base: Base = None,
    json_: Json = False,
) -> None:
    """Make a smaller model, and measure its memory, speed and score beside the original's."""
    from labkit.datasets import registry
    from labkit.inference import export
    from labkit.inference import generate as infer_
    from labkit.models import load

    if max_samples:  # what cannot be measured should not cost a model first
        dataset, place = registry.find(data)
        dataset.load(place, split)
        path = infer_.model_path(run)
        infer_.check_writes(run, load.config_of(str(path)))
    made = export.quantize(run, out, to=to)
    text = (f"{made.out}: {made.bytes['quantised'] / 2**20:,.0f} MiB instead of "
            f"{made.bytes['original'] / 2**20:,.0f} MiB")  # fmt: skip
    if max_samples:
        cost = {form: export.cost(name, data=data, split=split, max_samples=max_samples)
                for form, name in (("original", run), ("quantised", made.out))}  # fmt: skip
        made = dataclasses.replace(made, cost=cost)
        text += "\n" + export.render_costs(list(cost.values()))
    emit(made.to_json(), json_, text)
