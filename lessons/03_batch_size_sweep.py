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
# # 03 · Batch size: memory, throughput, and the largest that fits
#
# - **Goal:** predict how memory grows with the batch, measure it together with the throughput, say which batch is best on your machine and why a larger one stops helping, and answer the same questions for a model of 8 billion parameters.
# - **Minutes:** 110, of which 20 are waiting
# - **Hardware:** two CPU cores and 6 GiB of memory; a GPU is used when there is one
# - **You need to know:** lessons 01 and 02; what a straight line through points is

# %% [markdown]
# ## Two things a batch costs
#
# A training step takes a **batch** of $B$ samples of $s$ tokens, and both of its costs are nearly straight lines in $B$:
#
# $$ M(B) = c + m \cdot B \qquad t(B) = a + b \cdot B $$
#
# The memory $c$ is there for any batch, and each sample adds $m$. The time $a$ is spent once a step, and each sample adds $b$. What you care about in the end is how many tokens go through in a second, the **throughput**:
#
# $$ \frac{s \cdot B}{a + b \cdot B} $$
#
# For a small batch it grows with $B$. For a large one it comes ever closer to $s / b$ and stays there, while the memory goes on growing. **That is what to take from this lesson: beyond some batch you pay memory and get no speed for it**, and you will find that batch on your machine, and for a card that you do not have.

# %% tags=["parameters"]
from labkit import sweep as sweeping
from labkit.runs import profiles

profile = profiles.current()
model_name = profiles.model()
device_here = sweeping.here()
smoke = profile.name == "smoke"
seq_len = 32 if smoke else 128
batch_sizes = (1, 2) if smoke else (1, 2, 4, 8, 16)
timed_steps = 2 if smoke else 4
llama_batch_sizes = (1, 8) if smoke else (1, 2, 4, 8, 12, 16)

# %% [markdown]
# ## Predict: two numbers
#
# Which parts of the memory are in $c$ and which in $m$, when the base model is frozen and LoRA adapters are trained? Lesson 01 has the parts. Write down what you expect before you run anything:
#
# 1. How many times as large is the peak at the largest batch below as at half of it?
# 2. Which of the batch sizes below is best, if best means the smallest that is within a tenth of the highest throughput?

# %%
print("batch sizes", batch_sizes, "of samples of", seq_len, "tokens")

predicted_growth = None  # such as 2, or 1.1
predicted_best_batch = None

# %% [markdown]
# ## Exercise: from points to a line
#
# *Easy, 10 minutes; useful.* Fit $t(B) = a + b B$ to measured step times by least squares: the line for which the sum of the squared vertical distances is smallest. With the means $\bar B$ and $\bar t$ its slope is $b = \sum (B - \bar B)(t - \bar t) \,/\, \sum (B - \bar B)^2$, and it goes through $(\bar B, \bar t)$.
#
# <details><summary>Hint 1: means first</summary>
#
# Compute both means first. Then the slope is one sum over pairs, divided by one sum over batch sizes.
#
# </details>
# <details><summary>Hint 2: through the middle</summary>
#
# A line through $(\bar B, \bar t)$ with slope $b$ meets the axis at $a = \bar t - b \bar B$. Return $a$ first.
#
# </details>


# %%
def fit_step_time(batch_sizes: list[float], seconds: list[float]) -> tuple[float, float]:
    """Return (a, b) of the least-squares line a + b·B."""
    ### BEGIN SOLUTION
    mean_b = sum(batch_sizes) / len(batch_sizes)
    mean_t = sum(seconds) / len(seconds)
    pairs = list(zip(batch_sizes, seconds, strict=True))
    b = sum((x - mean_b) * (t - mean_t) for x, t in pairs)
    b /= sum((x - mean_b) ** 2 for x in batch_sizes)
    return mean_t - b * mean_b, b
    ### END SOLUTION


# %%
from labkit.checkpoints import check

line_written = check.exercise("fit_step_time", fit_step_time)
line_written

