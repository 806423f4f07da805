"""What a run's model is shown, and in how many steps."""

import math
from collections.abc import Iterable
from typing import Any

from labkit.datasets import registry
from labkit.errors import LabkitError
from labkit.methods import virtual_tokens
from labkit.models import layers
from labkit.runs.config import RunConfig
from labkit.train.tasks import Task, task_of

TOKENS = ("input_ids", "labels", "prompt_ids", "chosen_ids", "rejected_ids")
"""columns that hold token ids, of all tasks' rows"""


def encode_split(
    tokenizer: Any, config: RunConfig, split: str, *, shared: bool
) -> list[dict[str, Any]]:
    """Return a split's examples as the run's task shows them to the trainer.

    With `shared`, examples of one group share sequences.
    """
    examples = registry.examples(config.data, split, bad_rows=config.bad_rows)
    most = {"train": config.max_train_samples, "dev": config.max_eval_samples}.get(split)
    examples = examples[:most]
    return task_of(config.data, config.task).rows(tokenizer, examples, config, shared=shared)


def total_steps(config: RunConfig, samples: int) -> int:
    """Return how many optimizer steps the run takes."""
    if config.max_steps > 0:
        return config.max_steps
    batches = -(-samples // (config.per_device_train_batch_size * config.nproc))
    per_epoch = max(1, -(-batches // config.gradient_accumulation_steps))
    return max(1, math.ceil(per_epoch * config.num_train_epochs))


def fit_model(
    model: Any, tokenizer: Any, rows: Iterable[dict[str, Any]], *, task: Task, name: str
) -> None:
    """Pad with a token that the model has an embedding for, and refuse rows that it cannot read.

    Raises:
        LabkitError: a token without an embedding, or a row longer than the table of positions.
    """
    known, longest = layers.pad_within(tokenizer, model), dict.fromkeys(TOKENS[:2], 0)
    largest = -1
    for row in rows:
        largest = max(largest, *(max(row.get(column) or [-1]) for column in TOKENS))
        sequence = task.sequence(row)
        # Several texts in a row count each from its own begin.
        taken = {column: len(sequence[column]) for column in longest}
        if places := row.get("position_ids"):
            taken["input_ids"] = max(places) + 1
        longest = {column: max(most, taken[column]) for column, most in longest.items()}
    if largest >= known:
        raise LabkitError(
            f"the data have {tokenizer.convert_ids_to_tokens(largest)!r}, token {largest}, and "
            f"{name} has only {known} embeddings: use the tokenizer that it was trained with, or "
            "resize its embeddings"
        )
    extra = virtual_tokens.count(model)
    stacks = [("input_ids", model)]
    if task.encoder_decoder:
        stacks = [("input_ids", model.get_encoder()), ("labels", model.get_decoder())]
    for column, stack in stacks:
        places = layers.positions(stack)
        if places is not None and longest[column] + extra > places:
            raise LabkitError(
                f"{name} has {places} positions, and the longest row takes "
                f"{longest[column] + extra}: set max_length to {places - extra} or less"
            )
