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
# # 04 · SwitchBack: training in int8
#
# - **Goal:** build int8 training from one quantised row to a layer that trains, know what it costs in accuracy and where, write one of its GPU kernels, find seven mistakes that a published version of it made, and earn a speed-up on your own processor with an interval and a control.
# - **Minutes:** 110, of which 20 are waiting
# - **Hardware:** two CPU cores and 6 GiB of memory; no GPU; what one card said is read from a record
# - **You need to know:** lessons 00 and 02; matrix products; the chain rule
#
# Tensor cores multiply 8-bit integers at twice the rate of 16-bit floats. **SwitchBack** uses that for training. The library that carried it deleted it, so here you build it yourself.

# %% tags=["parameters"]
from labkit.runs import profiles

profile = profiles.current()
model_name = profiles.model()
number_of_samples = 1 if profile.name == "smoke" else 4
quick = profile.name == "smoke"

# %% [markdown]
# ## Three products
#
# A linear layer has inputs $X$ (tokens × in), weights $W$ (out × in) and outputs $Y$ (tokens × out). With the gradient of the loss $G$ for $Y$, a training step multiplies three times:
#
# $$ Y = X W^T \qquad dX = G W \qquad dW = G^T X $$
#
# All three have the same number of multiplications. They differ in what they sum over, the **inner dimension**: inputs, outputs, and tokens. SwitchBack computes the first two in int8 and *switches back* to 16 bits for the third. By the end of this lesson you can say why.

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
# One step of this ruler is absmax / 127, and rounding is off by half a step at most. Numbers smaller than half a step become zero. So the ruler is as fine as the largest number of the row allows, and no finer.
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
# The measure is the **signal-to-noise ratio** of a result against the exact one. 20 dB is an error of a tenth of the signal, 40 dB of a hundredth:
#
# $$ \mathrm{SNR} = 10 \, \log_{10} \frac{\sum \mathrm{exact}^2}{\sum (\mathrm{exact} - \mathrm{int8})^2} \ \mathrm{dB} $$
#
# Write down the SNR you expect for an int8 product of ordinary rows, and for one with a single large feature.

# %%
predicted_snr_ordinary = None
predicted_snr_with_outlier = None

# %% [markdown]
# ## Measure: ordinary rows and an outlier
#
# labkit multiplies two random matrices exactly and in int8, a scale per row, for growing inner dimensions. In the second case one feature of the first matrix is 30 times larger, and the second matrix uses that feature 30 times less, as layers with such features learn to.

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
figures.draw_noise(axes, ordinary, with_outlier)
alt = "Noise of an int8 product grows with its inner dimension; an outlier feature costs decibels."
plots.show(figure, alt=alt)

# %% [markdown]
# ## Explain: six decibels
#
# A rounding error is spread evenly over one step, so its variance is step² / 12. Relative to numbers of spread $\sigma$ that is
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
# Two things are worth keeping apart. The **noise** grows with the inner dimension, a little faster than its root: every term of a sum brings its own rounding error, and among more numbers the largest is larger. The **ratio** to the signal stays nearly the same here, because the signal is a sum of random terms as well. In a real layer neither has to be so. Look at one.

# %% [markdown]
# ## Predict: the weight gradient
#
# In a fine-tuning step of a real model, dW sums over the tokens of the batch. Suppose you compute it in int8 from 16 tokens, then from more and more. An optimizer such as Adam divides a gradient by its size, so what counts most is its sign. What share of the entries of dW has the wrong sign, and how does that share change with the number of tokens?

# %%
predicted_wrong_sign_percent = None
predicted_change_with_tokens = None  # "grows", "falls" or "stays"

# %% [markdown]
# ## Measure: real activations
#
# The model answers questions on reports, as in lesson 02, and every linear layer is watched: its inputs X on the way forward, its gradients G on the way back. The products of each layer are computed exactly and in int8. Of a few layers X and G are kept whole.

# %%
from labkit.datasets import encode, tatqa
from labkit.models import load, registry

