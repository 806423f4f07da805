"""The committed course results: complete, consistent with themselves, and what the README says."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from labkit import stats
from labkit.bench.records import builder, equal_quality, three_data_sets
from labkit.bench.switchback.grid import name_of
from labkit.doctor import classroom

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "data" / "results"
SCORES = json.loads((RESULTS / "lora_vs_full.scores.json").read_text())
RUNS = {m: json.loads((RESULTS / f"lora_vs_full.{m}.json").read_text()) for m in ("lora", "full")}


ADAPTERS = RUNS["lora"]["summary"]["trainable_parameters"]


def em(label: str, kind: str | None = None) -> dict[str, float]:
    outcome = SCORES[label]
    return outcome["metrics"]["em"] if kind is None else outcome["by_type"][kind]["em"]


def test_every_model_was_asked_the_whole_test_split():
    gold = json.loads((ROOT / "data" / "tables" / "test.json").read_text())
    questions = sum(len(report["questions"]) for report in gold)
    assert questions >= 600
    assert {outcome["n"] for outcome in SCORES.values()} == {questions}


@pytest.mark.parametrize("label", ["LoRA", "full"])
def test_both_methods_reach_the_bars_and_clear_both_yardsticks(label):
    assert em(label)["value"] >= 0.45
    assert em(label, "span")["value"] >= 0.60
    for yardstick in ("majority answer", "untouched, 2 examples"):
        assert em(label)["low"] > em(yardstick)["high"]


def test_the_records_are_whole_runs_that_differ_only_in_method_and_learning_rate():
    lora, full = (RUNS[m]["config"] for m in ("lora", "full"))
    differing = {key for key in lora if lora[key] != full[key]}
    assert differing == {"method", "learning_rate"}
    for run in RUNS.values():
        assert run["status"] == "done"
        assert [step["step"] for step in run["steps"]] == list(
            range(1, run["config"]["max_steps"] + 1)
        )
        assert run["summary"]["peak_bytes"]["allocated"] > 0
        assert run["scores"]["tables/test"]["metrics"]["em"]["value"] >= 0.45


@pytest.mark.parametrize("method", ["lora", "full"])
def test_an_earlier_run_learned_the_same_and_was_quicker(method):
    earlier = json.loads((ROOT / "tests/runs/before" / f"lora_vs_full.{method}.json").read_text())
    run = RUNS[method]
    losses = [[step["loss"] for step in each["steps"]] for each in (earlier, run)]
    assert losses[0] == losses[1] and len(losses[0]) == 300
    assert earlier["scores"] == run["scores"]
    seconds = [each["summary"]["step_seconds_median"] for each in (run, earlier)]
    assert 1.4 < seconds[0] / seconds[1] < 1.65  # half as long again
    peaks = [each["summary"]["peak_bytes"]["allocated"] for each in (run, earlier)]
    copy = 2 * run["summary"]["total_parameters"] - 2 * (method == "lora") * ADAPTERS
    assert peaks[1] - peaks[0] == pytest.approx(copy, rel=1e-3)


def test_lesson_02_asks_for_the_memory_that_its_runs_stood_at():
    resident = max(run["summary"]["peak_bytes"]["rss"] for run in RUNS.values())
    gib = classroom.LESSONS["02"][1]
    assert gib - 1 < resident / 2**30 <= gib


def test_scores_of_the_records_are_those_of_the_evaluations():
    for method, label in (("lora", "LoRA"), ("full", "full")):
        assert RUNS[method]["scores"]["tables/test"]["metrics"] == SCORES[label]["metrics"]


def test_the_readme_shows_the_figure_and_the_number_of_questions():
    readme = (ROOT / "README.md").read_text()
    assert "data/results/lora_vs_full.png" in readme
    assert (RESULTS / "lora_vs_full.png").read_bytes().startswith(b"\x89PNG")
    stated = re.search(r"exact match on ([\d,]+) questions", readme)
    assert stated is not None
    assert int(stated[1].replace(",", "")) == SCORES["LoRA"]["n"]


LARGEST = json.loads((RESULTS / "largest_batch.json").read_text())["rows"]
FLOAT32 = json.loads((RESULTS / "largest_batch_float32.json").read_text())
assert FLOAT32["dtype"] == "float32"


@pytest.mark.parametrize(
    "row",
    LARGEST + FLOAT32["rows"],
    ids=lambda r: f"{r['method']}-{r['seq_len']}-{r['memory_limit_bytes']}",
)
def test_the_largest_batch_is_predicted_or_less_and_never_more(row):
    predicted, measured, limit = row["predicted"], row["measured"], row["memory_limit_bytes"]
    assert 2 <= measured <= 32 and predicted <= measured
    assert predicted >= measured - max(1, measured // 10)
    assert row["holds"] is True
    ended = {each["batch_size"]: each["status"] for each in row["tried"]}
    assert ended[measured] == "done" and ended[measured + 1] == "out of memory"
    for each in row["tried"]:
        assert (each["predicted_process_bytes"] <= limit) is (each["batch_size"] <= predicted)


def test_every_case_of_the_largest_batch_is_there_once():
    asked = {
        (row["method"], row["seq_len"], row["gradient_checkpointing"], row["memory_limit_bytes"])
        for row in LARGEST
    }
    assert len(asked) == len(LARGEST) == 32
    assert sum(row["held_out"] for row in LARGEST) == 8
    choices = [
        (row["method"], row["seq_len"], row["gradient_checkpointing"]) for row in FLOAT32["rows"]
    ]
    assert sorted(choices) == sorted(itertools.product(("full", "lora"), (64,), (False, True)))


SWITCHBACK = json.loads((RESULTS / "switchback_bench.json").read_text())
WIDE = [
    row
    for row in SWITCHBACK["rows"]
    if row["tokens"] >= 1024 and min(row["in_features"], row["out_features"]) >= 2048
]


def concluded(row: dict[str, Any]) -> dict[str, Any]:
    """Compute a row's ratio and control again from the times of its rounds."""
    times = row["times"]
    return {
        "ratio": stats.paired_ratio(times["baseline"], times["candidate"])["ratio"],
        "a_a": stats.paired_ratio(times["baseline"], times["again"])["ratio"],
    }


