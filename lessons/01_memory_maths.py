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
# # 01 · Memory maths: what fits on my card
#
# - **Goal:** say before you start how much memory a fine-tune takes, part by part, on a card you don't have; know which part to shrink when it does not fit; hold your formula against a trace, a real step and published figures.
# - **Minutes:** 90, of which 5 are waiting
# - **Hardware:** two CPU cores and 5 GiB of memory; a GPU is used when there is one
# - **You need to know:** lesson 00; what a gradient and an optimizer are
#
# Most answers to "does it fit?" multiply the parameters by a constant. You start with the best known of these rules, find out what it leaves out and what it counts too often, and end with three columns to compare: a **formula**, a **trace** of the real model's step with tensors that have shapes and no storage, and a **measurement**.

# %% tags=["parameters"]
from labkit.memory import estimates
from labkit.runs import profiles

profile = profiles.current()
model_name = profiles.model()
device_here = estimates.this_device()
batch_size, seq_len = (1, 64) if profile.name == "smoke" else (4, 256)
published_count = 3 if profile.name == "smoke" else None

# %% [markdown]
# ## Eighteen bytes per parameter, says the rule
#
# | word | meaning |
# |---|---|
# | **step** | one round of training: a forward pass, a backward pass, a change of the weights |
# | **full fine-tuning** | training every weight of the model, not a chosen few |
# | **gradient** | how much the loss changes with a weight; the backward pass makes one number for each weight that is trained |
# | **optimizer** | what turns gradients into changes of the weights; AdamW remembers two numbers for each weight to do so |
# | **states** | all that is kept per parameter, however much data there is: weights, gradients, what the optimizer remembers |
# | **fp32**, **16 bit** | number formats of four and of two bytes; 16 bit is `bfloat16` here |
#
# Training in **mixed precision** multiplies matrices in 16 bits, because that is fast, and changes the weights in 32, because a small update added to a 16-bit number is rounded away. With AdamW, each trained parameter is then there in five forms:

# %% tags=["nbval-check-output"]
from labkit.memory.formula import RULE_OF_18

for line, size in RULE_OF_18.items():
    print(f"{size:>2}  {line}")
print(f"{sum(RULE_OF_18.values()):>2}  bytes per parameter")

# %% [markdown]
# - The **weight in fp32** is the one that is stepped.
# - Its **16-bit copy** is what the matrix products read. It is made anew in every forward pass and kept until the backward pass has used it.
# - The **gradient** has the type of the weight it belongs to, so 4 bytes.
# - AdamW keeps a running mean of the gradient and one of its square: the **two moments**, 4 bytes each.
#
# You will meet this list with other labels. One that is often copied calls the last two bytes "activations". That can't be right: activations depend on how many tokens are in the batch, and not on how many parameters the model has. Another sum says that 7 billion parameters with 16-bit weights and 8-bit Adam take (2 + 2) · 7 = 28 GB. Count the lines: weights 2, moments 1 + 1. Which one is missing?

# %% tags=["nbval-check-output"]
from labkit.memory.calculator import parameters_of

GIB = 2**30
print(f"{'':12}{'parameters':>15}{'18 bytes':>12}{'':>12}{'(2 + 2)':>10}{'with gradients':>16}")
for name in ("llama-2-7b", "llama-3-8b"):
    n = parameters_of(name)
    rule, short, whole = 18 * n, (2 + 2) * n, (2 + 2 + 2) * n
    print(
        f"{name:12}{n:>15,}{rule / 1e9:>9.1f} GB{rule / GIB:>8.1f} GiB"
        f"{short / 1e9:>7.1f} GB{whole / 1e9:>13.1f} GB"
    )

