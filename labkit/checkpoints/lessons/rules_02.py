"""Rules of lesson 02: the costs of LoRA and full fine-tuning, from pairs of the student's runs."""

from collections.abc import Iterator
from statistics import fmean

from labkit.checkpoints.rules import (
    CHANGE,
    Evidence,
    Finding,
    Values,
    a_run,
    compare,
    differences,
    one_model,
    quotient,
    reasoned,
)

WINDOW = 10


def loss_behaviour(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 02.1: both means are the record's, and the verdict follows from them."""
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
    """Check 02.2: two comparable runs, and the ratios of their records."""
    lora, full = values["lora_run"], values["full_run"]
    yield from a_run("lora_run", lora, "lora")
    yield from a_run("full_run", full, "full")
    if lora is not None and full is not None:
        shared = {"per_device_train_batch_size", "gradient_accumulation_steps", "max_length"}
        shared |= {"data", "dtype", "gradient_checkpointing", "optim"}
        shared |= {"fast", "attn_implementation", "torch_compile", "max_train_samples"}
        unlike = sorted(differences(lora, full) & shared)
        strangers = list(one_model(lora_run=lora, full_run=full))
        yield from strangers
        for setting in unlike:
            yield Finding("contradicts", f"the two runs also differ in {setting}")
        if not unlike and not strangers:
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
    """Check 02.3: no pair of runs that differ in one setting alone shows the opposite."""
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
    """Check 02.4: the counts of the record, and their quotient."""
    run = values["run"]
    yield from a_run("run", run, "lora")
    if run is not None:
        for name in ("trainable_parameters", "total_parameters"):
            yield from compare(name, values[name], run.summary.get(name), "the count in the record")
    yield from quotient(
        values, "share_percent", "trainable_parameters", "total_parameters", times=100.0
    )
    yield from reasoned(values)


RULES = {
    "02.1": loss_behaviour,
    "02.2": cost_ratio,
    "02.3": memory_settings,
    "02.4": trained_share,
}
