"""Simulations without training: a planted difference is found, a copy is not, alarms are rare."""

import math
import random
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from labkit import stats
from labkit.bench.methods import conclude

REPORTS, EACH, SEEDS = 60, 6, 3
CLUSTERS = [f"report {number}" for number in range(REPORTS) for _ in range(EACH)]


def simulated(
    arms: int, draw: np.random.Generator, *, planted: float = 0.0, of_a_seed: float = 0.2
) -> Any:
    """Return (arms, seeds, questions) right answers; arm 1 is better by `planted` logits.

    Questions are of very different difficulty, those of a report alike; a seed moves an arm by
    `of_a_seed` logits, its data all arms by half of that, and its answers to a report by more.
    """
    report = np.repeat(np.arange(REPORTS), EACH)
    easy = draw.normal(0, 1, REPORTS)[report] + draw.normal(0, 2.5, len(report))
    data = draw.normal(0, of_a_seed / 2, SEEDS)
    found = np.empty((arms, SEEDS, len(report)))
    for arm in range(arms):
        for seed in range(SEEDS):
            logit = easy + planted * (arm == 1) + data[seed] + draw.normal(0, of_a_seed)
            logit += draw.normal(0, 0.5, REPORTS)[report]
            found[arm, seed] = draw.random(len(report)) < 1 / (1 + np.exp(-logit))
    return found


def compared(found: Any, seeds: int = SEEDS) -> conclude.Difference:
    """Compare arm 1 with arm 0 on the first seeds; the spread of seeds is that of all arms."""
    spread = conclude.seed_variance(found.tolist(), CLUSTERS)
    first, second = (found[arm, :seeds].tolist() for arm in (0, 1))
    return conclude.difference(first, second, CLUSTERS, spread)


@pytest.mark.parametrize(("of_a_seed", "seeds"), [(0.0, 3), (0.2, 3), (0.4, 3), (0.4, 1)])
def test_two_arms_that_are_alike_are_told_apart_in_one_of_twenty(
    of_a_seed: float, seeds: int
) -> None:
    draw = np.random.default_rng(0)
    times = 300
    found = [simulated(5, draw, of_a_seed=of_a_seed) for _ in range(times)]
    alarms = fmean(compared(each, seeds).p_value < 0.05 for each in found)
    # Three standard errors of a share of 0.05; below it a test may stay.
    assert alarms <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / times)
    if of_a_seed == 0.4:
        over_questions = fmean(
            conclude.difference(*each[:2, :seeds].tolist(), CLUSTERS, None).p_value < 0.05
            for each in found
        )
        assert over_questions > 0.3, "seeds are no part of it, so seeds are taken for methods"


def test_a_planted_difference_of_five_points_is_found() -> None:
    draw = np.random.default_rng(1)
    found = [simulated(5, draw, planted=0.42, of_a_seed=0.05) for _ in range(100)]
    sizes = [compared(each).difference["value"] for each in found]
    assert fmean(sizes) == pytest.approx(0.05, abs=0.005)
    assert fmean(compared(each).p_value < 0.05 for each in found) > 0.6
    inside = [d["low"] <= 0.05 <= d["high"] for d in (compared(each).difference for each in found)]
    assert fmean(inside) > 0.9


def test_the_spread_of_seeds_is_that_which_was_put_in() -> None:
    """Arms whose questions are all alike, so that a seed's share right is known."""
    draw = np.random.default_rng(2)
    found = []
    for _ in range(300):
        share = 0.5 + draw.normal(0, 0.05, (4, SEEDS, 1))
        right = draw.random((4, SEEDS, len(CLUSTERS))) < share
        spread = conclude.seed_variance(right.astype(float).tolist(), CLUSTERS)
        assert spread is not None and spread.freedom == 6
        found.append(spread)
    by_chance = 0.25 / len(CLUSTERS)
    assert fmean(each.mean_square for each in found) == pytest.approx(0.05**2 + by_chance, rel=0.1)
    assert fmean(each.variance for each in found) == pytest.approx(0.05**2, rel=0.15)


def test_what_a_seed_does_to_every_arm_is_no_difference() -> None:
    shared = [[0.0] * 6, [1.0] * 6]
    spread = conclude.seed_variance([shared, shared, shared], list("aabbcc"))
    assert spread is not None and spread.mean_square == 0 and spread.freedom == 2


