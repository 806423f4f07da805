"""A class's zip becomes the folders that nbgrader and `labkit grade` read."""

import io
import json
import zipfile

import pytest

from labkit.checkpoints import grade
from labkit.course import hand_ins
from labkit.errors import LabkitError

NOTEBOOK = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def notebook(text: str) -> bytes:
    return json.dumps({**NOTEBOOK, "metadata": {"who": text}}).encode()


@pytest.fixture
def gradebook(tmp_path):
    for lesson in ("00_setup", "02_lora"):
        (tmp_path / "gradebook" / "source" / lesson).mkdir(parents=True)
    return tmp_path / "gradebook"


def files(gradebook) -> dict[str, str]:
    submitted = gradebook / "submitted"
    found = (path for path in submitted.rglob("*") if path.is_file())
    return {path.relative_to(submitted).as_posix(): path.read_text() for path in found}


def test_notebooks_go_to_their_lessons_and_the_rest_stays_beside_them(gradebook, tmp_path):
    me = zipped({"lessons/00_setup.ipynb": notebook("jane"), "lessons/answers.json": b"{}",
                 "lessons/runs/lora/record.json": b"{}", "lessons/cat.jpg": b"x"})  # fmt: skip
    (tmp_path / "class.zip").write_bytes(zipped({
        "doejane_LATE_1_9_me.zip": me,
        "Jim Roe_2_assignsubmission_file_/02_lora.ipynb": notebook("jim"),
        "Jim Roe_2_assignsubmission_file_/notes.ipynb": notebook("jim"),
        "poeeva_3_9_00_setup.ipynb": b"{",
        "readme.txt": b"",
    }))  # fmt: skip
    said = hand_ins.sort(tmp_path / "class.zip", gradebook)
    found = files(gradebook)
    assert found["doejane-canvas-1/00_setup/00_setup.ipynb"] == notebook("jane").decode()
    assert found["Jim-Roe-moodle-2/02_lora/02_lora.ipynb"] == notebook("jim").decode()
    assert found["doejane-canvas-1/lessons/me/lessons/runs/lora/record.json"] == "{}"
    assert not any("cat.jpg" in name or "poeeva-canvas-3/00_setup" in name for name in found)
    for line in ("readme.txt: not a name", "doejane-canvas-1: handed in late", "not valid JSON"):
        assert any(line in each for each in said), said
    graded, _ = grade.grade(gradebook / "submitted")
    remarks = {each.submission.student: each.submission.remarks for each in graded}
    assert "handed in late, as Canvas says" in remarks["doejane-canvas-1"]
    assert [each.submission.student for each in graded] == [
        "Jim-Roe-moodle-2", "doejane-canvas-1", "poeeva-canvas-3"
    ]  # fmt: skip


def test_a_second_zip_replaces_what_a_student_handed_in_and_leaves_others_alone(
    gradebook, tmp_path
):
    for members in (
        {"doejane_1_9_00_setup.ipynb": notebook("old"), "doejane_1_8_02_lora.ipynb": notebook("x"),
         "roejim_2_9_00_setup.ipynb": notebook("jim")},
        {"doejane_1_10_00_setup.ipynb": notebook("new")},
    ):  # fmt: skip
        (tmp_path / "class.zip").write_bytes(zipped(members))
        assert hand_ins.sort(tmp_path / "class.zip", gradebook) == []
    found = files(gradebook)
    assert found["doejane-canvas-1/00_setup/00_setup.ipynb"] == notebook("new").decode()
    assert not any(name.startswith("doejane-canvas-1/02_lora") for name in found)
    assert "roejim-canvas-2/00_setup/00_setup.ipynb" in found


def test_a_bad_zip_is_a_sentence_and_changes_nothing(gradebook, tmp_path):
    (tmp_path / "class.zip").write_bytes(zipped({"anna.zip": b""}))
    with pytest.raises(LabkitError, match="has no name that Canvas or Moodle gives"):
        hand_ins.sort(tmp_path / "class.zip", gradebook)
    assert files(gradebook) == {}
    assert sorted(path.name for path in gradebook.iterdir()) == ["source", "submitted"]