folder = registry.resolve(model_name)
tokenizer = load.load_tokenizer(folder)
model = load.load_model(folder, dtype="float32")

candidates = tatqa.samples(tatqa.load("tables", "dev"))[:24]
encoded = [encode.encode(tokenizer, sample, max_length=512) for sample in candidates]
samples = sorted(encoded, key=lambda sample: len(sample["input_ids"]))[:number_of_samples]
print(number_of_samples, "samples,", sum(len(s["input_ids"]) for s in samples), "tokens")

# %%
last = model.config.num_hidden_layers - 1
kept = [
    f"model.layers.{depth}.{kind}"
    for depth in (2, 2 * last // 3)
    for kind in ("self_attn.v_proj", "mlp.up_proj", "mlp.down_proj")
]
layers = noise.study(model, samples, keep=kept)
table = noise.layer_table(layers)
gradients = {name: noise.weight_gradient_noise(layers[name]) for name in kept}
print(len(table), "linear layers watched")

# %%
figure, axes = plots.new_figure(1, 2, width=10, height=3.6)
figures.draw_weight_gradients(axes, gradients)
alt = "Noise and wrong signs of an int8 weight gradient grow with tokens; 16 bits have far fewer."
plots.show(figure, alt=alt)

# %%
columns = {"precision": "s", "tokens": "d", "snr_db": ".1f", "wrong_sign": ".2%"}
figures.print_table(noise.over_layers(gradients), columns)
print("predicted:", predicted_wrong_sign_percent, predicted_change_with_tokens)

# %% [markdown]
# ## Explain: why SwitchBack switches back
#
# **The inner dimension of dW is the batch.** Y and dX sum over the width of the layer, which is fixed and modest. dW sums over tokens: hundreds at most in the figure, tens of thousands in a real batch. Its noise grows all the way, mostly faster than the root of the number of tokens, because a row of $G^T$ now holds the gradients of *all* tokens, and some tokens have gradients far larger than the rest. One of them joins the sum, and the ruler of every other token gets coarser: that is where a line in the figure jumps.
#
# **An error in dW stays.** Errors of Y and dX are drawn again at every step. dW is added to the weights.
#
# So keep the decibels of the table in mind when you see those of Y below: at a few hundred tokens an int8 dW need not be noisier than Y. What decides is where the figure goes with the batch, and what an error does.
#
# **16 bits are there already.** X and G exist in 16 bits before anything is quantised, and the third product can take them as they are. What it costs is the speed-up of one product in three. The ceiling follows from that alone, with int8 at twice the rate:

# %% tags=["nbval-check-output"]
rate = 2
print(f"full training: {3 / (1 / rate + 1 / rate + 1):.2f} × at most")
print(f"frozen weights (LoRA): {2 / (1 / rate + 1 / rate):.2f} × at most, there is no dW")

# %% [markdown]
# ## Measure: where the outliers are
#
# Four maps of the model, a row for each kind of layer, a column for each block. Light is large. The first is the outlier factor of the inputs, in powers of two; the second what int8 leaves of Y. The lower two compare two ways to scale the weights: an absmax for each row, or one for the whole matrix.

# %% tags=["result"]
figure, axes = plots.new_figure(4, 1, width=9, height=8, sharex=True)
figures.draw_layers(figure, axes, table)
alt = "Maps of outlier factors and int8 accuracy, for each kind of layer and each block."
plots.show(figure, alt=alt)

# %%
decibels = dict.fromkeys(["y_row_db", "y_tensor_db", "dx_row_db", "dx_tensor_db"], ".1f")
columns = {"kind": "s", "x_outlier": ".0f", "feature_use": ".2f", "w_outlier": ".0f"}
figures.print_table(noise.kind_table(table, figures.KINDS), columns | decibels)

# %% [markdown]
# `x_outlier` and `w_outlier` are the outlier factors of inputs and weights; `feature_use` is how much weight a layer gives to the input feature with the largest value, relative to a typical feature. Now over all layers: how many decibels one scale for W costs, and how many layers stay below 30 dB with each.

# %%
for row in noise.scale_table(table):
    print(f"{row['product']}: one scale costs {row['median_lost_db']:.1f} dB in the median layer,")
    print(f"    {row['most_lost_db']:.1f} dB in {row['worst_layer']}: ", end="")
    print(
        f"{row['worst_row_db']:.1f} dB with a scale per row, {row['worst_tensor_db']:.1f} with one"
    )
    print(f"    layers under 30 dB: {row['layers_below_row']} per row, ", end="")
    print(f"{row['layers_below_tensor']} with one, of {len(table)}")
worst = max(table, key=lambda row: row["x_outlier"])
print(f"largest outlier factor of an input: {worst['x_outlier']:.0f}, in {worst['layer']}")
spread = sorted(row["g_spread"] for row in table)
print(f"largest over median gradient of a token: {spread[0]:.0f} to {spread[-1]:.0f}")

# %% [markdown]
# ## Explain: why a scale per row is the safer default
#
# **Inputs.** A few features of a few layers are far larger than the rest: some inputs of `down_proj`, and a feature of the residual stream that q, k and v all read. Each token has a scale of its own, so one token's outlier harms that token only. Within a token nothing can be done: the large feature sets the ruler for the others. `v_proj` shows what that can cost. It reads the same inputs as `q_proj` and `k_proj`, but compare `feature_use`: it all but ignores the large feature. So it is left with the small ones, on a ruler made for the large one.
#
# **Weights.** A single large weight sets the ruler for the whole matrix when there is one scale, and for its own row when there is a scale per row. A scale per row of $W$ works for Y, where the sum runs along the row. In dX the sum runs *across* the rows, and the scale has to come out of the sum, so W is quantised a second time, per column. That second pass is what "one scale" saves. For pretraining from scratch, where weights start alike, it may be enough; a pretrained model comes with the weights it has.
#
# **Gradients.** G is scaled per token as well. The last line above says how far tokens are apart: where the largest gradient is more than 254 times the one of a typical token, one scale for all of G would round that token to zero.

# %% [markdown]
# ## From products to a layer
#
# `SwitchBackLinear` is an `nn.Linear` with another forward and backward pass. `convert` replaces the layers of a model in place and keeps their parameters, so a checkpoint is the same before and after. How far does that move the model's predictions? The **Kullback-Leibler divergence** between the two distributions of the next token is zero when they agree and never negative. The loss would mislead you here: on a few answers, noise makes it better as often as worse.

# %%
from labkit.switchback import SwitchBackLinear, convert

exact = noise.next_token_logits(model, samples)
converted = convert(model, min_features=0)
changes = []
for scale in ("row", "tensor"):
    for module in model.modules():
        if isinstance(module, SwitchBackLinear):
            module.weight_scale = scale
    difference = noise.divergence(exact, noise.next_token_logits(model, samples))
    changes.append({"weight_scale": scale, **difference})

print(len(converted), "layers converted")
figures.print_table(changes, {"weight_scale": "s", "kl_nats": ".4f", "same_token": ".1%"})

# %% [markdown]
# This is the noise of all layers together, on a model that was never trained with it. Whether a model *trained* this way is as good is a question for whole trainings, with several seeds and a stated margin; its answer comes after the speed.
#
# Layers narrower than `min_features` stay as they are. Below a certain width quantising takes longer than int8 saves, so the default of `convert` would leave the embedded model alone.

# %% [markdown]
# ## Exercise: the kernel
#
# *Medium, 20 minutes.* On a GPU quantisation is a **kernel**. In Triton you write what *one program* does, and the program is started once for each row. It addresses memory by hand: a pointer plus an offset in elements.
#
# - `x_ptr`, `q_ptr`, `absmax_ptr` point to the first element of x (M × K), q (int8, M × K) and absmax (float32, M).
# - Row r of x begins `r * stride_x` elements after its first; row r of q begins `r * K` after.
# - `BLOCK_K` is a power of two, at least K. `tl.arange(0, BLOCK_K)` gives the column numbers, and a `mask` keeps loads and stores inside the row. What a masked load does not read becomes `other`.
# - Compute in float32. The absmax is at least `TINY`, so that a row of zeros divides nothing by zero. `round_to_int8(x)` rounds half to even.
#
# You need `tl.load(pointers, mask=…, other=…)`, `.to(tl.float32)`, `tl.abs`, `tl.max(…, axis=0)`, `tl.maximum(a, b)` and `tl.store(pointers, values, mask=…)`.

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
# No GPU is needed to check it. Triton's **interpreter** runs the kernel with NumPy, program by program, and every memory access is compared with the tensors it was given. Then the **compiler** turns the same source into machine code for two generations of NVIDIA GPUs, where its registers can be counted. A `print` inside the kernel works.

# %% tags=["nbval-check-output"]
from labkit.switchback.teaching.kernel_check import check_quantize_rowwise

kernel_is_right = check_quantize_rowwise(quantize_rowwise_kernel)

# %% [markdown]
# `labkit/switchback/triton_kernels.py` has the other kernels: tiles in two dimensions, a transposing one, and the product itself on int8 tensor cores. The tests compile them for compute capabilities 8.0, 8.6, 8.9 and 9.0 and look for the int8 instruction in the result. On compute capability 9.0 large products have a kernel of their own, `labkit/switchback/triton_hopper.py`. What they did on a card comes below, beside the published figures.

# %% [markdown]
# ## Exercise: find the bug
#
# *Hard, 25 minutes.* SwitchBack came with a well-known library, ran in published experiments, and was wrong in seven ways. Each cell below shows one of them, written anew in a few lines; everything else in the code is right. Read it, write down the line and what goes wrong, and only then run the cell after it. It prints what must hold, what the code does instead, and that labkit's version passes.
#
# Helpers: `reference` is the exact arithmetic of this lesson, `sound_linear` a linear layer that is right.

# %% tags=["nbval-check-output"]
from labkit.switchback.teaching import defects

defects.show(1)
bug_1 = None

# %%
defects.reveal(1)

# %% tags=["nbval-check-output"]
defects.show(2)
bug_2 = None

# %%
defects.reveal(2)

# %% tags=["nbval-check-output"]
defects.show(3)
bug_3 = None

# %%
defects.reveal(3)

# %% tags=["nbval-check-output"]
defects.show(4)
bug_4 = None

# %%
defects.reveal(4)

# %% tags=["nbval-check-output"]
defects.show(5)
bug_5 = None

# %%
defects.reveal(5)

# %% tags=["nbval-check-output"]
defects.show(6)
bug_6 = None

# %%
defects.reveal(6)

# %% [markdown]
# The last one is the test that let the other six pass.

# %% tags=["nbval-check-output"]
defects.show(7)
bug_7 = None

# %%
defects.reveal(7)

# %% [markdown]
# ## What others measured
#
# The original came with timings of single layers on an A100, and the project this course grew from with whole trainings on an A40. Both are shown as ratios, 16-bit time over SwitchBack time. Time *saved*, which the original plots, is another number for the same thing: a third saved is a ratio of 1.5. Nothing here was measured by this course.

# %% tags=["nbval-check-output"]
layer_ratios, training_ratios = figures.published_rows(tatqa.data_dir())

columns = {"width": "d", "tokens": ",", "ratio_tensor": ".2f", "ratio_row": ".2f"}
figures.print_table(layer_ratios, columns | {"quantize_share": ".0%"})
figures.print_table(training_ratios, {"data": "s", "ratio": ".3f", "saving": ".1%"})

# %%
figure, axes = plots.new_figure(1, 2, width=9, height=3.8)
figures.draw_published(axes, layer_ratios, training_ratios)
alt = "Published ratios of time: single layers on an A100, and whole trainings on an A40."
plots.show(figure, alt=alt)

# %% [markdown]
# Read the left half from left to right. Quantising costs time in proportion to the *size* of the matrices, and saves in proportion to their *product*, so wide layers and many tokens gain most, and a narrow layer with few tokens loses. The gap between the halves is the second lesson: a whole training also has attention, norms, an optimizer, data, and Python, none of which is any faster. A layer's ratio says what is possible, a training's ratio what you get.

# %% [markdown]
# ## Measure: the same on a card of today
#
# `labkit bench gpu` asks a GPU all that this course says of GPUs, in eight minutes. Where a record of it lies in `data/results`, this is what it says of the kernels: whether they equal the reference, the ratio of a layer's step with its control, and of a whole training's.

# %%
from labkit.bench.gpu import reading

card = reading.read()
print(*reading.lines(card, "kernels", "layer step", "training step"), sep="\n")

# %%
parts = reading.layer_parts(card, width=2048, tokens=32768)
shares = dict.fromkeys(["bf16_share", "int8_share", "quantizing"], ".0%")
ratios = dict.fromkeys(["of_parts", "at_equal_share"], ".2f")
figures.print_table(parts, {"layer": "s", **shares, **ratios})

# %% [markdown]
# The ceiling of 1.5 takes int8 at twice the rate. A datasheet gives int8 twice the rate; what counts is how much of it a kernel reaches. `bf16_share` and `int8_share` are the shares of the card's peak that the products reach, timed apart: on the A100 of the published figures the two were about equal. Where the int8 share is the smaller one, part of the factor of two is gone before anything is quantised; `at_equal_share` is what the layer would gain without that, and `quantizing` the share of the step that making integers takes. So a ratio measured on one generation of cards is no promise for the next: bfloat16 products of a vendor's library get better as well.
#
# Two more readings. A training gains less than its layers, as it did on the A40. And a claim that does not hold stays in the record beside those that do, with the parts from which you can say why.

# %% [markdown]
# ## Predict: int8 on this machine
#
# Now for your own processor. `labkit/switchback/cpu_kernels.cpp` does in C++ what you have done by hand: it scales, rounds and orders a matrix in one pass, and multiplies with the best int8 instructions that the processor has: those of a matrix unit (**AMX**), of wide vectors (**VNNI**), or, on any processor of the last ten years, 16-bit ones (`cpu_avx2.cpp`). Its integers are those of the reference, bit for bit. What it is worth is a question of time, so it gets the fastest opponent there is on this machine: `nn.Linear` in float32 or in bfloat16, as it is, under `torch.compile`, or with its weights in the layout that the processor wants, whichever is fastest at that size. Where SwitchBack computes dW with a kernel of labkit's own, its opponent gets that kernel too: otherwise the ratio would count as int8's what is that kernel's, and could exceed the ceiling above. (The figures in `data/results/switchback_bench.json` are older: their opponent was the fastest 16-bit way *without* that kernel.)
#
# The layers are those of TinyLlama-1.1B, such as 2048 → 2048. Write down the ratio (the opponent's time over int8's time) that you expect for that layer's whole step, with few tokens and with many, and for a whole fine-tuning step of a model of such layers.

# %%
predicted_ratio_256_tokens = None
predicted_ratio_4096_tokens = None
predicted_ratio_end_to_end = None

# %% [markdown]
# ## Measure: where the time goes
#
# First every part of a step apart. What is measured stays in `runs/bench`: run this again, or `labkit bench kernels` and `labkit bench switchback` in a terminal, and you get it at once. The first time it takes a quarter of an hour in all. Leave the machine alone meanwhile.

# %%
from labkit.bench.paired import interval
from labkit.bench.switchback import grid as bench
from labkit.bench.switchback import misread, report
from labkit.runs import records

grid = bench.quick_grid(tokens=(16,)) if quick else bench.Grid()
folder = records.runs_dir() / "bench"
parts = bench.kernels(grid, output_dir=folder)
print("backend:", parts["rows"][0]["backend"])

# %%
chosen = [row for row in parts["rows"] if row["tokens"] in (grid.tokens[0], grid.tokens[-1])]
figure, axes = plots.new_figure(1, 2, width=11, height=3.6)
few, many = (chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :])
alt = " ".join(report.draw_parts(ax, rows) for ax, rows in zip(axes, (few, many), strict=True))
axes[0].get_legend().remove()
plots.show(figure, alt=alt)

