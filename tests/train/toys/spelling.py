"""A toy task: write the last turn's letters one by one, without a chat template.

Every token has a label, and half a point is given for the right number of letters.
"""

from collections.abc import Sequence
from typing import Any

from labkit.datasets.base import DataSet, Example
from labkit.runs.config import RunConfig
from labkit.train.tasks.base import Task


def question(tokenizer: Any, example: Example, max_length: int) -> list[int]:
    ids: list[int] = tokenizer(f"spell {example.uid}:", add_special_tokens=False)["input_ids"]
    return ids


def rows(
    tokenizer: Any, examples: Sequence[Example], config: RunConfig, *, shared: bool
) -> list[dict[str, Any]]:
    found = []
    for example in examples:
        answer = f" {' '.join(example.answer)}{tokenizer.eos_token}"
        ids = question(tokenizer, example, config.max_length)
        ids = ids + tokenizer(answer, add_special_tokens=False)["input_ids"]
        found.append({"input_ids": ids, "labels": list(ids)})
    return found


def score(dataset: DataSet, example: Example, prediction: Any) -> dict[str, float]:
    right = " ".join(example.answer) == prediction
    as_long = len(prediction.split()) == len(example.answer)
    return {"em": float(right), "f1": 1.0 if right else 0.5 * as_long}


def trainer() -> type:
    from labkit.train.trainer import LabTrainer

    return LabTrainer


SPELLING = Task(name="spelling", rows=rows, collator=lambda tokenizer, shared: None,
                trainer=trainer, prompt=question, score=score)  # fmt: skip
