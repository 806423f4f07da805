"""Validate the memory of every method on every base: formula, trace, and what training takes.

    python -m labkit.bench.records.memory_methods --output data/results/memory_methods.json

makes the committed record; `--only trained` (or another part) prints one part of it. The parts:

* `trained` makes the model as `labkit train` makes it (weights loaded, bitsandbytes' own layers,
  each start of an adapter) and takes real steps on this CPU, each row in a process of its own: the
  peak of the tensor allocator, to the byte, against the trace, which makes the same step by itself;
* `built` compares trace and real steps of the same step, as `memory_validation` does for two
  methods, for the other methods and architectures;
* `analytic` compares formula and trace for models of all sizes on CUDA;
* `small_t5` compares them for the encoder-decoder that the course pretrains, where few layers hide
  nothing of what a single one makes: every method on both targets, with long and short answers;
* `t5_large` says whether T5-large fits an A100 where it reads sentences, or reviews, and writes a
  word, trained whole and by methods with virtual tokens, and the largest batch that does.

A combination that cannot be has its reason in place of figures.
"""

import itertools
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

from labkit.bench.records.memory_validation import compare, measured_rows, record
from labkit.errors import LabkitError
from labkit.memory.formula import analytic
from labkit.memory.of_run import of_run
from labkit.memory.settings import StepSettings
from labkit.methods import BASES, METHODS, in_training
from labkit.models.tiny import TINY, build_tiny
from labkit.runs.config import RunConfig, from_mapping
from labkit.train import pretrain_t5

COMMAND = "python -m labkit.bench.records.memory_methods --output data/results/memory_methods.json"
VARIANTS: tuple[dict[str, Any], ...] = (
    {"use_rslora": True},
    {"use_dora": True},
    {"init_lora_weights": "pissa"},
    {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}},
)
"""Settings of the default method that make it another one."""
SIZES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("tiny", {"batch_size": 4, "seq_len": 64, "dtype": "float32"}),
    (
        "tiny",
        {"batch_size": 8, "seq_len": 128, "dtype": "bfloat16", "gradient_checkpointing": True},
    ),
    ("embedded", {"batch_size": 1, "seq_len": 64, "dtype": "bfloat16"}),
)
LABELLED = 12
ON_A100 = (("a100-40gb", "a100-80gb"), ((8, 128), (8, 512), (32, 512)))
SMALL_T5 = "the course's small T5"
TEXTS: tuple[dict[str, Any], ...] = (
    {"batch_size": 32, "seq_len": 89, "target_len": 3},
    {"batch_size": 8, "seq_len": 256, "target_len": 2},
    {"batch_size": 8, "seq_len": 48, "target_len": 24},
)
TARGET = 2
"""Tokens of 'positive' and of the end, as T5's tokenizer has them."""
PRELOADED = ("torch", "transformers", "peft", "bitsandbytes", "labkit.memory.measured")


def kinds() -> list[dict[str, Any]]:
    """Return the settings of every method that adds to a base, variants included.

    `memory_validation` has the one that trains the base.
    """
    adding = [name for name in in_training() if not METHODS[name].trains_base]
    return [{"method": name} for name in adding] + list(VARIANTS)


def bases() -> list[dict[str, Any]]:
    """Return the settings of every base, nf4 with its scales quantised once and twice."""
    once = [{"base": base.name, "double_quant": False} for base in BASES.values() if base.bits == 4]
    return [{"base": name} for name in BASES] + once


def trained_rows(sizes: Any = SIZES) -> Iterator[dict[str, Any]]:
    """Take real steps of models as `labkit train` makes them; yield their peaks and the trace's."""
    from labkit.memory.step.imports import import_libraries
    from labkit.memory.trace.tracing import trace

    import_libraries()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    with tempfile.TemporaryDirectory() as folder:
        # nf4 needs rows of whole blocks of 64 on a CPU.
        tiny = build_tiny("tiny-llama", Path(folder) / "tiny", intermediate_size=192)
        places = {"tiny": str(tiny), "embedded": RunConfig.model}
        for (model, size), base, kind in itertools.product(sizes, bases(), kinds()):
            row = {"model": model, **kind, **base, **size}
            try:
                config = run_of(places[model], {**kind, **base}, size)
            except LabkitError as error:
                reason = str(error).removeprefix("row: ")
                yield {**row, "traced_bytes": None, "measured_bytes": None, "error": None,
                       "refused": reason}  # fmt: skip
                continue
            traced = trace(step_of(config)).peak_bytes
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                real = pool.submit(trained_peak, config.to_dict()).result()
            yield {**row, "traced_bytes": traced, "measured_bytes": real,
                   "error": round(traced / real - 1, 6)}  # fmt: skip


