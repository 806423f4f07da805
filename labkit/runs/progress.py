"""Progress of a long run: a line now and then, readable in a terminal, a notebook and a log.

A line is printed at the first step, then whenever a tenth of the run is done or 45 seconds
have passed, so a hub that ends silent kernels sees that this one works. It says loss, speed,
memory and the time left. In a notebook it goes to the cell's output; elsewhere to stderr, since
stdout is for results.
"""

import time
from typing import Any

from labkit.console import say
from labkit.machine.meter import Meter

EVERY_SECONDS = 45.0


class Progress:
    """Prints the progress of `total` steps under a label."""

    def __init__(self, *, total: int, label: str, quiet: bool = False) -> None:
        self.total = total
        self.label = label
        self.quiet = quiet
        self._started = time.perf_counter()
        self._printed_at = 0.0
        self._printed_tenth = -1
        self._first: int | None = None

    def elapsed(self) -> float:
        """Return the seconds since the run started."""
        return time.perf_counter() - self._started

    def say(self, text: str) -> None:
        """Print one line, unless quiet."""
        if not self.quiet:
            say(text)

    def step(self, meter: Meter) -> None:
        """Print a line if one is due."""
        entry = meter.steps[-1]
        step = entry["step"]
        if self._first is None:
            self._first = step - 1
            self.say(self.label)
            self._timed_from = time.perf_counter() - entry["seconds"]
        tenth = step * 10 // self.total
        now = time.perf_counter()
        due = tenth > self._printed_tenth or now - self._printed_at >= EVERY_SECONDS
        if not due and step != self.total:
            return
        self._printed_tenth, self._printed_at = tenth, now
        recent = meter.steps[-10:]
        speed = sum(s["tokens"] for s in recent) / sum(s["seconds"] for s in recent)
        left = (now - self._timed_from) / (step - self._first) * (self.total - step)
        memory = f"  {meter.peak_allocated / 2**30:.2f} GiB" if meter.peak_allocated else ""
        margin = f"  margin {entry['rewards']['margins']:+.2f}" if "rewards" in entry else ""
        self.say(
            f"  step {step:>{len(str(self.total))}}/{self.total}  "
            f"loss {entry['loss']:.3f}{margin}  {speed:,.0f} tokens/s{memory}  "
            f"{_minutes(left)} left"
        )

    def count(self, done: int) -> None:
        """Print how many of `total` are done and the time left, if a line is due."""
        tenth, now = done * 10 // self.total, time.perf_counter()
        due = now - self._printed_at >= EVERY_SECONDS or done == self.total
        if self._printed_tenth < 0 or (due and tenth > self._printed_tenth):
            self._printed_tenth, self._printed_at = tenth, now
            left = self.elapsed() / done * (self.total - done)
            self.say(f"{self.label}  {done}/{self.total}  {_minutes(left)} left")

    def done(self, summary: dict[str, Any]) -> None:
        """Print the closing line."""
        speed = summary.get("tokens_per_second")
        at = f" at {speed:,.0f} tokens/s" if speed else ""
        self.say(f"  done in {_minutes(self.elapsed())}{at}")


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
