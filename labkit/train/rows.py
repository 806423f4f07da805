"""What a run's model is shown, and in how many steps."""

import math
from typing import Any

from labkit.datasets import registry
from labkit.runs.config import RunConfig
from labkit.train.tasks import task_of


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