def test_one_seed_gives_the_interval_over_questions() -> None:
    assert conclude.seed_variance([[[1.0, 0.0]]], ["a", "b"]) is None
    draw = random.Random(3)
    a, b = ([float(draw.random() < 0.5) for _ in CLUSTERS] for _ in range(2))
    found = conclude.difference([a], [b], CLUSTERS, None)
    plain = stats.paired_difference(a, b, CLUSTERS)
    assert found.difference == plain["difference"] and found.p_value == plain["p_value"]


# --- a whole record ------------------------------------------------------------------------


def a_run(seed: int, right: Any, **values: Any) -> dict[str, Any]:
    found = {
        "seed": seed, "run": f"run-{seed}", "em": "".join(str(int(each)) for each in right),
        "f1": [float(each) for each in right], "general_text": [[-100.0, 80.0], [-210.0, 150.0]],
        "tables_choice": "1100" if seed == 42 else "", "tokens": 1000, "step_seconds": 2.0,
        "peak_bytes": 2000, "trained_parameters": 50, "saved_bytes": 100,
    }  # fmt: skip
    return {**found, **values}


def a_record(found: Any, names: list[str], **of_last: Any) -> dict[str, Any]:
    """Return a record whose first arm is the reference; the last one has a single seed."""
    arms = []
    for index, name in enumerate(names):
        last = index == len(names) - 1
        runs = [a_run(42 + s, found[index, s], **(of_last if last else {}))
                for s in range(1 if last else SEEDS)]  # fmt: skip
        arms.append({"arm": name, "reason": None, "runs": runs,
                     "search": {"chosen": 1e-3, "tried": [{"seconds": 3.0}] * 3}})  # fmt: skip
    base = {"general_text": [[-90.0, 80.0], [-200.0, 150.0]], "tables_choice": "1000"}
    return {"against": names[0], "reports": CLUSTERS, "base": base, "arms": arms}


@pytest.fixture
def record() -> dict[str, Any]:
    draw = np.random.default_rng(4)
    found = simulated(4, draw, planted=1.5, of_a_seed=0.0)
    found[2] = found[0]
    return a_record(found, ["plain", "better", "copy", "single"], step_seconds=3.0,
                    peak_bytes=1000, saved_bytes=400)  # fmt: skip


def test_a_copy_is_not_told_apart_and_a_better_arm_is(record: dict[str, Any]) -> None:
    rows = {row["arm"]: row for row in conclude.conclude(record)}
    assert rows["plain"]["p_value"] is None and rows["plain"]["verdict"] == ""
    assert rows["better"]["verdict"] == "better" and rows["better"]["difference"]["low"] > 0
    assert rows["copy"]["verdict"] == "not told apart"
    low, high = (rows["copy"]["difference"][end] for end in ("low", "high"))
    assert low < 0 < high, "answers that are all the same do not show that there is no difference"
    assert rows["single"]["seeds"] == 1 and rows["single"]["relative_step"] == 1.5


def test_holm_is_over_all_arms_but_the_reference(record: dict[str, Any]) -> None:
    rows = [row for row in conclude.conclude(record) if row["p_value"] is not None]
    assert [row["arm"] for row in rows] == ["better", "copy", "single"]
    assert [row["p_holm"] for row in rows] == stats.holm([row["p_value"] for row in rows])


def test_forgetting_is_bits_per_byte_by_hand(record: dict[str, Any]) -> None:
    (row, *_) = conclude.conclude(record)
    assert row["forgetting"]["before"] == pytest.approx(290 / math.log(2) / 230)
    assert row["forgetting"]["bits_per_byte"] == pytest.approx(310 / math.log(2) / 230)
    assert row["forgetting"]["change"]["value"] == pytest.approx(20 / math.log(2) / 230)
    assert row["choice"] == {"before": 0.25, "after": 0.5}


def test_an_arm_that_cannot_be_had_keeps_its_reason(record: dict[str, Any]) -> None:
    record["arms"].append({"arm": "none", "reason": "it cannot", "runs": [], "search": None})
    row = conclude.conclude(record)[-1]
    assert row["reason"] == "it cannot" and row["em"] is None and row["p_holm"] is None


def test_steps_that_were_not_timed_are_no_zero(record: dict[str, Any]) -> None:
    for run in record["arms"][0]["runs"]:
        run["step_seconds"] = None
    rows = conclude.conclude(record)
    assert rows[0]["step_seconds"] is None and rows[1]["relative_step"] is None


def test_the_front_has_what_nothing_beats() -> None:
    points = [(1.0, 0.2), (2.0, 0.5), (2.0, 0.4), (3.0, 0.5), (4.0, 0.9)]
    assert conclude.front(points) == [True, True, False, False, True]
    assert conclude.front([(1.0, 0.5), (1.0, 0.5)]) == [True, True], "equals beat nobody"
