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
# # 06 · Methods: which numbers to train, and what that costs
#
# - **Goal:** choose a fine-tuning method for your data and your memory from measurements with intervals, and say from where a method puts its numbers what it costs in training and for ever after.
# - **Minutes:** 90, of which 20 are waiting
# - **Hardware:** two CPU cores and 6 GiB of memory; a GPU is used when there is one
# - **You need to know:** lesson 02

# %% [markdown]
# ## Six places for new numbers
#
# **What to take from this lesson: how many numbers a method trains says little about what it costs; where it puts them says it.**
#
# In attention each token makes a **query**, a **key** and a **value**. The query is compared with the keys of the tokens before it and with its own, and what comes out is a mixture of their values; that no token sees a later one is called **causal**. A **gate** is a trained number that something is multiplied by. The **inner row** of an MLP is what its last layer reads.
#
# | method | trains | where |
# |---|---|---|
# | prompt tuning | embeddings of **virtual tokens**, which no text has | before the input |
# | prefix tuning | keys and values of virtual tokens | before those of the text, in every layer |
# | LLaMA-Adapter | tokens of every layer behind a gate that starts at zero | beside attention |
# | (IA)³ | three vectors a layer | stretch keys, values and the MLP's inner row |
# | bottleneck adapters | two thin layers with a nonlinearity between | after attention and after the MLP |
# | LoRA, DoRA, QLoRA | two thin matrices a weight; DoRA also the length of each row of the weight; QLoRA on a base in 4 bits | beside every linear layer but the output head |
#
# Full fine-tuning, for comparison, trains what is there. New numbers are **merged** when they are worked into the weights once, as LoRA's in $W_0 + \frac{\alpha}{r}BA$, so that nothing is left to compute beside them.

# %% tags=["parameters"]
from labkit.bench.methods.plan import SMOKE, Grid
from labkit.runs import profiles

quick = profiles.current().name == "smoke"
live = ("lora", "prefix", "ia3", "bottleneck")
sizes = {"steps": 60, "questions": 240, "choices": 8}
settings = {**SMOKE, "steps": 5} if quick else {"model": profiles.model(), **sizes}
grid = Grid(arms=live, **{**settings, "seeds": 1})
large_model, card = "llama-2-7b", "a100-40gb"

# %% [markdown]
# ## Predict: four orders
#
# Put the four methods of `live` in order, from least to most: numbers that are trained, memory at the peak of a step, time of a step, right answers after the same training. Which of the four orders will be alike?

# %%
# Each is a list of four names, least first.
predicted_numbers = None
predicted_memory = None
predicted_time = None
predicted_answers = None

# %% [markdown]
# ## How many numbers
#
# With $L$ layers of width $h$, keys and values of width $k$ and an MLP of width $m$: a prefix of $n$ tokens has $n \cdot L \cdot 2k$ numbers, a prompt $n \cdot h$, (IA)³ $L(2k + m)$. A bottleneck of inner width $s$ has $2hs + s + h$ at each of two places in a layer, and LoRA of rank $r$ has $r \cdot (\mathrm{in} + \mathrm{out})$ for every linear layer but the output head. LLaMA-Adapter has ten tokens and a gate in each layer, $10h + 1$. Work out one of them before you look.

# %% tags=["nbval-check-output"]
from labkit.memory.architectures import shape_of
from labkit.memory.settings import StepSettings

step = StepSettings(model="smollm2-135m-instruct")
shape = shape_of(step)
print(f"L = {shape.layers}, h = {shape.hidden}, k = {shape.kv_heads * shape.head_dim} "
      f"({shape.kv_heads} key heads of {shape.head_dim}), m = {shape.mlp}")  # fmt: skip
print(f"n = {step.num_virtual_tokens}, s = {step.bottleneck_size}, r = {step.lora_r}")

# %% tags=["nbval-check-output"]
from labkit import methods
from labkit.memory.architectures import parameters
from labkit.memory.formula import added_parameters

