"""answers.json: what the student said, when, and about which runs.

It lies beside the run folder, because the two belong together: handed in, the records are what
an answer can be checked against again. One entry per question, the latest answer; `attempts`
counts the earlier ones.

    {"schema": 1, "answers": {"02.2": {"question", "fields", "state", "contradicts", "runs",
     "context": {"model", "data", "versions", "hardware"}, "recorded_at", "attempts"}}}
"""

import json
from pathlib import Path
from typing import Any

from filelock import FileLock

from labkit import results
from labkit.checkpoints.card import Verdict
from labkit.checkpoints.questions import Question
from labkit.checkpoints.rules import Evidence
from labkit.errors import LabkitError

SCHEMA = 1


def answers_file() -> Path:
    """Return the path of answers.json, beside the run folder."""
    return results.runs_dir().parent / "answers.json"


def read() -> dict[str, dict[str, Any]]:
    """Return the recorded answers by question id. Raises LabkitError when the file is damaged."""
    file = answers_file()
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return dict(content["answers"])
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise LabkitError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError):
        raise LabkitError(
            f"{file} is damaged: move it away and run the checkpoint cells again"
        ) from None


def record(asked: Question, values: dict[str, Any], verdict: Verdict, evidence: Evidence) -> None:
    """Add an answer to answers.json, whole or not at all, whoever else is writing to it."""
    runs = [value for value in values.values() if isinstance(value, results.RunRecord)]
    rests_on = {run.id: run for run in [*runs, *evidence.used]}
    newest = max(rests_on.values(), key=lambda run: run.started_at, default=None)
    entry = {
        "question": asked.id,
        "fields": {
            name: value.id if isinstance(value, results.RunRecord) else value
            for name, value in values.items()
        },
        "state": verdict.state,
        "contradicts": verdict.contradicts,
        "runs": sorted(rests_on),
        "context": {
            "model": newest.model if newest else None,
            "data": newest.data if newest else None,
            "versions": newest.versions if newest else results.versions(),
            "hardware": newest.hardware if newest else None,
        },
        "recorded_at": results.now(),
    }
    file = answers_file()
    lock = file.with_name(f".{file.name}.lock")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=10):
            given = read()
            entry["attempts"] = given.get(asked.id, {}).get("attempts", 0) + 1
            results.write_json(file, {"schema": SCHEMA, "answers": {**given, asked.id: entry}})
    except (OSError, TimeoutError) as error:
        raise LabkitError(f"the answer cannot be recorded in {file}: {error}") from None
