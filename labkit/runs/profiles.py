"""How much of a lesson is run: one environment variable, `LABKIT_PROFILE`.

    smoke   a quick pass for tests: few steps and few questions, the same code and the same model,
            but for runs that only measure, which take a tiny one
    cpu     two cores: real learning curves (the default)
    gpu     the model named by LABKIT_MODEL (default TinyLlama-1.1B), more questions

A lesson asks the profile for its settings and never which device it runs on.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from labkit.errors import LabkitError, nearest
from labkit.runs.config import RunConfig, load_config

DEFAULT_MODEL = "smollm2-135m-instruct"


DEVELOPMENT = {"eval_steps": 50, "max_eval_samples": 60}
"""How often the loss on questions that are not trained on is measured, and on how many."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a profile changes in the shipped configurations, and how much is evaluated."""

    name: str
    model: str = DEFAULT_MODEL
    train: Mapping[str, Any] = field(default_factory=dict)
    """settings of the training runs that differ from the shipped ones"""
    probe_steps: int = 3
    """optimizer steps of a run that only measures time and memory"""
    rate_steps: int = 20
    """optimizer steps of a run that only compares learning rates"""
    hand_samples: int = 2
    """samples of each step that is also taken by hand"""
    probe: Mapping[str, Any] = field(default_factory=dict)
    """settings of the runs that only measure"""
    stages: Mapping[str, int] = field(
        default_factory=lambda: {"length": 160, "batch_size": 8, "steps": 5}
    )
    """the step that is taken apart: tokens a sample, samples, steps"""
    stage_order: tuple[str, ...] = ("logits", "attention", "casts", "compile")
    """settings for speed, in the order in which they are added"""
    eval_samples: int | None = None
    """questions that are scored; None scores the whole split"""


PROFILES = {
    "smoke": Profile(
        name="smoke",
        train={
            "max_steps": 3,
            "max_train_samples": 12,
            "per_device_train_batch_size": 1,
            "eval_steps": 3,
            "max_eval_samples": 6,
        },
        probe_steps=2,
        rate_steps=2,
        hand_samples=1,
        probe={
            "model": "tiny-llama",
            "per_device_train_batch_size": 2,
            "max_train_samples": 4,
            "max_length": 256,
            "share_prompts": False,
        },
        stages={"length": 32, "batch_size": 2, "steps": 3},
        stage_order=("logits", "attention"),
        eval_samples=8,  # of two reports: with one alone no difference has an interval
    ),
    "cpu": Profile(name="cpu", train=DEVELOPMENT),
    "gpu": Profile(name="gpu", model="tinyllama-1.1b", train=DEVELOPMENT),
}


def current() -> Profile:
    """Return the profile that LABKIT_PROFILE names.

    Raises:
        LabkitError: there is no such profile.
    """
    name = os.environ.get("LABKIT_PROFILE") or "cpu"
    if name not in PROFILES:
        raise LabkitError(f"LABKIT_PROFILE={name!r} is not a profile: {nearest(name, PROFILES)}")
    return PROFILES[name]


def model() -> str:
    """Return the name or folder of the lesson's model: LABKIT_MODEL, or the profile's."""
    return os.environ.get("LABKIT_MODEL") or current().model


def run_config(shipped: str, **changes: Any) -> RunConfig:
    """Return a shipped configuration as the profile runs it, with some settings changed."""
    settings = {**load_config(shipped).to_dict(), "model": model(), **current().train, **changes}
    return RunConfig().replace(**settings)


def probe_config(shipped: str, **changes: Any) -> RunConfig:
    """Return a short run that only measures time and memory and keeps no weights."""
    profile = current()
    return run_config(
        shipped,
        **{"max_steps": profile.probe_steps, "keep_weights": False, "eval_steps": 0}
        | {"max_eval_samples": None, **profile.probe, **changes},
    )
