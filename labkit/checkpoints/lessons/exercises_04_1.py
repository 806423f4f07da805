"""Exercises of lesson 04, numbers: decibels, one row as integers, a product, a weight gradient."""

import math
from typing import Any

from labkit.checkpoints.exercises import Exercise, Student

MODULES = ("labkit.switchback.teaching.defects",)

# snr_db(exact, approximate) -> decibels


def _decibels(exact: list[Any], approximate: list[Any], expected: float) -> Any:
    def holds(student: Student) -> bool:
        import torch

        found = float(student(torch.tensor(exact), torch.tensor(approximate)))
        return found == expected or abs(found - expected) < 0.01

    return holds


SNR_DB = Exercise(
    signature="snr_db(exact, approximate)",
    parameters=2,
    modules=MODULES,
    properties=(
        (
            "an error of a tenth of every number is 20 dB",
            _decibels([1.0, -2.0, 4.0], [1.1, -2.2, 4.4], 20.0),
        ),
        (
            "an error of a hundredth is 40 dB: a tenth as large is a hundredth of the energy",
            _decibels([1.0, -2.0, 4.0], [1.01, -2.02, 4.04], 40.0),
        ),
        (
            "errors that cancel in the mean are errors all the same: square before you add",
            _decibels([3.0, 3.0], [3.3, 2.7], 20.0),
        ),
        (
            "energies are added over all numbers before the division, so a small number counts "
            "little",
            _decibels([[10.0, 0.0], [0.0, 0.1]], [[10.0, 0.0], [0.0, 1.1]], 20.0004),
        ),
        ("without any error the ratio is infinite", _decibels([1.0, 2.0], [1.0, 2.0], math.inf)),
    ),
)


# quantize_rowwise(x) -> (integers, absmax)


def _quantized(rows: list[list[float]], integers: list[list[int]]) -> Any:
    def holds(student: Student) -> bool:
        import torch

        q, _ = student(torch.tensor(rows))
        return bool(torch.equal(q.int(), torch.tensor(integers, dtype=torch.int32)))

    return holds


def _absmax_is_kept(student: Student) -> bool:
    import torch

    _, absmax = student(torch.tensor([[0.5, -3.0], [2.0, 1.0], [-0.25, 0.125]]))
    return tuple(absmax.shape) == (3,) and absmax.tolist() == [3.0, 2.0, 0.25]


def _types_hold(student: Student) -> bool:
    import torch

    q, absmax = student(torch.tensor([[1.0, -0.5], [3.0, 2.0]]).bfloat16())
    return bool(q.dtype == torch.int8 and absmax.dtype == torch.float32)


def _bfloat16_is_widened(student: Student) -> bool:
    """Hold where 127 / absmax is not rounded to bfloat16's 8 bits before it is used."""
    return _nearly_labkits(student, _gaussian(64, 256).bfloat16())


def _zeros_stay_zeros(student: Student) -> bool:
    import torch

    from labkit.switchback.teaching.defects import EveryResultFinite

    x = torch.tensor([[1.0, -2.0], [0.0, 0.0]])
    with EveryResultFinite():
        q, absmax = student(x)
    return q.tolist() == [[64, -127], [0, 0]] and bool(absmax.isfinite().all())


def _gaussian(rows: int, columns: int, seed: int = 0) -> Any:
    import torch

    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def _nearly_labkits(student: Student, x: Any) -> bool:
    """Compare with the reference; a tie that is computed in another order may go the other way."""
    from labkit.switchback import reference

    q, absmax = student(x)
    wanted, scale = reference.quantize_rowwise(x)
    apart = (q.int() - wanted.int()).abs()
    same_scale = ((absmax - scale).abs() <= 1e-6 * scale).all()
    return bool(same_scale and apart.max() <= 1 and (apart > 0).double().mean() < 1e-3)


QUANTIZE = Exercise(
    signature="quantize_rowwise(x)",
    parameters=1,
    modules=MODULES,
    properties=(
        ("the largest number of a row becomes 127", _quantized([[4.0, 2.0]], [[127, 64]])),
        (
            "the ruler is set by the largest magnitude, which may be a negative number",
            _quantized([[-4.0, 2.0]], [[-127, 64]]),
        ),
        (
            "every row has a ruler of its own",
            _quantized([[4.0, 2.0], [0.03125, 0.015625]], [[127, 64], [127, 64]]),
        ),
        (
            "halves go to the even integer",
            _quantized([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]], [[127, 0, 2, 2, 0, -2]]),
        ),
        ("absmax comes back, one number a row", _absmax_is_kept),
        (
            "the integers are int8 and absmax is float32, also when x is bfloat16",
            _types_hold,
        ),
        ("a bfloat16 row is scaled in float32, not in bfloat16", _bfloat16_is_widened),
        (
            "a row of zeros, such as a padded token, gives zeros, and no NaN or inf on the way",
            _zeros_stay_zeros,
        ),
        (
            "on a random matrix the integers are labkit's",
            lambda student: _nearly_labkits(student, 3 * _gaussian(64, 512, seed=1)),
        ),
    ),
)