for name in ("smollm2-135m-instruct", "llama-2-7b"):
    print(name)
    for method in methods.METHODS:
        step = StepSettings(model=name, method=method)
        shape = shape_of(step)
        whole = parameters(shape)
        count = added_parameters(shape, step) or whole
        merges = "merges" if methods.METHODS[method].mergeable else "stays beside"
        if count == whole:
            merges = "is the model"
        print(f"   {method:<14}{count:>14,}  {count / whole:9.4%}  {merges}")

# %% [markdown]
# ## Measure: four methods, the same tokens
#
# Each trains on the same batches in the same order, then answers the same questions of the test split. Learning rates are those that a short search on the development split found for the record of the course, or usual ones where no record is kept. They were found on the embedded model, and where a search ended at its largest rate, a larger one might do better. One rate for all would decide the comparison before it begins, since a method that trains few numbers wants large steps.

# %%
from pathlib import Path

from labkit.bench.methods import report
from labkit.datasets import tatqa

results = tatqa.data_dir() / "results"


def kept(name):
    """Return the record of a comparison made before, or None where there is none."""
    file = Path(results / name)
    return report.read(file) if file.is_file() else None


record = kept("methods.json")
rates = {arm: 1e-2 if arm in ("prefix", "ia3") else 1e-3 for arm in live}
if record:
    rates |= {row["arm"]: row["rate"] for row in record["rows"] if row["rate"]}
print({arm: rates[arm] for arm in live})

# %%
import dataclasses

from labkit.bench.methods import conclude
from labkit.bench.methods.grid import measure

measured = measure(dataclasses.replace(grid, rates=rates), say=print)
rows = conclude.conclude(measured)
report.table(rows)

# %% [markdown]
# `difference` and `verdict` compare exact match with LoRA's, question by question. `p` is the chance of a difference at least as large if there were none; `(Holm)` says that it was raised for the number of comparisons (lesson 04). `choice` asks some questions on reports as multiple choice, without the chat template, before and after; `bits per byte` asks what was forgotten, below. `saved` is the file that is kept; `rate` is the learning rate, and `search` the time it took to find.
#
# Compare with your orders. The numbers lie far apart, the memory hardly: most of a peak is the frozen model and what the forward pass keeps for backward. How much is kept depends on where the trained numbers are, and not on how many there are.

# %%
from itertools import pairwise

for what, key, predicted in (
    ("numbers", "trained_parameters", predicted_numbers),
    ("memory", "peak_bytes", predicted_memory),
    ("time", "step_seconds", predicted_time),
    ("right answers", None, predicted_answers),
):  # fmt: skip
    found = {r["arm"]: (r[key] or 0) if key else r["em"]["value"] for r in rows if r["em"]}
    order = sorted(found, key=found.get)
    text = order[0]
    for before, after in pairwise(order):
        text += (" = " if found[before] == found[after] else " < ") + after
    print(f"{what:<14}", text)
    print(f"{'predicted':<14}", predicted)

# %% tags=["result"]
from labkit import plots

figure, alt = report.draw((record or {"rows": rows})["rows"])
plots.show(figure, alt=alt)

# %% [markdown]
# The figure shows the course's record where one is kept, and else your four runs. The comparison of your runs by question is kept for the checkpoint. One seed each: the interval says what other *questions* might change, and nothing of what another *seed* would.

# %%
from labkit.runs import measurements

runs = {arm["arm"]: arm["runs"][0] for arm in measured["arms"] if arm["runs"]}
for row in rows:
    if row["difference"]:
        first, second = runs[grid.against]["run"], runs[row["arm"]]["run"]
        points = {k: 100 * v for k, v in row["difference"].items()}
        points["n"] = len(measured["reports"])
        measurements.keep("difference", points, first=first, second=second, data=grid.data)
        ends = f"{points['low']:+.1f} to {points['high']:+.1f}"
        print(f"{row['arm']} minus {grid.against}: {points['value']:+.1f} points ({ends})")
        print(f"   {first} → {second}")

# %% [markdown]
# ## Measure: what was forgotten
#
# General text that has nothing to do with tables: how well does the model predict it, before and after? **Bits per byte** are $-\log_2$ of the probability that the model gives a text, divided by its bytes. If the change and its whole interval lie above zero, something was forgotten.