# %% [markdown]
# *Medium, 5 minutes; important.* The throughput has the ceiling $s/b$. At which $B$ does it reach a given share of the ceiling?
#
# <details><summary>Hint 1: one equation</summary>
#
# Set $B / (a + bB)$ equal to $\mathrm{share} / b$.
#
# </details>
# <details><summary>Hint 2: solving it</summary>
#
# Multiply by both denominators and bring the two terms with $B$ to one side. At half of the ceiling the answer is $a / b$.
#
# </details>


# %%
def batch_for_share(a: float, b: float, share: float) -> float:
    """Return the batch at which throughput is `share` of its ceiling; not rounded."""
    ### BEGIN SOLUTION
    return share * a / (b * (1 - share))
    ### END SOLUTION


# %%
share_written = check.exercise("batch_for_share", batch_for_share)
share_written

# %% [markdown]
# Half of the ceiling is where both parts of the step take as long as each other. How far is it from there to nine tenths?

# %% tags=["nbval-check-output"]
for share in (0.5, 0.8, 0.9, 0.95) if share_written else ():
    print(f"{share:.0%} of the ceiling at {batch_for_share(1.0, 1.0, share):.0f} times a/b")

# %% [markdown]
# ## Measure: one point after the other
#
# Each point is predicted first, by tracing the model's step without allocating it, and then run: in a **process of its own**. If it runs out of memory, that process fails and says so, and this kernel lives on. Out of memory is a result like any other.
#
# Points are kept. Run the cell again and they come back at once; stop it in the middle, run it again, and it goes on with the first point that is missing.

# %%
from labkit.sweep import render, say, sweep

plain = []
for point in sweep(
    model_name, method="lora", device=device_here, seq_len=seq_len, batch_sizes=batch_sizes,
    steps=timed_steps,
):  # fmt: skip
    plain.append(point)
    print(say(point))

# %%
from labkit.datasets import tatqa

questions = len(tatqa.samples(tatqa.load("tables", "train")))
print(render(plain, samples=questions))
print(f"epoch: {questions:,} samples")

# %% [markdown]
# The two memory columns are the peak of what tensors hold, predicted and measured. The last column is the time of an **epoch**, one pass over the training questions of lesson 02, if each of them were a sample of this length.
#
# The next figure is what this lesson is about. Compare its two sides: on the left a curve that flattens, on the right a line that does not.

# %%
from labkit import plots

figure, alt = plots.batch_sweep(plain)
plots.show(figure, alt=alt)

# %% [markdown]
# ## Explain: does memory grow as expected?
#
# Take the first and the last point that ran and put a line through them, once through the predicted peaks and once through the measured ones.

# %%
MIB = 2**20
ran = [point for point in plain if point.status == "done"]
first, last = ran[0], ran[-1]


def line(low: float, high: float) -> tuple[float, float]:
    """Return the constant and the bytes of a sample from the peaks of the two points."""
    slope = (high - low) / (last.batch_size - first.batch_size)
    return low - slope * first.batch_size, slope


for label, peaks in {
    "predicted": (first.predicted_peak_bytes, last.predicted_peak_bytes),
    "measured": (first.peak_bytes, last.peak_bytes),
}.items():
    constant, slope = line(*peaks)
    print(f"{label}: {constant / MIB:,.0f} MiB for any batch, {slope / MIB:,.1f} MiB a sample")
worst = max(abs(p.predicted_peak_bytes / p.peak_bytes - 1) for p in ran)
print(f"largest error of a predicted peak: {worst:.1%}")
grown = last.peak_bytes / ran[-2].peak_bytes
print(f"batch {last.batch_size} has {grown:.2f} times the peak of batch {ran[-2].batch_size}, "
      f"predicted: {predicted_growth}")  # fmt: skip

# %% [markdown]
# In the constant are the frozen weights, the adapters (with 16-bit copies of them, unless your machine computes in float32), and the optimizer's state. The gradients are not: they come when this peak is over, as in lesson 01. The slope is activations and logits, these with their gradients. Divide it by the length and you have bytes per token. How much of that are the logits with their loss? Lesson 01's formula says:

# %%
from labkit.memory.formula import analytic

