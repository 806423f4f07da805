"""Firefly's JSON lines: conversations as pairs of what the human and the assistant said.

{"conversation_id": 1, "category": …, "conversation": [{"human": …, "assistant": …}, …]}
{"kind": …, "input": …, "target": …}                                            firefly-train-1.1M
"""

from typing import Any

from labkit.datasets.chat.source import data_set
from labkit.datasets.chat.turns import Draft, entry
from labkit.errors import LabkitError, brief


def form(row: Any) -> Draft:
    """Return the turns of a conversation."""
    if isinstance(row, dict) and "conversation" not in row and "target" in row:
        exchange = [("user", entry(row, "input")), ("assistant", row["target"])]
        return Draft(turns=exchange, kind=row.get("kind"))
    pairs = entry(row, "conversation", list)
    turns: list[tuple[Any, Any]] = []
    for number, pair in enumerate(pairs, start=1):
        if not isinstance(pair, dict) or not {"human", "assistant"} <= set(pair):
            raise LabkitError(f"exchange {number} has not both human and assistant: {brief(pair)}")
        turns += [("user", pair["human"]), ("assistant", pair["assistant"])]
    return Draft(turns=turns, kind=row.get("category"))


FIREFLY = data_set(
    "firefly",
    source="YeungNLP, Firefly: github.com/yangjianxin1/Firefly",
    licence="see the page of the set; moss and others that it holds have their own",
    hub="YeungNLP/firefly-train-1.1M",
    form=form,
)
