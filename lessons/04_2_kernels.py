# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 04 · SwitchBack, second sitting: kernels and bugs
#
# - **Goal:** write both passes of an int8 layer, one of its GPU kernels, and for seven mistakes of a published version an input that shows each.
# - **Minutes:** 90, of which 2 are waiting
# - **Hardware:** two CPU cores and 3 GiB of memory; no GPU, also for the kernel
# - **You need to know:** the first sitting's numbers: absmax, rows, decibels; the chain rule; a little autograd
#
# The [first sitting](04_1_numbers.ipynb) asked what int8 costs. Here you build the layer. It runs alone: what the first sitting had you write, labkit has as well.

# %% tags=["parameters"]
from labkit.runs import profiles

profile = profiles.current()
model_name = profiles.model()
number_of_samples = 1 if profile.name == "smoke" else 4
training_steps = 5 if profile.name == "smoke" else 40

# %% [markdown]
# ## The layer in three products
#
# With inputs $X$, weights $W$ and the gradient of the loss $G$ for the outputs, SwitchBack computes
#
# $$ Y = X W^T \ \text{(int8)} \qquad dX = G W \ \text{(int8)} \qquad dW = G^T X \ \text{(16 bit)} $$
#
# Three functions of labkit are enough for it, and all three are exact in what they promise:
#
# - `quantize_rowwise(x)`: int8 integers and the absmax of each row;
# - `quantize_columnwise_and_transpose(w)`: the same of $W^T$, each of whose rows is a column of $W$;
# - `scaled_int8_mm(a, b, a_absmax, b_absmax, bias, out_dtype)`: $A B^T$ of integers, scaled back.

# %%
import torch

from labkit.switchback import reference
from labkit.switchback.reference import quantize_rowwise, scaled_int8_mm

# %% [markdown]
# ## Predict: the ceiling
#
# Say int8 multiplies twice as fast as 16 bit and quantising costs nothing. How much faster can a training step of this layer be at most? And with frozen weights, as in LoRA, where there is no dW?

# %%
predicted_full_ceiling = None
predicted_frozen_ceiling = None

# %% [markdown]
# ## Exercise: the forward pass
#
# *Medium, 10 minutes; important.* A pass with a gradient of its own is a `torch.autograd.Function`: autograd calls `forward(ctx, x, w)`, keeps what you hand to the method `ctx.save_for_backward(...)`, and gives it back to `backward`. Quantise X and W with a scale per row, multiply, save x and w (these two, in this order), and return Y in the type of X.
#
# <details><summary>Hint 1: as they came in</summary>
#
# Hand the method both tensors as they came in. Copies of them would be kept as well, but autograd could not tell when the originals change.
#
# </details>
#
# <details><summary>Hint 2: the second argument</summary>
#
# `scaled_int8_mm` multiplies by the transpose of its second argument already, and takes `None` for a bias. Its last argument is the type of the result.
#
# </details>


