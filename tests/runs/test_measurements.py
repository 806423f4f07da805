"""Measurements outside runs: kept whole, the latest of its settings, handed in with the answers."""

import json
import zipfile

import pytest

from labkit.checkpoints import check, hand_in
from labkit.checkpoints.rules import Evidence
from labkit.checkpoints.submissions import read
from labkit.errors import LabkitError
from labkit.machine import hardware
from labkit.runs import measurements


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    """Give each test a run folder of its own."""
    monkeypatch.setenv("LABKIT_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def test_a_second_measurement_of_the_same_settings_replaces_the_first():
    measurements.keep("answers", {"seconds": 1.5}, model="a")
    measurements.keep("answers", {"seconds": 2.5}, model="a")
    measurements.keep("answers", {"seconds": 9.0}, model="b")
    measurements.keep("layers", {"seconds": 3.0}, model="a")
    found = {each["settings"]["model"]: each["values"]["seconds"]
             for each in Evidence().measured("answers")}  # fmt: skip
    assert found == {"a": 2.5, "b": 9.0}


def test_another_machine_s_measurement_stays(monkeypatch):
    here = hardware.describe()
    for seconds, changes in ((1.5, {"cpu": "one"}), (2.5, {"cpu": "two"}),
                             (3.5, {"cpu": "two", "gpus": [{"name": "A100"}]}),
                             (4.5, {"cpu": "one"})):  # fmt: skip
        monkeypatch.setattr(hardware, "describe", lambda changes=changes: {**here, **changes})
        measurements.keep("answers", {"seconds": seconds}, model="a")
    found = sorted(each["values"]["seconds"] for each in measurements.read_all())
    assert found == [2.5, 3.5, 4.5]


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"values": 3}', "[" * 100_000])
def test_a_damaged_file_is_passed_over(damage):
    file = measurements.keep("answers", {"seconds": 1.5})
    file.write_text(damage)
    measurements.keep("answers", {"seconds": 2.0}, model="b")
    assert [each["values"] for each in measurements.read_all()] == [{"seconds": 2.0}]


@pytest.mark.parametrize(
    ("kind", "values", "says"),
    [
        ("../x", {}, "names no measurement"),
        ("", {}, "names no measurement"),
        ("answers", {"seconds": float("nan")}, "not plain JSON"),
        ("answers", {"seconds": object()}, "not plain JSON"),
    ],
)
def test_what_no_file_can_hold_is_a_sentence_and_leaves_nothing(kind, values, says, runs):
    with pytest.raises(LabkitError, match=says):
        measurements.keep(kind, values)
    assert not runs.exists()


def test_a_folder_that_cannot_be_written_is_a_sentence(runs):
    runs.write_text("a file")
    with pytest.raises(LabkitError, match="cannot be written"):
        measurements.keep("answers", {"seconds": 1.0})


def test_measurements_travel_with_the_answers(tmp_path):
    measurements.keep("answers", {"seconds": 1.5}, model="a")
    check("04.4", rate=4, full_ceiling=2, frozen_ceiling=4, explanation="a " * 12)
    hand_in(tmp_path / "me.zip")
    assert any("measurement-answers" in n for n in zipfile.ZipFile(tmp_path / "me.zip").namelist())
    (kept,) = read(tmp_path / "me.zip").measurements
    assert (kept["kind"], kept["values"]) == ("answers", {"seconds": 1.5})


def test_what_a_rule_looked_at_is_carried_by_the_card():
    file = measurements.keep("answers", {"seconds": 1.5})
    evidence = Evidence()
    assert evidence.used_measurements == []
    evidence.measured("answers"), evidence.measured("answers")
    assert evidence.used_measurements == [json.loads(file.read_text())]
