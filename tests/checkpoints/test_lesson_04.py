"""Lesson 04's answers beside measurements that are missing, several, damaged or bad."""

import pytest

from labkit.checkpoints import check, exercises, judge
from labkit.checkpoints.lessons import exercises_04_2
from labkit.checkpoints.questions import parse, question
from labkit.checkpoints.rules import Evidence
from labkit.runs import measurements
from labkit.switchback.teaching import defects
from labkit.switchback.teaching.kernel_check import in_interpreter

QUESTIONS = ["04.1", "04.2", "04.3", "04.5"]


@pytest.mark.parametrize("asked", QUESTIONS)
def test_without_a_measurement_an_answer_is_incomplete(asked, right_answer):
    answer = right_answer(asked)
    for file in measurements.folder().iterdir():
        file.unlink()
    verdict = check(asked, **answer)
    assert verdict.state == "incomplete", str(verdict)
    assert "cannot be checked" in verdict.missing[0]


@pytest.mark.parametrize("asked", QUESTIONS)
@pytest.mark.parametrize(
    "values",
    [
        {"layers": 3, "weight_gradients": [1], "ratio": 2.0, "control": "x"},
        {"layers": [3, {"layer": "a"}], "weight_gradients": {"a": [{"tokens": "x"}, 4]}},
        {"layers": {"layer": "a"}, "ratio": {"value": "1"}, "baseline_seconds": True},
        {},
    ],
)  # fmt: skip
def test_a_measurement_of_other_types_breaks_no_rule(asked, values, right_answer):
    answer = right_answer(asked)
    foreign = [{"kind": kind, "values": values} for kind in ("int8-layers", "int8-step")]
    verdict = judge(
        question(asked), parse(question(asked), answer), Evidence(measurements=foreign, here=False)
    )
    assert verdict.state in ("incomplete", "contradicts")


@pytest.mark.parametrize("asked", QUESTIONS)
def test_an_answer_may_be_that_of_an_earlier_measurement(asked, right_answer):
    answer = right_answer(asked)
    measurements.keep("int8-layers", {"layers": [{"layer": answer.get("layer"), "x_absmax": 1.0,
                      "y_row_db": 90.0, "dx_row_db": 90.0}]}, model="another")  # fmt: skip
    measurements.keep("int8-step", {"baseline_seconds": 77.0}, model="another")
    verdict = check(asked, **answer)
    assert verdict.state == "consistent", str(verdict)


def test_a_verdict_on_a_machine_whose_control_fails_is_refused(right_answer):
    answer = right_answer("04.5") | {"control_low": 1.02, "control_high": 1.15}
    step = measurements.read_all()[-1]["values"]
    control = {"value": 1.09, "low": 1.02, "high": 1.15}
    measurements.keep("int8-step", {**step, "control": control, "control_p_value": 0.01})
    assert check("04.5", **answer).contradicts == [
        "verdict trusts a machine whose control misses 1"
    ]
    measurements.keep("int8-step", {**step, "control": control, "control_p_value": 0.2})
    assert check("04.5", **answer).state == "consistent"


@pytest.mark.parametrize(("p_value", "state"), [(0.06, "consistent"), (0.04, "contradicts")])
def test_where_interval_and_test_disagree_the_test_decides_what_was_found(
    p_value, state, right_answer
):
    ratio = {"value": 1.05, "low": 1.004, "high": 1.1}
    answer = right_answer("04.5") | {"ratio": 1.05, "low": 1.004, "high": 1.1}
    step = measurements.read_all()[-1]["values"]
    measurements.keep("int8-step", {**step, "ratio": ratio, "p_value": p_value})
    assert check("04.5", **answer | {"verdict": "no difference found"}).state == state
    assert check("04.5", **answer | {"verdict": "faster"}).state == "consistent"


def test_the_counted_lanes_are_those_that_the_interpreter_catches():
    caught = in_interpreter("watch", "labkit.switchback.teaching.defective_kernel",
                            "defect_5_accesses")  # fmt: skip
    counted = defects.lanes_outside(5, 33)  # for each of its tiles of rows, of which there is one
    assert caught == [f"reads {counted} elements outside bias_ptr"]
    assert defects.lanes_outside(5, 64) == 0 == defects.lanes_outside(7, 32)


def test_labkits_two_passes_are_those_of_its_layer():
    import torch

    from labkit.switchback import SwitchBackLinear

    x, w, g = exercises_04_2._matrices()
    layer = SwitchBackLinear(83, 31, bias=False, backend="reference")
    layer.weight = torch.nn.Parameter(w)
    x.requires_grad_()
    y, by_hand = layer(x), exercises_04_2._layer().apply(x, layer.weight)
    assert torch.equal(y, by_hand)
    wanted, found = (torch.autograd.grad(t, [x, layer.weight], g) for t in (y, by_hand))
    assert all(torch.equal(one, other) for one, other in zip(wanted, found, strict=True))


def test_what_an_exercise_needs_is_imported_before_its_clock_starts(monkeypatch):
    seen = []
    exercise = exercises.Exercise(
        signature="f()",
        parameters=0,
        modules=("this_comes_first",),
        properties=(("it is there", lambda student: bool(seen)),),
    )
    monkeypatch.setattr(exercises, "collect", lambda kind: {"f": exercise})
    monkeypatch.setattr(exercises.importlib, "import_module", seen.append)
    assert exercises.run("f", print).state == "consistent" and seen == ["this_comes_first"]
