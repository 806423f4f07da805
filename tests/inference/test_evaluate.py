"""Evaluation: the official score of the file it writes, yardsticks, and what it remembers."""

import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labkit.datasets import encode, tatqa
from labkit.datasets.report_questions import worked_examples
from labkit.datasets.score import score_answer, score_file, score_predictions
from labkit.errors import LabkitError
from labkit.inference import evaluate as evaluation
from labkit.inference import generate as infer
from labkit.inference.evaluate import evaluate, majority_answer
from labkit.models import load
from labkit.runs import records
from labkit.runs.config import RunConfig
from labkit.train.run import train

pytestmark = pytest.mark.usefixtures("runs", "few_objects")


@pytest.fixture
def data(few_reports: Path) -> str:
    return str(few_reports)


@pytest.fixture
def half_right(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A model that answers every second question right; returns what it was asked, call by call."""
    calls: list[str] = []

    def generate(model: str, examples: Any, task: Any, **options: Any) -> list[str]:
        calls.append(model)
        return [
            example.answer if index % 2 else "no such thing # million"
            for index, example in enumerate(examples)
        ]

    monkeypatch.setattr(evaluation, "_generate", generate)
    return calls


@pytest.fixture
def model(tiny_llama: Path) -> str:
    return str(tiny_llama)


def test_scores_are_the_official_ones_of_the_file_it_writes(
    data: str, model: str, half_right: list[str]
) -> None:
    outcome = evaluate(model, data=data, quiet=True)
    reports = tatqa.load(data, "test")
    written = json.loads(Path(outcome.predictions).read_text())
    official = score_predictions(written, reports)
    assert official == score_file(Path(outcome.predictions), tatqa.path_of(data, "test"))
    assert outcome.n == official["n"] == len(tatqa.samples(reports))
    assert outcome.metrics["em"]["value"] == pytest.approx(official["em"])
    assert outcome.metrics["f1"]["value"] == pytest.approx(official["f1"])
    assert 0.4 < official["em"] < 0.7


def test_the_prediction_file_is_in_the_official_form(
    data: str, model: str, half_right: list[str]
) -> None:
    written = json.loads(Path(evaluate(model, data=data, quiet=True).predictions).read_text())
    assert set(written) == {s.question.uid for s in tatqa.samples(tatqa.load(data, "test"))}
    for prediction in written.values():
        answer, scale = prediction
        assert isinstance(answer, list | str) and scale in tatqa.SCALES


def test_the_parts_add_up_to_the_whole(data: str, model: str, half_right: list[str]) -> None:
    outcome = evaluate(model, data=data, quiet=True)
    samples = tatqa.samples(tatqa.load(data, "test"))
    predictions = json.loads(Path(outcome.predictions).read_text())
    for part, key in (("by_type", "answer_type"), ("by_source", "answer_from")):
        assert sum(row["n"] for row in getattr(outcome, part).values()) == outcome.n
        for name, row in getattr(outcome, part).items():
            of_this = [s for s in samples if getattr(s.question, key) == name]
            scores = [score_answer(*predictions[s.question.uid], s.question) for s in of_this]
            assert row["n"] == len(of_this)
            assert row["em"]["value"] == pytest.approx(np.mean([em for em, _ in scores]))
            assert row["f1"]["value"] == pytest.approx(np.mean([f1 for _, f1 in scores]))


def test_the_interval_is_a_bootstrap_over_reports(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the whole embedded test split, against a percentile bootstrap written out here."""
    rng = np.random.default_rng(0)

    def generate(model: str, examples: Any, task: Any, **options: Any) -> list[str]:
        good = {e.group: rng.random() for e in examples}  # reports are read well or badly
        return [e.answer if rng.random() < good[e.group] else "wrong" for e in examples]

    monkeypatch.setattr(evaluation, "_generate", generate)
    outcome = evaluate(model, data="tables", quiet=True)
    reports = tatqa.load("tables", "test")
    predictions = json.loads(Path(outcome.predictions).read_text())
    per_report = [
        [score_answer(*predictions[q.uid], q)[0] for q in report.questions] for report in reports
    ]
    means = []
    for _ in range(3000):
        chosen = rng.integers(0, len(per_report), size=len(per_report))
        means.append(np.mean([em for index in chosen for em in per_report[index]]))
    low, high = np.percentile(means, [2.5, 97.5])
    found = outcome.metrics["em"]
    assert found["low"] < found["value"] < found["high"]
    assert found["low"] == pytest.approx(low, abs=0.15 * (high - low))
    assert found["high"] == pytest.approx(high, abs=0.15 * (high - low))


def test_every_interval_holds_its_value(data: str, model: str, half_right: list[str]) -> None:
    outcome = evaluate(model, data=data, quiet=True)
    rows = [outcome.metrics, *outcome.by_type.values(), *outcome.by_source.values()]
    for row in rows:
        for metric in (row["em"], row["f1"]):
            assert 0 <= metric["low"] <= metric["value"] <= metric["high"] <= 1


@pytest.mark.parametrize("where", ["few", "tables"])
def test_majority_answers_everything_with_the_commonest_training_answer(
    where: str, few_reports: Path
) -> None:
    data = str(few_reports) if where == "few" else "tables"
    raw = json.loads(tatqa.path_of(data, "train").read_text())
    counts = Counter(
        (json.dumps(q["answer"] if isinstance(q["answer"], list) else [str(q["answer"])]),
         q["scale"])
        for report in raw for q in report["questions"]
    )  # fmt: skip
    (commonest, scale), times = counts.most_common(1)[0]
    found_values, found_scale = majority_answer(data)
    assert counts[json.dumps(found_values), found_scale] == times
    outcome = evaluate("majority", data=data)
    predictions = json.loads(Path(outcome.predictions).read_text())
    assert {json.dumps(p) for p in predictions.values()} == {
        json.dumps([found_values, found_scale])
    }
    if where == "tables":
        assert (found_values, found_scale) == (json.loads(commonest), scale)
        assert outcome.metrics["em"]["value"] < 0.1


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("split", ["test", "dev"])
def test_worked_examples_come_from_the_training_split_alone(count: int, split: str) -> None:
    examples = worked_examples("tables", count)
    train_uids = {s.question.uid for s in tatqa.samples(tatqa.load("tables", "train"))}
    held_out = {report.uid for report in tatqa.load("tables", split)}
    assert len(examples) == count == len({e.report.uid for e in examples})
    for index, example in enumerate(examples):
        assert example.question.uid in train_uids and example.report.uid not in held_out
        assert example.question.answer_type == ("arithmetic", "span")[index % 2]
    assert worked_examples("tables", count) == examples


def test_a_single_file_s_examples_are_not_from_its_own_test_part(tmp_path: Path) -> None:
    file = tmp_path / "all.json"
    shutil.copy(tatqa.path_of("tables", "test"), file)
    held_out = {report.uid for report in tatqa.load(str(file), "test")}
    assert held_out
    assert not held_out & {e.report.uid for e in worked_examples(str(file), 4)}


def test_no_example_of_a_kind_is_one_sentence(tmp_path: Path, few_reports: Path) -> None:
    data = shutil.copytree(few_reports, tmp_path / "data")
    reports = json.loads((data / "train.json").read_text())
    for report in reports:
        report["questions"] = [q for q in report["questions"] if q["answer_type"] == "span"]
    (data / "train.json").write_text(json.dumps(reports))
    with pytest.raises(LabkitError, match="has no arithmetic question to show"):
        worked_examples(str(data), 1)


def test_the_model_is_shown_the_examples_and_not_the_answer(
    data: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def complete(self: Any, groups: Any, *, max_new_tokens: int) -> list[list[str]]:
        seen.extend(self.tokenizer.decode(ids) for group in groups for ids in group)
        return [["7"] * len(group) for group in groups]

    monkeypatch.setattr(infer.Generator, "_complete_groups", complete)
    evaluate(model, data=data, examples=2, max_samples=3, quiet=True)
    assert len(seen) == 3
    tokenizer = load.load_tokenizer(model)
    samples = tatqa.samples(tatqa.load(data, "test"))[:3]
    shots = worked_examples(data, 2)
    assert sorted(seen) == sorted(encode.prompt_text(tokenizer, s, shots) for s in samples)
    for text in seen:
        assert all(shot.question.text in text for shot in shots)


def test_a_second_call_costs_nothing_and_fresh_does_it_again(
    data: str, model: str, half_right: list[str]
) -> None:
    first = evaluate(model, data=data, quiet=True)
    assert evaluate(model, data=data, quiet=True) == first
    assert half_right == [model]
    evaluate(model, data=data, fresh=True, quiet=True)
    assert len(half_right) == 2


OTHER: dict[str, dict[str, Any]] = {
    "split": {"split": "dev"}, "examples": {"examples": 2}, "number": {"max_samples": 3},
    "type": {"dtype": "float16"},  # which no machine takes by itself
}  # fmt: skip


@pytest.mark.parametrize("changes", OTHER.values(), ids=OTHER.keys())
def test_another_question_is_another_evaluation(
    data: str, model: str, half_right: list[str], changes: dict[str, Any]
) -> None:
    first = evaluate(model, data=data, quiet=True)
    second = evaluate(model, data=data, quiet=True, **changes)
    assert len(half_right) == 2
    assert first.predictions != second.predictions
    assert second.n == changes.get("max_samples", second.n)


def test_other_weights_and_other_data_are_noticed(
    data: str, model: str, half_right: list[str], tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    evaluate(model, data=data, quiet=True)
    evaluate(str(tiny_model("tiny-phi")), data=data, quiet=True)
    other = shutil.copytree(data, tmp_path / "data")
    reports = json.loads((other / "train.json").read_text())
    (other / "train.json").write_text(json.dumps(reports[1:]))  # the examples come from here
    evaluate(model, data=str(other), quiet=True)
    assert len(half_right) == 3


def test_the_same_weights_under_another_name_are_not_asked_again(
    data: str, model: str, half_right: list[str], tmp_path: Path
) -> None:
    first = evaluate(model, data=data, quiet=True)
    copy = str(shutil.copytree(model, tmp_path / "copy"))
    again = evaluate(copy, data=data, quiet=True)
    assert half_right == [model]
    assert again == dataclasses.replace(first, model=copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"predictions": 7}'])
def test_a_damaged_result_is_made_again(
    data: str, model: str, half_right: list[str], runs: Path, text: str
) -> None:
    first = evaluate(model, data=data, quiet=True)
    (stored,) = (f for f in (runs / "evaluations").iterdir() if "predictions" not in f.name)
    stored.write_text(text)
    again = evaluate(model, data=data, quiet=True)
    assert len(half_right) == 2 and again.metrics == first.metrics


def test_a_missing_prediction_file_is_made_again(
    data: str, model: str, half_right: list[str]
) -> None:
    Path(evaluate(model, data=data, quiet=True).predictions).unlink()
    assert Path(evaluate(model, data=data, quiet=True).predictions).is_file()
    assert len(half_right) == 2


def record_of_a_run(name: str, model: str) -> records.RunRecord:
    record = records.RunRecord(
        id="1", sha256="0" * 64, name=name, status="done", started_at=records.now(),
        config=RunConfig().to_dict(), seed=1, versions={}, hardware={},
        model={"name": "m", "sha256": "1"}, data={"name": "d", "sha256": "2"},
    ).save()  # fmt: skip
    shutil.copytree(model, record.model_path)
    return record


def test_a_run_s_record_keeps_its_score(data: str, model: str, half_right: list[str]) -> None:
    record_of_a_run("mine", model)
    outcome = evaluate("mine", data=data, quiet=True)
    kept = records.load("mine").scores[f"{data}/test"]
    assert kept == {key: getattr(outcome, key) for key in ("n", "metrics", "by_type")}
    # Fewer questions do not replace more; examples are no score of the run.
    evaluate("mine", data=data, max_samples=3, quiet=True)
    evaluate("mine", data=data, examples=2, quiet=True)
    assert records.load("mine").scores == {f"{data}/test": kept}
    evaluate("mine", data=data, split="dev", quiet=True)
    assert set(records.load("mine").scores) == {f"{data}/test", f"{data}/dev"}


def test_a_run_that_is_made_anew_does_not_keep_the_old_one_s_score(
    data: str, tiny_run: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_run(name="again"), quiet=True)

    def generate(model: str, examples: Any, task: Any, **options: Any) -> list[str]:
        train(tiny_run(name="again", learning_rate=0.5), quiet=True, fresh=True)
        return [example.answer for example in examples]

    monkeypatch.setattr(evaluation, "_generate", generate)
    assert evaluate("again", data=data, quiet=True).metrics["em"]["value"] == 1
    kept = records.load("again")
    assert kept.config["learning_rate"] == 0.5 and kept.scores == {}


def test_a_model_elsewhere_of_the_same_name_leaves_the_run_s_record_alone(
    data: str, model: str, half_right: list[str], tmp_path: Path
) -> None:
    record = record_of_a_run("mine", model)
    elsewhere = str(shutil.copytree(model, tmp_path / "elsewhere" / "mine"))
    evaluate(elsewhere, data=data, quiet=True)
    assert records.load("mine") == record


def test_a_real_run_is_scored_end_to_end(
    tiny_run: Callable[..., RunConfig], data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infer, "MAX_NEW_TOKENS", 4)
    record = train(tiny_run(name="mine"), quiet=True)
    kind = {"dtype": "bfloat16", "quiet": True}
    outcome = evaluate("mine", data=data, max_samples=6, **kind)
    assert outcome.n == 6 and outcome.model == "mine"
    assert set(outcome.to_json()) == {
        "model", "task", "data", "split", "examples", "n", "metrics", "by_type", "by_source",
        "seconds", "predictions",
    }  # fmt: skip
    samples = tatqa.samples(tatqa.load(data, "test"))[:6]
    replies = infer.load_generator(str(record.path), dtype="bfloat16", exact=True).answer(samples)
    written = json.loads(Path(outcome.predictions).read_text())
    assert written == {r.uid: [list(r.values), r.scale] for r in replies}
    rounded = evaluate("mine", data=data, max_samples=6, exact=False, **kind)
    assert rounded.predictions != outcome.predictions, "two ways to calculate, two results"
    shown = evaluation.render(outcome)
    assert "6 questions" in shown and outcome.predictions in shown


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "smollm3"}, "neither a folder with a model nor the name"),
        ({"data": "no/such"}, "no data set at 'no/such'"),
        ({"split": "tset"}, "no split 'tset'.*'test'"),
    ],
)
def test_what_is_not_there_is_one_sentence(
    data: str, model: str, runs: Path, changes: dict[str, str], message: str
) -> None:
    arguments = {"model": model, "data": data, "split": "test", **changes}
    with pytest.raises(LabkitError, match=message):
        evaluate(arguments.pop("model"), quiet=True, **arguments)
    assert not runs.exists()
