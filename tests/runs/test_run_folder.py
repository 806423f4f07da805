"""Folders of runs that processes began and could not clear away themselves."""

from pathlib import Path

import pytest

from labkit.files import lock_folder
from labkit.runs import run_folder


class Ended(Exception):
    """What ends a launch."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "mine"


def ended_in(folder: Path, *names: str) -> None:
    """Begin a run's folder with files in it, and end."""
    with pytest.raises(Ended), run_folder.given_out(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).write_text("{}")
        raise Ended


def test_what_holds_no_record_is_cleared_away(folder: Path) -> None:
    ended_in(folder, "begun")
    assert not folder.parent.exists()


def test_a_record_and_what_was_there_before_stay(folder: Path) -> None:
    ended_in(folder, "record.json")
    (folder / "record.json").unlink()
    ended_in(folder)
    assert folder.exists()


def test_what_another_run_has_taken_meanwhile_stays(folder: Path) -> None:
    with pytest.raises(Ended), run_folder.given_out(folder):
        taken = lock_folder(folder, timeout=0)
        raise Ended
    assert folder.exists()
    taken.release()
