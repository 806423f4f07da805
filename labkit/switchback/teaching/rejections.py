"""Try the layers with mistakes on every test: which test rejects which layer.

A test is worth what it rejects. The original's own accepted all of the layers below; a few lines
for each thing that it did not try (an edit, a type, a row of zeros, a width, a layout, an exact
reference) reject them. Defect 5 changes no number and is not a layer here; defect 7 is the
original's test.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from labkit.switchback import reference
from labkit.switchback.teaching import defects
from labkit.switchback.teaching.defects import Linear
from labkit.switchback.teaching.noise import snr_db


def on_rows(linear: Linear, *, adds_bias: bool = False) -> Linear:
    """Make a layer of rows take any leading shape, and a bias if it knows none."""

    def layer(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        y = linear(x.reshape(-1, x.shape[-1]), w, None if adds_bias else bias)
        y = y if bias is None or not adds_bias else y + bias
        return y.view(*x.shape[:-1], -1)

    return layer


def divides_by_zero(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute a layer whose inputs are quantised by defect 3."""
    x_int8, x_absmax = defects.defect_3(x)
    w_int8, w_absmax = reference.quantize_rowwise(w)
    return reference.scaled_int8_mm(x_int8, w_int8, x_absmax, w_absmax, bias, x.dtype)


LAYERS: dict[str, Linear] = {
    "1: saves by assignment": on_rows(defects.defect_1, adds_bias=True),
    "2: writes float16": on_rows(defects.defect_2),
    "3: divides by zero": on_rows(divides_by_zero),
    "4: adds biases": on_rows(defects.defect_4),
    "6: flattens a view": defects.defect_6,
    "scales by 127/128": defects.off_by_one,
    "labkit's": defects.sound_linear,
}


def row_of_zeros(linear: Linear) -> None:
    """A row of zeros makes no NaN on the way."""
    x, w = torch.tensor([[1.0, -2.0], [0.0, 0.0]]), torch.ones(3, 2)
    with defects.EveryResultFinite():
        linear(x, w, None)


def exact_reference(linear: Linear) -> None:
    """The result is that of the same integers in float64."""
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(n, 83, generator=generator) for n in (13, 31))
    (x_int8, x_absmax), (w_int8, w_absmax) = map(reference.quantize_rowwise, (x, w))
    exact = (x_int8.double() @ w_int8.double().t()) * x_absmax[:, None].double() * w_absmax
    assert snr_db(exact / 127**2, linear(x, w, None)) > 120, "it differs from the exact result"


TESTS: dict[str, Callable[[Linear], None]] = {
    "the original's": defects.defect_7,
    "an edit": defects.check_1,
    "bfloat16": defects.check_2,
    "zeros": row_of_zeros,
    "wide, bias": defects.check_4,
    "transposed": defects.check_6,
    "exact": exact_reference,
}


def rejects(test: Callable[[Linear], None], layer: Linear) -> bool:
    """Return whether a test fails on a layer, for whatever reason."""
    try:
        test(layer)
    except Exception:
        return True
    return False


def who_rejects_what() -> dict[str, dict[str, bool]]:
    """Return {layer: {test: whether it rejects the layer}}."""
    return {
        layer: {test: rejects(check, linear) for test, check in TESTS.items()}
        for layer, linear in LAYERS.items()
    }
