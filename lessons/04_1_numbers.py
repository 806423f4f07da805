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
# # 04 · SwitchBack, first sitting: numbers
#
# - **Goal:** turn rows into 8-bit integers and multiply with them, know what that costs in a real model and where, and why one of the three products of training stays in 16 bits.
# - **Minutes:** 60, of which 3 are waiting
# - **Hardware:** two CPU cores and 4 GiB of memory; no GPU
# - **You need to know:** lessons 00 and 02; matrix products; the chain rule
#
# **Tensor cores**, the matrix units of NVIDIA's GPUs, multiply 8-bit integers (**int8**) at twice the rate of 16-bit floats by their datasheets, on GeForce cards at four times. **SwitchBack** trains with them. Lesson 04 builds it in three sittings, each of which runs alone: numbers (this one), [kernels](04_2_kernels.ipynb) and [speed](04_3_speed.ipynb).

# %% tags=["parameters"]
from labkit.runs import profiles

profile = profiles.current()
model_name = profiles.model()
number_of_samples = 1 if profile.name == "smoke" else 4
gradient_samples = 2 if profile.name == "smoke" else 24

# %% [markdown]
# ## Three products
#
# A linear layer has inputs $X$ (tokens × in), weights $W$ (out × in) and outputs $Y$ (tokens × out). $G$ is the gradient of the loss with respect to $Y$. A training step multiplies three times:
#
# $$ Y = X W^T \qquad dX = G W \qquad dW = G^T X $$
#
# All three take the same number of multiplications. They differ in what they sum over, the **inner dimension**: inputs, outputs, and tokens. SwitchBack computes the first two in int8 and *switches back* to 16 bits for the third.

# %% [markdown]
# ## One row by hand
#
# To make integers of a row, stretch it so that its largest magnitude, the **absmax**, becomes 127, and round:
#
# $$ q = \mathrm{round}\left( x \cdot \frac{127}{\mathrm{absmax}} \right) \qquad x \approx q \cdot \frac{\mathrm{absmax}}{127} $$

# %% tags=["nbval-check-output"]
import torch

row = torch.tensor([0.40, -2.00, 0.05, 0.007, 0.0, 1.30])
absmax = row.abs().max()
q = (row * (127 / absmax)).round().to(torch.int8)
back = q * absmax / 127

print("absmax   ", round(absmax.item(), 3))
print("integers ", q.tolist())
print("back     ", [round(v, 3) for v in back.tolist()])
print("error    ", [round(v, 3) for v in (back - row).tolist()])

# %% [markdown]
# The integers are marks on a ruler. One step of it is absmax / 127, and rounding is off by half a step at most. Numbers smaller than half a step become zero. So the largest number of the row decides how fine the ruler is for all of them.
#
# Rounding is *half to even*, as in IEEE arithmetic: 0.5 goes to 0, 1.5 to 2, 2.5 to 2. Always rounding halves up would push every sum a little upwards.

# %% tags=["nbval-check-output"]
halves = torch.arange(-3.5, 4.0)
for name, rounded in {"to even": halves.round(), "up": (halves + 0.5).floor()}.items():
    shift = (rounded - halves).mean().item()
    print(f"{name:8}", rounded.int().tolist(), "mean shift", shift)

# %% [markdown]
# ## Predict: one large number
#
# Take a row of 576 ordinary (Gaussian) numbers and multiply one of them by 30. What happens to the precision of the *others*?
#
# The measure is the **signal-to-noise ratio** of a result against the exact one. An error of a tenth of the signal is 20 dB, of a hundredth 40 dB:
#
# $$ \mathrm{SNR} = 10 \, \log_{10} \frac{\sum \mathrm{exact}^2}{\sum (\mathrm{exact} - \mathrm{int8})^2} \ \mathrm{dB} $$
#
# Write down the SNR you expect for an int8 product of ordinary rows, and for one with a single large **feature**: a column of X, one of the layer's inputs, for all tokens.