def label(row: dict[str, Any]) -> str:
    return f"{name_of(row)} {row['weight_scale']}"


@pytest.mark.parametrize("row", SWITCHBACK["rows"], ids=label)
def test_a_ratio_of_a_layer_is_that_of_its_rounds(row):
    again = concluded(row)
    for key in ("ratio", "a_a"):
        assert again[key] == pytest.approx(row[key])
    ways = {k: s for k, s in row["baselines"].items() if k in ("eager", "compiled", "prepacked")}
    assert len(ways) == 3 and row["baseline"] == min(ways, key=lambda way: ways[way])
    assert row["pairs"] == len(row["times"]["again"]) >= 10 and row["backend"] == "cpu"


def test_wide_layers_gain_what_was_aimed_for():
    aims = {"frozen": 1.5, "full": 1.25}
    assert all(row["ratio"]["value"] >= aims[row["mode"]] for row in WIDE)
    # One slow round in ten widens an interval beyond its aim now and then: here once.
    wide = [label(row) for row in WIDE if row["ratio"]["low"] < aims[row["mode"]]]
    assert wide == ["4,096 tokens 5632→2048 frozen tensor"]
    (row,) = (row for row in WIDE if label(row) == wide[0])
    readme = (RESULTS / "README.md").read_text()
    stated = re.search(r"the other, ([\d.]+)×, down to (\d+\.\d+)", readme)
    assert stated is not None
    assert [float(number) for number in stated.groups()] == [
        round(row["ratio"][key], 2) for key in ("value", "low")
    ]


def test_the_controls_of_layers_are_clean():
    sizes = {name_of(row): row["a_a_p_value"] for row in SWITCHBACK["rows"]}
    assert len(sizes) == 24
    assert min(stats.holm(list(sizes.values()))) >= 0.05


def test_every_wide_layer_was_measured_in_both_modes_and_scales():
    assert len(WIDE) == len({(name_of(r), r["weight_scale"]) for r in WIDE}) == 2 * 3 * 2 * 2


def test_fine_tuning_with_switchback_is_faster_from_end_to_end():
    end = SWITCHBACK["end_to_end"]
    again = concluded(end)
    assert again["ratio"]["low"] >= 1.11
    assert again["a_a"]["low"] <= 1 <= again["a_a"]["high"]
    assert end["converted"] == 5 * end["layers"]  # all but the narrow keys and values