# %%
quantising = ("quantise X and G", "quantise and order W")
shares = []
for row in parts["rows"]:
    taken = report.step_parts(row, int8=True)
    shape = f"{row['in_features']}→{row['out_features']}"
    share = sum(taken[part] for part in quantising) / sum(taken.values())
    dw = taken["dW in 16 bit"] / sum(taken.values())
    shares.append({"tokens": row["tokens"], "shape": shape, "quantising": share, "dW": dw})
figures.print_table(shares, {"tokens": ",", "shape": "s", "quantising": ".0%", "dW": ".0%"})

# %% [markdown]
# Two costs, two laws. Quantising reads and writes matrices: its time grows with tokens × width for X and G, and with width × width for W, however few tokens there are. A product's time grows with tokens × width × width. So the share of quantising falls with tokens and with width, and dW, in 16 bits, is what remains.

# %% [markdown]
# ## Measure: where int8 wins and where it loses
#
# Whole steps of a layer now: forward pass, dX, dW, and all quantising. A **run** is a few steps, of which the first is dropped and the median of the others counts. In every **round** each side runs once, in turns: A B, then B A, so that a machine that grows slower is slower for both. A round is a process of its own, because where in memory a layer happens to lie makes it faster or slower for as long as it lives. And A takes part twice, as A and as A': the **control**. The ratio of A to itself has to come out as 1.

