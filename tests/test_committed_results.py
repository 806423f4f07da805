"""The committed course results: complete, consistent with themselves, and what the README says."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "data" / "results"
SCORES = json.loads((RESULTS / "lora_vs_full.scores.json").read_text())
RUNS = {m: json.loads((RESULTS / f"lora_vs_full.{m}.json").read_text()) for m in ("lora", "full")}


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


@pytest.mark.parametrize(
    "row", LARGEST, ids=lambda r: f"{r['method']}-{r['seq_len']}-{r['memory_limit_bytes']}"
)
def test_the_largest_batch_is_predicted_or_less_and_never_more(row):
    predicted, measured, limit = row["predicted"], row["measured"], row["memory_limit_bytes"]
    assert 2 <= measured <= 24 and predicted <= measured
    # The aim, and whether this row meets it; full fine-tuning is predicted a little too high.
    aim = measured - (1 if measured <= 8 else measured // 10)
    assert row["holds"] is (predicted >= aim)
    assert row["holds"] or (row["method"] == "full" and predicted == aim - 1)
    ended = {each["batch_size"]: each["status"] for each in row["tried"]}
    assert ended[measured] == "done" and ended[measured + 1] == "out of memory"
    for each in row["tried"]:
        assert (each["predicted_process_bytes"] <= limit) is (each["batch_size"] <= predicted)


def test_every_case_of_the_largest_batch_is_there_once():
    asked = {
        (row["method"], row["seq_len"], row["gradient_checkpointing"], row["memory_limit_bytes"])
        for row in LARGEST
    }
    assert len(asked) == len(LARGEST) == 16
