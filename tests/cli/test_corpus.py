"""The commands build-dataset and data audit: results as one object, mistakes in a sentence."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from labkit.cli.program import main
from labkit.datasets.corpus.synthetic_faults import Writer


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0)


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    folder = tmp_path / "pages"
    folder.mkdir()
    for number in range(6):
        writer = Writer(2, number)
        (folder / f"{number}.txt").write_text(f"{writer.title('en')}\n\n{writer.text('en')}\n")
    return folder


def test_build_and_audit(pages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    command = (
        "build-dataset", str(pages), out, "--workers", "1", "--fractions", "0.5,0.25,0.25",
        "--rule", "gopher_min_words=20", "--rule", "c4_sentences=off", "--seed", "3",
    )  # fmt: skip
    assert run(*command, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert sum(report["records"].values()) == 6 and min(report["records"].values()) >= 1
    assert report["settings"]["limits"]["gopher_min_words"] == 20
    assert "Switched off: c4_sentences." in (tmp_path / "out/README.md").read_text()
    assert run(*command) == 0
    said = capsys.readouterr()
    assert "holds this data set already" in said.err and "6 texts read, 0 removed" in said.out
    assert run("data", "audit", out, "--json") == 0
    assert sum(json.loads(capsys.readouterr().out)["examples"].values()) == 6


def test_an_audit_counts_tokens_of_a_model(
    pages: Path, tmp_path: Path, tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps({"text": "word " * 100}) + "\n")
    words = ("data", "audit", str(tmp_path / "train.jsonl"), "--model", str(tiny_llama), "--json")
    assert run(*words, "--max-length", "20") == 0
    assert json.loads(capsys.readouterr().out)["findings"]["too_long"]["count"] == 1


@pytest.mark.parametrize(("words", "sentence"), [
    (["{pages}"], "needs at least one SOURCE and then OUT"),
    (["{pages}", "{out}", "--form", "poems"], "'poems', but it is one of instructions, text"),
    (["{pages}", "{out}", "--rule", "c4_sentences"], "write NAME=NUMBER or NAME=off"),
    (["{pages}", "{out}", "--rule", "c5=1"], "there is no rule 'c5'"),
    (["{pages}", "{out}", "--fractions", "1,1,1"], "the three are positive and make 1"),
    (["{pages}", "{out}", "--fractions", "most"], "write three numbers"),
    (["{pages}", "{out}", "--against", "nowhere"], "there is no test nowhere to keep out"),
    (["{pages}/none", "{out}"], "there is no source"),
])  # fmt: skip
def test_mistakes_are_a_sentence_and_leave_nothing(
    words: list[str], sentence: str, pages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = [word.replace("{pages}", str(pages)).replace("{out}", str(out)) for word in words]
    assert run("build-dataset", *given) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "TAT-QA is not" not in line]
    assert len(said) == 1 and sentence in said[0] and not out.exists()


def test_without_the_extra_it_is_named(
    pages: Path, tmp_path: Path, without: Callable[..., dict[str, str]]
) -> None:
    code = "from labkit.cli import main; main()"
    environment = without("trafilatura")
    environment["PYTHONPATH"] += os.pathsep + os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", code, "build-dataset", str(pages), str(tmp_path / "out")],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "needs trafilatura" in done.stderr
    assert "labkit[data]" in done.stderr and not (tmp_path / "out").exists()