logits = [analytic(point.settings).parts["logits_and_loss"] for point in (first, last)]
for label, low_and_high in {
    "measured, all of it": (first.peak_bytes, last.peak_bytes),
    "logits and loss, by formula": logits,
}.items():
    print(f"{label:<28} {line(*low_and_high)[1] / seq_len / 1024:6.0f} KiB a token")

# %% [markdown]
# ## Explain: why throughput saturates
#
# First the points themselves, then the line through their step times, with the functions you wrote.

# %%
highest = max(p.tokens_per_second for p in ran)
best = min(p.batch_size for p in ran if p.tokens_per_second >= 0.9 * highest)
print(f"highest throughput measured: {highest:,.0f} tokens/s")
print(f"smallest batch within a tenth of it: {best}   predicted: {predicted_best_batch}")

# %%
if line_written and share_written:
    a, b = fit_step_time([p.batch_size for p in ran], [p.step_seconds for p in ran])
    print(f"a = {a:.2f} s for any batch, b = {b:.3f} s a sample")
    print(f"ceiling: {seq_len / b:,.0f} tokens/s")
    if a > 0:
        print(f"nine tenths of the ceiling at batch {batch_for_share(a, b, 0.9):.1f}")

# %% [markdown]
# What is in $a$? Whatever a step does once: it starts a few thousand operations one by one, it steps the optimizer, and its products read all the weights from memory, whether for one token or for a thousand. If $a$ comes out near zero or below, your machine is at its ceiling with a single sample already, and the noise of the measurement is larger than what is left of $a$.
#
# The last of these has a number that depends on the hardware alone. A product of a weight with $n$ tokens does $2n$ operations for the two bytes of the weight: $n$ operations per byte. A device that does $P$ operations and reads $W$ bytes in a second is busy reading as long as $n < P / W$, and busy computing beyond. This is the **roofline**:

# %% tags=["nbval-check-output"]
from labkit.machine.datasheets import DEVICES

for name in ("t4", "rtx-3090", "a100-40gb", "h100"):
    card = DEVICES[name]
    dtype = "bfloat16" if "bfloat16" in card.flops else "float16"
    tokens = card.peak_flops(dtype) / card.bandwidth_bytes_per_second
    print(f"{card.label:<18} {tokens:>5.0f} tokens in a pass")

# %% [markdown]
# Tokens, not samples: a batch of one sample with 1,024 tokens is past that point on every card of this list. What still makes a batch of one slow there is starting the operations. So short samples want large batches, and long samples do not need them.

# %% [markdown]
# ## Explain: what the best batch holds, counted four ways
#
# "How much memory does it take?" has more than one answer, and tools differ in which they give. While the point of the best batch ran, all of them were taken:
#
# - **allocated**: what tensors asked for, at the highest moment. The predictions of this course are of this.
# - **reserved**: what PyTorch's caching allocator keeps from a GPU. A CPU has no such allocator.
# - **resident set** (`RES` in `top`): what the operating system gave the process, libraries included. On a GPU, `nvidia-smi` shows the counterpart: what is taken of the card, the driver's part included.
# - **counted by a limit**: what the process has asked the operating system for, whether it has used it yet or not.

# %%
chosen = next(point for point in ran if point.batch_size == best)
counts = {
    "allocated by tensors": chosen.peak_bytes,
    "reserved by the allocator": chosen.reserved_bytes,
    "resident set of the process": chosen.resident_bytes,
    "in use on the card (nvidia-smi)": chosen.device_used_bytes,
    "counted by a limit": chosen.process_peak_bytes,
}
print(f"batch {best}:")
for label, size in counts.items():
    print(f"  {label:<34}{'none here' if size is None else f'{size / MIB:,.0f} MiB':>12}")
fastest = max(ran, key=lambda point: point.tokens_per_second)
print(f"batch {fastest.batch_size} is the fastest: "
      f"{fastest.tokens_per_second / chosen.tokens_per_second - 1:+.0%} tokens/s for "
      f"{fastest.peak_bytes / chosen.peak_bytes - 1:+.0%} memory")  # fmt: skip

