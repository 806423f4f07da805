"""Verdicts from the student's own records: for every question one right answer and wrong ones."""

import contextlib
import dataclasses
import inspect
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from labkit.checkpoints import check, judge, status
from labkit.checkpoints.answers import answers_file
from labkit.checkpoints.collecting import collect
from labkit.checkpoints.lessons.intervals import TENTH, as_interval_says
from labkit.checkpoints.questions import TYPES, load_questions, parse
from labkit.checkpoints.rules import Evidence
from labkit.errors import LabkitError
from labkit.runs import records

FEWEST_WRONG = 5
FEWEST_HONEST = 3


def test_every_question_has_a_rule_and_cases_and_known_types(cases):
    questions = load_questions()
    assert set(questions) == set(collect("rules")) == set(cases)
    numbers = [asked.assignment for asked in questions.values() if asked.assignment]
    assert len(numbers) == len(set(numbers)) and not set(numbers) & set(questions)
    for asked in questions.values():
        assert asked.id.split(".")[0] == asked.lesson[:2] and asked.points > 0
        assert asked.fields[-1].name == "explanation"
        assert len(cases[asked.id][1]) >= FEWEST_WRONG
        for field in asked.fields:
            assert field.type in TYPES and field.text
            assert (field.type == "choice") == bool(field.options)


def test_a_right_answer_fits(each_question, right_answer):
    verdict = check(each_question, **right_answer(each_question))
    assert verdict.state == "consistent", str(verdict)
    assert verdict and verdict.recorded and "everything fits (recorded)" in str(verdict)


def test_a_wrong_answer_is_contradicted_without_giving_the_right_one(wrong_answer, right_answer):
    question, change, says = wrong_answer
    right = right_answer(question)
    verdict = check(question, **{**right, **change})
    assert verdict.state == "contradicts" and not verdict
    contradictions = "\n".join(verdict.contradicts)
    assert says in contradictions
    # A number the message names may be the student's own or a constant of the question.
    known = {float(v) for v in change.values() if isinstance(v, int | float)}
    texts = [load_questions()[question].text, *(f.text for f in load_questions()[question].fields)]
    measured = {float(v) for v in right.values() if isinstance(v, int | float)}
    assert not (numbers_in(contradictions) - known - numbers_in(*texts) - {10.0}) & measured


def test_an_answer_that_looks_odd_and_is_honest_fits(honest_answer, right_answer, record):
    question, change, saves = honest_answer
    right = right_answer(question)
    if saves is not None:
        saves(*[record][: len(inspect.signature(saves).parameters)])
    verdict = check(question, **{**right, **change})
    assert verdict.state == "consistent", str(verdict)


def test_a_lesson_with_odd_answers_has_enough_of_them_for_each_question(cases, honest):
    assert honest
    for question in cases:
        if question[:2] in {each[:2] for each in honest}:
            assert len(honest.get(question, [])) >= FEWEST_HONEST, question


def numbers_in(*texts: str) -> set[float]:
    return {float(n) for n in re.findall(r"(?<![\w.])\d+(?:\.\d+)?", "\n".join(texts))}


EXTREMES = [None, 0, 1, -1, 10**29, -(10**29), 1e-29, 0.5]


def test_no_rule_breaks_on_what_a_student_may_type(each_question, right_answer):
    right, asked = right_answer(each_question), load_questions()[each_question]
    runs = [run.id for run in records.records()]
    for field in asked.fields:
        tried: list = [None, "x", "word " * 9]
        if field.type in ("number", "integer"):
            tried = EXTREMES
        elif field.type in ("choice", "run"):
            tried = [None, *field.options, *runs * (field.type == "run")]
        for value in tried:
            given = {**right, field.name: value}
            with contextlib.suppress(LabkitError):  # a sentence is always allowed
                verdict = judge(asked, parse(asked, given), Evidence())
                assert verdict.state in ("consistent", "contradicts", "incomplete")
    nothing = Evidence(runs=[], sweeps=[])
    with contextlib.suppress(LabkitError):
        assert judge(asked, parse(asked, right), nothing).state != "unanswered"


def test_no_rule_breaks_on_runs_that_were_killed(each_question, right_answer):
    asked, given = load_questions()[each_question], right_answer(each_question)
    killed = [dataclasses.replace(run, status="running", steps=[], summary={})
              for run in records.records()]  # fmt: skip
    values = parse(asked, given, killed)
    assert judge(asked, values, Evidence(runs=killed)).state != "unanswered"


