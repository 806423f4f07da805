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
# # 04 · SwitchBack, third sitting: speed
#
# - **Goal:** measure on your own processor what int8 gains in a layer, against the fastest alternative, and in a whole training step, with an interval and a control, and see how the same numbers would have lied.
# - **Minutes:** 65, of which 20 are waiting; half an hour on a processor without 16-bit units, as `labkit doctor` says
# - **Hardware:** two CPU cores and 6 GiB of memory; no GPU; what one card said is read from a record
# - **You need to know:** the second sitting's layer and its ceilings; what a t-test and an interval are
#
# The [second sitting](04_2_kernels.ipynb) built the layer and computed its ceilings. What is left of them on a machine is a question of time, and times on a shared machine are easily misread. This sitting runs alone.

# %% tags=["parameters"]
from labkit.runs import profiles

profile = profiles.current()
quick = profile.name == "smoke"

# %% [markdown]
# ## Predict: int8 on this machine
#
# `labkit/switchback/cpu_kernels.cpp` does in C++ what you did by hand: it scales, rounds and orders a matrix in one pass, and multiplies with the best int8 instructions that the processor has: those of a matrix unit (**AMX**), of wide vectors (**VNNI**), or, on any other x86 processor with AVX2, 16-bit ones (`cpu_avx2.cpp`). Where there is none of these, as on ARM, PyTorch's own products stand in. Its integers are those of the reference, bit for bit.
#
# A speed-up needs a fair opponent. Here it is the *fastest* way there is on this machine to compute the same layer: `nn.Linear` in float32 or in bfloat16, as it is, under `torch.compile`, or with its weights in the layout that the processor wants, whichever wins at that size. Where SwitchBack computes dW with a kernel of labkit's own (on **tiles** of a matrix unit), its opponent gets that kernel too. Otherwise the ratio would count as int8's what is that kernel's, and could exceed the ceiling.
#
# The layers are those of TinyLlama-1.1B, such as 2048 → 2048. Write down the ratio (the opponent's time over int8's time) that you expect for that layer's whole step, with few tokens and with many, and for a whole fine-tuning step of a model of such layers.

# %%
predicted_ratio_256_tokens = None
predicted_ratio_1024_tokens = None
predicted_ratio_end_to_end = None

# %% [markdown]
# ## Exercise: in turns
#
# *Easy, 8 minutes; important.* A machine that grows warm, or a neighbour that starts a job, makes everything slower from then on. Whoever ran second loses. So two programs run in **pairs**, and every second pair in the opposite order: A B, B A, A B, B A.
#
# `a` and `b` are functions without arguments that run a program and return its seconds. Return two lists: the times of a and the times of b, in the order of the pairs.
#
# <details><summary>Hint 1: odd pairs</summary>
#
# `pair % 2` says whether a pair is an odd one.
#
# </details>
#
# <details><summary>Hint 2: whose time it is</summary>
#
# Whichever runs first, the time of a goes into the list of a. Call the function where you append.
#
# </details>


# %%
def measure_in_turns(a, b, pairs: int) -> tuple[list[float], list[float]]:
    """Run both programs once a pair, in turns; return the seconds of a and those of b."""
    ### BEGIN SOLUTION
    times_a, times_b = [], []
    for pair in range(pairs):
        if pair % 2 == 0:
            times_a.append(a())
            times_b.append(b())
        else:
            times_b.append(b())
            times_a.append(a())
    return times_a, times_b
    ### END SOLUTION


# %%
from labkit.checkpoints import check

check.exercise("measure_in_turns", measure_in_turns)

# %% [markdown]
# ## Exercise: a ratio with its interval
#
# *Medium, 10 minutes; important.* Ratios multiply, so their logarithms are what is averaged. With $l_i = \log a_i - \log b_i$ for each of $n$ pairs, mean $\bar l$ and standard deviation $s$ (over $n - 1$), the 95 % interval of Student's t-test is
#
# $$ \exp\left( \bar l \pm t_{0.975,\, n-1} \cdot \frac{s}{\sqrt{n}} \right) $$
#
# Return the ratio $e^{\bar l}$ and both ends.
#
# <details><summary>Hint 1: logarithms</summary>
#
# `numpy.log` takes lists; `.std(ddof=1)` divides by n - 1.
#
# </details>
#
# <details><summary>Hint 2: the factor t</summary>
#
# `scipy.stats.t.ppf(0.975, n - 1)` is the factor t. With four pairs it is much larger than the 1.96 of the normal distribution.
#
# </details>


