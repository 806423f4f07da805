"""Supervised fine-tuning: the model reads a conversation and learns its last turn.

input_ids  [ turns ............................. ][ answer ........ ][ end ]
labels     [ -100 .............................. ][ answer ........ ][ end ]

or, where the data set says so (`Example.every_answer`), each of the assistant's turns.

input_ids  [ question ][ answer ][ end ][ question ][ answer ][ end ]
labels     [ -100 ....][ answer ][ end ][ -100 ....][ answer ][ end ]
"""

from collections.abc import Sequence
from typing import Any

from labkit.console import say
from labkit.datasets import encode, sharing
from labkit.datasets.base import DataSet, Example
from labkit.errors import LabkitError
from labkit.runs.config import RunConfig
from labkit.train.tasks.base import Task


def rows_of(
    tokenizer: Any, examples: Sequence[Example], config: RunConfig, *, shared: bool
) -> list[dict[str, Any]]:
    """Return token ids and labels, each at most max_length long, with a loss on answers only.

    What does not fit is an error, or with `bad_rows` skip left out and counted in a line.
    """
    rows: list[dict[str, Any]] = []
    groups: dict[str, list[dict[str, Any]]] = {}
    too_long: list[str] = []
    shortened = 0
    for example in examples:
        try:
            encoded = encoded_rows(tokenizer, example, config.max_length)
        except LabkitError as error:
            if config.bad_rows == "refuse":
                raise
            too_long.append(str(error))
            continue
        shortened += sum(row.get("answers", 1) for row in encoded) < answers_of(example)
        rows += encoded
        groups.setdefault(example.group, []).extend(encoded)
    if too_long:
        say(f"{len(too_long)} of {len(examples)} rows left out: {too_long[0]}")
    if shortened:
        say(f"{shortened} of {len(examples)} conversations are longer than max_length "
            f"{config.max_length}: their later turns are left out")  # fmt: skip
    if too_long and not rows:
        raise LabkitError(f"no row fits into max_length {config.max_length}: {too_long[0]}")
    if shared:
        return sharing.share_all(list(groups.values()), max_length=2 * config.max_length)
    return [{k: row[k] for k in ("input_ids", "labels")} for row in rows]


def encoded_rows(tokenizer: Any, example: Example, max_length: int) -> list[dict[str, Any]]:
    """Return the rows that an example is trained in, one for most."""
    if example.every_answer:
        return encode.encode_turns(tokenizer, example, max_length=max_length)
    return [encode.encode_example(tokenizer, example, max_length=max_length)]


def answers_of(example: Example) -> int:
    """Return how many answers an example has to learn."""
    roles = [turn["role"] for turn in example.messages]
    return roles.count("assistant") if example.every_answer else 1


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
    rows=rows_of,
    collator=collator,
    trainer=trainer,
    prompt=encode.prompt_ids,
    score=score,
    shares_prompts=True,
)
