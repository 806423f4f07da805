"""Rules of lesson 02: the costs of LoRA and full fine-tuning, from pairs of the student's runs."""

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

from labkit.checkpoints.rules import (
    CHANGE,
    COUNTED,
    Evidence,
    Finding,
    Values,
    a_run,
    compare,
    differences,
    one_model,
    peak_allocated,
    quotient,
    reasoned,
)
from labkit.runs.records import RunRecord

WINDOW = 10
FALLS, RISES = 0.95, 1.05
"""Losses closer together than this stay where they are."""
UNSURE = 0.01
"""So near to the border of a verdict both sides of it are right."""
MEANS_BYTES = 8
"""AdamW's two running means of a parameter, in float32."""


def loss_behaviour(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 02.1: means and development losses are the records', and the verdicts follow."""
    run, full = values["run"], values["full_run"]
    yield from a_run("run", run, "lora")
    yield from a_run("full_run", full, "full")
    yield from one_model(run=run, full_run=full)
    for name, each, first, last, development in [
        ("run", run, "first_loss", "last_loss", "dev_loss"),
        ("full_run", full, None, "full_last_loss", "full_dev_loss"),
    ]:
        if each is None:
            continue
        if len(each.losses) < 2 * WINDOW:
            yield Finding("missing", f"{name} has too few steps to compare: at least {2 * WINDOW}")
        else:
            source = f"the mean of the {name}'s %s {WINDOW} losses"
            if first:
                yield from compare(
                    first, values[first], fmean(each.losses[:WINDOW]), source % "first"
                )
            yield from compare(last, values[last], fmean(each.losses[-WINDOW:]), source % "last")
        measured = development_losses(each)
        source = f"the development loss at the {name}'s last evaluation"
        final = measured[-1] if measured else None
        yield from compare(development, values[development], final, source)
    if run is not None and len(run.losses) >= 2 * WINDOW:
        begin, end = fmean(run.losses[:WINDOW]), fmean(run.losses[-WINDOW:])
        shown = {
            "falls" if ratio < FALLS else "rises" if ratio > RISES else "stays"
            for ratio in around(quotient_of(end, begin))
        }
        yield from verdict("behaviour", values["behaviour"], shown, "the run's losses show")
    if run is not None and values["dev_behaviour"] is not None:
        measured = development_losses(run)
        if len(measured) < 2:
            yield Finding("missing", "dev_behaviour: the run has too few evaluations to tell")
        else:
            over = around(quotient_of(measured[-1], min(measured)))
            shown = {"rises before the end" if r > RISES else "lowest at the end" for r in over}
            shown |= {"rises before the end"} if min(measured) < measured[-1] else set()
            yield from verdict(
                "dev_behaviour", values["dev_behaviour"], shown, "the run's evaluations show"
            )
    yield from reasoned(values)


def development_losses(run: RunRecord) -> list[float]:
    """Return the losses of a run's evaluations, in their order; those of a damaged record not."""
    entries = run.summary.get("eval_losses") or []
    losses = [each.get("loss") for each in entries if isinstance(each, Mapping)]
    return [float(each) for each in losses if isinstance(each, int | float) and each >= 0]


def quotient_of(over: float, under: float) -> float:
    """Return a quotient of two losses, 1 where both are zero."""
    return over / under if under else float("inf") if over else 1.0


def around(ratio: float) -> tuple[float, float]:
    """Return a ratio a little smaller and a little larger."""
    return ratio * (1 - UNSURE), ratio * (1 + UNSURE)


def verdict(name: str, claimed: str | None, shown: set[str], source: str) -> Iterator[Finding]:
    """Yield a finding about a word against those that `source` allows."""
    if claimed in shown:
        yield Finding("consistent", f"{name} is what {source}")
    elif claimed is not None:
        yield Finding("contradicts", f"{name} is not what {source}")


def cost_ratio(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 02.2: two comparable runs, and the ratios of their records."""
    lora, full = values["lora_run"], values["full_run"]
    yield from a_run("lora_run", lora, "lora")
    yield from a_run("full_run", full, "full")
    if lora is not None and full is not None:
        shared = {"per_device_train_batch_size", "gradient_accumulation_steps", "max_length"}
        shared |= {"data", "dtype", "gradient_checkpointing", "optim"}
        shared |= {"fast", "attn_implementation", "torch_compile", "max_train_samples"}
        unlike = sorted(differences(lora, full) & shared)
        strangers = [*one_model(lora_run=lora, full_run=full), *one_machine(lora, full)]
        yield from strangers
        for setting in unlike:
            yield Finding("contradicts", f"the two runs also differ in {setting}")
        if not unlike and not strangers:
            yield Finding("consistent", "the two runs share what else costs time and memory")
        steps = [run.summary.get("step_seconds_median") for run in (full, lora)]
        peaks = [peak_allocated(run) for run in (full, lora)]
        for name, (over, under), what in [
            ("time_ratio", steps, "median step times"),
            ("memory_ratio", peaks, "peak allocated bytes"),
        ]:
            measured = over / under if over and under else None
            yield from compare(name, values[name], measured, f"the ratio of the {what}")
    yield from reasoned(values)


def one_machine(one: RunRecord, other: RunRecord) -> Iterator[Finding]:
    """Require that two runs whose costs are compared ran on the same hardware."""
    unlike = [
        part
        for part in ("cpu", "cores", "threads", "gpus")
        if one.hardware.get(part) != other.hardware.get(part)
    ]
    if unlike:
        yield Finding(
            "contradicts", f"the two runs were made on different machines: other {unlike[0]}"
        )


def memory_settings(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 02.3: no pair of runs that differ in one setting alone shows the opposite."""
    for setting, claim in values.items():
        if setting == "explanation" or claim is None:
            continue
        effects = set()
        for pair in evidence.pairs(setting):
            ordered = sorted(pair, key=lambda run: order(setting, run.config.get(setting)))
            low, high = (order(setting, run.config.get(setting)) for run in ordered)
            before, after = (peak_allocated(run) for run in ordered)
            if before and after and low < high:
                change = after / before - 1
                for each in (change - SAME, change + SAME):
                    if abs(each) < CHANGE:
                        effects.add("no change")
                    else:
                        effects.add("grows" if each > 0 else "shrinks")
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


SAME = 0.001
"""Two peaks of the same step differ by less."""


def order(setting: str, value: Any) -> float:
    """Return what "more" of a setting means in 02.3."""
    if setting == "target_modules":
        every = "all-linear" in (value or ())
        return float("inf") if every else float(len(value or ()))
    if setting == "optim":
        return {"sgd": 0.0, "adamw_torch": 1.0, "adamw_torch_fused": 1.0}.get(
            str(value), float("nan")
        )
    known = {"bfloat16": 2.0, "float32": 4.0}
    return float(value) if isinstance(value, int | float) else known.get(str(value), float("nan"))


def trained_share(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 02.4: the counts of the record, their quotient, and the bytes that follow."""
    run = values["run"]
    yield from a_run("run", run, "lora")
    if run is not None:
        for name in ("trainable_parameters", "total_parameters"):
            counted = run.summary.get(name)
            yield from compare(name, values[name], counted, "the count in the record", COUNTED)
    yield from quotient(
        values, "share_percent", "trainable_parameters", "total_parameters", times=100.0
    )
    if values["trainable_parameters"] is not None:
        means = MEANS_BYTES * values["trainable_parameters"]
        source = "what two float32 means of every trained parameter take"
        yield from compare("optimizer_bytes", values["optimizer_bytes"], means, source)
    yield from reasoned(values)


RULES = {
    "02.1": loss_behaviour,
    "02.2": cost_ratio,
    "02.3": memory_settings,
    "02.4": trained_share,
}
