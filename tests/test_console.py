"""What is said once is said once by processes that train together as well."""

import pytest

from labkit import console


@pytest.fixture(autouse=True)
def unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing have been said, and let this be a process of nobody's."""
    console.say_once.cache_clear()
    for name in (console.SAID, "RANK", "MASTER_ADDR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_once_in_a_process(capsys):
    for _ in range(2):
        console.say_once("slow")
    console.say_once("other")
    assert capsys.readouterr().err == "slow\nother\n"


def test_processes_leave_out_what_was_said_before_they_were_started(capsys, monkeypatch):
    console.say_once("slow")
    console.say_once.cache_clear()  # as in a process that was started with this environment
    console.say_once("slow")
    assert capsys.readouterr().err == "slow\n" * 2, "a command of its own says it again"
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    console.say_once.cache_clear()
    console.say_once("slow")
    console.say_once("other")
    assert capsys.readouterr().err == "other\n"
