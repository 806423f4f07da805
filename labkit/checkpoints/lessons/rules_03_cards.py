"""Rules of lesson 03 on cards that are not here: what fits by formula, and tables made by trace."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from labkit.checkpoints.rules import (
    CHANGE,
    Evidence,
    Finding,
    Values,
    close,
    compare,
    positive,
    reasoned,
)

GPUS = 4
CARD = "a100-40gb"
ON_ONE: Mapping[str, Any] = {"method": "lora"}
ON_FOUR: Mapping[str, Any] = {"method": "full", "sharding": "zero3", "num_gpus": GPUS}
# Formula and trace differ by less; a claim must miss by more before it is called wrong.
SLACK = 0.05
MOST = 1 << 20
ALL_ON = "everything on"


def eight_billion(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 03.4: batches near the largest by formula, and memory and time of one sample a card."""
    length, again = values["seq_len"], values["checkpointing"]
    yield from positive(values, "seq_len", "lora_bytes", "full_bytes", "time_ratio")
    if None not in (length, again) and length > 0:
        with_it = again == "with"
        for name, choices in (("lora_batch", ON_ONE), ("full_batch_per_gpu", ON_FOUR)):
            share = partial(_share, length, with_it, choices)
            yield from _near_largest(name, values[name], share)
        lora, full = (_step(1, length, with_it, choices) for choices in (ON_ONE, ON_FOUR))
        source = "what the formulas give for one sample a card"
        yield from compare("lora_bytes", values["lora_bytes"], lora.peak_bytes, source)
        yield from compare("full_bytes", values["full_bytes"], full.peak_bytes, source)
        ratio = full.seconds / lora.seconds
        source = "the ratio of the least times of a step, full over LoRA, one sample a card"
        yield from compare("time_ratio", values["time_ratio"], ratio, source)
    each, total = values["full_batch_per_gpu"], values["full_samples_per_step"]
    if None not in (each, total):
        source = "the batch of one device times the devices"
        yield from compare("full_samples_per_step", total, GPUS * each, source)
    yield from reasoned(values)


def _near_largest(name: str, batch: int | None, share: Callable[[int], float]) -> Iterator[Finding]:
    """Check that a batch fits by the formulas and that one much larger does not; 0 is a batch."""
    if batch is None:
        return
    if batch < 0:
        yield Finding("contradicts", f"{name} is below zero")
    elif batch and share(min(batch, MOST)) > 1 + SLACK:
        yield Finding("contradicts", f"{name} does not fit by the formulas")
    elif share(min(batch + 1 + batch // 3, MOST)) < 1 - SLACK:
        yield Finding("contradicts", f"a much larger {name} still fits by the formulas")
    elif not batch and share(1) <= 1:
        yield Finding("contradicts", f"{name} is 0, but one sample fits by the formulas")
    else:
        yield Finding("consistent", f"{name} is near the largest that the formulas give")


def left_out(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 03.6: rows of one table, which differ from everything on in one setting each."""
    yield from positive(values, "all_on_bytes", "largest_bytes")
    tables = _tables(evidence)
    claimed = values["all_on_bytes"]
    if claimed is not None:
        fitting = [table for table in tables if close(claimed, table[ALL_ON]["peak_bytes"])]
        if fitting:
            yield Finding("consistent", "all_on_bytes is the peak of a table with everything on")
            yield from _of_table(values, max(fitting, key=len))
        elif tables:
            yield Finding("contradicts", "all_on_bytes is not the peak of a table of yours with "
                          "everything on")  # fmt: skip
        else:
            yield Finding("missing", "no table of yours leaves settings out one at a time")
    yield from reasoned(values)


def _tables(evidence: Evidence) -> list[dict[str, dict[str, Any]]]:
    """Return the kept tables of steps with one thing left out, as {label: values}."""
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    for row in evidence.measured("left_out"):
        settings, found = row["settings"], row["values"]
        numbers = [found.get("peak_bytes"), found.get("least_time_s")]
        if all(isinstance(n, int | float) and n > 0 for n in numbers):
            same = [settings.get(name) for name in ("model", "device", "on")]
            table = tables.setdefault(json.dumps(same, sort_keys=True, default=str), {})
            table[str(settings.get("label"))] = found
    return [table for table in tables.values() if ALL_ON in table and len(table) > 1]


def _of_table(values: Values, table: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    first = table[ALL_ON]
    rows = {label: row for label, row in table.items() if label != ALL_ON}
    for name in ("largest", "unchanged", "slowest"):
        if values[name] is not None and values[name] not in rows:
            yield Finding("missing", f"{name}: your table has no row without {values[name]}")
    largest = rows.get(values["largest"])
    if largest is not None:
        if close(largest["peak_bytes"], max(row["peak_bytes"] for row in rows.values())):
            yield Finding("consistent", "largest is the row with the highest peak")
        else:
            yield Finding("contradicts", "largest is not the row with the highest peak")
        source = "the peak of the row that largest names"
        yield from compare("largest_bytes", values["largest_bytes"], largest["peak_bytes"], source)
    unchanged = rows.get(values["unchanged"])
    if unchanged is not None:
        change = unchanged["peak_bytes"] / first["peak_bytes"] - 1
        kind: Any = "consistent" if abs(change) < CHANGE else "contradicts"
        word = "hardly changes" if kind == "consistent" else "changes"
        yield Finding(kind, f"the peak {word} without what unchanged names")
    slowest = rows.get(values["slowest"])
    if slowest is not None:
        if close(slowest["least_time_s"], min(row["least_time_s"] for row in rows.values())):
            yield Finding("consistent", "without what slowest names the step is shortest")
        else:
            yield Finding("contradicts", "another row is shorter than the one without what "
                          "slowest names")  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One step by formula: its share of the card, its peak in bytes, its least seconds."""

    share: float
    peak_bytes: int
    seconds: float


def _share(seq_len: int, checkpointing: bool, choices: Mapping[str, Any], batch_size: int) -> float:
    return _step(batch_size, seq_len, checkpointing, choices).share


def _step(batch_size: int, seq_len: int, checkpointing: bool, choices: Mapping[str, Any]) -> Step:
    """Return a step of Llama-3-8B on an A100 with 40 GB, or on each of four, by formula."""
    from labkit.machine.links import between
    from labkit.memory.architectures import shape_of
    from labkit.memory.estimates import find_device, needed, settings_for
    from labkit.memory.formula import analytic
    from labkit.memory.step_time import step_seconds

    card = find_device(CARD)
    settings = settings_for(
        card, "llama-3-8b", batch_size=batch_size, seq_len=min(seq_len, MOST),
        gradient_checkpointing=checkpointing, **choices,
    )  # fmt: skip
    formula, shape = analytic(settings), shape_of(settings)
    assert formula is not None and shape is not None
    return Step(
        share=needed(formula.peak_bytes, settings) / card.usable_bytes,
        peak_bytes=formula.peak_bytes,
        seconds=step_seconds(shape, settings, card, between(card, settings.num_gpus))[0],
    )


RULES = {"03.4": eight_billion, "03.6": left_out}
