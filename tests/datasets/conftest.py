"""What the data-set tests share: the real TAT-QA file where it is, and hand-made reports."""

import json
from pathlib import Path
from typing import Any

import pytest

from labkit.datasets.tatqa import Question

TATQA_DEV = Path(__file__).parents[2].parent / "shared/data/tatqa/tatqa_dataset_dev.json"


@pytest.fixture(scope="session")
def tatqa_dev() -> Path:
    """The official development file; tests on real reports are skipped without it."""
    if not TATQA_DEV.is_file():
        pytest.skip(
            f"NOT TESTED ON REAL REPORTS: the TAT-QA development file is not at {TATQA_DEV}"
        )
    return TATQA_DEV


def raw_report(uid: str = "t1", **changes: Any) -> dict[str, Any]:
    """One report in the official JSON form."""
    report = {
        "table": {"uid": uid, "table": [["", "2019", "2018"], ["Sales", "1,496", "1,202"]]},
        "paragraphs": [
            {"uid": f"{uid}-p2", "order": 2, "text": "Second paragraph."},
            {"uid": f"{uid}-p1", "order": 1, "text": "First paragraph."},
        ],
        "questions": [
            {
                "uid": f"{uid}-q1",
                "order": 1,
                "question": "What is the percentage change in sales?",
                "answer": 24.46,
                "derivation": "(1,496-1,202)/1,202",
                "answer_type": "arithmetic",
                "answer_from": "table",
                "scale": "percent",
            },
            {
                "uid": f"{uid}-q2",
                "order": 2,
                "question": "What were sales in 2019?",
                "answer": ["1,496"],
                "derivation": "",
                "answer_type": "span",
                "answer_from": "table",
                "scale": "million",
            },
        ],
    }
    return {**report, **changes}


@pytest.fixture
def write_json(tmp_path: Path) -> Any:
    """A function that writes content as JSON below tmp_path and returns its path."""

    def write(content: Any, name: str = "data.json") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        return path

    return write


@pytest.fixture
def make_report() -> Any:
    return raw_report


@pytest.fixture
def make_question() -> Any:
    """A function that builds a question with the given answer."""

    def make(*answer: str, kind: str = "span", scale: str = "", derivation: str = "") -> Question:
        return Question(
            uid="q",
            text="?",
            answer=answer,
            answer_type=kind,
            answer_from="table",
            scale=scale,
            derivation=derivation,
            order=1,
        )

    return make
