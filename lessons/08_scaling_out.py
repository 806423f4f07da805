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
# # 08 · Scaling out: what devices share, what they send, what that buys
#
# - **Goal:** say for any number of devices what each holds and sends under DDP, ZeRO and FSDP, see it in a real run of two processes, and answer what full fine-tuning of 8B on four cards costs beside LoRA on one
# - **Minutes:** 85, of which 10 are waiting
# - **Hardware:** two CPU cores and 8 GiB of memory; GPUs are used where there are two or more
# - **You need to know:** lessons 01 and 02

# %% [markdown]
# ## The same thing four times
#
# **What to take from this lesson: sharding moves bytes from memory to the wire; the matrix products stay the same, and of the optimizer's pass each device does its part.**
#
# Data parallelism gives each device a model of its own and a part of the batch. After the backward pass gradients are averaged, so that all models stay alike; PyTorch calls this **DDP**, distributed data parallel. Everything but the batch is there as often as there are devices. **ZeRO**, the zero redundancy optimizer (Rajbhandari et al. 2020), keeps of what is alike one piece on each device, which is called **sharding**. Its three stages share more and more, and **FSDP2**, fully sharded data parallel, is PyTorch's own form of the third:
#
# | | weights | gradients | optimizer state | sent in a step |
# |---|---|---|---|---|
# | DDP | all | all | all | $2\Psi$ |
# | ZeRO-1 | all | all | $1/N$ | $2\Psi$ |
# | ZeRO-2 | all | $1/N$ | $1/N$ | $2\Psi$ |
# | ZeRO-3, FSDP2 | $1/N$ | $1/N$ | $1/N$ | $3\Psi$ |
#
# $\Psi$ are the bytes of all weights, $N$ the devices. Devices that hand pieces on around a ring each send $(N-1)/N$ of what the table says; an exercise below shows why. The third $\Psi$ of the last row: weights are gathered for the forward pass, dropped, and gathered again for the backward pass. FSDP2 does not drop what lies outside the layers, the embedding and the head, so it sends a little less; in 16-bit training its gradients travel in fp32 and count twice.
#
# One process works for each device, and its number, from 0 on, is its **rank**. A device is a card, which is a GPU with its memory, or in this lesson a part of your processor.

# %% tags=["parameters"]
import importlib.util

from labkit.runs import profiles
from labkit.train import scaling

quick = profiles.current().name == "smoke"
here = scaling.settings_here()
steps, processes = 4 if quick else 8, 2
kinds = {"DDP": "none", "FSDP2": "fsdp2"}
if importlib.util.find_spec("deepspeed"):
    kinds |= {"ZeRO-2": "zero2"} | ({} if quick else {"ZeRO-3": "zero3"})
else:
    print("DeepSpeed is not installed here: PyTorch's FSDP2 is enough for every question")
large_model, card = "llama-3-8b", "a100-40gb"
length, batch = 1024, 1 if quick else 4

# %% [markdown]
# ## Predict: two processes, and four cards
#
# A model of 135 million parameters is trained in full in float32, where a weight, its gradient and each of Adam's two moments take 4 bytes. One process holds some 2 GiB of them. How much does each of two processes hold with DDP, and how much with FSDP2? Over the same samples and on the same cores, how many times as long is a step of two processes with FSDP2 as a step of one?
#
# And far larger: Llama 3 8B in full on four cards of 40 GB. Does it fit, and per token, how many times as much of a card's time does it take as LoRA on one of them?

# %%
predicted_gib_ddp = None
predicted_gib_fsdp2 = None
predicted_step_ratio = None
predicted_fits = None
predicted_card_time_ratio = None

# %% [markdown]
# ## Exercise: bytes of each stage
#
# *Easy, 8 minutes; very important.* With 16-bit weights and gradients, and Adam on an fp32 copy of the weights with two moments, a parameter takes 2 + 2 + 12 bytes. Write what one of `ranks` devices holds; stage 0 shares nothing.
#
# <details><summary>Hint 1: one kind more a stage</summary>
#
# Each stage shares one kind more than the one before. The kinds go in the order optimizer state, gradients, weights.
#
# </details>
# <details><summary>Hint 2: what is divided</summary>
#
# `stage >= 2` is true or false; what is shared is divided by `ranks`, what is not by 1.
#
# </details>