# %% [markdown]
# ## Exercise: the operations of a step
#
# *Easy, 5 minutes; important.* Checkpointing is said to cost "a third more computation". Is that so for LoRA? Count. A matrix product takes 2 operations for each weight and token: a multiplication and an addition. A step makes one product forward, one backward to the layer's input, and where the weight is trained, one backward to the weight. Gradient checkpointing makes the forward pass a second time.
#
# <details><summary>Hint 1: count products</summary>
#
# Count the products first. A frozen layer still passes the gradient on to the layer before it.
#
# </details>
# <details><summary>Hint 2: two and more</summary>
#
# Two products are always there. Training the weights adds one, checkpointing adds one.
#
# </details>


# %%
def step_operations(weights: int, tokens: int, trains_weights: bool, checkpointing: bool) -> int:
    """Return the operations of a step's products with `weights` weights."""
    ### BEGIN SOLUTION
    products = 2
    if trains_weights:
        products += 1
    if checkpointing:
        products += 1
    return 2 * weights * tokens * products
    ### END SOLUTION


# %%
operations_written = check.exercise("step_operations", step_operations)
operations_written

# %% tags=["nbval-check-output"]
for label, trains in {"full": True, "frozen weights": False}.items() if operations_written else ():
    plain_step, again = (step_operations(1, 1, trains, each) for each in (False, True))
    print(f"{label}: {plain_step} operations a weight and token, {again} with checkpointing: "
          f"{again / plain_step - 1:.0%} more")  # fmt: skip

# %% [markdown]
# The count leaves out the adapters and the attention, which checkpointing repeats as well, and takes all weights for weights of layers. The output head and the loss are not made again. How much of the products is the head's?

# %%
from labkit.memory.architectures import block_weights, shape_of

shape = shape_of(first.settings)
head = shape.vocab * shape.hidden
print(f"{model_name}: the head has {head / (head + block_weights(shape)):.0%} of the products")

# %% [markdown]
# The measurement below has all of this in it.
#
# ## Measure: the same samples for less memory
#
# Two settings let you train on as many samples a step with less memory, and each has its price:
#
# - **Gradient checkpointing** keeps the input of each layer only, and computes the rest again in the backward pass.
# - **Gradient accumulation** takes the samples in several passes and sums the gradients before the optimizer steps.

# %%
size = batch_sizes[-1] if smoke else 8
parts = 2 if smoke else 4
variants = {
    f"{size} at once": (size, {}),
    "checkpointing": (size, {"gradient_checkpointing": True}),
    f"{parts} passes of {size // parts}": (
        size // parts,
        {"gradient_accumulation_steps": parts},
    ),
}
compared = {}
for label, (batch, change) in variants.items():
    (point,) = sweep(
        model_name, method="lora", device=device_here, seq_len=seq_len, batch_sizes=(batch,),
        steps=timed_steps, variants=(change,),
    )  # fmt: skip
    compared[label] = point
    print(f"{label}: {say(point)}")

# %%
once = compared[f"{size} at once"]
for label, point in compared.items():
    if point.status == once.status == "done":
        memory = point.peak_bytes / once.peak_bytes - 1
        seconds = point.step_seconds / once.step_seconds - 1
        print(f"{label:<18} {memory:>+6.0%} memory  {seconds:>+6.0%} time for {point.samples}")

# %% [markdown]
# Checkpointing makes the forward pass again, so its price in time is at most what you counted: less by the head's share, and less where other things than products take the time. Accumulation does the same work in smaller passes: on a device that is at its ceiling with the smaller pass it costs next to nothing, and elsewhere it costs the $a$ of every further pass, without the optimizer's part, which comes once.
#
# ## Exercise: is the gradient the same?
#
# *Medium, 15 minutes; very important.* The loss of a step is the mean over all its labels. Samples have answers of different lengths, so passes have different numbers of labels, and the mean of the passes' means is not the mean of all. Many training loops got this wrong until late in 2024 (*Fixing Gradient Accumulation*, under further reading). `labkit train` divides every pass by the labels of the whole step, so there the gradient is the same, up to the order of a sum. Write it: `gradient(batch)` gives the gradient of the mean loss of one pass, and how many labels the pass has. Do not keep the gradients of all passes: that would take the memory that accumulation is to save.
#
# <details><summary>Hint 1: sums</summary>
#
# A mean times the number of its labels is a sum. Sums can be added.
#
# </details>
# <details><summary>Hint 2: two totals</summary>
#
# Go through the passes with two running totals, one of gradients and one of labels, and divide once at the end.
#
# </details>