# %% [markdown]
# The gradients: two more bytes per parameter, half as much again. And mind the two units of the second and third column. A card of "80 GB" has 80 GiB of memory chips; a table that prints $10^9$ bytes and a limit in $2^{30}$ bytes are seven percent apart, which can be the difference between fitting and not fitting.
#
# The rule says what each trained parameter needs. It does not say that all five forms are there at the same moment, and it says nothing of what a batch adds. This lesson measures both.
#
# ## LoRA in a hundred words
#
# > A linear layer multiplies by a matrix $W$ with $n$ columns and $m$ rows. **LoRA** freezes $W$ and trains a *change* of it, written as a product of two narrow matrices: the layer computes $W x + c\,B A x$, where $A$ is $r \times n$, $B$ is $m \times r$, $c$ is a constant, and the **rank** $r$ is about ten where $n$ and $m$ are thousands. A layer trains $r (n + m)$ numbers in place of $n \cdot m$. What is frozen needs neither gradient nor moments, and is kept in 16 bits (32 where a machine computes in float32). The two **factors** $A$ and $B$ together are an **adapter**; here they are in fp32. **QLoRA** also keeps the frozen matrices in 4 bits. In lesson 02 you write one.

# %% [markdown]
# ## Predict: what does the batch add?
#
# | word | meaning |
# |---|---|
# | **sample**, **batch** | one training text; the samples that go through a step together |
# | **activations** | what the forward pass computes and keeps because the backward pass needs it |
# | **logits** | what the last layer computes: a number for each token of the vocabulary, at every position |
# | **peak** | the most memory that is taken at any moment of a step |
#
# Write down, in GiB, before you go on:
#
# 1. the peak of full fine-tuning of Llama 3 8B, one sample of 1,024 tokens,
# 2. the peak of LoRA on the same model and sample,
# 3. the part that takes most when LoRA runs with four such samples.

# %%
predicted_full_gib = None
predicted_lora_gib = None
predicted_largest_part = None

# %% [markdown]
# ## Exercise: the states
#
# *Medium, 15 minutes; very important.* Write what the states take, without the 16-bit copies: `states_bytes(linears, others, method, r)` returns three numbers of bytes, for weights, gradients, and what the optimizer keeps. `linears` has a pair (n, m) for each matrix of the layers, `others` is the number of all other parameters (embeddings, norms), and `r` is the rank of the factors.
#
# | method | weights | trained |
# |---|---|---|
# | `"full"` | all in fp32 | all; gradients and both moments of AdamW in fp32 |
# | `"full in 16 bit"` | all in 16 bits | all; gradients and both moments in 16 bits |
# | `"lora"` | all in 16 bits, and the factors of every matrix in fp32 | the factors; gradients and moments in fp32 |
# | `"qlora"` | the matrices in 4 bits each, with one scale of 4 bytes for every 64 weights, the others in 16 bits; factors as in LoRA | as in LoRA |
#
# The QLoRA of `labkit estimate`, which is traced below, takes somewhat less than this table's: its factors are in 16 bits, and its scales are quantised once more.
#
# <details><summary>Hint 1: count first, then multiply</summary>
#
# Two counts are enough for everything: the weights in all matrices, and the numbers in all factors. Each result is one of them, or a sum, times bytes.
#
# </details>
# <details><summary>Hint 2: a scale for 64 weights</summary>
#
# 4 bytes shared by 64 weights are half a bit for each, so a 4-bit weight takes 4.5 bits.
#
# </details>


# %%
def states_bytes(linears, others, method, r=16):
    """Return the bytes of (weights, gradients, optimizer state) of a fine-tune."""
    ### BEGIN SOLUTION
    in_matrices = sum(n * m for n, m in linears)
    in_factors = sum(r * (n + m) for n, m in linears)
    everything = in_matrices + others
    if method == "full":
        return 4 * everything, 4 * everything, 8 * everything
    if method == "full in 16 bit":
        return 2 * everything, 2 * everything, 4 * everything
    frozen = 2 * everything
    if method == "qlora":
        frozen = in_matrices * 4.5 / 8 + 2 * others
    return frozen + 4 * in_factors, 4 * in_factors, 8 * in_factors
    ### END SOLUTION


# %%
from labkit.checkpoints import check

states_written = check.exercise("states_bytes", states_bytes)
states_written

# %%
from labkit.memory.architectures import shape_of
from labkit.memory.settings import StepSettings

shape = shape_of(StepSettings(model="llama-3-8b"))
matrices = [(each.inputs, each.outputs) for each in shape.linears] * shape.layers
others = parameters_of("llama-3-8b") - sum(n * m for n, m in matrices)

