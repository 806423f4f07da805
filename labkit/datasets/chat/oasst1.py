"""OASST1: conversations as trees, of which the thread is read that people ranked best.

    prompt ─┬─ answer, rank 0 ─┬─ next question ── answer        this thread
            └─ answer, rank 1  └─ …

A node with several replies ranks them, 0 being the best; from each, the best-ranked reply that was
neither deleted nor turned down by reviewers is followed, down to the last answer. Files of trees
(`*.trees.jsonl.gz`) and flat lists of messages (`*.messages.jsonl.gz`, Parquet) are both read.

Source: Köpf et al. 2023, "OpenAssistant Conversations"; format: its data set card.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from labkit.datasets.chat.files import Row
from labkit.datasets.chat.source import data_set
from labkit.datasets.chat.turns import Draft, entry


def form(tree: Any) -> Draft:
    """Return the best-ranked thread of a tree, which ends with an answer."""
    node: Any = entry(tree, "prompt", dict)
    kind, turns = node.get("lang"), []
    while node is not None:
        turns.append((node.get("role"), node.get("text")))
        replies = node.get("replies")
        kept = [
            reply for reply in (replies if isinstance(replies, list) else [])
            if isinstance(reply, dict) and not reply.get("deleted")
            and reply.get("review_result") is not False
        ]  # fmt: skip
        node = min(kept, key=_rank, default=None)
    if turns[-1][0] == "prompter":  # nobody answered any more
        turns.pop()
    return Draft(turns=turns, kind=kind)


def _rank(node: dict[str, Any]) -> float:
    rank = node.get("rank")
    return rank if isinstance(rank, int | float) and rank == rank else float("inf")


def trees(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield trees as they are, and flat messages put together to trees."""
    flat: dict[Any, tuple[Row, dict[str, Any]]] = {}
    for row in rows:
        value = row.value
        if row.problem or not isinstance(value, dict) or "message_id" not in value:
            yield row
        elif not isinstance(value["message_id"], str) or value["message_id"] in flat:
            yield Row(row.where, problem=f"{row.where}: message_id is no text, or there twice")
        else:
            flat[value["message_id"]] = row, {**value, "replies": []}
    for _, node in flat.values():
        parent = node.get("parent_id")
        if isinstance(parent, str) and parent in flat:
            flat[parent][1]["replies"].append(node)
    reached = set()
    for row, node in flat.values():
        if node.get("parent_id") is None:
            yield Row(row.where, {"prompt": node})
            todo = [node]
            while todo:
                here = todo.pop()
                reached.add(here["message_id"])
                todo += here["replies"]
    for name, (row, _) in flat.items():
        if name not in reached:
            yield Row(row.where, problem=f"{row.where}: what it replies to is not in the file")


OASST1 = data_set(
    "oasst1",
    source="Köpf et al. 2023, OpenAssistant Conversations: huggingface.co/datasets/OpenAssistant/"
    "oasst1",
    licence="Apache-2.0",
    hub="OpenAssistant/oasst1",
    patterns=("*ready.trees.jsonl*", "*ready.messages.jsonl*", "*.parquet", "*"),
    form=form,
    gather=trees,
)