# %%
def accumulated_gradient(passes, gradient):
    """Return the gradient of the mean loss over all labels of all passes."""
    ### BEGIN SOLUTION
    summed_gradient, counted_labels = 0.0, 0
    for each_pass in passes:
        mean_of_pass, labels_of_pass = gradient(each_pass)
        summed_gradient = summed_gradient + labels_of_pass * mean_of_pass
        counted_labels += labels_of_pass
    return summed_gradient / counted_labels
    ### END SOLUTION


# %%
check.exercise("accumulated_gradient", accumulated_gradient)

# %% [markdown]
# ## Exercise: the largest batch, with few trials
#
# *Hard, 15 minutes; important.* `fits(batch)` says whether a batch fits: a trial, that is a run that you wait for, and a failed one may take the card's other users down. If a batch fits, so do all smaller ones. Find the largest with few trials, none of them made twice and none far beyond what fits; 0 if not even one sample does. The check counts them.
#
# <details><summary>Hint 1: up</summary>
#
# How far to go is not known: double until something fails. You then have one batch that fits and one that does not.
#
# </details>
# <details><summary>Hint 2: between</summary>
#
# Keep two numbers, the largest that was seen to fit and the smallest that was seen not to, and try the middle until they are neighbours. Nothing fits at first, so begin with 0 and 1.
#
# </details>


# %%
def largest_fitting(fits):
    """Return the largest batch for which `fits(batch)` is true; 0 when 1 does not fit."""
    ### BEGIN SOLUTION
    seen_to_fit, seen_to_fail = 0, 1
    while fits(seen_to_fail):
        seen_to_fit, seen_to_fail = seen_to_fail, 2 * seen_to_fail
    while seen_to_fail - seen_to_fit > 1:
        between = (seen_to_fit + seen_to_fail) // 2
        if fits(between):
            seen_to_fit = between
        else:
            seen_to_fail = between
    return seen_to_fit
    ### END SOLUTION


# %%
check.exercise("largest_fitting", largest_fitting)

# %% [markdown]
# ## Predict and measure: the largest batch under a limit
#
# On a hub a process has a memory limit, and the limit counts everything: the interpreter, the libraries, the buffers of the matrix products, not only tensors. (A hub kills who goes past it. Here the operating system refuses the allocation instead, so that the process can say what happened. On a GPU the limit is on what PyTorch's allocator takes of the card; the prediction counts the driver's part too, and is lower.) How many samples of 64 tokens fit? You know what there is for any batch and what each token adds; write your prediction down.

# %%
limit = 5 * 2**30 // 4 if model_name == profiles.DEFAULT_MODEL else ran[-1].predicted_process_bytes
print(f"limit: {limit:,} bytes ({limit / 2**30:.2f} GiB) for the whole process")

predicted_largest = None

# %% [markdown]
# labkit's prediction adds what the process needs besides tensors. Then steps are run under the limit, around the predicted batch, until one fits and the next does not.

# %%
from labkit.sweep import largest_batch, say_largest

found = largest_batch(
    model_name, method="lora", device=device_here, seq_len=64, memory_limit=limit,
    measure=not smoke,
)  # fmt: skip
print(say_largest(found), f"; yours: {predicted_largest}", sep="")
for point in found.points:
    print(f"  batch {point.batch_size}: {point.status}")

# %% [markdown]
# On a CPU labkit's prediction is on the safe side by little: it may be one sample too low, or a tenth of a large batch, because a batch that does not fit costs you a run, and one that is a little small costs you nothing. On a GPU it is lower by more under a small limit, because it leaves room for the driver's part, which this limit does not count. [The records of the course](../data/results/README.md) compare both for LoRA and full fine-tuning, with and without checkpointing, at two lengths and under four limits each.

