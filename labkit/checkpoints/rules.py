"""What an answer has to agree with, question by question.

A rule sees the parsed answer and the student's records and yields findings. It never knows a
"right" number: it recomputes from the records what the answer claims, or checks that the parts
of an answer fit together. What it says names the contradiction and not the number, so that a
student looks again instead of copying.

Measured values are compared within `CLOSE` (a student rounds); a change of memory counts as one
above `CHANGE`.
"""

import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from labkit import results
from labkit.errors import LabkitError
from labkit.results import RunRecord

CLOSE = 0.05
CHANGE = 0.03
FEWEST_WORDS = 8
WINDOW = 10

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """One sentence about an answer."""

    kind: Literal["consistent", "contradicts", "missing"]
    text: str


@dataclass
class Evidence:
    """The student's finished runs; `used` collects those that a rule looked at."""

    used: list[RunRecord] = field(default_factory=list)

    @cached_property
    def records(self) -> list[RunRecord]:
        """Every finished run, oldest first."""
        return [record for record in results.records() if record.status == "done"]

    def pairs(self, setting: str) -> Iterator[tuple[RunRecord, RunRecord]]:
        """Yield pairs of runs, lower value first, whose settings differ in `setting` alone."""
        for one, other in combinations(self.records, 2):
            if one.model.get("sha256") != other.model.get("sha256"):
                continue
            if differences(one, other) == {setting}:
                low, high = sorted((one, other), key=lambda run: _order(run.config[setting]))
                self.used += [low, high]
                yield low, high


# Settings that change no step's cost. The number of steps is not among them: which batches a run
# sees decides how long its longest sample is.
IRRELEVANT = {"name", "report_to", "save_steps", "eval_steps", "keep_weights"}
IRRELEVANT |= {"learning_rate", "warmup_steps", "lr_scheduler_type", "weight_decay"}


def differences(one: RunRecord, other: RunRecord) -> set[str]:
    """Return the settings that can change a step's cost and differ between two runs."""
    keys = (set(one.config) | set(other.config)) - IRRELEVANT
    return {key for key in keys if one.config.get(key) != other.config.get(key)}


def _order(value: Any) -> float:
    """Return what "more" of a setting means: numbers and switches as they are, types by bytes."""
    return {"bfloat16": 2.0, "float32": 4.0}.get(value) or float(value)


def close(claimed: float, measured: float) -> bool:
    """Return whether a claimed value is the measured one, within a student's rounding."""
    return abs(claimed - measured) <= CLOSE * abs(measured) + 1e-12


def compare(name: str, claimed: float | None, measured: float | None, source: str) -> Iterator:
    """Yield a finding about one number against the one that `source` gives."""
    if claimed is None:
        return
    if measured is None:
        yield Finding("missing", f"{name} cannot be checked: {source} was not measured")
    elif close(claimed, measured):
        yield Finding("consistent", f"{name} is {source}")
    else:
        side = "above" if claimed > measured else "below"
        yield Finding("contradicts", f"{name} is {side} {source}")


def reasoned(values: Values) -> Iterator[Finding]:
    """Ask for an explanation that is one: a person grades what it says."""
    text = values.get("explanation")
    if text is None:
        return
    if len(set(text.lower().split())) < FEWEST_WORDS:
        yield Finding("missing", "explanation: a reason, in a sentence or two")
    else:
        yield Finding("consistent", "an explanation is there (a person reads it)")


def quotient(values: Values, name: str, over: str, under: str, times: float = 1.0) -> Iterator:
    """Check that one field is the quotient of two others."""
    if None in (values[name], values[over], values[under]) or not values[under]:
        return
    measured = times * values[over] / values[under]
    yield from compare(name, values[name], measured, f"what {over} and {under} give")


def positive(values: Values, *names: str) -> Iterator[Finding]:
    """Refuse quantities that cannot be zero or less."""
    for name in names:
        if values[name] is not None and values[name] <= 0:
            yield Finding("contradicts", f"{name} is not above zero")


