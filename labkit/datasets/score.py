"""The official TAT-QA score: exact match and numeracy-aware F1, with scale.

How a prediction (values, scale) is compared with the gold answer:

1. Each side becomes one string. The values are sorted; one that reads as a number
   is written with four decimals after rounding to two and multiplying by its scale
   (thousand 10³, million 10⁶, billion 10⁹, percent 10⁻²); one that holds a percent
   sign has its scale already; any other text gets the scale's word appended. The
   strings are joined by spaces. So 22.22 percent and 22.22% are both "0.2222".
2. A lone number without scale and without percent sign has a second reading, the
   bare number to four decimals: 0.2222 answers a gold of 22.22 percent.
3. Both strings are normalised word by word: lower case, punctuation dropped (not
   from numbers), numbers rewritten ("(134)" is -134, "5%" is 0.05), articles dropped.
4. Exact match: the normalised strings are equal. F1: with P and G the *sets* of
   words, 2·p·r/(p + r) for p = |P∩G|/|P| and r = |P∩G|/|G|, rounded to two decimals.
   The pair (em, f1) is the larger over the readings.
5. For arithmetic and count questions F1 is the exact match.

A missing or empty prediction scores 0. The mean is over all gold questions.

Habits of the official script that are kept, because a score is only comparable if
it is the same score:
- "(134)" is negative but "(1,202)" is not: the test for parentheses is made before
  commas are dropped and does not allow any.
- Spans are joined before they are compared, so the optimal one-to-one alignment of
  predicted to gold spans, inherited from DROP's metric, always has one span a side:
  a word that belongs to another span still counts.
- Values are sorted as strings before numbers are read, so "9" and "10" change place.
- "1.2 million" is read as a number (its second word is a scale); "1.2 apples" is not.
- The JSON number 0 counts as no prediction; the string "0" does not.
- Only spaces separate words in step 3, and an unreadable number ("inf") becomes "None".
- A value that is a number becomes the word "2018.0"; the same digits within a longer text
  become "2018", which is another word: one text "2019 2018" misses the two values.
- F1 is rounded as NumPy rounds: 0.975 becomes 0.98, where Python's round gives 0.97.

Source: the evaluation script of github.com/NExTplusplus/TAT-QA (tatqa_metric.py,
tatqa_utils.py); bags and alignment: Dua et al., "DROP", NAACL 2019.
"""

import math
import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labkit.datasets.tatqa import Question, Report, read_reports, samples
from labkit.errors import LabkitError, brief, read_json

_FACTORS = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "percent": 0.01}
_IGNORED_IN_NUMBERS = str.maketrans("", "", "'\"\\$€£¥%(),[]")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_FIRST_NUMBER = re.compile(r"([+-]?\d+(?:\.\d+)?)|[+-]?\.\d+")
_IN_PARENTHESES = re.compile(r"\([\d.\s]+\)")
_BEFORE_PERCENT = re.compile(r"[\d.\s]+%")
_NUMBER_AND_WORD = re.compile(r"[\d.]+\s?[a-zA-Z]+")


def score_answer(
    values: Sequence[Any] | str, scale: str, question: Question
) -> tuple[float, float]:
    """Exact match and F1 of one prediction, both in [0, 1], as the official script has them.

    `values` may be strings or numbers, one or a list (all of one kind: they are sorted).
    """
    if not values or not question.answer:
        return 0.0, 0.0
    predicted = list(values) if isinstance(values, list | tuple) else [values]
    gold = answer_string(question.answer, question.scale)
    em, f1 = max(_compare(reading, gold) for reading in _readings(predicted, scale))
    return em, em if question.answer_type in ("arithmetic", "count") else f1


def score_predictions(
    predictions: Mapping[str, Sequence[Any]], reports: Sequence[Report]
) -> dict[str, Any]:
    """Score every question of `reports`; those without a prediction score 0.

    `predictions` is {uid: [answer or list of answers, scale]}. Returns {"n", "em",
    "f1", "per_question": {uid: {"em", "f1", "report_uid"}}}, fractions. Raises
    LabkitError, naming the uid, when a prediction has another shape.
    """
    per_question: dict[str, dict[str, Any]] = {}
    for sample in samples(reports):
        uid = sample.question.uid
        values, scale = _checked(uid, predictions[uid]) if uid in predictions else ([], "")
        em, f1 = score_answer(values, scale, sample.question)
        per_question[uid] = {"em": em, "f1": f1, "report_uid": sample.report.uid}
    scores = list(per_question.values())
    return {
        "n": len(scores),
        "em": sum(score["em"] for score in scores) / max(len(scores), 1),
        "f1": sum(score["f1"] for score in scores) / max(len(scores), 1),
        "per_question": per_question,
    }


