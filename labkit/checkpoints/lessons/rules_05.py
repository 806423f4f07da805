"""Rules of lesson 05: which model answers better, and what keeping it in memory costs."""

import json
from collections.abc import Iterator
from typing import Any

from labkit.checkpoints.rules import (
    Evidence,
    Finding,
    Values,
    a_run,
    compare,
    one_model,
    positive,
    quotient,
    reasoned,
)
from labkit.runs import records
from labkit.runs.records import RunRecord

NEAR = 0.005


def by_sample(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 05.1: the scores of the kept predictions; the best follows from them."""
    runs = runs_of(values)
    for method, run in runs.items():
        yield from a_run(f"{method}_run", run, method)
    yield from one_model(lora_run=values["lora_run"], full_run=values["full_run"])
    scores: dict[str, tuple[float, float]] = {}
    for who in ("untouched", *runs):
        em, f1 = values[f"{who}_em"], values[f"{who}_f1"]
        if None in (em, f1):
            continue
        scores[who] = (em, f1)
        if em not in (0, 1):
            yield Finding("contradicts", f"{who}_em is neither 0 nor 1: it is of one answer")
        if not 0 <= f1 <= 1 or f1 < em:
            yield Finding("contradicts", f"{who}_f1 is not between {who}_em and 1")
        run = runs.get(who)
        kept = kept_score(run, values["sid"]) if run is not None and evidence.here else None
        if kept is not None:
            yield from compare(f"{who}_em", em, kept[0], "the exact match of the kept prediction")
            yield from compare(f"{who}_f1", f1, kept[1], "the F1 of the kept prediction")
    if len(scores) == 3 and values["best"] is not None:
        highest = max(scores.values())
        leaders = [who for who, score in scores.items() if score == highest]
        best = leaders[0] if len(leaders) == 1 else "none"
        if values["best"] == best:
            yield Finding("consistent", "best is what the scores say")
        else:
            yield Finding("contradicts", "best is not what the scores say")
    if values["sid"] is not None and values["sid"] < 0:
        yield Finding("contradicts", "sid is not an id: they begin at 0")
    yield from reasoned(values)


def runs_of(values: Values) -> dict[str, RunRecord | None]:
    """Return the runs that an answer names, each under the method its field asks for."""
    fields = [name for name in values if name.endswith("_run")]
    return {name.removesuffix("_run"): values[name] for name in fields}


def kept_score(run: RunRecord, sid: int | None) -> tuple[float, float] | None:
    """Return (exact match, F1) of a run's kept prediction for a test sample, or None."""
    from labkit.datasets import score, tatqa
    from labkit.datasets.registry import reports
    from labkit.errors import LabkitError

    if sid is None:
        return None
    try:
        samples = tatqa.samples(reports(run.config["data"], "test"))
    except LabkitError:
        return None
    if not 0 <= sid < len(samples):
        return None
    question = samples[sid].question
    for predictions in _predictions(run):
        if question.uid in predictions:
            answer, scale = predictions[question.uid]
            return score.score_answer(answer, scale, question)
    return None


def _predictions(run: RunRecord) -> Iterator[dict[str, Any]]:
    for path in sorted((records.runs_dir() / "evaluations").glob("*.json")):
        try:
            outcome = json.loads(path.read_text(encoding="utf-8"))
            plain = outcome.get("examples") == 0 and outcome.get("split") == "test"
            if outcome.get("model") == run.name and plain:
                file = path.with_suffix(".predictions.json")
                yield json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, AttributeError, RecursionError):
            continue


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
        said = "full is better" if low > 0 else "lora is better" if high < 0 else "not told apart"
        if values["verdict"] == said:
            yield Finding("consistent", "verdict is what the interval says")
        elif values["verdict"] is not None:
            yield Finding("contradicts", "verdict is not what the interval says")
    yield from reasoned(values)


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
    """Check 05.4: sizes in the order of the bits, none below them; the fastest is the fastest."""
    names = ("bf16", "int8", "nf4")
    yield from positive(values, *(f"{name}_bytes" for name in names))
    yield from positive(values, *(f"{name}_tokens_per_second" for name in names))
    sizes = [values[f"{name}_bytes"] for name in names]
    if None not in sizes:
        if sizes[0] > sizes[1] > sizes[2]:
            yield Finding("consistent", "fewer bits, fewer bytes")
        else:
            yield Finding("contradicts", "the sizes do not fall from bf16 over int8 to nf4")
        for name, size, share in (("int8", sizes[1], 0.5), ("nf4", sizes[2], 0.25)):
            if size < share * sizes[0]:
                yield Finding("contradicts", f"{name}_bytes is less than its bits alone take")
    rates = {name: values[f"{name}_tokens_per_second"] for name in names}
    if None not in rates.values() and values["fastest"] is not None:
        if rates[values["fastest"]] == max(rates.values()):
            yield Finding("consistent", "fastest is the one with the highest rate")
        else:
            yield Finding("contradicts", "fastest is not the one with the highest rate")
    yield from reasoned(values)


RULES = {"05.1": by_sample, "05.2": difference, "05.3": cache, "05.4": quantised}