# %%
outcome = bench.switchback(grid, output_dir=folder)
figure, axes = plots.new_figure(2, 2, width=8.6, height=5.2, sharex=True, sharey=True)
alt = report.draw_heatmaps(figure, axes.flat, outcome["rows"])
plots.show(figure, alt=alt)

# %%
print(*report.control_lines(outcome["rows"]))
for mode in ("full", "frozen"):
    rows = [row for row in outcome["rows"] if row["mode"] == mode]
    best = max(rows, key=lambda row: row["ratio"]["value"])
    print(f"{mode}: at best {interval(best['ratio'])}, {bench.name_of(best)},")
    print(f"    against {best['baseline']}; int8 wins at", end=" ")
    print(sum(report.verdict(row) == "faster" for row in rows), "and loses at", end=" ")
    print(sum(report.verdict(row) == "slower" for row in rows), f"of {len(rows)} sizes")
print("predicted:", predicted_ratio_256_tokens, predicted_ratio_4096_tokens)

# %% [markdown]
# A "≈" in the map stands for a size where no difference was found. With so many sizes some would differ by chance alone, so the p-values are adjusted for their number (Holm). The same goes for the controls: one or two in twenty-four are expected to miss 1.
#
# And beside the A100? The MLP layers of the same width, both directions together:

