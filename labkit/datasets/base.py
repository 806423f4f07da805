"""An example, and what a data set is.

A data set is one file: it reads a published format from a local file or folder, says where it comes
from and under which licence, and yields `Example`s. What becomes of an example, token ids, labels
or a pair of answers, is the task's affair (`train.tasks`). How an answer is marked is the data
set's: only it knows what its gold answers mean.

    example.messages    a conversation; the last turn is the answer     supervised fine-tuning
    example.text        running text                                    continued pretraining
    example.chosen      the better answer, which is the last turn, and  preference tuning
    example.rejected    the worse one in its place

So an example of preferences is one of fine-tuning on the better answers as well.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labkit.datasets import reasoning

Message = dict[str, str]
"""One turn: role (system, user or assistant) and content."""


@dataclass(frozen=True, kw_only=True)
class Cuts:
    """What a long example may lose: `without(n)` is its messages without n of `parts` parts.

    `named` says in the plural what a part is.
    """

    parts: int
    named: str
    without: Callable[[int], tuple[Message, ...]]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One item of a data set.

    Examples of one `group` (questions on one report, say; by default each is its own) begin alike:
    they may share a sequence, and an interval resamples groups. `gold` is what the data set marks
    an answer by, `strata` the parts that scores are given for (`type` and `source`), `called` what
    an error names an example. With `every_answer` all turns of the assistant are learned, and not
    the last alone. `reasoned` says that an answer had reasoning before it, which is left out.
    """

    uid: str
    group: str = ""
    messages: tuple[Message, ...] = ()
    text: str = ""
    chosen: str = ""
    rejected: str = ""
    every_answer: bool = False
    reasoned: bool = False
    gold: Any = None
    strata: Mapping[str, str] = field(default_factory=dict)
    called: str = "example"
    cuts: Cuts | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "group", self.group or self.uid)

    @property
    def answer(self) -> str:
        """The last turn's text."""
        return self.messages[-1]["content"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a file held: examples, and of each damaged row a sentence with its place and fault."""

    examples: list[Example]
    damaged: list[str]

    def what_is_damaged(self, most: int = 3) -> str:
        """Return how many rows are damaged, and which, as a part of a sentence."""
        count = len(self.damaged)
        more = f"; and {count - most} more" if count > most else ""
        return f"{count} row{'s' * (count != 1)} ({'; '.join(self.damaged[:most])}{more})"


def text_of(text: str) -> Any:
    """Return the prediction that a model's text is, without its reasoning and spare whitespace."""
    return " ".join(reasoning.drop(text)[0].split())


def answer_of(example: Example) -> Any:
    """Return the gold answer as a prediction: the last turn's text."""
    return text_of(example.answer)


def same_words(example: Example, prediction: Any) -> dict[str, float]:
    """Return em, 1.0 for the very words of the answer, and f1 of the two bags of words.

    Case counts for nothing. Source: Rajpurkar et al. 2016 (SQuAD), without its dropping of
    articles and punctuation.
    """
    gold, found = answer_of(example).lower().split(), str(prediction).lower().split()
    common = sum((Counter(gold) & Counter(found)).values())
    return {
        "em": float(gold == found),
        "f1": 2 * common / (len(gold) + len(found)) if gold or found else 1.0,
    }


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set: where it is from, how it is read, how an answer is marked.

    `load(path, split)` returns the examples of train, dev, test or "all"; `sha256(path, split)` is
    the checksum of what that reads. The path is a file or a folder, or "" for the place where the
    data set is by itself. Both raise a LabkitError for what is not there.

    `read` turns a model's text into a prediction (a value that JSON can hold), `answer` does so for
    the gold answer, and `score(example, prediction)` returns em and f1, fractions.
    `worked(path, split, n)`, where there is one, loads examples with n solved ones shown before
    each; `fetch`, where there is one, downloads the data set and returns its folder.
    `reading(path, split)`, where there is one, loads a split and says what it had to leave out,
    which `load` announces in a line. `task` is what the data is for, `also` what else it can be
    trained for.
    """

    name: str
    source: str
    licence: str
    load: Callable[[str, str], list[Example]]
    sha256: Callable[[str, str], str]
    task: str = "sft"
    also: tuple[str, ...] = ()
    scored_as: str = ""
    read: Callable[[str], Any] = text_of
    answer: Callable[[Example], Any] = answer_of
    score: Callable[[Example, Any], dict[str, float]] = same_words
    worked: Callable[[str, str, int], list[Example]] | None = None
    fetch: Callable[[], Path] | None = None
    reading: Callable[[str, str], Reading] | None = None
