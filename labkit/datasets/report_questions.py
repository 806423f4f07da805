"""Questions on reports as examples: TAT-QA, and the course's own set in the same form.

`tatqa.py` reads the format, `encode.py` writes the turns, `answers.py` reads an answer back and
`score.py` marks it; here they become a data set. A prediction is [values, scale], as in the
official prediction file.
"""

from typing import Any

from labkit.datasets import encode, tatqa
from labkit.datasets.answers import format_answer, parse_answer
from labkit.datasets.base import DataSet, Example
from labkit.datasets.score import score_answer
from labkit.datasets.tatqa import Sample
from labkit.errors import LabkitError


def load(data: str, split: str, worked: int = 0) -> list[Example]:
    """Return the questions of a split, each after `worked` solved ones from the training split."""
    samples = tatqa.samples(tatqa.load(data, split))
    shown = worked_examples(data, worked)
    return [encode.example(sample, shown) for sample in samples]


def read(text: str) -> list[Any]:
    """Return the prediction [values, scale] that a model's text holds."""
    answer = parse_answer(text)
    return [list(answer.values), answer.scale]


def gold(example: Example) -> list[Any]:
    """Return the right answer as a prediction [values, scale]."""
    return [list(example.gold.answer), example.gold.scale]


def score(example: Example, prediction: Any) -> dict[str, float]:
    """Return TAT-QA's exact match and F1 of a prediction [values, scale]."""
    values, scale = prediction
    em, f1 = score_answer(values, scale, example.gold)
    return {"em": em, "f1": f1}


def worked_examples(data: str, count: int) -> list[Sample]:
    """Return `count` training samples to show: arithmetic and span in turn, shortest first."""
    if count == 0:
        return []
    pool = tatqa.samples(tatqa.load(data, "train"))

    def length(sample: Sample) -> tuple[int, str]:
        text = " ".join(sample.report.paragraphs) + format_answer(sample.question)
        return len(text), sample.question.uid

    chosen: list[Sample] = []
    for index in range(count):
        kind = ("arithmetic", "span")[index % 2]
        used = {sample.report.uid for sample in chosen}
        candidates = [
            s
            for s in pool
            if s.question.answer_type == kind
            and s.report.uid not in used
            and (format_answer(s.question).startswith("=") or kind == "span")
        ]
        if not candidates:
            raise LabkitError(f"the training split of {data} has no {kind} question to show")
        chosen.append(min(candidates, key=length))
    return chosen


def _data_set(name: str, **facts: Any) -> DataSet:
    return DataSet(
        name=name,
        load=lambda path, split: load(path or name, split),
        worked=lambda path, split, count: load(path or name, split, count),
        sha256=lambda path, split: tatqa.data_sha256(path or name, split),
        scored_as="tatqa",
        read=read,
        answer=gold,
        score=score,
        **facts,
    )


TABLES = _data_set(
    "tables",
    source="written by labkit.datasets.tables.generate; all companies and numbers are invented",
    licence="Apache-2.0",
)
TATQA = _data_set(
    "tatqa",
    source="Zhu et al., TAT-QA, ACL 2021: github.com/NExTplusplus/TAT-QA",
    licence="CC BY 4.0",
    fetch=tatqa.fetch_tatqa,
)
