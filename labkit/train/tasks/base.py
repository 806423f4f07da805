"""What a task is: from examples to what the trainer reads, and from an answer to its score."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from labkit.datasets.base import DataSet, Example
from labkit.runs.config import RunConfig


class Rows(Protocol):
    """Turn examples into rows of the trainer: `input_ids` and `labels` at least, lists of int.

    With `shared`, examples of one group share sequences of up to twice `max_length`.

    Raises:
        LabkitError: an example without what the task needs, or one that does not fit.
    """

    def __call__(
        self, tokenizer: Any, examples: Sequence[Example], config: RunConfig, *, shared: bool
    ) -> list[dict[str, Any]]: ...


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task, one file each.

    `rows` are what is trained on, `collator(tokenizer, shared)` what puts them into a batch (None:
    TRL's own), `trainer()` the class that trains, looked up when it is needed, since it imports
    torch. `shares_prompts` says that `rows` can put examples of one group into one sequence,
    `encoder_decoder` that the model reads with an encoder and writes its labels with a decoder.

    `prompt(tokenizer, example, max_length)` is what a model is given to continue when it is
    evaluated, and `score(dataset, example, prediction)` the mark: em and f1, fractions.
    """

    name: str
    rows: Rows
    collator: Callable[[Any, bool], Any]
    trainer: Callable[[], type]
    prompt: Callable[[Any, Example, int], list[int]]
    score: Callable[[DataSet, Example, Any], dict[str, float]]
    shares_prompts: bool = False
    encoder_decoder: bool = False
