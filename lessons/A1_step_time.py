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
# # A1 · Where a training step's time goes
#
# - **Goal:** take a step of training apart by cost, and see what each of labkit's settings for speed removes
# - **Minutes:** 20, of which 5 are waiting; an appendix to lesson 02, without exercises and questions
# - **Hardware:** two CPU cores and 8 GiB of memory
# - **You need to know:** lesson 02

# %% tags=["parameters"]
from labkit.runs import profiles

profile = profiles.current()

# %% [markdown]
# ## Predict: what does a step wait for?
#
# Beside its matrix products a step does much else. Before you measure: which share of the time of a step, as the library TRL takes it on a CPU, goes into matrix products, and how many times faster can labkit take the same step?

# %%
predicted_share_of_products = None
predicted_speed_up = None

# %% [markdown]
# ## Measure: one trick more each time
#
# `stages` takes one step apart: samples of equal length, a loss on the last few tokens as on an answer, LoRA with PEFT's defaults. Freed memory is kept in all stages. The first has no other of labkit's settings for speed; each further one adds one, those that matter for the type that this machine computes in; the last step of each stage runs under torch's profiler, which says what the time went to.

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

# %% tags=["result"]
from labkit import plots

figure, ax = plots.new_figure(width=8.2, height=4.4)
alt = costs.draw_stages(ax, stages)
plots.show(figure, alt=alt)

# %% [markdown]
# ## Explain: the costs, and what removes them
#
# Each bar of the figure is one stage, and the number at its end says how many times faster it is than the first. These are the five largest costs of the first stage and of the last:

# %%
print(f"predicted: {predicted_share_of_products} of the time, {predicted_speed_up} times faster")
for row in (stages[0], stages[-1]):
    print(f"{row['name']}: {row['seconds']:.2f} s a step")
    for cost, share in costs.largest(row):
        print(f"    {share:>4.0%}  {cost}")

# %% [markdown]
# - **Loss over the vocabulary.** The stock loss on a CPU scores every position against every token of the vocabulary, though only the answer has labels. Applying the output head to labelled positions alone gives the same sum.
# - **Attention.** PyTorch's fused attention, one operation for all of it that never stores the probabilities, has a slow backward pass in bfloat16 on CPUs. For short samples plain products are faster. They store a probability for every pair of positions, so long samples keep fused attention, and so does all training in float32, where its backward pass is the faster one.
# - **Elementwise operations** (norms, the rotation of queries and keys by their position, the product of gate and up in the MLP, casts, the sums that add each block's result to its input) do little arithmetic and read and write everything. Compilation fuses them, so that a value is read once for all of them. Compiling takes a while at the first step and is kept on disk: worth it for long runs only. In float32 the products take most of the step, so it saves less there.
# - **Copies and casts** between float32 and bfloat16: PEFT copies each input of an adapter to the type of its weights, which autocast, torch's cast of what goes into each product to 16 bits, undoes at once; labkit leaves that out, and compilation fuses the rest.
# - **Matrix products** of the layers are arithmetic that no setting removes; LoRA itself leaves out some, as lesson 02 counts. Those of the output head count as loss over the vocabulary until the setting above leaves most of them out; the few that remain count here.
#
# Freed memory that goes back to the operating system has to be cleared when it is used again; every stage here keeps it, but for the largest blocks. A stage here is one short run, so small ratios can come out on either side of 1. `labkit bench step --ablate` leaves off one setting at a time and gives, in pairs and with intervals, the time without it over the time with all. The course's own figures, in bfloat16 on two cores, are in `data/results/step.json`; keeping freed memory made no difference there that could be told from none.
#
# None of this may cost anything in what is learned. Rounding differs, so losses drift apart after a while, and only the trained models can be compared. The course trained LoRA once with plain TRL, on the same questions in the same steps, and asked both models the test split. Before that it chose a margin of five points: the two count as equivalent if the 90 % interval of their difference lies within it. [Lesson 04](04_3_speed.ipynb) says why 90:

# %%
from labkit.bench.records import equal_quality
from labkit.datasets import tatqa

equal = equal_quality.read(tatqa.data_dir() / "results" / "fast_quality.json")
print(equal_quality.sentence(equal, a="plain TRL", b="labkit"))

# %% [markdown]
# ## What to remember
#
# - Arithmetic is a part of a step's time; how large a part depends on the machine and on the type it computes in. Measure before you make anything faster.
# - What helps most is not to compute: logits that no label asks for, casts that are undone, a report that is read once for all its questions.
# - A faster step has to learn the same. Compare scores of trained models, with an interval.

# %% [markdown]
# ## Further reading
#
# - T. Dao et al., *FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness*, 2022, [arXiv:2205.14135](https://arxiv.org/abs/2205.14135): why reading and writing cost more than multiplying.
# - S. Williams, A. Waterman, D. Patterson, *Roofline: An Insightful Visual Performance Model for Multicore Architectures*, Communications of the ACM 52(4), 2009: time by arithmetic or by memory.
