"""TEACHING MATERIAL: seven ways in which the original SwitchBack was wrong. Do not use these.

bitsandbytes carried SwitchBack up to version 0.49.2 and deleted it in 0.50. Each `defect_N` below
repeats one mistake of that code in as few lines as show it, with everything else right. Lesson 04
prints the code, lets you look for the mistake, and then runs a *check*: a sentence about what the
code must do, as code. Every check fails on its defect and passes on labkit's own implementation;
the tests hold both.

The pattern is worth more than the seven cases. None of these is a wrong formula. They are a wrong
contract with autograd, a dtype written into the code, an input nobody tried, a sum that became a
loop, a load without a mask, a layout taken for granted, and a test that could not fail.

Source: `bitsandbytes/triton/`, `bitsandbytes/nn/triton_based_modules.py` and
`tests/test_triton.py` of bitsandbytes before 0.50, read; the code here was written anew.
"""

import importlib
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from labkit.switchback import reference
from labkit.switchback.layer import SwitchBack
from labkit.switchback.teaching.kernel_check import in_interpreter
from labkit.switchback.teaching.noise import snr_db

Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Computes Y = X·Wᵀ + b from X [..., K], W [N, K] and a bias [N] or None."""


def sound_linear(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """Labkit's own: what the checks of the defective ones pass on."""
    rows = x.reshape(-1, x.shape[-1])
    y = SwitchBack.apply(rows, w, bias, "row", "16bit", "torch", reference)
    return y.view(*x.shape[:-1], -1)