# %%
def forward(ctx, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Return Y = X·Wᵀ [M, N] in the type of x, by way of int8; x is [M, K], w [N, K]."""
    ### BEGIN SOLUTION
    x_int8, x_absmax = quantize_rowwise(x)
    w_int8, w_absmax = quantize_rowwise(w)
    ctx.save_for_backward(x, w)
    return scaled_int8_mm(x_int8, w_int8, x_absmax, w_absmax, None, x.dtype)
    ### END SOLUTION


# %%
from labkit.checkpoints import check

check.exercise("switchback_forward", forward)

# %% [markdown]
# ## Exercise: the backward pass
#
# *Hard, 15 minutes; important.* `backward(ctx, g)` finds what was saved in `ctx.saved_tensors` and returns a gradient for each input of `forward`: dX and dW. dX is int8, dW is not. For a frozen weight `ctx.needs_input_grad[1]` is False, and dW is `None`.
#
# <details><summary>Hint 1: which scale comes out</summary>
#
# $dX = G W$ sums over the outputs, which are the *rows* of W. A scale for each row of W cannot come out of that sum. Which scale can?
#
# </details>
#
# <details><summary>Hint 2: which matrix is B</summary>
#
# `scaled_int8_mm(a, b, …)` computes $A B^T$. With A = G, B has to be $W^T$, quantised along its rows: that is what `reference.quantize_columnwise_and_transpose(w)` returns, and what `quantize_rowwise(w.t())` is.
#
# </details>


# %%
def backward(ctx, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return dX [M, K] by way of int8 and dW [N, K] without; g is [M, N]."""
    ### BEGIN SOLUTION
    x, w = ctx.saved_tensors
    g_int8, g_absmax = quantize_rowwise(g)
    w_int8, w_absmax = reference.quantize_columnwise_and_transpose(w)
    dx = scaled_int8_mm(g_int8, w_int8, g_absmax, w_absmax, None, g.dtype)
    dw = None
    if ctx.needs_input_grad[1]:
        dw = g.t() @ x
    return dx, dw
    ### END SOLUTION


# %%
check.exercise("switchback_backward", backward)

# %% [markdown]
# ## Measure: train with it
#
# `SwitchBackLinear` is labkit's layer of the same two passes. Two layers learn the same made-up task, one exact and one in int8, and the losses are compared step by step. (Put your own two functions to the test: with `by_hand = True` the second layer is yours.)

# %%
from labkit.switchback import SwitchBackLinear

by_hand = False
ByHand = type(
    "ByHand",
    (torch.autograd.Function,),
    {"forward": staticmethod(forward), "backward": staticmethod(backward)},
)


class MyLinear(torch.nn.Linear):
    def forward(self, x):
        return ByHand.apply(x, self.weight)


def losses(layer: torch.nn.Linear) -> list[float]:
    """Fit a random target with gradient descent; return the loss of every step."""
    generator = torch.Generator().manual_seed(0)
    shapes = (64, 48), (64, 32), (32, 48)
    x, target, start = (torch.randn(*shape, generator=generator) for shape in shapes)
    layer.weight = torch.nn.Parameter(start / 48**0.5)
    found = []
    for _ in range(training_steps):
        loss = (layer(x) - target).square().mean()
        (gradient,) = torch.autograd.grad(loss, [layer.weight])
        layer.weight.data -= 3.0 * gradient
        found.append(loss.item())
    return found


# %% tags=["nbval-check-output"]
mine = MyLinear if by_hand else SwitchBackLinear
exact, int8 = losses(torch.nn.Linear(48, 32, bias=False)), losses(mine(48, 32, bias=False))
apart = max(abs(one - other) / one for one, other in zip(exact, int8, strict=True))
print("the loss falls in both:", exact[-1] < exact[0] and int8[-1] < int8[0])
print("never further apart than 1 %:", apart < 0.01)

# %% [markdown]
# `convert` replaces the layers of a whole model in place and keeps their parameters, so a checkpoint is the same before and after. How far does that move the model's predictions? The **Kullback-Leibler divergence** between the two distributions of the next token is zero when they agree and never negative; with natural logarithms its unit is the nat. The loss would mislead you here: on a few answers, noise makes it better as often as worse.

# %%
from labkit.datasets import encode, tatqa
from labkit.models import load, registry
from labkit.switchback import convert
from labkit.switchback.teaching import figures, noise

folder = registry.resolve(model_name)
tokenizer = load.load_tokenizer(folder)
candidates = tatqa.samples(tatqa.load("tables", "dev"))[:24]
encoded = [encode.encode(tokenizer, sample, max_length=512) for sample in candidates]
samples = sorted(encoded, key=lambda sample: len(sample["input_ids"]))[:number_of_samples]

# %%
model = load.load_model(folder, dtype="float32")
exact_logits = noise.next_token_logits(model, samples)
converted = convert(model, min_features=0)
changes = []
for scale in ("row", "tensor"):
    for module in model.modules():
        if isinstance(module, SwitchBackLinear):
            module.weight_scale = scale
    difference = noise.divergence(exact_logits, noise.next_token_logits(model, samples))
    changes.append({"weight_scale": scale, **difference})

print(len(converted), "layers converted")
figures.print_table(changes, {"weight_scale": "s", "kl_nats": ".4f", "same_token": ".1%"})

# %% [markdown]
# This is the noise of all layers together, on a model that was never trained with it. Whether a model *trained* this way is as good is a question for whole trainings; the third sitting has some on record.
#
# Layers narrower than `min_features` stay as they are. Below a certain width quantising takes longer than int8 saves, so with its default of 1024 `convert` finds nothing to convert in the embedded model and stops with an error that says so.

# %% [markdown]
# ## Explain: two of three
#
# The ceiling follows from the layer alone. With int8 at `rate` times the speed of 16 bit, full training has two products at that rate and one without; with frozen weights there are two.

# %% tags=["nbval-check-output"]
rate = 2
print(f"full training: {3 / (1 / rate + 1 / rate + 1):.2f} × at most")
print(f"frozen weights (LoRA): {2 / (1 / rate + 1 / rate):.2f} × at most, there is no dW")

# %%
print("predicted:", predicted_full_ceiling, predicted_frozen_ceiling)

# %% [markdown]
# ## Exercise: the kernel
#
# *Medium, 15 minutes; useful.* On a GPU quantisation is a **kernel**, a program that the GPU runs many times at once (not the kernel of a notebook). In **Triton**, a language for such kernels that is written inside Python, you write what *one program* does, and the program is started once for each row. It works on many numbers at once; the place of each of them is a **lane**. It addresses memory by hand: a pointer plus an offset in elements.
#
# - `x_ptr`, `q_ptr`, `absmax_ptr` point to the first element of x (M × K), q (int8, M × K) and absmax (float32, M).
# - Row r of x begins `r * stride_x` elements after its first; row r of q begins `r * K` after.
# - `BLOCK_K` is a power of two, at least K. `tl.arange(0, BLOCK_K)` gives the column numbers, and a `mask` keeps loads and stores inside the row. What a masked load does not read becomes `other`.
# - Compute in float32. The absmax is at least `TINY`, so that a row of zeros divides nothing by zero. `round_to_int8(x)` rounds half to even.
#
# You need `tl.load(pointers, mask=…, other=…)`, `.to(tl.float32)`, `tl.abs`, `tl.max(…, axis=0)`, `tl.maximum(a, b)` and `tl.store(pointers, values, mask=…)`.
#
# <details><summary>Hint 1: addresses</summary>
#
# `x_ptr + row * stride_x + k` are BLOCK_K addresses at once; `k < K` says which of them are yours.
#
# </details>
#
# <details><summary>Hint 2: one number a row</summary>
#
# The absmax of the row is one number, and is stored without a mask at `absmax_ptr + row`. Lanes beyond K load `other=0.0`, which is never the largest magnitude.
#
# </details>

# %%
import triton.language as tl

from labkit.switchback.triton_kernels import TINY, round_to_int8


def quantize_rowwise_kernel(x_ptr, q_ptr, absmax_ptr, K, stride_x, BLOCK_K: tl.constexpr):
    row = tl.program_id(0)
    ### BEGIN SOLUTION
    k = tl.arange(0, BLOCK_K)
    inside = k < K
    x = tl.load(x_ptr + row * stride_x + k, mask=inside, other=0.0).to(tl.float32)
    absmax = tl.maximum(tl.max(tl.abs(x), axis=0), TINY)
    q = round_to_int8(x * (127.0 / absmax))
    tl.store(q_ptr + row * K + k, q, mask=inside)
    tl.store(absmax_ptr + row, absmax)
    ### END SOLUTION


# %% [markdown]
# No GPU is needed to check it. Triton's **interpreter** runs the kernel with NumPy, program by program, and labkit compares every memory access with the tensors it was given. Then the **compiler** turns the same source into machine code for two generations of NVIDIA GPUs, where its registers can be counted: `sm_80` is the A100's, `sm_90` the H100's. A `print` inside the kernel works if its first argument is a plain string: `print("absmax", absmax)`.

# %% tags=["nbval-check-output"]
from labkit.switchback.teaching.kernel_check import check_quantize_rowwise

kernel_is_right = check_quantize_rowwise(quantize_rowwise_kernel)

# %% [markdown]
# `labkit/switchback/triton_kernels.py` has the other kernels: tiles in two dimensions, a transposing one, and the product itself on int8 tensor cores. On GPUs of the Hopper generation, such as the H100, large products have a kernel of their own, `labkit/switchback/triton_hopper.py`.

# %% [markdown]
# ## Exercise: find the bug
#
# SwitchBack came with a well-known library, ran in published experiments, and was wrong in seven ways. Each cell below shows one of them, written anew in a few lines; everything else in the code is right. Read it, and return an **input on which it goes wrong** and labkit's own version does not. The cell after each exercise then says what was wrong.
#
# Names in the code: `reference` is the exact arithmetic of these lessons, `sound_linear` a linear layer that is right.

# %% tags=["nbval-check-output"]
from labkit.switchback.teaching import defects

defects.show(1)

# %% [markdown]
# *Medium, 6 minutes; important.* Return `x` [M, K], `w` [N, K], and a function `edit(x, w)`. It is called between the forward and the backward pass. Afterwards the gradient has to be that of other weights than those that were multiplied by, off by a third or more, without a word; labkit's layer refuses.
#
# <details><summary>Hint 1: the method</summary>
#
# What does `ctx.save_for_backward` look like when it is used as it should be? You have just done it.
#
# </details>
#
# <details><summary>Hint 2: in place</summary>
#
# Autograd counts the edits of a tensor that it has saved, made in place with a method such as `mul_`. `w = 2 * w` edits nothing, and what is done through `.data` isn't counted.
#
# </details>


# %%
def bug_1():
    """Return x, w and edit(x, w)."""
    ### BEGIN SOLUTION
    x, w = torch.ones(2, 4), torch.ones(3, 4)

    def edit(x, w):
        w.mul_(100)

    return x, w, edit
    ### END SOLUTION


# %%
check.exercise("bug_1", bug_1)

# %%
defects.reveal(1)

# %% tags=["nbval-check-output"]
defects.show(2)

# %% [markdown]
# *Easy, 4 minutes; important.* Return `x` and `w`.
#
# <details><summary>Hint 1: types</summary>
#
# Which types do models train in, and what are their largest and smallest numbers? `torch.finfo` knows.
#
# </details>
#
# <details><summary>Hint 2: ranges</summary>
#
# float16 ends at 65,504 and has nothing below 6e-8. bfloat16 has the range of float32. Gradients of a mean loss are easily 1e-9.
#
# </details>


# %%
def bug_2():
    """Return x [M, K] and w [N, K]."""
    ### BEGIN SOLUTION
    x = torch.full((2, 4), 1e-9, dtype=torch.bfloat16)
    w = torch.ones(3, 4, dtype=torch.bfloat16)
    return x, w
    ### END SOLUTION


# %%
check.exercise("bug_2", bug_2)

# %%
defects.reveal(2)

# %% tags=["nbval-check-output"]
defects.show(3)

# %% [markdown]
# *Easy, 3 minutes; important.* Return a matrix of finite numbers out of which the code makes a NaN.
#
# <details><summary>Hint 1: the division</summary>
#
# There is one division in it. When is its result not a number?
#
# </details>
#
# <details><summary>Hint 2: padding</summary>
#
# What does a padded token look like?
#
# </details>


# %%
def bug_3():
    """Return x [M, K]."""
    ### BEGIN SOLUTION
    x = torch.ones(2, 4)
    x[1] = 0
    return x
    ### END SOLUTION


# %%
check.exercise("bug_3", bug_3)

# %%
defects.reveal(3)

# %% tags=["nbval-check-output"]
defects.show(4)

# %% [markdown]
# *Easy, 4 minutes; useful.* Return `x`, `w` and `bias`.
#
# <details><summary>Hint 1: the loop</summary>
#
# How often does the loop turn for the shape you have in mind, and what is done in every turn?
#
# </details>
#
# <details><summary>Hint 2: a small product</summary>
#
# Make the product small beside the bias, so that the mistake is not lost in it. How wide does x have to be?
#
# </details>


# %%
def bug_4():
    """Return x [M, K], w [N, K] and bias [N]."""
    ### BEGIN SOLUTION
    x, w = torch.zeros(2, 2048), torch.zeros(3, 2048)
    bias = torch.ones(3)
    return x, w, bias
    ### END SOLUTION


# %%
check.exercise("bug_4", bug_4)

# %%
defects.reveal(4)

# %% tags=["nbval-check-output"]
defects.show(5)

# %% [markdown]
# *Medium, 4 minutes; useful.* The kernel is run with `BLOCK_M=16, BLOCK_N=32`. Return `M` and `N`, such that a program reads what isn't there. (The numbers it stores are right all the same.)
#
# <details><summary>Hint 1: four accesses</summary>
#
# Four loads and stores. Which of them has no mask?
#
# </details>
#
# <details><summary>Hint 2: the last program</summary>
#
# Each program along N has 32 lanes, also the last one, for which fewer columns may be left.
#
# </details>


# %%
def bug_5():
    """Return M and N."""
    ### BEGIN SOLUTION
    return 16, 40
    ### END SOLUTION


# %%
check.exercise("bug_5", bug_5)

# %%
defects.reveal(5)

# %% tags=["nbval-check-output"]
defects.show(6)

# %% [markdown]
# *Easy, 4 minutes; useful.* Return `x` and `w`. The input may have more than two dimensions.
#
# <details><summary>Hint 1: view</summary>
#
# `view` gives memory a new shape without moving anything. When can't it?
#
# </details>
#
# <details><summary>Hint 2: three dimensions</summary>
#
# Attention code swaps batch and tokens: `.transpose(0, 1)`. Two dimensions are not enough here, as `view(-1, K)` leaves them what they are.
#
# </details>


# %%
def bug_6():
    """Return x [..., K] and w [N, K]."""
    ### BEGIN SOLUTION
    x = torch.randn(5, 2, 4).transpose(0, 1)
    w = torch.randn(3, 4)
    return x, w
    ### END SOLUTION


# %%
check.exercise("bug_6", bug_6)

# %%
defects.reveal(6)

# %% [markdown]
# The last one is the test that let the other six pass.

# %% tags=["nbval-check-output"]
defects.show(7)

# %% [markdown]
# *Medium, 6 minutes; important.* Return a **wrong layer** that this test accepts: a function of `x`, `w` and `bias` whose result is far off on some ordinary input (wide, padded, transposed, bfloat16 …).
#
# <details><summary>Hint 1: where the test looks</summary>
#
# What does the test try? One shape, one type, one layout. Be right there.
#
# </details>
#
# <details><summary>Hint 2: beyond it</summary>
#
# A layer that reads the first 512 features only is right wherever there are no more. Start from `defects.sound_linear`.
#
# </details>


# %%
def bug_7():
    """Return a function of x, w and bias."""

    ### BEGIN SOLUTION
    def reads_512_features(x, w, bias=None):
        return defects.sound_linear(x[..., :512], w[:, :512], bias)

    return reads_512_features
    ### END SOLUTION


# %%
check.exercise("bug_7", bug_7)

# %%
defects.reveal(7)

# %% [markdown]
# ## Measure: what a test is worth
#
# Rows are layers, the last of them right; columns are tests. The first column is the test you have just seen. A dark field is a layer that the test rejects.

# %% tags=["result"]
from labkit import plots
from labkit.switchback.teaching import rejections

found = rejections.who_rejects_what()
figure, ax = plots.new_figure(width=7.6, height=3.0)
plots.show(figure, alt=figures.draw_rejections(ax, found))

# %% [markdown]
# **This is the point of the sitting: a test is measured by what it rejects.** The first column is empty: the original's test accepts every layer. Each of the others is a few lines long and finds what it lets through. (The fifth mistake changes no number, so no test of numbers finds it; the seventh is the first column.) None of the seven is a wrong formula. They are a wrong contract with autograd, a type written into the code, an input nobody tried, a sum that became a loop, a load without a mask, a layout taken for granted, and a test that could not fail.

# %% [markdown]
# ## Checkpoint
#
# **04.4** Take a card that you care about. How many times faster than 16 bit does its datasheet make int8, and what are the ceilings for full training and for LoRA? (`labkit.machine.datasheets.DEVICES` has the cards that labkit knows by name, and the `flops` of each; change `rate` above.) Why does a whole training stay below?

# %%
check(
    "04.4",
    card=None,
    rate=None,
    full_ceiling=None,
    frozen_ceiling=None,
    explanation=None,
)

# %% [markdown]
# ## What to remember
#
# - Two products of three are int8. The third caps what full training can gain; with frozen weights there is no third.
# - The backward pass quantises W along another direction than the forward pass: along what is summed.
# - Triton's interpreter says what a kernel computes, labkit's watch over it whether it stays in its tensors, the compiler what it becomes; none needs a GPU.
# - Six mistakes passed the test that came with them, and the seventh was that test. Try zeros, odd shapes, other types, other layouts, and edit what was saved.

# %% [markdown]
# ## Further reading
#
# - M. Wortsman et al., *Stable and low-precision training for large-scale vision-language models*, 2023, [arXiv:2304.13013](https://arxiv.org/abs/2304.13013), algorithms 1 and 3 to 5.
# - PyTorch, [Extending torch.autograd](https://docs.pytorch.org/docs/stable/notes/extending.html): what a Function promises.
# - P. Tillet et al., *Triton: an intermediate language and compiler for tiled neural network computations*, MAPL 2019; tutorials at [triton-lang.org](https://triton-lang.org).
# - [bitsandbytes](https://github.com/bitsandbytes-foundation/bitsandbytes) up to version 0.49.2, folder `bitsandbytes/triton`, `bitsandbytes/nn/triton_based_modules.py` and `tests/test_triton.py`: the code that the seven are taken from.
