"""Check a data set that exists by the same means: `labkit data audit FILE`.

    near_duplicates     pairs of examples that share four fifths of their 5-grams, in one split
    across_splits       the same between two splits: a test that was trained on
    same_request        one request with different answers
    empty_answer        nothing to learn
    cut_answer          a long answer that ends in the middle of a sentence
    other_language      an answer in another language than its request, or than nearly all others
    label_leak          an answer of eight words or more that stands in its request
    mojibake            text read by a wrong table
    too_long            more tokens than the window
    end_token           an end or turn token of a tokenizer, written out in a text
    contaminated        13 words in a row of a test

A finding is a suspicion with its place, not a verdict: a request to correct a text has the answer
in it, and answers may end in code.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labkit.datasets import registry
from labkit.datasets.base import DataSet
from labkit.datasets.corpus import contamination, duplicates, language
from labkit.datasets.corpus.normalise import normalise
from labkit.datasets.corpus.readers import Document, documents
from labkit.datasets.corpus.sources import File, Refusal, Refused, find
from labkit.datasets.corpus.words import Hashes, number_of, numbers
from labkit.errors import LabkitError

SHOWN = 5
LONG_ANSWER_WORDS = 20
LEAK_WORDS = 8
LEAST_LETTERS_FOR_LANGUAGE = 60
NEARLY_ALL, SURE = 0.95, 0.95
SPLIT_NAMES = ("train", "dev", "validation", "valid", "test", "eval")

_ENDS = re.compile(r"[.!?…:;)\]}>\"'`»”’*|~_]\s*$|```\s*$|\d\s*$")
_END_TOKENS = re.compile(
    r"<\|(?:im_start|im_end|endoftext|eot_id|end_of_text|begin_of_text|start_header_id|"
    r"end_header_id|user|assistant|system|end)\|>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]|<eos>|<bos>"
)

SAYS = {
    "near_duplicates": "near-duplicates within a split",
    "across_splits": "near-duplicates across splits",
    "same_request": "one request with different answers",
    "empty_answer": "empty answers",
    "cut_answer": "long answers that end in the middle of a sentence",
    "other_language": "answers in another language",
    "label_leak": "answers that stand in their request",
    "mojibake": "texts read by a wrong table",
    "too_long": "examples longer than the window",
    "end_token": "end or turn tokens written out in a text",
    "contaminated": "examples that hold 13 words in a row of a test",
}


@dataclass(frozen=True, kw_only=True)
class Audited:
    """An example as the checks see it: its split, its place, request and answer.

    A system message is apart: many examples share one, and it makes none of them alike.
    """

    split: str
    place: str
    request: str
    answer: str
    system: str = ""

    @property
    def text(self) -> str:
        """Request and answer."""
        return f"{self.request}\n{self.answer}" if self.request else self.answer

    @property
    def whole(self) -> str:
        """All that is said, the system message too."""
        return f"{self.system}\n{self.text}" if self.system else self.text


def audit(
    path: str | Path, *, near: float = 0.8, against: Sequence[str] = ("tables",),
    tokens: Callable[[list[str]], list[int]] | None = None, max_length: int = 1024,
) -> dict[str, Any]:  # fmt: skip
    """Check a file, or a folder with a file a split, and return what was found.

    `tokens` counts the tokens of texts; without it nothing is said of the window. The result has
    `examples` by split, `unread`, and by check `findings`: a count and the first places.

    Raises:
        LabkitError: there is no such file, or no example in it.
    """
    examples, unread = read(path)
    findings: dict[str, list[dict[str, Any]]] = {name: [] for name in SAYS}
    if tokens is None:
        del findings["too_long"]
    else:
        for example, count in zip(examples, tokens([e.whole for e in examples]), strict=True):
            if count > max_length:
                findings["too_long"].append({"place": example.place, "tokens": count})
    expected = _language(examples)
    kept_out = [name for name in against if name != str(path)]
    guard = contamination.guard(item for name in kept_out for item in contamination.items_of(name))
    for example in examples:
        for name, said in _alone(example, expected, guard):
            findings[name].append({"place": example.place, "says": said})
    for name, found in _together(examples, near):
        findings[name].append(found)
    return {
        "examples": dict(Counter(example.split for example in examples)),
        "unread": [{"place": each.place, "reason": each.reason} for each in unread],
        "language": expected,
        "findings": {
            name: {"count": len(found), "first": found[:SHOWN]} for name, found in findings.items()
        },
    }


def read(path: str | Path) -> tuple[list[Audited], list[Refused]]:
    """Return the examples of a data set, a file or a folder, each in its file's split."""
    if str(path) in registry.DATASETS:
        return list(_of_data_set(registry.DATASETS[str(path)])), []
    found = find([path])
    examples: list[Audited] = []
    unread = [each for each in found.refused if Path(each.place).suffix in (".jsonl", ".csv")]
    for file in found.files:
        if file.kind not in ("jsonl", "csv"):
            continue
        try:
            for each in documents(file):
                if isinstance(each, Refused):
                    unread.append(each)
                else:
                    examples.append(_audited(file, each))
        except (Refusal, OSError, EOFError, ValueError) as error:
            unread.append(Refused(place=file.label, reason=str(error)))
    if not examples:
        reasons = "".join(f"; {each.place}: {each.reason}" for each in unread[:3])
        raise LabkitError(f"{path} holds no example to check: JSONL and CSV are read{reasons}")
    return examples, unread


