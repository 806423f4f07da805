"""The committed comparisons of methods: whole, fair to every arm, and no cell without a reason."""

import json
from typing import Any

from labkit.bench.methods import plan, report
from labkit.bench.methods.conclude import conclude
from labkit.datasets import tatqa

RESULTS = tatqa.data_dir() / "results"
METHODS: dict[str, Any] = report.read(RESULTS / "methods.json")
RANKS: dict[str, Any] = report.read(RESULTS / "ranks.json")
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


def test_ranks_are_swept_with_and_without_rslora_and_with_a_higher_alpha() -> None:
    arms = [arm for arm in RANKS["arms"] if arm["runs"]]
    assert {arm["arm"] for arm in arms} == {arm.name for arm in plan.chosen(["ranks"])}
    swept = {rslora: sorted(arm["settings"]["r"] for arm in arms
                            if "lora_alpha" not in arm["settings"]
                            and arm["settings"].get("use_rslora", False) is rslora)
             for rslora in (False, True)}  # fmt: skip
    assert swept[False] == swept[True] and swept[True][0] == 1 and swept[True][-1] == 128
    raised = [arm["settings"] for arm in arms if "lora_alpha" in arm["settings"]]
    assert {each.get("lora_dropout", 0.0) > 0 for each in raised} == {False, True}


def test_ranks_saw_the_same_tokens_at_one_rate() -> None:
    assert RANKS["against"] == "rank-16"
    assert {arm["search"]["chosen"] for arm in RANKS["arms"]} == {1e-3}
    runs = [run for arm in RANKS["arms"] for run in arm["runs"] if run["seed"] == 42]
    assert len({run["tokens"] for run in runs}) == 1
    assert {len(run["em"]) for run in runs} == {len(RANKS["reports"])}
    kept = json.loads((RESULTS / "ranks.json").read_text(encoding="utf-8"))
    assert RANKS["rows"] == conclude(kept)


def test_one_factor_under_two_names_gives_one_training() -> None:
    """alpha 32 by the root of 16 is alpha 128 by 16; at rank 1 both rules are the same."""
    arms = {arm["arm"]: arm["runs"][0] for arm in RANKS["arms"]}
    for one, other in (("rank-16-rs", "rank-16-alpha-128"), ("rank-1", "rank-1-rs")):
        assert arms[one]["em"] == arms[other]["em"]
        assert arms[one]["losses"] == arms[other]["losses"]