# %%
predicted_snr_ordinary = None
predicted_snr_with_outlier = None

# %% [markdown]
# ## Exercise: decibels
#
# *Easy, 5 minutes; useful.* Write the formula. Both arguments are tensors of one shape; return a number.
#
# <details><summary>Hint 1: energies</summary>
#
# Square before you add, and add over the whole tensor before you divide.
#
# </details>
#
# <details><summary>Hint 2: no error at all</summary>
#
# Python refuses to divide by zero; a tensor gives infinity, whose logarithm is infinity. So take the logarithm while it is still a tensor.
#
# </details>


# %%
def snr_db(exact: torch.Tensor, approximate: torch.Tensor) -> float:
    """Return the signal-to-noise ratio in decibels; infinity where there is no error."""
    ### BEGIN SOLUTION
    signal = exact.double().square().sum()
    noise_energy = (exact.double() - approximate.double()).square().sum()
    return 10 * torch.log10(signal / noise_energy).item()
    ### END SOLUTION


# %%
from labkit.checkpoints import check

check.exercise("snr_db", snr_db)

# %% [markdown]
# ## Exercise: rows of a matrix
#
# *Medium, 10 minutes; very important: everything below is made of this.* Quantise a matrix with a scale for each row. Return the integers as `torch.int8` and the absmax of each row as `torch.float32`.
#
# Two things happen in real models. Rows arrive as bfloat16, which has 8 bits of precision, too few to compute a scale in. And a padded token can be a row of zeros, which must make neither NaN nor infinity on the way.
#
# <details><summary>Hint 1: along the rows</summary>
#
# `x.float()` first. `.abs().amax(dim=1)` gives a number a row; `[:, None]` makes a column of it, to multiply rows with.
#
# </details>
#
# <details><summary>Hint 2: a row of zeros</summary>
#
# For a row of zeros 127 / absmax is infinite, and zero times infinity is not a number. Give absmax a tiny floor, but not so tiny that 127 over it is infinite again (below 4e-37): `.clamp_min(2.0**-100)`.
#
# </details>