def _of_data_set(data: DataSet) -> Iterator[Audited]:
    for split in ("train", "dev", "test"):
        for example in data.load("", split):
            said = [(turn["role"], turn["content"]) for turn in example.messages or ()]
            yield _example(split, f"{data.name}:{example.uid}",
                           said or [("", example.text or example.chosen)])  # fmt: skip


def _audited(file: File, document: Document) -> Audited:
    name = file.path.name.lower().split(".")[0]
    split = next((each for each in SPLIT_NAMES if name.startswith(each)), name)
    place = file.label + document.place
    return _example(split, place, document.turns or [("", document.text)])


def _example(split: str, place: str, turns: Sequence[tuple[str, str]]) -> Audited:
    *before, (_, answer) = turns
    system, request = (
        "\n".join(content for role, content in before if (role == "system") is wanted)
        for wanted in (True, False)
    )
    return Audited(split=split, place=place, request=request, answer=answer, system=system)


def _language(examples: list[Audited]) -> str:
    """Return the language of nearly all answers, or "" where there is none such."""
    codes = Counter(
        language.identify(example.answer)[0]
        for example in examples
        if len(example.answer) >= LEAST_LETTERS_FOR_LANGUAGE
    )
    code, count = codes.most_common(1)[0] if codes else ("", 0)
    return code if count >= NEARLY_ALL * codes.total() else ""


def _alone(
    example: Audited, expected: str, guard: contamination.Guard
) -> Iterable[tuple[str, str]]:
    """Yield what one example shows by itself: the check, and a word about it."""
    answer, request = example.answer.strip(), example.request
    if not any(map(str.isalnum, answer)):
        yield "empty_answer", answer[:40]
        return
    if answer.count(" ") >= LONG_ANSWER_WORDS and not _ENDS.search(answer):
        yield "cut_answer", f"… {answer[-40:]}"
    if len(answer) >= LEAST_LETTERS_FOR_LANGUAGE:
        code, confidence = language.identify(answer)
        right = expected
        if not right and len(request) >= LEAST_LETTERS_FOR_LANGUAGE:
            asked_in, sure = language.identify(request)
            right = asked_in if sure >= SURE else ""
        if right and confidence >= SURE and code != right:
            yield "other_language", f"{code} for {right}"
    told = numbers(example.answer)
    if told.count >= LEAK_WORDS and request:
        asked = numbers(request)
        if told.whole() in asked.ngrams(told.count):
            yield "label_leak", answer[:60]
    if "mojibake" in normalise(example.whole)[1]:
        yield "mojibake", example.text[:60]
    if token := _END_TOKENS.search(example.whole):
        yield "end_token", token[0]
    if items := guard.find(numbers(example.text)):
        yield "contaminated", guard.names[min(items)]


def _together(examples: list[Audited], near: float) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yield what examples show beside each other: near-duplicates, and one request twice."""
    sets = [numbers(example.text).shingles(duplicates.N) for example in examples]
    signed = np.array([duplicates.bands(s) if len(s) else _alone_in_its_bands(n)
                       for n, s in enumerate(sets)], np.uint64)  # fmt: skip
    pairs = [(int(a), int(b)) for a, b in duplicates.candidates(signed.T)]
    texts = [example.text for example in examples]
    for (a, b), alike in zip(pairs, duplicates.likeness(pairs, texts.__getitem__), strict=True):
        if alike >= near and len(sets[a]):
            one, other = examples[a], examples[b]
            name = "near_duplicates" if one.split == other.split else "across_splits"
            yield name, {"place": other.place, "like": one.place, "likeness": round(alike, 3)}
    answers: dict[str, list[Audited]] = defaultdict(list)
    for example in examples:
        if example.request.strip():
            answers[" ".join(example.request.lower().split())].append(example)
    for same in answers.values():
        if len({" ".join(each.answer.split()) for each in same}) > 1:
            yield "same_request", {"place": same[1].place, "like": same[0].place}


def _alone_in_its_bands(place: int) -> Hashes:
    """Return bands that no other text has, for one without words."""
    return np.full(duplicates.BANDS, number_of("no words", str(place)), np.uint64)


def render(report: dict[str, Any]) -> str:
    """Return the findings as text: a line a check, its first places below."""
    counts = ", ".join(f"{count:,} {split}" for split, count in report["examples"].items())
    lines = [f"{counts}; {len(report['unread']):,} places were not read"]
    lines += [f"  {each['place']}: {each['reason']}" for each in report["unread"][:SHOWN]]
    for name, found in report["findings"].items():
        lines.append(f"{found['count']:>6,}  {SAYS[name]}")
        for each in found["first"]:
            rest = ", ".join(str(value) for key, value in each.items() if key != "place")
            lines.append(f"        {each['place']}: {' '.join(rest.split())[:80]}")
    return "\n".join(lines)
