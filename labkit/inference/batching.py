"""Put prompts of several lengths into batches of one width."""

from collections.abc import Sequence
from typing import Any


def pad_left(rows: Sequence[list[int]], pad: int) -> tuple[Any, Any]:
    """Return token ids [rows, longest] padded on the left, and their mask: 1 where a token is."""
    import torch

    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        if row:
            ids[i, width - len(row) :] = torch.tensor(row)
            mask[i, width - len(row) :] = 1
    return ids, mask


def batches(groups: Sequence[list[int]], size: int) -> list[list[list[int]]]:
    """Put groups together until a batch has about `size` prompts; no group is split."""
    made: list[list[list[int]]] = [[]]
    for group in groups:
        if made[-1] and sum(map(len, made[-1])) + len(group) > size:
            made.append([])
        made[-1].append(group)
    return made
