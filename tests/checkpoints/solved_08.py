"""Lesson 08: right functions, and wrong ones with what is said of them."""

import numpy

from labkit.checkpoints.lessons.exercises_08 import (
    reference_bytes_per_rank,
    reference_ring_all_reduce,
    reference_sharded_adam,
)


def by_cases(stage, parameters, ranks):
    sizes = [2 * parameters, 2 * parameters, 12 * parameters]
    for place in range(2, 2 - stage, -1):
        sizes[place] /= ranks
    return sizes


def around(vectors, send):
    """Whole vectors go around the ring: right, and N times as much."""
    n = len(vectors)
    sums, moving = [each.copy() for each in vectors], [each.copy() for each in vectors]
    for _ in range(n - 1):
        received = [send(rank, moving[rank]) for rank in range(n)]
        moving = [received[rank - 1] for rank in range(n)]
        sums = [total + each for total, each in zip(sums, moving, strict=True)]
    return sums


def half_way(vectors, send):
    """Adds up, and stops before finished pieces go around."""
    n = len(vectors)
    pieces = [numpy.array_split(each.copy(), n) for each in vectors]
    for turn in range(n - 1):
        moved = [((rank - turn) % n, send(rank, pieces[rank][(rank - turn) % n]))
                 for rank in range(n)]  # fmt: skip
        for rank, (which, piece) in enumerate(moved):
            pieces[(rank + 1) % n][which] = pieces[(rank + 1) % n][which] + piece
    return [numpy.concatenate(each) for each in pieces]


def equal_pieces(vectors, send):
    size = len(vectors[0]) // len(vectors)
    whole = reference_ring_all_reduce([each[: size * len(vectors)] for each in vectors], send)
    return whole


def in_place(vectors, send):
    found = reference_ring_all_reduce(vectors, send)
    for vector, each in zip(vectors, found, strict=True):
        vector[:] = each
    return vectors


def adam(w, g, m, v, t, rank, ranks, *, correct=True, root=True, rate=1e-2, mine=True, eps=1e-8):
    """A step of Adam; the switches are mistakes."""
    size = len(w) // ranks
    own = slice(rank * size, (rank + 1) * size) if mine else slice(0, size)
    m, v = 0.9 * m + 0.1 * g[own], 0.999 * v + 0.001 * g[own] ** 2
    mean, spread = m, v
    if correct:
        mean, spread = m / (1 - 0.9**t), v / (1 - 0.999**t)
    return w[own] - rate * mean / ((spread**0.5 if root else spread) + eps), m, v


def whole_weights(w, g, m, v, t, rank, ranks):
    part, m, v = reference_sharded_adam(w, g, m, v, t, rank, ranks)
    w[rank * len(part) : (rank + 1) * len(part)] = part
    return w, m, v


def mistake(**switches):
    return lambda *given: adam(*given, **switches)


def inside_the_root(w, g, m, v, t, rank, ranks):
    part, m, v = adam(w, g, m, v, t, rank, ranks)
    before = w[rank * len(part) : (rank + 1) * len(part)]
    return before - 0.01 * m / (1 - 0.9**t) / (v / (1 - 0.999**t) + 1e-8) ** 0.5, m, v


RIGHT = {
    "bytes_per_rank": [reference_bytes_per_rank, by_cases],
    "ring_all_reduce": [
        reference_ring_all_reduce,
        lambda vectors, send: [each.tolist() for each in reference_ring_all_reduce(vectors, send)],
    ],
    "sharded_adam": [reference_sharded_adam, adam],
}  # fmt: skip

WRONG = [
    ("bytes_per_rank", lambda s, p, n: (2 * p, 2 * p, 8 * p / (n if s else 1)), "all 16 bytes"),
    ("bytes_per_rank", lambda s, p, n: (2 * p / n, 2 * p / n, 12 * p / n), "stage 0"),
    ("bytes_per_rank", lambda s, p, n: (2 * p, 2 * p, 12 * p), "stage 1 shares"),
    ("bytes_per_rank", lambda s, p, n: (2 * p, 2 * p, 12 * p / (n if s else 1)), "stage 2 shares"),
    ("bytes_per_rank",
     lambda s, p, n: (2 * p, 2 * p / (n if s > 1 else 1), 12 * p / (n if s else 1)),
     "stage 3 shares"),
    ("ring_all_reduce", lambda vectors, send: [sum(vectors)], "two ranks"),
    ("ring_all_reduce", half_way, "two ranks"),
    ("ring_all_reduce", equal_pieces, "equally long"),
    ("ring_all_reduce", in_place, "stay as they are"),
    ("ring_all_reduce", around, "2 .N − 1./N"),
    ("ring_all_reduce", lambda vectors, send: [sum(vectors)] * len(vectors), "2 .N − 1./N"),
    ("sharded_adam", mistake(correct=False), "first step"),
    ("sharded_adam", mistake(root=False), "first step"),
    ("sharded_adam", mistake(rate=1e-3), "first step"),
    ("sharded_adam", mistake(eps=1e-3), "first step"),
    ("sharded_adam", lambda w, g, m, v, t, r, n: adam(w, g, m, v, 1, r, n), "later steps"),
    ("sharded_adam", mistake(eps=1e-300), "as small as epsilon"),
    ("sharded_adam", inside_the_root, "as small as epsilon"),
    ("sharded_adam", mistake(mine=False), "two ranks together"),
    ("sharded_adam", whole_weights, "two ranks together"),
]  # fmt: skip
