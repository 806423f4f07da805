"""N processes see what one process with batches N times as large sees, in its order."""

import pytest

from labkit.train.sharded.shares import IGNORED, Shares, Unlabelled


def shares(samples: int, batch_size: int, size: int) -> list[list[list[int]]]:
    """Return the batches of each process."""
    return [list(Shares(range(samples), batch_size=batch_size, rank=rank, size=size))
            for rank in range(size)]  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("samples", [1, 2, 7, 12, 25])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_together_they_are_the_batches_of_one_process(
    samples: int, batch_size: int, size: int
) -> None:
    found = shares(samples, batch_size, size)
    (alone,) = shares(samples, batch_size * size, 1)
    assert {len(each) for each in found} == {len(alone)}, "they would wait for each other"
    for step, whole in enumerate(alone):
        parts = [each[step] for each in found]
        assert [i for part in parts for i in part if i >= 0] == whole
        assert all(part and len(part) <= batch_size for part in parts)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_who_gets_nothing_reads_a_sample_without_labels() -> None:
    rows = [{"input_ids": [1, 2, 3], "labels": [IGNORED, 2, 3]}, {"input_ids": [4], "labels": [4]}]
    found = shares(1, 1, 2)
    assert found[1] == [[0]] or found[0] == [[0]]
    (index,) = next(each[0] for each in found if each != [[0]])
    read = Unlabelled(rows)
    assert read[index] == {"input_ids": [1, 2, 3], "labels": [IGNORED] * 3}
    assert rows[0]["labels"] == [IGNORED, 2, 3] and read[1] == rows[1]


def test_each_epoch_has_its_order() -> None:
    class Order:
        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __len__(self) -> int:
            return 3

        def __iter__(self):
            return iter([(self.epoch + i) % 3 for i in range(3)])

    share = Shares(Order(), batch_size=1, rank=0, size=1)
    share.set_epoch(2)
    assert list(share) == [[2], [0], [1]]
