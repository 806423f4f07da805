"""Exercises of lesson 04, kernels: SwitchBack's two passes, and inputs that show seven mistakes.

Who finds a mistake gives an input on which it shows. What the input does is tried: the code with
the mistake has to go wrong on it, and labkit's own version must not.
"""

import math
from collections.abc import Callable
from typing import Any

from labkit.checkpoints.exercises import Exercise, Student

MODULES = ("labkit.switchback.teaching.defects",)

# forward(ctx, x, w) -> y and backward(ctx, g) -> (dx, dw), as autograd calls them


def _layer(forward: Student | None = None, backward: Student | None = None) -> Any:
    """Make an autograd function of a student's pass and labkit's other one."""
    import torch

    from labkit.switchback import reference as r

    def labkits_forward(ctx: Any, x: Any, w: Any) -> Any:
        ctx.save_for_backward(x, w)
        (x_int8, x_absmax), (w_int8, w_absmax) = r.quantize_rowwise(x), r.quantize_rowwise(w)
        return r.scaled_int8_mm(x_int8, w_int8, x_absmax, w_absmax, None, x.dtype)

    def labkits_backward(ctx: Any, g: Any) -> Any:
        x, w = ctx.saved_tensors
        g_int8, g_absmax = r.quantize_rowwise(g)
        w_int8, w_absmax = r.quantize_columnwise_and_transpose(w)
        dx = r.scaled_int8_mm(g_int8, w_int8, g_absmax, w_absmax, None, g.dtype)
        return dx, g.t() @ x

    passes = {
        "forward": staticmethod(forward or labkits_forward),
        "backward": staticmethod(backward or labkits_backward),
    }
    return type("ByHand", (torch.autograd.Function,), passes)