def weights(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """00.1: the stored size is that of the files; 32-bit needs four bytes a parameter."""
    yield from positive(values, "weights_bytes", "float32_bytes")
    if values["model"] is not None:
        stored, parameters = stored_weights(values["model"])
        source = "the size of the weights in the model's folder"
        claimed = values["weights_bytes"]
        if claimed and claimed < stored / 1000:
            yield Finding("contradicts", "weights_bytes is far too small: is it in bytes?")
        else:
            yield from compare("weights_bytes", claimed, stored, source)
        source = "four bytes for each of the model's parameters"
        yield from compare("float32_bytes", values["float32_bytes"], 4 * parameters, source)
    yield from reasoned(values)


def stored_weights(model: str) -> tuple[int, int]:
    """Return (bytes, parameters) of a model's weights, read from the headers of its files.

    Raises LabkitError when the model is not on this machine or not stored as safetensors.
    Source: safetensors' format, an 8-byte little-endian length and a JSON header.
    """
    from labkit.models.registry import resolve

    size = parameters = 0
    folder = Path(resolve(model, fetch=False))
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for tensor in header.values():
            begin, end = tensor["data_offsets"]
            size += end - begin
            count = 1
            for dimension in tensor["shape"]:
                count *= dimension
            parameters += count
    if not parameters:
        raise LabkitError(f"the model {model} has no safetensors files in {folder}")
    return size, parameters


def first_answer(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """00.2: the rate is tokens over seconds."""
    yield from positive(values, "predicted_seconds", "seconds", "tokens", "tokens_per_second")
    yield from quotient(values, "tokens_per_second", "tokens", "seconds")
    yield from reasoned(values)


def untouched_score(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """00.3: the share is correct answers over questions."""
    yield from positive(values, "questions")
    asked, correct = values["questions"], values["correct"]
    if None not in (asked, correct) and not 0 <= correct <= asked:
        yield Finding("contradicts", "correct is not between none and all of the questions")
    if correct == 0 and values["share_percent"] == 0:
        yield Finding("consistent", "share_percent is what correct and questions give")
    elif values["share_percent"] is not None and 0 < values["share_percent"] <= 1 < (correct or 0):
        yield Finding("contradicts", "share_percent looks like a fraction: give percent")
    else:
        yield from quotient(values, "share_percent", "correct", "questions", times=100.0)
    yield from reasoned(values)


def a_run(name: str, run: RunRecord | None, method: str) -> Iterator[Finding]:
    """Check that a named run is finished and of the method that is asked about."""
    if run is None:
        return
    if run.status != "done":
        yield Finding("contradicts", f"{name} is not finished: its record says {run.status}")
    if run.config.get("method") != method:
        yield Finding("contradicts", f"{name} is not a run with method: {method}")


def loss_behaviour(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """02.1: both means are the record's, and the verdict follows from them."""
    run = values["run"]
    yield from a_run("run", run, "lora")
    if run is not None and len(run.losses) < 2 * WINDOW:
        yield Finding("missing", f"run has too few steps to compare: at least {2 * WINDOW}")
    elif run is not None:
        begin, end = fmean(run.losses[:WINDOW]), fmean(run.losses[-WINDOW:])
        source = f"the mean of the run's %s {WINDOW} losses"
        yield from compare("first_loss", values["first_loss"], begin, source % "first")
        yield from compare("last_loss", values["last_loss"], end, source % "last")
        shown = "falls" if end < 0.95 * begin else "rises" if end > 1.05 * begin else "stays"
        if values["behaviour"] == shown:
            yield Finding("consistent", "behaviour is what the run's losses show")
        elif values["behaviour"] is not None:
            yield Finding("contradicts", "behaviour is not what the run's losses show")
    yield from reasoned(values)


def cost_ratio(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """02.2: two comparable runs, and the ratios of their records."""
    lora, full = values["lora_run"], values["full_run"]
    yield from a_run("lora_run", lora, "lora")
    yield from a_run("full_run", full, "full")
    if lora is not None and full is not None:
        shared = {"per_device_train_batch_size", "gradient_accumulation_steps", "max_length"}
        shared |= {"model", "data", "dtype", "gradient_checkpointing", "optim"}
        shared |= {"fast", "attn_implementation", "torch_compile", "max_train_samples"}
        unlike = sorted(differences(lora, full) & shared)
        if lora.model.get("sha256") != full.model.get("sha256"):
            unlike.append("the model's weights")
        for setting in unlike:
            yield Finding("contradicts", f"the two runs also differ in {setting}")
        if not unlike:
            yield Finding("consistent", "the two runs share what else costs time and memory")
        steps = [run.summary.get("step_seconds_median") for run in (full, lora)]
        peaks = [(run.summary.get("peak_bytes") or {}).get("allocated") for run in (full, lora)]
        for name, (over, under), what in [
            ("time_ratio", steps, "median step times"),
            ("memory_ratio", peaks, "peak allocated bytes"),
        ]:
            measured = over / under if over and under else None
            yield from compare(name, values[name], measured, f"the ratio of the {what}")
    yield from reasoned(values)


def memory_settings(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """02.3: no pair of runs that differ in one setting alone shows the opposite."""
    for setting, claim in values.items():
        if setting == "explanation" or claim is None:
            continue
        effects = set()
        for low, high in evidence.pairs(setting):
            before, after = (
                (r.summary.get("peak_bytes") or {}).get("allocated") for r in (low, high)
            )
            if before and after:
                change = after / before - 1
                effect = (
                    "no change" if abs(change) < CHANGE else "grows" if change > 0 else "shrinks"
                )
                effects.add(effect)
        if not effects:
            yield Finding("missing", f"{setting}: no two of your runs differ in it alone")
        elif effects == {claim}:
            yield Finding("consistent", f"{setting}: your runs show it")
        elif claim in effects:
            yield Finding(
                "consistent", f"{setting}: some of your runs show it, others less clearly"
            )
        else:
            yield Finding(
                "contradicts", f"{setting}: your runs that differ in it alone show otherwise"
            )
    yield from reasoned(values)


def trained_share(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """02.4: the counts of the record, and their quotient."""
    run = values["run"]
    yield from a_run("run", run, "lora")
    if run is not None:
        for name in ("trainable_parameters", "total_parameters"):
            yield from compare(name, values[name], run.summary.get(name), "the count in the record")
    yield from quotient(
        values, "share_percent", "trainable_parameters", "total_parameters", times=100.0
    )
    yield from reasoned(values)


def outlier_factor(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """04.1: absmax over spread, and 10 log10(12 · 127² / factor²) less 3 dB for two operands."""
    yield from positive(values, "absmax", "spread", "outlier_factor")
    yield from quotient(values, "outlier_factor", "absmax", "spread")
    factor = values["outlier_factor"]
    if factor and factor > 0:
        allowed = 10 * math.log10(12 * 127**2 / factor**2) - 10 * math.log10(2)
        yield from compare("snr_db", values["snr_db"], allowed, "what the formula gives")
    yield from reasoned(values)


def wrong_signs(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """04.2: more tokens, more wrong signs; 16 bits have fewer."""
    few, many = values["int8_few_percent"], values["int8_many_percent"]
    yield from positive(values, "tokens_few", "tokens_many", "int8_few_percent", "growth")
    yield from quotient(values, "growth", "int8_many_percent", "int8_few_percent")
    if None not in (values["tokens_few"], values["tokens_many"]):
        if values["tokens_many"] <= values["tokens_few"]:
            yield Finding("contradicts", "tokens_many is not above tokens_few")
        elif None not in (few, many) and many <= few:
            yield Finding("contradicts", "int8_many_percent is not above int8_few_percent")
    sixteen = values["sixteen_bit_percent"]
    if None not in (many, sixteen) and sixteen >= many:
        yield Finding("contradicts", "sixteen_bit_percent is not below int8_many_percent")
    yield from reasoned(values)


def lost_decibels(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """04.3: the loss is a difference of decibels, and 10 dB are a factor of ten."""
    row, tensor, lost = (values[name] for name in ("row_db", "tensor_db", "lost_db"))
    if None not in (row, tensor):
        yield from compare("lost_db", lost, row - tensor, "row_db less tensor_db")
    if lost is not None:
        factor = 10 ** (lost / 10)
        yield from compare("noise_factor", values["noise_factor"], factor, "what lost_db means")
    yield from reasoned(values)


def ceilings(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """04.4: two of three products at the rate of int8, or two of two."""
    yield from positive(values, "rate")
    rate = values["rate"]
    if rate and rate > 0:
        full = 3 / (2 / rate + 1)
        source = "three products over two in int8 and one in 16 bit"
        yield from compare("full_ceiling", values["full_ceiling"], full, source)
        source = "two products over two in int8"
        yield from compare("frozen_ceiling", values["frozen_ceiling"], rate, source)
    yield from reasoned(values)


RULES: dict[str, Callable[[Values, Evidence], Iterator[Finding]]] = {
    "00.1": weights,
    "00.2": first_answer,
    "00.3": untouched_score,
    "02.1": loss_behaviour,
    "02.2": cost_ratio,
    "02.3": memory_settings,
    "02.4": trained_share,
    "04.1": outlier_factor,
    "04.2": wrong_signs,
    "04.3": lost_decibels,
    "04.4": ceilings,
}
