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
# # 00 · Setup: the hub, the model, a first answer
#
# - **Goal:** know what your machine can run, load a real pretrained model, let it answer a question about a financial report, and say what that answer cost.
# - **Minutes:** 20
# - **Hardware:** two CPU cores and 2 GiB of memory; a GPU is used when there is one
# - **You need to know:** Python; that a language model predicts the next token
#
# Every lesson goes the same way. You **predict** a number and write it down, you **measure** it, and you **explain** the difference. The prediction is not graded: a wrong one that you can explain teaches more than a right one that you can't.

# %% [markdown]
# The cell below holds the parameters of the lesson. The profile says how much is run: `smoke` is a quick pass for tests, `cpu` is for two cores and is the default, `gpu` takes a bigger model. Nothing else in the lesson depends on the machine.

# %% tags=["parameters"]
from labkit.runs import profiles

profile = profiles.current()
model_name = profiles.model()
number_of_questions = profile.eval_samples or 40

# %% [markdown]
# ## Where you are
#
# A notebook is a page; the code runs in a **kernel**, a process of its own on the server. On a hub many such processes share one machine:
#
# - The kernel has a memory limit. A process that goes past it is killed at once, without a message: the page says "kernel died", and every variable is gone.
# - A kernel that is silent for long may be stopped to make room. Training prints a line at least every half minute, and what it has learned so far is saved: run the cell again and it goes on.
# - Your home folder is yours and stays. The models lie in a folder that everybody can read and nobody can change.
#
# `doctor` looks at all of this and says what will run here and what will not.

# %%
from labkit import doctor

print(doctor.render(doctor.report(), width=96))

# %% [markdown]
# ## Predict: the weights and the wait
#
# Unless the profile names another, the model is SmolLM2-135M-Instruct: about 135 million parameters, trained on two trillion tokens of text and then on conversations. Its weights are stored in `bfloat16`, a number format of 16 bits.
#
# 1. How many bytes do the weights take?
# 2. The model reads a short report and a question, and writes an answer. How many seconds does that take on this machine?
#
# Write both numbers into the cell before you run anything below it.

# %%
predicted_bytes = None
predicted_seconds = None

# %% [markdown]
# ## Measure: the weights
#
# A model is two things: a **tokenizer**, which turns text into numbers and back, and the **weights**. labkit looks for both in the shared folder first, then in your cache, and downloads them only when they are nowhere.

# %%
from labkit.inference.generate import load_generator, model_path

generator = load_generator(model_name)
model, tokenizer = generator.model, generator.tokenizer

# %%
from labkit.models import load

stored = load.config_of(str(model_path(model_name))).dtype or model.dtype
parameters = sum(weight.numel() for weight in model.parameters())
weights_bytes = parameters * stored.itemsize
loaded_bytes = sum(weight.nbytes for weight in model.parameters())

print(f"{parameters:,} parameters in {weights_bytes:,} bytes, stored as {stored}")
print(f"predicted: {predicted_bytes} bytes")
print(f"here they are held and multiplied as {model.dtype}: {loaded_bytes:,} bytes")

# %% [markdown]
# The last line depends on your machine. A processor that has instructions for `bfloat16` multiplies it faster than `float32`; one that has none must imitate them, and is many times slower. labkit times both once on each machine and takes the faster, for this answer and for every training run.

# %% [markdown]
# ## Explain: bytes per parameter
#
# The size of the weights is the number of parameters times the bytes of one:
#
# $$ \mathrm{bytes} = N \cdot \frac{\mathrm{bits}}{8} $$
#
# A byte count needs its unit: 1 GB is $10^9$ bytes and 1 GiB is $2^{30}$, seven percent more. In this course the unit is GiB, and it is written so.

# %%
for name, bits in {"float32": 32, "bfloat16": 16, "int8": 8, "4-bit": 4}.items():
    print(f"{name:>9}: {parameters * bits / 8 / 2**30:.2f} GiB")

# %% [markdown]
# Where do the parameters sit? Count them by the part of the model they belong to.

# %%
from collections import Counter

parts: Counter[str] = Counter()
for name, weight in model.named_parameters():
    known = [part for part in ("embed", "attn", "mlp", "norm") if part in name]
    parts[known[0] if known else "other"] += weight.numel()

