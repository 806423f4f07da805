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
# # 02 · LoRA against full fine-tuning
#
# - **Goal:** fine-tune the same model twice, once through small adapters and once in full, and say from your own records what each costs in time and memory and what it learns; know what every setting of a run does.
# - **Minutes:** 60, of which 20 are waiting
# - **Hardware:** two CPU cores and 8 GiB of memory; a GPU is used when there is one
# - **You need to know:** lesson 00; what a gradient and an optimizer are

# %% [markdown]
# ## Two ways to change a model
#
# **Full fine-tuning** changes every weight. For each one the process holds the weight, its gradient, and the two running means that AdamW keeps of the gradient and of its square.
#
# **LoRA** leaves the pretrained weight $W_0$ as it is and learns a product of two thin matrices beside it:
#
# $$ y = W_0 x + \frac{\alpha}{r} B A x $$
#
# $A$ has $r$ rows and starts random, $B$ has $r$ columns and starts at zero. So the first step sees exactly the pretrained model, and only $A$ and $B$ have gradients and optimizer state.
#
# Both runs below train on the same questions, in the same order, for the same number of steps. The profile says how many.

# %% tags=["parameters"]
from labkit.runs import profiles

profile = profiles.current()
lora_config = profiles.run_config("lora")
full_config = profiles.run_config("full")
eval_samples = profile.eval_samples

# %% [markdown]
# The two configurations differ in these settings and no others:

# %% tags=["nbval-check-output"]
lora_settings, full_settings = lora_config.to_dict(), full_config.to_dict()
for key in lora_settings:
    if lora_settings[key] != full_settings[key]:
        print(f"{key}: {lora_settings[key]} (LoRA), {full_settings[key]} (full)")

# %% [markdown]
# ## Predict: how many numbers are trained?
#
# An adapter of rank $r$ on a layer with $n$ inputs and $m$ outputs has $r(n + m)$ numbers, where the layer itself has $nm$. These are the linear layers of one block of the model:

# %%
from labkit.models import load, registry
from labkit.models.layers import linear_names