AVX2 = json.loads((RESULTS / "switchback_avx2.json").read_text())


@pytest.mark.parametrize("row", AVX2["rows"], ids=label)
def test_a_row_of_the_avx2_kernel_is_against_the_fastest_of_all_ways(row):
    again = concluded(row)
    for key in ("ratio", "a_a"):
        assert again[key] == pytest.approx(row[key])
    assert row["baseline"] == min(row["baselines"], key=lambda way: row["baselines"][way])
    assert {"float32", "float32 prepacked", "eager"} <= set(row["baselines"])
    assert row["pairs"] == len(row["times"]["again"]) >= 10 and row["backend"] == "cpu"


def test_the_avx2_kernel_gains_what_was_aimed_for_on_wide_layers():
    aims = {"frozen": 1.35, "full": 1.15}
    wide = [r for r in AVX2["rows"] if min(r["in_features"], r["out_features"]) >= 2048]
    assert len(wide) == 3 * 2 * 2
    below = {label(r): round(r["ratio"]["low"], 3) for r in wide
             if r["ratio"]["low"] < aims[r["mode"]]}  # fmt: skip
    readme = (RESULTS / "README.md").read_text()
    assert len(below) == 1 and all(f"{low}" in readme for low in below.values()), below


QUALITY = json.loads((RESULTS / "switchback_quality.json").read_text())


def test_models_fine_tuned_in_int8_are_as_good():
    sides = {side: QUALITY[side] for side in ("a", "b")}
    assert QUALITY["margin"] == 0.05
    again = equal_quality.conclude(sides, QUALITY["reports"], QUALITY["margin"])
    assert again == {key: QUALITY[key] for key in again}
    assert again["all"]["equivalent"] and all(seed["equivalent"] for seed in again["seeds"])
    assert again["all"]["n"] == len(QUALITY["reports"]) >= 600


def test_the_two_sides_differ_in_their_layers_alone():
    for plain, int8 in zip(QUALITY["a"], QUALITY["b"], strict=True):
        assert (plain["switchback_layers"], int8["switchback_layers"]) == (0, 210)
        differing = {k for k in plain["config"] if plain["config"][k] != int8["config"][k]}
        assert differing == {"name", "use_switchback", "switchback_min_features"}
        assert plain["seed"] == int8["seed"] and plain["model"] == int8["model"]
        assert plain["losses"][0] != int8["losses"][0]
        assert len(plain["losses"]) == len(int8["losses"]) == plain["config"]["max_steps"]
        assert int8["config"]["switchback_min_features"] == 0
    for side in ("a", "b"):
        assert [run["seed"] for run in QUALITY[side]] == [42, 43, 44]
        assert len({run["right"] for run in QUALITY[side]}) == 3


THREE = json.loads((RESULTS / "three_data_sets.json").read_text())


def test_three_data_sets_are_concluded_from_their_runs():
    assert three_data_sets.render(THREE) in (RESULTS / "README.md").read_text()
    concluded = three_data_sets.conclude(THREE)
    assert set(concluded["speed"]) == set(three_data_sets.DATA_SETS)
    assert not any(row["control"]["significant"] for row in concluded["speed"].values())
    assert {row["data_set"] for row in concluded["quality"]} == set(three_data_sets.DATA_SETS)


STEP = json.loads((RESULTS / "step.json").read_text())["results"]
STEP_AIMS = {("lora", 160): 3.0, ("lora", 512): 2.0, ("full", 160): 2.0}


@pytest.mark.parametrize(("method", "length"), STEP_AIMS)
def test_a_step_is_so_much_faster_than_stock_and_takes_no_more_memory(method, length):
    def these(key: str) -> list[dict[str, Any]]:
        rows = [row for outcome in STEP for row in outcome[key]]
        return [row for row in rows if (row["method"], row["seq_len"]) == (method, length)]

    (found,) = these("comparisons")
    again = concluded(found)
    assert again["ratio"] == pytest.approx(found["ratio"])
    assert again["ratio"]["low"] >= STEP_AIMS[method, length]
    assert again["a_a"]["low"] <= 1 <= again["a_a"]["high"] or found["a_a_p_value"] >= 0.05
    peak = {row["arm"]: row["peak_bytes"] for row in these("cases")}
    assert peak["labkit"] <= 1.1 * peak["a"]


