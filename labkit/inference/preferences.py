"""Preferences of a model's own making: sampled answers that the score calls right, before wrong.

    question ──sampled K times──► answers ──score of the data set──► right | wrong
    the most frequent right one, the most frequent wrong one ──► {prompt, chosen, rejected}

Nobody has to be asked which answer is better: the gold answer says so, and both come from the model
that is to be tuned. So what DPO changes is what the model says when it says it, and not its style.
A question that is answered right every time, or never, gives no pair: it has nothing to tell apart.
With `gold` one that is never answered right gives its gold answer as the chosen one, which is then
no answer of the model's.

Answers are drawn from the model's own distribution, at temperature 1 as it is. Pairs lie in
`runs/preferences/KEY/`, as rows that `task: dpo` reads; the key is a hash of all they depend on.

Source: on-policy pairs labelled by a checker, as in Pang et al. 2024, arXiv:2404.19733.
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from labkit.datasets import registry as datasets
from labkit.datasets.answers import parse_answer
from labkit.datasets.base import DataSet, Example
from labkit.errors import LabkitError
from labkit.files import appearing, write_json
from labkit.inference.generate import MAX_NEW_TOKENS, Generator, load_generator, model_path
from labkit.machine import arithmetic
from labkit.models.load import fingerprint_with_base
from labkit.runs import records
from labkit.runs.progress import Progress
from labkit.train.tasks import task_of

FEWEST_ANSWERS = 2


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What became of the questions of one split."""

    questions: int
    right: float
    """share of all sampled answers"""
    pairs: int
    always_right: int
    never_right: int
    too_long: int
    """questions that do not fit the length of a sample with an answer"""


@dataclass(frozen=True, kw_only=True)
class Preferences:
    """Pairs of answers, in the form that `task: dpo` reads: `data` names their folder."""

    model: str
    source: str
    """the data set that was asked"""
    data: str
    answers: int
    temperature: float
    splits: dict[str, Counts]


