"""Which level of int8 runs: made-up processors, orders, and what is said to bad ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from labkit import console
from labkit.cli import program
from labkit.errors import LabkitError
from labkit.switchback import backends, cpu, levels

AVX2 = frozenset(levels.LEVELS["avx2"].needed)
PROCESSORS = {
    "AMX": (AVX2 | frozenset(levels.LEVELS["amx"].needed), "amx"),
    "Zen 4": (AVX2 | frozenset(levels.LEVELS["avx512_vnni"].needed), "avx512_vnni"),
    "Alder Lake": (AVX2 | {"avx_vnni"}, "avx_vnni"),
    "Zen 3": (AVX2, "avx2"),
    "AVX-512 without VNNI": (AVX2 | {"avx512f", "avx512bw", "avx512vl"}, "avx2"),
    "ARM": (frozenset(), "none"),
}


@pytest.fixture
def processor(monkeypatch):
    def play(flags: frozenset[str], told: str | None = None) -> None:
        monkeypatch.setattr(levels, "processor_flags", lambda: flags)
        monkeypatch.delenv(levels.VARIABLE, raising=False)
        if told is not None:
            monkeypatch.setenv(levels.VARIABLE, told)

    return play


@pytest.mark.parametrize(("flags", "best"), PROCESSORS.values(), ids=PROCESSORS.keys())
def test_the_best_level_runs_and_lesser_ones_can_be_asked_for(flags, best, processor):
    processor(flags)
    assert levels.chosen() == best
    below = levels.playable()
    assert below[:1] == (() if best == "none" else (best,))
    for name in (*below, "none"):
        processor(flags, name)
        assert levels.chosen() == name
        assert levels.playable() == ((*below, "none")[(*below, "none").index(name) : -1])
    processor(flags, "none")
    assert cpu.why_not() == "LABKIT_INT8=none" and not levels.has_vnni()


def test_vnni_is_used_where_it_is_and_was_not_taken_away(processor):
    zen4 = PROCESSORS["Zen 4"][0]
    for told, has in ((None, True), ("avx512_vnni", True), ("avx2", False), ("none", False)):
        processor(zen4, told)
        assert levels.has_vnni() is has
    processor(AVX2)
    assert not levels.has_vnni()


def test_a_level_that_is_not_there_is_one_sentence(processor):
    processor(AVX2, "amx")
    with pytest.raises(LabkitError, match="LABKIT_INT8=amx is not possible here: .* no avx512f"):
        levels.chosen()
    with pytest.raises(LabkitError, match="use 'avx2' or leave it out"):
        cpu.why_not()
    processor(AVX2, "avx22")
    with pytest.raises(LabkitError, match="'avx22' is not a level of int8: did you mean 'avx2'"):
        levels.chosen()


@pytest.mark.parametrize("told", ["avx22", "amx"])
def test_the_command_line_says_so_and_leaves_nothing(told, processor, tmp_path, capsys):
    processor(AVX2, told)
    cpu.load.cache_clear()
    out = tmp_path / "out"
    try:
        with pytest.raises(SystemExit) as exit_:
            program.main(["bench", "switchback", "--quick", "--output-dir", str(out)])
    finally:
        cpu.load.cache_clear()
    assert exit_.value.code == 2 and not out.exists()
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_what_is_said_without_instructions_is_one_line(processor, monkeypatch, capsys):
    processor(frozenset())
    monkeypatch.setattr(cpu, "load", cpu.why_not)
    console.say_once.cache_clear()
    backends.prepare("auto")
    backends.prepare("auto")
    (line,) = capsys.readouterr().err.splitlines()
    assert "without its fast int8 kernels" in line and "has no avx2" in line


ORDERS = [{"LABKIT_INT8": "avx2"}, {"LABKIT_INT8": "none"}, {"ONEDNN_MAX_CPU_ISA": "AVX2"}]


@pytest.mark.parametrize("told", ORDERS, ids=str)
def test_onednn_is_not_trusted_without_vnni(told):
    """In a process, because it is asked at import and oneDNN reads its variable once."""
    code = "from labkit.switchback import onednn; raise SystemExit(onednn._exact)"
    if told == {"LABKIT_INT8": "avx2"} and "avx2" not in levels.playable():
        pytest.skip("this processor has no AVX2")
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, **told}).returncode == 0


def test_the_compiler_is_the_one_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert levels.compiler() is None
    program = tmp_path / "clang++"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert levels.compiler() == str(program)
    # Whoever names one means that one, as PyTorch and inductor take it.
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert levels.compiler() is None
    monkeypatch.setenv("CXX", str(program))
    assert levels.compiler() == str(program)