def _matrices(dtype: str = "float32", *, seed: int = 0) -> tuple[Any, Any, Any]:
    """Return x [13, 83], w [31, 83] and g [13, 31] with an outlier in a token and in a weight."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    x, w, g = (torch.randn(*n, generator=generator) for n in ((13, 83), (31, 83), (13, 31)))
    x[4, 7], w[9, 3], g[6, 2] = 60.0, 50.0, 40.0
    return tuple(t.to(getattr(torch, dtype)) for t in (x, w, g))


def _forward(compare: Callable[[Any, Any, Any, Any], bool], dtype: str = "float32") -> Any:
    """Check y of the student's forward pass: `compare(y, labkit's y, x, w)`."""

    def holds(student: Student) -> bool:
        x, w, _ = _matrices(dtype)
        return compare(_layer(forward=student).apply(x, w), _layer().apply(x, w), x, w)

    return holds


def _near(found: Any, wanted: Any, decibels: float) -> bool:
    from labkit.switchback.teaching.noise import snr_db

    return found.shape == wanted.shape and snr_db(wanted, found) > decibels


def _refuses_an_edit(student: Student) -> bool:
    import torch

    x, w, g = _matrices()
    x.requires_grad_()
    w.requires_grad_()
    y = _layer(forward=student).apply(x, w)
    (dx,) = torch.autograd.grad(y, x, g, retain_graph=True)
    with torch.no_grad():
        w.mul_(2)
    try:
        torch.autograd.grad(y, x, g)
    except RuntimeError:
        return dx is not None
    return False


FORWARD = Exercise(
    signature="forward(ctx, x, w)",
    parameters=3,
    modules=MODULES,
    properties=(
        ("the result has a row a token and a column an output",
         _forward(lambda y, _, x, w: y.shape == (x.shape[0], w.shape[0]))),
        ("the result is X·Wᵀ, as near as int8 comes", _forward(
            lambda y, _, x, w: _near(y, x @ w.t(), 10))),
        ("the large number of one token costs that token only, and a large weight its own output "
         "only: a scale per row, of X and of W", _forward(
             lambda y, wanted, x, w: _near(y[:, :5], wanted[:, :5], 60)
             and _near(y[:4], wanted[:4], 60))),
        ("what comes in as bfloat16 goes out as bfloat16", _forward(
            lambda y, wanted, x, w: y.dtype == x.dtype, "bfloat16")),
        ("the result is labkit's", _forward(lambda y, wanted, x, w: _near(y, wanted, 100))),
        ("x and w are saved so that autograd sees them: a weight that is edited before the "
         "backward pass is refused", _refuses_an_edit),
    ),
)  # fmt: skip


def _backward(
    compare: Callable[[Any, Any, tuple[Any, Any, Any]], bool], wrt: str = "xw",
    dtype: str = "float32",
) -> Any:  # fmt: skip
    """Check the student's backward pass: `compare(gradients, labkit's, (x, w, g))`."""

    def holds(student: Student) -> bool:
        import torch

        def gradients(layer: Any) -> Any:
            x, w, g = _matrices(dtype)
            x.requires_grad_("x" in wrt)
            w.requires_grad_("w" in wrt)
            asked = [t for t in (x, w) if t.requires_grad]
            return torch.autograd.grad(layer.apply(x, w), asked, g)

        return compare(gradients(_layer(backward=student)), gradients(_layer()), _matrices(dtype))

    return holds


def _frozen_is_left_out(student: Student) -> bool:
    """Call the pass as autograd does for a frozen weight."""
    from types import SimpleNamespace

    x, w, g = _matrices()
    ctx = SimpleNamespace(saved_tensors=(x, w), needs_input_grad=(True, False))
    dx, dw = student(ctx, g)
    return dw is None and dx.shape == x.shape


BACKWARD = Exercise(
    signature="backward(ctx, g)",
    parameters=2,
    modules=MODULES,
    properties=(
        ("dX has the shape of X and dW that of W", _backward(
            lambda found, _, given: [t.shape for t in found] == [t.shape for t in given[:2]])),
        ("dX is G·W, as near as int8 comes", _backward(
            lambda found, _, given: _near(found[0], given[2] @ given[1], 10))),
        ("dW is Gᵀ·X as it comes, without int8", _backward(
            lambda found, _, given: _near(found[1], given[2].t() @ given[0], 100))),
        ("a large weight costs its own column of dX only: W is quantised along what is summed, "
         "which is another direction than in the forward pass", _backward(
             lambda found, wanted, _: _near(found[0][:, 10:], wanted[0][:, 10:], 60))),
        ("gradients of a bfloat16 layer are bfloat16", _backward(
            lambda found, wanted, given: [t.dtype for t in found] == [given[0].dtype] * 2,
            dtype="bfloat16")),
        ("dX is labkit's", _backward(lambda found, wanted, _: _near(found[0], wanted[0], 100))),
        ("a frozen weight gets None instead of a product (ctx.needs_input_grad[1] says so)",
         _frozen_is_left_out),
    ),
)  # fmt: skip


# bug_N() -> an input on which the code of defect N goes wrong

FINITE = "what you return is finite: no infinity and no NaN goes in"


def _finite(*tensors: Any) -> bool:
    return all(bool(t.isfinite().all()) for t in tensors if t is not None)


def _worst_decibels(linear: Callable[..., Any], x: Any, w: Any, bias: Any) -> float:
    """Return the SNR of a layer's worst row against float64; minus infinity where it fails."""
    from labkit.switchback.teaching.noise import snr_db

    try:
        y = linear(x, w, bias)
    except RuntimeError:
        return -math.inf
    exact = x.double() @ w.double().t() + (0 if bias is None else bias.double())
    if y.shape != exact.shape or not y.isfinite().all():
        return -math.inf
    rows = zip(exact.reshape(-1, exact.shape[-1]), y.reshape(-1, y.shape[-1]), strict=True)
    return min(snr_db(one, other) if one.any() else math.inf for one, other in rows)


def _wrong_on(number: int, given: tuple[Any, Any, Any]) -> bool:
    from labkit.switchback.teaching.defects import DEFECTS

    return _worst_decibels(DEFECTS[number].broken, *given) < 10


def _sound_on(given: tuple[Any, Any, Any]) -> bool:
    from labkit.switchback.teaching.defects import sound_linear

    return _worst_decibels(sound_linear, *given) > 15


def _three(given: Any) -> tuple[Any, Any, Any]:
    x, w, *bias = given
    return x, w, bias[0] if bias else None


def _input(number: int, signature: str, *before: tuple[str, Callable[[Student], bool]]) -> Exercise:
    """Make the exercise of a mistake that shows on x, w and perhaps a bias."""
    return Exercise(
        signature=signature,
        parameters=0,
        modules=MODULES,
        properties=(
            *before,
            (FINITE, lambda student: _finite(*_three(student()))),
            ("labkit's layer is right on your input, so the input is a fair one",
             lambda student: _sound_on(_three(student()))),
            ("the code above goes wrong on your input, by a third of the result or more",
             lambda student: _wrong_on(number, _three(student()))),
        ),
    )  # fmt: skip


def _edited(linear: Callable[..., Any], given: tuple[Any, Any, Any]) -> Any:
    """Run a layer, edit, go back: return (dX, what dX should be), or None where it refuses."""
    import torch

    x, w, edit = given
    x, w = x.detach().clone().requires_grad_(), w.detach().clone().requires_grad_()
    before = w.detach().clone()
    y = linear(x, w, None)
    with torch.no_grad():
        edit(x, w)
    try:
        (dx,) = torch.autograd.grad(y.sum(), x)
    except RuntimeError:
        return None
    return dx, torch.ones_like(y) @ before


def _changes_silently(student: Student) -> bool:
    from labkit.switchback.teaching.defects import defect_1

    outcome = _edited(defect_1, student())
    if outcome is None:
        return False
    found, wanted = outcome
    return not _near(found, wanted, 10)


def _is_refused(student: Student) -> bool:
    from labkit.switchback.teaching.defects import sound_linear

    return _edited(sound_linear, student()) is None


def _makes_nan(student: Student) -> bool:
    from labkit.switchback.teaching.defects import EveryResultFinite, defect_3

    try:
        with EveryResultFinite():
            defect_3(student())
    except AssertionError:
        return True
    return False


def _quantizes_soundly(student: Student) -> bool:
    from labkit.switchback import reference
    from labkit.switchback.teaching.defects import EveryResultFinite

    with EveryResultFinite():
        reference.quantize_rowwise(student())
    return True


def _reads_outside(student: Student) -> bool:
    """Work out the lanes of the kernel's bias load; its tiles are 16 × 32."""
    from labkit.switchback.teaching.defects import lanes_outside

    return lanes_outside(*student()) > 0


def _is_layer(student: Student) -> bool:
    import torch

    y = student()(torch.ones(2, 4), torch.ones(3, 4), torch.zeros(3))
    return tuple(y.shape) == (2, 3)


def _original_accepts(student: Student) -> bool:
    from labkit.switchback.teaching.defects import defect_7

    defect_7(student())
    return True


def _is_wrong_somewhere(student: Student) -> bool:
    """Hold where the layer has twice the error of labkit's on one of some ordinary inputs."""
    from labkit.switchback.teaching.defects import ordinary_inputs, sound_linear

    layer = student()
    return any(
        _worst_decibels(layer, *given) < _worst_decibels(sound_linear, *given) - 6
        for given in ordinary_inputs()
    )


BUGS = {
    "bug_1": Exercise(
        signature="bug_1()",
        parameters=0,
        modules=MODULES,
        properties=(
            ("return three things: x, w, and a function edit(x, w)",
             lambda student: len(student()) == 3 and callable(student()[2])),
            (FINITE, lambda student: _finite(*student()[:2])),
            ("labkit's layer refuses to go back after your edit: autograd can see it",
             _is_refused),
            ("the code above returns another gradient than that of the weights it multiplied by, "
             "off by a third or more", _changes_silently),
        ),
    ),
    "bug_2": _input(2, "bug_2()"),
    "bug_3": Exercise(
        signature="bug_3()",
        parameters=0,
        modules=MODULES,
        properties=(
            ("return a matrix [rows, columns]", lambda student: student().dim() == 2),
            (FINITE, lambda student: _finite(student())),
            ("labkit's version makes no NaN of it", _quantizes_soundly),
            ("the code above makes a NaN of it", _makes_nan),
        ),
    ),
    "bug_4": _input(4, "bug_4()"),
    "bug_5": Exercise(
        signature="bug_5()",
        parameters=0,
        modules=MODULES,
        properties=(
            ("return M and N, whole numbers above zero", lambda student: all(
                int(n) == n and n > 0 for n in student()) and len(student()) == 2),
            ("with tiles of 16 × 32 the kernel reads outside one of its tensors", _reads_outside),
        ),
    ),
    "bug_6": _input(6, "bug_6()"),
    "bug_7": Exercise(
        signature="bug_7()",
        parameters=0,
        modules=MODULES,
        properties=(
            ("return a layer: a function of x, w and bias", _is_layer),
            ("the test above accepts your layer", _original_accepts),
            ("your layer is wrong: on some ordinary input its error is over twice that of "
             "labkit's", _is_wrong_somewhere),
        ),
    ),
}  # fmt: skip

EXERCISES = {"switchback_forward": FORWARD, "switchback_backward": BACKWARD, **BUGS}
