"""Exercises of lesson 03: lines and shares, operations of a step, passes added up, few trials."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from labkit.checkpoints.exercises import Exercise, Student

# fit_step_time(batch_sizes, seconds) -> (a, b) of the line a + b·B with the least squares


def reference_fit(batch_sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Return intercept and slope of the least-squares line."""
    count = len(batch_sizes)
    mean_b, mean_t = sum(batch_sizes) / count, sum(seconds) / count
    spread = sum((b - mean_b) ** 2 for b in batch_sizes)
    slope = (
        sum((b - mean_b) * (t - mean_t) for b, t in zip(batch_sizes, seconds, strict=True)) / spread
    )
    return mean_t - slope * mean_b, slope


def _fits(*cases: tuple[list[float], list[float]]) -> Callable[[Student], bool]:
    def holds(student: Student) -> bool:
        for sizes, seconds in cases:
            found = student(list(sizes), list(seconds))
            expected = reference_fit(sizes, seconds)
            if len(found) != 2:
                return False
            if any(abs(f - e) > 1e-6 * (1 + abs(e)) for f, e in zip(found, expected, strict=True)):
                return False
        return True

    return holds


FIT_STEP_TIME = Exercise(
    signature="fit_step_time(batch_sizes, seconds)",
    parameters=2,
    properties=(
        ("two points: the line through them", _fits(([1, 3], [5.0, 9.0]))),
        ("a step whose time does not depend on the batch has b = 0", _fits(([1, 2, 4], [3.0] * 3))),
        ("a step without a fixed part has a = 0", _fits(([1, 2, 4, 8], [0.5, 1.0, 2.0, 4.0]))),
        (
            "noisy points: the line with the least squares",
            _fits(([1, 2, 4, 8], [1.4, 1.9, 3.3, 5.6]), ([2, 4, 6], [1.0, 3.0, 2.0])),
        ),
        ("points in any order", _fits(([8, 1, 4, 2], [5.6, 1.4, 3.3, 1.9]))),
    ),
)


# batch_for_share(a, b, share) -> batch at which throughput is `share` of its ceiling


def reference_batch(a: float, b: float, share: float) -> float:
    """Return the B with B / (a + b·B) = share / b."""
    return share * a / (b * (1 - share))


def _batches(*cases: tuple[float, float, float]) -> Callable[[Student], bool]:
    def holds(student: Student) -> bool:
        return all(
            abs(student(*case) - reference_batch(*case)) <= 1e-6 * (1 + reference_batch(*case))
            for case in cases
        )

    return holds


BATCH_FOR_SHARE = Exercise(
    signature="batch_for_share(a, b, share)",
    parameters=3,
    properties=(
        ("half of the ceiling where both parts take as long", _batches((2.0, 0.5, 0.5))),
        ("no fixed part: any batch is at the ceiling", _batches((0.0, 0.5, 0.9))),
        ("nine tenths need nine times as much as half", _batches((2.0, 0.5, 0.9))),
        ("other steps, other shares", _batches((0.3, 0.07, 0.8), (5.0, 2.0, 0.25))),
    ),
)


# step_operations(weights, tokens, trains_weights, checkpointing) -> operations of the products


def reference_operations(
    weights: int, tokens: int, trains_weights: bool, checkpointing: bool
) -> int:
    """Return two operations for each weight, token and product (Kaplan et al. 2020, 2.1)."""
    return 2 * weights * tokens * (2 + int(trains_weights) + int(checkpointing))


def _operations(*cases: tuple[int, int, bool, bool]) -> Callable[[Student], bool]:
    return lambda student: all(student(*case) == reference_operations(*case) for case in cases)


STEP_OPERATIONS = Exercise(
    signature="step_operations(weights, tokens, trains_weights, checkpointing)",
    parameters=4,
    properties=(
        (
            "one frozen weight, one token: a product forward and one back, a multiplication and an "
            "addition in each",
            _operations((1, 1, False, False)),
        ),
        (
            "twice the weights or twice the tokens are twice the operations",
            _operations((7, 1, False, False), (1, 5, False, False), (7, 5, False, False)),
        ),
        (
            "a weight that is trained needs its own gradient as well",
            _operations((7, 5, True, False)),
        ),
        ("checkpointing makes the forward pass twice", _operations((7, 5, False, True))),
        ("both together", _operations((8_000_000_000, 1024, True, True))),
    ),
)


# accumulated_gradient(passes, gradient) -> gradient of the mean loss over all labels of the step


