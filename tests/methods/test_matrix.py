"""Every method × base × architecture can be had, or one sentence says what can be had instead."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from labkit import methods
from labkit.errors import LabkitError
from labkit.memory.settings import StepSettings
from labkit.memory.step.build import build_step, load_config
from labkit.methods import BASES, METHODS
from labkit.models.tiny import TINY
from labkit.runs.config import RunConfig
from labkit.train.run import train

CHECKPOINTS = (False, True)


def build(**choices: Any) -> None:
    """Put a method on a base of a tiny model without storage; raise where it cannot be had."""
    settings = StepSettings(seq_len=8, target="cpu", **choices)
    build_step(settings, load_config(settings), lambda s, d: torch.empty(s, dtype=d, device="meta"))


def proposed(sentence: str, choices: dict[str, Any], architecture: str) -> list[dict[str, Any]]:
    """Return the choices that a refusal proposes, each a way out by itself."""
    after = re.split(r"use |choose one of the two, ", sentence, maxsplit=1)[1]
    names = [name for name in methods.names() if re.search(rf"\b{name}(?![\w-])", after)]
    on_plain = {**choices, "base": "plain"}
    if "base plain, or method" in after:
        return [on_plain]
    ways = [{**on_plain, "method": name} for name in names if name in METHODS]
    for way in ways:
        way["gradient_checkpointing"] &= METHODS[way["method"]].checkpoints
    if "one of the two" in sentence and not METHODS[choices["method"]].check(architecture):
        ways.append({**choices, "gradient_checkpointing": False})
    return ways


@pytest.mark.parametrize("model", TINY)
def test_what_cannot_be_had_says_what_can(model: str) -> None:
    refused = 0
    for method, base, again in itertools.product(METHODS, BASES, CHECKPOINTS):
        choices = {"model": model, "method": method, "base": base, "gradient_checkpointing": again}
        try:
            build(**choices)
        except LabkitError as error:
            sentence = str(error)
            refused += 1
            assert "\n" not in sentence and method in sentence + base
            ways = proposed(sentence, choices, model.removeprefix("tiny-"))
            assert ways, sentence
            for way in ways:
                build(**way)
    # Full on two bases, and a prefix with checkpoints on three, wherever there is attention.
    assert refused >= 2 * 2


@pytest.mark.parametrize(("model", "settings", "message"), [
    ("tiny-mamba", {"method": "prefix"}, "prefix .*no key-value cache; use .*lora"),
    ("tiny-mamba", {"method": "ia3", "base": "nf4"}, "cannot hold .*use base plain, with .*ia3"),
    ("tiny-t5", {"method": "llama-adapter"}, "llama and mistral alone; use .*prefix.* or .*lora"),
    ("tiny-bloom", {"method": "llama-adapter", "base": "8bit"}, "llama and mistral alone; use"),
    ("tiny-llama", {"method": "full", "base": "8bit"}, "use base plain, or method bottleneck or"),
    ("tiny-llama", {"use_dora": True, "base": "8bit"}, "set base to nf4 or plain, or use_dora"),
    ("tiny-llama", {"init_lora_weights": "pissa", "base": "nf4"}, "set base to plain, or init_"),
    ("tiny-llama", {"method": "prefix", "gradient_checkpointing": True}, "choose one of the two"),
])  # fmt: skip
def test_a_run_that_cannot_be_is_refused_before_anything_is_written(
    tiny_model: Callable[[str], Path], runs: Path, model: str, settings: dict[str, Any],
    message: str,
) -> None:  # fmt: skip
    with pytest.raises(LabkitError, match=message) as caught:
        train(RunConfig(model=str(tiny_model(model)), **settings), quiet=True)
    assert "\n" not in str(caught.value)
    assert not list(runs.glob("*/record.json"))
