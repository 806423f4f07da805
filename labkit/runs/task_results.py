"""What a task's steps found beside the loss, as lines of a run's summary."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

LAST_STEPS = 10


def lines(steps: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> list[str]:
    """Return rewards of the last steps, bits per byte, and what the development split came to."""
    last, found = steps[-LAST_STEPS:], []
    if last and all("rewards" in step for step in last):
        mean = {name: statistics.fmean(step["rewards"][name] for step in last)
                for name in last[0]["rewards"]}  # fmt: skip
        found.append(f"  rewards      chosen {mean['chosen']:+.2f}, rejected "
                     f"{mean['rejected']:+.2f}, margin {mean['margins']:+.2f}, preferred "
                     f"{mean['accuracies']:.0%} in the last {len(last)} steps")  # fmt: skip
    if last and "bits_per_byte" in last[-1]:
        found.append(f"  text         {steps[0]['bits_per_byte']:.3f} → "
                     f"{last[-1]['bits_per_byte']:.3f} bits per byte")  # fmt: skip
    measured = summary.get("eval_losses") or []
    if measured and (names := [name for name in measured[-1] if name not in ("step", "loss")]):
        said = ", ".join(f"{name.replace('_', ' ')} {measured[-1][name]:.3f}" for name in names)
        found.append(f"  development  loss {measured[-1]['loss']:.3f}, {said}")
    return found
