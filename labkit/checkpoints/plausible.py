"""Detect records that contradict themselves, and figures that no machine reaches.

A record is written by labkit and can be edited by hand. What is derived in it has to follow from
what it is derived from: its content hash from settings, data, model and versions; tokens per
second from the tokens and seconds of its steps; the peak from the steps' peaks. And physics holds
for everybody. For a model with P weights in its layers, a run of T tokens per second needs at least

    2·P·T·k FLOP/s,   k = 3 for full training (forward, two matmuls backward), 2 for LoRA,

less one layer of L, whose input needs no gradient; memory holds at least the weights. The
bounds are generous on purpose: what is reported here is impossible, not unlikely. Whether it was
a mistake or a fraud is for a person to find out.

A processor's rate is bounded by what its widest unit does in a cycle (Intel, Optimization
Reference Manual: AMX 2,048 bfloat16 operations, AVX-512 64 in float32, 128 in bfloat16) at 6 GHz on
each core; a GPU's by its datasheet.
"""

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

from labkit import methods
from labkit.errors import LabkitError
from labkit.machine.datasheets import find
from labkit.machine.meter import WARMUP_STEPS
from labkit.methods import Method
from labkit.runs import records
from labkit.runs.records import RunRecord

CLOSE = 1e-6
HIGHEST_CLOCK = 6e9
# Operations in a cycle by what a processor has, the first that fits; int8 does twice as many.
CYCLE = (("amx_bf16", 2048), ("avx512_bf16", 256), ("avx512f", 128), ("", 64))
BYTES = {"float32": 4.0, "bfloat16": 2.0}
PACKED = 0.5


@cache
def model_numbers(name: str) -> tuple[int, int, int] | None:
    """Return (parameters, weights in the layers, layers) of a named model; None for others."""
    from labkit.memory.architectures import block_weights, parameters, shape_of
    from labkit.memory.settings import StepSettings
    from labkit.models.registry import known_names

    if name not in known_names():
        return None
    shape = shape_of(StepSettings(model=name, method="full", batch_size=1, seq_len=1))
    return (parameters(shape), block_weights(shape), shape.layers) if shape else None


def impossible(record: RunRecord) -> Iterator[str]:
    """Yield a sentence for each figure that no machine could have measured."""
    hardware, peaks = record.hardware, record.summary.get("peak_bytes") or {}
    allocated, reserved = peaks.get("allocated"), peaks.get("reserved")
    total = record.summary.get("total_parameters")
    if any(step["loss"] < 0 for step in record.steps):
        yield "a loss below zero"
    if any(
        step.get("seconds", 1) <= 0 for step in record.steps if step.get("seconds", 1) is not None
    ):
        yield "a step that took no time"
    method, dtype = trained_method(record), str(record.config.get("dtype"))
    plain = record.config.get("base", "plain") == "plain"
    each = least_bytes(method if plain else None, dtype) / shares(record)
    if allocated is not None and total and allocated < each * total:
        yield "less memory than the model's weights take"
    if allocated is not None and reserved is not None and allocated > reserved:
        yield "more memory allocated than reserved"
    cards = hardware.get("gpus") or []
    memory = [card.get("memory_bytes") for card in cards] or [
        hardware.get("memory_limit_bytes") or hardware.get("memory_bytes")
    ]
    if allocated is not None and None not in memory and allocated > sum(memory):
        yield "more memory than its machine has"
    speed = record.summary.get("tokens_per_second")
    numbers, limit = model_numbers(record.model["name"]), peak_flops(record)
    if speed and numbers and limit and method:
        _, weights, layers = numbers
        products = (3 if method.trains_base else 2) * (1 - 1 / layers)
        if 2 * weights * products * speed > limit:
            yield "faster than its hardware can multiply"


def trained_method(record: RunRecord) -> Method | None:
    """Return the method of a record, if it is one that `labkit train` does."""
    name = str(record.config.get("method"))
    return methods.METHODS[name] if name in methods.in_training() else None


def least_bytes(method: Method | None, dtype: str) -> float:
    """Return the bytes that a weight takes at least while it is trained or trained on."""
    if method is None or dtype not in BYTES:
        return PACKED
    return BYTES[dtype if dtype == "float32" else method.weights_dtype]


def shares(record: RunRecord) -> float:
    """Return how many processes a run's weights are cut up over: its peak is of one of them."""
    sharding = record.summary.get("sharding") or {}
    cut = sharding.get("ran") in ("fsdp2", "zero3")
    return max(1, sharding.get("processes") or 1) if cut else 1


def peak_flops(record: RunRecord) -> float | None:
    """Return a rate of operations that the record's machine cannot exceed; None if unknown."""
    hardware, int8 = record.hardware, bool(record.config.get("use_switchback"))
    cards = hardware.get("gpus") or []
    try:
        rates = [find(card["name"]).flops for card in cards]
    except LabkitError:
        return None
    if rates:
        narrow = () if int8 else ("int8", "float8")
        return float(sum(max(v for k, v in each.items() if k not in narrow) for each in rates))
    cores, flags = hardware.get("cores"), hardware.get("flags") or []
    if not cores:
        return None
    cycle = next(rate for flag, rate in CYCLE if not flag or flag in flags)
    return float(cores) * HIGHEST_CLOCK * cycle * (2 if int8 else 1)


