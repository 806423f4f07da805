"""LIMA: a thousand chosen questions with careful answers, most of one exchange.

    {"conversations": ["question", "answer", …], "source": "stackexchange"}

The published test split has questions alone, so it is not read: splits are cut from train.
"""

from typing import Any

from labkit.datasets.chat.source import data_set
from labkit.datasets.chat.turns import Draft, entry

SPEAKERS = ("user", "assistant")


def form(row: Any) -> Draft:
    """Return the texts of a conversation, the asker's first, in turn."""
    said = entry(row, "conversations", list)
    return Draft(turns=[(SPEAKERS[i % 2], text) for i, text in enumerate(said)],
                 kind=row.get("source"))  # fmt: skip


LIMA = data_set(
    "lima",
    source="Zhou et al. 2023, LIMA: huggingface.co/datasets/GAIR/lima",
    licence="CC BY-NC-SA 4.0, or that of a source where it is stricter",
    hub="GAIR/lima",
    patterns=("train*", "*"),
    form=form,
)