# %%
def bytes_per_rank(stage, parameters, ranks):
    """Return the bytes of weights, gradients and optimizer state on one device."""
    ### BEGIN SOLUTION
    weights = 2 * parameters / (ranks if stage >= 3 else 1)
    gradients = 2 * parameters / (ranks if stage >= 2 else 1)
    state = 12 * parameters / (ranks if stage >= 1 else 1)
    return weights, gradients, state
    ### END SOLUTION


# %%
from labkit.checkpoints import check

check.exercise("bytes_per_rank", bytes_per_rank)

# %% [markdown]
# For 8 billion parameters, in GB, from labkit's own formula (FSDP2 keeps weights and gradients in fp32; it gathers weights in 16 bit and sends gradients in fp32):

# %% tags=["nbval-check-output"]
from labkit.memory.settings import SHARDINGS, StepSettings
from labkit.memory.sharding import Sizes, state_bytes

whole = 8_000_000_000
sizes = Sizes(total=whole, trainable=whole, layer=0, root=0)
print(f"{'':8}" + "".join(f"{n:>8} cards" for n in (2, 4, 8, 64)))
for name in SHARDINGS[1:]:
    line = f"{name:8}"
    for n in (2, 4, 8, 64):
        step = StepSettings(model="tiny-llama", method="full", sharding=name, num_gpus=n)
        parts = state_bytes(step, sizes)
        held = sum(parts[key] for key in ("weights", "gradients", "optimizer_state"))
        line += f"{held / 1e9:>14.1f}"
    print(line)

# %% [markdown]
# ## Measure: two real processes
#
# `nproc` says how many processes train, `sharding` what they share besides the batch: `none` is DDP; the command is `labkit train --config full --nproc 2 --sharding fsdp2`. Processes talk through a library, gloo on CPUs and NCCL on GPUs; the code is the same. What ran is read from the tensors and not from the settings: a library that quietly shared nothing would be found out.

# %%
from labkit.train import train


