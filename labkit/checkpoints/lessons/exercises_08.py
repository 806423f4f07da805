"""Exercises of lesson 08: bytes of each ZeRO stage, a ring that adds up, a sharded step of Adam."""

from collections.abc import Callable, Sequence
from typing import Any

from labkit.checkpoints.exercises import Exercise, Student

# bytes_per_rank(stage, parameters, ranks) -> bytes of weights, gradients and optimizer state

EXACT = (2, 2, 12)
"""of a trained parameter: 16-bit weights and gradients; Adam steps a copy in fp32, two moments"""


def reference_bytes_per_rank(stage: int, parameters: int, ranks: int) -> tuple[float, ...]:
    """Return the bytes of weights, gradients and optimizer state on one of `ranks` devices.

    Stage 1 shares the optimizer's state, 2 the gradients too, 3 the weights too; 0 shares nothing
    (Rajbhandari et al. 2020, figure 1).
    """
    shared = (stage >= 3, stage >= 2, stage >= 1)
    return tuple(
        size * parameters / (ranks if s else 1) for size, s in zip(EXACT, shared, strict=True)
    )


def _stages(ranks: int, stages: Sequence[int]) -> Callable[[Student], bool]:
    def holds(student: Student) -> bool:
        for stage in stages:
            found = [float(each) for each in student(stage, 1200, ranks)]
            expected = reference_bytes_per_rank(stage, 1200, ranks)
            if len(found) != 3 or any(
                abs(a - b) > 1e-6 for a, b in zip(found, expected, strict=True)
            ):
                return False
        return True

    return holds


def _is_labkits(student: Student) -> bool:
    """Compare with what labkit's own estimates take, stage by stage."""
    from labkit.memory.settings import StepSettings
    from labkit.memory.sharding import Sizes, state_bytes

    sizes = Sizes(total=7_500_000_000, trainable=7_500_000_000, layer=0, root=0)
    for stage in (1, 2, 3):
        settings = StepSettings(model="tiny-llama", method="full", sharding=f"zero{stage}",
                                num_gpus=64)  # fmt: skip
        states = state_bytes(settings, sizes)
        ours = sum(states[name] for name in ("weights", "gradients", "optimizer_state"))
        if abs(sum(student(stage, 7_500_000_000, 64)) - ours) > 1:
            return False
    return True


BYTES_PER_RANK = Exercise(
    signature="bytes_per_rank(stage, parameters, ranks)",
    parameters=3,
    properties=(
        ("stage 0: every device has all 16 bytes of a parameter", _stages(4, (0,))),
        ("on one device no stage saves anything", _stages(1, (0, 1, 2, 3))),
        ("stage 1 shares the optimizer's state alone", _stages(4, (1,))),
        ("stage 2 shares the gradients as well", _stages(4, (2,))),
        ("stage 3 shares the weights as well", _stages(4, (3,))),
        ("figure 1 of the paper: 7.5 billion parameters on 64 devices", _is_labkits),
    ),
)

# ring_all_reduce(vectors, send) -> vectors; send(rank, piece) hands a piece to the next rank


class Ring:
    """What exercises send through: counts numbers, and hands each piece to the next rank."""

    def __init__(self, ranks: int) -> None:
        self.ranks, self.sent = ranks, [0] * ranks

    def send(self, rank: int, piece: Any) -> Any:
        """Return a copy of `piece` as rank + 1 receives it from `rank`."""
        import numpy

        if not 0 <= rank < self.ranks:
            raise ValueError(f"there is no rank {rank} among {self.ranks}")
        piece = numpy.array(piece, dtype=float)
        self.sent[rank] += piece.size
        return piece


def reference_ring_all_reduce(vectors: Any, send: Callable[[int, Any], Any]) -> Any:
    """Return each rank's vector after a ring all-reduce: the sum of all, on every rank.

    N − 1 turns in which each rank adds what it receives to one of its N pieces, then N − 1 in which
    finished pieces go around (Patarasuk and Yuan 2009).
    """
    import numpy

    n = len(vectors)
    pieces = [numpy.array_split(numpy.array(each, dtype=float), n) for each in vectors]
    for finished in (False, True):
        for turn in range(n - 1):
            moved = []
            for rank in range(n):
                which = (rank - turn + finished) % n
                moved.append((which, send(rank, pieces[rank][which])))
            for rank, (which, piece) in enumerate(moved):
                own = pieces[(rank + 1) % n]
                own[which] = piece if finished else own[which] + piece
    return [numpy.concatenate(each) for each in pieces]


def _vectors(ranks: int, length: int) -> list[Any]:
    import numpy

    draw = numpy.random.default_rng(ranks * length)
    return [draw.integers(-50, 50, length).astype(float) for _ in range(ranks)]


