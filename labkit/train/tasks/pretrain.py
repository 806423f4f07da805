"""Continued pretraining: every token of running text is learned, and where a text ends.

Texts are short or long, sequences have `max_length` tokens. A longer text goes on in the next
sequence, which begins with the token that the last one ended with, so that every token is predicted
once. Short ones are packed, several in a sequence (best fit, longest first), and none sees another:

    input_ids     [ text 1 ..... end ][ text 2 ......... end ]
    labels        [ -100 ....... end ][ -100 ........... end ]      nothing predicts a first token
    position_ids  [ 0  1  2 ........ ][ 0  1  2 ............ ]
    segment_ids   [ 1  1  1 ........ ][ 2  2  2 ............ ]

A token attends to those before it in its own segment, which is the mask that questions on a report
share a sequence by (`datasets.sharing`), without a report.

What is reported beside the loss is bits per byte: nats of all predicted tokens, over ln 2 and the
UTF-8 bytes of what they stand for. Unlike a loss per token it compares models whose tokenizers
differ. An end token has bits and no bytes.
"""

from collections.abc import Sequence
from typing import Any

from labkit.console import quiet
from labkit.datasets import encode, sharing
from labkit.datasets.base import DataSet, Example
from labkit.errors import LabkitError
from labkit.runs.config import RunConfig
from labkit.train.tasks.base import Task


def rows(
    tokenizer: Any, examples: Sequence[Example], config: RunConfig, *, shared: bool
) -> list[dict[str, Any]]:
    """Return token ids and labels of at most max_length, and the `text_bytes` that are predicted.

    With `shared` and `packing` a row holds several texts, with `position_ids` and `segment_ids`.

    Raises:
        LabkitError: an example without text.
    """
    if config.max_length < 2:
        raise LabkitError("max_length 1 leaves nothing to predict from: set it to 2 or more")
    parts = [part for each in examples for part in _parts(tokenizer, each, config.max_length)]
    if not parts:
        raise LabkitError("no text has two tokens, of which the first would predict the second")
    if not (shared and config.packing):
        return [{"input_ids": p["input_ids"], "labels": p["labels"], "text_bytes": sum(p["bytes"])}
                for p in parts]  # fmt: skip
    return _packed(parts, config.max_length)


def _parts(tokenizer: Any, example: Example, max_length: int) -> list[dict[str, list[int]]]:
    """Return a text in parts of at most `max_length`, each with the bytes that a token adds."""
    text = example.text
    if not text.strip():
        raise LabkitError(f"{example.called} {example.uid} has no text to learn: task pretrain "
                          "needs data with text")  # fmt: skip
    read = tokenizer(text, return_offsets_mapping=True, verbose=False)
    ids, ends = list(read["input_ids"]), [end for _, end in read["offset_mapping"]]
    if tokenizer.eos_token_id is not None and ids[-1:] != [tokenizer.eos_token_id]:
        ids, ends = [*ids, tokenizer.eos_token_id], [*ends, len(text)]
    added, reached = [], 0
    for end in ends:  # special tokens stand at 0
        added.append(len(text[reached:end].encode()))
        reached = max(reached, end)
    return [
        {
            "input_ids": ids[start : start + max_length],
            "labels": [encode.IGNORED, *ids[start + 1 : start + max_length]],
            "bytes": [0, *added[start + 1 : start + max_length]],
        }
        for start in range(0, len(ids) - 1, max_length - 1)
    ]


def _packed(parts: Sequence[dict[str, list[int]]], max_length: int) -> list[dict[str, Any]]:
    from datasets import Dataset
    from trl import pack_dataset

    with quiet():
        packed = pack_dataset(Dataset.from_list(list(parts)), max_length, strategy="bfd")
    return [
        {
            "input_ids": row["input_ids"],
            "labels": row["labels"],
            "position_ids": [place for length in row["seq_lengths"] for place in range(length)],
            "segment_ids": [number for number, length in enumerate(row["seq_lengths"], start=1)
                            for _ in range(length)],
            "text_bytes": sum(row["bytes"]),
        }
        for row in packed
    ]  # fmt: skip


class TextCollator:
    """Pads sequences on the right to one length: tensors of shape (batch, length)."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        import torch

        packed = "segment_ids" in rows[0]
        if not packed:  # one text is all of its row
            rows = [{**row, "position_ids": list(range(len(row["input_ids"]))),
                     "segment_ids": [1] * len(row["input_ids"])} for row in rows]  # fmt: skip
        batch = sharing.SharedPromptCollator(self.pad_token_id)(rows)
        if not packed:
            del batch["position_ids"]
            batch["attention_mask"] = (batch.pop("segment_ids") > 0).long()
        return {**batch, "text_bytes": torch.tensor([row["text_bytes"] for row in rows])}


def collator(tokenizer: Any, shared: bool) -> TextCollator:
    """Return what pads sequences."""
    return TextCollator(tokenizer.pad_token_id)


def trainer() -> type:
    """Return the trainer of SFT that also counts bits per byte."""
    from labkit.train.text_trainer import TextTrainer

    return TextTrainer


def score(dataset: DataSet, example: Example, prediction: Any) -> dict[str, float]:
    """Mark an answer as its data set does."""
    return dataset.score(example, prediction)


PRETRAIN = Task(
    name="pretrain",
    rows=rows,
    collator=collator,
    trainer=trainer,
    prompt=encode.prompt_ids,
    score=score,
    shares_prompts=True,
)
