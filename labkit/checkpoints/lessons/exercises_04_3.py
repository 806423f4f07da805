"""Exercises of lesson 04, speed: pairs in turns, a ratio with its interval, a test of the test."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from labkit.checkpoints.exercises import Exercise, Student

MODULES = ("numpy", "scipy.stats", "labkit.stats")

# measure_in_turns(a, b, pairs) -> (times of a, times of b)


class Machine:
    """Two programs on one machine, whose every run takes `drift` seconds longer than the last."""

    def __init__(self, drift: float = 0.0, seconds: tuple[float, float] = (2.0, 1.0)) -> None:
        self.ran: list[str] = []
        self.drift, self.seconds = drift, dict(zip("ab", seconds, strict=True))

    def run(self, name: str) -> float:
        self.ran.append(name)
        return self.seconds[name] + self.drift * (len(self.ran) - 1)

    def measured(self, student: Student, pairs: int) -> tuple[list[float], list[float]]:
        """Return what the student measures: the times of a, and those of b."""
        times_a, times_b = student(lambda: self.run("a"), lambda: self.run("b"), pairs)
        return list(times_a), list(times_b)


def _both_run_once_a_pair(student: Student) -> bool:
    machine = Machine()
    times = machine.measured(student, 6)
    rounds = [machine.ran[i : i + 2] for i in range(0, 12, 2)]
    return len(machine.ran) == 12 == sum(map(len, times)) and all(
        sorted(pair) == ["a", "b"] for pair in rounds
    )


def _order_turns(student: Student) -> bool:
    machine = Machine()
    machine.measured(student, 4)
    return "".join(machine.ran) in ("abbaabba", "baabbaab")


def _times_are_told_apart(student: Student) -> bool:
    times_a, times_b = Machine().measured(student, 4)
    return times_a == [2.0] * 4 and times_b == [1.0] * 4


def _drift_cancels(student: Student) -> bool:
    times_a, times_b = Machine(drift=0.125, seconds=(1.0, 1.0)).measured(student, 8)
    return abs(sum(times_a) - sum(times_b)) < 1e-9


def _pairs_stay_in_order(student: Student) -> bool:
    times_a, times_b = Machine(drift=0.125, seconds=(1.0, 1.0)).measured(student, 4)
    rising = times_a == sorted(times_a) and times_b == sorted(times_b)
    return rising and all(
        abs(one - other) < 0.13 for one, other in zip(times_a, times_b, strict=True)
    )


IN_TURNS = Exercise(
    signature="measure_in_turns(a, b, pairs)",
    parameters=3,
    modules=MODULES,
    properties=(
        ("every pair runs a once and b once", _both_run_once_a_pair),
        ("the times of a come first, those of b second, whichever ran first",
         _times_are_told_apart),
        ("every second pair runs in the opposite order: A B, B A, A B, B A", _order_turns),
        ("the times come back in the order of the pairs", _pairs_stay_in_order),
        ("on a machine that grows slower by the same step each run, the sums are equal",
         _drift_cancels),
    ),
)  # fmt: skip


# ratio_with_interval(a, b) -> (ratio, low, high)

QUIET = [1.0, 1.02, 0.99, 1.01, 0.98, 1.0]


def _near(found: Sequence[Any], wanted: Sequence[float], by: float) -> bool:
    values = [float(each) for each in found]
    return len(values) == len(wanted) and all(
        abs(math.log(one / other)) < by for one, other in zip(values, wanted, strict=True)
    )


def _ratio_is(a: list[float], b: list[float], ratio: float) -> Callable[[Student], bool]:
    return lambda student: _near(list(student(a, b))[:1], [ratio], 1e-6)


def _swapped_is_the_reciprocal(student: Student) -> bool:
    a, b = [4.0, 1.0, 2.0, 3.0], [2.0, 1.5, 1.0, 4.0]
    ratio, low, high = (float(each) for each in student(a, b))
    return _near(list(student(b, a)), [1 / ratio, 1 / high, 1 / low], 1e-6)


def _pairs_are_kept(student: Student) -> bool:
    """Hold where rounds that are slow for both sides leave the interval narrow."""
    slow = [1.0, 3.0, 1.0, 5.0, 2.0, 1.0]
    a = [1.2 * t * jitter for t, jitter in zip(slow, QUIET, strict=True)]
    _, low, high = student(a, slow)
    return bool(high / low < 1.05)


def _is_labkits(pairs: int) -> Callable[[Student], bool]:
    def holds(student: Student) -> bool:
        import numpy as np

        from labkit import stats

        rng = np.random.default_rng(pairs)
        a, b = np.exp(rng.normal(0.2, 0.1, pairs)), np.exp(rng.normal(0.0, 0.1, pairs))
        wanted = stats.paired_ratio(a.tolist(), b.tolist())["ratio_t"]
        return _near(list(student(list(a), list(b))), list(wanted.values()), 1e-4)

    return holds


RATIO = Exercise(
    signature="ratio_with_interval(a, b)",
    parameters=2,
    modules=MODULES,
    properties=(
        ("return three numbers: ratio, low, high, in ascending order but for the first",
         lambda student: (lambda r, low, high: low < r < high)(*student(QUIET, QUIET[::-1]))),
        ("a that takes twice as long in every pair gives 2",
         _ratio_is([2 * t * j for t, j in zip(QUIET, [1, 1.1, 1 / 1.1, 1, 1.1, 1 / 1.1],
                                             strict=True)], QUIET, 2.0)),
        ("one pair at 4 and one at 1/4 are no difference together",
         _ratio_is([4.0, 1.0], [1.0, 4.0], 1.0)),
        ("with a and b swapped everything becomes its reciprocal", _swapped_is_the_reciprocal),
        ("what slows down both sides of a pair does not widen the interval", _pairs_are_kept),
        ("with four pairs the interval is that of Student's t, not of the normal distribution",
         _is_labkits(4)),
        ("with twenty pairs it is that of labkit's paired t-test", _is_labkits(20)),
    ),
)  # fmt: skip


# false_alarm_rate(a, b, test, trials) -> share

TIMES = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
AGAIN = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]


def _rate_of(p_value: float, share: float) -> Callable[[Student], bool]:
    return lambda student: bool(student(TIMES, AGAIN, lambda a, b: p_value, 50) == share)


class Watcher:
    """A test that finds nothing and remembers what it was shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[list[float], list[float]]] = []

    def __call__(self, a: Sequence[float], b: Sequence[float]) -> float:
        self.seen.append(([float(x) for x in a], [float(x) for x in b]))
        return 1.0


