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
# - **Minutes:** 75, of which 15 are waiting
# - **Hardware:** two CPU cores and 8 GiB of memory; no GPU
# - **You need to know:** lessons 01 and 02

# %% [markdown]
# ## The same thing four times
#
# **What to take from this lesson: sharding moves bytes from memory to the wire; it adds no arithmetic and saves none.**
#
# Data parallelism gives each device a model of its own and a part of the batch. After the backward pass gradients are averaged, so that all models stay alike. Everything but the batch is there as often as there are devices. ZeRO (Rajbhandari et al. 2020) keeps of what is alike one piece on each device:
#
# | | weights | gradients | optimizer state | sent in a step |
# |---|---|---|---|---|
# | DDP | all | all | all | $2\Psi$ |
# | ZeRO-1 | all | all | $1/N$ | $2\Psi$ |
# | ZeRO-2 | all | $1/N$ | $1/N$ | $2\Psi$ |
# | ZeRO-3, FSDP2 | $1/N$ | $1/N$ | $1/N$ | $3\Psi$ |
#
# $\Psi$ are the bytes of all weights, $N$ the devices; around a ring each device sends $(N-1)/N$ of what the table says. The third $\Psi$ of the last row: weights are gathered for the forward pass, dropped, and gathered again for the backward pass.

# %% tags=["parameters"]
import importlib.util

from labkit.runs import profiles

quick = profiles.current().name == "smoke"
steps, processes = 4 if quick else 8, 2
kinds = ["none", "fsdp2"]
with_deepspeed = importlib.util.find_spec("deepspeed") is not None
if with_deepspeed:
    kinds += ["zero2"] if quick else ["zero2", "zero3"]
large_model, card = "llama-3-8b", "a100-40gb"

# %% [markdown]
# ## Predict: two processes
#
# A model is trained in full by two processes, in float32, where a weight, its gradient and each of Adam's two moments take 4 bytes. As a fraction of what one process alone would hold: what does each of the two hold with FSDP2? And will a step over the same samples be faster than in one process, on two cores?

# %%
predicted_weights_fraction = None
predicted_optimizer_fraction = None
predicted_faster = None

# %% [markdown]
# ## Exercise: bytes of each stage
#
# *Easy, 8 minutes, importance 5 of 5.* With 16-bit weights and gradients, and Adam on an fp32 copy of the weights with two moments, a parameter takes 2 + 2 + 12 bytes. Write what one of `ranks` devices holds; stage 0 shares nothing.
#
# <details><summary>Hint 1</summary>
#
# Each stage shares one kind more than the one before. The kinds go in the order optimizer state, gradients, weights.
#
# </details>
# <details><summary>Hint 2</summary>
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
# For 8 billion parameters, in GB, from labkit's own formula (FSDP2 keeps its weights and gradients in fp32 and gathers them in 16 bit):

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
# `nproc` says how many processes train, `sharding` what they share; the command is `labkit train --config full --nproc 2 --sharding fsdp2`. On CPUs processes talk by gloo, on GPUs by NCCL; the code is the same. What ran is read from the tensors and not from the settings: a library that quietly falls back would be found out.

# %%
from labkit.train import train

if not with_deepspeed:
    print("DeepSpeed is not installed here: this lesson shares by FSDP2 alone")


def over(sharding, nproc, **changes):
    """Return the settings of a full fine-tune of the same samples a step, however many share it."""
    settings = {"max_steps": steps, "dtype": "float32", "torch_compile": "off", **changes}
    return profiles.probe_config(
        "full", sharding=sharding, nproc=nproc, per_device_train_batch_size=processes // nproc,
        name=f"08-{sharding}-{nproc}" + "-cut" * bool(changes), **settings,
    )  # fmt: skip


alone = train(over("none", 1), quiet=True)
runs = {kind: train(over(kind, processes), quiet=True) for kind in kinds}

# %%
import pandas

table = {}
for kind, run in runs.items():
    shared = run.summary["sharding"]
    first = shared["held_bytes"][0]
    table[kind] = {
        "ran": shared["ran"],
        **{f"{part}, MiB": round(size / 2**20, 2) for part, size in first.items()},
        "sent, MiB": round(shared["sent_bytes"]["step"] / 2**20, 2),
        "step, s": round(run.summary["step_seconds_median"], 3),
        "last loss": round(run.steps[-1]["loss"], 5),
    }
print(f"one process: {alone.summary['step_seconds_median']:.3f} s a step, "
      f"last loss {alone.steps[-1]['loss']:.5f}")  # fmt: skip
pandas.DataFrame(table).T