# %% [markdown]
# ## Predict: 8 billion parameters
#
# No A100 is needed to answer the same questions for Llama-3-8B: tracing takes seconds and allocates nothing. Samples have 1,024 tokens. LoRA runs on one A100 with 40 GB; full fine-tuning is spread over four of them with ZeRO-3, which gives each a quarter of weights, gradients and optimizer state. Which of the two has more memory to spare on a card, and how much longer does a step of full fine-tuning take, one sample a card?

# %%
predicted_to_spare = None  # "LoRA" or "full"
predicted_time_ratio = None

# %%
from labkit.memory.estimates import estimate

ways = {
    "LoRA, one card": {"method": "lora"},
    "full, four cards, ZeRO-3": {"method": "full", "sharding": "zero3", "num_gpus": 4},
}
answers = {}
for label, choices in ways.items():
    for checkpointing in (True,) if smoke else (False, True):
        answers[label, checkpointing] = result = estimate(
            "llama-3-8b", device="a100-40gb", seq_len=1024, batch_size=1,
            gradient_checkpointing=checkpointing, **choices,
        )  # fmt: skip
        held = sorted(result.at_peak.items(), key=lambda part: -part[1])[:2]
        print(f"{label}{', checkpointing' if checkpointing else ''}: "
              f"peak {result.peak_bytes['traced']:,} bytes on a card, largest batch "
              f"{result.largest_batch_size} a card; at batch 1 most is "
              + " and ".join(f"{name} {size / 2**30:.1f} GiB" for name, size in held))  # fmt: skip

# %%
for checkpointing in (True,) if smoke else (False, True):
    lora_step, full_step = (answers[label, checkpointing].step_seconds for label in ways)
    print(f"least time of a step, one sample a card{', checkpointing' if checkpointing else ''}: "
          f"LoRA {lora_step[0]:.2f} s, full {full_step[0]:.2f} s, "
          f"{full_step[0] / lora_step[0]:.2f} times as long")  # fmt: skip
print(f"samples of such a step: LoRA 1, full {ways['full, four cards, ZeRO-3']['num_gpus']}")
print("predicted:", predicted_to_spare, "and", predicted_time_ratio)

# %% [markdown]
# A largest batch of 0 means that not one sample fits. The weights of LoRA's frozen base are the same for any batch, so what is left of the card is shared out among samples, and checkpointing multiplies their number. Full fine-tuning keeps 16 bytes and more for every parameter; a quarter of that fills most of a card before the first sample comes. On top come `sharding_buffers`: weights that are gathered from the other cards while they are used, gradients on their way to them, and the copies of gradients that the optimizer's step makes.
#
# The least time of a step follows from the card's datasheet: all products at the share of its rate that large products reach, all bytes at four fifths of its bandwidth. Full fine-tuning makes one product more for every weight than LoRA, and its optimizer passes over a state that LoRA has for its adapters only. What the four cards send each other runs beside all this, and the least time takes it as hidden where it is shorter than all the rest together; lesson 08 says from how many tokens on the products alone hide it.
#
# ## Measure: leave one out
#
# What does LoRA owe its place on the card to? Start with everything that saves memory, and with adapters on all layers, which cost some; take back one thing at a time. The cell below names each thing and says what comes in its place. A row takes some seconds. Two rows that would have been large alone can be small here, because something else saves the same bytes already: that is why each setting is judged beside all the others.

# %%
from labkit.sweep import leave_one_out, left_out

everything = {"batch_size": 1, "seq_len": 1024, "gradient_checkpointing": True, "loss": "chunked"}
without = {
    "checkpointing": {"gradient_checkpointing": False},
    "chunked loss": {"loss": "full"},
    "16-bit weights": {"dtype": "float32"},
    "one sample": {"batch_size": 4},
    "short samples": {"seq_len": 2048},
    "small rank": {"lora_r": 64},
    "fused AdamW": {"optim": "adamw_torch_foreach"},
    "adapters on all layers": {"lora_target_modules": ("q_proj", "v_proj")},
}
if smoke:
    without = {"checkpointing": without["checkpointing"]}