def _adds(ranks: int, length: int) -> Callable[[Student], bool]:
    def holds(student: Student) -> bool:
        import numpy

        given = _vectors(ranks, length)
        found = student([each.copy() for each in given], Ring(ranks).send)
        return len(found) == ranks and all(
            numpy.array_equal(numpy.asarray(each), sum(given)) for each in found
        )

    return holds


def _sends(student: Student) -> bool:
    """Each rank sends 2 (N − 1)/N of a vector, and no rank more than another."""
    for ranks, length in ((2, 8), (4, 16), (5, 20)):
        ring = Ring(ranks)
        student(_vectors(ranks, length), ring.send)
        if ring.sent != [2 * (ranks - 1) * length // ranks] * ranks:
            return False
    return True


def _leaves_alone(student: Student) -> bool:
    import numpy

    given = _vectors(3, 6)
    kept = [each.copy() for each in given]
    student(given, Ring(3).send)
    return all(map(numpy.array_equal, given, kept))


RING_ALL_REDUCE = Exercise(
    signature="ring_all_reduce(vectors, send)",
    parameters=2,
    properties=(
        ("one rank has the sum already", _adds(1, 4)),
        ("two ranks, one number each piece", _adds(2, 2)),
        ("four ranks: every rank ends with the sum of all", _adds(4, 8)),
        ("pieces need not be equally long", _adds(3, 7)),
        ("the vectors that were given stay as they are", _leaves_alone),
        ("each rank sends 2 (N − 1)/N of its vector, whatever N is", _sends),
    ),
    modules=("numpy",),
)

# sharded_adam(weights, gradients, first, second, step, rank, ranks) -> weights of this rank's part

RATE, BETAS, EPSILON = 1e-2, (0.9, 0.999), 1e-8


def reference_sharded_adam(
    weights: Any, gradients: Any, first: Any, second: Any, step: int, rank: int, ranks: int
) -> tuple[Any, Any, Any]:
    """Return a rank's part of the weights after a step of Adam, and its moments.

    `weights` and `gradients` are whole, (n,) with n a multiple of `ranks`; `first` and `second` are
    the moments of this rank's part alone (Kingma and Ba 2015, algorithm 1; no weight decay).
    """
    size = len(weights) // ranks
    own = slice(rank * size, (rank + 1) * size)
    gradient = gradients[own]
    first = BETAS[0] * first + (1 - BETAS[0]) * gradient
    second = BETAS[1] * second + (1 - BETAS[1]) * gradient**2
    mean = first / (1 - BETAS[0] ** step)
    spread = second / (1 - BETAS[1] ** step)
    return weights[own] - RATE * mean / (spread**0.5 + EPSILON), first, second


def _steps(
    count: int, ranks: int, *, length: int = 12, scale: float = 1.0, zeros: int = 0
) -> Callable[[Student], bool]:
    """Compare with torch.optim.Adam on all weights, after the parts are put together."""

    def holds(student: Student) -> bool:
        import numpy
        import torch

        draw = numpy.random.default_rng(count + ranks)
        weights = draw.standard_normal(length)
        whole = torch.nn.Parameter(torch.tensor(weights))
        optimizer = torch.optim.Adam([whole], lr=RATE, betas=BETAS, eps=EPSILON)
        size = length // ranks
        moments = [(numpy.zeros(size), numpy.zeros(size)) for _ in range(ranks)]
        for step in range(1, count + 1):
            gradients = scale * draw.standard_normal(length)
            gradients[:zeros] = 0
            whole.grad = torch.tensor(gradients)
            optimizer.step()
            parts = []
            for rank in range(ranks):
                first, second = moments[rank]
                part, *kept = student(weights.copy(), gradients.copy(), first.copy(),
                                      second.copy(), step, rank, ranks)  # fmt: skip
                if [numpy.shape(each) for each in (part, *kept)] != [(size,)] * 3:
                    return False
                moments[rank] = tuple(kept)
                parts.append(part)
            weights = numpy.concatenate(parts)  # the all-gather of stages 1 and 2
        return bool(numpy.allclose(weights, whole.detach().numpy(), atol=1e-12))

    return holds


SHARDED_ADAM = Exercise(
    signature="sharded_adam(weights, gradients, first, second, step, rank, ranks)",
    parameters=7,
    properties=(
        ("alone, a first step is that of torch.optim.Adam", _steps(1, 1)),
        ("alone, later steps correct the moments less", _steps(4, 1)),
        (
            "a weight without a gradient stays, and gradients as small as epsilon move less",
            _steps(3, 1, scale=EPSILON, zeros=2),
        ),
        ("two ranks together make the step of one", _steps(1, 2)),
        ("each rank keeps moments of its own part only", _steps(4, 3)),
    ),
    modules=("numpy", "torch"),
)

EXERCISES = {
    "bytes_per_rank": BYTES_PER_RANK,
    "ring_all_reduce": RING_ALL_REDUCE,
    "sharded_adam": SHARDED_ADAM,
}
