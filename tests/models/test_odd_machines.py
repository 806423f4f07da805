"""Machines as they are: no lock service, name or home, another encoding, a driver that hides."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import filelock
import pytest
from damaged import fuzz
from hypothesis import given
from hypothesis import strategies as st

import labkit
from labkit import files
from labkit.checkpoints import answers
from labkit.errors import LabkitError
from labkit.machine import hardware
from labkit.runs import run_folder

SYSTEM = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")}


@pytest.mark.parametrize(
    ("value", "threads"),
    [("4,3,2", 4), ("1", 1), (" 3 ,2", 3), ("", None), ("0", None), ("many", None), (",2", None),
     ("-2", None), ("²", None)],
)  # fmt: skip
def test_threads_of_an_environment(
    value: str, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert hardware.thread_count() == (threads or hardware.cores())


@pytest.mark.parametrize(
    ("said", "used"),
    [
        ("GPU-1, 1, 300\nGPU-1, [Insufficient Permissions], [N/A]\n", [300 * 2**20]),
        ("GPU-1, 1, [N/A]\nGPU-1, [N/A], 20\n", [None]),
        ("No running processes found\n", []),
        ("[Not Supported]\n\n", []),
        ("GPU-1, 1, 300, extra\n", []),
        ("GPU-1, ２, 1\n", []),
        ("\ufffd, , \n", []),
        ("GPU-1, 99999999999999999999, 1\n", [2**20]),
    ],
)
def test_a_driver_that_does_not_say_who_uses_it(
    said: str, used: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware.subprocess, "run",
                        lambda *a, **k: subprocess.CompletedProcess(a, 0, stdout=said))  # fmt: skip
    found = hardware._gpu_users()
    assert [user["bytes"] for users in found.values() for user in users] == used


CELLS = st.sampled_from(["GPU-1", "1", "300", "[N/A]", "[Insufficient Permissions]", "", " ", "-1",
                         "²", "9" * 25, "\ufffd", "No running processes found"])  # fmt: skip


@fuzz
@given(
    rows=st.lists(
        st.lists(CELLS, min_size=3, max_size=3) | st.lists(CELLS | st.text(max_size=4), max_size=4),
        max_size=5,
    ),
    comma=st.sampled_from([", ", ", ", ",", ";"]),
)
def test_whatever_a_driver_says_is_understood_or_passed_over(
    rows: list[list[str]], comma: str
) -> None:
    said = "\n".join(comma.join(row) for row in rows)
    done = subprocess.CompletedProcess([], 0, stdout=said)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardware.subprocess, "run", lambda *a, **k: done)
        for users in hardware._gpu_users().values():
            for user in users:
                assert user["pid"] >= 0 and (user["bytes"] is None or user["bytes"] >= 0)
        left = hardware.quota_left_bytes(Path("/"))
        assert left is None or left >= 0


def without_locks(number: int) -> Any:
    def acquire(self: Any, *args: Any, **kwargs: Any) -> None:
        raise OSError(number, os.strerror(number))

    return acquire


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ESTALE, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_systems_without_locks_still_let_one_in_at_a_time(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filelock.FileLock, "acquire", without_locks(number))
    lock = files.take_lock(tmp_path / "x.lock", timeout=0)
    with pytest.raises(filelock.Timeout):
        files.take_lock(tmp_path / "x.lock", timeout=0)
    lock.release()
    files.take_lock(tmp_path / "x.lock", timeout=0).release()
    second = run_folder.locked(tmp_path / "run")
    with run_folder.locked(tmp_path / "run"), pytest.raises(LabkitError, match="another process"):
        second.__enter__()
    with files.locked(tmp_path / "locks" / "y.lock", "y"):
        pass


def test_a_lock_that_is_refused_for_another_reason_is_not_pretended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filelock.FileLock, "acquire", without_locks(errno.EACCES))
    with pytest.raises(PermissionError):
        files.take_lock(tmp_path / "x.lock", timeout=0)
    assert list(tmp_path.iterdir()) == []


def nameless(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code as a user number without a name and a home, as containers do."""
    start = ("import os, pwd\n"
             "def unknown(*a): raise KeyError('getpwuid(): uid not found')\n"
             "pwd.getpwuid = unknown\n")  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", start + code], env={**SYSTEM, **environment}, capture_output=True,
        encoding="utf-8", timeout=120, check=False,
    )  # fmt: skip


def test_without_a_home_the_cache_is_among_the_temporary_files(tmp_path: Path) -> None:
    done = nameless("from labkit.files import cache_dir; print(cache_dir())",
                    TMPDIR=str(tmp_path))  # fmt: skip
    assert done.stdout.strip() == str(tmp_path / f"labkit-cache-{os.getuid()}"), done.stderr


def test_a_user_without_a_name_can_compile(tmp_path: Path) -> None:
    done = nameless(
        "from labkit.files import name_user; name_user()\n"
        "import torch._dynamo.config, getpass; print(getpass.getuser())",
        TMPDIR=str(tmp_path),
    )
    assert done.stdout.strip() == f"uid_{os.getuid()}", done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "koi8-r"])
def test_a_terminal_of_another_encoding_gets_every_sentence(encoding: str, tmp_path: Path) -> None:
    file = tmp_path / "größe 🙂.yaml"
    file.write_text("nonsense", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", "from labkit.cli import main; main()", "train", "--config", file],
        env={**SYSTEM, "PYTHONIOENCODING": encoding}, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert b"must hold" in done.stderr and b"Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_json_in_every_encoding(encoding: str) -> None:
    value = {"name": "größe 🙂", "half": "\ud83d"}
    code = f"from labkit.cli.options import emit; emit({value!r}, True, '')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True,
                          env={**SYSTEM, "PYTHONIOENCODING": encoding})  # fmt: skip
    assert json.loads(done.stdout.decode(encoding)) == value


def test_an_answer_is_kept_where_there_are_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filelock.FileLock, "acquire", without_locks(errno.ENOLCK))
    assert answers.take_lock(tmp_path / ".answers.lock", timeout=1).is_locked


def test_every_text_file_is_opened_with_its_encoding() -> None:
    """A locale that is not UTF-8 would read and write our files as something else."""
    source = Path(labkit.__file__).parent
    code = "\n".join(file.read_text(encoding="utf-8") for file in source.rglob("*.py"))
    assert code.count(".read_text(") == code.count('.read_text(encoding="') > 20