if states_written:
    print(f"{'llama-3-8b':16}{'weights':>9}{'gradients':>11}{'optimizer':>11}{'GiB':>8}")
    for method in ("full", "full in 16 bit", "lora", "qlora"):
        parts = [part / GIB for part in states_bytes(matrices, others, method)]
        print(f"{method:16}{parts[0]:>9.1f}{parts[1]:>11.1f}{parts[2]:>11.1f}{sum(parts):>8.1f}")

# %% [markdown]
# ## Measure: three columns on your machine
#
# First a model that your machine can train. **Analytic** is the formula. **Traced** runs the real model class, with its adapters and the optimizer, on fake tensors, which have shapes and no numbers: PyTorch decides what is kept for the backward pass, and the course only adds up the storages. **Measured** runs the same step on real tensors and asks the **allocator**, the part of PyTorch that hands out memory. The rows of the table are the parts of this lesson; those you have not met yet come below. The measurement tells apart only what is there between two steps, so its other rows have a dash: compare the parts of formula and trace, and the peaks of all three.

# %%
from labkit.memory.report import render

columns = {}
for method in ("full", "lora"):
    predicted = estimates.estimate(
        model_name, device=device_here, method=method, batch_size=batch_size, seq_len=seq_len
    )
    columns[method] = estimates.measured_column(predicted)

print(render(columns["full"]))

# %%
print(render(columns["lora"]))

# %%
from labkit.runs import measurements

for method, result in columns.items():
    peaks = result.peak_bytes
    for column in ("analytic", "traced"):
        error = 100 * (peaks[column] / peaks["measured"] - 1)
        print(f"{method:5} {column:9} {peaks[column]:>14,} bytes   {error:+.2f} %")
    print(f"{method:5} measured  {peaks['measured']:>14,} bytes")
    measurements.keep(
        "step_memory",
        {f"{column}_bytes": peaks[column] for column in ("analytic", "traced", "measured")},
        model=model_name, method=method, batch_size=batch_size, seq_len=seq_len,
    )  # fmt: skip

# %% [markdown]
# ## Explain: parts that meet and parts that don't
#
# The errors above are those of the two predictions against the measured peak. The rows of a table do not add up to its peak, because a step is a sequence of moments:
#
# 1. **The forward pass ends.** All activations are there, the 16-bit copies of the weights that the products read (none where your table says `assumed: float32`), and the logits on top of them. There are no gradients yet.
# 2. **The backward pass** gives back activations and copies, layer by layer, while gradients come.
# 3. **The optimizer steps.** All gradients are there, and neither activations nor copies.
#
# So the peak is the highest moment:
#
# $$ \mathrm{peak} = \mathrm{weights} + \mathrm{optimizer} + \max(\mathrm{copies} + \mathrm{activations} + \mathrm{logits},\ \mathrm{gradients}) $$
#
# This leaves out the tensors that an operation makes for itself and drops again. The sum of all parts is more than the peak; the states alone are less, as soon as the batch grows.

# %% [markdown]
# ## Exercise: the peak
#
# *Easy, 5 minutes; important.* Write that formula down as code. All arguments are bytes.
#
# <details><summary>Hint 1: outside of the max</summary>
#
# Which parts are there at both moments? They stand outside of the `max`.
#
# </details>
# <details><summary>Hint 2: small numbers</summary>
#
# Try it on numbers that you can add in your head: `peak_bytes(7, 3, 5, 10, 4, 2)` has the moments 7 + 5 + 3 + 4 + 2 and 7 + 5 + 10.
#
# </details>


# %%
def peak_bytes(weights, copies, optimizer_state, gradients, activations, logits):
    """Return the highest moment of a step, in bytes."""
    ### BEGIN SOLUTION
    return weights + optimizer_state + max(copies + activations + logits, gradients)
    ### END SOLUTION


# %%
check.exercise("peak_bytes", peak_bytes)

# %% [markdown]
# ## Measure: Llama 3 8B on a card you don't have
#
# The trace allocates nothing, so the size of the model does not matter. Layers are alike: three and four of them are traced, each moment of the step is extrapolated on its own, and the highest is taken last.

# %%
card = "a100-80gb"
big = {
    "full": {"method": "full"},
    "full, 16-bit weights, 8-bit AdamW": {
        "method": "full",
        "master_weights": False,
        "optim": "adamw_bnb_8bit",
    },
    "LoRA": {"method": "lora"},
    "QLoRA": {"method": "qlora"},
}
if profile.name == "smoke":
    big = {label: big[label] for label in ("full", "LoRA")}