class Passes:
    """Passes of a small regression, and the function that a student is given for each.

    Counts the calls, and how many gradients, and arrays made of them, are held at once.
    """

    def __init__(self, *labels: int) -> None:
        import numpy as np

        draw = np.random.default_rng(sum(labels) + len(labels))
        self.passes = [(draw.normal(size=(n, 3)), draw.normal(size=n)) for n in labels]
        self.calls, self.alive, self.most_alive = 0, 0, 0
        passes = self

        class Gradient(np.ndarray[Any, Any]):
            def __array_finalize__(self, made_of: Any) -> None:
                passes.alive += 1
                passes.most_alive = max(passes.most_alive, passes.alive)
                weakref.finalize(self, passes._gone)

        self._kind = Gradient

    def gradient(self, batch: Any) -> tuple[Any, int]:
        """Return the gradient of the mean loss over the labels of a pass, and their number."""
        x, y = batch
        self.calls += 1
        found = 2 * x.T @ (x.sum(1) - y) / max(len(y), 1)
        return found.view(self._kind), len(y)

    def _gone(self) -> None:
        self.alive -= 1

    def at_once(self) -> Any:
        """Return the gradient of one pass over everything."""
        import numpy as np

        x, y = (np.concatenate(each) for each in zip(*self.passes, strict=True))
        return 2 * x.T @ (x.sum(1) - y) / len(y)


def _as_one_pass(*cases: tuple[int, ...]) -> Callable[[Student], bool]:
    def holds(student: Student) -> bool:
        import numpy as np

        for labels in cases:
            given = Passes(*labels)
            found = student(list(given.passes), given.gradient)
            if np.shape(found) != (3,) or not np.allclose(found, given.at_once(), atol=1e-9):
                return False
        return True

    return holds


def _frugal(student: Student) -> bool:
    given = Passes(*range(1, 13))
    student(list(given.passes), given.gradient)
    # The total, the last pass's gradient and this one's, it times its labels, and the next total.
    return given.calls == len(given.passes) and given.most_alive < len(given.passes) / 2


ACCUMULATED_GRADIENT = Exercise(
    signature="accumulated_gradient(passes, gradient)",
    parameters=2,
    properties=(
        ("one pass: its own gradient", _as_one_pass((4,))),
        ("passes with as many labels each: the mean of theirs", _as_one_pass((4, 4), (3, 3, 3))),
        (
            "passes with different numbers of labels: the gradient of one pass over all of them",
            _as_one_pass((1, 5), (2, 7, 3)),
        ),
        ("a pass without labels changes nothing", _as_one_pass((3, 0, 2))),
        (
            "each pass is computed once, and no gradient is kept while later passes run",
            _frugal,
        ),
    ),
)


# largest_fitting(fits) -> largest batch for which fits(batch) is true, 0 when 1 does not fit


class Card:
    """A device on which `largest` samples fit: it counts the trials and remembers them."""

    def __init__(self, largest: int) -> None:
        self.largest = largest
        self.tried: list[int] = []

    def fits(self, batch: int) -> bool:
        """Say whether a batch fits. Raises ValueError for what is no batch."""
        if isinstance(batch, bool) or batch != int(batch) or batch < 1:
            raise ValueError(f"a batch of {batch} cannot be tried")
        self.tried.append(int(batch))
        return batch <= self.largest


def fewest_trials(largest: int) -> int:
    """Return the trials that doubling and halving take: up to the first failure, then between."""
    doublings = largest.bit_length()
    return 2 * doublings + 1


def _finds(*sizes: int) -> Callable[[Student], bool]:
    return lambda student: all(student(Card(n).fits) == n for n in sizes)


def _sparing(student: Student) -> bool:
    for largest in (0, 1, 5, 100, 1023, 1024, 70_000):
        card = Card(largest)
        student(card.fits)
        if len(card.tried) > fewest_trials(largest):
            return False
    return True


def _asks_nothing_twice(student: Student) -> bool:
    cards = [Card(n) for n in range(40)]
    for card in cards:
        student(card.fits)
    return all(len(card.tried) == len(set(card.tried)) for card in cards)


def _stays_near(student: Student) -> bool:
    cards = [Card(n) for n in (0, 1, 3, 37, 1000)]
    for card in cards:
        student(card.fits)
    return all(max(card.tried) <= 2 * card.largest + 1 for card in cards)


LARGEST_FITTING = Exercise(
    signature="largest_fitting(fits)",
    parameters=1,
    properties=(
        ("one sample fits and two do not", _finds(1)),
        ("not even one sample fits: 0", _finds(0)),
        ("a power of two", _finds(2, 16)),
        ("any other number", _finds(*range(3, 40))),
        ("a large card", _finds(70_000)),
        (
            "few trials: about two for every doubling, since each of them is a run that you wait "
            "for",
            _sparing,
        ),
        ("no batch is tried twice", _asks_nothing_twice),
        ("nothing far beyond what fits is tried: at most twice as much, and one", _stays_near),
    ),
)


EXERCISES = {
    "fit_step_time": FIT_STEP_TIME,
    "batch_for_share": BATCH_FOR_SHARE,
    "step_operations": STEP_OPERATIONS,
    "accumulated_gradient": ACCUMULATED_GRADIENT,
    "largest_fitting": LARGEST_FITTING,
}