def test_a_float32_step_on_avx2_is_as_the_readme_says():
    """The aim against TRL in float32 was a lower end of 1.8: missed, and said."""
    (found,) = json.loads((RESULTS / "step_float32.json").read_text())["results"]
    (row,) = found["comparisons"]
    ratio = concluded(row)["ratio"]
    assert ratio == pytest.approx(row["ratio"])
    words = f"{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
    assert words in (RESULTS / "README.md").read_text()
    assert row["vs_stock_as_it_comes"]["low"] >= 8
    peak = {case["arm"]: case["peak_bytes"] for case in found["cases"]}
    assert peak["labkit"] <= peak["a"]


FAST = json.loads((RESULTS / "fast_quality.json").read_text())


def test_the_fast_step_learns_as_much_as_stock_trl():
    sides = {side: FAST[side] for side in ("a", "b")}
    again = equal_quality.conclude(sides, FAST["reports"], FAST["margin"])
    assert again == {key: FAST[key] for key in again}
    assert FAST["margin"] == 0.05 and again["all"]["equivalent"] and again["all"]["n"] == 720
    for stock, ours in zip(FAST["a"], FAST["b"], strict=True):
        assert {k for k in stock["config"] if stock["config"][k] != ours["config"][k]} == {"name"}
        assert stock["config"]["dtype"] == "bfloat16" and stock["config"]["fast"]
        assert len(stock["losses"]) == len(ours["losses"]) == stock["config"]["max_steps"]
        assert stock["losses"][0] == pytest.approx(ours["losses"][0], rel=0.01)
        assert stock["losses"] != ours["losses"] and stock["right"] != ours["right"]


ANSWERING = json.loads((RESULTS / "answering.json").read_text())


@pytest.mark.parametrize("pair", ["merged", "one by one", "reloaded"])
def test_answers_are_the_same_however_they_are_asked_for(pair):
    same = {
        row["arithmetic"]: (row["same"], row["n"])
        for row in ANSWERING["identical"]
        if row["pair"] == pair
    }
    exact, n = same["float32"]
    assert exact == n >= 60
    kept_in_16_bit, n = same["bfloat16 weights, float32 arithmetic"]
    assert kept_in_16_bit >= 0.99 * n


def test_batches_are_so_much_faster_than_one_by_one():
    found = ANSWERING["speed"]
    again = concluded(found)
    assert again["ratio"] == pytest.approx(found["ratio"]) and again["ratio"]["low"] >= 4
    assert again["a_a"]["low"] <= 1 <= again["a_a"]["high"] or found["a_a_p_value"] >= 0.05


BUILDER = json.loads((RESULTS / "builder.json").read_text())


def test_a_build_finds_what_was_planted_in_its_corpus():
    found = builder.conclude(BUILDER)
    assert found["near_recall"] >= 0.95 and found["near_precision"] >= 0.95
    assert found["items_found"] == 1.0 and found["good_kept"] >= 0.99
    near = sum(planted for planted, _ in BUILDER["pairs"].values())
    alike = sum(planted for percent, (planted, _) in BUILDER["pairs"].items() if int(percent) >= 80)
    assert alike >= 1000 and near == BUILDER["kinds"]["near"][0]
    assert BUILDER["items"][0] >= 30


def test_a_gigabyte_is_built_fast_enough_in_little_memory_and_always_alike():
    cost = BUILDER["cost"]
    assert cost["bytes"] >= 0.999e9 and cost["peak_rss_bytes"] <= 1.5e9
    assert builder.speed(BUILDER)["mb_per_cpu_second"] >= 5
    assert cost["cpu_seconds"] <= BUILDER["settings"]["workers"] * cost["wall_seconds"] * 1.05
    assert BUILDER["same"] == {"killed_and_resumed": True, "another_order": True}


def test_the_counts_of_a_build_add_up():
    counts = BUILDER["counts"]
    gone = sum(counts["removed"].values()) + counts["exact"] + counts["near"]
    assert counts["read"] - gone == counts["kept"]
    assert sum(stayed for _, stayed in BUILDER["kinds"].values()) == counts["kept"]