def run_of(model: str, chosen: Mapping[str, Any], size: Mapping[str, Any]) -> RunConfig:
    """Return the run of a row. Raises `LabkitError` for one that cannot be."""
    return from_mapping(
        {
            "model": model, **chosen, "dtype": size["dtype"], "max_length": size["seq_len"],
            "per_device_train_batch_size": size["batch_size"], "attn_implementation": "sdpa",
            "gradient_checkpointing": size.get("gradient_checkpointing", False),
        },
        where="row",
    )  # fmt: skip


def step_of(config: RunConfig) -> StepSettings:
    """Return the step that the run of a row is made of."""
    return of_run(config, target="cpu", labelled_tokens=LABELLED)


def trained_peak(values: dict[str, Any]) -> int:
    """Return the allocator's peak of the second step of a run's own model, in bytes.

    For a process that holds nothing else.
    """
    from labkit.console import quiet
    from labkit.machine.cpu_allocator import CpuRecorder

    config = from_mapping(values, where="row")
    with quiet():
        step = trained_step(config, step_of(config))
        with CpuRecorder():
            step.run(accumulated=1)
        with CpuRecorder() as recorder:
            step.run(accumulated=1)
    return recorder.peak.peak_bytes


def trained_step(config: RunConfig, settings: StepSettings) -> Any:
    """Return a step of the model that `labkit train` makes of `config`, weights and all."""
    import torch

    from labkit.memory.step.build import make_batch, make_optimizer
    from labkit.memory.step.training_step import Step
    from labkit.methods import load_options, weights_dtype
    from labkit.models.load import load_model

    torch.manual_seed(config.seed)
    model = load_model(config.model, dtype=weights_dtype(config),
                       attn_implementation=settings.attention, **load_options(config))  # fmt: skip
    attached: Any = METHODS[config.method].attach(model, config)
    if config.gradient_checkpointing:
        attached.gradient_checkpointing_enable({"use_reentrant": False})
    attached.train()
    inputs, labels = make_batch(settings, model.config, lambda s, d: torch.empty(s, dtype=d))
    return Step(settings=settings, model=attached, optimizer=make_optimizer(settings, attached),
                inputs=inputs, labels=labels)  # fmt: skip


def built_rows() -> Iterator[dict[str, Any]]:
    """Take real steps of every method on the tiny model of every other architecture."""
    for settings, choices in _possible(built_grid()):
        (row,) = measured_rows([settings])
        yield {**row, **choices}


def built_grid() -> Iterator[dict[str, Any]]:
    """Yield steps of methods that add to a base, on every architecture but Llama."""
    others = [name for name in TINY if name != "tiny-llama"]
    for model, kind in itertools.product(others, _steps()):
        yield {"model": model, **kind, "batch_size": 4, "seq_len": 64, "target": "cpu"}


def analytic_rows() -> Iterator[dict[str, Any]]:
    """Compare formula and trace over methods, bases and models; yield both peaks."""
    for settings, choices in _possible(analytic_grid()):
        yield {**choices, **both(settings)}


def both(settings: StepSettings) -> dict[str, Any]:
    """Return the peak of a step by formula and by trace, and how far apart they are."""
    from labkit.memory.trace.tracing import trace

    formula = analytic(settings)
    assert formula is not None
    traced = trace(settings).peak_bytes
    return {"analytic_bytes": formula.peak_bytes, "traced_bytes": traced,
            "error": round(formula.peak_bytes / traced - 1, 5)}  # fmt: skip