# %%
for row in rows:
    if forgot := row["forgetting"]:
        name, change = runs[row["arm"]]["run"], forgot["change"]
        values = {"before": forgot["before"], "after": forgot["bits_per_byte"]}
        measurements.keep("forgetting", {**values, "low": change["low"], "high": change["high"]},
                          run=name)  # fmt: skip
        ends = f"{change['low']:+.3f} to {change['high']:+.3f}"
        print(f"{row['arm']:<12}{values['before']:.3f} → {values['after']:.3f} ({ends})  {name}")

# %% [markdown]
# ## The record: every method, several seeds
#
# `labkit bench methods` makes the same comparison with more methods, a search for each rate, and three seeds of the main five. Where a record of it is kept, the next cell shows it. The intervals of its differences count seeds as well as questions; a method with one seed is taken to vary as much as the five that have several. The bars of the figure are over questions alone.

# %%
if record:
    made_on = record["facts"]["hardware"]["cpu"]
    print(f"{len(record['reports'])} questions, {record['grid']['steps']} steps, on {made_on}")
else:
    print("no record is here yet: `labkit bench methods` makes one, in some two hours")
report.table(record["rows"] if record else rows)

# %% [markdown]
# Ask one question at a time. *Is anything better than LoRA?* is answered by the verdict, and not by the first column. The verdict goes by the raised p-value and an interval is for one comparison alone, so an interval may leave zero out and the verdict still be *not told apart*. In question 06.2 you compare one pair: there the interval decides. *What do I get for my memory?* is answered by the figure above: a hollow point has another that is no larger and at least as good, by the measured means. Whether it is really better, the verdict says.
#
# ## Explain: where the numbers are, and what it costs
#
# **Virtual tokens cost attention.** Every query reads $n$ keys more in every layer, for ever, and the text begins at position $n$. A prompt also sends $n$ rows more through every layer. Nothing merges, because no weight can hold a position.
#
# **Bottleneck adapters cost latency.** Two small products and a nonlinearity come after every **sublayer**, that is after attention and after the MLP, and each waits for the one before. When a model writes one token at a time, the number of operations counts, and hardly their size. A nonlinearity lies between the two matrices, so they can't be merged.
#
# **(IA)³ is three vectors.** They stretch rows of the weights for keys and values, and columns of the MLP's last weight. Both are there already, so merging costs nothing, and there is nothing to pay afterwards. What three vectors a layer cannot express, it does not learn.
#
# **DoRA costs a norm.** To train directions apart from lengths it needs the length of every row of $W_0 + \frac{\alpha}{r}BA$ at each step: a matrix as large as the weight is made, summed and thrown away.
#
# **LLaMA-Adapter costs a second attention.** Its tokens have a softmax of their own in every layer, and PEFT computes the queries twice.
#
# **QLoRA costs dequantisation.** Each weight is stored in 4 bits and written out in 16 before each product, forward and backward. Memory goes down by the weights and time goes up by the writing.
#
# ## Exercise: attention with a prefix
#
# *Medium, 15 minutes; important.* Write causal attention in which every query also reads a prefix of keys and values. The check ends with a layer of Llama into which PEFT put its prefix.
#
# <details><summary>Hint 1: what stands before</summary>
#
# Put the prefix before the text, keys before keys and values before values. After that it is one attention with more keys than queries.
#
# </details>
# <details><summary>Hint 2: who reads what</summary>
#
# Query $i$ may read the prefix's $n$ rows and the text's rows up to $i$: of all rows, those up to $n + i$. `torch.ones(a, b).triu(d)` keeps what lies $d$ or more to the right of the diagonal.
#
# </details>


# %%
import torch


def prefix_attention(queries, keys, values, prefix_keys, prefix_values):
    """Return causal attention of (batch, heads, tokens, width) behind a prefix."""
    ### BEGIN SOLUTION
    length, width = queries.shape[-2:]
    behind = prefix_keys.shape[-2]
    every_key = torch.cat([prefix_keys, keys], dim=-2)
    every_value = torch.cat([prefix_values, values], dim=-2)
    logits = queries @ every_key.transpose(-1, -2) / width**0.5
    hidden_from = torch.ones(length, behind + length).triu(behind + 1).bool()
    weights = logits.masked_fill(hidden_from, float("-inf")).softmax(dim=-1)
    return weights @ every_value
    ### END SOLUTION


