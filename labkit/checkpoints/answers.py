"""Read and write answers.json: what the student said, when, and about which runs.

It lies beside the run folder, because the two belong together: handed in, the records are what
an answer can be checked against again. One entry per question, the latest answer; `attempts`
counts the earlier ones.

    {"schema": 1, "answers": {"02.2": {"question", "fields", "state", "contradicts", "runs",
     "context": {"model", "data", "versions", "hardware"}, "recorded_at", "attempts"}}}
"""

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

from labkit.checkpoints.card import Verdict
from labkit.checkpoints.questions import Question
from labkit.checkpoints.rules import Evidence
from labkit.errors import LabkitError
from labkit.files import take_lock, write_json
from labkit.runs import measurements, records

SCHEMA = 1


def answers_file() -> Path:
    """Return the path of answers.json, beside the run folder."""
    return records.runs_dir().parent / "answers.json"


def read() -> dict[str, dict[str, Any]]:
    """Return the recorded answers by question id. Raises LabkitError when the file is damaged."""
    file = answers_file()
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {question: dict(entry) for question, entry in content["answers"].items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise LabkitError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise LabkitError(
            f"{file} is damaged: move it away and run the checkpoint cells again"
        ) from None


def hand_in(file: Path) -> dict[str, Any]:
    """Write answers.json, records, sweep points and measurements into a zip, whole or not at all.

    Weights and checkpoints stay where they are. Raises LabkitError when nothing is answered, the
    name does not end in .zip, or the file cannot be written.
    """
    if file.suffix.lower() != ".zip":
        raise LabkitError(f"--hand-in {file}: give a file name that ends in .zip")
    given, runs = read(), records.runs_dir()
    if not given:
        raise LabkitError(f"there is nothing to hand in: no answer is recorded in {answers_file()}")
    recorded = sorted(runs.glob("*/record.json"))
    points = sorted(runs.glob("*/point-*.json"))
    measured = sorted(measurements.folder().glob(f"{measurements.PREFIX}*.json"))
    temporary = file.with_name(f".{file.name}.{records.new_id()}")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(answers_file(), "answers.json")
            for path in [*recorded, *points, *measured]:
                archive.write(path, Path("runs") / path.relative_to(runs))
        temporary.replace(file)
    except (OSError, ValueError) as error:
        raise LabkitError(f"{file} cannot be written: {error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return {"file": str(file), "answers": len(given), "runs": len(recorded)}


def record(
    asked: Question, values: dict[str, Any], verdict: Verdict, evidence: Evidence
) -> dict[str, Any]:
    """Add an answer to answers.json, whole or not at all, whoever else is writing to it.

    Returns what a notebook that is handed in alone carries with the card: the answer, and the
    records, points of a sweep and measurements that it rests on.
    """
    runs = [value for value in values.values() if isinstance(value, records.RunRecord)]
    rests_on = {run.id: run for run in [*runs, *evidence.used]}
    newest = max(rests_on.values(), key=lambda run: run.started_at, default=None)
    entry = {
        "question": asked.id,
        "fields": {
            name: value.id if isinstance(value, records.RunRecord) else value
            for name, value in values.items()
        },
        "state": verdict.state,
        "contradicts": verdict.contradicts,
        "runs": sorted(rests_on),
        "context": {
            "model": newest.model if newest else None,
            "data": newest.data if newest else None,
            "versions": newest.versions if newest else records.versions(),
            "hardware": newest.hardware if newest else None,
        },
        "recorded_at": records.now(),
    }
    file = answers_file()
    lock = file.with_name(f".{file.name}.lock")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with take_lock(lock, timeout=10):
            given = read()
            entry["attempts"] = given.get(asked.id, {}).get("attempts", 0) + 1
            write_json(file, {"schema": SCHEMA, "answers": {**given, asked.id: entry}})
    except (OSError, TimeoutError) as error:
        raise LabkitError(f"the answer cannot be recorded in {file}: {error}") from None
    return {
        "schema": SCHEMA,
        "answers": {asked.id: entry},
        "records": [dataclasses.asdict(run) for run in rests_on.values()],
        "points": evidence.points if evidence.used_points else [],
        "measurements": evidence.used_measurements,
    }
