"""Say what a comparison of methods is made of: its arms, and how much of each is run.

`arms.yaml` has the arms. All of them train on the same batches of the same seed for as many steps,
so at equal tokens; only what a method itself needs differs, and its learning rate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError, nearest
from labkit.runs import profiles
from labkit.runs.config import RunConfig

FILE = Path(__file__).with_name("arms.yaml")
SEVERAL, ONCE = "main", "others"
"""Groups of the grid: with several seeds, and with one."""
FACTOR = 3.0
"""between learning rates of a search"""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A method with its settings, and the learning rates that are tried first."""

    name: str
    group: str
    rates: tuple[float, ...]
    settings: Mapping[str, Any]


@cache
def _file() -> Mapping[str, Any]:
    import yaml

    content: Mapping[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return content


def reference() -> str:
    """Return the name of the arm that others are compared with."""
    return str(_file()["reference"])


def arms() -> dict[str, Arm]:
    """Return every arm of `arms.yaml` by name."""
    return {
        name: Arm(name=name, **{**values, "rates": tuple(sorted(values["rates"]))})
        for name, values in _file()["arms"].items()
    }


def chosen(words: Sequence[str]) -> tuple[Arm, ...]:
    """Return the arms that names and groups stand for, in the file's order; none: the grid's two.

    Raises:
        LabkitError: a word that is neither.
    """
    known = arms()
    groups = {arm.group for arm in known.values()}
    for word in words:
        if word not in known and word not in groups:
            raise LabkitError(f"--arms {word!r} is not known: {nearest(word, [*known, *groups])}")
    wanted = set(words or (SEVERAL, ONCE))
    return tuple(arm for arm in known.values() if {arm.name, arm.group} & wanted)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What is run. More seeds or questions later use every run that there is."""

    arms: tuple[str, ...] = ()
    """names of arms or groups; none: main and others"""
    against: str = field(default_factory=reference)
    """the arm that others are compared with, run in any case"""
    model: str = profiles.DEFAULT_MODEL
    data: str = "tables"
    first_seed: int = 42
    seeds: int = 3
    """of the arms of group main"""
    other_seeds: int = 1
    """of all other arms"""
    steps: int = 60
    batch_size: int = 1
    """reports in a step, each with its questions"""
    max_length: int = 1024
    train_samples: int | None = 600
    search_steps: int = 10
    extended: int = 1
    """rates that a search may try beyond those of its arm"""
    rates: Mapping[str, float] = field(default_factory=dict)
    """rates of arms that were searched before, and are not again"""
    dev_samples: int = 36
    questions: int | None = 240
    """of the test split; None asks all"""
    choices: int = 24
    """documents of the lm-eval task `tables_choice`, asked of the first seed alone"""
    exact: bool = False
    """score in float32 arithmetic, which takes twice the time"""

    def __post_init__(self) -> None:
        least = {"seeds": 1, "other_seeds": 1, "steps": 1, "batch_size": 1, "search_steps": 1,
                 "extended": 0, "dev_samples": 1, "choices": 1, "first_seed": 0}  # fmt: skip
        for key, low in least.items():
            if getattr(self, key) < low:
                raise LabkitError(f"{key} must be {low} or more, got {getattr(self, key)}")
        if self.questions is not None and self.questions < 2:
            raise LabkitError(f"questions must be 2 or more, got {self.questions}")
        if self.against not in arms():
            raise LabkitError(f"--against {self.against!r}: {nearest(self.against, arms())}")

    @property
    def chosen(self) -> tuple[Arm, ...]:
        """The arms, the one that others are compared with first."""
        found = chosen(self.arms)
        first = arms()[self.against]
        return (first, *(arm for arm in found if arm != first))

    def seeds_of(self, arm: Arm) -> tuple[int, ...]:
        """Return the seeds an arm is trained with; the reference has those of all others."""
        several = arm.group == SEVERAL or arm.name == self.against
        count = max(self.seeds, self.other_seeds) if several else self.other_seeds
        return tuple(range(self.first_seed, self.first_seed + count))

    def config(self, arm: Arm, *, seed: int, rate: float, steps: int, **more: Any) -> RunConfig:
        """Return the run of an arm with a seed and a rate. LabkitError where there can be none."""
        return RunConfig().replace(
            model=self.model, data=self.data, seed=seed, learning_rate=rate, max_steps=steps,
            per_device_train_batch_size=self.batch_size, max_length=self.max_length,
            max_train_samples=self.train_samples, torch_compile="off", **arm.settings, **more,
        )  # fmt: skip


SMOKE: dict[str, Any] = {
    "model": "tiny-llama", "seeds": 2, "steps": 2, "search_steps": 1, "extended": 0,
    "train_samples": 12, "dev_samples": 6, "questions": 8, "choices": 2,
}  # fmt: skip
"""Toy sizes: does every arm run?"""
