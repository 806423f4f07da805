"""The committed comparisons of methods: whole, fair to every arm, and no cell without a reason."""

import json
from typing import Any

from labkit.bench.methods import plan, report
from labkit.bench.methods.conclude import conclude
from labkit.datasets import tatqa

RESULTS = tatqa.data_dir() / "results"
METHODS: dict[str, Any] = report.read(RESULTS / "methods.json")
ARMS = {arm["arm"]: arm for arm in METHODS["arms"]}
MAIN = [arm.name for arm in plan.chosen(["main"])]


def test_nine_methods_and_three_seeds_of_the_main_five() -> None:
    assert METHODS["grid"]["model"] == plan.Grid().model
    assert len(MAIN) == 5 and sum(bool(arm["runs"]) for arm in ARMS.values()) >= 9
    for name, arm in ARMS.items():
        seeds = {run["seed"] for run in arm["runs"]}
        assert len(seeds) == len(arm["runs"]) >= (3 if name in MAIN else 1)


def test_no_cell_is_empty_without_a_reason() -> None:
    for row in METHODS["rows"]:
        if row["seeds"] == 0:
            assert len(row["reason"]) > 40
            continue
        missing = {key for key, value in row.items() if value is None} - {"reason"}
        of_others = {"difference", "f1_difference", "p_value", "p_holm"}
        assert missing == (of_others if row["arm"] == METHODS["against"] else set())


def test_every_arm_saw_the_same_tokens_and_answered_the_same_questions() -> None:
    by_seed: dict[int, set[int]] = {}
    for arm in ARMS.values():
        for run in arm["runs"]:
            by_seed.setdefault(run["seed"], set()).add(run["tokens"])
            assert len(run["em"]) == len(run["f1"]) == len(METHODS["reports"])
            assert len(run["losses"]) == METHODS["grid"]["steps"]
            assert len(run["general_text"]) == len(METHODS["base"]["general_text"])
    assert all(len(tokens) == 1 for tokens in by_seed.values())


def test_rates_were_found_on_the_development_split_as_the_arms_are_now() -> None:
    arms = plan.arms()
    for name, arm in ARMS.items():
        assert arm["settings"] == dict(arms[name].settings)
        tried = {row["rate"]: row["loss"] for row in arm["search"]["tried"]}
        assert set(arms[name].rates) <= set(tried)
        works = {rate: loss for rate, loss in tried.items() if loss is not None}
        assert arm["search"]["chosen"] == min(works, key=lambda rate: works[rate])


def test_the_conclusions_are_those_of_the_measurements() -> None:
    kept = json.loads((RESULTS / "methods.json").read_text(encoding="utf-8"))
    assert "rows" not in kept and METHODS["rows"] == conclude(kept)
    assert all(row["verdict"] for row in METHODS["rows"] if row["arm"] != kept["against"])