# %%
import numpy as np
from scipy import stats


def ratio_with_interval(a: list[float], b: list[float]) -> tuple[float, float, float]:
    """Return the geometric mean of a/b over pairs, and its 95 % interval, low and high."""
    ### BEGIN SOLUTION
    logs = np.log(a) - np.log(b)
    error = logs.std(ddof=1) / len(logs) ** 0.5
    half = stats.t.ppf(0.975, len(logs) - 1) * error
    ratio, low, high = np.exp([logs.mean(), logs.mean() - half, logs.mean() + half])
    return float(ratio), float(low), float(high)
    ### END SOLUTION


# %%
check.exercise("ratio_with_interval", ratio_with_interval)

# %% [markdown]
# ## What others measured
#
# The original came with timings of single layers on an A100, and the project this course grew from with whole trainings on an A40. Both are shown as ratios, 16-bit time over SwitchBack time. Time *saved*, which the original plots, is another number for the same thing: a third saved is a ratio of 1.5.

# %% tags=["nbval-check-output"]
from labkit.datasets import tatqa
from labkit.switchback.teaching import figures

layer_ratios, training_ratios = figures.published_rows(tatqa.data_dir())

columns = {"width": "d", "tokens": ",", "ratio_tensor": ".2f", "ratio_row": ".2f"}
figures.print_table(layer_ratios, columns | {"quantize_share": ".0%"})
figures.print_table(training_ratios, {"data": "s", "ratio": ".3f", "saving": ".1%"})

# %%
from labkit import plots

figure, axes = plots.new_figure(1, 2, width=9, height=3.8)
plots.show(figure, alt=figures.draw_published(axes, layer_ratios, training_ratios))

# %% [markdown]
# Read the left half from left to right. Quantising takes time in proportion to the *size* of the matrices, and int8 saves time in proportion to the *work* of their product, so wide layers and many tokens gain most, and a narrow layer with few tokens loses. Now compare the two halves. A whole training also has attention, norms, an optimizer, data, and Python, none of which is any faster: a layer's ratio says what is possible, a training's ratio what you get.

# %% [markdown]
# ## Measure: the same on a card of today
#
# `labkit bench gpu` asks a GPU all that this course says of GPUs, in some minutes. Where a record of it lies in `data/results`, this is what it says of the kernels: whether they equal the reference, the ratio of a layer's step with its control, and of a whole training's. A line begins with what became of a claim of the course: it holds, it does not hold, or it is only reported, because it has no bar to clear or because not all of it was compared.

# %%
from labkit.bench.gpu import reading

card = reading.read()
print(*reading.lines(card, "kernels", "layer step", "training step"), sep="\n")

# %%
size = {"width": 2048, "tokens": 32_768}
parts = reading.published_parts(**size) + reading.layer_parts(card, **size)
shares = dict.fromkeys(["bf16_share", "int8_share", "quantizing"], ".0%")
ratios = dict.fromkeys(["of_parts", "at_equal_share"], ".2f")
figures.print_table(parts, {"card": "s", "layer": "s", **shares, **ratios})

# %% [markdown]
# The ceiling takes int8 at twice the rate. A datasheet gives int8 that rate; what counts is how much of it a kernel reaches. The rows of the A100 are the published timings above, with a scale per row; those of another card, if there are any, are of the record. `bf16_share` and `int8_share` are the shares of the card's peak that products in 16 bits and in int8 reach, timed apart. Where the int8 share is the smaller one, part of the factor of two is gone before anything is quantised. `of_parts` is the layer's ratio when its parts are added up, `at_equal_share` what it would be if both kinds reached the same share, and `quantizing` the part of the step that making integers takes. So a ratio measured on one generation of cards is no promise for the next.