class Defect1(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward = x, w
        x_int8, x_absmax = reference.quantize_rowwise(x)
        w_int8, w_absmax = reference.quantize_rowwise(w)
        return reference.scaled_int8_mm(x_int8, w_int8, x_absmax, w_absmax, None, x.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.save_for_backward
        g_int8, g_absmax = reference.quantize_rowwise(g)
        w_int8, w_absmax = reference.quantize_columnwise_and_transpose(w)
        dx = reference.scaled_int8_mm(g_int8, w_int8, g_absmax, w_absmax, None, g.dtype)
        return dx, g.t() @ x


def defect_1(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    return Defect1.apply(x, w)


def check_1(linear: Linear) -> None:
    """The weight is edited between forward and backward: autograd must refuse."""
    x, w = torch.ones(2, 4, requires_grad=True), torch.ones(3, 4, requires_grad=True)
    y = linear(x, w, None)
    with torch.no_grad():
        w.mul_(100)
    try:
        y.sum().backward()
    except RuntimeError:
        return
    raise AssertionError(
        "the weight was edited between forward and backward, and the gradient of the wrong "
        "weight came back without a word"
    )


def defect_2(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    x_int8, x_absmax = reference.quantize_rowwise(x)
    w_int8, w_absmax = reference.quantize_rowwise(w)
    x_absmax, w_absmax = x_absmax.half(), w_absmax.half()
    y = torch.empty(x.shape[0], w.shape[0], device=x.device, dtype=torch.float16)
    y.copy_(reference.scaled_int8_mm(x_int8, w_int8, x_absmax.float(), w_absmax.float(), bias))
    return y


def check_2(linear: Linear) -> None:
    """bfloat16 has the range of float32: what goes in as bfloat16 comes out as bfloat16."""
    for size, what in ((1e-9, "a gradient of 1e-9"), (1e6, "an activation of 1e6")):
        x = torch.full((2, 4), size, dtype=torch.bfloat16)
        y = linear(x, torch.ones(3, 4, dtype=torch.bfloat16), None)
        found = y.float().max().item()
        assert abs(found / (4 * size) - 1) < 0.01, f"{what}, summed four times, became {found}"
        assert y.dtype == x.dtype, f"bfloat16 went in and {y.dtype} came out"


def defect_3(x: Tensor) -> tuple[Tensor, Tensor]:
    absmax = x.abs().amax(dim=1).float()
    q = (127.0 * (x.float() / absmax[:, None])).round().to(torch.int8)
    return q, absmax


class EveryResultFinite(TorchDispatchMode):
    """Raise AssertionError at the first operation that makes a NaN or an infinity."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                finite = tensor.isfinite().all()
                assert finite, (
                    f"{func._schema.name} made {tensor[~tensor.isfinite()][0].item()} "
                    "out of finite numbers"
                )
        return result


def check_3(quantize: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
    """A padded token can be a row of zeros, and what NaN becomes as int8 is not defined."""
    x = torch.tensor([[1.0, -2.0], [0.0, 0.0]])
    with EveryResultFinite():
        q, absmax = quantize(x)
    back = reference.dequantize_rowwise(q, absmax)
    assert back[1].tolist() == [0.0, 0.0], f"a row of zeros came back as {back[1].tolist()}"


def defect_4(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    x_int8, x_absmax = reference.quantize_rowwise(x)
    w_int8, w_absmax = reference.quantize_rowwise(w)
    y = torch.zeros(x.shape[0], w.shape[0])
    for k in range(0, x.shape[1], 512):  # each turn is a program of its own on a GPU
        some = slice(k, k + 512)
        part = reference.int8_mm(x_int8[:, some], w_int8[:, some]).float()
        part = part * (x_absmax / 127**2)[:, None] * w_absmax
        if bias is not None:
            part = part + bias
        y += part  # tl.atomic_add
    return y


def check_4(linear: Linear) -> None:
    """Whatever the width, the bias counts once."""
    for width in (4, 512, 2048):
        x, w = torch.zeros(2, width), torch.zeros(3, width)
        found = linear(x, w, torch.tensor([1.0, 2.0, 3.0]))[0].tolist()
        assert found == [1.0, 2.0, 3.0], f"at width {width} the bias [1, 2, 3] counts as {found}"


def check_5(run: str) -> None:
    """At a shape that is no multiple of the tile, every access stays inside its tensor."""
    outside = in_interpreter("watch", "labkit.switchback.teaching.defective_kernel", run)
    assert not outside, f"the kernel {'; '.join(outside)}"


def lanes_outside(M: int, N: int, block_n: int = 32) -> int:
    """Return how many lanes of `defect_5` load a bias that isn't there, over all programs of N.

    Counted from its addresses, so that it is known at once: Triton's interpreter needs a process.
    """
    lanes = [start + lane for start in range(0, N, block_n) for lane in range(block_n)]
    return sum(lane >= N for lane in lanes)


def defect_6(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    rows = x.view(-1, x.size(-1))
    return sound_linear(rows, w, bias).view(*x.size()[:-1], -1)


def check_6(linear: Linear) -> None:
    """[tokens, batch, features], transposed to batch first, is a layout attention code produces."""
    x, w = torch.randn(5, 2, 4).transpose(0, 1), torch.randn(3, 4)
    try:
        y = linear(x, w, None)
    except RuntimeError as error:
        raise AssertionError(f"a transposed input fails: {str(error).splitlines()[0]}") from None
    assert torch.equal(y, linear(x.contiguous(), w, None)), "a transposed input gives other numbers"


def defect_7(linear: Linear) -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(n, 83, generator=generator).half() for n in (13, 332))
    w, bias = w / 83**0.5, torch.randn(332, generator=generator).half()
    exact = torch.nn.functional.linear(x, w, bias)
    error = (exact - linear(x, w, bias)).abs().mean()
    error_of_another_int8_layer = (exact - sound_linear(x, w, bias)).abs().mean()
    assert error < 2 * error_of_another_int8_layer


def ordinary_inputs() -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return (x, w, bias) as networks have them, and as the test above doesn't try them."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    wide = normal(4, 2048), normal(8, 2048), 100 * normal(8)
    small = normal(4, 16), normal(8, 16), normal(8)
    padded = torch.cat([normal(3, 16), torch.zeros(1, 16)]), normal(8, 16), normal(8)
    turned = normal(5, 2, 16).transpose(0, 1), normal(8, 16), normal(8)
    outlier = normal(4, 16), normal(8, 16) * torch.tensor([100.0] + [1.0] * 15), normal(8)
    narrow = tuple(1e6 * t.bfloat16() for t in small[:2])
    return [wide, small, padded, turned, outlier, (*narrow, small[2].bfloat16())]


def off_by_one(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """A wrong layer for check 7: it scales W back by 128 where it had scaled it up by 127."""
    y = sound_linear(x, w, None) * (127 / 128)
    return y if bias is None else y + bias


def sound_test(linear: Linear) -> None:
    """Labkit's own: an exact reference, several shapes, dtypes and layouts, and stated bounds."""
    check_2(linear)
    check_4(linear)
    check_6(linear)
    generator = torch.Generator().manual_seed(0)
    for rows, width, out in ((13, 83, 332), (1, 1, 1), (70, 1030, 5)):
        x = torch.randn(rows, width, generator=generator)
        w = torch.randn(out, width, generator=generator)
        y = linear(x, w, None).double()
        # The exact answer for these integers, in float64: only output rounding may differ.
        (x_int8, x_absmax), (w_int8, w_absmax) = map(reference.quantize_rowwise, (x, w))
        exact = (x_int8.double() @ w_int8.double().t()) * x_absmax[:, None].double() * w_absmax
        assert snr_db(exact / 127**2, y) > 120, "the products differ from the exact ones"


def check_7(test: Callable[[Linear], None]) -> None:
    """A test has to accept a right layer and to reject wrong ones: here, four of them."""
    test(sound_linear)
    accepted = []
    for wrong in (defect_2, defect_4, defect_6, off_by_one):
        try:
            test(wrong)
        except Exception:
            continue
        accepted.append(wrong.__name__)
    assert not accepted, f"the test accepts {len(accepted)} of 4 wrong layers: {accepted}"


@dataclass(frozen=True, kw_only=True)
class Defect:
    """One mistake: what to look at, the broken and the sound version, the check, the answer."""

    title: str
    shown: tuple[str, ...]
    broken: Any
    sound: Any
    check: Callable[[Any], None]
    answer: str


DEFECTS = {
    1: Defect(
        title="A layer with a backward pass",
        shown=("Defect1",),
        broken=defect_1,
        sound=sound_linear,
        check=check_1,
        answer="save_for_backward is a method. Assigning to it stores a tuple on the context: no "
        "version check, and saved-tensor hooks (checkpointing, offloading) never see the tensors.",
    ),
    2: Defect(
        title="Writing the product",
        shown=("defect_2",),
        broken=defect_2,
        sound=sound_linear,
        check=check_2,
        answer="float16 is written into the code, for the output and for the scales. It ends at "
        "65,504 and below 6e-8 it is zero; bfloat16 and float32 models live outside both.",
    ),
    3: Defect(
        title="Quantising rows",
        shown=("defect_3",),
        broken=defect_3,
        sound=reference.quantize_rowwise,
        check=check_3,
        answer="A row of zeros divides zero by zero. The NaN is then converted to int8, which is "
        "undefined: some processors give 0, and the defect sleeps until it meets another.",
    ),
    4: Defect(
        title="Splitting the inner dimension over programs",
        shown=("defect_4",),
        broken=defect_4,
        sound=sound_linear,
        check=check_4,
        answer="Each program adds the bias to its own part before the parts are added up, so a "
        "layer four programs deep has four biases. One program adds it, or it is added at the end.",
    ),
    5: Defect(
        title="The last lines of a matrix product, in Triton",
        shown=("defective_kernel.defect_5",),
        broken="defect_5_accesses",
        sound="sound_accesses",
        check=check_5,
        answer="The bias is loaded without a mask. The extra lanes are never stored, so every "
        "number is right, until the memory behind the bias is not yours and the GPU faults.",
    ),
    6: Defect(
        title="Flattening the tokens",
        shown=("defect_6",),
        broken=defect_6,
        sound=sound_linear,
        check=check_6,
        answer="view needs memory in the right order. reshape copies when it has to and is "
        "otherwise the same.",
    ),
    7: Defect(
        title="The test",
        shown=("defect_7",),
        broken=defect_7,
        sound=sound_test,
        check=check_7,
        answer="One shape, one dtype, one layout, and a bound relative to another int8 layer. It "
        "passes wrong layers; a test is measured by what it rejects.",
    ),
}


def show(number: int) -> None:
    """Print the code of a defect."""
    defect = DEFECTS[number]
    print(f"# {number}. {defect.title}")
    for name in defect.shown:
        module_name, _, attribute = f"labkit.switchback.teaching.{name}".rpartition(".")
        if module_name == "labkit.switchback.teaching":
            module_name = __name__
        thing = getattr(importlib.import_module(module_name), attribute)
        print(inspect.getsource(getattr(thing, "fn", thing)).rstrip())


def reveal(number: int) -> None:
    """Run the check on the defect and on labkit's own version, and print what was wrong."""
    defect = DEFECTS[number]

    def say(label: str, text: str) -> None:
        print(textwrap.fill(f"{label:11}{text}", 96, subsequent_indent=" " * 11))

    say("must hold", inspect.getdoc(defect.check) or "")
    try:
        defect.check(defect.broken)
    except AssertionError as error:
        say("this code", str(error))
    else:
        raise AssertionError(f"check {number} no longer finds its defect")
    defect.check(defect.sound)
    say("labkit's", "passes")
    say("why", defect.answer)