# %%
widest = max(row["out_features"] for row in outcome["rows"])
width = 2048 if widest > 2048 else 64
compared = report.by_tokens(outcome["rows"], layer_ratios, width=width)
columns = {"where": "s", "tokens": ",", "ratio_row": ".2f", "ratio_tensor": ".2f"}
figures.print_table(compared, columns)

# %% [markdown]
# On both machines the ratio grows with the tokens and stays below the ceiling. They need not agree: the A100's figures are parts timed apart and added up, yours are whole steps, and its opponent was the plain 16-bit product alone.

# %% [markdown]
# ## Measure: a whole fine-tuning step
#
# A model with TinyLlama's widths, a few of its 22 layers and as much less of its vocabulary is trained with and without SwitchBack. Every run is a new process that trains on the same tokens from the same weights. This is the number to quote.

# %% tags=["result"]
end = outcome["end_to_end"]
print(report.end_to_end_line(end))
print("predicted:", predicted_ratio_end_to_end)
figure, ax = plots.new_figure(width=8.4, height=2.6)
plots.show(figure, alt=report.draw_pairs(ax, end))

# %%
big = [r for r in outcome["rows"] if r["mode"] == "full" and r["weight_scale"] == "row"]
layer = max(row["ratio"]["value"] for row in big)
share = report.implied_share(end["ratio"]["value"], layer)
if share is None or share < 0:
    print("nothing is gained here, so there is no share to speak of")
