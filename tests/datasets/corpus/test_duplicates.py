"""Near-duplicates: signatures equal datasketch's, and what is removed is like what stays."""

from itertools import combinations
from random import Random

import numpy as np
import pytest
from datasketch import MinHash

from labkit.datasets.corpus import duplicates
from labkit.datasets.corpus.words import numbers


def test_the_signature_is_datasketchs() -> None:
    shingles = numbers(" ".join(f"w{i * i % 97}" for i in range(300))).shingles(5)
    theirs = MinHash(duplicates.BANDS * duplicates.ROWS, seed=duplicates.SEED, hashfunc=int,
                     scheme="affine32")  # fmt: skip
    theirs.update_batch((shingles >> np.uint64(32)).tolist())
    assert np.array_equal(duplicates.signature(shingles), theirs.digest())


@pytest.mark.parametrize("target", [0.5, 0.8, 0.9])
def test_signatures_agree_as_often_as_sets_do(target: float) -> None:
    random = Random(3)
    agreements = []
    for _ in range(60):
        union = np.array(sorted(random.getrandbits(64) for _ in range(400)), np.uint64)
        common = round(400 * target)
        rest = (400 - common) // 2
        one, other = (
            union[: common + rest],
            np.concatenate([union[:common], union[common + rest :]]),
        )
        agreements.append(
            np.mean(duplicates.signature(one) == duplicates.signature(np.sort(other)))
        )
    # 60 signatures of 80 places: a standard error of at most 0.0073.
    assert abs(np.mean(agreements) - target) < 0.03


def test_texts_that_share_a_band_are_candidates() -> None:
    random = np.random.default_rng(0)
    bands = random.integers(0, 6, (4, 30)).astype(np.uint64)
    expected = {(a, b) for band in bands for a, b in combinations(range(30), 2)
                if band[a] == band[b]}  # fmt: skip
    found = [tuple(pair) for pair in duplicates.candidates(bands).tolist()]
    assert set(found) == expected and len(found) == len(expected)


def test_a_large_bucket_takes_few_comparisons_and_leaves_nobody_out() -> None:
    found = duplicates.candidates([np.zeros(1000, np.uint64)])
    assert len(found) <= 1000 * (duplicates.NEIGHBOURS + 1)
    assert {0} | set(found[:, 1].tolist()) == set(range(1000))


def test_what_goes_is_like_what_stays() -> None:
    random = Random(5)
    for _ in range(200):
        pairs = [(a, b) for a, b in combinations(range(8), 2) if random.random() < 0.25]
        gone = duplicates.removed(pairs)
        kept = set(range(8)) - set(gone)
        assert not [pair for pair in pairs if set(pair) <= kept]
        assert all((stays, goes) in pairs and stays in kept for goes, stays in gone.items())


def test_a_chain_removes_only_what_is_like_what_stays() -> None:
    # 0 is like 1 and 1 like 2, but not 0 like 2: connected components would remove 2 as well.
    assert duplicates.removed([(0, 1), (1, 2)]) == {1: 0}


def test_order_and_first() -> None:
    lengths, ties = np.array([5, 9, 9, 1], np.uint32), np.array([7, 8, 3, 0], np.uint64)
    assert duplicates.order(lengths, ties).tolist() == [2, 1, 0, 3]
    again = duplicates.first_of_each(np.array([4, 4, 2, 4, 2], np.uint64))
    assert again.tolist() == [True, False, True, False, False]