# %% [markdown]
# The losses are those of one process: sharding changes where numbers lie, not what they are. What each process holds falls as the table at the top says. Compare with what you predicted.
#
# ## Explain: why two processes on two cores are not faster
#
# One process already uses both cores for each product. Two processes have a core each, so the arithmetic of a step takes as long as before; what they send comes on top, and with FSDP2 they wait for weights before each layer. On cards it is different because each process brings a card of its own. What is bought with the third $\Psi$ is memory, and time is the price; it is paid only where the wire is slower than the arithmetic beside it.
#
# ## Exercise: a ring that adds up
#
# *Medium, 20 minutes, importance 4 of 5.* All-reduce is how gradients are averaged. Each of $N$ ranks cuts its vector into $N$ pieces. In each of $N-1$ turns every rank sends one piece to the next rank, which adds it to its own; then each rank has one piece that is finished. In $N-1$ more turns finished pieces go around. `send(rank, piece)` hands a piece to the next rank and returns what arrives there; it counts what each rank sends.
#
# <details><summary>Hint 1</summary>
#
# In turn $t$ rank $r$ sends piece $(r - t) \bmod N$, the one it added to in the turn before. Collect what all ranks send before anybody adds.
#
# </details>
# <details><summary>Hint 2</summary>
#
# After the first half rank $r$ has piece $(r + 1) \bmod N$ finished, so the second half is the same walk one piece further, and what arrives replaces instead of being added. `numpy.array_split` cuts pieces that need not be equally long.
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
# The first half alone is a reduce-scatter, which is what ZeRO-2 and 3 do with gradients; the second half alone is an all-gather, which is how weights come back. That is why an all-reduce counts twice.
#
# ## Exercise: a sharded step of Adam
#
# *Medium, 15 minutes, importance 4 of 5.* Stage 1: gradients are averaged and whole, the moments of a rank are those of its part, a rank steps its part. Write it for rate 0.01, $\beta = (0.9, 0.999)$, $\epsilon = 10^{-8}$, without weight decay.
#
# <details><summary>Hint 1</summary>
#
# $m \leftarrow \beta_1 m + (1-\beta_1) g$ and $v \leftarrow \beta_2 v + (1-\beta_2) g^2$ with the gradient of the rank's own part.
#
# </details>
# <details><summary>Hint 2</summary>
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
# ## Measure: a run that is killed, and its pieces put together
#
# Each process saves its part. Here a run over two processes is killed while it trains, as a machine that fails would end it. Started again it would go on from its last checkpoint; instead its pieces are put together.

# %%
import json
import subprocess
import sys
import time

from labkit.runs import records

cut = over("fsdp2", processes, model="tiny-llama", max_steps=2000, save_steps=2)
folder = records.runs_dir() / cut.name
settings_file = records.runs_dir() / "08-cut.json"
settings_file.write_text(json.dumps(cut.to_dict()))
command = [sys.executable, "-m", "labkit", "train", "--config", str(settings_file)]
if not (folder / "checkpoints").exists():
    log = records.runs_dir() / "08-cut.log"
    with log.open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        while process.poll() is None and not list(folder.glob("checkpoints/*/labkit_steps.json")):
            time.sleep(0.2)
    if process.poll() is not None:
        print("it ended by itself:", log.read_text()[-500:])
    process.kill()
    process.wait()
print("left behind:", sorted(each.name for each in (folder / "checkpoints").iterdir())[:3])

# %%
import shutil

from labkit.train.sharded.consolidate import consolidate, render

put_together = folder / "whole"
shutil.rmtree(put_together, ignore_errors=True)
made = consolidate(cut.name, put_together)
print(render(made).replace(str(records.runs_dir()), "runs"))

# %% [markdown]
# `labkit consolidate` reads each piece from its place in its file and writes tensor by tensor: its memory is that of the largest tensor, however large the model. Is it the model? PyTorch's own tool gathers the same checkpoint by another way.

# %%
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

dcp_to_torch_save(made.checkpoint, folder / "gathered.pt")
gathered = torch.load(folder / "gathered.pt", weights_only=False)["model"]
stored = load_file(put_together / made.files[0])
equal = sum(torch.equal(stored[name], gathered[name]) for name in stored)
print(f"{equal} of {len(stored)} tensors are equal, bit for bit")

# %% [markdown]
# ## Explain: full on four cards, or LoRA on one
#
# The question of this course: Llama 3 8B in full on four A100 of 40 GB, and beside it LoRA on one. Nothing is allocated for the answer: the step is traced, its communication follows from the table at the top.

# %%
from labkit.memory import estimates