def table_of(way, without):
    """Trace everything on and each row; print the table; return the peaks by label."""
    rows = list(
        leave_one_out(
            "llama-3-8b", device="a100-40gb", on={**ways[way], **everything}, left_out=without
        )
    )  # fmt: skip
    print(left_out.render(rows))
    return {row.label: row.peak_bytes for row in rows}


peaks = table_of("LoRA, one card", without)

# %%
from labkit.memory.estimates import find_device

card = find_device("a100-40gb")
figure, alt = plots.peaks(
    peaks, limit=card.usable_bytes, limit_label="what an A100 with 40 GB has",
    title="Llama-3-8B with LoRA: one thing left out",
)  # fmt: skip
plots.show(figure, alt=alt)

# %% [markdown]
# (A bar that does not fit is red.) Nearly all of the first bar is the frozen base, which no row touches but the one with 32-bit weights: that is why **QLoRA** stores it in 4 bits. Of the rest, checkpointing saves most, and it costs most time: without it the step is shortest. Adapters on all layers cost a little time too. The row with 32-bit weights takes so long because its products are in 32 bits as well. A larger rank costs more adapters, each number with its gradient and two states. The other AdamW costs nothing: it copies what LoRA trains, and does so when the peak is over.
#
# Now the same for full fine-tuning on four cards. Which row will be largest, and which of the rows above will have shrunk to nothing?

# %%
if not smoke:
    shared = ("checkpointing", "chunked loss", "one sample", "short samples", "fused AdamW")
    full_without = {name: without[name] for name in shared} | {
        "AdamW": {"optim": "sgd"},
        "ZeRO-3, ZeRO-2 instead": {"sharding": "zero2"},
    }
    full_peaks = table_of("full, four cards, ZeRO-3", full_without)
    figure, alt = plots.peaks(
        full_peaks, limit=card.usable_bytes, limit_label="what an A100 with 40 GB has",
        title="Llama-3-8B in full on four cards: one thing left out",
    )  # fmt: skip
    plots.show(figure, alt=alt)

# %% [markdown]
# The optimizer's state is most of what these cards hold. ZeRO counts the fp32 copy of the weights there, which the optimizer steps, so it is 12 bytes a parameter and not 8. An optimizer without moments (SGD) keeps that copy and frees the moments, 8 of these 12 bytes: its row says how much that is on a card. ZeRO-2 spreads that state and the gradients as ZeRO-3 does, but leaves the 16-bit weights whole on every card, and that costs most. The chunked loss, the single sample and the short samples saved something with LoRA and take nothing off this peak: with one sample a card it is in the optimizer's step, when logits and activations are gone. Look at the largest batch, though: with more samples the peak moves to the backward pass, where they are, and then the chunked loss and the short samples count again. **A setting has no saving of its own. It has one beside the others.**
#
# ## Explain: throughput at 8 billion
#
# A datasheet and the arithmetic of the step give a range of the throughput, from the least time to what real runs reach:

# %%
llama = list(
    sweep(
        "llama-3-8b", device="a100-40gb", method="lora", seq_len=1024,
        batch_sizes=llama_batch_sizes, gradient_checkpointing=True,
    )
)  # fmt: skip
figure, alt = plots.batch_sweep(llama)
plots.show(figure, alt=alt)

# %%
for point in llama:
    low, high = point.predicted_step_seconds
    verdict = "fits" if point.fits else "does not fit"
    print(f"batch {point.batch_size:>2}: {point.tokens / high:>6,.0f} to "
          f"{point.tokens / low:>6,.0f} tokens/s, {verdict}")  # fmt: skip

# %% [markdown]
# The throughput hardly depends on the batch: a single sample has more tokens than the roofline asks of this card. A larger batch is worth its memory here only for what it does to the optimization, and accumulation does that too.

# %% [markdown]
# ## Checkpoint
#
# Fill in the fields and run the cells. Your answers are compared with the points you measured.
#
# **03.1** Does memory grow with the batch as you expect? Take two points of the sweep.

# %%
check(
    "03.1",
    small_batch=None,
    large_batch=None,
    small_bytes=None,
    large_bytes=None,
    bytes_per_sample=None,
    constant_bytes=None,
    explanation=None,
)

