"""Make the documents of labkit's own lm-eval tasks from files that come with the course.

lm-eval calls these from the YAML files beside this one. The embedded questions become documents
with the prompt labkit itself uses. As multiple choice, the wrong answers are the right answers to
*other* questions of the same kind on the same report, so they can't be told by their form: one has
to know which question is asked. The prose of `general_text` was written for labkit, so no model
has been trained on it.
"""

import hashlib
from pathlib import Path
from typing import Any

from labkit.datasets import encode, tatqa
from labkit.datasets.answers import parse_answer
from labkit.datasets.registry import reports
from labkit.datasets.score import score_answer
from labkit.datasets.tatqa import Question, Sample

MOST_CHOICES = 4


def questions(data: str = "tables", split: str = "test", **_: Any) -> Any:
    """Return {"test": documents} of the questions of a split, for generation."""
    return _dataset([_document(s) for s in tatqa.samples(reports(data, split))])


def choices(data: str = "tables", split: str = "test", **_: Any) -> Any:
    """Return {"test": documents} of the questions that have wrong answers of the same kind."""
    documents = []
    for report in reports(data, split):
        samples = tatqa.samples([report])
        for sample in samples:
            kind = sample.question.answer_type
            right = plain_answer(sample.question)
            wrong = {plain_answer(o.question) for o in samples if o.question.answer_type == kind}
            wrong.discard(right)
            if not wrong:
                continue
            offered = sorted(wrong, key=lambda text: _rank(sample, text))[: MOST_CHOICES - 1]
            offered = sorted([*offered, right], key=lambda text: _rank(sample, text + "#"))
            documents.append(
                {**_document(sample), "choices": offered, "label": offered.index(right)}
            )
    return _dataset(documents)


def prose(**_: Any) -> Any:
    """Return {"test": documents} of the passages in general_text.txt, one a document."""
    text = (Path(__file__).parent / "general_text.txt").read_text(encoding="utf-8")
    return _dataset([{"text": " ".join(part.split())} for part in text.split("\n\n") if part])


def plain_answer(question: Question) -> str:
    """Return the gold answer as a person would write it, such as '2019, 2018' or '5 million'."""
    return f"{', '.join(question.answer)} {question.scale}".strip()


def official_score(doc: dict[str, Any], texts: list[str]) -> dict[str, float]:
    """Return {em, f1} of what a model wrote, as `labkit eval --task tatqa` has them."""
    question = Question(
        uid=doc["uid"], text=doc["question"], answer=tuple(doc["answer"]), scale=doc["scale"],
        answer_type=doc["answer_type"], answer_from="", derivation="", order=0,
    )  # fmt: skip
    answer = parse_answer(texts[0].strip())
    em, f1 = score_answer(answer.values, answer.scale, question)
    return {"em": em, "f1": f1}


def _document(sample: Sample) -> dict[str, Any]:
    (*_, user) = encode.messages(sample)
    question = sample.question
    return {"uid": question.uid, "report_uid": sample.report.uid, "prompt": user["content"],
            "question": question.text, "answer": list(question.answer), "scale": question.scale,
            "answer_type": question.answer_type}  # fmt: skip


def _rank(sample: Sample, text: str) -> str:
    return hashlib.sha256(f"{sample.question.uid} {text}".encode()).hexdigest()


def _dataset(documents: list[dict[str, Any]]) -> Any:
    import datasets

    return datasets.DatasetDict({"test": datasets.Dataset.from_list(documents)})
