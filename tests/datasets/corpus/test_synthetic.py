"""The synthetic corpus: the same bytes everywhere, and what its truth says is so."""

import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from labkit.datasets.corpus import synthetic
from labkit.datasets.corpus.synthetic_faults import KINDS, Writer, likeness, near_copy
from labkit.errors import LabkitError


def digest(folder: Path) -> str:
    """Return one checksum of names and bytes."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix in (".gz", ".bz2"):  # their libraries may pack otherwise
            content = b""
        whole.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode() + content)
    return whole.hexdigest()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "made"
    synthetic.generate(folder, 0.2)
    return folder


def test_the_bytes_are_the_same_in_another_process(made: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "labkit.datasets.corpus.synthetic", str(tmp_path / "again"),
               "--megabytes", "0.2"]  # fmt: skip
    paths = {"PYTHONPATH": ":".join(filter(None, sys.path)), "PYTHONHASHSEED": "7"}
    subprocess.run(command, check=True, env=paths)
    assert digest(tmp_path / "again") == digest(made)
    synthetic.generate(tmp_path / "other", 0.2, seed=1)
    assert digest(tmp_path / "other") != digest(made)
    with pytest.raises(LabkitError, match="exists: name a new folder"):
        synthetic.generate(made, 0.2)


def test_every_fault_is_planted(made: Path) -> None:
    truth = [json.loads(line) for line in (made / "truth.jsonl").read_text().splitlines()]
    counts = Counter(each["kind"] for each in truth)
    names = {kind.__name__.strip("_") for kind in KINDS.values()}
    assert set(counts) == names | {"clean", "bad"} and counts["bad"] >= 10
    assert len({each["source"] for each in truth}) == len(truth)


@pytest.mark.parametrize("target", [0.5, 0.7, 0.82, 0.95])
def test_copies_are_as_alike_as_asked(target: float) -> None:
    writer = Writer(4, 0)
    text = writer.paragraphs("en", 400)
    copy = near_copy(text, target, writer, "en")
    assert target - 0.05 < likeness(text, copy) < target + 0.05


def test_likeness_by_hand() -> None:
    # Ten words have six 5-grams; the last word changed takes one of them away and adds one.
    words = [f"w{n}" for n in range(10)]
    assert likeness(" ".join(words), " ".join([*words[:-1], "x"])) == 5 / 7
