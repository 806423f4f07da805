"""Compare traced memory and predicted time of fine-tuning steps with the card's own.

Models have the true shape and random weights made on the card; no download. For every case the
trace (`memory.trace`, on the CPU) stands beside `torch.cuda.max_memory_allocated` of the second
step, `max_memory_reserved`, and the median time of a few steps more. Traces are made by processes
of their own while the card is busy with the other parts.

A caching allocator needs more than is allocated at once: what it may have is lowered until the step
runs out of memory, and the *gap* is how much above its allocated peak the least limit lies.

The *largest batch* is predicted as `labkit estimate` does it, then found by trying: on the whole
card, and on smaller cards played by a limit on what the process may allocate.
"""

import dataclasses
import functools
import importlib.util
import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from statistics import median
from typing import Any

from labkit.bench.gpu.card import Card, out_of_memory
from labkit.errors import LabkitError
from labkit.machine.processes import end_with_parent
from labkit.methods import split

STEPS = 4
GAP_PROBES, MOST_GAP = 4, 0.16
"""How often the least limit is halved in on, and where between the peak and this it begins."""
NEEDS = {"adamw_bnb_8bit": "bitsandbytes", "chunked": "trl"}
"""What a choice needs besides torch and transformers, the method's needs aside."""

Case = dict[str, Any]


def cases(part: str, rehearsal: bool) -> list[Case]:
    """Return the steps of a part: their name and the fields of their `StepSettings`."""
    found = [dict(case) for case in CASES if case["part"] == part]
    if rehearsal:
        # The same lines on toy models; what needs a card's libraries has them on a CPU too.
        found = [case for case in found if case["settings"]["batch_size"] in (1, 8)][-2:] or found
        small = {"model": "tiny-llama", "batch_size": 1, "seq_len": 32}
        found = [{**case, "settings": {**case["settings"], **small}} for case in found]
        for case in found:
            # Without a quantised base: its layers keep tables on CUDA.
            case["settings"]["method"] = split(case["settings"]["method"])[0].name
    return found


def _case(part: str, model: str, batch_size: int, **settings: Any) -> Case:
    settings = {"model": model, "batch_size": batch_size, "seq_len": 1024, **settings}
    words = [model, settings["method"], f"batch {batch_size}"]
    words += [str(settings[k]) for k in ("optim", "loss") if k in settings]
    words += ["checkpointing"] if settings.get("gradient_checkpointing") else []
    return {"part": part, "name": " · ".join(words), "settings": settings}


CASES: tuple[Case, ...] = (
    _case("small models", "tinyllama-1.1b", 8, method="full"),
    _case("small models", "tinyllama-1.1b", 8, method="lora"),
    _case("small models", "llama-3.2-3b", 4, method="lora"),
    _case("small models", "llama-3.2-3b", 2, method="full", optim="adamw_bnb_8bit"),
    *(
        _case("8b", "llama-3-8b", batch, method="lora", loss=loss, gradient_checkpointing=again)
        for loss in ("full", "chunked")
        for again in (False, True)
        for batch in (1, 2, 4)
    ),
    _case("quantised", "llama-3-8b", 2, method="qlora"),
    _case("quantised", "llama-3-8b", 2, method="8bit"),
)

LIMITS = (24 * 2**30, 40 * 2**30, None)
"""Cards on which the largest batch is looked for: some GiB of a larger one, and all of it."""
LARGEST: tuple[dict[str, Any], ...] = (
    {"model": "llama-3.2-3b", "method": "lora", "seq_len": 2048},
    {"model": "tinyllama-1.1b", "method": "full", "seq_len": 1024},
)


def missing(settings: dict[str, Any]) -> str | None:
    """Return the library that a case needs and that is not there."""
    method, base = split(settings["method"])
    needed = [NEEDS[choice] for choice in map(str, settings.values()) if choice in NEEDS]
    needed += ["bitsandbytes"] * base.quantised + ["peft"] * (not method.trains_base)
    return next((name for name in needed if importlib.util.find_spec(name) is None), None)


