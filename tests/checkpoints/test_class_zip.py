"""A class's zip from Canvas or Moodle: everybody's folder, and nothing else on the disk."""

import io
import json
import re
import stat
import zipfile

import pytest

from labkit.checkpoints import class_zip, grade
from labkit.errors import LabkitError

FIELDS = {"card": "my laptop", "rate": 4, "full_ceiling": 2, "frozen_ceiling": 4}


def answers(student: str) -> bytes:
    why = f"{student} says that of three products two are in int8 when weights are trained"
    given = {"04.4": {"fields": {**FIELDS, "explanation": why}}}
    return json.dumps({"schema": 1, "answers": given}).encode()


def zipped(members: dict[str, bytes], **options) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def hand_in(student: str, **more: bytes) -> bytes:
    return zipped({"answers.json": answers(student), **more})


@pytest.fixture
def class_(tmp_path):
    """Return a function that writes a class's zip."""

    def write(members: dict[str, bytes]):
        (tmp_path / "class.zip").write_bytes(zipped(members))
        return tmp_path / "class.zip"

    return write


NAMES = {
    "doejane_12345_67890_me.zip": ("doejane-canvas-12345", "me.zip"),
    "doejane_LATE_12345_67890_me-2.zip": ("doejane-canvas-12345", "me-2.zip"),
    "o_neil_x_7_8_a_b_1.ipynb": ("o_neil_x-canvas-7", "a_b_1.ipynb"),
    "müllerjörg_5_6_x.zip": ("müllerjörg-canvas-5", "x.zip"),
    "anon_Ab3dE_67890_me.zip": ("anonymous-canvas-Ab3dE", "me.zip"),
    "doejane_12345_text.html": ("doejane-canvas-12345", ""),
    "Jane Doe_77_assignsubmission_file_/me.zip": ("Jane-Doe-moodle-77", "me.zip"),
    "Jane Doe_77_assignsubmission_file/me.zip": ("Jane-Doe-moodle-77", "me.zip"),
    "Jane Doe_77_assignsubmission_file_me.zip": ("Jane-Doe-moodle-77", "me.zip"),
    "José O'Neil_8_assignsubmission_file_/a/b.ipynb": ("José-O-Neil-moodle-8", "a/b.ipynb"),
    "Jane Doe_77_assignsubmission_onlinetext_/onlinetext.html": ("Jane-Doe-moodle-77", ""),
}


@pytest.mark.parametrize(("name", "expected"), NAMES.items())
def test_a_platform_s_name_says_whose_a_file_is(name, expected):
    owner = class_zip.whose(name)
    assert owner is not None and (owner.student, owner.file) == expected
    assert owner.late == ("_LATE_" in name)


@pytest.mark.parametrize(
    "name",
    ["answers.json", "runs/lora/record.json", "anna.zip", "02_lora_vs_full.ipynb", "a_1_b.zip",
     "notes.txt", "../doejane_12345_67890_me.zip"],
)  # fmt: skip
def test_other_names_are_nobody_s(name):
    assert class_zip.whose(name) is None


def test_the_id_comes_back_out_of_the_folder_s_name():
    for name in ("doejane_12345_67890_me.zip", "Jane Doe_77_assignsubmission_file_/me.zip"):
        owner = class_zip.whose(name)
        platform, number, _ = class_zip.identity(owner.student)
        assert number == ("12345" if platform == "canvas" else "77")
    assert class_zip.identity("student-12345") is None


