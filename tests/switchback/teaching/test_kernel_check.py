"""A student's kernel: the right one passes, and each mistake is named."""

import json
import os
import subprocess
import sys

import pytest

from labkit.errors import LabkitError
from labkit.switchback.teaching.kernel_check import PRELUDE, check_quantize_rowwise, in_interpreter

SOLUTION = """\
def quantize_rowwise_kernel(x_ptr, q_ptr, absmax_ptr, K, stride_x, BLOCK_K: tl.constexpr):
    row = tl.program_id(0)
    k = tl.arange(0, BLOCK_K)
    inside = k < K
    x = tl.load(x_ptr + row * stride_x + k, mask=inside, other=0.0).to(tl.float32)
    absmax = tl.maximum(tl.max(tl.abs(x), axis=0), TINY)
    q = round_to_int8(x * (127.0 / absmax))
    tl.store(q_ptr + row * K + k, q, mask=inside)
    tl.store(absmax_ptr + row, absmax)
"""

# What is changed, and the first check that has to notice.
MISTAKES = {
    "no rounding": ("round_to_int8(x * (127.0 / absmax))", "(x * (127.0 / absmax)).to(tl.int8)"),
    "rounding halves up": (
        "round_to_int8(x * (127.0 / absmax))",
        "tl.floor(x * (127.0 / absmax) + 0.5).to(tl.int8)",
    ),
    "no mask on the load": ("mask=inside, other=0.0", ""),
    "no mask on the store": ("q, mask=inside", "q"),
    "no care for zeros": (", TINY)", ", 0.0)"),
    "no stride": ("row * stride_x", "row * K"),
    "128": ("127.0", "128.0"),
}
NOTICED = {
    "no rounding": "3 × 8",
    "rounding halves up": "ties round to even",
    "no mask on the load": "stays inside its tensors",
    "no mask on the store": "stays inside its tensors",
    "no care for zeros": "a row of zeros",
    "no stride": "rows with a gap between",
    "128": "3 × 8",
}


def test_the_solution_passes_and_compiles(capsys):
    assert check_quantize_rowwise(SOLUTION)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9 and all(line.endswith(" ok") for line in lines)
    assert sum("compiles for sm_" in line for line in lines) == 2


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, dict[str, str]]:
    """What the interpreter says of each mistake: all of them in one process."""
    folder = tmp_path_factory.mktemp("mistakes")
    for number, (right, wrong) in enumerate(MISTAKES.values()):
        assert SOLUTION.count(right) == 1
        source = PRELUDE + SOLUTION.replace(right, wrong)
        (folder / f"{number}.py").write_text(source)
    code = (
        "import json, sys; from labkit.switchback.teaching.kernel_check import _exercise;"
        "print(json.dumps([_exercise(path) for path in sys.argv[1:]]))"
    )
    paths = [str(folder / f"{number}.py") for number in range(len(MISTAKES))]
    run = subprocess.run(
        [sys.executable, "-c", code, *paths],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"TRITON_INTERPRET": "1"},
    )
    return dict(zip(MISTAKES, json.loads(run.stdout), strict=True))


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_is_noticed_where_it_shows(name, results):
    assert results[name][NOTICED[name]]


def test_a_kernel_that_does_not_run_is_one_line(capsys):
    assert not check_quantize_rowwise(SOLUTION.replace("row = tl", "nonsense(x_ptr); row = tl"))
    said = capsys.readouterr().out
    assert "does not run" in said and "name 'nonsense' is not defined" in said
    assert len(said.splitlines()) == 1


def test_a_stub_is_still_to_be_written_and_an_empty_kernel_fails(capsys):
    signature = SOLUTION.splitlines()[0]
    assert not check_quantize_rowwise(f"{signature}\n    raise NotImplementedError()\n")
    assert capsys.readouterr().out == "the kernel is still to be written\n"
    assert not check_quantize_rowwise(f"{signature}\n    pass\n")
    assert "absmax is" in capsys.readouterr().out


def test_a_kernel_that_never_ends_is_stopped(monkeypatch):
    monkeypatch.setattr("labkit.switchback.teaching.kernel_check.SECONDS", 0.05)
    with pytest.raises(LabkitError, match="did not finish within 0.05 seconds"):
        in_interpreter("exercise", "any.py")


def test_what_the_kernel_prints_reaches_the_student(capsys):
    noisy = SOLUTION.replace("    row = tl", "    print('here')\n    row = tl")
    assert check_quantize_rowwise(noisy)
    assert "here" in capsys.readouterr().out


def test_the_same_source_is_run_and_compiled_once(monkeypatch, capsys):
    """A lesson asks twice: the student, and the cell of points."""
    jobs = []

    def answer(job: str, *_: str, interpret: bool = True) -> dict[str, str]:
        jobs.append((job, interpret))
        return {job: "a problem" if job == "exercise" else ""}

    monkeypatch.setattr(f"{in_interpreter.__module__}.in_interpreter", answer)
    for name in ("one", "one", "another"):
        assert not check_quantize_rowwise(f"def {name}(x_ptr):\n    pass\n")
        assert capsys.readouterr().out.split() == ["exercise", "a", "problem", "compile", "ok"]
    assert sorted(jobs) == 2 * [("compile", False)] + 2 * [("exercise", True)]
