"""Specify the work of both arms of `labkit bench step`: model, samples, method, tricks.

A spec is one JSON object, the argument of a process: {model, data, batch_size, bf16, lora, steps,
learning_rate, seed} and for labkit's arm `without`, tricks to leave off.
"""

import json
import random
from pathlib import Path
from typing import Any

from labkit.methods import METHODS

LABELLED = 12
EMBEDDED = "smollm2-135m-instruct"
PEFT_DEFAULT = {"r": 8, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"],
                "task_type": "CAUSAL_LM"}  # fmt: skip
TRICKS = ("compile", "attention", "logits", "heap", "casts")
NARROW_TRICKS = ("attention", "casts")
"""Those that only change a step in bfloat16: `fast_step.plan` leaves the others off in float32."""


def write_samples(file: Path, folder: Path, length: int, count: int) -> None:
    """Write `count` samples of `length` random tokens that the model in `folder` knows.

    The loss is on the last `LABELLED`, as an answer to a question has it.
    """
    vocabulary = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    draw = random.Random(0)
    lines = []
    for _ in range(count):
        ids = [draw.randrange(vocabulary) for _ in range(length)]
        labels = [-100] * (length - LABELLED) + ids[-LABELLED:]
        lines.append(json.dumps({"input_ids": ids, "labels": labels}))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def peft_settings(method: str) -> dict[str, Any] | None:
    """Return the settings of PEFT's adapters for a method; None where it has none."""
    return None if METHODS[method].trains_base else PEFT_DEFAULT


def tricks_of(spec: dict[str, Any]) -> tuple[str, ...]:
    """Return the tricks that a step of `spec` uses."""
    return tuple(t for t in TRICKS if spec["bf16"] or t not in NARROW_TRICKS)
