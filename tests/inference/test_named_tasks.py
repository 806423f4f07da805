"""The tasks that the seed project scored by, on local copies in their published formats.

A copy lies in a folder of the data set's own name below the current one, with the README that says
which file is which split, as on the Hub. Rows are written for this test.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from labkit.inference.lm_eval_tasks import run as harness

ENDINGS = ["sits on the mat.", "reads the paper [substeps] twice.", "flies.", "sings."]
HELLASWAG = {
    "ind": 4, "activity_label": "Feeding a cat", "ctx_a": "A man opens a tin.",
    "ctx_b": "the cat", "ctx": "A man opens a tin. the cat", "endings": ENDINGS,
    "source_id": "x~1", "split": "val", "split_type": "indomain", "label": "2",
}  # fmt: skip
BOOLQ = {"question": "is water wet", "passage": "Water -- Water is wet.", "idx": 0, "label": 1}
SWAG = {
    "video-id": "v1", "fold-ind": "1", "startphrase": "A boat leaves. It",
    "sent1": "A boat leaves.", "sent2": "It", "gold-source": "gold", "ending0": "sinks.",
    "ending1": "sails.", "ending2": "barks.", "ending3": "eats.", "label": 1,
}  # fmt: skip
WINOGRANDE = {
    "sentence": "The cup fell on the plate and the _ broke.", "option1": "cup",
    "option2": "plate", "answer": "2",
}  # fmt: skip
XWINOGRAD = {
    "sentence": "Ann thanked Eve because _ had helped.", "option1": "Ann", "option2": "Eve",
    "answer": "2",
}  # fmt: skip

# task: folder, configuration, split, row, what is asked (context, continuation), right choice
TASKS: dict[str, tuple[str, str, str, dict[str, Any], list[tuple[str, str]], int]] = {
    "hellaswag": (
        "Rowan/hellaswag", "default", "validation", HELLASWAG,
        [("Feeding a cat: A man opens a tin. The cat", f" {ending}")
         for ending in ("sits on the mat.", "reads the paper twice.", "flies.", "sings.")], 2,
    ),
    "boolq": (
        "aps/super_glue", "boolq", "validation", BOOLQ,
        [("Water -- Water is wet.\nQuestion: is water wet?\nAnswer:", f" {answer}")
         for answer in ("no", "yes")], 1,
    ),
    "swag": (
        "allenai/swag", "regular", "validation", SWAG,
        [("A boat leaves. It", f" {ending}") for ending in ("sinks.", "sails.", "barks.", "eats.")],
        1,
    ),
    "winogrande": (
        "allenai/winogrande", "winogrande_xl", "validation", WINOGRANDE,
        [(f"The cup fell on the plate and the {word}", " broke.") for word in ("cup", "plate")], 1,
    ),
    "xwinograd_en": (
        "Muennighoff/xwinograd", "en", "test", XWINOGRAD,
        [(f"Ann thanked Eve because {word}", " had helped.") for word in ("Ann", "Eve")], 1,
    ),
}  # fmt: skip


def copy(root: Path, name: str, config: str, split: str, rows: list[dict[str, Any]]) -> None:
    """Write a copy of a data set, with the front matter that names its files."""
    folder = root / name
    folder.mkdir(parents=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"{config}.jsonl").write_text(lines)
    splits = {"train", "validation", split}  # some tasks name a training split as well
    files = "".join(f"  - split: {each}\n    path: {config}.jsonl\n" for each in sorted(splits))
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{files}---\n"
    )


@pytest.fixture
def outcomes(tiny_llama, tmp_path, monkeypatch, runs) -> dict[str, harness.TaskScores]:
    """Return what the tasks give on copies of three rows each, without a network."""
    for name, config, split, row, _, _ in TASKS.values():
        copy(tmp_path, name, config, split, [row] * 3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    found = harness.evaluate_tasks(str(tiny_llama), list(TASKS), max_samples=2, dtype="float32",
                                   quiet=True)  # fmt: skip
    return {each.task: each for each in found}


def test_each_task_asks_what_its_authors_ask_and_knows_what_is_right(outcomes):
    for task, (*_, expected, right) in TASKS.items():
        outcome = outcomes[task]
        lines = Path(outcome.predictions).read_text().splitlines()
        assert len(lines) == 2 and outcome.metrics["acc"]["value"] in (0.0, 1.0)
        for line in map(json.loads, lines):
            assert list(map(tuple, line["arguments"])) == expected, task
            said = [float(score) for score, _ in line["filtered_resps"]]
            assert line["acc"] == (max(range(len(said)), key=said.__getitem__) == right), task
