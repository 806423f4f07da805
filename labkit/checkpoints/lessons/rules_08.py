"""Rules of lesson 08: what devices hold, share and send, on paper and in the student's runs."""

from collections.abc import Iterator
from typing import Any

from labkit.checkpoints.rules import (
    COUNTED,
    Evidence,
    Finding,
    Values,
    compare,
    differences,
    number,
    one_model,
    positive,
    reasoned,
)
from labkit.runs.records import RunRecord

GB, GIB = 1e9, 2**30
TRACED = 0.08
"""what trace and formula may lie apart, and a student may take either"""
MODEL, CARDS = "llama-3-8b", 4
MOST_DEVICES = 2**20
"""for which a sharding is compared: more than any run had"""


def held(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 08.1: bytes of weights, gradients and optimizer state by what a sharding shares."""
    yield from positive(values, "parameters", "ranks")
    yield from _several(values)
    if settings := _step(values):
        from labkit.memory.sharding import state_bytes

        states = state_bytes(settings, _sizes(values["parameters"]))
        for field, part in (("weights_gb", "weights"), ("gradients_gb", "gradients"),
                            ("optimizer_gb", "optimizer_state")):  # fmt: skip
            expected = states[part] / GB
            yield from compare(field, values[field], expected, "what this sharding leaves on one",
                               COUNTED)  # fmt: skip
    yield from reasoned(values)


def shared(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 08.2: two runs over processes, from what their tensors were found to be."""
    plain, other = values["plain_run"], values["shared_run"]
    yield from positive(values, "weights_ratio", "optimizer_ratio", "sent_ratio", "time_ratio")
    for name, run in (("plain_run", plain), ("shared_run", other)):
        yield from _over_processes(name, run)
    yield from one_model(plain_run=plain, shared_run=other)
    if plain is not None and other is not None:
        ran = _of(plain).get("ran"), _of(other).get("ran")
        if ran[0] not in (None, "none"):
            yield Finding("contradicts", "plain_run shared more than the batch, as its tensors say")
        if ran[1] == "none":
            yield Finding("contradicts", "shared_run shared nothing, as its tensors say")
        elsewhere = differences(plain, other) - {"sharding", "deepspeed", "model", "seed"}
        if elsewhere:
            yield Finding("contradicts", "plain_run and shared_run differ in more than sharding: "
                          f"{', '.join(sorted(elsewhere))}")  # fmt: skip
        for name, what, read in (
            ("weights_ratio", "weights in process 0", lambda run: _held(run, "weights")),
            ("optimizer_ratio", "optimizer state in process 0",
             lambda run: _held(run, "optimizer_state")),
            ("sent_ratio", "bytes sent in a step", _sent),
            ("time_ratio", "median times of a step",
             lambda run: number(run.summary, "step_seconds_median")),
        ):  # fmt: skip
            before, after = read(plain), read(other)
            ratio = after / before if before and after is not None else None
            yield from compare(name, values[name], ratio, f"the ratio of the {what}")
    yield from reasoned(values)


def _over_processes(name: str, run: RunRecord | None) -> Iterator[Finding]:
    if run is None:
        return
    if run.status != "done":
        yield Finding("contradicts", f"{name} is not finished: its record says {run.status}")
    if not _of(run):
        yield Finding("contradicts", f"{name} ran in one process")


def _of(run: RunRecord) -> dict[str, Any]:
    found = run.summary.get("sharding")
    return found if isinstance(found, dict) else {}


def _held(run: RunRecord, part: str) -> float | None:
    processes = _of(run).get("held_bytes")
    first = processes[0] if isinstance(processes, list) and processes else None
    return number(first, part) if isinstance(first, dict) else None


def _sent(run: RunRecord) -> float | None:
    sent = _of(run).get("sent_bytes")
    return number(sent, "step") if isinstance(sent, dict) else None


def four_cards(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 08.3: both peaks by formula for these settings, and whether four cards have room."""
    from labkit.errors import LabkitError
    from labkit.machine.datasheets import DEVICES
    from labkit.memory.estimates import needed
    from labkit.memory.formula import analytic
    from labkit.memory.settings import StepSettings

    yield from positive(values, "batch_size", "seq_len", "full_gib", "lora_gib")
    given = values["batch_size"], values["seq_len"], values["checkpointing"], values["sharding"]
    if None not in given and given[0] > 0 and given[1] > 0:
        alike = {"model": MODEL, "batch_size": given[0], "seq_len": given[1],
                 "gradient_checkpointing": given[2] == "on"}  # fmt: skip
        try:
            full = StepSettings(**alike, **_in_full(), sharding=given[3], num_gpus=CARDS)
            adapters = StepSettings(**alike)
        except LabkitError as error:
            yield Finding("contradicts", f"these settings are not a step: {error}")
            yield from reasoned(values)
            return
        peaks = {"full_gib": analytic(full), "lora_gib": analytic(adapters)}
        for field, peak in peaks.items():
            assert peak is not None
            yield from compare(field, values[field], peak.peak_bytes / GIB,
                               "the peak of these settings", TRACED)  # fmt: skip
        if values["fits"] is not None and values["full_gib"] is not None:
            need = needed(round(values["full_gib"] * GIB), full)
            room = need <= DEVICES["a100-40gb"].usable_bytes
            if (values["fits"] == "fits") == room:
                yield Finding("consistent", "fits is what the peak and the card's memory say")
            else:
                yield Finding("contradicts", "fits is not what the peak and the card's memory say")
    yield from reasoned(values)


def sent(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 08.4: what a ring sends for a sharding, and how long a link takes for it."""
    from labkit.machine.links import LINKS
    from labkit.memory.communication import exchange

    yield from positive(values, "parameters", "ranks", "sent_gb", "seconds")
    yield from _several(values)
    if settings := _step(values):
        size = exchange(settings, _sizes(values["parameters"])).total / GB
        yield from compare("sent_gb", values["sent_gb"], size, "what a ring sends", COUNTED)
    if values["link"] is not None and values["sent_gb"] is not None:
        rate = LINKS[values["link"]].bytes_per_second / GB
        yield from compare("seconds", values["seconds"], values["sent_gb"] / rate,
                           "what sent_gb takes over this link", COUNTED)  # fmt: skip
    yield from reasoned(values)


def _several(values: Values) -> Iterator[Finding]:
    if values["ranks"] == 1:
        yield Finding("contradicts", "ranks is one device, which shares nothing")
    # Nothing is compared for so many, so the answer must not pass for one that agrees.
    if values["ranks"] is not None and values["ranks"] > MOST_DEVICES:
        yield Finding("contradicts", "ranks is more devices than anybody has")


def _in_full() -> dict[str, Any]:
    from labkit import methods

    (name,) = [name for name, method in methods.METHODS.items() if method.trains_base]
    return {"method": name}


def _step(values: Values) -> Any:
    """Return the step of an answer; None where it says too little, or something impossible."""
    from labkit.memory.settings import StepSettings

    count, ranks, sharding = values["parameters"], values["ranks"], values["sharding"]
    if None in (count, ranks, sharding) or count <= 0 or not 1 < ranks <= MOST_DEVICES:
        return None
    return StepSettings(model="tiny-llama", **_in_full(), sharding=sharding, num_gpus=ranks)


def _sizes(parameters: int) -> Any:
    from labkit.memory.sharding import Sizes

    return Sizes(total=parameters, trainable=parameters, layer=0, root=0)


RULES = {"08.1": held, "08.2": shared, "08.3": four_cards, "08.4": sent}
