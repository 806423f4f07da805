"""Rules of lesson 06: what methods train, take and forget, and whether one is better."""

from collections.abc import Iterator
from typing import Any

from labkit import methods
from labkit.checkpoints.lessons.intervals import (
    THOUSANDTH,
    as_interval_says,
    as_kept,
    compared,
    in_interval,
)
from labkit.checkpoints.rules import (
    Evidence,
    Finding,
    Values,
    a_run,
    compare,
    differences,
    finished,
    number,
    one_model,
    peak_allocated,
    positive,
    reasoned,
)
from labkit.runs.records import RunRecord

OF_METHODS = {"method", "base", "double_quant"} | {
    name for settings in methods.settings_of_training() for name in settings.names()
}


def cost(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 06.1: what another method trains, holds and takes, over LoRA's, from the records."""
    lora, other = values["lora_run"], values["other_run"]
    yield from a_run("lora_run", lora, "lora")
    yield from positive(values, "trained_ratio", "memory_ratio", "time_ratio")
    yield from finished("other_run", other)
    yield from one_model(lora_run=lora, other_run=other)
    if lora is not None and other is not None:
        between = differences(lora, other)
        if not between & OF_METHODS:
            yield Finding("contradicts", "other_run is of the same method as lora_run")
        if elsewhere := sorted(between - OF_METHODS - {"model", "seed"}):
            yield Finding("contradicts", "lora_run and other_run differ in more than their method: "
                          f"{', '.join(elsewhere)}")  # fmt: skip
        trained, steps = ([number(run.summary, name) for run in (lora, other)]
                          for name in ("trainable_parameters", "step_seconds_median"))  # fmt: skip
        for name, what, (of_lora, of_other) in (
            ("trained_ratio", "trained parameters", trained),
            ("memory_ratio", "peak allocated bytes", map(peak_allocated, (lora, other))),
            ("time_ratio", "median times of a step", steps),
        ):
            ratio = of_other / of_lora if of_lora and of_other is not None else None
            yield from compare(name, values[name], ratio, f"the ratio of the {what}, other to LoRA")
    yield from reasoned(values)


def better(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 06.2: difference and interval are those of the comparison that was made."""
    yield from one_model(first_run=values["first_run"], second_run=values["second_run"])
    yield from compared(values, evidence)


def counts(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 06.3: each method's count, by its own formula on the model's numbers."""
    sizes = {"num_virtual_tokens": values["prefix_tokens"], "lora_r": values["lora_rank"],
             "bottleneck_size": values["bottleneck_width"]}  # fmt: skip
    yield from positive(values, "prefix_tokens", "lora_rank", "bottleneck_width")
    found: dict[str, float] = {}
    for name in values:
        if not name.endswith("_parameters"):
            continue
        method = name.removesuffix("_parameters")
        expected = None
        if values["model"] and all(size is None or size > 0 for size in sizes.values()):
            expected = _count(values["model"], method, sizes, here=evidence.here)
        if values[name] is not None:
            found[method] = values[name]
        yield from compare(name, values[name], expected, "what the formula gives for this model")
    if len(found) == 4 and values["fewest"] is not None:
        if found[values["fewest"]] == min(found.values()):
            yield Finding("consistent", "fewest is the smallest of the four")
        else:
            yield Finding("contradicts", "fewest is not the smallest of the four")
    yield from reasoned(values)


def _count(model: str, method: str, sizes: dict[str, Any], *, here: bool) -> int | None:
    from labkit.errors import LabkitError
    from labkit.memory.architectures import shape_of
    from labkit.memory.formula import added_parameters
    from labkit.memory.settings import StepSettings
    from labkit.models.registry import known_names

    if not here and model not in known_names():  # a name opens no file on a grader's machine
        return None
    given = {key: size for key, size in sizes.items() if size is not None}
    try:
        settings = StepSettings(model=model, method=method, **given)
        shape = shape_of(settings)
    except LabkitError:
        return None
    return added_parameters(shape, settings) if shape else None


def forgotten(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 06.4: bits per byte before and after, as they were measured for the run."""
    run: RunRecord | None = values["run"]
    yield from positive(values, "bits_before", "bits_after")
    ends = values["change_low"], values["change_high"]
    change = None
    if None not in (values["bits_before"], values["bits_after"]):
        change = values["bits_after"] - values["bits_before"]
    yield from in_interval(change, ends, "change", within=2 * THOUSANDTH)
    if run is not None:
        kept = evidence.values_of("forgetting", run=run)
        fields = {"bits_before": "before", "bits_after": "after", "change_low": "low",
                  "change_high": "high"}  # fmt: skip
        yield from as_kept(values, fields, kept, "measurement of this run's text",
                            within=THOUSANDTH)  # fmt: skip
    yield from as_interval_says(values, ends, above="it forgot", below="it improved",
                                within=THOUSANDTH)  # fmt: skip
    yield from reasoned(values)


RULES = {"06.1": cost, "06.2": better, "06.3": counts, "06.4": forgotten}
