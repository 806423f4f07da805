"""What a model replied to a question: its text, the answer in it, and what that is worth.

Answers that are only kept, as those of an evaluation that scores a whole split afterwards, are
never scored here.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from labkit.datasets import reasoning
from labkit.datasets.answers import parse_answer
from labkit.datasets.score import score_answer
from labkit.datasets.tatqa import Question, Sample


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a model answered to one question, read back; it is scored when that is asked for."""

    question: Question = field(repr=False)
    text: str
    values: tuple[str, ...]
    scale: str
    cut_off: bool = False
    """whether the model was still thinking when it had written all the tokens it may"""

    @functools.cached_property
    def _scores(self) -> tuple[float, float]:
        return score_answer(self.values, self.scale, self.question)

    @property
    def uid(self) -> str:
        return self.question.uid

    @property
    def em(self) -> float:
        """Exact match by the official score, 0 or 1."""
        return self._scores[0]

    @property
    def f1(self) -> float:
        """F1 by the official score, 0 to 1."""
        return self._scores[1]

    @property
    def holds_value(self) -> bool:
        """Whether every right value stands somewhere in the text, whatever stands around it."""
        return holds(self.text, self.question.answer)


def holds(text: str, values: Sequence[str]) -> bool:
    """Return whether each value stands in a text as a word or number of its own.

    Capital letters, white space and commas that group digits do not matter.

    >>> holds("It fell to 1,496.5 million.", ["1496.5"]), holds("In 2019", ["201"])
    (True, False)
    """
    there = _plain(text)
    return bool(values) and all(
        re.search(rf"(?<![\w.]){re.escape(_plain(value))}(?!\w|[.]\d)", there) for value in values
    )


def _plain(text: str) -> str:
    return re.sub(r"(?<=\d),(?=\d)", "", " ".join(text.lower().split()))


def read_reply(sample: Sample, text: str) -> Reply:
    """Read an answer back; only the score, made when it is asked for, sees the gold answer."""
    answer = parse_answer(text)
    return Reply(question=sample.question, text=text, values=answer.values, scale=answer.scale,
                 cut_off=reasoning.drop(text)[1])  # fmt: skip