# %%
from labkit.checkpoints import check

check.exercise("prefix_attention", prefix_attention)

# %% [markdown]
# ## Exercise: sixteen values
#
# nf4 keeps of a block of 64 weights its largest absolute value and for each weight a number of 4 bits: the place of the nearest value in a table of sixteen. The table (QLoRA, appendix E; the course has it from bitsandbytes) has more values near zero, where most weights of a trained model are.

# %% tags=["nbval-check-output"]
from labkit.checkpoints.lessons.exercises_06 import NF4

for place, value in enumerate(NF4):
    print(f"{place:>2}  {value:+.4f}  " + " " * round(30 + 30 * value) + "|")

# %% [markdown]
# *Medium, 10 minutes; important.* Write the way there. A block of zeros must come back as zeros.
#
# <details><summary>Hint 1: scale, then look up</summary>
#
# Divide by the largest absolute value, and the weights lie between −1 and 1, as the table does. `(a[:, None] - b)` has every difference of two vectors.
#
# </details>
# <details><summary>Hint 2: the nearest, and zeros</summary>
#
# `argmin(dim=1)` of the absolute differences is the place. Keep the divisor above zero by `clamp`.
#
# </details>


# %%
def to_nf4(weights):
    """Return (codes from 0 to 15, absmax) of a block of weights."""
    ### BEGIN SOLUTION
    largest = weights.abs().max()
    between = weights / largest.clamp(min=1e-30)
    gaps = (between[:, None] - torch.tensor(NF4)).abs()
    return gaps.argmin(dim=1), largest
    ### END SOLUTION


# %%
check.exercise("to_nf4", to_nf4)

# %% [markdown]
# *Easy, 5 minutes; useful.* And the way back, which QLoRA goes for each product with a weight.
#
# <details><summary>Hint 1: a place in a table</summary>
#
# A code is a place in the table, and a tensor can be indexed by a tensor of places.
#
# </details>
# <details><summary>Hint 2: the factor</summary>
#
# The table's values lie between −1 and 1; what was divided by comes back as a factor.
#
# </details>


# %%
def from_nf4(codes, absmax):
    """Return the weights that codes and absmax stand for."""
    ### BEGIN SOLUTION
    return torch.tensor(NF4)[codes] * absmax
    ### END SOLUTION


# %%
check.exercise("from_nf4", from_nf4)

# %% [markdown]
# How far does nf4 move a weight? Take eight rows of one, block by block. The embedded model was rounded to 4 bits before (lesson 00), so a weight that never was may move by another amount.

# %%
from labkit.models import load, registry

model = load.load_model(registry.resolve(grid.model), dtype="float32")
weight = model.model.layers[0].mlp.up_proj.weight.detach()[:8].reshape(-1, 64)
try:
    back = torch.stack([from_nf4(*to_nf4(block.clone())) for block in weight])
    lost = ((back - weight).norm() / weight.norm()).item()
    print(f"the error is {lost:.1%} of the weight's length, at 4 bits and a scale for 64 numbers")
except NotImplementedError:
    print("write the two functions first")

# %% [markdown]
# ## Exercise: a bottleneck adapter that begins as nothing
#
# *Easy, 8 minutes; important.* With $y$ the output of a sublayer, $y' = y + W_2\,\mathrm{GELU}(W_1 y + b_1) + b_2$. GELU is the nonlinear function, a smoothed $\max(0, x)$. Write the adapter.
#
# <details><summary>Hint 1: any leading dimensions</summary>
#
# `torch.nn.functional.linear(y, weight, bias)` works on any leading dimensions; `weight` is (out, in).
#
# </details>
# <details><summary>Hint 2: in, out, and added</summary>
#
# The shapes name the order: `down` makes (…, hidden) into (…, size), `up` the other way, and what comes out is added to `y`.
#
# </details>


# %%
def bottleneck_adapter(y, down, down_bias, up, up_bias):
    """Return y with a bottleneck adapter: `down` is (size, hidden), `up` (hidden, size)."""
    ### BEGIN SOLUTION
    narrow = torch.nn.functional.gelu(torch.nn.functional.linear(y, down, down_bias))
    return y + torch.nn.functional.linear(narrow, up, up_bias)
    ### END SOLUTION