# %%
def quantize_rowwise(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return int8 [M, K] and absmax float32 [M] of x [M, K]."""
    ### BEGIN SOLUTION
    x = x.float()
    absmax = x.abs().amax(dim=1).clamp_min(2.0**-100)
    scale = 127 / absmax
    integers = (x * scale[:, None]).round()
    return integers.to(torch.int8), absmax
    ### END SOLUTION


# %%
check.exercise("quantize_rowwise", quantize_rowwise)

# %% [markdown]
# ## Exercise: a product of integers
#
# *Medium, 10 minutes; important.* With integers $q$ and row scales $s$ (absmax) for both matrices,
#
# $$ \sum_k a_{mk} b_{nk} \;\approx\; \frac{s^a_m \, s^b_n}{127^2} \sum_k q^a_{mk} \, q^b_{nk} $$
#
# The scales come out of the sum because they do not depend on $k$, which is summed over. Use your `quantize_rowwise` (or labkit's: `from labkit.switchback.reference import quantize_rowwise`). The integers have to add up *exactly*: think about which type holds $127^2$, and a sum of thousands of those.
#
# <details><summary>Hint 1: which type</summary>
#
# int8 ends at 127 and int16 at 32,767. `torch.int32` holds the sum of 133,144 products of 127 · 127. Matrices of int32 can be multiplied with `@` like others, slowly.
#
# </details>
#
# <details><summary>Hint 2: which scale goes where</summary>
#
# The scale of row m of `a` multiplies row m of the result, that of row n of `b` its column n: `[:, None]` for one of them.
#
# </details>


# %%
def int8_matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return a·bᵀ as float32 [M, N], by way of int8; a is [M, K], b [N, K]."""
    ### BEGIN SOLUTION
    a_int8, a_absmax = quantize_rowwise(a)
    b_int8, b_absmax = quantize_rowwise(b)
    total = a_int8.int() @ b_int8.int().t()
    scales = a_absmax[:, None] * b_absmax[None, :] / 127**2
    return total.float() * scales
    ### END SOLUTION


# %%
check.exercise("int8_matmul", int8_matmul)

# %% [markdown]
# ## Measure: ordinary rows and an outlier
#
# Now labkit multiplies two random matrices exactly and in int8, for growing inner dimensions. In the second case one feature of the first matrix is 30 times larger, and the second matrix uses that feature 30 times less, as layers with such features learn to.

# %%
from labkit.switchback.teaching import figures, noise

inner = [64, 256, 1024, 4096, 16384]
ordinary = noise.noise_by_inner_dimension(inner)
with_outlier = noise.noise_by_inner_dimension(inner, outlier=30)

columns = {"inner": ",", "signal_rms": ".2f", "noise_rms": ".3f", "snr_db": ".1f"}
figures.print_table(ordinary, columns)
print("with one outlier feature:")
figures.print_table(with_outlier, columns)
print("predicted:", predicted_snr_ordinary, predicted_snr_with_outlier)

# %%
from labkit import plots

figure, axes = plots.new_figure(1, 2, width=9, height=3.4)
plots.show(figure, alt=figures.draw_noise(axes, ordinary, with_outlier))

# %% [markdown]
# ## Explain: six decibels
#
# A rounding error is spread evenly over one step, so its variance is step² / 12. Relative to numbers of **spread** $\sigma$, their root mean square, that is
#
# $$ \frac{\mathrm{noise}}{\mathrm{signal}} = \frac{1}{12} \left( \frac{\mathrm{absmax}}{127 \, \sigma} \right)^2 $$
#
# and only one quantity of it is yours to change: the **outlier factor** absmax / σ. Every doubling costs a factor of 4 in noise, which is 6 dB. Two quantised operands add their noise.

# %%
import math

for factor in (2, 4, 8, 16, 32, 64):
    one = 10 * math.log10(12 * 127**2 / factor**2)
    print(f"outlier factor {factor:>2}: {one:5.1f} dB, with two such operands {one - 3:5.1f} dB")

growth = ordinary[-1]["noise_rms"] / ordinary[0]["noise_rms"]
longer = inner[-1] / inner[0]
print(f"inner dimension × {longer:.0f}: noise × {growth:.1f}; √{longer:.0f} = {longer**0.5:.1f}")

# %% [markdown]
# The **noise** grows with the inner dimension, a little faster than its root: every term of a sum brings its own rounding error, and among more numbers the largest is larger, so the step is too. The **ratio** to the signal falls by a few decibels only, because the signal is a sum of independent random terms as well. In a real layer neither has to be so.

# %% [markdown]
# ## Predict: the weight gradient
#
# In a fine-tuning step of a real model, dW sums over the tokens of the batch. Suppose you compute it in int8 from 16 tokens, then from more and more. Is it more or less precise than Y of the same layer, in int8 as well, and does that change with the tokens?

# %%
predicted_dw_at_few_tokens = None  # "more precise than Y" or "less precise than Y"
predicted_dw_at_many_tokens = None

# %% [markdown]
# ## Exercise: the third product in int8
#
# *Medium, 10 minutes; important.* For each count in `tokens`, compute dW from the first so many rows of G and X, exactly (in float64) and in int8, and return the SNR. Your `snr_db` and `int8_matmul` do most of it.
#
# <details><summary>Hint 1: rows and columns</summary>
#
# `int8_matmul(a, b)` is a·bᵀ and sums over the columns of both. dW = Gᵀ·X sums over the rows. Which two matrices do you hand over?
#
# </details>
#
# <details><summary>Hint 2: a scale a feature</summary>
#
# With a = Gᵀ and b = Xᵀ, a·bᵀ is Gᵀ·X, and every *feature* gets a scale over the tokens. A scale for each token cannot come out of a sum over tokens.
#
# </details>


# %%
def weight_gradient_snr(g: torch.Tensor, x: torch.Tensor, tokens: list[int]) -> list[float]:
    """Return the SNR of dW = Gᵀ·X in int8 from the first tokens, for each count."""
    ### BEGIN SOLUTION
    decibels = []
    for count in tokens:
        some_g, some_x = g[:count], x[:count]
        exact = some_g.double().t() @ some_x.double()
        decibels.append(snr_db(exact, int8_matmul(some_g.t(), some_x.t())))
    return decibels
    ### END SOLUTION


# %%
check.exercise("weight_gradient_snr", weight_gradient_snr)

# %% [markdown]
# ## Measure: real activations
#
# The model answers questions on reports, as in lesson 02, and every linear layer is watched: its inputs X on the way forward, its gradients G on the way back. The products of each layer are computed exactly and in int8. Of a few layers X and G are kept whole, over more samples. (The weights of the embedded model were rounded to 4 bits once, as lesson 00 shows. "Exact" is the product of the weights as they are now.)

# %%
from labkit.datasets import encode, tatqa
from labkit.models import load, registry

folder = registry.resolve(model_name)
tokenizer = load.load_tokenizer(folder)
model = load.load_model(folder, dtype="float32")

candidates = tatqa.samples(tatqa.load("tables", "dev"))[:24]
encoded = [encode.encode(tokenizer, sample, max_length=512) for sample in candidates]
samples = sorted(encoded, key=lambda sample: len(sample["input_ids"]))
few, more = samples[:number_of_samples], samples[:gradient_samples]
for these in (few, more):
    print(len(these), "samples,", sum(len(s["input_ids"]) for s in these), "tokens")

# %%
last = model.config.num_hidden_layers - 1
kept = [
    f"model.layers.{depth}.{kind}"
    for depth in sorted({min(2, last), 2 * last // 3})
    for kind in ("self_attn.v_proj", "mlp.up_proj", "mlp.down_proj")
]
table = noise.layer_table(noise.study(model, few))
print(len(table), "linear layers watched")
layers = noise.study(model, more, keep=kept)
kept_table = noise.layer_table(layers)
gradients = {name: noise.weight_gradient_noise(layers[name]) for name in kept}

# %% [markdown]
# What you measured is kept beside your runs; the checkpoint below is held against it.

# %%
from labkit.runs import measurements

values = {"layers": noise.brief(table), "gradient_layers": noise.brief(kept_table)}
values["weight_gradients"] = gradients
measurements.keep("int8-layers", values, model=model_name, samples=gradient_samples).name

# %% tags=["result"]
figure, axes = plots.new_figure(2, 3, width=10, height=5.2, sharex=True, sharey=True)
alt = figures.draw_weight_gradients(figure, axes.flat, gradients, kept_table)
plots.show(figure, alt=alt)

# %%
figures.print_table(
    noise.below_y(gradients, kept_table), dict.fromkeys(["tokens", "layers", "below"], ",")
)
print("predicted:", predicted_dw_at_few_tokens, predicted_dw_at_many_tokens)
columns = {"precision": "s", "tokens": ",", "snr_db": ".1f", "wrong_sign": ".2%"}
figures.print_table(noise.over_layers(gradients), columns)

# %% [markdown]
# **This is the point of the sitting.** With few tokens the int8 weight gradients of most of these layers are more precise than Y. In most panels the blue line comes down as tokens are added, towards the black one or below it; `below` counts in how many layers it is below. The black one stays where it is: the width of a layer does not grow with the batch.

# %% [markdown]
# ## Explain: why SwitchBack switches back
#
# **The inner dimension of dW is batch × length.** That is the argument of Wortsman and others. Y and dX sum over a width of the layer, which stays what it is. dW sums over every token of the batch, and grows with it. And a ruler over tokens gets coarser with every token that has a larger gradient than all before it. Some tokens have gradients far above the rest, such as those of the answer, so in such layers the ratio can fall faster than that of the random matrices above.
#
# How far it falls differs between layers, in some it hardly does, and none of it makes training impossible by itself: an error of dW is drawn again at every step, like those of Y and dX. But of the three it is the one that grows with the batch, and the one that can reuse nothing of the others' int8: their integers of X and G have a scale for each token, which cannot come out of a sum over tokens, so both would be quantised once more, per feature. Without int8 nothing has to be done:
#
# **16 bits are there already.** X and G exist in 16 bits before anything is quantised, and the third product can take them as they are. The orange line that stays up shows what that is worth. The price is the speed-up of one product in three, and the [second sitting](04_2_kernels.ipynb) computes the ceiling that this leaves.
#
# And the share of wrong signs? Adam divides a gradient by its usual size, which makes the sign more important than in plain descent, but an entry whose sign is wrong is nearly always a small one, and Adam's average over steps has the last word. The table shows how small the share is.

# %% [markdown]
# ## Measure: where the outliers are
#
# Four maps of the model, a row for each kind of layer, a column for each block. **Light is where int8 has a hard time, in all four.** The first is the outlier factor of the inputs, in powers of two; the second what int8 leaves of Y. The lower two compare two ways to scale the weights: an absmax for each row (for dX, for each column), or one for the whole matrix.

# %%
figure, axes = plots.new_figure(4, 1, width=9, height=8, sharex=True)
plots.show(figure, alt=figures.draw_layers(figure, axes, table))

# %%
decibels = dict.fromkeys(["y_row_db", "y_tensor_db", "dx_row_db", "dx_tensor_db"], ".1f")
columns = {"kind": "s", "x_outlier": ".0f", "feature_use": ".2f", "w_outlier": ".0f"}
figures.print_table(noise.kind_table(table, figures.KINDS), columns | decibels)

# %% [markdown]
# `x_outlier` and `w_outlier` are the outlier factors of inputs and weights; `feature_use` is how much weight a layer gives to the input feature with the largest value, relative to a typical feature. `y_row_db` is the SNR of Y with a scale per row of W, `y_tensor_db` with one scale; `dx_row_db` and `dx_tensor_db` are the same of dX, with a scale per column. Every number is the median of the layers of a kind. Now over all layers: how many decibels one scale for W costs, and how many layers stay below 30 dB with each.

# %%
for row in noise.scale_table(table):
    print(f"{row['product']}: one scale costs {row['median_lost_db']:.1f} dB in the median layer,")
    print(f"    {row['most_lost_db']:.1f} dB in {row['worst_layer']}: ", end="")
    line = "row" if row["product"] == "y" else "column"
    print(f"{row['worst_row_db']:.1f} dB with a scale per {line}, ", end="")
    print(f"{row['worst_tensor_db']:.1f} with one")
    print(f"    layers under 30 dB: {row['layers_below_row']} with many scales, ", end="")
    print(f"{row['layers_below_tensor']} with one, of {len(table)}")
worst = max(table, key=lambda row: row["x_outlier"])
print(f"largest outlier factor of an input: {worst['x_outlier']:.0f}, in {worst['layer']}")
spread = sorted(row["g_spread"] for row in table)
print(f"largest over median gradient of a token: {spread[0]:.0f} to {spread[-1]:.0f}")

# %% [markdown]
# ## Explain: why a scale per row is the safer default
#
# **Inputs.** A few features of a few layers are far larger than the rest: some inputs of `down_proj`, and a feature of the **residual stream**, the sum that every block reads from and adds to; q, k and v all read it. Each token has a scale of its own, so one token's outlier harms that token only. Within a token SwitchBack's scales don't help, as a scale for each feature would not come out of the sum: the large feature sets the ruler for the others, unless it is multiplied apart from them in 16 bits, as LLM.int8() does, or divided by a constant by which its column of W is multiplied before both are quantised, as SmoothQuant does. `v_proj` shows what that can cost. It reads the same inputs as `q_proj` and `k_proj`, but compare `feature_use`: it uses the large feature much less than a typical one. So it is left with the small ones, on a ruler made for the large one.
#
# **Weights.** A single large weight sets the ruler for the whole matrix when there is one scale, and for its own row when there is a scale per row. A scale per row of $W$ works for Y, where the sum runs along the row. In dX the sum runs *across* the rows, and the scale has to come out of the sum, so W is quantised a second time, per column. With one scale the same integers, transposed, serve both products; that is what "one scale" is for. For pretraining from scratch, where weights start alike, it may be enough; a pretrained model comes with the weights it has.
#
# **Gradients.** G is scaled per token as well. The last line above says how far tokens are apart: where the largest gradient is more than 254 times the one of a typical token, one scale for all of G would round that token to zero.

# %% [markdown]
# ## Checkpoint
#
# Answer from your own measurements. This prints what you have of one layer; take any other. The second line and the table are there for the layers of the figure alone.

# %%
layer = kept[0]
for row in values["layers"] + values["gradient_layers"]:
    if row["layer"] == layer:
        print(row)
int8_rows = [row for row in gradients.get(layer, []) if row["precision"] == "int8"]
figures.print_table(int8_rows, {"tokens": ",", "snr_db": ".1f"})

# %% [markdown]
# **04.1** Take one layer, and of it X or W as one group of numbers on one ruler. What is its outlier factor, and what SNR does that allow an int8 product of two such operands? (The first line printed above has absmax and root mean square, `rms`.) Why is the layer's own `y_row_db` another?

# %%
check(
    "04.1",
    layer=None,
    group=None,  # "X" or "W"
    absmax=None,
    spread=None,
    outlier_factor=None,
    snr_db=None,
    explanation=None,
)

# %% [markdown]
# **04.2** Take one of the layers in the figure. What happens to the precision of its int8 weight gradient from few tokens to many, and where does it end beside Y? (Y over the same samples is in the second line printed above.)

# %%
check(
    "04.2",
    layer=None,
    tokens_few=None,
    tokens_many=None,
    few_db=None,
    many_db=None,
    lost_db=None,
    y_db=None,
    side=None,  # "below Y" or "above Y"
    explanation=None,
)

# %% [markdown]
# **04.3** Which layer loses most when its weights get one scale for the whole matrix, and by what factor does the energy of its noise, the sum of squares, grow? Answer for Y or for dX.

# %%
check(
    "04.3",
    layer=None,
    product=None,  # "Y" or "dX"
    row_db=None,
    tensor_db=None,
    lost_db=None,
    noise_factor=None,
    explanation=None,
)

# %% [markdown]
# ## What to remember
#
# - Quantising puts numbers on a ruler that the largest of the group sets. The group is the choice that matters: a token, a row, a matrix.
# - SNR falls 6 dB for every doubling of the outlier factor, absmax over spread. Real layers have outlier factors that random numbers never have.
# - Integers add exactly, and scales factor out of a sum only if they do not depend on what is summed over. That is why dX needs W quantised a second time.
# - dW sums over batch × length. In int8 it is precise for a few tokens and in most layers loses with larger batches, so it stays in 16 bits: nothing of the others' int8 could be used for it.

# %% [markdown]
# ## Further reading
#
# - M. Wortsman et al., *Stable and low-precision training for large-scale vision-language models*, 2023, [arXiv:2304.13013](https://arxiv.org/abs/2304.13013): SwitchBack, its three variants, and why the weight gradient is different.
# - T. Dettmers et al., *LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale*, 2022, [arXiv:2208.07339](https://arxiv.org/abs/2208.07339): outlier features, found and separated.
# - G. Xiao et al., *SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models*, 2022, [arXiv:2211.10438](https://arxiv.org/abs/2211.10438): large features divided down before quantisation, and their weights multiplied up.
# - [torchao, issue 1010](https://github.com/pytorch/ao/issues/1010): why int8 training there scales weights per row, and what its author expects of one scale in fine-tuning.
