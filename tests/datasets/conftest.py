"""What the data-set tests share: the real TAT-QA file where it is, and hand-made questions."""

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
