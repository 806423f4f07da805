"""What is impossible or contradicts itself in a record, on records that labkit itself measured."""

import copy
import json
from pathlib import Path

import pytest

from labkit.checkpoints import plausible
from labkit.checkpoints.records import as_point, as_record
from labkit.machine import datasheets
from labkit.machine.meter import Meter
from labkit.runs import records

RESULTS = Path(__file__).parents[2] / "data" / "results"
METHODS = ["lora", "full"]


def real(method: str) -> dict:
    return json.loads((RESULTS / f"lora_vs_full.{method}.json").read_text())


def rehashed(values: dict) -> dict:
    """Return the record with the hash that its settings have."""
    parts = {"model": values["model"], "data": values["data"], "libraries": values["versions"]}
    return {**values, "sha256": records.content_sha256(values["config"], **parts)}


def changed(values: dict, path: str, value) -> dict:
    """Return a copy with the value at a dotted path replaced, or made by a function of it."""
    values = copy.deepcopy(values)
    *folders, last = [int(word) if word.isdigit() else word for word in path.split(".")]
    place = values
    for folder in folders:
        place = place[folder]
    place[last] = value(place[last]) if callable(value) else value
    return values


@pytest.mark.parametrize("method", METHODS)
def test_a_measured_record_is_neither_impossible_nor_contradictory(method):
    record = as_record(real(method))
    assert [*plausible.impossible(record), *plausible.contradictions(record)] == []


@pytest.mark.parametrize("began", [1, 2, 50, 150, 299])
def test_a_resumed_run_s_figures_are_those_the_meter_states(began):
    values = real("lora")
    meter = Meter(values["steps"][:began])
    meter.steps += values["steps"][began:]
    meter.peak_allocated = values["summary"]["peak_bytes"]["allocated"]
    values["summary"] |= {k: v for k, v in meter.summary().items() if k != "peak_bytes"}
    assert list(plausible.contradictions(as_record(values))) == []
    assert values["summary"]["tokens_per_second"] != real("lora")["summary"]["tokens_per_second"]


def test_a_short_run_s_figures_are_those_the_meter_states():
    for count in (1, 2, 4, 5):
        values = changed(real("lora"), "config.max_steps", count)
        meter = Meter([])
        meter.steps = values["steps"] = values["steps"][:count]
        values["summary"] |= {k: v for k, v in meter.summary().items() if k != "peak_bytes"}
        largest = max(step["peak_bytes"] for step in values["steps"] if "peak_bytes" in step)
        values["summary"]["peak_bytes"]["allocated"] = largest
        assert list(plausible.contradictions(as_record(rehashed(values)))) == []