model = load.load_model(registry.resolve(lora_config.model))
layers = linear_names(model)
shapes = [(layer.in_features, layer.out_features) for _, layer in layers]
blocks = model.config.num_hidden_layers
for name, layer in layers[: len(layers) // blocks]:
    print(f"{name.split('.', 3)[-1]:<18} {layer.in_features:>6} → {layer.out_features}")
print(f"{len(layers)} linear layers in {blocks} blocks")

# %% [markdown]
# Write your predictions down before you train anything. How many parameters does a LoRA run with the rank below train? How much longer does a step of full fine-tuning take than a step of LoRA, and how much more memory does it need at its peak?

# %%
print("rank", lora_config.r)

predicted_lora_parameters = None
predicted_time_ratio = None
predicted_memory_ratio = None

# %% [markdown]
# ## Exercise: LoRA by hand
#
# *Medium, 15 minutes.* Write the forward pass of one adapted layer. `x` has shape (…, n), `W` is (m, n), `A` is (r, n), `B` is (m, r). Rows of `x` are samples, so the layer computes `x @ W.T`. Never build the full update `B @ A`: it is as large as `W`.


# %%
def lora_forward(x, W, A, B, alpha, r):
    """Return W x + (alpha / r) B A x for each row of x; shape (…, m)."""
    ### BEGIN SOLUTION
    return x @ W.T + (alpha / r) * (x @ A.T) @ B.T
    ### END SOLUTION


# %%
from labkit.checkpoints import check

check.exercise("lora_forward", lora_forward)

# %% [markdown]
# *Easy, 5 minutes.* Count what an adapter of rank `r` trains on layers with the given (inputs, outputs).


# %%
def count_lora_parameters(shapes: list[tuple[int, int]], r: int) -> int:
    """Return the number of trained parameters of LoRA of rank r on layers (n, m)."""
    ### BEGIN SOLUTION
    return sum(r * (n + m) for n, m in shapes)
    ### END SOLUTION


# %%
check.exercise("count_lora_parameters", count_lora_parameters)

# %% [markdown]
# ## Measure: two runs
#
# One sequence of a batch is a report with *all* its questions. Tokens of a question attend to the report and to their own question only, so the loss is the same as if each question came with a copy of the report, for a fraction of the work.
#
# A run is a configuration in and a **record** out: every step's loss, seconds and tokens, and the peak of memory. Records are kept on disk. If the kernel stops in the middle, run the cell again: training goes on from its last checkpoint. Run a finished cell again, and the record comes back at once.

# %%
from labkit.train import train

lora = train(lora_config)

# %%
full = train(full_config)

# %% [markdown]
# Does the loss behave as it should? It is the mean of −log of the probability that the model gives to each token of the right answer. Single steps are noisy, because each sees other questions; the trend is what counts.

# %%
from labkit import plots

figure, alt = plots.loss_curves({"LoRA": lora.losses, "full": full.losses})
plots.show(figure, alt=alt)

# %% [markdown]
# ## Measure: did they learn the task?
#
# A falling loss says that the training questions became likelier. Whether the model can answer questions on reports it has never seen is another question, and it needs two yardsticks. The **majority** answer is the most frequent answer of the training split: it shows what can be had without reading. The **untouched model with two worked examples** in its prompt knows the answer format from them: what fine-tuning adds beyond it is the task.

# %%
from labkit.inference.evaluate import evaluate

data = lora_config.data
scores = {
    "majority answer": evaluate("majority", data=data, max_samples=eval_samples),
    "untouched, 2 examples": evaluate(
        lora_config.model, data=data, examples=2, max_samples=eval_samples
    ),
    "LoRA": evaluate(lora.name, data=data, max_samples=eval_samples),
    "full": evaluate(full.name, data=data, max_samples=eval_samples),
}

# %% tags=["result"]
figure, alt = plots.score_bars(scores)
plots.show(figure, alt=alt)

# %%
from labkit.inference.evaluate import score_table

score_table(scores)

# %% [markdown]
# The bars carry 95 % intervals. They come from drawing whole reports again and again with replacement, because questions on one report stand and fall together. Where two intervals do not overlap, the difference is not an accident of which reports were asked.

# %%
lora_em, full_em = (scores[k].metrics["em"] for k in ("LoRA", "full"))
untouched_em = scores["untouched, 2 examples"].metrics["em"]
for label, em in (("LoRA", lora_em), ("full", full_em)):
    better = em["low"] > untouched_em["high"]
    print(f"{label} against the untouched model:", "better" if better else "not told apart")
apart = lora_em["low"] > full_em["high"] or full_em["low"] > lora_em["high"]
print("LoRA against full:", "told apart" if apart else "not told apart")

# %% [markdown]
# ## Explain: what does each cost?
#
# Read the table from top to bottom: what is trained, how long a step takes, how many tokens go through in a second, and how much memory the tensors of a step need at its highest point. *Resident* is what the operating system gave the process; it also holds Python, the libraries, and memory that was freed and kept. Beside the time and the peak stands what labkit predicted before the first step, by the formulas of lesson 01 and this machine's measured rates.

# %%
from labkit.runs import records

records.cost_table({"LoRA": lora, "full": full})

# %%
GIB = 2**30
time_ratio = full.summary["train_seconds"] / lora.summary["train_seconds"]
if full.summary["step_seconds_median"] and lora.summary["step_seconds_median"]:
    time_ratio = full.summary["step_seconds_median"] / lora.summary["step_seconds_median"]
peaks = {k: r.summary["peak_bytes"]["allocated"] for k, r in (("LoRA", lora), ("full", full))}
memory_ratio = peaks["full"] / peaks["LoRA"]
counted = count_lora_parameters(shapes, lora_config.r)

print(f"time of a step, full over LoRA: {time_ratio:.2f}   predicted: {predicted_time_ratio}")
print(f"peak memory, full over LoRA:    {memory_ratio:.2f}   predicted: {predicted_memory_ratio}")
print(f"trained by LoRA: {lora.summary['trainable_parameters']:,}   counted: {counted}")

# %% [markdown]
# **Time.** A step multiplies matrices three times over: forward, backward to the layer's input, and backward to its weights. LoRA skips the last for every frozen weight, which is a third of the work at most; the adapters and everything that is not a matrix product stay. So LoRA is faster, but by far less than the number of trained parameters suggests.
#
# **Memory.** Here is where the states of the optimizer count. In bytes per parameter, full fine-tuning keeps 4 for the weight, 4 for its gradient and 8 for AdamW's two means; LoRA keeps 2 for the frozen weight (4 where your machine computes in float32), and those 16 only for the adapters.

# %%
trained, total = (lora.summary[k] for k in ("trainable_parameters", "total_parameters"))
base = total - trained
frozen_bytes = 4 if lora.config["dtype"] == "float32" else 2
states = {
    "LoRA": (frozen_bytes * base + 16 * trained) / GIB,
    "full": 16 * base / GIB,
}
for label, gib in states.items():
    rest = peaks[label] / GIB - gib
    print(
        f"{label}: weights, gradients and optimizer {gib:.2f} GiB, so activations ≈ {rest:.2f} GiB"
    )

# %% [markdown]
# The rest are **activations**: what the forward pass keeps for the backward pass. They depend on the batch and the length of its samples, and hardly on the method. With a small model and a large batch they outweigh everything that LoRA saves; with a model of billions of weights it is the other way round. Lesson 01 computes both.

# %% [markdown]
# ## Measure: which settings change memory?
#
# One setting is changed at a time and a few steps are run, just enough to see the peak. A step's peak does not depend on how many steps there are. The last two probes are small steps in two types: the one that is fast on this machine and the other, which may be many times slower.

# %%
from labkit.machine import arithmetic

baseline = profiles.probe_config("lora", r=16)
computes_in = arithmetic.resolve(baseline.dtype)
other_type = "bfloat16" if computes_in == "float32" else "float32"
small = {"max_length": 192, "per_device_train_batch_size": 1}
small["max_steps"] = profile.probe_steps // 2
batch = baseline.per_device_train_batch_size

probes = {
    f"rank 16, batch {batch}": {},
    "rank 4": {"r": 4},
    "rank 128": {"r": 128},
    "adapters on q_proj, v_proj only": {"target_modules": "q_proj,v_proj"},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "max_length 192": {"max_length": 192},
    f"batch {batch // 2}": {"per_device_train_batch_size": batch // 2},
    f"batch {batch // 2}, 2 accumulated": {
        "per_device_train_batch_size": batch // 2,
        "gradient_accumulation_steps": 2,
    },
    f"small step, {computes_in}": small,
    f"small step, {other_type}": {**small, "dtype": other_type},
}
probe_records = {
    label: train(profiles.probe_config("lora", **({"r": 16} | changes)), quiet=True)
    for label, changes in probes.items()
}

# %%
lora_peaks = {k: r.summary["peak_bytes"]["allocated"] / GIB for k, r in probe_records.items()}
figure, alt = plots.bars(
    lora_peaks, label="peak of allocated tensors in a step (GiB)", title="LoRA: one setting changed"
)
plots.show(figure, alt=alt)

# %% [markdown]
# The optimizer matters where much is trained. The same probe for full fine-tuning:

# %%
optimizers = {
    "AdamW": {},
    "Adafactor": {"optim": "adafactor"},
    "SGD": {"optim": "sgd"},
    "AdamW, gradient checkpointing": {"gradient_checkpointing": True},
}
optimizer_records = {
    label: train(profiles.probe_config("full", **changes), quiet=True)
    for label, changes in optimizers.items()
}
full_peaks = {k: r.summary["peak_bytes"]["allocated"] / GIB for k, r in optimizer_records.items()}
figure, alt = plots.bars(
    full_peaks,
    label="peak of allocated tensors in a step (GiB)",
    title="Full fine-tuning: optimizer and checkpointing",
)
plots.show(figure, alt=alt)

# %% [markdown]
# ## Explain: what the probes show
#
# Compare each bar with the first of its figure, and the two small steps with each other.


# %%
def change(label: str, probes: dict[str, float]) -> str:
    """Return how far a probe's peak is from the first probe's, in percent."""
    first = next(iter(probes.values()))
    return f"{100 * (probes[label] / first - 1):+.0f} %"


for label in list(lora_peaks)[1:]:
    print(f"{label:<34} {change(label, lora_peaks):>7}")
for label in list(full_peaks)[1:]:
    print(f"full: {label:<28} {change(label, full_peaks):>7}")

# %% [markdown]
# - **Rank** adds 16 bytes for each number it adds, and a few activations of width $r$. Next to the frozen model that is little, until the rank is large.
# - **Target modules**: fewer adapters mean fewer trained numbers and fewer activations kept for them.
# - **Precision**: in float32 the frozen weights and the activations take twice the bytes.
# - **Gradient checkpointing** keeps one activation per block and computes the others again in the backward pass. It buys memory with about a third more computation.
# - **Length and batch** scale the activations; weights and optimizer stay. A batch half as large with two accumulated passes trains on as many sequences per step with half the activations.
# - **Optimizer**: AdamW keeps two numbers per trained weight, Adafactor about one row and one column per matrix, plain SGD none.
#
# Checkpointing and the smaller batch cost time instead. The records know how much:

# %%
for label in (
    f"rank 16, batch {batch}",
    "gradient checkpointing",
    f"batch {batch // 2}, 2 accumulated",
):
    record = probe_records[label]
    tokens = sum(s["tokens"] for s in record.steps[1:])
    seconds = sum(s["seconds"] for s in record.steps[1:])
    print(f"{label:<28} {1000 * seconds / tokens:>6.2f} ms per token")

# %% [markdown]
# ## Measure: where does a step's time go?
#
# A step of plain TRL on a CPU takes several times longer than its arithmetic. `stages` takes the same step apart: samples of equal length, a loss on the last 12 tokens, LoRA with PEFT's defaults. It starts without any of labkit's settings for speed and adds one at a time, those that matter for the type that this machine computes in; the last step of each stage runs under torch's profiler, which says what the time went to.
#
# Before you run it, guess: is most of the time spent in matrix products?

# %%
from pathlib import Path
from tempfile import TemporaryDirectory

from labkit.bench import paired
from labkit.bench.step import stages as costs

with TemporaryDirectory() as folder:
    setup = costs.embedded_spec(Path(folder) / "samples.jsonl", method="lora", **profile.stages)
    stages = paired.in_fresh_process(
        "labkit.bench.step.stages:stages", say=print, spec=setup, order=profile.stage_order
    )

# %%
figure, ax = plots.new_figure(width=8.2, height=4.4)
alt = costs.draw_stages(ax, stages)
plots.show(figure, alt=alt)

# %% [markdown]
# ## Explain: five costs, and what removes them
#
# These are the five largest costs of the first stage and of the last:

# %%
for row in (stages[0], stages[-1]):
    print(f"{row['name']}: {row['seconds']:.2f} s a step")
    for cost, share in costs.largest(row):
        print(f"    {share:>4.0%}  {cost}")

# %% [markdown]
# - **Loss over the vocabulary.** The stock loss on a CPU scores every position against every token of the vocabulary, though only the answer has labels. Applying the output head to labelled positions alone gives the same sum.
# - **Attention.** PyTorch's fused kernel has a slow backward pass in bfloat16 on CPUs. For short samples plain products are faster. They store a probability for every pair of positions, so long samples keep the fused kernel, and so does all training in float32, where its backward pass is the faster one.
# - **Elementwise operations** (norms, rotary embedding, SwiGLU, casts, residual sums) do little arithmetic and read and write everything. Compilation fuses them, so that a value is read once for all of them. Compiling takes a while at the first step and is kept on disk: worth it for long runs only. In float32 the products take most of the step, so it saves less there.
# - **Copies and casts** between float32 and bfloat16: PEFT copies each input of an adapter to the type of its weights, which autocast undoes at once; labkit leaves that out, and compilation fuses the rest.
# - **Matrix products** are what is left, and what the step is for.
#
# Freed memory that goes back to the operating system has to be cleared when it is used again; keeping it helps where blocks are large. A stage here is one short run, so small ratios can come out on either side of 1. `labkit bench step --ablate` repeats them in pairs and gives intervals; results measured on two cores are in `data/results/`.
#
# None of this may cost anything in what is learned. Rounding differs, so losses drift apart after a while, and only the trained models can be compared. The course trained LoRA once with plain TRL, on the same questions in the same steps, and asked both models the test split:

# %%
from labkit.bench.records import equal_quality
from labkit.datasets import tatqa

equal = equal_quality.read(tatqa.data_dir() / "results" / "fast_quality.json")
print(equal_quality.sentence(equal, a="plain TRL", b="labkit"))

# %% [markdown]
# ## Every setting in one table
#
# | setting | what it does | memory |
# |---|---|---|
# | `r` | inner size of the update $BA$; more can express more, and overfit sooner | 16 bytes per trained number |
# | `lora_alpha` | the update is scaled by α/r, so α sets its weight independently of r | none |
# | `lora_dropout` | drops inputs of the adapters while training, against overfitting | the masks |
# | `target_modules` | which linear layers get an adapter; all of them usually beats a larger rank on two | with the adapters |
# | `bias` | trains bias vectors too; then the base differs from the original even with adapters off | hardly any |
# | `use_rslora` | scales by $\alpha / \sqrt{r}$, so that the update does not shrink as r grows | none |
# | `loftq_config` | with a quantised base: starts A and B at the rounding error of the quantisation instead of zero | none while training |
# | `gradient_checkpointing` | keeps block inputs only, computes the rest again | far fewer activations |
# | `per_device_train_batch_size` | sequences per forward pass; a sequence is a report with its questions | activations grow with it |
# | `gradient_accumulation_steps` | passes summed before a step: a larger batch for the optimizer, not for memory | none |
# | `learning_rate` | size of a step; LoRA wants about ten times that of full fine-tuning | none |
# | `lr_scheduler_type` | how the rate falls: linearly, along a cosine, or not at all | none |
# | `warmup_steps` | steps over which the rate rises from zero, while AdamW's means settle | none |
# | `weight_decay` | pulls trained weights towards zero at every step; on A and B it pulls towards the base model | none |
# | `max_length` | longest sample; longer reports lose paragraphs | activations grow with it |
# | `dtype`, `optim` | number format of the products; the rule that turns gradients into steps | see the probes |
#
# Each is a field of `RunConfig` with a line of explanation: `labkit train --settings` lists them all.

# %% [markdown]
# ## Measure: one report, three models
#
# Numbers hide what a model does. Take a question, and read what each model writes.

# %%
from labkit.inference.generate import compare

compare([lora_config.model, lora.name, full.name], [0], data=data)

# %% [markdown]
# ## Checkpoint
#
# Answer from your records. `lora.name` and `full.name` name your runs; the means and ratios are yours to compute.

# %% [markdown]
# **02.1** Does the training loss of your LoRA run behave as expected?

# %%
check("02.1", run=None, first_loss=None, last_loss=None, behaviour=None, explanation=None)

# %% [markdown]
# **02.2** What does full fine-tuning cost beside LoRA on your machine?

# %%
check("02.2", lora_run=None, full_run=None, time_ratio=None, memory_ratio=None, explanation=None)

# %% [markdown]
# **02.3** Which settings change the peak memory of a step, and which way?

# %%
check(
    "02.3",
    r=None,
    per_device_train_batch_size=None,
    gradient_checkpointing=None,
    max_length=None,
    dtype=None,
    explanation=None,
)

# %% [markdown]
# **02.4** What share of the parameters does your LoRA run train?

# %%
check(
    "02.4",
    run=None,
    trainable_parameters=None,
    total_parameters=None,
    share_percent=None,
    explanation=None,
)

# %% [markdown]
# ## What to remember
#
# - LoRA trains $r(n + m)$ numbers per layer instead of $nm$, and starts exactly at the pretrained model.
# - It saves the gradients and the optimizer's state, not the activations; and at most a third of the matrix products.
# - A score needs yardsticks and an interval. What beats the majority answer reads; what beats the untouched model with examples has learned more than the format.
# - Memory is changed by batch, length, checkpointing, precision, optimizer and by what is trained, each for its own reason. Learning rate, schedule, α and decay change what is learned, not what it costs.

# %% [markdown]
# ## Further reading
#
# - E. Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, 2021, [arXiv:2106.09685](https://arxiv.org/abs/2106.09685).
# - D. Kalajdzievski, *A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA*, 2023, [arXiv:2312.03732](https://arxiv.org/abs/2312.03732): the scaling of `use_rslora`.
# - Y. Li et al., *LoftQ: LoRA-Fine-Tuning-Aware Quantization*, 2023, [arXiv:2310.08659](https://arxiv.org/abs/2310.08659).
# - D. Biderman et al., *LoRA Learns Less and Forgets Less*, 2024, [arXiv:2405.09673](https://arxiv.org/abs/2405.09673): where full fine-tuning is worth its price.
# - T. Chen et al., *Training Deep Nets with Sublinear Memory Cost*, 2016, [arXiv:1604.06174](https://arxiv.org/abs/1604.06174): gradient checkpointing.