one_sample = {
    label: estimates.estimate("llama-3-8b", device=card, batch_size=1, seq_len=1024, **choices)
    for label, choices in big.items()
}
for label, result in one_sample.items():
    print(f"{label:36}{result.peak_bytes['traced'] / GIB:6.1f} GiB, {result.wall_seconds:.1f} s")
print(f"predicted: full {predicted_full_gib}, LoRA {predicted_lora_gib} GiB")

# %% [markdown]
# Hold the first line against the rule:

# %%
n = parameters_of("llama-3-8b")
whole = one_sample["full"]
accumulated = estimates.estimate(
    "llama-3-8b", device=card, method="full", seq_len=1024, gradient_accumulation_steps=2
)

for label, size in {
    "rule of 18": 18 * n,
    "16 bytes per parameter": 16 * n,
    "trace": whole.peak_bytes["traced"],
    "trace, two batches accumulated": accumulated.peak_bytes["traced"],
}.items():
    print(f"{label:32}{size / GIB:7.1f} GiB")

# %% [markdown]
# ## Explain: the two bytes that never come on top
#
# The trace has everything in it, activations and logits too, and is *below* the rule, by two bytes for each parameter. The figure follows the states from the beginning of the step to its end:

# %% tags=["result"]
from labkit import plots
from labkit.memory import figures

figure, axes = plots.new_figure(width=8.5, height=3.6)
alt = figures.draw_states(axes, whole)
plots.show(figure, alt=alt)

# %% [markdown]
# **This figure is the lesson: the copies leave as the gradients come.** A layer's 16-bit copy is let go when the backward pass has used it, and only then has the layer a gradient: the last gradient is made when the last copy is gone. So the five lines of the rule are all right, and their sum is never there. The states take **16 bytes per trained parameter**, and this is the number that lessons 02 and 03 use; the copies' two bytes belong to the forward pass, together with the activations.
#
# The last line of the table shows when the rule does hold. **Gradient accumulation** adds up the gradients of several batches before the optimizer steps. Then the gradients of the first batch are there while the second one makes its copies: all 18 bytes meet, with the activations on top.
#
# ## Measure: four methods and a larger batch

# %% tags=["result"]
four_samples = estimates.estimate(
    "llama-3-8b", device=card, method="lora", batch_size=4, seq_len=1024
)
bars = {f"{label}, 1 sample": result for label, result in one_sample.items()}
bars["LoRA, 4 samples"] = four_samples
figure, axes = plots.new_figure(width=8.5, height=1.6 + 0.42 * len(bars))
alt = figures.draw_peaks(axes, bars)
plots.show(figure, alt=alt)

# %% [markdown]
# The dashed line is what the card has. In full fine-tuning the states take nearly all, so a smaller batch does not help. In LoRA it is the frozen weights and what the batch brings. Here is one step of LoRA with four samples, from beginning to end:

# %%
from labkit.memory.report import plot_timeline, timeline_alt

plots.show(plot_timeline(four_samples), alt=timeline_alt(four_samples))

# %%
at_peak = four_samples.at_peak
largest = max(at_peak, key=at_peak.get)
print(f"peak of {sum(at_peak.values()) / GIB:.1f} GiB in {four_samples.peak_phase}")
print(f"held by {four_samples.peak_operation}")
print(f"most: {estimates.LABELS[largest]}; predicted: {predicted_largest_part}")

# %% [markdown]
# The operation has PyTorch's own name: `_log_softmax_backward_data`, for one, is the backward pass of the loss.
#
# ## Exercise: what autograd keeps
#
# *Medium, 15 minutes; important.* **Autograd** is the part of PyTorch that records the forward pass and runs it backwards. It keeps an input of an operation when the derivative needs it. You can count what it keeps, because PyTorch calls a function of yours for every such tensor. Write `saved_bytes(function, inputs, weights)`, the bytes that are kept when `function(*inputs)` is called. Weights are there anyway, so what belongs to one of `weights` does not count.
#
# <details><summary>Hint 1: being called</summary>
#
# `torch.autograd.graph.saved_tensors_hooks(pack, unpack)` is a context manager. In its block, `pack(tensor)` is called for each tensor that is kept, and what it returns is kept in its place; `unpack` is called for it in the backward pass. Both return what they are given: a tensor that `pack` does not return is let go, and the next one may take its place and be counted for the same.
#
# </details>
# <details><summary>Hint 2: what is kept once</summary>
#
# Two tensors can look into the same memory, and a tensor can look into a part of it, which keeps all of it alive. That memory is `tensor.untyped_storage()`; its `data_ptr()` says where it begins and `nbytes()` how large it is. Keep sizes by place.
#
# </details>