CONTRADICTORY = [
    ("config.learning_rate", 0.5, "its hash is not that of its settings"),
    ("config.model", "tinyllama-1.1b", "its hash is not"),
    ("sha256", "0" * 64, "its hash is not"),
    ("versions.torch", "2.0.0", "its hash is not"),
    ("seed", 7, "its seed is not that of its settings"),
    ("summary.tokens_per_second", lambda v: 2 * v, "its tokens per second are not those"),
    ("summary.samples_per_second", lambda v: 1.01 * v, "its samples per second are not those"),
    ("steps.100.seconds", lambda v: v / 2, "its time is not the sum of its steps"),
    ("steps.100.tokens", lambda v: v + 50, "its tokens per second are not those"),
    ("summary.step_seconds_median", 0.01, "its median step time is that of none"),
    ("summary.train_seconds", 60.0, "its time is not the sum of its steps"),
    ("summary.peak_bytes.allocated", lambda v: v // 2, "its peak memory is not the largest"),
    ("summary.trainable_parameters", 10**12, "more parameters trained than there are"),
    ("summary.total_parameters", lambda v: v + 1, "not that of the model it names"),
    ("model.name", "tinyllama-1.1b", "not that of the model it names"),
    ("steps.3.step", 3, "its steps are not numbered"),
    ("steps", lambda v: v[:-1], "its steps are not as many as its settings say"),
]


@pytest.mark.parametrize(("path", "value", "says"), CONTRADICTORY)
def test_an_edited_record_contradicts_itself(path, value, says):
    record = as_record(changed(real("lora"), path, value))
    assert any(says in problem for problem in plausible.contradictions(record))


GPU = [{"name": "NVIDIA L4", "memory_bytes": 24 * 2**30}]
IMPOSSIBLE = [
    ("summary.peak_bytes.allocated", 200_000_000, "less memory than the model's weights"),
    ("summary.peak_bytes.allocated", 2**40, "more memory than its machine has"),
    ("summary.peak_bytes.reserved", 1000, "more memory allocated than reserved"),
    ("summary.tokens_per_second", 1e6, "faster than its hardware can multiply"),
    ("hardware.flags", [], None),
    ("steps.5.seconds", 0, "a step that took no time"),
    ("steps.5.seconds", -1.5, "a step that took no time"),
    ("steps.5.loss", -0.5, "a loss below zero"),
]


@pytest.mark.parametrize(
    ("ran", "processes", "possible"),
    [("fsdp2", 4, True), ("zero3", 4, True), ("zero2", 4, False), ("fsdp2", 2, False)],
)
def test_a_process_holds_its_share_of_weights_that_are_cut_up(ran, processes, possible):
    values = changed(real("lora"), "summary.sharding", {"ran": ran, "processes": processes})
    weights = values["summary"]["total_parameters"] * 2
    values["summary"]["peak_bytes"]["allocated"] = weights // 3
    found = list(plausible.impossible(as_record(values)))
    assert found == ([] if possible else ["less memory than the model's weights take"])


@pytest.mark.parametrize(("path", "value", "says"), IMPOSSIBLE)
def test_what_no_machine_reaches_is_said(path, value, says):
    found = list(plausible.impossible(as_record(changed(real("lora"), path, value))))
    assert (says is None and found == []) or (len(found) == 1 and says in found[0]), found


def test_full_training_in_16_bit_keeps_four_bytes_a_weight():
    three_bytes = 3 * real("full")["summary"]["total_parameters"]
    record = as_record(changed(real("full"), "summary.peak_bytes.allocated", three_bytes))
    assert "less memory than the model's weights take" in plausible.impossible(record)
    record = as_record(changed(real("lora"), "summary.peak_bytes.allocated", three_bytes))
    assert list(plausible.impossible(record)) == []


def test_the_limit_of_a_gpu_is_its_datasheet_s():
    values = changed(real("lora"), "hardware.gpus", GPU)
    record = as_record(values)
    flops = datasheets.DEVICES["l4"].flops
    assert plausible.peak_flops(record) == max(flops["bfloat16"], flops["tf32"], flops["float16"])
    _, weights, layers = plausible.model_numbers("smollm2-135m-instruct")
    limit = plausible.peak_flops(record) / (2 * weights * 2 * (1 - 1 / layers))
    for share, faster in ((0.99, False), (1.01, True)):
        record = as_record(changed(values, "summary.tokens_per_second", share * limit))
        assert ("faster than its hardware can multiply" in plausible.impossible(record)) == faster
    unknown = as_record(changed(values, "hardware.gpus.0.name", "Somebody's card"))
    assert plausible.peak_flops(unknown) is None
    switched = as_record(rehashed(changed(values, "config.use_switchback", True)))
    assert plausible.peak_flops(switched) == flops["int8"]


def test_a_processor_s_limit_follows_its_units():
    rates = [
        plausible.peak_flops(as_record(changed(real("lora"), "hardware.flags", flags)))
        for flags in ([], ["avx512f"], ["avx512f", "avx512_bf16"], ["avx512_bf16", "amx_bf16"])
    ]
    assert rates == sorted(rates) and rates[0] == 2 * 6e9 * 64


POINT = {
    "settings": {"model": "smollm2-135m-instruct", "batch_size": 4, "seq_len": 100},
    "status": "done", "peak_bytes": 10**9, "memory_limit_bytes": 2 * 10**9, "step_seconds": 2.0,
    "tokens_per_second": 200.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("status", "done", None),
        ("peak_bytes", 3 * 10**9, "in more memory than its limit"),
        ("tokens_per_second", 400.0, "its tokens per second are not those"),
        ("settings.batch_size", 8, "its tokens per second are not those"),
        ("peak_bytes", 10**6, "less memory than the model's weights"),
    ],
)
def test_points_of_sweeps(path, value, says):
    found = list(plausible.point_problems(as_point(changed(POINT, path, value))))
    assert (says is None and found == []) or any(says in problem for problem in found)


BROKEN = [
    ("id", "../x"), ("id", 3), ("id", "x" * 65), ("status", "perfect"), ("started_at", "today"),
    ("model", None), ("model.sha256", 3), ("data", []), ("config", []), ("config.r", "16"),
    ("config.r", True), ("config.method", "magic"), ("config.learning_rate", -1), ("steps", {}),
    ("steps.0", 3), ("steps.0.loss", "low"), ("steps.0.loss", None), ("steps.0.step", 1.5),
    ("steps.0.seconds", True), ("steps.0.tokens", 10**40), ("steps.0.extra", "x" * 30_000),
    ("summary.tokens_per_second", "fast"), ("summary.peak_bytes", 5),
    ("summary.peak_bytes.allocated", [1]), ("hardware.cores", "two"), ("hardware.gpus", {"a": 1}),
    ("hardware.gpus", [{"name": 3}]), ("hardware.flags", "amx"), ("versions.torch", 2),
    ("scores", {"a": 1e39}), ("name", "n" * 30_000), ("seed", "x"), ("summary", []),
    ("summary.sharding", "fsdp2"), ("summary.sharding", {"ran": "fsdp2", "processes": "two"}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value"), BROKEN)
def test_a_record_of_other_types_is_refused_by_name(path, value):
    with pytest.raises(ValueError) as caught:
        as_record(changed(real("lora"), path, value))
    assert 5 < len(str(caught.value)) < 400


def test_deep_values_are_refused_without_a_crash():
    deep: list = []
    for _ in range(900):
        deep = [deep]
    with pytest.raises(ValueError, match="scores is nested too deeply"):
        as_record({**real("lora"), "scores": {"x": deep}})
    with pytest.raises(ValueError, match="the point is nested too deeply"):
        as_point({**POINT, "x": deep})
