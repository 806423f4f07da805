"""labkit's lm-eval tasks against sums of log-probabilities done by hand, and against our own score.

The model is a tiny random one in float32: what counts is that both ways ask it the same.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from labkit.datasets.answers import parse_answer
from labkit.errors import LabkitError
from labkit.inference.evaluate import evaluate
from labkit.inference.lm_eval_tasks import documents
from labkit.inference.lm_eval_tasks import run as harness


def run(
    model: Path, data: Path, task: str, count: int | None = 4
) -> tuple[harness.TaskScores, Any]:
    """Run one task in float32; return its outcome and lm-eval's samples in order."""
    (outcome,) = harness.evaluate_tasks(
        str(model), [task], data=str(data), max_samples=count, dtype="float32", quiet=True
    )
    lines = Path(outcome.predictions).read_text().splitlines()
    return outcome, sorted(map(json.loads, lines), key=lambda line: line["doc_id"])


def log_probability(model: Any, context: Sequence[int], continuation: Sequence[int]) -> float:
    ids = torch.tensor([[*context, *continuation]])
    with torch.no_grad():
        log_p = model(ids).logits[0].double().log_softmax(-1)
    first = len(context) - 1
    return sum(float(log_p[first + i, token]) for i, token in enumerate(continuation))


@pytest.fixture(scope="module")
def by_hand(tiny_llama: Path) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(tiny_llama)


def test_perplexity_is_that_of_the_text(
    tiny_llama: Path, few_reports: Path, by_hand: tuple[Any, Any], runs: Path
) -> None:
    model, tokenizer = by_hand
    outcome, lines = run(tiny_llama, few_reports, "general_text", None)
    total = words = size = 0.0
    start = [
        tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    ]
    passages = documents.prose()["test"]["text"]
    assert len(passages) == outcome.n == len(lines) >= 5
    for text, line in zip(passages, lines, strict=True):
        log_p = log_probability(model, start, tokenizer.encode(text, add_special_tokens=False))
        assert line["word_perplexity"][0] == pytest.approx(log_p, rel=1e-4)
        total, words, size = total + log_p, words + len(text.split()), size + len(text.encode())
    metrics = outcome.metrics
    assert metrics["word_perplexity"]["value"] == pytest.approx(math.exp(-total / words), rel=1e-3)
    assert metrics["bits_per_byte"]["value"] == pytest.approx(-total / size / math.log(2), rel=1e-4)
    for each in metrics.values():
        assert each["low"] < each["value"] < each["high"]


def test_multiple_choice_takes_the_likeliest_answer(
    tiny_llama: Path, few_reports: Path, by_hand: tuple[Any, Any], runs: Path
) -> None:
    model, tokenizer = by_hand
    outcome, lines = run(tiny_llama, few_reports, "tables_choice")
    right = []
    for line in lines:
        doc = line["doc"]
        context = tokenizer.encode(f"{doc['prompt']}\nAnswer:", add_special_tokens=False)
        scores = []
        for choice in doc["choices"]:
            whole = tokenizer.encode(f"{doc['prompt']}\nAnswer: {choice}", add_special_tokens=False)
            scores.append(log_probability(model, context, whole[len(context) :]))
        found = [score for score, _ in line["filtered_resps"]]
        assert [float(score) for score in found] == pytest.approx(scores, rel=1e-3)
        right.append(max(range(len(scores)), key=scores.__getitem__) == doc["label"])
        assert line["acc"] == right[-1]
        gold = f"{', '.join(doc['answer'])} {doc['scale']}".strip()
        assert doc["choices"][doc["label"]] == gold
    assert outcome.metrics["acc"]["value"] == pytest.approx(sum(right) / len(right))


def test_wrong_answers_are_right_ones_to_other_questions_on_the_report(few_reports: Path) -> None:
    split = documents.choices(data=str(few_reports))["test"]
    assert len(split) >= 10
    by_report: dict[str, set[str]] = {}
    for doc in split:
        by_report.setdefault(doc["report_uid"], set()).add(doc["choices"][doc["label"]])
    for doc in split:
        assert 2 <= len(doc["choices"]) == len(set(doc["choices"])) <= documents.MOST_CHOICES
        assert set(doc["choices"]) <= by_report[doc["report_uid"]]
    places = [doc["label"] for doc in split]
    assert len(set(places)) > 1, "the right answer would always stand in the same place"


def test_generation_gives_what_our_own_evaluation_gives(
    tiny_llama: Path, few_reports: Path, runs: Path
) -> None:
    outcome, lines = run(tiny_llama, few_reports, "tables_answer")
    ours = evaluate(
        str(tiny_llama), data=str(few_reports), max_samples=4, dtype="float32", quiet=True
    )
    predictions = json.loads(Path(ours.predictions).read_text())
    assert outcome.n == len(predictions) == 4
    for line in lines:
        answer = parse_answer(line["filtered_resps"][0].strip())
        assert [list(answer.values), answer.scale] == predictions[line["doc"]["uid"]]
    assert any(values != [""] for values, _ in predictions.values()), "nothing was written"
    for metric in ("em", "f1"):
        assert outcome.metrics[metric]["value"] == ours.metrics[metric]["value"]


def test_the_score_of_a_document_is_the_official_one() -> None:
    doc = {"uid": "u", "question": "?", "answer": ["5.0"], "scale": "million",
           "answer_type": "arithmetic"}  # fmt: skip
    assert documents.official_score(doc, ["= 2 + 3 # million"]) == {"em": 1.0, "f1": 1.0}
    assert documents.official_score(doc, ["= 2 + 3"])["em"] == 0.0


def test_a_task_nobody_has_is_a_sentence(tiny_llama: Path, runs: Path) -> None:
    with pytest.raises(LabkitError, match="'tables_chioce' is not known.*tables_choice"):
        harness.evaluate_tasks(str(tiny_llama), ["tables_chioce"])
    assert not list(runs.glob("evaluations/*"))


def test_nothing_is_asked_of_git(
    tiny_llama: Path, few_reports: Path, runs: Path, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A lesson's folder on a hub is no repository, and git would say so in a cell."""
    monkeypatch.chdir(tmp_path)
    run(tiny_llama, few_reports, "tables_choice", 1)
    assert "git" not in capfd.readouterr().err


def test_what_was_done_is_kept(tiny_llama: Path, few_reports: Path, runs: Path) -> None:
    first, _ = run(tiny_llama, few_reports, "tables_choice", 1)
    before = Path(first.results).stat().st_mtime_ns
    again, _ = run(tiny_llama, few_reports, "tables_choice", 1)
    assert again == first and Path(first.results).stat().st_mtime_ns == before
    written = json.loads(Path(first.results).read_text())
    assert written["results"]["tables_choice"]["acc,none"] == first.metrics["acc"]["value"]