alike = {"device": card, "seq_len": 1024, "gradient_checkpointing": True}
answers = {}
for label, choices in {
    "LoRA, one card": {"method": "lora"},
    "full, four cards, FSDP2": {"method": "full", "sharding": "fsdp2", "num_gpus": 4},
}.items():
    found = estimates.estimate(large_model, batch_size=1 if quick else 4, **alike, **choices)
    low, high = found.step_seconds
    cards = choices.get("num_gpus", 1)
    answers[label] = {
        "peak, GiB a card": round(found.peak_bytes["traced"] / 2**30, 1),
        "fits": found.fits,
        "largest batch": found.largest_batch_size,
        "step, s": f"{low:.2f} to {high:.2f}",
        "sent, GB": round(sum(found.communication["bytes"].values()) / 1e9, 1)
        if found.communication else 0,
        "card seconds a step": f"{cards * low:.2f} to {cards * high:.2f}",
    }  # fmt: skip
pandas.DataFrame(answers).T

# %% [markdown]
# Both fit. The full fine-tune takes four cards to hold what LoRA does not need: gradients, moments and fp32 weights of 8 billion parameters, a quarter on each. Its step does half as much arithmetic again for the same tokens on each card, and sends weights three times. Over NVLink that is hidden behind the arithmetic of a large enough batch; over PCIe it is not. Which stages fit was traced for the record:

# %%
from labkit.datasets import tatqa

record = json.loads((tatqa.data_dir() / "results" / "sharded_runs.json").read_text())
fits = [row for row in record["rows"]["fits"] if row["num_gpus"] == 4]
pandas.DataFrame([
    {"sharding": row["sharding"], "batch": row["batch_size"],
     "checkpointing": row["gradient_checkpointing"],
     "peak, GiB": round(row["peak_bytes"] / 2**30, 1), "fits": row["fits"]}
    for row in fits
])  # fmt: skip

# %% [markdown]
# ## Explain: 70B, and 64 cards
#
# By formula, no trace: what a card holds of a 70B model in full with ZeRO-3, and what a step of one sample of 2,048 tokens on each sends over the network between machines.

# %% tags=["nbval-check-output"]
from labkit.machine.links import LINKS
from labkit.memory.architectures import shape_of
from labkit.memory.communication import seconds
from labkit.memory.formula import analytic
from labkit.memory.step_time import exchanged

for n in (8, 64, 512):
    step = StepSettings(model="llama-3-70b", method="full", sharding="zero3", num_gpus=n,
                        seq_len=2048, gradient_checkpointing=True)  # fmt: skip
    peak = analytic(step).peak_bytes / 2**30
    sent = exchanged(shape_of(step), step)
    least, most = seconds(sent, LINKS["hdr"])
    print(f"{n:>4} cards: {peak:7.1f} GiB each, {sent.total / 1e9:.0f} GB sent, "
          f"{least:.0f} to {most:.0f} s over {LINKS['hdr'].label}")  # fmt: skip

# %% [markdown]
# Memory falls with every card, until what isn't shared is left: activations, gathered layers. What a device sends does not fall: with many cards it is three times the weights however many there are. So the batch on each card has to be large enough to hide it, or fewer cards share and groups of them repeat (hybrid sharding). How well do such predictions hold? Published runs beside their ranges:

# %%
pandas.DataFrame(record["rows"]["time"])[
    ["source", "model", "device", "num_gpus", "low_seconds", "published_seconds", "high_seconds"]
]

# %% [markdown]
# ## Checkpoint
#
# **08.1** What does each device hold?

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
# **08.2** What did sharding save, and what did it cost, on your machine?

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
# **08.3** Does the full fine-tune of Llama 3 8B fit on four A100 of 40 GB?

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
# **08.4** What does a device send in a step, and how long does that take?

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
# - LoRA on one card is cheaper by the card, not because its step is ten times as fast.

# %% [markdown]
# ## Further reading
#
# - S. Rajbhandari et al., *ZeRO: Memory Optimizations Toward Training Trillion Parameter Models*, 2020, [arXiv:1910.02054](https://arxiv.org/abs/1910.02054).
# - Y. Zhao et al., *PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel*, 2023, [arXiv:2304.11277](https://arxiv.org/abs/2304.11277).
# - P. Patarasuk and X. Yuan, *Bandwidth optimal all-reduce algorithms for clusters of workstations*, 2009.
# - Files to start from on a cluster: [Slurm](cluster-example/slurm.sbatch), [Kubernetes](cluster-example/pytorchjob.yaml), [two machines by hand](cluster-example/two-machines.sh).