def test_a_class_is_graded_from_its_zip_and_from_nothing_else(class_, tmp_path):
    place = class_({
        "doejane_LATE_1_9_me.zip": hand_in("jane"),
        "roejim_2_9_answers.json": answers("jim"),
        "Max Mustermann_3_assignsubmission_file_/me.zip": hand_in("max"),
        "poeeva_4_9_me.pdf": b"%PDF",
        "readme.txt": b"who",
    })  # fmt: skip
    graded, ignored = grade.grade(place)
    each = {one.submission.student: one for one in graded}
    assert {name: one.points for name, one in each.items()} == {
        "Max-Mustermann-moodle-3": 2, "doejane-canvas-1": 2, "poeeva-canvas-4": 0,
        "roejim-canvas-2": 2,
    }  # fmt: skip
    assert each["doejane-canvas-1"].submission.remarks == ["handed in late, as Canvas says"]
    said = each["poeeva-canvas-4"].submission.remarks
    assert "me.pdf: neither notebook, JSON nor zip, not read" in said
    assert ignored == ["readme.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["class.zip"]


def test_a_student_s_own_zip_is_still_one_submission(tmp_path):
    (tmp_path / "anna.zip").write_bytes(hand_in("anna"))
    assert not class_zip.is_class(tmp_path / "anna.zip")
    (one,), _ = grade.grade(tmp_path / "anna.zip")
    assert one.submission.student == "anna" and one.points == 2


def link() -> bytes:
    out = io.BytesIO()
    info = zipfile.ZipInfo("answers.json")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    return out.getvalue()


def lying_bomb() -> bytes:
    content = zipped({"answers.json": b" " * 50 * 2**20})
    size = (50 * 2**20).to_bytes(4, "little")
    assert content.count(size) == 2
    return content.replace(size, (10).to_bytes(4, "little"))


HOSTILE = {
    "bomb": (zipped({"answers.json": b" " * 60 * 2**20}), "larger than 16 MiB unpacked"),
    "many bombs": (zipped({f"{n}.json": b" " * 15 * 2**20 for n in range(6)}), "larger than 4 MiB"),
    "lying bomb": (lying_bomb(), "damaged"),
    "out of it": (zipped({"../../../answers.json": b"{}"}), "leads out of the zip"),
    "absolute": (zipped({"/etc/answers.json": b"{}"}), "leads out of the zip"),
    "windows": (zipped({"..\\..\\answers.json": b"{}"}), "leads out of the zip"),
    "link": (link(), "symbolic link"),
    "no zip": (b"PK nonsense", "not a readable zip"),
    "cut off": (hand_in("x")[:-30], "not a readable zip"),
    "a file that is a folder": (
        zipped({"x.json": b"1", "x.json/y.json": b"2"}),
        "no file can have this name beside the others",
    ),
    "many files": (zipped({f"{n}.json": b"" for n in range(5001)}), "more than 5,000 files"),
}


@pytest.mark.parametrize(("content", "says"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_upload_is_a_remark_on_its_student_alone(class_, tmp_path, content, says):
    place = class_({"evil_1_9_me.zip": content, "doejane_2_9_me.zip": hand_in("jane")})
    folder = tmp_path / "out"
    unpacked = class_zip.unpack(place, folder)
    assert any(says in line for line in unpacked.remarks["evil-canvas-1"]), unpacked.remarks
    assert unpacked.remarks["doejane-canvas-2"] == []
    assert (folder / "doejane-canvas-2" / "me" / "answers.json").read_bytes() == answers("jane")
    outside = [p for p in tmp_path.rglob("*") if not p.is_relative_to(folder) and p != folder]
    assert outside == [place]
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    graded, _ = grade.grade(place)
    assert {one.submission.student: one.points for one in graded}["doejane-canvas-2"] == 2


def test_a_platform_s_own_zip_that_leads_out_writes_nothing_outside(class_, tmp_path):
    place = class_({"../doejane_1_2_answers.json": b"{}", "doejane_1_2_answers.json": answers("j"),
                    "Jane_3_assignsubmission_file_/../../../evil.json": b"{}"})  # fmt: skip
    unpacked = class_zip.unpack(place, tmp_path / "deep" / "out")
    assert list(unpacked.remarks) == ["doejane-canvas-1"]
    assert len(unpacked.skipped) == 2 and all("leads out" in line for line in unpacked.skipped)
    files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert files == ["class.zip", "deep/out/doejane-canvas-1/answers.json"]


def test_files_of_one_name_are_all_kept(class_, tmp_path):
    odd = zipped({"a?/x.json": b"3", "a*/x.json": b"4"})
    place = class_({"doejane_1_2_answers.json": b"1", "doejane_1_3_answers.json": b"2",
                    "doejane_1_4_me.zip": odd})  # fmt: skip
    class_zip.unpack(place, tmp_path / "out")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert sorted(path.read_bytes() for path in files) == [b"1", b"2", b"3", b"4"]
    # And no name means anything to a shell or to another file system.
    parts = {part for path in files for part in path.relative_to(tmp_path).parts}
    assert all(re.fullmatch(r"[\w.-]+", part) for part in parts), parts


@pytest.mark.timeout(20)
def test_a_long_name_that_is_no_platform_s_is_told_at_once():
    for name in ("я" * 200 + ".ipynb", "शर्मा" * 40 + "_1_x.zip", "_я" * 200 + ".json"):
        assert class_zip.whose(name) is None


@pytest.mark.parametrize("name", ["शर्माप्रिया", "นภัสสร", "zoe\u0308mueller", "𝒜" * 90, "я" * 150])
def test_a_name_in_any_script_is_a_student_s(class_, tmp_path, name):
    place = class_({f"{name}_22345_67891_me.zip": zipped({f"{name}.json": b"1"}),
                    "doejane_2_9_me.zip": hand_in("jane")})  # fmt: skip
    unpacked = class_zip.unpack(place, tmp_path / "out")
    assert not unpacked.skipped and len(unpacked.remarks) == 2
    assert not any(unpacked.remarks.values())
    assert sum(path.is_file() for path in (tmp_path / "out").rglob("*.json")) == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (zipped({"notes.txt": b""}), "has no name that Canvas or Moodle gives a submission"),
        (b"PK", "not a readable zip"),
        (b"", "not a readable zip"),
    ],
)
def test_a_zip_of_no_class_is_a_sentence(tmp_path, content, says):
    (tmp_path / "class.zip").write_bytes(content)
    with pytest.raises(LabkitError, match=says):
        class_zip.unpack(tmp_path / "class.zip", tmp_path / "out")