def test_an_answer_rests_on_records_and_keeps_their_context(runs, right_answer):
    check("02.2", **right_answer("02.2"))
    check("02.2", **{**right_answer("02.2"), "time_ratio": 3.0})
    entry = json.loads(answers_file().read_text())["answers"]["02.2"]
    assert answers_file() == runs / "answers.json"
    assert entry["runs"] == ["id-full", "id-lora"] and entry["fields"]["lora_run"] == "id-lora"
    assert entry["context"]["model"]["sha256"] == "sha of smollm2-135m-instruct"
    assert entry["context"]["hardware"] == {"cores": 2}
    assert (entry["state"], entry["attempts"]) == ("contradicts", 2)
    check("02.3", **right_answer("02.3"))
    answered = json.loads(answers_file().read_text())["answers"]
    assert "02.2" in answered and "id-rank" in answered["02.3"]["runs"]


def test_not_answered_yet_is_a_friendly_line_and_nothing_is_written(runs):
    for given in [{}, {"run": None, "first_loss": ..., "explanation": "…"}]:
        verdict = check("02.1", **given)
        assert verdict.state == "unanswered"
        assert str(verdict).startswith("Question 02.1 (assignment 1.1): not answered yet\n")
        assert "Does the loss of your two runs behave" in str(verdict)
    assert not answers_file().exists()


def test_what_is_missing_is_said(runs, right_answer):
    partly = {**right_answer("02.2"), "memory_ratio": None, "explanation": "it is faster"}
    verdict = check("02.2", **partly)
    assert verdict.state == "incomplete" and not verdict.contradicts
    assert len(verdict.missing) == 2
    assert verdict.missing[0].startswith("memory_ratio: peak allocated bytes")
    assert verdict.missing[1].startswith("explanation: a reason")


def test_a_claim_no_pair_of_runs_can_support_is_missing_evidence(runs, right_answer):
    for name in ["rank", "unfinished"]:
        records.remove([name])
    verdict = check("02.3", **right_answer("02.3"))
    assert verdict.missing == ["r: no two of your runs differ in it alone"]


def test_what_was_not_measured_is_not_guessed(runs, right_answer, record):
    records.remove(["full"])
    record("full", peak=None, step=1.5, method="full")
    verdict = check("02.2", **right_answer("02.2"))
    assert verdict.state == "incomplete"
    assert "memory_ratio cannot be checked: the ratio of the peak" in verdict.missing[0]


def test_a_run_may_be_given_as_record_name_or_id(runs):
    for given in [records.load("lora"), "lora", "id-lora"]:
        assert "run is not" not in str(check("02.1", run=given, first_loss=2.0))


def test_numbers_of_other_libraries_are_numbers(runs):
    given = {"run": "lora", "first_loss": np.float32(2.0), "last_loss": torch.tensor(1.0)}
    assert len(check("02.1", **given).consistent) == 2


@pytest.mark.parametrize(
    ("question", "given", "sentence"),
    [
        ("2.1", {}, r"there is no question '2.1': did you mean '02.1' or '1.1'"),
        ("02.1", {"fist_loss": 1}, r"02.1 has no field 'fist_loss': did you mean 'first_loss'"),
        ("02.1", {"first_loss": "low"}, r"02.1, first_loss: give a number, not 'low'"),
        (
            "02.1",
            {"first_loss": float("nan")},
            r"first_loss: nan is not a number that was",
        ),
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


def test_status_says_where_each_question_stands(runs, right_answer):
    check("02.1", **right_answer("02.1"))
    check("02.2", **{**right_answer("02.2"), "time_ratio": 9.0})
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
    assert found == {("lora", "type"), ("lora", "half"), ("half", "type")}
    found = {(low.name, high.name) for low, high in evidence.pairs("max_length")}
    assert found == {("short", "length"), ("short", "lora"), ("length", "lora")}


def test_questions_are_asked_without_importing_torch():
    program = (
        "import sys, labkit.checkpoints as c; c.status(); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


@pytest.mark.parametrize(("ends", "fitting"), [
    ((-10.0, -0.0), {"below", "not told apart"}), ((0.0, 3.1), {"above", "not told apart"}),
    ((-1.0, 2.0), {"not told apart"}), ((0.2, 3.1), {"above"}), ((-3.1, -0.2), {"below"}),
])  # fmt: skip
def test_an_end_that_is_rounded_to_zero_may_have_stood_on_either_side(ends, fitting):
    for verdict in ("above", "below", "not told apart"):
        (found,) = as_interval_says({"verdict": verdict}, ends, above="above", below="below",
                                    within=TENTH)  # fmt: skip
        assert (found.kind == "consistent") == (verdict in fitting)
