"""The script with the seed project's variables calls commands that exist, with settings that do."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from labkit.cli.options import key_values
from labkit.runs import config as runs_config

SCRIPT = Path(runs_config.__file__).with_name("configs") / "switchback.sh"


@pytest.fixture
def said(tmp_path):
    """Return a function that runs the script with a labkit that only writes down its words."""
    stub = tmp_path / "labkit"
    stub.write_text('#!/bin/sh\nfor word; do printf "%s\\n" "$word"; done >> "$SAID"\n'
                    'echo == >> "$SAID"\n')  # fmt: skip
    stub.chmod(0o755)

    def run(*words, **variables):
        log = tmp_path / "said"
        log.unlink(missing_ok=True)
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        subprocess.run(["sh", str(SCRIPT), *words], check=True,
                       env={**os.environ, **variables, "PATH": path, "SAID": str(log)})  # fmt: skip
        calls = log.read_text().split("==\n")
        return [shlex.split(shlex.join(call.splitlines())) for call in calls if call]

    return run


def settings_of(call):
    """Return the settings that `labkit train` would read of its words."""
    words = list(call)
    for option in ("--config", "--repeat"):
        place = words.index(option)
        del words[place : place + 2]
    assert words.pop(0) == "train"
    return runs_config.load_config("full", key_values(words))


def test_the_variables_reach_the_run(said):
    first, *scored = said(
        MODEL_NAME_OR_PATH="tinyllama-1.1b", FT_DATASET="oasst1:/data/x y", BS="64",
        USE_SWICHBACK="true", NUM_FTUNES="2", OUTPUT_MODEL_NAME="mine", EVAL_TASKS="boolq,swag",
    )  # fmt: skip
    run = settings_of(first)
    assert (run.model, run.data, run.name) == ("tinyllama-1.1b", "oasst1:/data/x y", "mine")
    assert run.use_switchback and run.per_device_train_batch_size == 64
    assert first[first.index("--repeat") + 1] == "2" and run.max_steps == -1
    assert scored == [["eval", name, "--task", "boolq,swag"]
                      for name in ("tinyllama-1.1b", "mine-seed42", "mine-seed43")]  # fmt: skip


def test_further_words_go_to_train_and_scores_can_be_left_out(said):
    (only,) = said("--weight-decay", "0.1", USE_SWICHBACK="false", NUM_FTUNES="1",
                   MAX_STEPS="5", EVAL_TASKS="none")  # fmt: skip
    run = settings_of(only)
    assert (run.max_steps, run.weight_decay) == (5, 0.1) and not run.use_switchback


def test_one_run_is_scored_by_its_name(said):
    *_, last = said(NUM_FTUNES="1", OUTPUT_MODEL_NAME="one", EVAL_TASKS="boolq")
    assert last == ["eval", "one", "--task", "boolq"]