def over(nproc, sharding="none", **changes):
    """Return the settings of a full fine-tune of the same samples a step, however many share it."""
    settings = {"max_steps": steps, "dtype": "float32", "torch_compile": "off",
                "share_prompts": False, **here, **changes}  # fmt: skip
    return profiles.probe_config("full", nproc=nproc, sharding=sharding,
                                 per_device_train_batch_size=2 // nproc, **settings)  # fmt: skip


runs = {name: train(over(processes, sharding), quiet=True) for name, sharding in kinds.items()}
alone = train(over(1), quiet=True)

# %%
for label, run in {"one process": alone, **runs}.items():
    print(f"{label:<12} {run.name}")
scaling.table(alone, runs)

# %% tags=["result"]
from labkit import plots

figure, alt = scaling.held(alone, runs)
plots.show(figure, alt=alt)
plain, shared = (scaling.held_bytes(runs[kind]) / 2**30 for kind in ("DDP", "FSDP2"))
print(f"{alone.summary['total_parameters']:,} parameters: each process holds {plain:.3f} GiB with "
      f"DDP and {shared:.3f} with FSDP2")  # fmt: skip
print(f"of 135 million you predicted {predicted_gib_ddp} and {predicted_gib_fsdp2}")
ratio = runs["FSDP2"].summary["step_seconds_median"] / alone.summary["step_seconds_median"]
print(f"a step of two with FSDP2 takes {ratio:.2f} times as long as a step of one, "
      f"you predicted {predicted_step_ratio}")  # fmt: skip

# %% [markdown]
# The losses are those of one process, but for the order in which float32 numbers are added up: sharding changes where numbers lie, not what they are. With FSDP2 what each process holds falls as the table at the top says. What is sent is counted as it is there, in multiples of the weights' bytes, so around a ring of two each process sends half of it. DeepSpeed's rows differ: it steps a copy of the weights, which counts as optimizer state; in stage 2 it adds gradients up by an all-reduce and sends 3Ψ; in stage 3 it keeps the gathered weights of so small a model for the backward pass and sends 2Ψ. A look at the memory of the whole machine would show less of it: the interpreter and the libraries are there once for each process, and so are activations.
#
# ## Explain: why two processes on two cores are not faster
#
# One process already uses both cores for each product. Two processes have a core each, so the matrix products of a step take as long as before, and with DDP each process steps all weights; what they send comes on top, and with FSDP2 they wait for weights before each layer. The smaller the model, the more of a step is waiting. On cards it is different because each process brings a card of its own. What is bought with the third $\Psi$ is memory, and time is the price; it is paid only where the wire is slower than the arithmetic beside it. With two GPUs your figure is of cards, and DDP may well be faster. If it came out faster on a processor, look first for something else that used the machine: threads of one process wait for each other after every product, so a busy neighbour costs both cores, while two processes meet only when they send.
#
# ## Exercise: a ring that adds up
#
# *Medium, 20 minutes; important.* An **all-reduce** leaves the sum of all ranks' vectors on every rank; divided by $N$ it is the average of gradients. Each of $N$ ranks cuts its vector into $N$ pieces. In each of $N-1$ turns every rank sends one piece to the next rank, which adds it to its own; then each rank has one piece that is finished. In $N-1$ more turns finished pieces go around. `send(rank, piece)` hands a piece to the next rank and returns what arrives there; it counts what each rank sends.
#
# <details><summary>Hint 1: who sends which piece</summary>
#
# In turn $t$ rank $r$ sends piece $(r - t) \;\mathrm{mod}\; N$, the one it added to in the turn before. Collect what all ranks send before anybody adds.
#
# </details>
# <details><summary>Hint 2: the second half</summary>
#
# After the first half rank $r$ has piece $(r + 1) \;\mathrm{mod}\; N$ finished, so the second half is the same walk one piece further, and what arrives replaces instead of being added. `numpy.array_split` cuts pieces that need not be equally long.
#
# </details>


# %%
import numpy


def ring_all_reduce(vectors, send):
    """Return each rank's vector after an all-reduce: the sum of all, on every rank."""
    ### BEGIN SOLUTION
    n = len(vectors)
    pieces = [list(numpy.array_split(numpy.array(each, dtype=float), n)) for each in vectors]
    for finished in (0, 1):
        for turn in range(n - 1):
            moved = []
            for rank in range(n):
                which = (rank - turn + finished) % n
                moved.append((which, send(rank, pieces[rank][which])))
            for rank in range(n):
                which, piece = moved[rank]
                own = pieces[(rank + 1) % n]
                own[which] = piece if finished else own[which] + piece
    return [numpy.concatenate(each) for each in pieces]
    ### END SOLUTION


# %%
check.exercise("ring_all_reduce", ring_all_reduce)

# %% [markdown]
# How much does each rank send, in vectors, when the ring grows?

# %%
from labkit.checkpoints.lessons.exercises_08 import Ring

try:
    for n in (2, 4, 8, 64):
        ring = Ring(n)
        ring_all_reduce([numpy.ones(640) for _ in range(n)], ring.send)
        print(f"{n:>3} ranks: {max(ring.sent) / 640:.3f} vectors from each")
except NotImplementedError:
    print("write the function first")

# %% [markdown]
# It approaches two and never reaches it. The first half alone is a **reduce-scatter**, which leaves each rank the sum of its piece; the second half alone is an **all-gather**, which gives everybody all pieces. Each sends $\Psi$, an all-reduce twice that. Stages 1 and 2 send no more than DDP: gradients by a reduce-scatter, then the weights that each rank stepped by an all-gather. Stage 3 gathers weights twice, and its third $\Psi$ is the second time.
#
# ## Exercise: a sharded step of Adam
#
# *Medium, 15 minutes; important.* In stage 1 each rank has all weights and the averaged gradients, and steps its part alone: the first of `ranks` equal parts is rank 0's. `first` and `second` are Adam's two moments of that part, `step` counts from 1. Write it for rate 0.01, $\beta = (0.9, 0.999)$, $\epsilon = 10^{-8}$, without weight decay.
#
# <details><summary>Hint 1: moments</summary>
#
# $m \leftarrow \beta_1 m + (1-\beta_1) g$ and $v \leftarrow \beta_2 v + (1-\beta_2) g^2$ with the gradient of the rank's own part.
#
# </details>
# <details><summary>Hint 2: the first steps</summary>
#
# At step $t$ the moments are divided by $1-\beta^t$; then $w \leftarrow w - 0.01\,\hat m / (\sqrt{\hat v} + \epsilon)$.
#
# </details>


# %%
def sharded_adam(weights, gradients, first, second, step, rank, ranks):
    """Return this rank's part of the weights after a step, and its moments."""
    ### BEGIN SOLUTION
    size = len(weights) // ranks
    own = slice(rank * size, (rank + 1) * size)
    first = 0.9 * first + 0.1 * gradients[own]
    second = 0.999 * second + 0.001 * gradients[own] ** 2
    mean, spread = first / (1 - 0.9**step), second / (1 - 0.999**step)
    return weights[own] - 0.01 * mean / (spread**0.5 + 1e-8), first, second
    ### END SOLUTION


# %%
check.exercise("sharded_adam", sharded_adam)

# %% [markdown]
# The check puts the parts together after every step, as the all-gather does. Nobody needs another rank's moments for that, so nobody keeps them.
#
# ## Measure: a process is lost, and pieces are put together
#
# Many devices fail more often than one, and a run that shares its weights cannot go on without any of them. Here a model small enough for seconds is trained by two processes that save their pieces every ten steps; after they did so for the first time, process 1 is killed, as it would be by a machine that fails.

# %%
cut = over(processes, "fsdp2", name=f"08-cut-{profiles.current().name}", model="tiny-llama",
           max_steps=80, save_steps=10, keep_weights=True)  # fmt: skip
print(scaling.lose(cut, rank=1))

# %% [markdown]
# The sentence comes from whoever noticed first, the launcher or the process that waited for the lost one. The waiting process was ended as well, and nothing is left running. What is left is a checkpoint, in which each process has written its part of every tensor. `labkit consolidate RUN OUT` puts it together: it reads each piece from its place in its file and writes tensor by tensor, so that it needs memory for the largest tensor alone, however large the model.

# %%
import shutil

from labkit.runs import records
from labkit.train.sharded.consolidate import consolidate, render

put_together = records.runs_dir() / "08-put-together"
shutil.rmtree(put_together, ignore_errors=True)
made = consolidate(cut.name, put_together)
print(render(made).replace(str(records.runs_dir()), "runs"))

# %% [markdown]
# Is it the model? PyTorch's own tool gathers the same checkpoint by another way.

# %%
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

dcp_to_torch_save(made.checkpoint, put_together / "gathered.pt")
gathered = torch.load(put_together / "gathered.pt", weights_only=False)["model"]
stored = load_file(put_together / made.files[0])
equal = sum(torch.equal(stored[name], gathered[name]) for name in stored)
print(f"{equal} of {len(stored)} tensors are equal, bit for bit")

# %% [markdown]
# And it is one model like any other: it loads by name, and answers as it does with the weights that PyTorch gathered.

# %%
from labkit.inference.generate import load_generator

asked = ("What was the revenue in 2019?", "And in 2018?", "By how much did it grow?")
generator = load_generator(str(put_together), dtype="float32")
first = [generator.chat(each, max_new_tokens=12) for each in asked]
generator.model.load_state_dict(gathered, strict=False)
second = [generator.chat(each, max_new_tokens=12) for each in asked]
same = sum(one == other for one, other in zip(first, second, strict=True))
print(f"{same} of {len(asked)} answers are the same")

# %% [markdown]
# The run itself goes on where it was saved, once it is started again. Beside it the same training in one process that nobody disturbed:

# %%
resumed = train(cut, quiet=True)
undisturbed = train(over(1, model="tiny-llama", max_steps=80), quiet=True)
pairs = zip(resumed.losses, undisturbed.losses, strict=True)
most = max(abs(one - other) for one, other in pairs)
print(f"loss {resumed.losses[0]:.3f} to {resumed.losses[-1]:.3f} in {len(resumed.steps)} steps; "
      f"none is further than {most:.1e} from the undisturbed run's")  # fmt: skip

# %% [markdown]
# ## Explain: full on four cards, or LoRA on one
#
# A question of this course's assignment: Llama 3 8B in full on four A100 of 40 GB, and beside it LoRA on one. Lesson 03 asks it with ZeRO-3; here FSDP2 shares. Nothing is allocated for the answer: the step is traced, and what is sent follows from the table at the top. The cards are joined by NVLink, NVIDIA's own wires between cards, and once by PCIe, the slots of the board.

# %%
import pandas

from labkit.memory import estimates

alike = {"device": card, "seq_len": length, "batch_size": batch, "gradient_checkpointing": True}
four = {"method": "full", "sharding": "fsdp2", "num_gpus": 4}
ways = {"LoRA, one card": {"method": "lora"}, "full, four cards": four}
ways["full, four cards, PCIe"] = {**four, "link": "pcie-4"}
answers, found = {}, {}
for label, choices in ways.items():
    found[label] = each = estimates.estimate(large_model, **alike, **choices)
    sent = sum(each.communication["bytes"].values()) if each.communication else 0
    per_token = [1000 * time / (batch * length) for time in each.step_seconds]
    answers[label] = {
        "peak, GiB a card": f"{each.peak_bytes['traced'] / 2**30:.1f}",
        "fits": each.fits,
        "largest batch": each.largest_batch_size,
        "step, s": "{:.2f} to {:.2f}".format(*each.step_seconds),
        "sent by a card, GB": f"{sent / 1e9:.1f}",
        "card seconds a 1,000 tokens": "{:.2f} to {:.2f}".format(*per_token),
    }  # fmt: skip
pandas.DataFrame(answers)

# %%
lora, full = (found[label].step_seconds for label in ("LoRA, one card", "full, four cards"))
print(f"a card's time for a token, full over LoRA: {full[0] / lora[0]:.2f} by the lower ends, "
      f"{full[1] / lora[1]:.2f} by the upper")  # fmt: skip
print(f"you predicted {predicted_card_time_ratio}")
print(f"it fits: {found['full, four cards'].fits}, you predicted {predicted_fits}")

# %% [markdown]
# Both fit. What LoRA holds is the frozen weights once, in 16 bit. Full fine-tuning holds 16 bytes for each of 8 billion parameters, gradients, moments and weights in fp32, a quarter on each card; what LoRA does not need is what the other three cards are for.
#
# With NVLink the step takes longer by less than many think. Each token costs 8 operations a weight instead of 6: both compute the forward pass twice, because of checkpointing, and the gradient of what comes in; full fine-tuning has the gradients of the weights as well. On top come the optimizer's pass over its state, and what is sent. Four cards take four times the samples in that step, so the fair measure is card seconds a token. The quotients hold if both runs lie at the same place in their ranges. LoRA's advantage is that it needs one card and not four. Over PCIe the same bytes take longer than the arithmetic of these few tokens, and four cards wait; from how many tokens on they would not is computed further below.
#
# Which stages fit was traced for the course's record, on four cards. A peak just below the card's memory does not fit: CUDA's own memory and the gaps between tensors come on top.

# %%
import json

from labkit.datasets import tatqa

record = json.loads((tatqa.data_dir() / "results" / "sharded_runs.json").read_text())
scaling.fits(row for row in record["rows"]["fits"] if row["num_gpus"] == 4)

# %% [markdown]
# Sharing the optimizer's state saves most, and with four cards it is not enough: whole weights and gradients stay on each, or in stage 2 whole weights and two copies of the gradients that it steps. Without checkpointing a batch of four adds activations, which nothing shares.
#
# ## Explain: 70B, and 64 cards
#
# By formula, without a trace: what each card needs for the 8B model when more cards share.

# %%
from labkit.machine.datasheets import DEVICES

step = {"model": large_model, "method": "full", "batch_size": 1, "seq_len": length,
        "gradient_checkpointing": True}  # fmt: skip
stages = ("zero1", "zero2", "zero3", "fsdp2")
figure, alt = scaling.by_cards(step, stages, (2, 4, 8, 16, 32, 64), DEVICES[card])
plots.show(figure, alt=alt)

# %% [markdown]
# The lines of stages 1 and 2 level out at what they don't share, whole weights, and in stage 1 whole gradients. Those of ZeRO-3 and FSDP2 later, at activations and gathered layers, of which more cards take nothing away. Now 70B with ZeRO-3, a sample of 2,048 tokens on each card, in machines that a network joins:

# %% tags=["nbval-check-output"]
from labkit.machine.links import LINKS
from labkit.memory.architectures import shape_of
from labkit.memory.communication import seconds
from labkit.memory.formula import analytic
from labkit.memory.step_time import exchanged

for n in (16, 64, 512):
    step = StepSettings(model="llama-3-70b", method="full", sharding="zero3", num_gpus=n,
                        seq_len=2048, gradient_checkpointing=True)  # fmt: skip
    peak = analytic(step).peak_bytes / 2**30
    sent = exchanged(shape_of(step), step)
    least, most = seconds(sent, LINKS["hdr"])
    print(f"{n:>4} cards: {peak:5.1f} GiB each, {sent.total / 1e9:.0f} GB sent, "
          f"{least:.0f} to {most:.0f} s over {LINKS['hdr'].label}")  # fmt: skip

# %% [markdown]
# What a card holds falls; what it sends does not. So the batch on each card has to be large enough that arithmetic hides the sending, or fewer cards share and groups of them repeat (hybrid sharding). How large? A weight costs 6 bytes of sending, three times 2, and 8 operations a token. The weights cancel: whether sending hides behind products is a question of tokens on a card, not of the model, nor of how many cards there are.
#
# Makers add both directions of a link up, and a ring uses one for what leaves; of that rate it reaches four fifths at best, which the next cell takes, and two fifths where things are worse, which makes the ranges above.

# %% tags=["nbval-check-output"]
from labkit.machine.links import SHARE

a100 = DEVICES[card]
products_per_second = a100.matmul_share * a100.peak_flops("bfloat16")
for name in ("nvlink-4", "nvlink-3", "pcie-4", "hdr"):
    seconds_a_weight = 6 / (SHARE[0] * LINKS[name].bytes_per_second)
    tokens = seconds_a_weight * products_per_second / 8
    rate = LINKS[name].bytes_per_second / 1e9
    print(f"{LINKS[name].label:<30}{rate:6.1f} GB/s one way, hidden from {tokens:6,.0f} tokens")

# %% [markdown]
# How well do such predictions hold? Published runs on several cards, and the ranges that labkit predicts for them:

# %%
figure, alt = scaling.published(record["rows"]["time"])
plots.show(figure, alt=alt)

# %% [markdown]
# A range as wide as this answers whether a step takes seconds or minutes, and which of two plans takes longer where their ranges do not overlap. It does not replace a run.
#
# ## Checkpoint
#
# **08.1** What does each device hold? Choose parameters, devices and a sharding, for full fine-tuning in 16 bit with Adam on fp32 weights.

# %%
check(
    "08.1",
    parameters=None,
    ranks=None,
    sharding=None,
    weights_gb=None,
    gradients_gb=None,
    optimizer_gb=None,
    explanation=None,
)

# %% [markdown]
# **08.2** What did sharding save, and what did it cost, on your machine? Take two runs over two processes, whose names stand above the table: one without sharding and one with.

# %%
check(
    "08.2",
    plain_run=None,
    shared_run=None,
    weights_ratio=None,
    optimizer_ratio=None,
    sent_ratio=None,
    time_ratio=None,
    explanation=None,
)

# %% [markdown]
# **08.3** Does the full fine-tune of Llama 3 8B fit on four A100 of 40 GB? Choose what they share, batch, length and checkpointing, and give the peak beside that of LoRA on one card.

# %%
check(
    "08.3",
    sharding=None,
    batch_size=None,
    seq_len=None,
    checkpointing=None,
    full_gib=None,
    lora_gib=None,
    fits=None,
    explanation=None,
)

# %% [markdown]
# **08.4** What does a device send in a step around a ring, and how long does that take at the link's full rate in one direction?

# %%
check(
    "08.4",
    parameters=None,
    ranks=None,
    sharding=None,
    link=None,
    sent_gb=None,
    seconds=None,
    explanation=None,
)

# %% [markdown]
# ## What to remember
#
# - Stages share optimizer state, then gradients, then weights. Activations are nobody's but their own device's.
# - Sharding the weights costs half as much sending again, whatever the number of devices.
# - Ask the tensors what ran; settings only say what was asked for.
# - A checkpoint in pieces is a model once it is put together, and only then.
# - LoRA is cheaper because one card is enough for it, not because its step is ten times as fast.
# - Sending hides behind arithmetic when each card has enough tokens; the size of the model does not matter for that.

# %% [markdown]
# ## Further reading
#
# - S. Rajbhandari et al., *ZeRO: Memory Optimizations Toward Training Trillion Parameter Models*, 2020, [arXiv:1910.02054](https://arxiv.org/abs/1910.02054).
# - Y. Zhao et al., *PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel*, 2023, [arXiv:2304.11277](https://arxiv.org/abs/2304.11277).
# - P. Patarasuk and X. Yuan, *Bandwidth optimal all-reduce algorithms for clusters of workstations*, 2009.
# - Files to start from on a cluster lie in `lessons/cluster-example` of the course: for Slurm, for Kubernetes, and for two machines by hand.
