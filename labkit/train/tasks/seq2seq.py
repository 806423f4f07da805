"""Sequence to sequence: an encoder reads all turns but the last, a decoder learns to write that.

input_ids   [ sst2 sentence: Effective but too tepid biopic ][ end ]     read by the encoder
labels      [ negative ][ end ]                                          every token is learned
decoder     [ start ][ negative ]                                        what it is given meanwhile

(T5, Raffel et al. 2020, arXiv:1910.10683.) Each sequence ends in the end token, and nothing marks
the turns: T5 knows no chat. A text that is too long loses its end, as in T5's own training, and the
target is never cut. The model makes the decoder's input of the labels, one place to the right.
"""

from collections.abc import Sequence
from typing import Any

from labkit.datasets.base import DataSet, Example
from labkit.errors import LabkitError
from labkit.runs.config import RunConfig
from labkit.train.tasks.base import Task


def rows(
    tokenizer: Any, examples: Sequence[Example], config: RunConfig, *, shared: bool
) -> list[dict[str, Any]]:
    """Return token ids of the text, at most max_length, and of the target as labels."""
    found = []
    for example in examples:
        if len(example.messages) < 2 or not example.answer.strip():
            raise LabkitError(f"{example.called} {example.uid} has no answer to learn")
        target = tokenizer(example.answer, add_special_tokens=False)["input_ids"]
        if len(target) >= config.max_length:
            raise LabkitError(f"the answer of {example.called} {example.uid} has {len(target) + 1} "
                              f"tokens, more than max_length {config.max_length}")  # fmt: skip
        found.append({
            "input_ids": prompt(tokenizer, example, config.max_length),
            "labels": [*target, tokenizer.eos_token_id],
        })  # fmt: skip
    return found


def prompt(tokenizer: Any, example: Example, max_length: int) -> list[int]:
    """Return what the encoder reads: the turns before the last, a line each, and the end token."""
    text = "\n".join(turn["content"] for turn in example.messages[:-1])
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [*ids[: max_length - 1], tokenizer.eos_token_id]


def collator(tokenizer: Any, shared: bool) -> Any:
    """Return what pads texts, which a mask hides, and labels, which the loss skips."""
    from transformers import DataCollatorForSeq2Seq

    return DataCollatorForSeq2Seq(tokenizer)


def trainer() -> type:
    """Return transformers' Trainer with the meter in its loop."""
    from labkit.train.seq2seq_trainer import Seq2SeqTrainer

    return Seq2SeqTrainer


def score(dataset: DataSet, example: Example, prediction: Any) -> dict[str, float]:
    """Mark an answer as its data set does."""
    return dataset.score(example, prediction)


SEQ2SEQ = Task(
    name="seq2seq",
    rows=rows,
    collator=collator,
    trainer=trainer,
    prompt=prompt,
    score=score,
    encoder_decoder=True,
)