else:
    print(f"a layer gains {layer:.2f}× at best and a step {end['ratio']['value']:.2f}×:")
    print(f"as if {share:.0%} of the step were such layers")
published = [row["ratio_row"] for row in layer_ratios if row["width"] == 2048]
print(f"published: {max(published):.2f}× for a layer of 2048 on an A100,", end=" ")
print(f"{training_ratios[0]['ratio']:.2f}× for a training on an A40")

# %% [markdown]
# **Amdahl's law** says the same with a formula: if a share $f$ of the time gains a factor $r$, the whole gains $1 / (1 - f + f / r)$. The rest of the step (attention, norms, loss, casting, the optimizer) takes as long as before.

# %% [markdown]
# ## Measure: is the model as good?
#
# A faster step is worth nothing if it leaves a worse model. "No significant difference" would be no answer: with few questions nothing is ever significant. So the claim is turned round. A margin is chosen beforehand, here five points of exact match; the difference has to lie within it with 95 % confidence on either side, which is a 90 % interval that stays inside.
#
# Training both ways on three seeds takes hours, so the course did it for you: the embedded model, every weight trained, 210 linear layers in 16 bit or in int8, the same batches on both sides, and the questions of the test split. The record holds which of them each model has right; the test is made here, from those.

# %%
from labkit.bench.records import equal_quality