def _watched(student: Student, trials: int = 200) -> list[tuple[list[float], list[float]]]:
    watcher = Watcher()
    student(list(TIMES), list(AGAIN), watcher, trials)
    return watcher.seen


def _pairs_stay_pairs(student: Student) -> bool:
    return all(
        {one, other} == {x, y}
        for a, b in _watched(student)
        for one, other, x, y in zip(a, b, TIMES, AGAIN, strict=True)
    )


def _a_coin_a_pair(student: Student) -> bool:
    """Hold where each pair is swapped in about half of the trials, apart from the others."""
    seen = _watched(student, 400)
    swaps = [[one != time for one, time in zip(a, TIMES, strict=True)] for a, _ in seen]
    shares = [sum(column) / len(swaps) for column in zip(*swaps, strict=True)]
    patterns = {tuple(each) for each in swaps}
    return all(0.35 < share < 0.65 for share in shares) and len(patterns) > 32


def _half_alarms(student: Student) -> bool:
    """Hold where a test that cries whenever the first pair was swapped cries half of the time."""
    rate = student(TIMES, AGAIN, lambda a, b: 0.001 if a[0] > b[0] else 0.9, 400)
    return 0.35 < rate < 0.65


FALSE_ALARMS = Exercise(
    signature="false_alarm_rate(a, b, test, trials)",
    parameters=4,
    modules=MODULES,
    properties=(
        ("a test that never finds anything has no alarms", _rate_of(0.6, 0.0)),
        ("a test that always does has nothing but alarms", _rate_of(0.01, 1.0)),
        ("the test is called once a trial", lambda student: len(_watched(student)) == 200),
        ("two times of a pair stay a pair: only which one is called A changes",
         _pairs_stay_pairs),
        ("every pair has a coin of its own in every trial", _a_coin_a_pair),
        ("a test that looks at one pair alone cries in about half of the trials", _half_alarms),
        ("an alarm is p below 0.05", _rate_of(0.06, 0.0)),
    ),
)  # fmt: skip

EXERCISES = {
    "measure_in_turns": IN_TURNS, "ratio_with_interval": RATIO, "false_alarm_rate": FALSE_ALARMS,
}  # fmt: skip
