"""What a task is: from examples to what the trainer reads, and from an answer to its score."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from labkit.datasets.base import DataSet, Example
from labkit.runs.config import RunConfig


def as_it_is(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row that is one sequence already."""
    return row


def no_reference(model: Any, config: RunConfig) -> None:
    """Return that training compares the model with no other."""


def no_notes(reference: Any, config: RunConfig) -> list[str]:
    """Return that there is nothing to say about a run."""
    return []


class Rows(Protocol):
    """Turn examples into rows of the trainer, lists of int; most are `input_ids` and `labels`.

    With `shared`, several examples share a sequence, those of one group or any that fit.

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
    torch. `shares_prompts` says that `rows` can put several examples into one sequence, `sequence`
    what a row takes in a batch: `input_ids` and `labels`, of the longest where it is several.
    `encoder_decoder` says that the model reads with an encoder and writes its labels with a
    decoder.

    `reference(model, config)` is what the model is compared with in training, made before a method
    is attached, and `notes(reference, config)` what a run says before it begins, a line each.
    `compiles` is false for a step that goes through the layers in several ways, each of which would
    be compiled.

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
    sequence: Callable[[dict[str, Any]], dict[str, Any]] = as_it_is
    reference: Callable[[Any, RunConfig], Any] = no_reference
    notes: Callable[[Any, RunConfig], list[str]] = no_notes
    compiles: bool = True
    encoder_decoder: bool = False
