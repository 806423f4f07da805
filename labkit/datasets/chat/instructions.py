"""The embedded instructions: a few hundred small tasks, each with a right answer and a flawed one.

Written by `labkit.datasets.instructions`, so that chat fine-tuning and preference tuning run
without a network. Small as it is, it teaches forms (a bare number, JSON, a list), not knowledge.
"""

from dataclasses import replace
from typing import Any

from labkit.datasets import tatqa
from labkit.datasets.chat import jsonl
from labkit.datasets.chat.source import data_set
from labkit.datasets.chat.turns import Draft


def form(row: Any) -> Draft:
    """Return the pair with its kind."""
    return replace(jsonl.form(row), kind=row["kind"])


INSTRUCTIONS = data_set(
    "instructions",
    source="written by labkit.datasets.instructions.generate; all people and orders are invented",
    licence="Apache-2.0",
    home=lambda: tatqa.data_dir() / "instructions",
    form=form,
    also=("dpo",),
)