# %% [markdown]
# ## Measure: where the time goes
#
# Now your own processor. First every part of a step apart. What is measured stays in `runs/bench`: run this again, or `labkit bench kernels --tokens 256,1024` and `labkit bench switchback --tokens 256,1024 --layers 1` in a terminal, and you get it at once. By themselves they measure 4,096 tokens as well and train two layers, as for the older of the two records below, which takes much longer. The first time, this cell and the next benchmark are most of the lesson's waiting. Leave the machine alone meanwhile.

# %%
import dataclasses

from labkit.bench.paired import interval
from labkit.bench.switchback import grid as bench
from labkit.bench.switchback import misread, report
from labkit.runs import records

grid = bench.quick_grid(tokens=(16,)) if quick else bench.Grid(tokens=(256, 1024))
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
    dw = taken["dW, not in int8"] / sum(taken.values())
    shares.append({"tokens": row["tokens"], "shape": shape, "quantising": share, "dW": dw})
figures.print_table(shares, {"tokens": ",", "shape": "s", "quantising": ".0%", "dW": ".0%"})

# %% [markdown]
# Quantising reads and writes matrices: its time grows with tokens × width for X and G, and with width × width for W, however few tokens there are. A product's time grows with tokens × width × width. So the share of quantising falls with tokens and with width, and dW, which is not in int8, is what remains.

# %% [markdown]
# ## Measure: where int8 wins and where it loses
#
# Whole steps of a layer now: forward pass, dX, dW, and all quantising. A **run** is a few steps, of which the first is dropped and the median of the others counts. In every **round** each side runs once, in turns: A, the opponent, and B, int8 with either scale. A round is a process of its own, because where in memory a layer happens to lie makes it faster or slower for as long as it lives. And the opponent takes part twice, as A and as A': the **control**. The ratio of A to itself has to come out as 1. In the maps light is where int8 has a hard time, as in the first sitting.

# %%
outcome = bench.switchback(dataclasses.replace(grid, layers=1), output_dir=folder)
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
for row in outcome["rows"]:
    square = row["in_features"] == row["out_features"] and row["weight_scale"] == "row"
    if square and row["mode"] == "full":
        print(f"{bench.name_of(row)}: {interval(row['ratio'])}")
print("predicted:", predicted_ratio_256_tokens, predicted_ratio_1024_tokens)

# %% [markdown]
# A "≈" in the map stands for a size where no difference was found. With so many sizes some would differ by chance alone, so the p-values are adjusted for their number by **Holm's method** (a test's **p-value** is the chance of a difference at least as large as the measured one if there were none; below 0.05 the test is said to find one): the smallest of $k$ is multiplied by $k$, the next by $k - 1$, and so on. The same goes for the controls: of a hundred, five are expected to miss 1.
#
# Which way won tells you as much as the ratio. Where the opponent has dW on tiles, the ratio splits in two: what int8 gives, and what that kernel gives to either side. A ratio that counts both can be far above the ceiling.

# %%
print(*(report.split_lines(outcome["rows"]) or ["no size has an opponent with tiles"]), sep="\n")

# %% [markdown]
# Two records of the course, on other processors, show what a fair opponent is worth. The older one was made with AMX, against the fastest way *without* tiles.

# %%
import json

results = tatqa.data_dir() / "results"
recorded = {}
for name, opponent in (("bench", "no tiles"), ("avx2", "every way")):
    found = json.loads((results / f"switchback_{name}.json").read_text())
    recorded[name] = found["rows"]
    best = max(row["ratio"]["value"] for row in recorded[name] if row["mode"] == "full")
    said = "above" if best > 3 / (1 / 2 + 1 / 2 + 1) else "within"
    print(f"switchback_{name}.json, opponent: {opponent}: at best {best:.2f}×, ", end="")
    print(f"{said} the ceiling of int8 at twice the rate")

# %% [markdown]
# And beside the A100? The MLP layers of the same width, both directions together:

