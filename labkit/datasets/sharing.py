"""Reading a report once for all the questions on it.

A report with six questions is six training samples, and each repeats the report. Their first
tokens are the same, and in a causal model what is computed for a token depends only on the
tokens before it. So the six can be one sequence that holds the report once:

    tokens     [ report ........ ][ question 1, answer 1 ][ question 2, answer 2 ] …
    segment      0                  1                       2
    position     0 … P-1            P, P+1 …                P, P+1 …

Shape suffixes: B sequences, L tokens, 1 broadcast.

A token attends to those before it in its own segment and to the report, segment 0; every
question starts at the position it would have on its own. Each token then sees exactly what it
sees in a sample of its own: loss and gradients are the same sums, for about a third of the work
on short reports and less on long ones. It is the training-time twin of the shared prefix that
`inference.generate` reads once.
"""

from collections.abc import Sequence
from typing import Any

from labkit.datasets.encode import IGNORED

PADDING_SEGMENT = -1


def common_prefix_length(group: Sequence[Sequence[int]], *, limit: int | None = None) -> int:
    """Return how many first tokens all rows share, at most `limit` and less than the shortest."""
    most = min(len(row) for row in group) - 1
    most = most if limit is None else min(most, limit)
    first = group[0]
    for position in range(most):
        if any(row[position] != first[position] for row in group):
            return position
    return max(most, 0)


def share_prompts(encoded: Sequence[dict[str, Any]], *, max_length: int) -> dict[str, Any]:
    """Put samples of one report into one sequence that holds their common prefix once.

    `encoded` are results of `prompts.encode`. Returns `input_ids`, `labels`, `position_ids` and
    `segment_ids`, equally long. Samples that would make the sequence longer than `max_length`
    are left out; `samples` says how many are in.
    """
    shortest_prompt = min(sample["prompt_length"] for sample in encoded)
    # The first token of an answer is predicted from the token before it, which must be its own.
    prefix = common_prefix_length([s["input_ids"] for s in encoded], limit=shortest_prompt - 1)
    first = encoded[0]
    row: dict[str, Any] = {
        "input_ids": list(first["input_ids"][:prefix]),
        "labels": [IGNORED] * prefix,
        "position_ids": list(range(prefix)),
        "segment_ids": [0] * prefix,
        "samples": 0,
    }
    for segment, sample in enumerate(encoded, start=1):
        rest = sample["input_ids"][prefix:]
        if segment > 1 and len(row["input_ids"]) + len(rest) > max_length:
            break
        row["input_ids"] += rest
        row["labels"] += sample["labels"][prefix:]
        row["position_ids"] += range(prefix, prefix + len(rest))
        row["segment_ids"] += [segment] * len(rest)
        row["samples"] = segment
    return row


def share_all(
    groups: Sequence[Sequence[dict[str, Any]]], *, max_length: int
) -> list[dict[str, list[int]]]:
    """Return the sequences of all groups (samples of one report each), no sample left out."""
    rows = []
    for group in groups:
        left = list(group)
        while left:
            row = share_prompts(left, max_length=max_length)
            del left[: row.pop("samples")]
            rows.append(row)
    return rows


class SharedPromptCollator:
    """Pads shared sequences to one length: tensors of shape (batch, length)."""

    def __init__(self, pad_token_id: int) -> None:
        self.padding = {"input_ids": pad_token_id, "labels": IGNORED, "position_ids": 0,
                        "segment_ids": PADDING_SEGMENT}  # fmt: skip

    def __call__(self, rows: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
        import torch

        longest = max(len(row["input_ids"]) for row in rows)
        return {
            key: torch.tensor([row[key] + [pad] * (longest - len(row[key])) for row in rows])
            for key, pad in self.padding.items()
        }


def attention_mask(segment_ids_BL: Any) -> Any:
    """Return who may attend to whom: a boolean mask of shape (batch, 1, length, length).

    True where a query (third axis) sees a key (fourth axis). Padding sees only itself and what
    no label depends on, so that no row of the softmax is empty.
    """
    import torch

    query_BL1, key_B1L = segment_ids_BL[:, :, None], segment_ids_BL[:, None, :]
    length = segment_ids_BL.shape[1]
    causal_LL = torch.ones(length, length, dtype=torch.bool, device=segment_ids_BL.device).tril()
    return (causal_LL & ((key_B1L == 0) | (key_B1L == query_BL1)))[:, None]