# int8_matmul(a, b) -> a·bᵀ by way of int8


def _product(a: list[list[float]], b: list[list[float]], expected: list[list[float]]) -> Any:
    def holds(student: Student) -> bool:
        import torch

        y = student(torch.tensor(a), torch.tensor(b))
        wanted = torch.tensor(expected)
        return y.shape == wanted.shape and torch.allclose(y.float(), wanted, rtol=0.01)

    return holds


def _inputs_stay(student: Student) -> bool:
    a, b = _gaussian(3, 8), _gaussian(4, 8, seed=1)
    before = a.clone(), b.clone()
    student(a, b)
    return bool((a == before[0]).all() and (b == before[1]).all())


def _sums_are_exact(student: Student) -> bool:
    """Hold where the large parts of a sum of 2¹⁸ products cancel and the small ones are left.

    Each half alone is just below 2³¹, and the vector units of float32 pass 2²⁴ in every lane.
    """
    import torch

    half = 2**17
    large = torch.randint(100, 128, (half,), generator=torch.Generator().manual_seed(0)).float()
    a = torch.full((1, 2 * half), 127.0)
    b = torch.cat([large, -large.flip(0)])[None]
    b[0, :7], b[0, -7:] = 126.0, -127.0
    exact = (a.double() @ b.double().t()).item()
    return bool(abs(student(a, b).item() - exact) < 0.5)


def _is_labkits_product(student: Student) -> bool:
    from labkit.switchback.teaching import noise

    a, b = _gaussian(13, 83), _gaussian(31, 83, seed=1)
    a[:, 0] *= 30
    return noise.snr_db(noise.int8_product(a, b), student(a, b)) > 60


MATMUL = Exercise(
    signature="int8_matmul(a, b)",
    parameters=2,
    modules=MODULES,
    properties=(
        (
            "a row with a row is one number: [2, 0] with [3, 0] is 6 (127 · 127 does not fit into "
            "int8)",
            _product([[2.0, 0.0]], [[3.0, 0.0]], [[6.0]]),
        ),
        (
            "every row of a is multiplied with every row of b: the result has a's rows and as "
            "many columns as b has rows",
            _product([[1.0, 0.0], [0.0, 4.0]], [[2.0, 0.0], [0.0, 2.0], [5.0, 0.0]],
                     [[2.0, 0.0, 5.0], [0.0, 8.0, 0.0]]),
        ),
        (
            "a sum of 64 products does not fit into int16",
            _product([[1.0] * 64], [[1.0] * 64], [[64.0]]),
        ),
        ("a and b stay as they are", _inputs_stay),
        (
            "the sum of the integers is exact: no type with fewer bits than the sum",
            _sums_are_exact,
        ),
        ("on random matrices with an outlier the result is labkit's", _is_labkits_product),
    ),
)  # fmt: skip


# weight_gradient_snr(g, x, tokens) -> [decibels]


def _tokens(g: Any, x: Any, counts: list[int]) -> list[float]:
    """Return what the exercise asks for, from the reference."""
    from labkit.switchback.teaching import noise

    return [
        noise.snr_db(g[:n].double().t() @ x[:n].double(), noise.int8_product(g[:n].t(), x[:n].t()))
        for n in counts
    ]


def _gradients(counts: list[int], outlier: bool = False) -> Any:
    def holds(student: Student) -> bool:
        g, x = _gaussian(64, 12), _gaussian(64, 20, seed=1)
        if outlier:
            g[32] *= 300  # a token with a gradient far above the others'
        found = [float(value) for value in student(g, x, counts)]
        wanted = _tokens(g, x, counts)
        return len(found) == len(wanted) and all(
            abs(one - other) < 0.2 for one, other in zip(found, wanted, strict=True)
        )

    return holds


GRADIENT_SNR = Exercise(
    signature="weight_gradient_snr(g, x, tokens)",
    parameters=3,
    modules=MODULES,
    properties=(
        ("one number for each count of tokens", lambda student: (
            len(list(student(_gaussian(8, 3), _gaussian(8, 5), [2, 4, 8]))) == 3)),
        ("all tokens: Gᵀ·X in int8 against the exact one", _gradients([64])),
        ("the first 16 tokens are the first 16 rows of both", _gradients([16])),
        ("several counts, in their order", _gradients([48, 8, 32])),
        ("both matrices are scaled per feature, over the tokens that are summed, so one token "
         "with a large gradient costs the others decibels", _gradients([16, 32, 48], True)),
    ),
)  # fmt: skip

EXERCISES = {
    "snr_db": SNR_DB, "quantize_rowwise": QUANTIZE, "int8_matmul": MATMUL,
    "weight_gradient_snr": GRADIENT_SNR,
}  # fmt: skip
