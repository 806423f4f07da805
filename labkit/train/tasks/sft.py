"""Supervised fine-tuning: the model reads a conversation and learns its last turn.

input_ids  [ turns ............................. ][ answer ........ ][ end ]
labels     [ -100 .............................. ][ answer ........ ][ end ]
"""

from collections.abc import Sequence
from typing import Any

from labkit.datasets import encode, sharing
from labkit.datasets.base import DataSet, Example
from labkit.runs.config import RunConfig
from labkit.train.tasks.base import Task


def rows(
    tokenizer: Any, examples: Sequence[Example], config: RunConfig, *, shared: bool
) -> list[dict[str, Any]]:
    """Return token ids and labels, each at most max_length long, with a loss on answers only."""
    encoded = [
        encode.encode_example(tokenizer, example, max_length=config.max_length)
        for example in examples
    ]
    if not shared:
        return [{k: e[k] for k in ("input_ids", "labels")} for e in encoded]
    groups: dict[str, list[dict[str, Any]]] = {}
    for example, item in zip(examples, encoded, strict=True):
        groups.setdefault(example.group, []).append(item)
    return sharing.share_all(list(groups.values()), max_length=2 * config.max_length)


def collator(tokenizer: Any, shared: bool) -> sharing.SharedPromptCollator | None:
    """Return what pads shared sequences; TRL's own collator pads the others."""
    return sharing.SharedPromptCollator(tokenizer.pad_token_id) if shared else None


def trainer() -> type:
    """Return TRL's SFTTrainer with the meter in its loop."""
    from labkit.train.trainer import LabTrainer

    return LabTrainer


def score(dataset: DataSet, example: Example, prediction: Any) -> dict[str, float]:
    """Mark an answer as its data set does."""
    return dataset.score(example, prediction)


SFT = Task(
    name="sft",
    rows=rows,
    collator=collator,
    trainer=trainer,
    prompt=encode.prompt_ids,
    score=score,
    shares_prompts=True,
)