# %%
widest = max(row["out_features"] for row in outcome["rows"])
width = 2048 if widest > 2048 else 64
compared = report.by_tokens(outcome["rows"], layer_ratios, width=width)
columns = {"where": "s", "tokens": ",", "ratio_row": ".2f", "ratio_tensor": ".2f"}
figures.print_table(compared, columns)

# %% [markdown]
# They need not agree: the A100's figures are parts timed apart and added up, yours are whole steps, and its opponent was the plain 16-bit product alone.

# %% [markdown]
# ## Measure: a whole fine-tuning step
#
# A model with TinyLlama's widths, one of its 22 layers and as much less of its vocabulary is trained with and without SwitchBack. Its opponent is `nn.Linear` as it is, in the type that multiplies faster here, with labkit's dW on tiles where that helps; compiled layers and weights in another layout, which an opponent above may have, are not tried in a whole step. Every run is a new process that trains on the same tokens from the same weights. This is the number to quote. Its interval comes from drawing the pairs again and again (the bootstrap); with ten pairs it is a little narrower than that of your t-test, and the checkpoint wants the printed one. It is kept beside your runs, for the checkpoint.

# %%
from labkit.runs import measurements

end = outcome["end_to_end"]
print(report.end_to_end_line(end))
print("predicted:", predicted_ratio_end_to_end)
step = {"baseline_seconds": end["seconds"]["baseline"]}
step |= {"switchback_seconds": end["seconds"]["candidate"], "ratio": end["ratio"]}
step |= {"p_value": end["p_value"], "pairs": end["pairs"]}
step |= {"control": end["a_a"], "control_p_value": end["a_a_p_value"]}
measurements.keep("int8-step", step, layers=end["layers"], tokens=end["tokens"]).name

# %%
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
# Training both ways on several seeds takes hours, so the course did it for you: the embedded model, every weight trained, the linear layers of all blocks in 16 bit or in int8, the same batches on both sides, and the questions of the test split. The record holds which of them each model has right; the test is made here, from those.

# %%
from labkit.bench.records import equal_quality

quality = equal_quality.read(tatqa.data_dir() / "results" / "switchback_quality.json")
print(equal_quality.sentence(quality, a="16 bit", b="int8"))
print(f"{quality['all']['n']} questions, {len(quality['seeds'])} seeds a side")
figure, ax = plots.new_figure(width=7.2, height=2.6)
plots.show(figure, alt=equal_quality.draw(ax, quality, a="16 bit", b="int8"))

# %% [markdown]
# Two trainings of one seed drift apart by rounding, and two seeds of the *same* arithmetic differ on more questions still: count them in the record's `right`. That is why one run a side says so little, and why intervals of single seeds are wider than that of their mean. `data/results/README.md` has the commands that made the record.

# %% [markdown]
# ## Exercise: test the test
#
# *Medium, 12 minutes; important.* A and A' are the same program. Which of them is called A is chance, so in every pair you can toss a coin and swap the two. Each time you have an experiment in which there is nothing to find, made of real measurements. Do that `trials` times, and return the share of trials in which `test(a, b)`, a function that returns a p-value, finds something at p < 0.05. An honest test does so in 5 of 100.
#
# <details><summary>Hint 1: what a pair is</summary>
#
# The two times of a pair stay together: they were measured one after the other. Only which one is called A changes.
#
# </details>
#
# <details><summary>Hint 2: a coin a pair</summary>
#
# `numpy.random.default_rng(0)` once, outside the loop; in the loop `rng.random(len(a)) < 0.5` is a coin for each pair.
#
# </details>


# %%
def false_alarm_rate(a: list[float], b: list[float], test, trials: int) -> float:
    """Return the share of trials in which `test` finds a difference that isn't there."""
    ### BEGIN SOLUTION
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(trials):
        swapped = rng.random(len(a)) < 0.5
        first, second = np.where(swapped, b, a), np.where(swapped, a, b)
        alarms += test(first, second) < 0.05
    return alarms / trials
    ### END SOLUTION


# %%
check.exercise("false_alarm_rate", false_alarm_rate)