quality = equal_quality.read(tatqa.data_dir() / "results" / "switchback_quality.json")
print(equal_quality.sentence(quality, a="16 bit", b="int8"))
print(f"{quality['all']['n']} questions, {len(quality['seeds'])} seeds a side")
figure, ax = plots.new_figure(width=7.2, height=2.6)
plots.show(figure, alt=equal_quality.draw(ax, quality, a="16 bit", b="int8"))

# %% [markdown]
# Two seeds of the *same* arithmetic differ as well, because rounding makes trainings drift apart as another seed would. That is why one run a side says so little, and why intervals of single seeds are wider than that of their mean. `data/results/README.md` has the commands that made the record.

# %% [markdown]
# ## Explain: how the same numbers would have lied
#
# A and A' are the same program. Which of them is called A is chance, so you can toss a coin in every round and swap them: an experiment in which there is nothing to find, made of real measurements of your machine. Do that a few hundred times, test each time, and count how often something is "found" at p < 0.05. An honest test does so in 5 of 100. (With few pairs there are few ways to toss, sixteen for four, and the shares are coarse.)

# %%
alarms = misread.false_alarms(end["runs"], trials=100 if quick else 400)
figure, ax = plots.new_figure(width=7.2, height=2.6)
plots.show(figure, alt=misread.draw_false_alarms(ax, alarms))

# %%
figures.print_table(misread.mistakes(end["runs"], "switchback"), {"how": "s", "ratio": ".3f"})
spread = misread.summary(end["runs"])
print(f"{spread['between']:.0%} of the variance lies between the {spread['runs']} runs,")
print(f"the rest between the {spread['steps']} steps of each")

# %% [markdown]
# **Steps as runs.** Steps of one process share its place in memory and whatever else ran just then. Where much of the variance lies between runs, a hundred steps of one run tell you about that run. The test counts them as a hundred independent witnesses.
#
# **Looking early.** Testing after every pair and stopping at the first success gives chance as many tries as there are pairs. Decide the number of pairs first; `labkit stats` says how large a difference they can find.
#
# **One side after the other.** "A first, A' later" is the ratio of a thing to itself, an hour of other people's jobs apart. Taking turns costs nothing.
#
# **Warm-up, and the luckiest pair.** The first step allocates, packs and compiles, once in a training of thousands of steps. And with enough pairs one of them is always impressive.
#
# **No control.** Without A' you would have no way to know which of these happened to you. With it, you know before you look at B.
#
# `labkit stats A B` makes the honest test of runs that you already have: two folders of labkit's records, Trainer logs, or lm-eval results. It refuses to compare what is not the same work.