def analytic_grid() -> Iterator[dict[str, Any]]:
    """Yield every method on every base for Llama-3-8B, with and without gradient checkpointing.

    On plain weights for the others.
    """
    size = {"batch_size": 2, "seq_len": 512}
    for base, kind, again in itertools.product(bases(), _steps(), (False, True)):
        yield {"model": "llama-3-8b", **kind, **base, **size, "gradient_checkpointing": again}
    others = (RunConfig.model, "t5-large", "gemma-2b", "phi-1.5", "bloom-3b", "mamba-1.4b")
    for model, kind in itertools.product(others, _steps()):
        yield {"model": model, **kind, **size}


def small_t5_rows() -> Iterator[dict[str, Any]]:
    """Compare formula and trace for the T5 that the course pretrains; yield both peaks."""
    with tempfile.TemporaryDirectory() as folder:
        write_small_t5(Path(folder))
        for choices in small_t5_grid():
            yield {"model": SMALL_T5, **choices, **both(StepSettings(model=folder, **choices))}


def small_t5_grid() -> Iterator[dict[str, Any]]:
    """Yield padded steps of every method of an encoder-decoder."""
    names = [name for name in in_training() if not METHODS[name].check("t5")]
    for method, size, target, dtype, again in itertools.product(
        names, TEXTS, ("cpu", "cuda"), ("float32", "bfloat16"), (False, True)
    ):
        if METHODS[method].checkpoints or not again:
            yield {"method": method, **size, "target": target, "dtype": dtype, "padding": True,
                   "gradient_checkpointing": again}  # fmt: skip


def write_small_t5(folder: Path) -> None:
    """Write the configuration of the T5 that the course pretrains; weights are not needed."""
    from transformers import T5Config

    T5Config(**pretrain_t5.SIZES, vocab_size=pretrain_t5.VOCABULARY, decoder_start_token_id=0,
             architectures=["T5ForConditionalGeneration"]).save_pretrained(folder)  # fmt: skip


def t5_large_rows() -> Iterator[dict[str, Any]]:
    """Estimate T5-large on an A100 where it reads a text and writes a word; yield what it takes."""
    from labkit.memory.estimates import estimate

    names = [name for name in in_training()
             if METHODS[name].trains_base or METHODS[name].virtual_tokens]  # fmt: skip
    for device, (batch, length), method in itertools.product(*ON_A100, names):
        size: dict[str, Any] = {
            "batch_size": batch, "seq_len": length, "target_len": TARGET, "padding": True,
        }  # fmt: skip
        found = estimate("t5-large", device=device, method=method, **size)
        formula, traced = found.peak_bytes["analytic"], found.peak_bytes["traced"]
        assert traced is not None
        error = None if formula is None else round(formula / traced - 1, 5)
        yield {"model": "t5-large", "device": device, "method": method, **size,
               "analytic_bytes": formula, "traced_bytes": traced,
               "error": error, "needed_bytes": found.needed_bytes,
               "fits": found.fits, "largest_batch_size": found.largest_batch_size}  # fmt: skip


def _steps() -> list[dict[str, Any]]:
    """Return the settings of `kinds` that a step's memory depends on."""
    steps = {each.name for each in fields(StepSettings)}
    return [kind for kind in kinds() if kind.keys() <= steps]


def _possible(grid: Iterator[dict[str, Any]]) -> Iterator[tuple[StepSettings, dict[str, Any]]]:
    """Yield the settings of each choice that can be, and the choice."""
    from labkit.memory.architectures import shape_of

    for choices in grid:
        try:
            settings = StepSettings(**choices)
            shape_of(settings)
        except LabkitError:
            continue
        yield settings, {"method": settings.method, **choices}


KINDS: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
    "trained": trained_rows,
    "built": built_rows,
    "analytic": analytic_rows,
    "small_t5": small_t5_rows,
    "t5_large": t5_large_rows,
}


def main() -> None:
    compare("Compare the memory of all methods.", KINDS,
            lambda parts: {**record(parts), "command": COMMAND})  # fmt: skip


if __name__ == "__main__":
    main()
