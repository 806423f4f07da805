"""Verdicts from the student's own records: for every question one right answer and wrong ones."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from labkit import results
from labkit.checkpoints import check, status
from labkit.checkpoints.answers import answers_file
from labkit.checkpoints.questions import TYPES, load_questions
from labkit.checkpoints.rules import RULES, Evidence
from labkit.config import RunConfig
from labkit.errors import LabkitError
from labkit.results import RunRecord

REASON = "the frozen weights need neither gradients nor optimizer state, so less is kept"
FALLING = [2.0] * 10 + [1.5, 1.2] + [1.0] * 10


def a_record(name: str, *, peak: int | None, losses=FALLING, step=1.0, trainable=500, **settings):
    config = RunConfig(name=name, **settings)
    return RunRecord(
        id=f"id-{name}",
        sha256=f"sha-{name}",
        name=name,
        status="done",
        started_at=f"2026-01-01T00:00:{len(results.records()):02d}+00:00",
        config=config.to_dict(),
        seed=1,
        versions={"torch": "2"},
        hardware={"cores": 2},
        model={"name": config.model, "sha256": "m"},
        data={"name": "tables", "sha256": "d"},
        steps=[{"step": i, "loss": loss} for i, loss in enumerate(losses, start=1)],
        summary={
            "step_seconds_median": step,
            "peak_bytes": {"allocated": peak, "reserved": None, "rss": 5000},
            "trainable_parameters": trainable,
            "total_parameters": 10_500,
        },
    ).save()


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A student's runs: pairs that differ in one setting, one unfinished, one on another batch."""
    monkeypatch.setenv("LABKIT_RUNS", str(tmp_path / "runs"))
    a_record("lora", peak=1000)
    a_record("full", peak=2500, step=1.5, method="full", trainable=10_000, learning_rate=5e-5)
    a_record("full-large", peak=9000, step=3.0, method="full", per_device_train_batch_size=16)
    a_record("unfinished", peak=1000, max_length=99).replace(status="cancelled").save()
    a_record("short", peak=1000, losses=[2.0] * 5, max_length=98)
    a_record("no-memory", peak=None, dtype="float32", lora_dropout=0.1)
    a_record("rank", peak=1010, r=64)
    a_record("batch", peak=1900, per_device_train_batch_size=16)
    a_record("checkpointing", peak=600, gradient_checkpointing=True)
    a_record("length", peak=1000, max_length=256)
    a_record("type", peak=1800, dtype="float32")
    return tmp_path