# %%
check.exercise("bottleneck_adapter", bottleneck_adapter)

# %% [markdown]
# *Medium, 7 minutes; important.* Now its start: at first the adapter must change nothing, so that training begins at the pretrained model, and it must be able to learn.
#
# <details><summary>Hint 1: what a zero does</summary>
#
# If both matrices start at zero, whose gradient is a product with the other?
#
# </details>
# <details><summary>Hint 2: not both</summary>
#
# One of the two may be zero, and the other random. Which of the biases must then be zero as well?
#
# </details>


# %%
def start_bottleneck(hidden, size):
    """Return down, its bias, up and its bias as an adapter begins."""
    ### BEGIN SOLUTION
    first_down = torch.randn(size, hidden) / hidden**0.5
    return first_down, torch.zeros(size), torch.zeros(hidden, size), torch.zeros(hidden)
    ### END SOLUTION


# %%
check.exercise("start_bottleneck", start_bottleneck)

# %% [markdown]
# ## Explain: a published comparison, checked
#
# The notes from which this course grew quote one comparison of methods: LLaMA 7B on A100 cards, the data set Alpaca, four samples in a **micro-batch**, which is what goes through the model at once. Nobody needs the cards to ask whether it can be so. *Traced* is the peak of a step counted on tensors that have shapes and no numbers (lesson 01). Of full fine-tuning the source says neither how many micro-batches there were nor of what size, so its range goes from the same number shared by four cards to that number on each of them. The unit is GB because the published one is.

# %%
from labkit.memory import estimates

# Lightning AI, lit-llama: GB on each card, cards, minutes for 62,400 micro-batches.
published = {"llama-adapter": (22, 1, 162), "lora": (21, 1, 192), "full": (22, 4, 1956)}
choices = {"batch_size": 4, "seq_len": 200, "dtype": "bfloat16"}
extra = {
    "lora": {"lora_r": 8, "lora_target_modules": ["q_proj", "v_proj"],
             "adapter_dtype": "bfloat16"},
    "full": {"sharding": "fsdp2", "num_gpus": 4, "master_weights": False},
}  # fmt: skip
beside = {}
for method in list(published)[: 1 if quick else None]:
    found = estimates.estimate(large_model, device=card, method=method, **choices,
                               **extra.get(method, {}))  # fmt: skip
    gb, cards, minutes = published[method]
    least, most = (seconds * 62_400 / 60 for seconds in found.step_seconds)
    ends = least / cards, most  # each card takes its share of the micro-batches, or all
    beside[method] = {
        "published": f"{cards} × {gb} GB, {minutes} min",
        "traced peak": f"{cards} × {found.peak_bytes['traced'] / 1e9:.1f} GB",
        "predicted minutes": f"{ends[0]:.0f} to {ends[1]:.0f}",
        "in that range": ends[0] <= minutes <= ends[1],
    }

# %%
import pandas

pandas.DataFrame(beside).T

# %% [markdown]
# LLaMA-Adapter and LoRA took a time that arithmetic allows, and full fine-tuning did not. All three took more memory than traced. One reason is length: samples had up to 256 tokens, and the trace takes 200. Another may be what was counted, since a card shows all that PyTorch reserved (lesson 01). Now the time. Full fine-tuning needs one product more than LoRA, so half as much time again. The range also counts what four cards send each other over a fast link. So the rest is something else: a slower link, weights that were moved to the host's memory, or more steps than we take. Which one, the source does not say. *LoRA is ten times as fast* is a statement about that program. Time is in the range of the arithmetic or it has a reason, and the reason is what you want to know.
#
# ## Explain: a second claim, on another kind of model
#
# The notes also say that on an A100 the large T5 cannot be fine-tuned in full to tell good film reviews from bad ones, and that a prefix fits easily. T5 is an **encoder-decoder**: the encoder reads the whole text, each token seeing all others, and the decoder writes the answer, here one word, while it looks at what the encoder made of the text. The notes name no batch and no length. So ask for two batches of 512 tokens, answered by a word and an end token, and for the largest batch that fits a card of 40 GB.