# %% [markdown]
# **03.2** (question 1.2 of the assignment) Which batch is best, by time and by memory, and why does the throughput stop growing while the memory does not?

# %%
check(
    "03.2",
    highest_tokens_per_second=None,
    best_batch_size=None,
    best_tokens_per_second=None,
    share_percent=None,
    highest_bytes=None,
    best_bytes=None,
    held_bytes=None,
    explanation=None,
)

# %% [markdown]
# **03.3** What do checkpointing and accumulation change? Compare checkpointing with the same batch without it, and accumulation with one pass over as many samples. "No change" means less than 3 percent of the memory, and less than 10 percent of the time.

# %%
check(
    "03.3",
    checkpointing_memory=None,
    checkpointing_time=None,
    accumulation_memory=None,
    explanation=None,
)

# %% [markdown]
# **03.4** (question 3 of the assignment) Llama-3-8B with LoRA on one A100 with 40 GB, or in full on four with ZeRO-3: the largest batch, the memory and the time of each, and why? Take the settings under "Predict: 8 billion parameters", with the full loss. The tables of things left out have the chunked loss, and so other numbers.

# %%
check(
    "03.4",
    seq_len=None,
    checkpointing=None,
    lora_batch=None,
    full_batch_per_gpu=None,
    full_samples_per_step=None,
    lora_bytes=None,
    full_bytes=None,
    time_ratio=None,
    explanation=None,
)

# %% [markdown]
# **03.5** What is the largest batch that ran under the memory limit, and what had labkit predicted (not you)?

# %%
check(
    "03.5",
    memory_limit_bytes=None,
    largest_batch_size=None,
    predicted_batch_size=None,
    explanation=None,
)

# %% [markdown]
# **03.6** (question 2 of the assignment) Which settings does LoRA for Llama-3-8B owe its place on one card to? Compare with your own small runs of lesson 02.

# %%
check(
    "03.6",
    all_on_bytes=None,
    largest=None,
    largest_bytes=None,
    unchanged=None,
    slowest=None,
    explanation=None,
)

# %% [markdown]
# ## What to remember
#
# - Memory is a constant and so much per sample; weights and optimizer state are in the constant, activations and logits in the slope.
# - Throughput saturates once the arithmetic takes the time. That depends on the *tokens* in a pass, so long samples are there with a batch of one.
# - The best batch is the smallest near the ceiling. Beyond it you pay memory and get no speed, only fewer and less noisy steps of the optimizer.
# - Checkpointing pays with one more forward pass: a third of full fine-tuning's products, half of LoRA's. Accumulation pays with smaller passes, and gives the same gradient where each pass is divided by the labels of the whole step.
# - What a setting saves depends on the others: leave one out at a time.
# - A limit counts the process, not the tensors. Leave room for it, or let the prediction do so.

# %% [markdown]
# ## Further reading
#
# - S. Williams, A. Waterman, D. Patterson, *Roofline: An Insightful Visual Performance Model for Multicore Architectures*, 2009, [doi:10.1145/1498765.1498785](https://doi.org/10.1145/1498765.1498785).
# - S. McCandlish et al., *An Empirical Model of Large-Batch Training*, 2018, [arXiv:1812.06162](https://arxiv.org/abs/1812.06162): when a larger batch makes the optimizer's steps better, and when not.
# - T. Chen et al., *Training Deep Nets with Sublinear Memory Cost*, 2016, [arXiv:1604.06174](https://arxiv.org/abs/1604.06174): gradient checkpointing.
# - S. Rajbhandari et al., *ZeRO: Memory Optimizations Toward Training Trillion Parameter Models*, 2020, [arXiv:1910.02054](https://arxiv.org/abs/1910.02054).
# - Hugging Face, *Fixing Gradient Accumulation*, 2024, [huggingface.co/blog/gradient_accumulation](https://huggingface.co/blog/gradient_accumulation): the mean of means, in most training loops until then.
# - Linux manual, [getrlimit(2)](https://man7.org/linux/man-pages/man2/getrlimit.2.html): `RLIMIT_DATA`, the limit that the points run under.