def score_file(predictions_path: str | Path, gold_path: str | Path) -> dict[str, Any]:
    """Score a prediction file in the official form against a gold file.

    Returns what `score_predictions` does. Raises LabkitError when either file is
    missing, is not JSON or has another shape.
    """
    path = Path(predictions_path)
    if not path.exists():
        raise LabkitError(f"there is no prediction file {path}")
    predictions = read_json(path)
    if not isinstance(predictions, dict):
        raise LabkitError(
            f"{path} holds a JSON {type(predictions).__name__}; a prediction file is an object "
            "{uid: [answer or list of answers, scale]}"
        )
    reports = read_reports(gold_path)
    if predictions and predictions.keys().isdisjoint(s.question.uid for s in samples(reports)):
        raise LabkitError(
            f"{path} has {len(predictions)} predictions, none of them for a question of "
            f"{gold_path}; give the gold file they were made for"
        )
    return score_predictions(predictions, reports)


def answer_string(values: Sequence[Any], scale: str) -> str:
    """One string for all values with their scale (step 1)."""
    return " ".join(_with_scale(str(value), scale) for value in sorted(values))


def is_number(text: str) -> bool:
    """Whether a text reads as a number: "1,202", "(134)", "$5%", "1.2 million"."""
    words = " ".join(word.translate(_IGNORED_IN_NUMBERS) for word in text.split()).split()
    try:
        if not words or math.isnan(float(words[0])):
            return False
    except ValueError:
        return False
    return len(words) < 2 or _factor(words[1]) != 1


def to_number(text: str) -> float | None:
    """The number a text stands for, to four decimals, or None when it has no digits."""
    found = _FIRST_NUMBER.search(text.translate(_IGNORED_IN_NUMBERS))
    # Beyond a float's range the official script stops with an error; here it is no number.
    if not found or not found[1] or (len(found[1]) > 290 and "." not in found[1]):
        return None
    value: float = float(found[1]) if "." in found[1] else int(found[1])
    scaled = _NUMBER_AND_WORD.search(text)
    factor = _factor(scaled[0]) if scaled else 1
    sign = -1 if _IN_PARENTHESES.search(text.strip()) else 1
    hundredth = 0.01 if _BEFORE_PERCENT.search(text.strip()) else 1
    return round(value * factor * sign * hundredth, 4)


def normalise(text: str) -> str:
    """Lower case, without punctuation and articles, numbers rewritten (step 3)."""
    words = []
    for word in text.lower().split(" "):
        if not is_number(word):
            word = word.translate(_PUNCTUATION)
        if is_number(word):
            word = str(to_number(word))
        words += _ARTICLES.sub(" ", word).split()
    return " ".join(words)


def f1_of_bags(predicted: set[str], gold: set[str]) -> float:
    """F1 of two sets of words; an empty set has precision (or recall) 1."""
    common = len(predicted & gold)
    precision = common / len(predicted) if predicted else 1.0
    recall = common / len(gold) if gold else 1.0
    return 2 * precision * recall / (precision + recall) if precision or recall else 0.0


def aligned_f1(predicted: Sequence[set[str]], gold: Sequence[set[str]]) -> float:
    """Mean F1 over spans under the one-to-one alignment that makes it largest."""
    from scipy.optimize import linear_sum_assignment

    scores = np.array([[f1_of_bags(p, g) for p in predicted] for g in gold])
    rows, columns = linear_sum_assignment(scores, maximize=True)
    return float(scores[rows, columns].sum() / max(len(gold), len(predicted)))


def _compare(predicted: str, gold: str) -> tuple[float, float]:
    predicted, gold = normalise(predicted), normalise(gold)
    f1 = aligned_f1([set(predicted.split())], [set(gold.split())])
    return float(predicted == gold), float(np.round(f1, 2))


def _readings(values: Sequence[Any], scale: str) -> list[str]:
    readings = [answer_string(values, scale)]
    text = str(values[0])
    if len(values) == 1 and not scale and "%" not in text and is_number(text):
        number = to_number(text)
        if number is not None:
            readings.append(f"{number:.4f}")
    return readings


def _with_scale(text: str, scale: str) -> str:
    number = to_number(text) if is_number(text) else None
    if number is None:
        return f"{text} {scale}" if scale else text
    if "%" in text:
        return f"{number:.4f}"
    return f"{round(number, 2) * _factor(scale):.4f}"


def _factor(word: str) -> float:
    word = word.lower()
    return next((factor for name, factor in _FACTORS.items() if name in word), 1)


def _checked(uid: str, prediction: Any) -> tuple[Any, str]:
    form = "a prediction is [answer or list of answers, scale]"
    if not isinstance(prediction, list | tuple) or len(prediction) != 2:
        raise LabkitError(f"the prediction for {uid} is {brief(prediction)}; {form}")
    values, scale = prediction
    if not values:
        return [], ""
    values = values if isinstance(values, list | tuple) else [values]
    texts = [isinstance(value, str) for value in values]
    numbers = [isinstance(value, int | float) for value in values]
    if not all(texts) and not all(numbers):
        raise LabkitError(
            f"the answer for {uid} is {brief(values)}, neither texts nor numbers throughout; {form}"
        )
    if not isinstance(scale, str | None):
        raise LabkitError(f"the scale for {uid} is {brief(scale)}, which is not text; {form}")
    return values, scale or ""
