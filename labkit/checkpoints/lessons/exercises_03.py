"""Exercises of lesson 03: step time as a line in the batch size, and saturation of throughput."""

from collections.abc import Callable, Sequence

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


EXERCISES = {"fit_step_time": FIT_STEP_TIME, "batch_for_share": BATCH_FOR_SHARE}