# %%
needed, states = [], ("weights", "gradients", "optimizer_state")
for batch in (8, 32)[: 1 if quick else None]:
    for method in ("full", "prompt", "prefix"):
        found = estimates.estimate("t5-large", device=card, method=method, batch_size=batch,
                                   seq_len=512, target_len=2, padding=True)  # fmt: skip
        needed.append({
            "method": method, "batch": batch, "needed": f"{found.needed_bytes / 2**30:.1f} GiB",
            "fits": found.fits, "largest batch": found.largest_batch_size,
        })  # fmt: skip
        if found.trainable_parameters == found.total_parameters:
            held = sum(found.parts[part]["analytic_bytes"] for part in states)
            each, share = held / found.total_parameters, held / found.device_bytes
            print(f"in full, batch {batch}: states of {held / 2**30:.1f} GiB, "
                  f"{each:.0f} bytes a parameter, {share:.0%} of the card")  # fmt: skip
pandas.DataFrame(needed)

# %% [markdown]
# The claim is wrong as it stands: in full, eight samples fit. *Does not fit* is true of a batch, a length and a card, and not of a method: the states of full fine-tuning take the part of the card that is printed above the table, the same for both batches, and activations take the rest as soon as the batch is large. But why does a prefix need so much less than a prompt, which trains fewer numbers? Again because of where they are. The prompt stands before what the *encoder* reads, so backward goes through both halves of the model. PEFT puts the prefix of a T5 into its *decoder* alone. Nothing that is trained lies below the encoder's output, so backward ends there, and nothing of the encoder is kept.
#
# And what is learnt? No T5 can be had without a network. The record below is of a small one, trained for some minutes on sentences of film reviews, other reviews and editorials. It compares one run of each method and says nothing about T5. A **bag of words** notes which words and which pairs of neighbouring words a sentence has, and not where they stand; a logistic regression adds up one weight for each of them. A model must beat it to be worth its memory. *More frequent answer* is what no reading brings, and a method below it most often wrote neither of the two words. A prompt trains two sets of vectors, of which PEFT's forward pass reads the encoder's.

# %%
import json

place, learnt = results / "sentiment.json", {}
if place.is_file():
    sentiment = json.loads(place.read_text(encoding="utf-8"))
    for name, right in sentiment["scores"]["right"].items():
        learnt[name] = {"right": "{value:.1%} ({low:.1%} to {high:.1%})".format(**right)}
        if apart := sentiment["scores"]["differences"].get(name):
            learnt[name]["minus full"] = "{low:+.1%} to {high:+.1%}".format(**apart["difference"])
        if of_run := sentiment["methods"].get(name):
            learnt[name]["trained"] = f"{of_run['trainable_parameters']:,}"
            learnt[name]["peak"] = f"{of_run['peak_bytes'] / 2**20:.0f} MiB"
    print(f"{len(sentiment['answers']['full'])} sentences of the test split")
else:
    print("no record is here yet: `python -m labkit.bench.records.sentiment --help`")
pandas.DataFrame.from_dict(learnt, orient="index").fillna("")

# %% [markdown]
# ## Measure: rank, and how it is scaled
#
# LoRA's $BA$ is a sum of $r$ products of a column and a row, and $\alpha/r$ multiplies it. Products that have nothing to do with each other add up like $\sqrt{r}$, so at a fixed $\alpha$ the update shrinks as the rank grows. rsLoRA divides by $\sqrt{r}$ and keeps it. The factor at the course's $\alpha$:

# %% tags=["nbval-check-output"]
from labkit.runs.config import RunConfig

alpha = RunConfig().lora_alpha
for r in (1, 2, 4, 8, 16, 32, 64, 128):
    print(f"r = {r:>3}: α/r {alpha / r:>6.2f}   α/√r {alpha / r**0.5:>6.2f}")

# %%
ranks = kept("ranks.json")
if ranks:
    print(
        f"one rate for all, {ranks['grid']['steps']} steps, α = {alpha} where no name says another"
    )
else:
    print("no record is here yet: `labkit bench methods --arms ranks --against rank-16")
    print("--output-dir DIR` writes one, to be copied to", results / "ranks.json")