def make(
    model: str,
    *,
    data: str = "tables",
    questions: Mapping[str, tuple[int, int]],
    answers: int = 4,
    temperature: float = 1.0,
    seed: int = 0,
    max_length: int = 1024,
    max_new_tokens: int = MAX_NEW_TOKENS,
    gold: bool = False,
    dtype: str = "auto",
    quiet: bool = False,
) -> Preferences:
    """Sample `answers` to each question, label them, and write a pair wherever there is one.

    `questions` says which of each split are asked: {"train": (600, 840)} takes those from 600 to
    839, so that a model is not asked what it was trained on. What was made before is returned.

    Raises:
        LabkitError: a model or data that is not there, fewer than two answers a question, a
            temperature that is not above 0, or a split without a single pair.
    """
    if answers < FEWEST_ANSWERS:
        raise LabkitError(f"answers must be {FEWEST_ANSWERS} or more, one right and one wrong, got "
                          f"{answers}")  # fmt: skip
    if not temperature > 0:
        raise LabkitError(f"temperature must be above 0, or all answers are one, got {temperature}")
    dataset, path = datasets.find(data)
    dtype = arithmetic.resolve(dtype)
    settings = [
        dict(questions),
        answers,
        temperature,
        seed,
        max_length,
        max_new_tokens,
        gold,
        dtype,
    ]
    folder = _place(model, dataset, path, list(questions), settings)
    if (kept := _kept(folder)) is not None:
        return dataclasses.replace(kept, model=model, source=data, data=f"jsonl:{folder}")
    generator, prompt = load_generator(model, dtype=dtype), task_of(data).prompt
    counts = {}
    with appearing(folder) as partial:
        partial.mkdir()
        for number, (split, (first, end)) in enumerate(questions.items()):
            asked = dataset.load(path, split)[first:end]
            # An answer and its end have to fit behind the prompt, of which nothing is cut.
            fitting = [
                e
                for e in asked
                if len(prompt(generator.tokenizer, e, 2**30)) + max_new_tokens < max_length
            ]
            texts = sample(
                generator,
                fitting,
                answers=answers,
                temperature=temperature,
                data=data,
                seed=seed + number,
                max_new_tokens=max_new_tokens,
                quiet=quiet,
            )
            right = [
                [_right(dataset, data, e, text) for text in each]
                for e, each in zip(fitting, texts, strict=True)
            ]
            rows = rows_of(fitting, texts, right, gold=gold)
            if not rows:
                raise LabkitError(
                    f"no question of {data}/{split} was answered both right and wrong by {model}: "
                    "ask more questions, or a model that knows the task half"
                )
            counts[split] = _counts(right, pairs=len(rows), too_long=len(asked) - len(fitting))
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
            (partial / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        found = Preferences(model=model, source=data, data=f"jsonl:{folder}", answers=answers,
                            temperature=temperature, splits=counts)  # fmt: skip
        write_json(partial / ".made.json", dataclasses.asdict(found))
    return found


def sample(
    generator: Generator,
    examples: Sequence[Example],
    *,
    answers: int,
    temperature: float,
    seed: int,
    data: str = "tables",
    max_new_tokens: int = MAX_NEW_TOKENS,
    quiet: bool = True,
) -> list[list[str]]:
    """Return `answers` texts for each example, drawn from all of the model's vocabulary.

    The same seed draws the same, on the same processor and in the same batches.
    """
    import torch

    drawn = {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}
    drawing = dataclasses.replace(generator, choice=drawn)
    several = [example for example in examples for _ in range(answers)]
    progress = Progress(total=len(several), label=f"{Path(generator.name).name}  sampling",
                        quiet=quiet)  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        texts = drawing.write(several, prompt=task_of(data).prompt, progress=progress.count,
                              max_new_tokens=max_new_tokens)  # fmt: skip
    return [texts[i : i + answers] for i in range(0, len(texts), answers)]


def pair(texts: Sequence[str], right: Sequence[bool]) -> tuple[str, str] | None:
    """Return the most frequent right answer and the most frequent wrong one; None without either.

    Of equals the one that was drawn first.

    >>> pair(["5", "7", "6", "7"], [True, False, False, False])
    ('5', '7')
    """
    good = Counter(text for text, mark in zip(texts, right, strict=True) if mark)
    bad = Counter(text for text, mark in zip(texts, right, strict=True) if not mark and text)
    if not good or not bad:
        return None
    return good.most_common(1)[0][0], bad.most_common(1)[0][0]


def well_formed(text: str) -> bool:
    """Return whether a text is one line, and what begins as an expression can be calculated.

    >>> well_formed("= 7 - 5 # million"), well_formed("= 7 - - -"), well_formed("7\\n5")
    (True, False, False)
    """
    lines = text.split("\n")
    starts = text.lstrip().startswith("=")
    return (
        bool(text.strip())
        and len(lines) == 1
        and (not starts or parse_answer(text).expression != "")
    )


def form_of(
    model: str, *, data: str = "tables", split: str = "dev", max_samples: int | None = None,
    dtype: str = "auto",
) -> dict[str, Any]:  # fmt: skip
    """Return {n, words, well_formed}: of greedy answers, mean words and the share in good form.

    Kept by the hash of weights and questions.

    Raises:
        LabkitError: a model or data that is not there.
    """
    dataset, path = datasets.find(data)
    asked = dataset.load(path, split)[:max_samples]
    dtype = arithmetic.resolve(dtype)
    file = _place(model, dataset, path, [split], ["form", len(asked), dtype]).with_suffix(".json")
    if not file.is_file():
        texts = load_generator(model, dtype=dtype).write(asked, prompt=task_of(data).prompt)
        write_json(file, {
            "n": len(texts), "words": fmean(len(text.split()) for text in texts),
            "well_formed": fmean(map(well_formed, texts)),
        })  # fmt: skip
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def rows_of(
    examples: Sequence[Example],
    texts: Sequence[Sequence[str]],
    right: Sequence[Sequence[bool]],
    *,
    gold: bool = False,
) -> list[dict[str, Any]]:
    """Return {uid, prompt [turns], chosen, rejected} of each question that gives a pair."""
    rows = []
    for example, each, marks in zip(examples, texts, right, strict=True):
        if gold and not any(marks):
            each, marks = [*each, example.answer], [*marks, True]
        if found := pair(each, marks):
            rows.append({"uid": example.uid, "prompt": list(example.messages[:-1]),
                         "chosen": found[0], "rejected": found[1]})  # fmt: skip
    return rows


def _right(dataset: DataSet, data: str, example: Example, text: str) -> bool:
    return task_of(data).score(dataset, example, dataset.read(text))["em"] == 1


def _counts(right: Sequence[Sequence[bool]], *, pairs: int, too_long: int) -> Counts:
    marks = [mark for each in right for mark in each]
    return Counts(
        questions=len(right), right=sum(marks) / max(len(marks), 1), pairs=pairs,
        always_right=sum(all(each) for each in right),
        never_right=sum(not any(each) for each in right), too_long=too_long,
    )  # fmt: skip


def _place(
    model: str, dataset: DataSet, path: str, splits: Sequence[str], settings: Sequence[Any]
) -> Path:
    """Return where what depends on these is kept; the weights count by their content."""
    read = [dataset.name, *(dataset.sha256(path, split) for split in splits)]
    parts = [fingerprint_with_base(model_path(model)), read, settings, records.versions()]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    return records.runs_dir() / "preferences" / key


def _kept(folder: Path) -> Preferences | None:
    """Return what a folder holds, if it is whole."""
    try:
        found = json.loads((folder / ".made.json").read_text(encoding="utf-8"))
        splits = {name: Counts(**each) for name, each in found.pop("splits").items()}
        return Preferences(**found, splits=splits)
    except (OSError, ValueError, TypeError, KeyError):
        return None
