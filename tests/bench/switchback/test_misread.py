"""Wrong tests cry where there is nothing, the right one as often as it promises."""

import numpy as np
import pytest

from labkit.bench.switchback import misread


def made(between: float, *, runs: int = 20, steps: int = 50, seed: int = 1) -> misread.Steps:
    """Make step times whose variance lies between runs by this share."""
    rng = np.random.default_rng(seed)
    place = rng.normal(0, between**0.5, (runs, 1))
    return np.exp(0.05 * (place + rng.normal(0, (1 - between) ** 0.5, (runs, steps)))).tolist()


def shares(steps: misread.Steps, count: int) -> dict[str, float]:
    rows = misread.false_alarms(steps, trials=200)
    return {row["test"]: row["alarms"] for row in rows if row["steps"] == count}


def test_steps_counted_as_runs_cry_where_runs_differ_and_more_with_more_steps() -> None:
    steps = made(0.5)
    few, many = shares(steps, 2), shares(steps, 50)
    assert many["steps as runs"] > 0.5 > few["steps as runs"]
    assert max(few["runs"], many["runs"]) < 0.12
    assert many["looking early"] > many["runs"]


def test_steps_that_are_independent_are_runs() -> None:
    assert shares(made(0.0), 50)["steps as runs"] < 0.12


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_the_share_between_runs_is_found(share: float) -> None:
    found = misread.between(made(share, runs=400, seed=2))
    assert abs(found - share) < 0.06


def test_the_luckiest_pair_of_a_control_is_named() -> None:
    size = {"tokens": 16, "in_features": 8, "out_features": 8, "mode": "full"}
    rows = [
        {**size, "times": {"baseline": [1.0, 1.0], "again": [1.0, 1.1]}},
        {**size, "tokens": 32, "times": {"baseline": [1.0, 1.0], "again": [1.25, 1.0]}},
    ]
    ratio, name = misread.luckiest_control(rows)
    assert ratio == pytest.approx(1.25) and name == "32 tokens 8→8 full"


def test_the_runs_of_one_program_are_kept(tmp_path, monkeypatch) -> None:
    made_in = []

    def timed(target, *, say, case, plan, kinds):
        made_in.append(kinds)
        return [{"seconds": [1.0 + len(made_in)] * plan.steps, "warmup_seconds": []}]

    monkeypatch.setattr(misread.paired, "in_fresh_process", timed)
    found = misread.same_program(output_dir=tmp_path, runs=4, steps=3, say=lambda line: None)
    assert found == [[2.0] * 3, [3.0] * 3, [4.0] * 3, [5.0] * 3]
    assert misread.same_program(output_dir=tmp_path, runs=4, steps=3) == found
    assert made_in == [["float32"]] * 4