report.table(ranks["rows"]) if ranks else None

# %% [markdown]
# A rank that seems useless may only be scaled away. At one rank, rsLoRA is LoRA with $\sqrt{r}$ times the $\alpha$, so what it gains at rank 64 is what an $\alpha$ eight times as large gains, and perhaps what a larger learning rate would: the rate was not searched for each rank. The table shows it: two pairs of its rows agree in every score, because they have one factor under two names. Find them. Look at the bits per byte, too, and hold each row with rsLoRA or a larger $\alpha$ beside plain LoRA of its own rank: from rank 4 on, the stronger update also forgets more. Where the interval of a difference holds zero, the record can't tell two ranks apart; its ends say how large an effect of the rank could still be. The usual advice for a stronger update is a higher $\alpha$ with dropout. `labkit bench methods --arms rank-16,rank-16-alpha-128,rank-16-alpha-128-dropout --against rank-16 --data YOURS` says what it gives on your data, from five runs of a few minutes each.

# %% [markdown]
# ## Checkpoint
#
# **06.1** What does another method of yours cost beside LoRA?

# %%
check(
    "06.1",
    lora_run=None,
    other_run=None,
    trained_ratio=None,
    memory_ratio=None,
    time_ratio=None,
    explanation=None,
)

# %% [markdown]
# **06.2** Is one of two methods better, as far as your questions can say?

# %%
check(
    "06.2",
    first_run=None,
    second_run=None,
    difference=None,
    difference_low=None,
    difference_high=None,
    verdict=None,
    explanation=None,
)

# %% [markdown]
# **06.3** How many numbers does each method train on a model of your choice?

# %%
check(
    "06.3",
    model=None,
    prefix_tokens=None,
    prefix_parameters=None,
    ia3_parameters=None,
    lora_rank=None,
    lora_parameters=None,
    bottleneck_width=None,
    bottleneck_parameters=None,
    fewest=None,
    explanation=None,
)

# %% [markdown]
# **06.4** What did one of your runs forget?

# %%
check(
    "06.4",
    run=None,
    bits_before=None,
    bits_after=None,
    change_low=None,
    change_high=None,
    verdict=None,
    explanation=None,
)

# %% [markdown]
# ## What to remember
#
# - Most of a peak is the frozen model and the activations, so the count of trained numbers decides about files and optimizer state, and hardly about the peak.
# - What merges is free afterwards: LoRA and (IA)³. Virtual tokens, adapters with a nonlinearity and gates are paid for at each token.
# - Every method has its own learning rate. A comparison at one rate compares rates.
# - An interval over questions is about these weights; one about methods needs several seeds.
# - A time that arithmetic does not explain has another cause than the method.

# %% [markdown]
# ## Further reading
#
# - X. L. Li and P. Liang, *Prefix-Tuning*, 2021, [arXiv:2101.00190](https://arxiv.org/abs/2101.00190); B. Lester et al., *The Power of Scale for Parameter-Efficient Prompt Tuning*, 2021, [arXiv:2104.08691](https://arxiv.org/abs/2104.08691).
# - N. Houlsby et al., *Parameter-Efficient Transfer Learning for NLP*, 2019, [arXiv:1902.00751](https://arxiv.org/abs/1902.00751): bottleneck adapters.
# - H. Liu et al., *Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning*, 2022, [arXiv:2205.05638](https://arxiv.org/abs/2205.05638): (IA)³.
# - R. Zhang et al., *LLaMA-Adapter*, 2023, [arXiv:2303.16199](https://arxiv.org/abs/2303.16199).
# - T. Dettmers et al., *QLoRA*, 2023, [arXiv:2305.14314](https://arxiv.org/abs/2305.14314); S.-Y. Liu et al., *DoRA*, 2024, [arXiv:2402.09353](https://arxiv.org/abs/2402.09353); D. Kalajdzievski, *A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA*, 2023, [arXiv:2312.03732](https://arxiv.org/abs/2312.03732).
# - D. Biderman et al., *LoRA Learns Less and Forgets Less*, 2024, [arXiv:2405.09673](https://arxiv.org/abs/2405.09673).
