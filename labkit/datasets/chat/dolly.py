"""Dolly 15k: instructions and answers written by people, some about a passage of text.

{"instruction": …, "context": "", "response": …, "category": "closed_qa"}
"""

from typing import Any

from labkit.datasets.chat.source import data_set
from labkit.datasets.chat.turns import Draft, asked, entry


def form(row: Any) -> Draft:
    """Return the instruction, with its passage where there is one, and the response."""
    question = asked(entry(row, "instruction"), row.get("context"))
    turns = [("user", question), ("assistant", entry(row, "response"))]
    return Draft(turns=turns, kind=row.get("category"))


DOLLY = data_set(
    "dolly",
    source="Conover et al. 2023, Dolly 15k: huggingface.co/datasets/databricks/"
    "databricks-dolly-15k",
    licence="CC BY-SA 3.0",
    hub="databricks/databricks-dolly-15k",
    form=form,
)
