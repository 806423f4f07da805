"""The part of each batch that is this process's.

N processes with batches of B take the samples of one process with batches of N·B, in its order:
each takes an Nth of every such batch, in a row. The last batch of an epoch may be smaller; it is
cut as evenly as can be, and a process that gets nothing of it reads a sample that does not count,
so that all take part in every exchange. Since the loss of a step is divided by the labels (or the
pairs) of the *whole* step (`trainer`), it does not matter how many of them each process has.
"""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset, Sampler

IGNORED = -100


class Shares(Sampler[list[int]]):
    """Batches of indices for process `rank` of `size`; ~i stands for sample i without its labels.

    `sampler` gives the order of all samples, the same in every process.
    """

    def __init__(self, sampler: Any, *, batch_size: int, rank: int, size: int) -> None:
        self.sampler = sampler
        self.together = batch_size * size
        self.rank, self.size = rank, size

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.together)

    def __iter__(self) -> Iterator[list[int]]:
        batch: list[int] = []
        for index in self.sampler:
            batch.append(index)
            if len(batch) == self.together:
                yield self._share(batch)
                batch = []
        if batch:
            yield self._share(batch)

    def _share(self, batch: list[int]) -> list[int]:
        start, end = (len(batch) * each // self.size for each in (self.rank, self.rank + 1))
        return batch[start:end] or [~batch[0]]

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self.sampler.set_epoch(epoch)


class EqualShares(Shares):
    """Shares of as many samples in each process, by some without labels: of an evaluation."""

    def _share(self, batch: list[int]) -> list[int]:
        each = -(-len(batch) // self.size)
        own = batch[self.rank * each : (self.rank + 1) * each]
        return own + [~batch[0]] * (each - len(own))


class Unlabelled(Dataset[dict[str, Any]]):
    """A data set whose sample ~i is sample i without labels; one that has none is `blank`."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index >= 0:
            row: dict[str, Any] = self.rows[index]
            return row
        row = dict(self.rows[~index])
        if "labels" in row:
            row["labels"] = [IGNORED] * len(row["labels"])
            row |= {"text_bytes": 0} if "text_bytes" in row else {}
        else:
            row["blank"] = True
        return row


class SharedLoader(DataLoader[dict[str, Any]]):
    """A loader of this process's shares that starts each epoch in its order."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        shares: Any = self.batch_sampler
        shares.set_epoch(epoch)
