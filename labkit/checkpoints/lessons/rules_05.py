"""Rules of lesson 05: which model answers better, and what keeping it in memory costs."""

import json
from collections.abc import Iterator
from typing import Any

from labkit.checkpoints.lessons.intervals import TENTH, as_interval_says
from labkit.checkpoints.rules import (
    Evidence,
    Finding,
    Values,
    a_run,
    close,
    closest,
    compare,
    number,
    one_model,
    positive,
    quotient,
    reasoned,
)
from labkit.runs.records import RunRecord

NEAR = 0.005
ROUNDED = 0.006
TIE = 0.01
FORMS = {"bf16": "merged, bf16", "int8": "merged, 8-bit", "nf4": "merged, nf4"}


def by_sample(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 05.1: the scores of the replies that were given; the best follows from them."""
    runs = runs_of(values)
    for method, run in runs.items():
        yield from a_run(f"{method}_run", run, method)
    yield from one_model(lora_run=values["lora_run"], full_run=values["full_run"])
    named = {who: run.name for who, run in runs.items() if run is not None}
    for run in runs.values():
        if run is not None:
            named["untouched"] = str(run.config.get("model"))
    scores = {}
    for who in ("untouched", *runs):
        yield from _of_one_answer(values, who)
        if None not in (values[f"{who}_em"], values[f"{who}_f1"]):
            scores[who] = (values[f"{who}_em"], values[f"{who}_f1"])
            data = next((run.config.get("data") for run in runs.values() if run), None)
            given = replied(evidence, named.get(who), values["sid"], data=data)
            yield from _was_given(values, who, given)
    if len(scores) == 3:
        yield from _best(values, scores)
    if values["sid"] is not None and values["sid"] < 0:
        yield Finding("contradicts", "sid is not an id: they begin at 0")
    yield from reasoned(values)


def two_bases(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 05.5: two ways to ask untouched models, each held against the reply it gave."""
    scores, ways = {}, []
    for who in ("first", "second"):
        yield from _of_one_answer(values, who)
        model, examples = values[f"{who}_model"], values[f"{who}_examples"]
        if examples is not None and examples < 0:
            yield Finding("contradicts", f"{who}_examples is below zero")
        if named := [run for run in evidence.runs if model in (run.name, run.id)]:
            evidence.used += named
            yield Finding("contradicts", f"{who}_model is a run: name a base model")
        ways.append((model, examples))
        if None not in (values[f"{who}_em"], values[f"{who}_f1"], model, examples):
            scores[who] = (values[f"{who}_em"], values[f"{who}_f1"])
            given = replied(evidence, model, values["sid"], examples=examples)
            yield from _was_given(values, who, given)
    if None not in ways[0] and ways[0] == ways[1]:
        yield Finding("contradicts", "first and second are the same model, asked the same way")
    if len(scores) == 2:
        yield from _best(values, scores)
    if values["sid"] is not None and values["sid"] < 0:
        yield Finding("contradicts", "sid is not an id: they begin at 0")
    yield from reasoned(values)


def _of_one_answer(values: Values, who: str) -> Iterator[Finding]:
    em, f1 = values[f"{who}_em"], values[f"{who}_f1"]
    if em is not None and em not in (0, 1):
        yield Finding("contradicts", f"{who}_em is neither 0 nor 1: it is of one answer")
    if f1 is not None and (not 0 <= f1 <= 1 or f1 < (em or 0)):
        yield Finding("contradicts", f"{who}_f1 is not between {who}_em and 1")


def _was_given(values: Values, who: str, given: list[tuple[float, float]]) -> Iterator[Finding]:
    """Hold the scores of one answer against the replies that were kept; any of them will do."""
    claimed = (values[f"{who}_em"], values[f"{who}_f1"])
    if not given:
        yield Finding("missing", f"{who}_em and {who}_f1 cannot be checked: no reply to this "
                      "sample is kept; ask by generate.compare or labkit infer")  # fmt: skip
        return
    fits = any(claimed[0] == em and abs(claimed[1] - f1) <= ROUNDED for em, f1 in given)
    if fits:
        yield Finding("consistent", f"{who}_em and {who}_f1 are those of the reply")
    else:
        yield Finding("contradicts", f"{who}_em and {who}_f1 are not those of the reply that "
                      "was given to this sample")  # fmt: skip


def _best(values: Values, scores: dict[str, tuple[float, float]]) -> Iterator[Finding]:
    if values["best"] is None:
        return
    highest = max(scores.values())
    leaders = [who for who, score in scores.items() if score == highest]
    if values["best"] == (leaders[0] if len(leaders) == 1 else "none"):
        yield Finding("consistent", "best is what the scores say")
    else:
        yield Finding("contradicts", "best is not what the scores say")


def runs_of(values: Values) -> dict[str, RunRecord | None]:
    """Return the runs that an answer names, each under the method its field asks for."""
    fields = [name for name in values if name.endswith("_run")]
    return {name.removesuffix("_run"): values[name] for name in fields}


def replied(
    evidence: Evidence, model: str | None, sid: int | None, *, examples: int = 0, data: Any = None
) -> list[tuple[float, float]]:
    """Return (exact match, F1) of every reply of a model to a test sample that is kept.

    `data` is the data set that the sample is of; None takes any.
    """
    found = []
    for kept in evidence.measured("reply"):
        settings, worth = kept["settings"], kept["values"]
        asked = [settings.get(name) for name in ("model", "sid", "examples", "split")]
        if asked == [model, sid, examples, "test"] and data in (None, settings.get("data")):
            em, f1 = number(worth, "em"), number(worth, "f1")
            if em is not None and f1 is not None:
                found.append((em, f1))
    return found


def difference(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 05.2: the records' scores, and a verdict that the interval supports."""
    points = {}
    for method, run in runs_of(values).items():
        claimed = values[f"{method}_em_percent"]
        yield from a_run(f"{method}_run", run, method)
        if run is not None and claimed is not None:
            # Scores of one run are over its own data; the one over most questions counts.
            kept = sorted(run.scores.values(), key=lambda s: s.get("n", 0))
            measured = 100 * kept[-1]["metrics"]["em"]["value"] if kept else None
            source = "the exact match in its record, in percent"
            yield from compare(f"{method}_em_percent", claimed, measured, source)
            points[method] = claimed
    yield from one_model(lora_run=values["lora_run"], full_run=values["full_run"])
    low, high = values["difference_low"], values["difference_high"]
    if None not in (low, high):
        if low > high:
            yield Finding("contradicts", "difference_low is above difference_high")
        elif len(points) == 2:
            inside = low - NEAR <= points["full"] - points["lora"] <= high + NEAR
            kind: Any = "consistent" if inside else "contradicts"
            word = "lies" if inside else "does not lie"
            yield Finding(kind, f"full minus LoRA {word} between difference_low and _high")
        yield from _interval(values, evidence)
    yield from as_interval_says(values, (low, high), above="full is better",
                                below="lora is better", within=TENTH)  # fmt: skip
    yield from reasoned(values)


def _interval(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Hold both ends of the interval against the comparison of the two runs that was made."""
    runs = [values["lora_run"], values["full_run"]]
    if None in runs:
        return
    kept = evidence.values_of("difference", first=runs[0], second=runs[1])
    if not kept:
        yield Finding("missing", "difference_low and difference_high cannot be checked: no "
                      "comparison of these two runs is kept")  # fmt: skip
        return
    for end in ("low", "high"):
        measured, name = [number(each, end) for each in kept], f"difference_{end}"
        if any(m is not None and close(values[name], m, least=TENTH) for m in measured):
            yield Finding("consistent", f"{name} is the {end} end of your comparison's interval")
        else:
            yield Finding("contradicts", f"{name} is not the {end} end of the interval that your "
                          "comparison of these runs has")  # fmt: skip


def cache(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 05.3: the formula on the model's own numbers."""
    yield from positive(values, "tokens", "kv_cache_bytes", "weights_bytes", "conversations")
    shape = _shape(values["model"], here=evidence.here) if values["model"] else None
    if shape is not None and values["tokens"]:
        from labkit.memory.architectures import parameters
        from labkit.models.layers import kv_cache_bytes

        expected = kv_cache_bytes(shape.layers, shape.keys, tokens=values["tokens"])
        source = "what the formula gives for this model and these tokens"
        yield from compare("kv_cache_bytes", values["kv_cache_bytes"], expected, source)
        source = "two bytes for each of the model's parameters"
        yield from compare("weights_bytes", values["weights_bytes"], 2 * parameters(shape), source)
    elif values["model"]:
        yield Finding("missing", f"the numbers of {values['model']} are not known here")
    yield from quotient(values, "conversations", "weights_bytes", "kv_cache_bytes")
    yield from reasoned(values)


def _shape(model: str, *, here: bool) -> Any:
    from labkit.errors import LabkitError
    from labkit.memory.architectures import shape_of
    from labkit.memory.settings import StepSettings
    from labkit.models.registry import known_names

    if not here and model not in known_names():  # a name opens no file on a grader's machine
        return None
    try:
        return shape_of(StepSettings(model=model, method="full", batch_size=1, seq_len=1))
    except LabkitError:
        return None


def quantised(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 05.4: sizes and rates are those that were measured; the fastest is the fastest."""
    names = tuple(FORMS)
    yield from positive(values, *(f"{name}_bytes" for name in names))
    yield from positive(values, *(f"{name}_tokens_per_second" for name in names))
    yield from _sizes(values)
    yield from closest(
        [list(_as_measured(values, table)) for table in _costs(evidence)], "these forms' costs"
    )
    rates = {name: values[f"{name}_tokens_per_second"] for name in names}
    if None not in rates.values() and values["fastest"] is not None:
        if rates[values["fastest"]] >= (1 - TIE) * max(rates.values()):
            yield Finding("consistent", "fastest is the one with the highest rate")
        else:
            yield Finding("contradicts", "fastest is not the one with the highest rate")
    yield from reasoned(values)


def _sizes(values: Values) -> Iterator[Finding]:
    sizes = [values[f"{name}_bytes"] for name in FORMS]
    if None in sizes:
        return
    if sizes[0] > sizes[1] > sizes[2]:
        yield Finding("consistent", "fewer bits, fewer bytes")
    else:
        yield Finding("contradicts", "the sizes do not fall from bf16 over int8 to nf4")
    for name, size, share in (("int8", sizes[1], 0.5), ("nf4", sizes[2], 0.25)):
        if size < share * sizes[0]:
            yield Finding("contradicts", f"{name}_bytes is less than its bits alone take")


def _costs(evidence: Evidence) -> list[dict[str, dict[str, Any]]]:
    """Return the kept costs as {form: values}, one table for each model and adapter."""
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    for kept in evidence.measured("cost"):
        settings = kept["settings"]
        same = json.dumps([settings.get("model"), settings.get("adapter")], default=str)
        for form, label in FORMS.items():
            if settings.get("label") == label:
                tables.setdefault(same, {})[form] = kept["values"]
    return list(tables.values())


def _as_measured(values: Values, table: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    for form in FORMS:
        found = table.get(form, {})
        for field, name in ((f"{form}_bytes", "weights_bytes"),
                            (f"{form}_tokens_per_second", "writing_per_second")):  # fmt: skip
            source = f"what was measured of the merged model in {form}"
            yield from compare(field, values[field], number(found, name), source)


RULES = {
    "05.1": by_sample,
    "05.2": difference,
    "05.3": cache,
    "05.4": quantised,
    "05.5": two_bases,
}