for part, count in parts.most_common():
    print(f"{part:>6}: {count:>12,}  {count / parameters:6.1%}")

# %% [markdown]
# The `embed` part is the table of token embeddings. This model uses it twice: to read tokens in, and, as the output head, to score the next one. Such **tied** weights are counted once, and in a small model with a large vocabulary they are a good part of it. Fine-tuning with LoRA, in lesson 02, adds its small matrices to the `attn` and `mlp` parts.

# %% [markdown]
# ## A report and a question
#
# The data set of the course has the form of TAT-QA: short passages from annual reports, each with a table, some text, and questions whose answers are copied from the report or calculated from it. The embedded set is made by a program, so that it is free and short enough for two cores; the real TAT-QA can take its place by name.

# %% tags=["nbval-check-output"]
from labkit.datasets import tatqa
from labkit.datasets.encode import render_report

samples = tatqa.samples(tatqa.load("tables", "test"))
sample = next(s for s in samples if s.question.answer_type == "span")

print(render_report(sample.report))
print()
print("Question:", sample.question.text)

# %% [markdown]
# The model does not see a question but a stretch of tokens. An instruction-tuned model has learned a **chat template**: marks that say who speaks. This is the text that it is given, down to the mark after which it is its turn.

# %% tags=["nbval-check-output"]
from labkit.datasets.encode import prompt_text

text = prompt_text(tokenizer, sample)
print(text[-200:])

# %% [markdown]
# ## Measure: a first answer

# %%
import time


def timed_answer(max_new_tokens: int = 64):
    """Return the model's answer to the question above and the seconds it took."""
    started = time.perf_counter()
    reply = generator.answer([sample], max_new_tokens=max_new_tokens)[0]
    return reply.text, time.perf_counter() - started


answer, seconds = timed_answer()
tokens = len(tokenizer(answer)["input_ids"])

print("Answer:", answer)
print("Wanted:", " | ".join(sample.question.answer), sample.question.scale)
print(f"{tokens} tokens in {seconds:.2f} s, predicted: {predicted_seconds} s")

# %% [markdown]
# ## Explain: reading is cheap, writing is not
#
# The prompt is many times longer than the answer, yet most of the time goes into the answer. The model reads the whole prompt in one pass (**prefill**): every weight is fetched from memory once and used for all the tokens. It writes one token a pass (**decoding**), since each depends on the one before, and every pass fetches all the weights again.
#
# So the fastest that decoding can be, at one answer at a time, is the memory's bandwidth over the bytes of the weights:
#
# $$ \mathrm{tokens\ per\ second} \leq \frac{\mathrm{bytes\ per\ second}}{\mathrm{bytes\ of\ weights}} $$
#
# Compare the time for the whole answer with the time for its first token alone, which is the prefill. A first call also pays for things that happen once, so both are measured now.

# %%
_, reading_seconds = timed_answer(max_new_tokens=1)
_, whole_seconds = timed_answer()
prompt_tokens = len(tokenizer(text)["input_ids"])
seconds_per_token = (whole_seconds - reading_seconds) / max(tokens, 1)

print(f"reading: {prompt_tokens / reading_seconds:8,.0f} tokens/s")
print(f"writing: {1 / seconds_per_token:8,.0f} tokens/s")
print(f"weights fetched while writing: {loaded_bytes / seconds_per_token / 2**30:.1f} GiB/s")

# %% [markdown]
# And what does the memory deliver? labkit measures it by copying a large array.

# %%
from labkit.machine import arithmetic

bandwidth = arithmetic.device("cpu").bandwidth_bytes_per_second
print(f"memory of this machine: {bandwidth / 2**30:.1f} GiB/s")

# %% [markdown]
# If the weights are fetched at nearly that rate, the bound above explains the speed. If it stays far below, something else is the limit: in a small model it is the time to start each of the many small operations of a pass. Answering several questions in one batch helps against both, because one pass then writes a token of every answer.

# %% [markdown]
# ## Measure: is it right?
#
# One answer says little. Ask the untouched model some more questions, in a batch, and compare each answer with the right one by the official score of TAT-QA: **exact match**, which is 1 or 0, and **F1**, which gives a part of the point when the words overlap.

# %%
asked = samples[:number_of_questions]
replies = generator.answer(asked)