# %% [markdown]
# ## Explain: how the same numbers would have lied
#
# The same small layer is timed in many processes, a hundred steps in each. Then names are drawn: half of the processes are called A, the others A'. There is nothing to find. Three tests look for it all the same. One counts each process once, by the median of its steps. One counts every step. One counts processes, but looks again after every further one and stops at the first success.

# %%
runs, steps = (6, 20) if quick else (20, 100)
timed = misread.same_program(output_dir=folder, runs=runs, steps=steps)
print(f"{misread.between(timed):.0%} of the variance of {steps} steps in each of {runs} processes")
print("lies between the processes")
alarms = misread.false_alarms(timed, trials=50 if quick else 400)

# %% tags=["result"]
figure, ax = plots.new_figure(width=8.4, height=3.4)
plots.show(figure, alt=misread.draw_false_alarms(ax, alarms))

# %% [markdown]
# **This is the point of the sitting: more steps make a wrong test surer, and no test righter.** Steps of one process share its place in memory and whatever ran beside it, so a hundred of them tell you about that process. The test that counts them takes them for a hundred independent witnesses: its line climbs the longer you measure. The test that counts processes stays near what it promises; what makes it sharper is more processes.
#
# How steep the climb is depends on the share printed above. On a machine where nearly all variance lies within processes, steps are nearly independent, and the line stays low; you know only because you looked.

# %%
figures.print_table(misread.mistakes(end["runs"], "switchback"), {"how": "s", "ratio": ".3f"})
measured = {"here": outcome["rows"], "in the older record": recorded["bench"]}
for where, rows in measured.items():
    luckiest, size = misread.luckiest_control(rows)
    print(f"A against A', the most unequal pair {where}: {luckiest:.2f}×, at {size}")

# %% [markdown]
# **The luckiest pair.** The last two lines compare a thing with itself, one after the other in one process. That is what a single measurement of each is worth: a difference for B that is no larger is none.
#
# **Looking early.** Testing after every run and stopping at the first success gives chance as many tries as there are runs. Decide the number first. Of runs that you have, `labkit stats --json` says how often so many find a difference of 3 % (`power_at_3_percent`).
#
# **One side after the other.** "A first, A' later" is the ratio of a thing to itself, a little later: whatever it is away from 1, the machine did meanwhile. Taking turns costs nothing.
#
# **Warm-up.** The first step allocates, packs and compiles, once in a training of thousands of steps.
#
# **No control.** Without A' you can't know which of these happened to you. With it, you know before you look at B.
#
# `labkit stats A B` makes the honest test of runs that you already have: two folders of labkit's records, Trainer logs, or lm-eval results. It refuses to compare what is not the same work.

# %% [markdown]
# ## Checkpoint
#
# What you have measured of the whole step:

# %%
for name, value in step.items():
    print(f"{name:20}", value)

# %% [markdown]
# **04.5** How much faster is a whole fine-tuning step with SwitchBack on this machine? Quote it so that someone else can believe it. The verdict is "faster", "slower", "no difference found", or, where the control misses 1, "cannot be told". Where the interval just misses 1 and `p_value` is 0.05 or more, the test has found nothing, and "no difference found" is right.

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
# - A speed-up is a ratio with an interval, over paired runs in turns, against the fastest alternative, beside a control that comes out as 1.
# - The opponent gets every trick that has nothing to do with what is compared.
# - A layer's ratio is not a training's: the rest of the step takes as long as before.
# - The unit is the run. More steps of a run make nothing surer but the wrong test.
# - Equal quality is shown by an interval inside a margin that was chosen before, never by p > 0.05.

# %% [markdown]
# ## Further reading
#
# - T. Kalibera and R. Jones, *Rigorous Benchmarking in Reasonable Time*, ISMM 2013; T. Mytkowicz et al., *Producing Wrong Data Without Doing Anything Obviously Wrong!*, ASPLOS 2009: how measurements of speed go wrong.
# - S. Hurlbert, *Pseudoreplication and the Design of Ecological Field Experiments*, Ecological Monographs 1984: steps as runs, in another field.
# - [bitsandbytes](https://github.com/bitsandbytes-foundation/bitsandbytes), folder `benchmarking/switchback`: the A100 timings. It carried SwitchBack up to version 0.49.2.