# %%
import torch


def saved_bytes(function, inputs, weights):
    """Return the bytes that autograd keeps for the backward pass of function(*inputs)."""
    ### BEGIN SOLUTION
    known = {weight.untyped_storage().data_ptr() for weight in weights}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function(*inputs)
    del result
    return sum(kept.values())
    ### END SOLUTION


# %%
counter_written = check.exercise("saved_bytes", saved_bytes)
counter_written

# %% [markdown]
# Now count for the pieces of a Llama layer, the classes that the real model is made of, with a small width. **RMSNorm** scales each token's numbers to a mean square of one. The **MLP** has three matrices: `gate` and `up` widen a token's numbers from $h$ to $m$, `down` brings them back, and in between stands a nonlinear function, `silu`. In **attention** each token makes a **query**, a **key** and a **value**, each cut into **heads**. Queries are compared with keys, which gives **probabilities**, and the output is the values mixed by these. Heads of queries can share a head of keys and values, and then keys and values are narrower. **Fused** attention is one operation that never stores the probabilities.

# %%
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

h, m, tokens = 64, 160, 128
config = LlamaConfig(hidden_size=h, intermediate_size=m)
x = torch.ones(1, tokens, h, dtype=torch.bfloat16, requires_grad=True)
q, k, v = (torch.ones(1, 4, tokens, h // 4).bfloat16().requires_grad_() for _ in range(3))

norm, mlp = LlamaRMSNorm(h).bfloat16(), LlamaMLP(config).bfloat16()
attention = torch.nn.functional.scaled_dot_product_attention
if counter_written:
    for name, function, inputs, weights in (
        ("RMSNorm", norm, [x], list(norm.parameters())),
        ("MLP", mlp, [x], list(mlp.parameters())),
        ("attention", attention, [q, k, v], []),
    ):
        kept = saved_bytes(function, inputs, weights)
        print(f"{name:10} h = {h}, m = {m}: {kept / tokens:7,.0f} bytes per token")

# %% [markdown]
# ## Explain: what a layer keeps
#
# An input is kept when the derivative needs it. From this rule follows what a layer costs. With hidden width $h$, width of the MLP $m$, width of all queries $q$ and of all keys $k$, each token leaves behind, in a layer whose weights are all trained in 16 bits:
#
# | operation | keeps | bytes per token |
# |---|---|---|
# | two RMSNorms | an fp32 copy of the input, and the normalised input in 16 bits for the gradient of the norm's weight | $2 \cdot (4 + 2)\,h$ |
# | inputs of q, k, v and of gate, up | one 16-bit tensor each, shared by the layers that read it | $2 \cdot 2\,h$ |
# | attention, fused | queries, keys, values and the output; never the probabilities | ? |
# | SwiGLU, down(silu(gate) · up) | gate, up, silu(gate), and the product that down reads | ? |
#
# A frozen weight needs no input for its gradient: a LoRA step keeps less for the layer itself, and something for each adapter.
#
# ## Exercise: the bytes of a layer
#
# *Medium, 15 minutes; important.* Fill in the two question marks and write the sum. Your function is checked against traces of Llama 3 8B, with a wider MLP and with more key heads, and of Llama 2 7B. A few bytes for row sums do not count.
#
# <details><summary>Hint 1: use what you counted</summary>
#
# Above, `saved_bytes` says what the MLP keeps for one pair of widths. Take away what the table already has for the input of gate and up; what is left is a whole number of 16-bit tensors of width $m$. Change `m` and look again.
#
# </details>
# <details><summary>Hint 2: attention</summary>
#
# Count the tensors that are named in the row, in 16 bits each. In Llama 3 keys and values are narrower than queries; the output is as wide as the queries.
#
# </details>


# %%
def layer_bytes_per_token(h, m, q, k):
    """Return what one Llama layer keeps per token, in bytes, when all of it trains in 16 bits."""
    ### BEGIN SOLUTION
    norms = 2 * (4 + 2) * h
    inputs = 2 * 2 * h
    attention = 2 * (q + k + k + q)
    mlp = 2 * 4 * m
    return norms + inputs + attention + mlp
    ### END SOLUTION


# %%
layer_written = check.exercise("layer_bytes_per_token", layer_bytes_per_token)
layer_written

# %%
shapes = {
    "Llama 2 7B": ({"h": 4096, "m": 11_008, "q": 4096, "k": 4096}, 32),
    "Llama 3 8B": ({"h": 4096, "m": 14_336, "q": 4096, "k": 1024}, 32),
}
for name, (widths, layers) in shapes.items() if layer_written else ():
    per_layer = layer_bytes_per_token(**widths)
    print(f"{name}: {per_layer / widths['h']:.1f} bytes per hidden element")
    print(f"    activations of 1,024 tokens: {per_layer * layers * 1024 / GIB:.2f} GiB")

# %% [markdown]
# You may know the factor 34 per hidden element (Korthikanti et al. 2022). It is GPT-2's, with LayerNorm in 16 bits and an MLP of two matrices. The rule is the same, the layer is another.
#
# **Gradient checkpointing** keeps $2h$ bytes per token and layer, the layer's input, and computes the rest again in the backward pass, for one layer at a time. It buys this memory with one more forward pass. (Nothing is written to disk: the checkpoints that a training saves are another thing.)

# %% [markdown]
# ## Explain: the logits
#
# The head makes a number for every token of the vocabulary at every position: for $N$ tokens and a vocabulary of $V$ that is $N \cdot V$ logits. The loss copies them to fp32 and keeps the logarithm of their softmax, 4 bytes per logit. In the backward pass two gradients come on top, that of this logarithm and that of the copy, 4 bytes each. Then 12 bytes per logit are there:

# %%
for name, vocabulary in {"Llama 2": 32_000, "Llama 3": 128_256, "SmolLM2": 49_152}.items():
    print(f"{name:8} 4 × 1,024 tokens: {12 * 4 * 1024 * vocabulary / GIB:5.2f} GiB")

# %% [markdown]
# Such a spike is seldom necessary. A **chunked** loss computes head and loss a tile at a time and makes each tile again in the backward pass; and where the loss is taken of the answer's tokens alone, only their positions need logits at all.

# %%
import dataclasses

from labkit.memory.formula import analytic

plain = four_samples.settings
for label, change in {
    "all logits at once": {},
    "chunked": {"loss": "chunked"},
    "logits of 64 answer tokens": {"labelled_tokens": 64},
    "chunked, gradient checkpointing": {"loss": "chunked", "gradient_checkpointing": True},
}.items():
    formula = analytic(dataclasses.replace(plain, **change))
    logits = formula.parts["logits_and_loss"] / GIB
    print(f"{label:32} logits {logits:5.2f} GiB   peak {formula.peak_bytes / GIB:6.2f} GiB")

# %% [markdown]
# ## Explain: the optimizer's hidden copy
#
# AdamW's step can be run in three ways that compute the same and differ in memory. The **loop** works on one tensor after the other. **foreach**, PyTorch's default on a GPU, works on all tensors at once and makes a copy of them all on the way: the root of the second moment. The **fused** way, which transformers takes unless you say otherwise, is a single **kernel**, a program that runs on the GPU from beginning to end (nothing to do with a notebook's kernel), and makes none.

# %%
sixteen_bit = dataclasses.replace(
    one_sample["full"].settings,
    master_weights=False,
    loss="chunked",
    gradient_checkpointing=True,
)
for optim in ("adamw_torch_loop", "adamw_torch_foreach", "adamw_torch_fused", "adamw_bnb_8bit"):
    formula = analytic(dataclasses.replace(sixteen_bit, optim=optim))
    state = formula.parts["optimizer_state"] / GIB
    made = formula.parts["optimizer_temporary"] / GIB
    peak = formula.peak_bytes / GIB
    print(f"{optim:20} state {state:5.1f}   own copies {made:5.1f}   peak {peak:5.1f} GiB")

# %% [markdown]
# The copy is as large as all gradients together, stands in no table of bytes per parameter, and is gone when you look for it after the step. The 8-bit AdamW keeps two bytes per parameter and some more: a scale for each block of moments, which is little, and the moments of the embedding in 32 bits, as transformers' Trainer tells it to.
#
# A **measured** number needs its name, too. *Allocated* is what tensors asked for; *reserved* is what PyTorch's allocator took from the driver, gaps included; `nvidia-smi` shows reserved plus what the driver keeps for itself. And in the first step of a run the forward and the backward pass take less than in later ones, because the optimizer makes its state only at the end of that step. Where these passes hold the peak, as in LoRA, measure a later step.

# %% [markdown]
# ## What fits on my card
#
# Where a kernel runs, this is a form: move a slider and the formulas answer at once. On a page without a kernel it is the table of all methods on common cards.

# %%
from labkit.memory.calculator import calculator

calculator("llama-3-8b", device="a100-40gb")

# %% [markdown]
# The same from the command line, with the trace beside the formula and a range for the time of a step: `labkit estimate llama-3-8b --method lora --batch-size 4 --seq-len 1024 --device a100-40gb`. Without `--method` it prints the table.

# %% [markdown]
# ## Measure: against published peaks
#
# Agreement with your own machine could be luck. Others have published peaks of real fine-tunes on cards. For each of the rows below the type of the adapters, the loss, the attention, the optimizer and the version of the library were written down *before* it was traced, from its source where it says them: torchtune's does not name the optimizer, and fused AdamW was taken. One was mended afterwards: the first errors led to a cast of the logits, in a library around LitGPT, that had been overlooked. No other was touched.

# %%
import itertools

from labkit.bench.records.memory_validation import published_rows

rows = list(itertools.islice(published_rows(), published_count))
for row in rows:
    error = "  –  " if row["error"] is None else f"{100 * row['error']:+5.1f} %"
    published = row["published"] or row["outcome"]
    mark = "explained" if row["explain"] else ""
    print(f"{figures.row_label(row):66} {published!s:>24} {row['traced']:6.2f} {row['unit']:3} "
          f"{error} {mark}")  # fmt: skip

# %%
figure, axes = plots.new_figure(width=8.5, height=1.2 + 0.3 * len(rows))
alt = figures.draw_errors(axes, rows)
plots.show(figure, alt=alt)

# %% [markdown]
# ## Explain: what the rows teach
#
# The grey band is the error that this course allows a trace; hollow marks are outside of it, for a reason that is known for most of the difference.
#
# - **The QLoRA rows are explained, not matched.** They are from 2023, when the library kept the input of every 4-bit product although a frozen weight does not need it. Today's does not, and the trace runs today's. A version belongs to every memory figure.
# - **LitGPT's other rows are above the trace, the more so the larger the batch.** Its code computes queries, keys and values in one product. The values are a view of the result, so all of it stays alive. The trace follows the model classes of transformers, which compute three products; StableLM's computes one, and its rows are closer.
# - **One row ran out of memory**, and the trace is just below what its card has: "40 GB" on a card are 40 GiB, seven percent more than 40 of the row's GB. With the driver's part and the allocator's gaps on top it does not fit.
#
# `data/memory_published.json` holds every choice with its source, and the differences that are known.

# %% [markdown]
# ## Measure: on a card
#
# Published peaks come from other people's programs. `labkit bench gpu` runs the very steps that it traced on the card of its machine: models of true shape with random weights, `torch.cuda.max_memory_allocated` beside the trace, the largest batch predicted and then tried. Where a record of it lies in `data/results`, this is what it says; without one, it says what was not run.

# %%
from labkit.bench.gpu import reading
from labkit.switchback.teaching.figures import print_table

record = reading.read()
subjects = ("peak memory", "largest batch", "step times")
print(*reading.lines(record, *subjects), sep="\n")
print(f"`labkit estimate` adds for gaps: {estimates.CUDA_GAPS:.0%}")

# %%
shown = {"traced": ".2f", "allocated": ".2f", "error": "+.2%", "gap": ".0%"}
times = dict.fromkeys(["low", "seconds", "high"], ".2f")
print_table(reading.step_rows(record), {"step": "s", **shown, **times})

# %% [markdown]
# `gap` is how much more than its allocated peak a step had to be given before it ran: the caching allocator can't use every hole between its blocks. A trace knows nothing of it, so `labkit estimate` adds the share that the first of the two cells printed last. `low` and `high` are the predicted seconds of a step. Another program ran on the card while the first parts of this record were timed: `data/results/README.md` says what that did to the times.

# %% [markdown]
# ## Checkpoint
#
# Answer from the cells above, or from `labkit estimate` on a card and a model that you care about.

# %% [markdown]
# **01.1** How many bytes does the rule of 18 give for full fine-tuning, and how many bytes of states are there at most at the same time, when one batch makes a step? Which line of the rule is not there at that moment? What is left with 16-bit weights and gradients and all moments in 8 bits, scales not counted?

# %%
check(
    "01.1",
    model=None,
    parameters=None,
    rule_bytes=None,
    states_bytes=None,
    states_gb=None,
    states_gib=None,
    line_that_leaves=None,  # "weight", "copy", "gradient", "first moment" or "second moment"
    eight_bit_bytes_per_parameter=None,
    explanation=None,
)

# %% [markdown]
# **01.2** How close are formula and trace to a real step on your machine?

# %%
check(
    "01.2",
    model=None,
    method=None,
    batch_size=None,
    seq_len=None,
    analytic_bytes=None,
    traced_bytes=None,
    measured_bytes=None,
    worst_error_percent=None,
    explanation=None,
)

# %% [markdown]
# **01.3** Choose a card and a model of several billion parameters, and leave the optimizer at `adamw_torch_fused`. What is the largest batch that fits, and which part takes most? Of the parts, count weights, gradients, optimizer state, activations, and logits with the loss; leave out temporaries, even where they are the largest row.

# %%
check(
    "01.3",
    model=None,
    device=None,
    method=None,
    gradient_checkpointing=None,
    loss=None,
    seq_len=None,
    largest_batch_size=None,
    largest_part=None,
    explanation=None,
)

# %% [markdown]
# ## What to remember
#
# - States are bytes per trained parameter: 16 in mixed precision with AdamW. The 2 of the copies have left before the last gradients come. What is frozen costs its weight and nothing else.
# - Activations are bytes per token and layer, logits are bytes per token and vocabulary entry. Neither is a multiple of the parameters that train, but which layers train, and in which type, changes what a layer keeps.
# - The peak is the highest moment of a step and not the sum of its parts; which moment that is changes with the batch.
# - A published figure without the adapter's type, loss, attention, optimizer and version can't be reproduced. GB and GiB are seven percent apart.

# %% [markdown]
# ## Further reading
#
# - S. Rajbhandari et al., *ZeRO: Memory Optimizations Toward Training Trillion Parameter Models*, 2020, [arXiv:1910.02054](https://arxiv.org/abs/1910.02054): the states of mixed precision, and how to spread them over devices.
# - P. Micikevicius et al., *Mixed Precision Training*, 2018, [arXiv:1710.03740](https://arxiv.org/abs/1710.03740): why the weights that are stepped have 32 bits.
# - V. Korthikanti et al., *Reducing Activation Recomputation in Large Transformer Models*, 2022, [arXiv:2205.05198](https://arxiv.org/abs/2205.05198): activations counted operation by operation, for GPT-2's layer.
# - T. Chen et al., *Training Deep Nets with Sublinear Memory Cost*, 2016, [arXiv:1604.06174](https://arxiv.org/abs/1604.06174): gradient checkpointing.
# - T. Dettmers et al., *8-bit Optimizers via Block-wise Quantization*, 2022, [arXiv:2110.02861](https://arxiv.org/abs/2110.02861), and *QLoRA*, 2023, [arXiv:2305.14314](https://arxiv.org/abs/2305.14314).
# - PyTorch, *Understanding CUDA Memory Usage*, [docs.pytorch.org](https://docs.pytorch.org/docs/stable/torch_cuda_memory.html): allocated, reserved, and how to see both on a card.