@pytest.fixture
def model(tmp_path):
    """A folder with a model of 70 parameters in two bytes each."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    tensors = {"a": torch.zeros(6, 10), "b": torch.zeros(10)}
    save_file({k: v.bfloat16() for k, v in tensors.items()}, folder / "model.safetensors")
    return str(folder)


MEMORY = dict.fromkeys(["r", "max_length"], "no change")
MEMORY |= {"per_device_train_batch_size": "grows", "dtype": "grows"}
MEMORY |= {"gradient_checkpointing": "shrinks"}

# Of each question: a right answer, then changes to it, each with what the verdict must name.
TABLE = {
    "00.1": (
        {"weights_bytes": 140, "float32_bytes": 280},
        [
            ({"weights_bytes": 280}, "weights_bytes is above the size of the weights"),
            ({"weights_bytes": 70}, "weights_bytes is below the size of the weights"),
            ({"weights_bytes": 0}, "weights_bytes is not above zero"),
            ({"float32_bytes": 140}, "float32_bytes is below four bytes for each"),
            ({"float32_bytes": 560}, "float32_bytes is above four bytes for each"),
        ],
    ),
    "00.2": (
        {"predicted_seconds": 30, "seconds": 2.0, "tokens": 21, "tokens_per_second": 10.5},
        [
            ({"tokens_per_second": 2 / 21}, "tokens_per_second is below what tokens and seconds"),
            ({"tokens_per_second": 21}, "tokens_per_second is above what tokens and seconds"),
            ({"seconds": 2000.0}, "tokens_per_second is above what"),
            ({"seconds": -2.0}, "seconds is not above zero"),
            ({"predicted_seconds": 0}, "predicted_seconds is not above zero"),
        ],
    ),
    "00.3": (
        {"questions": 40, "correct": 5, "share_percent": 12.5},
        [
            ({"share_percent": 0.125}, "share_percent looks like a fraction"),
            ({"share_percent": 87.5}, "share_percent is above what correct and questions give"),
            ({"correct": 41, "share_percent": 102.5}, "correct is not between none and all"),
            ({"correct": 0}, "share_percent is above"),
            ({"questions": 0}, "questions is not above zero"),
        ],
    ),
    "02.1": (
        {"run": "lora", "first_loss": 2.0, "last_loss": 1.0, "behaviour": "falls"},
        [
            ({"first_loss": 1.0, "last_loss": 2.0}, "first_loss is below the mean of the run's"),
            ({"last_loss": 1.2}, "last_loss is above the mean of the run's last 10"),
            ({"behaviour": "rises"}, "behaviour is not what the run's losses show"),
            ({"behaviour": "stays"}, "behaviour is not what the run's losses show"),
            ({"run": "full"}, "run is not a run with method: lora"),
            ({"run": "unfinished"}, "run is not finished: its record says cancelled"),
        ],
    ),
    "02.2": (
        {"lora_run": "lora", "full_run": "full", "time_ratio": 1.5, "memory_ratio": 2.5},
        [
            ({"time_ratio": 1 / 1.5}, "time_ratio is below the ratio of the median step times"),
            ({"memory_ratio": 0.4}, "memory_ratio is below the ratio of the peak allocated"),
            ({"lora_run": "full", "full_run": "lora"}, "lora_run is not a run with method: lora"),
            ({"full_run": "full-large"}, "also differ in per_device_train_batch_size"),
            ({"full_run": "lora"}, "full_run is not a run with method: full"),
            ({"lora_run": "unfinished"}, "also differ in max_length"),
        ],
    ),
    "02.3": (
        MEMORY,
        [
            ({"r": "grows"}, "r: your runs that differ in it alone show otherwise"),
            ({"per_device_train_batch_size": "no change"}, "per_device_train_batch_size: your"),
            ({"gradient_checkpointing": "grows"}, "gradient_checkpointing: your runs"),
            ({"dtype": "shrinks"}, "dtype: your runs"),
            ({"max_length": "grows"}, "max_length: your runs"),
        ],
    ),
    "02.4": (
        {"run": "lora", "trainable_parameters": 500, "total_parameters": 10_500}
        | {"share_percent": 100 / 21},
        [
            ({"trainable_parameters": 10_500}, "trainable_parameters is above the count"),
            ({"total_parameters": 500}, "total_parameters is below the count in the record"),
            ({"share_percent": 1 / 21}, "share_percent is below what trainable_parameters and"),
            ({"run": "full"}, "run is not a run with method: lora"),
            ({"share_percent": 95.2}, "share_percent is above what"),
        ],
    ),
    "04.1": (
        {"absmax": 8.0, "spread": 2.0, "outlier_factor": 4.0, "snr_db": 37.8},
        [
            ({"outlier_factor": 0.25}, "outlier_factor is below what absmax and spread give"),
            ({"snr_db": 46.8}, "snr_db is above what the formula gives"),
            ({"spread": 0.0}, "spread is not above zero"),
            ({"absmax": 16.0}, "outlier_factor is below what absmax"),
            ({"snr_db": 3.78}, "snr_db is below what the formula gives"),
        ],
    ),
    "04.2": (
        {"tokens_few": 16, "tokens_many": 512, "int8_few_percent": 0.3, "int8_many_percent": 1.0}
        | {"sixteen_bit_percent": 0.05, "growth": 3.33},
        [
            ({"growth": 0.3}, "growth is below what int8_many_percent and int8_few_percent"),
            ({"tokens_many": 8}, "tokens_many is not above tokens_few"),
            ({"int8_many_percent": 0.1}, "int8_many_percent is not above int8_few_percent"),
            ({"sixteen_bit_percent": 5.0}, "sixteen_bit_percent is not below int8_many_percent"),
            ({"int8_few_percent": 0.0}, "int8_few_percent is not above zero"),
        ],
    ),
    "04.3": (
        {"layer": "model.layers.2.mlp.down_proj", "row_db": 38.0, "tensor_db": 24.0}
        | {"lost_db": 14.0, "noise_factor": 25.0},
        [
            ({"lost_db": -14.0}, "lost_db is below row_db less tensor_db"),
            ({"noise_factor": 5.0}, "noise_factor is below what lost_db means"),
            ({"noise_factor": 14.0}, "noise_factor is below what lost_db means"),
            ({"tensor_db": 28.0}, "lost_db is above row_db less tensor_db"),
            ({"row_db": 24.0, "tensor_db": 38.0}, "lost_db is above row_db less tensor_db"),
        ],
    ),
    "04.4": (
        {"rate": 4.0, "full_ceiling": 2.0, "frozen_ceiling": 4.0},
        [
            ({"full_ceiling": 4.0}, "full_ceiling is above three products over two in int8"),
            ({"frozen_ceiling": 2.0}, "frozen_ceiling is below two products over two in int8"),
            ({"rate": 0.0}, "rate is not above zero"),
            ({"rate": 2.0}, "full_ceiling is above three products"),
            ({"full_ceiling": 1.5}, "full_ceiling is below three products"),
        ],
    ),
}
WRONG = [
    pytest.param(question, change, says, id=f"{question}-{'-'.join(change)}-{i}")
    for question, (_, changes) in TABLE.items()
    for i, (change, says) in enumerate(changes)
]


def right_answer(question: str, model: str) -> dict:
    extra = {"model": model} if question == "00.1" else {}
    return {**TABLE[question][0], **extra, "explanation": REASON}


def test_every_question_has_a_rule_and_a_row_here_and_known_types():
    questions = load_questions()
    assert set(questions) == set(RULES) == set(TABLE)
    for asked in questions.values():
        assert asked.id.split(".")[0] == asked.lesson[:2] and asked.points > 0
        assert asked.fields[-1].name == "explanation"
        for field in asked.fields:
            assert field.type in TYPES and field.text
            assert (field.type == "choice") == bool(field.options)


@pytest.mark.parametrize("question", TABLE)
def test_a_right_answer_fits(question, runs, model):
    verdict = check(question, **right_answer(question, model))
    assert verdict.state == "consistent", str(verdict)
    assert verdict and verdict.recorded and "everything fits (recorded)" in str(verdict)


@pytest.mark.parametrize(("question", "change", "says"), WRONG)
def test_a_wrong_answer_is_contradicted_without_giving_the_right_one(
    question, change, says, runs, model
):
    right = right_answer(question, model)
    verdict = check(question, **{**right, **change})
    assert verdict.state == "contradicts" and not verdict
    contradictions = "\n".join(verdict.contradicts)
    assert says in contradictions
    measured = {v for v in right.values() if isinstance(v, int | float)}
    named = {float(n) for n in re.findall(r"(?<![\w.])\d+(?:\.\d+)?", contradictions)}
    assert not (named - {10.0}) & measured, "the message gives the answer away"


def test_an_answer_rests_on_records_and_keeps_their_context(runs, model):
    check("02.2", **right_answer("02.2", model))
    check("02.2", **{**right_answer("02.2", model), "time_ratio": 3.0})
    entry = json.loads(answers_file().read_text())["answers"]["02.2"]
    assert answers_file() == runs / "answers.json"
    assert entry["runs"] == ["id-full", "id-lora"] and entry["fields"]["lora_run"] == "id-lora"
    assert entry["context"]["model"]["sha256"] == "m"
    assert entry["context"]["hardware"] == {"cores": 2}
    assert (entry["state"], entry["attempts"]) == ("contradicts", 2)
    check("02.3", **right_answer("02.3", model))
    answered = json.loads(answers_file().read_text())["answers"]
    assert "02.2" in answered and "id-rank" in answered["02.3"]["runs"]


def test_not_answered_yet_is_a_friendly_line_and_nothing_is_written(runs):
    for given in [{}, {"run": None, "first_loss": ..., "explanation": "…"}]:
        verdict = check("02.1", **given)
        assert verdict.state == "unanswered"
        assert str(verdict).startswith("Question 02.1: not answered yet\n")
        assert "Does the training loss of your LoRA run behave" in str(verdict)
    assert not answers_file().exists()


def test_what_is_missing_is_said(runs, model):
    partly = {**right_answer("02.2", model), "memory_ratio": None, "explanation": "it is faster"}
    verdict = check("02.2", **partly)
    assert verdict.state == "incomplete" and not verdict.contradicts
    assert len(verdict.missing) == 2
    assert verdict.missing[0].startswith("memory_ratio: peak allocated bytes")
    assert verdict.missing[1].startswith("explanation: a reason")


def test_a_claim_no_pair_of_runs_can_support_is_missing_evidence(runs, model):
    for name in ["rank", "unfinished"]:
        results.remove([name])
    verdict = check("02.3", **right_answer("02.3", model))
    assert verdict.missing == ["r: no two of your runs differ in it alone"]


def test_what_was_not_measured_is_not_guessed(runs, model):
    results.remove(["full"])
    a_record("full", peak=None, step=1.5, method="full")
    verdict = check("02.2", **right_answer("02.2", model))
    assert verdict.state == "incomplete"
    assert "memory_ratio cannot be checked: the ratio of the peak" in verdict.missing[0]


def test_a_run_may_be_given_as_record_name_or_id(runs):
    for given in [results.load("lora"), "lora", "id-lora"]:
        assert "run is not" not in str(check("02.1", run=given, first_loss=2.0))


def test_numbers_of_other_libraries_are_numbers(runs):
    given = {"run": "lora", "first_loss": np.float32(2.0), "last_loss": torch.tensor(1.0)}
    assert len(check("02.1", **given).consistent) == 2


@pytest.mark.parametrize(
    ("question", "given", "sentence"),
    [
        ("2.1", {}, r"there is no question '2.1': did you mean '02.1'"),
        ("02.1", {"fist_loss": 1}, r"02.1 has no field 'fist_loss': did you mean 'first_loss'"),
        ("02.1", {"first_loss": "low"}, r"02.1, first_loss: give a number, not 'low'"),
        ("02.1", {"first_loss": float("nan")}, r"first_loss: nan is not a number"),
        ("02.1", {"first_loss": True}, r"first_loss: give a number, not True"),
        ("02.1", {"behaviour": "down"}, r"give one of falls, stays, rises, not 'down'"),
        ("02.1", {"run": "lorra"}, r"run: no run 'lorra' in .*did you mean 'lora'"),
        ("02.1", {"explanation": 3}, r"explanation: give text in quotes, not 3"),
        ("02.1", {"explanation": "x" * 20_001}, r"20001 characters are more than 20000"),
        ("00.2", {"tokens": 2.5}, r"tokens: give a whole number \[tokens\], not 2.5"),
        ("00.1", {"model": "nowhere/model", "weights_bytes": 1}, r"nowhere"),
    ],
)
def test_wrong_use_is_a_sentence_and_records_nothing(question, given, sentence, runs):
    with pytest.raises(LabkitError, match=sentence):
        check(question, **given)
    assert not answers_file().exists()


def test_a_damaged_answers_file_is_a_sentence_and_is_left_alone(runs):
    answers_file().write_text('{"answers": ')
    with pytest.raises(LabkitError, match=r"answers.json is damaged: move it away"):
        check("02.1", run="lora", first_loss=2.0)
    assert answers_file().read_text() == '{"answers": '


def test_status_says_where_each_question_stands(runs, model):
    check("02.1", **right_answer("02.1", model))
    check("02.2", **{**right_answer("02.2", model), "time_ratio": 9.0})
    states = {entry["id"]: entry["state"] for entry in status()}
    assert states["02.1"] == "consistent" and states["02.2"] == "contradicts"
    assert states["00.1"] == "unanswered"


def test_the_card_says_what_the_text_says_and_escapes_it(runs):
    verdict = check("02.1", run="lora", first_loss=9.0, explanation="<b>short</b>")
    verdict.missing.append("<script>")
    card = verdict._repr_html_()
    assert "<script>" not in card and "&lt;script&gt;" in card
    for word, _, line in verdict.rows():
        assert word in str(verdict) and line in str(verdict)
        assert f"{word}</b>" in card


def test_pairs_differ_in_one_setting_alone_and_only_finished_runs_count(runs):
    evidence = Evidence()
    found = {(low.name, high.name) for low, high in evidence.pairs("dtype")}
    assert found == {("lora", "type")}
    found = {(low.name, high.name) for low, high in evidence.pairs("max_length")}
    assert found == {("short", "length"), ("short", "lora"), ("length", "lora")}


def test_questions_are_asked_without_importing_torch():
    program = (
        "import sys, labkit.checkpoints as c; c.status(); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
