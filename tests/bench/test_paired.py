"""Paired timing on made-up clocks with known ratios, what is concluded of it, and what is kept."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labkit import stats
from labkit.bench import paired
from labkit.bench.paired import Ledger, Plan
from labkit.errors import LabkitError


class Clock:
    """A machine whose time passes only when a step says so, ever slower, with noise."""

    def __init__(self, drift: float = 0.0, noise: float = 0.0) -> None:
        self.now, self.drift, self.noise, self.calls = 0.0, drift, noise, 0

    def __call__(self) -> float:
        return self.now

    def step(self, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.calls += 1
            # Sums of sines: irregular, and the same every time.
            wobble = self.noise * math.sin(12.9898 * self.calls**2)
            self.now += seconds * (1 + self.drift * self.calls) * (1 + wobble)

        return run


def silent(line: str) -> None:
    pass


def test_every_second_round_is_the_reverse_of_the_one_before() -> None:
    assert paired.orders(["a", "b"], 4) == [["a", "b"], ["b", "a"], ["b", "a"], ["a", "b"]]
    for arms in (["a", "b", "c"], ["a", "b", "c", "d"]):
        rounds = paired.orders(arms, 10)
        assert all(sorted(order) == arms for order in rounds)
        assert all(second == first[::-1] for first, second in zip(rounds[::2], rounds[1::2]))  # noqa: B905
        places = {arm: sum(order.index(arm) for order in rounds) for arm in arms}
        assert len(set(places.values())) == 1, "all arms have the same mean position"
        assert len({order[0] for order in rounds}) == len(arms)


def test_warm_up_is_dropped_and_what_comes_before_a_step_is_not_timed() -> None:
    clock = Clock()
    seconds = iter([9.0, 5.0, 1.0, 2.0, 3.0, 1.0])
    plan = Plan(warmup=2, steps=3, run_seconds=0.0)

    def step() -> None:
        clock.now += next(seconds)

    def before() -> None:
        clock.now += 100.0

    timed = paired.time_run(step, plan, before=before, clock=clock)
    assert timed == {"seconds": [1.0, 2.0, 3.0], "warmup_seconds": [9.0, 5.0]}


@pytest.mark.parametrize(("run_seconds", "expected"), [(0.0, 2), (1.0, 10), (100.0, 25)])
def test_a_run_goes_on_until_it_is_long_enough(run_seconds: float, expected: int) -> None:
    clock = Clock()
    plan = Plan(warmup=1, steps=2, run_seconds=run_seconds - 1e-9, max_steps=25)
    timed = paired.time_run(clock.step(0.1), plan, clock=clock)
    assert len(timed["seconds"]) == expected


def measured(clock: Clock, arms: dict[str, float], pairs: int = 10) -> list[paired.Run]:
    plan = Plan(warmup=1, steps=3, run_seconds=0.0)
    steps = {arm: clock.step(seconds) for arm, seconds in arms.items()}
    return paired.alternate(
        {arm: lambda s=step: paired.time_run(s, plan, clock=clock) for arm, step in steps.items()},
        pairs,
    )


def test_a_known_ratio_comes_out_on_a_machine_that_grows_slower() -> None:
    """By the end everything takes half as long again; one arm after the other would be fooled."""
    arms = {"a": 1.25, "fast": 1.0, "a_again": 1.25}
    runs = measured(Clock(drift=0.5 / 120, noise=0.01), arms)
    found = paired.conclude(runs, "fast")
    assert found["ratio"]["value"] == pytest.approx(1.25, rel=0.01)
    assert found["ratio"]["low"] < 1.25 < found["ratio"]["high"]
    assert found["p_value"] < 1e-6
    assert found["a_a"]["low"] < 1 < found["a_a"]["high"] and found["a_a_p_value"] > 0.05
    clock = Clock(drift=0.5 / 120)
    plan = Plan(warmup=1, steps=3, run_seconds=0.0)
    blocks = [
        [paired.time_run(clock.step(s), plan, clock=clock) for _ in range(10)] for s in (1.25, 1.0)
    ]
    means = [sum(sum(run["seconds"]) for run in block) for block in blocks]
    assert means[0] / means[1] < 1.15, "this clock does fool the naive order"


def test_equal_arms_are_not_told_apart() -> None:
    found = paired.conclude(measured(Clock(noise=0.05), {"a": 1.0, "b": 1.0, "a_again": 1.0}), "b")
    assert found["p_value"] > 0.05 and found["a_a_p_value"] > 0.05


def test_a_round_s_times_go_to_the_arms_in_the_order_they_were_asked() -> None:
    taken = {"a": 1.0, "b": 2.0, "c": 3.0}
    asked: list[list[str]] = []

    def measure(order: list[str]) -> list[dict[str, list[float]]]:
        asked.append(order)
        return [{"seconds": [taken[arm]], "warmup_seconds": []} for arm in order]

    runs = paired.by_round(measure, list(taken), 4)
    assert asked == paired.orders(list(taken), 4) and asked[0] == asked[1][::-1]
    assert all(run["median"] == taken[run["arm"]] for run in runs)
    assert [run["arm"] for run in runs if run["round"] == 3] == asked[3]
    with pytest.raises(ValueError):
        paired.by_round(lambda order: [], ["a"], 4)


def test_what_is_concluded_is_the_paired_test_of_the_medians() -> None:
    runs = measured(Clock(noise=0.05), {"a": 1.1, "b": 1.0, "a_again": 1.1})
    found = paired.conclude(runs, "b")
    base, other = paired.times(runs, "a"), paired.times(runs, "b")
    assert len(base) == 10 and base != paired.times(runs, "a_again")
    exact = stats.paired_ratio(base, other)
    assert found["ratio"] == exact["ratio"] and found["p_value"] == exact["p_value"]
    detectable = found["detectable"]
    assert stats.power(detectable, spread=exact["spread"], n=10) == pytest.approx(0.8, abs=0.01)
    assert set(found) == {
        "ratio", "p_value", "p_wilcoxon", "a_a", "a_a_p_value", "pairs", "spread", "detectable",
        "seconds", "times",
    }  # fmt: skip
    assert found["times"] == {
        arm: paired.times(runs, name)
        for arm, name in (("baseline", "a"), ("candidate", "b"), ("again", "a_again"))
    }


def test_an_interrupted_comparison_goes_on_where_it_was() -> None:
    arms = {"a": 1.25, "b": 1.0}
    plan = Plan(warmup=0, steps=1, run_seconds=0.0)
    whole = paired.alternate(
        {k: lambda s=s: {"seconds": [s], "warmup_seconds": []} for k, s in arms.items()}, 6
    )
    kept: list[Any] = []

    def stop(runs: list[paired.Run]) -> None:
        kept[:] = json.loads(json.dumps(runs))
        if len(runs) == 5:
            raise KeyboardInterrupt

    calls: list[str] = []

    def runner(arm: str) -> Callable[[], dict[str, list[float]]]:
        def run() -> dict[str, list[float]]:
            calls.append(arm)
            clock = Clock()
            return paired.time_run(clock.step(arms[arm]), plan, clock=clock)

        return run

    runners = {arm: runner(arm) for arm in arms}
    with pytest.raises(KeyboardInterrupt):
        paired.alternate(runners, 6, on_run=stop)
    assert len(calls) == len(kept) == 5
    assert paired.alternate(runners, 6, kept=kept) == whole
    assert len(calls) == 12


def test_a_time_of_nothing_is_refused() -> None:
    nothing = {"seconds": [0.0], "warmup_seconds": []}
    with pytest.raises(ValueError, match="took 0.0 seconds"):
        paired.alternate({"a": lambda: nothing}, 2)


@pytest.mark.parametrize(
    "settings",
    [{"pairs": 3}, {"pairs": 2}, {"pairs": 0}, {"steps": 0}, {"warmup": -1}, {"max_steps": 1}],
)
def test_plans_that_cannot_be_balanced_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(LabkitError):
        Plan(**{"steps": 2, **settings})


def test_a_ledger_gives_back_what_it_was_given_for_the_same_settings_only(tmp_path: Path) -> None:
    file = tmp_path / "bench" / "x.json"
    Ledger(file, settings={"pairs": (1, 2)}).put("one", {"seconds": [1.0]})
    again = Ledger(file, settings={"pairs": (1, 2)})
    assert again.get("one") == {"seconds": [1.0]} and again.kept == 1
    assert again.get("two") is None
    assert Ledger(file, settings={"pairs": (1, 3)}).kept == 0
    assert Ledger(file, settings={"pairs": (1, 2)}, fresh=True).kept == 0
    file.write_text(file.read_text()[:-30])
    assert Ledger(file, settings={"pairs": (1, 2)}).kept == 0
    assert [p.name for p in file.parent.iterdir()] == ["x.json"]


def test_what_was_measured_with_other_settings_stays(tmp_path: Path) -> None:
    file, full, quick = tmp_path / "x.json", {"tokens": [256, 1024]}, {"tokens": [16]}
    Ledger(file, settings=full).put("one", {"seconds": [1.0]})
    Ledger(file, settings=quick, fresh=True).put("two", {"seconds": [2.0]})
    Ledger(file, settings=quick).put("three", {"seconds": [3.0]})
    for settings, cases in ((full, ["one"]), (quick, ["two", "three"]), (full, ["one"])):
        ledger = Ledger(file, settings=settings)
        assert [*ledger.values["cases"]] == cases and ledger.kept == len(cases)
    assert len(list(tmp_path.iterdir())) == 2
    file.unlink()  # the first settings', in the name that all begin with
    assert Ledger(file, settings=quick).kept == 2 and Ledger(file, settings=full).kept == 0


def test_a_fresh_process_answers_refuses_fails_and_dies() -> None:
    assert paired.in_fresh_process("os:getpid", say=silent) != os.getpid()
    assert paired.in_fresh_process("torch:get_num_threads", say=silent, threads=1) == 1
    with pytest.raises(LabkitError, match="no device is called 'h1000'"):
        paired.in_fresh_process("labkit.machine.datasheets:find", say=silent, name="h1000")
    with pytest.raises(RuntimeError, match="JSONDecodeError"):
        paired.in_fresh_process("json:loads", say=silent, s="{")
    with pytest.raises(LabkitError, match="ended with code 9, most likely for want of memory"):
        paired.in_fresh_process("os:_exit", say=silent, status=9)
    with pytest.raises(LabkitError, match="was refused memory: use fewer --tokens or fewer"):
        paired.in_fresh_process("torch:zeros", say=silent, size=(2**50,))


def test_a_script_without_a_main_guard_is_told_what_it_needs(tmp_path: Path) -> None:
    """A lesson saved as a script is one: the new process would run it from the top."""
    script = tmp_path / "lesson.py"
    script.write_text(
        "from labkit.bench import paired\npaired.in_fresh_process('os:getpid', say=print)\n",
        encoding="utf-8",
    )
    run = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert run.returncode == 1
    assert 'calls stand below `if __name__ == "__main__":`' in run.stderr.splitlines()[-1]