# %% [markdown]
# ## Checkpoint
#
# Answer from your own measurements, above. The third can be answered for Y or for dX.

# %% [markdown]
# **04.1** Take one group of numbers that gets a scale of its own. What is its outlier factor, and what SNR does that allow? Which of your measurements shows it?

# %%
from labkit.checkpoints import check

check("04.1", absmax=None, spread=None, outlier_factor=None, snr_db=None, explanation=None)

# %% [markdown]
# **04.2** How does the share of wrong signs in an int8 weight gradient change with the tokens that are summed, and how does it compare with 16 bits? Why?

# %%
check(
    "04.2",
    tokens_few=None,
    tokens_many=None,
    int8_few_percent=None,
    int8_many_percent=None,
    sixteen_bit_percent=None,
    growth=None,
    explanation=None,
)

# %% [markdown]
# **04.3** Which layer loses most when its weights get one scale for the whole matrix, and how much larger does its noise become?

# %%
check(
    "04.3",
    layer=None,
    row_db=None,
    tensor_db=None,
    lost_db=None,
    noise_factor=None,
    explanation=None,
)

# %% [markdown]
# **04.4** A GPU multiplies int8 faster than 16 bit by some factor, say four. What is the ceiling for full training, and what for LoRA? (Change `rate` above.)

# %%
check("04.4", rate=None, full_ceiling=None, frozen_ceiling=None, explanation=None)

# %% [markdown]
# **04.5** How much faster is a whole fine-tuning step with SwitchBack on this machine? Quote it so that someone else can believe it. The verdict is "faster", "slower", "no difference found", or, where the control misses 1, "cannot be told".

# %%
check(
    "04.5",
    baseline_seconds=None,
    switchback_seconds=None,
    ratio=None,
    low=None,
    high=None,
    control_low=None,
    control_high=None,
    verdict=None,
    explanation=None,
)

# %% [markdown]
# ## What to remember
#
# - Quantising puts numbers on a ruler that the largest of the group sets. The group is the choice that matters: a token, a row, a matrix.
# - SNR falls 6 dB for every doubling of the outlier factor, absmax over spread. Real layers have outlier factors that random numbers never have.
# - Integers add exactly, and scales factor out of a sum only if they do not depend on what is summed over. That is why dX needs W quantised a second time.
# - dW sums over the whole batch and is kept for good, so it stays in 16 bits; that caps the speed-up of full training.
# - A speed-up is a ratio with an interval, over paired runs in turns, against the fastest alternative, beside a control that comes out as 1. A layer's ratio is not a training's.
# - A bug that gives right numbers in the test is the rule, not the exception. Try zeros, odd shapes, other dtypes, other layouts, and edit what was saved.

# %% [markdown]
# ## Further reading
#
# - M. Wortsman et al., *Stable and low-precision training for large-scale vision-language models*, 2023, [arXiv:2304.13013](https://arxiv.org/abs/2304.13013): SwitchBack, its three variants, and why the weight gradient is different.
# - T. Dettmers et al., *LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale*, 2022, [arXiv:2208.07339](https://arxiv.org/abs/2208.07339): outlier features, found and separated.
# - [bitsandbytes](https://github.com/bitsandbytes-foundation/bitsandbytes), folder `benchmarking/switchback`: the A100 timings. It carried SwitchBack up to version 0.49.2.
# - T. Kalibera and R. Jones, *Rigorous Benchmarking in Reasonable Time*, ISMM 2013; T. Mytkowicz et al., *Producing Wrong Data Without Doing Anything Obviously Wrong!*, ASPLOS 2009: how measurements of speed go wrong.
# - [torchao, issue 1010](https://github.com/pytorch/ao/issues/1010): why int8 training there scales weights per row, and what its author expects of one scale in fine-tuning.
# - P. Tillet et al., *Triton: an intermediate language and compiler for tiled neural network computations*, MAPL 2019; tutorials at [triton-lang.org](https://triton-lang.org).