for s, reply in list(zip(asked, replies, strict=True))[:10]:
    print("right" if reply.em else "wrong", "·", s.question.text)
    print("   wanted", " | ".join(s.question.answer), s.question.scale)
    print("   wrote ", repr(reply.text[:76]))

# %%
correct = sum(reply.em == 1 for reply in replies)
mean_f1 = sum(reply.f1 for reply in replies) / len(asked)
print(f"{correct} of {len(asked)} match exactly, mean F1 {100 * mean_f1:.1f} %")

# %% [markdown]
# ## Explain: format or knowledge?
#
# Read the wrong answers once more. Some hold the right number in a sentence, with a unit or a currency that was not asked for: the model has read the table and does not keep to the **format**. Others are numbers from the wrong row, or a sum that does not add up: it has not learned the **task**.
#
# The two are easily confused. A model that gains many points in fine-tuning may only have learned to leave out the words around the number. That is why lesson 02 compares with the untouched model *given two worked examples* in its prompt, which shows it the format for nothing.

# %% [markdown]
# ## Exercise: when are two answers the same?
#
# *Easy, 10 minutes.* A score compares strings, and strings that mean the same can differ. Write `exact_match(answer, gold)`. It returns `True` when the two are the same after these steps, else `False`:
#
# - capital letters do not matter;
# - white space at the ends does not matter, and inside any amount of it is one space;
# - commas that group digits do not matter: `1,496.5` is `1496.5`; a comma between words stays.

# %%
import re


def exact_match(answer: str, gold: str) -> bool:
    """Return whether an answer is the gold answer, up to case, white space and digit grouping."""

    ### BEGIN SOLUTION
    def normalise(text: str) -> str:
        return re.sub(r"(?<=\d),(?=\d)", "", " ".join(text.lower().split()))

    return normalise(answer) == normalise(gold)
    ### END SOLUTION


# %%
from labkit.checkpoints import check

check.exercise("exact_match", exact_match)

# %% [markdown]
# The official score does more: it reads numbers as numbers, multiplies by the scale, and aligns lists of values with each other. `labkit/datasets/score.py` explains it.

# %% [markdown]
# ## Checkpoint
#
# Answer from your own measurements, above. What you write is kept in `answers.json` beside your runs, and it is compared with your measurements, never with somebody else's. Run a cell as often as you like: the latest answer counts.

# %% [markdown]
# **00.1** How much memory do the weights take as they are stored, and how much would they take in 32-bit floating point? What else does a process need memory for?

# %%
check("00.1", model=None, weights_bytes=None, float32_bytes=None, explanation=None)

# %% [markdown]
# **00.2** How long did the first answer take, and how many tokens does it have? What explains the difference from your prediction?

# %%
check(
    "00.2",
    predicted_seconds=predicted_seconds,
    seconds=None,
    tokens=None,
    tokens_per_second=None,
    explanation=None,
)

# %% [markdown]
# **00.3** How many of the questions did the untouched model answer correctly, and what goes wrong in the others?

# %%
check("00.3", questions=None, correct=None, share_percent=None, explanation=None)

# %% [markdown]
# ## What to remember
#
# - A kernel has a memory limit, and going past it is silent. `labkit doctor` says where you stand.
# - Weights take parameters times bytes per parameter; GiB and GB are not the same.
# - Reading uses every weight that is fetched for all tokens at once; writing fetches all of them for each token.
# - A wrong answer in the right format and a right one in the wrong format cost the same point, and call for different training.

# %% [markdown]
# ## Further reading
#
# - L. B. Allal et al., *SmolLM2: When Smol Goes Big*, 2025, [arXiv:2502.02737](https://arxiv.org/abs/2502.02737): the model and what it was trained on.
# - F. Zhu et al., *TAT-QA: A Question Answering Benchmark on a Hybrid of Tabular and Textual Content in Finance*, ACL 2021, [arXiv:2105.07624](https://arxiv.org/abs/2105.07624): the data set and its score.
# - R. Pope et al., *Efficiently Scaling Transformer Inference*, 2022, [arXiv:2211.05102](https://arxiv.org/abs/2211.05102): why writing is limited by memory.
# - The documentation of JupyterHub, [jupyterhub.readthedocs.io](https://jupyterhub.readthedocs.io): what a hub does for you, and what it stops.