def trace_all(card: Card) -> Iterator[tuple[str, dict[str, Any]]]:
    """Trace every case, several at a time; yield its name with traced bytes and predicted time."""
    everything = [case for part in PARTS for case in cases(part, card.rehearsal)]
    known = [case for case in everything if missing(case["settings"]) is None]
    device = card.describe()
    jobs = {case["name"]: (_trace, case["settings"], device) for case in known}
    yield from in_processes(jobs)


def in_processes(jobs: dict[str, tuple]) -> Iterator[tuple[str, Any]]:
    """Call each job, (function, *arguments), in one of a few processes; yield name and result.

    A job that raises gives {"error": …}: it must not take the results of the others with it.
    """
    workers = max(1, min(6, (os.cpu_count() or 1) // 2 - 1))
    context = multiprocessing.get_context("spawn")
    # A worker that waits for work would outlive a part that was killed.
    with ProcessPoolExecutor(workers, context, end_with_parent, (os.getpid(),)) as pool:
        waiting = {pool.submit(*job): name for name, job in jobs.items()}
        for done in as_completed(waiting):
            error = done.exception()
            yield waiting[done], {"error": sentence(error)} if error else done.result()


PARTS = ("small models", "8b", "quantised")


def _trace(settings: dict[str, Any], device: dict[str, Any]) -> dict[str, Any]:
    from labkit.memory.architectures import shape_of
    from labkit.memory.settings import StepSettings
    from labkit.memory.step_time import step_seconds
    from labkit.memory.trace.tracing import trace

    step = StepSettings(**settings, target="cuda", compute_capability=device["compute_capability"])
    try:
        traced = trace(step)
    except LabkitError as error:
        return {"error": str(error)}
    shape, sheet = shape_of(step), datasheet(device["name"])
    low, high = step_seconds(shape, step, sheet) if shape and sheet else (None, None)
    return {
        "traced_bytes": traced.peak_bytes, "peak_phase": traced.peak.name,
        "traced_parts": traced.peak.parts, "predicted_seconds": [low, high],
    }  # fmt: skip


def datasheet(name: str) -> Any:
    """Return the datasheet of the card called `name`, or None where the table lacks it."""
    from labkit.machine.datasheets import find

    try:
        return find(name)
    except LabkitError:
        return None


def measure_part(part: str, card: Card, known: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure the cases of a part that are not in `known`, one after the other."""
    for case in cases(part, card.rehearsal):
        if case["name"] not in known:
            yield case["name"], {"settings": case["settings"], **_measure(case["settings"], card)}


def _measure(settings: dict[str, Any], card: Card) -> dict[str, Any]:
    library = missing(settings)
    if library:
        return {"skipped": f"{library} is not installed"}
    return guarded(functools.partial(_step, settings, card), card)


def guarded(measure: Callable[[], dict[str, Any]], card: Card) -> dict[str, Any]:
    """Return what `measure` does, or that memory ran out, or its error: one case costs no other."""
    try:
        return measure()
    except Exception as error:
        if out_of_memory(error):
            return {"out_of_memory": True}
        return {"error": sentence(error)}
    finally:
        card.empty_cache()


def sentence(error: BaseException) -> str:
    """Return an error as one line: its type and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


def _step(settings: dict[str, Any], card: Card) -> dict[str, Any]:
    from labkit.console import quiet
    from labkit.memory.measured import measure_step, real_step
    from labkit.memory.settings import StepSettings

    step = real_step(StepSettings(**settings, target=card.target))  # type: ignore[arg-type]
    found = measure_step(step)
    with quiet():
        seconds = [card.seconds(lambda: step.run(accumulated=1), 1) for _ in range(STEPS)]
        gap = least_gap(found.peak_bytes, lambda limit: _runs_in(step, limit, card))
    return {
        "allocated_bytes": found.peak_bytes, "reserved_bytes": found.reserved_bytes,
        "start_bytes": found.start_bytes, "seconds": seconds, "step_seconds": median(seconds),
        "gap": gap,
    }  # fmt: skip


def least_gap(peak_bytes: int, runs: Callable[[int], bool]) -> float | None:
    """Return the least share above the peak with which a step runs; None above `MOST_GAP`.

    `runs(limit)` says whether the step runs where that many bytes may be allocated.
    """
    low, high = 0.0, MOST_GAP
    if not runs(round(peak_bytes * (1 + high))):
        return None
    for _ in range(GAP_PROBES):
        middle = (low + high) / 2
        low, high = (low, middle) if runs(round(peak_bytes * (1 + middle))) else (middle, high)
    return high


def _runs_in(step: Any, limit_bytes: int, card: Card) -> bool:
    card.empty_cache()
    card.limit(limit_bytes)
    try:
        step.run(accumulated=1)
        card.synchronize()
        return True
    except Exception as error:
        if not out_of_memory(error):
            raise
        step.optimizer.zero_grad(set_to_none=True)
        return False
    finally:
        card.limit(None)
        card.empty_cache()


def largest_batches(card: Card, known: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Predict the largest batch on each card of LIMITS, then find it by trying."""
    toy = {"model": "tiny-llama", "seq_len": 32} if card.rehearsal else {}
    there = card.describe()["memory_bytes"]
    for settings, limit in itertools.product(LARGEST, LIMITS):
        base, size = {**settings, **toy}, limit or there
        where = (
            f"{size / 2**30:.0f} GiB" if limit or size % 2**30 == 0 else f"{size / 2**30:.1f} GiB"
        )
        name = f"{settings['model']} {base['method']} in {where}"
        if name in known:
            continue
        if library := missing(base):
            yield name, {"skipped": f"{library} is not installed"}
            continue
        if size > there:
            yield name, {"skipped": f"this card has {there / 2**30:.0f} GiB"}
            continue
        predicted = predict_largest(base, size)
        start = REHEARSED_LARGEST + 2 if card.rehearsal else predicted
        tried: dict[int, bool] = {}
        card.limit(limit)
        try:
            found = search(start, functools.partial(_fits, base, card, tried))
        finally:
            card.limit(None)
        yield name, {
            "settings": base, "limit_bytes": size, "predicted": predicted, "measured": found,
            "tried": sorted(tried.items()),
        }  # fmt: skip


def predict_largest(settings: dict[str, Any], memory_bytes: int) -> int:
    """Return the largest batch that `labkit estimate` gives a card of so many bytes."""
    from labkit.machine.datasheets import DEVICES
    from labkit.memory.estimates import estimate_on

    card = dataclasses.replace(DEVICES["h100"], usable_bytes=memory_bytes)
    return estimate_on(card, **settings, batch_size=4).largest_batch_size or 0


def search(start: int, fits: Callable[[int], bool]) -> int:
    """Return the largest batch that fits, near a guess: growing steps from it, then bisection.

    `fits(batch)` is taken to be true up to a point and false beyond it; 0 when not even 1 fits.
    """
    low, high, width = 0, None, 1  # low fits, high does not
    guess = max(1, start)
    while high is None or high - low > 1:
        if fits(guess):
            low = guess
        else:
            high = guess
        if high is None:
            guess = low + width
        elif low == 0:
            guess = max(1, high - width)
        else:
            guess = (low + high) // 2
        width *= 2
    return low


REHEARSED_LARGEST = 5


def _fits(settings: dict[str, Any], card: Card, tried: dict[int, bool], batch: int) -> bool:
    import torch

    from labkit.console import quiet
    from labkit.memory.measured import real_step
    from labkit.memory.settings import StepSettings

    if batch in tried:
        return tried[batch]
    step = None
    try:
        with quiet():
            chosen = StepSettings(**settings, batch_size=batch, target=card.target)  # type: ignore[arg-type]
            step = real_step(chosen)
            for _ in range(2):  # the second has the optimizer's state from its beginning
                step.run(accumulated=1)
            card.synchronize()
        if card.rehearsal and batch > REHEARSED_LARGEST:
            raise torch.OutOfMemoryError("as on a card that is full")
        tried[batch] = True
    except Exception as error:
        if not out_of_memory(error):
            raise
        tried[batch] = False
    finally:
        del step
        card.empty_cache()
    return tried[batch]