def contradictions(record: RunRecord) -> Iterator[str]:
    """Yield a sentence for each contradiction between parts of a finished record."""
    config, summary = record.config, record.summary
    known = {"model": record.model, "data": record.data, "libraries": record.versions}
    if not records.is_hash_of(record.sha256, config, **known):
        yield "its hash is not that of its settings, data, model and versions"
    if record.seed != config.get("seed"):
        yield "its seed is not that of its settings"
    steps = record.steps
    if [step["step"] for step in steps] != list(range(1, len(steps) + 1)):
        yield "its steps are not numbered from one on"
    planned = config.get("max_steps") or -1
    if record.status == "done" and planned > 0 and len(steps) != planned:
        yield "its steps are not as many as its settings say"
    trainable, total = (summary.get(f"{kind}_parameters") for kind in ("trainable", "total"))
    if trainable is not None and total is not None:
        if not 0 < trainable <= total:
            yield "more parameters trained than there are"
        numbers = model_numbers(record.model["name"])
        method = trained_method(record)
        frozen = total if method and method.trains_base else total - trainable
        plain = method is not None and config.get("bias") == "none"
        if numbers and plain and frozen != numbers[0]:
            yield "its number of parameters is not that of the model it names"
    if record.status == "done" and steps and all("seconds" in step for step in steps):
        yield from _figures(steps, summary, on_gpu=bool(record.hardware.get("gpus")))


def _figures(
    steps: list[dict[str, Any]], summary: dict[str, Any], *, on_gpu: bool
) -> Iterator[str]:
    seconds = [step["seconds"] or 0.0 for step in steps]
    train = summary.get("train_seconds")
    if train is not None and not _same(train, math.fsum(seconds)):
        yield "its time is not the sum of its steps' times"
    for rate, what in (("tokens_per_second", "tokens"), ("samples_per_second", "samples")):
        stated = summary.get(rate)
        counted = all(isinstance(step.get(what), int) for step in steps)
        if stated is not None and counted:
            right = any(_same(stated, each) for each in _rates(steps, what))
            if not right:
                yield f"its {what} per second are not those of its steps"
    middle = summary.get("step_seconds_median")
    if middle is not None and not min(seconds) * 0.999 <= middle <= max(seconds) * 1.001:
        yield "its median step time is that of none of its steps"
    peaks = [step["peak_bytes"] for step in steps if step.get("peak_bytes") is not None]
    allocated = (summary.get("peak_bytes") or {}).get("allocated")
    if peaks and allocated is not None and not on_gpu and allocated != max(peaks):
        yield "its peak memory is not the largest of its steps"


def _rates(steps: list[dict[str, Any]], what: str) -> Iterator[float]:
    """Yield what the meter can have stated: one rate for each step the run may have resumed at.

    Timed are the steps after the warm-up of the run and of its last resumption, and of those the
    ones that were not slowed by recording memory.
    """
    every = range(WARMUP_STEPS, len(steps))
    plain = [i for i in every if "peak_bytes" not in steps[i]]
    for chosen in (plain, list(every)):
        amount = math.fsum(steps[i][what] for i in chosen)
        seconds = math.fsum(steps[i]["seconds"] or 0.0 for i in chosen)
        inside = set(chosen)
        for began in range(len(steps) + 1):
            dropped = [i for i in range(began, began + WARMUP_STEPS) if i in inside]
            rest = seconds - math.fsum(steps[i]["seconds"] or 0.0 for i in dropped)
            if rest > 0:
                yield (amount - sum(steps[i][what] for i in dropped)) / rest


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=CLOSE, abs_tol=1e-9)


def point_problems(point: dict[str, Any]) -> Iterator[str]:
    """Yield what contradicts itself or is impossible in a point of a sweep."""
    settings, peak = point["settings"], point.get("peak_bytes")
    limit, seconds = point.get("memory_limit_bytes"), point.get("step_seconds")
    if point["status"] == "done" and peak is not None and limit is not None and peak > limit:
        yield "a step that ran in more memory than its limit"
    speed = point.get("tokens_per_second")
    once = [settings.get(name) or 1 for name in ("gradient_accumulation_steps", "num_gpus")]
    sizes = (settings.get("batch_size"), settings.get("seq_len"), *once)
    if speed and seconds and None not in sizes and not _same(speed, math.prod(sizes) / seconds):
        yield "its tokens per second are not those of its step"
    numbers = model_numbers(str(settings.get("model")))
    if numbers and peak is not None and peak < PACKED * numbers[0]:
        yield "less memory than the model's weights take"
