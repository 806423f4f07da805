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
# - **Goal:** know what your machine can run, load a real pretrained model, let it answer questions about a financial report, read its answers as the score does, and say what an answer cost.
# - **Minutes:** 60
# - **Hardware:** two CPU cores and 2 GiB of memory; a GPU is used when there is one
# - **You need to know:** Python; that a language model predicts the next token
#
# Every lesson goes the same way. You **predict** a number and write it down, you **measure** it, and you **explain** the difference. The prediction is not graded, so write down what you really think.
#
# The course is about **fine-tuning**: a model that somebody else trained, on very much text, is trained a little more on examples of one task. `labkit` is the course's own package, which loads models, runs trainings and keeps what was measured.

# %% [markdown]
# The cell below holds the parameters of the lesson. The profile says how much is run: `smoke` is a quick pass for tests, `cpu` is for two cores and is the default, `gpu` takes a bigger model. All other cells are the same on every machine.

# %% tags=["parameters"]
from labkit.runs import profiles

profile = profiles.current()
model_name = profiles.model()
number_of_questions = profile.eval_samples or 40

# %% [markdown]
# ## Where you are
#
# A notebook is a page; the code runs in a **kernel**, a process of its own on the server. A **hub** is that server and the door to it. On a hub many such processes share one machine:
#
# - The kernel has a memory limit. A process that goes past it is killed at once, without a message: the page says "kernel died", and every variable is gone.
# - A kernel that is silent for long may be stopped to make room. Training prints a line about every minute, and saves what it has learned now and then: run the cell again and it goes on from there.
# - Your home folder is yours and stays. The models lie in a folder that everybody can read and nobody can change.
#
# `doctor` looks at all of this and says what will run here and what will not.

# %%
from labkit import doctor

print(doctor.render(doctor.report(), width=96))

# %% [markdown]
# ## Predict: the weights and the wait
#
# Unless the profile names another, the model is the **embedded** one, which comes with the course: SmolLM2-135M-Instruct, with about 135 million parameters, trained on two trillion tokens of text (Allal et al. 2025) and then on conversations. A **parameter**, or weight, is a number that training sets; a **token** is a piece of text, a short word or a part of one. The weights are stored in `bfloat16`, a number format of 16 bits; the usual format, `float32`, has 32.
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
# The last line depends on your machine. A processor that has instructions for `bfloat16` multiplies it faster than `float32`; one that has none must imitate them, and is many times slower. labkit times both once on each processor and takes `bfloat16` where it is clearly faster, else `float32`, which is more exact; on a GPU it takes `bfloat16` untimed. So it is for this answer, and for training runs unless they are told otherwise.

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
# How a weight is stored says nothing of how exact it is. To **quantise** weights is to round them to a few values that need fewer bits. The matrices in the embedded model's layers were packed so: every row is cut into blocks of 32 weights, and a block has 32 integers of 4 bits, from 0 to 15, and two numbers, a scale and an offset, that turn them back into weights. The table of tokens, which you meet below, kept more bits. labkit **dequantised** the model, which means that it did this multiplication and wrote the results out as `bfloat16`, once, when the model was installed. What the rounding took does not come back, and you can see it: count how many different values there are in the blocks of one matrix.

# %%
weight = next(w for name, w in model.named_parameters() if "mlp" in name and w.ndim == 2)
blocks = weight.detach().reshape(-1, 32).float().sort(dim=1).values
different = (blocks.diff(dim=1) != 0).sum(dim=1) + 1

print(f"{len(blocks):,} blocks of 32 weights")
print(f"different values in a block: {different.min()} to {different.max()}")

# %% [markdown]
# Four bits tell 16 values apart; a model that was never quantised has nearly 32 different ones in every block. Two things follow for the embedded model. Its scores are not those of the release that it was made from. And where lessons 04 and 05 round weights to 8 and to 4 bits, this model has been through it before.
#
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
# The `embed` part is the table of token **embeddings**, one row of numbers for each token that the tokenizer knows. The embedded model uses it twice: to read tokens in, and, as the output head, to score the next one. Such **tied** weights are counted once, and in a small model with a large vocabulary they are a good part of it. The other parts make up the model's layers: `attn` is attention, where a token looks at those before it, `mlp` are the wide matrices that work on each token alone, and `norm` keeps the size of the numbers in bounds.
#
# A process holds more than the weights. The operating system says how much memory it gave to this one, its **resident set**:

# %%
import psutil

resident_bytes = psutil.Process().memory_info().rss
print(f"{resident_bytes / 2**30:.2f} GiB resident; the weights take {loaded_bytes / 2**30:.2f} GiB")

# %% [markdown]
# Beside the weights there are Python itself, the libraries, the tokenizer, and memory that was needed while loading and is kept for later. Answering adds more: what each layer computes for the tokens of a prompt.

# %% [markdown]
# ## A report and a question
#
# The data set of the course has the form of TAT-QA (Tabular And Textual question answering): short passages from annual reports, each with a table, some text, and questions whose answers are copied from the report or calculated from it. The embedded set is made by a program, so that it is free and short enough for two cores; the real TAT-QA can take its place by name.

# %% tags=["nbval-check-output"]
from labkit.datasets import tatqa
from labkit.datasets.encode import render_report

samples = tatqa.samples(tatqa.load("tables", "test"))
sample = next(s for s in samples if s.question.answer_type == "span")

print(render_report(sample.report))
print()
print("Question:", sample.question.text)

# %% [markdown]
# The model does not see a question but a stretch of tokens. One that was trained on conversations has learned a **chat template**: marks that say who speaks. `system` says what the work is, `user` brings report and question, and after the mark `assistant` it is the model's turn. This is the whole text that it is given.

# %% tags=["nbval-check-output"]
from labkit.datasets.encode import prompt_text

text = prompt_text(tokenizer, sample)
print(text)

# %% [markdown]
# And this is what fine-tuning teaches it to write, the **target**. There are four kinds of question; below is the first of each. A small model can't do arithmetic in its head, and it need not: its target says *what* to calculate, and the course's **reader**, which turns the model's text into values and their **scale** (thousand, million, billion, percent, or none), calculates it. The score sees only what the reader made of the text.

# %% tags=["nbval-check-output"]
from labkit.datasets.answers import format_answer, parse_answer

for kind in tatqa.ANSWER_TYPES:
    question = next(s.question for s in samples if s.question.answer_type == kind)
    target = format_answer(question)
    read = parse_answer(target)
    print(f"{kind}: {question.text}")
    print(f"    target   {target}")
    print(f"    read as  {list(read.values)}, scale {read.scale!r}")

# %% [markdown]
# The system message in the prompt above says this too, in one line. It is all that the model knows of the form so far: nobody has trained it on such targets yet.
#
# ## Exercise: the reader
#
# *Medium, 20 minutes; very important.* A bug in the reader looks like a bad model. Write it: `read_answer(text)` returns the values, a list of strings, and the scale, a string.
#
# - Only the first line that is not blank counts.
# - What stands after `#` is the scale; without `#` it is empty.
# - A line that does not begin with `=` holds values, separated by `|`.
# - `= count(a | b | c)` is the number of things in the parentheses.
# - Any other line that begins with `=` is arithmetic with `+ - * / ( )`, whose numbers may have commas that group digits. Round the result to two decimals where there is a scale and to four where there is none; write it without zeros at the end, and never as `-0`.
# - What can't be calculated comes back as it stands, without the `=`. A model writes what it likes, so its text is **never run as code**: no `eval`.
#
# <details><summary>Hint 1: the order of things</summary>
#
# First find the line, then cut the scale off with `str.partition`, then ask how the rest begins. Each of the three forms of the rest is a few lines of its own.
#
# </details>
# <details><summary>Hint 2: arithmetic without running it</summary>
#
# Python reads an expression into a tree without running it: `ast.parse(expression, mode="eval").body`. A node is an `ast.BinOp` with `left`, `op` and `right`, an `ast.UnaryOp` with `op` and `operand`, or an `ast.Constant` with `value`; anything else is no arithmetic. A function that calls itself on the parts of a node, looks `type(node.op)` up in a dictionary of the four operations, and raises `ValueError` for everything else is a whole calculator. `ast.parse` raises `SyntaxError` for text that is no expression.
#
# </details>

# %%
import ast
import operator

OPERATIONS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


# %%
def read_answer(text: str) -> tuple[list[str], str]:
    """Return the values that a model's text gives, as strings, and their scale."""

    ### BEGIN SOLUTION
    def calculate(node):
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
            return OPERATIONS[type(node.op)](calculate(node.left), calculate(node.right))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -calculate(node.operand)
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return node.value
        raise ValueError("this is no arithmetic")

    line = next((each.strip() for each in text.splitlines() if each.strip()), "")
    line, _, scale = (part.strip() for part in line.partition("#"))
    if not line.startswith("="):
        return [value.strip() for value in line.split("|")], scale
    expression = line[1:].strip()
    if expression.startswith("count("):
        return [str(len(expression.split("|")))], scale
    try:
        value = calculate(ast.parse(expression.replace(",", ""), mode="eval").body)
    except (SyntaxError, ValueError, ArithmeticError):
        return [expression], scale
    written = f"{value:.{2 if scale else 4}f}".rstrip("0").rstrip(".")
    return ["0" if written == "-0" else written], scale
    ### END SOLUTION


# %%
from labkit.checkpoints import check

check.exercise("read_answer", read_answer)

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
# ## Measure: reading and writing
#
# The prompt is longer than the answer, and the two are worked on in different ways. The model **reads** the whole prompt in one pass, the **prefill**: every weight is fetched from memory once and used for all tokens. It **writes** one token a pass, which is called **decoding**, since each token depends on the one before; every pass fetches all the weights again.
#
# Which of the two takes longer here? Before you run the cell, decide what you expect. The time of an answer of a single token is the reading; what the whole answer takes beyond it is the writing. A first call also pays for things that happen once, so both are measured anew.

# %%
from labkit.runs import measurements

_, reading_seconds = timed_answer(max_new_tokens=1)
_, whole_seconds = timed_answer()
prompt_tokens = len(tokenizer(text)["input_ids"])
speed = {
    "seconds": seconds,
    "tokens": tokens,
    "reading_seconds": reading_seconds,
    "writing_seconds": max(0.0, whole_seconds - reading_seconds),
}
measurements.keep("answer_speed", {**speed, "prompt_tokens": prompt_tokens}, model=model_name)

print(f"reading {prompt_tokens} tokens: {speed['reading_seconds']:.3g} s")
print(f"writing {tokens} tokens: {speed['writing_seconds']:.3g} s")

# %% [markdown]
# `measurements.keep` writes what was measured into a file beside your runs. At the end of the lesson you answer questions about it, and your answers are held against that file.
#
# ## Explain: a pass for the prompt, a pass for each token
#
# Per token, reading and writing are far apart, although each token goes through the same weights:

# %%
writing_rate = tokens / speed["writing_seconds"] if speed["writing_seconds"] else float("nan")

print(f"reading: {prompt_tokens / reading_seconds:8,.1f} tokens/s")
print(f"writing: {writing_rate:8,.1f} tokens/s")
print(f"weights fetched while writing: {loaded_bytes * writing_rate / 2**30:.1f} GiB/s")

# %% [markdown]
# A weight that is fetched for reading serves all tokens of the prompt, so most of the time can go into multiplying. A weight that is fetched for writing serves one token, so the machine multiplies little and fetches much. At one answer at a time, decoding can't be faster than the weights can be fetched. The bound is the **bandwidth** of the memory, which is how many bytes a second it delivers, over the bytes of the weights:
#
# $$ \mathrm{tokens\ per\ second} \leq \frac{\mathrm{bytes\ per\ second}}{\mathrm{bytes\ of\ weights}} $$
#
# What does the memory deliver? labkit measures it by copying a large array; of a GPU it takes what the maker's datasheet says.

# %%
from labkit.machine import arithmetic
from labkit.memory import estimates

bandwidth = arithmetic.device(estimates.this_device()).bandwidth_bytes_per_second
print(f"memory: {bandwidth / 2**30:.1f} GiB/s")
print(f"so writing is bound by {bandwidth / loaded_bytes:,.0f} tokens/s")

# %% [markdown]
# If writing comes near the bound, the memory explains its speed. If it stays far below, something else is the limit: in a small model it is the time to start each of the many small operations of a pass. Answering several questions in one batch helps against both, because one pass then writes a token of every answer.

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
measurements.keep("answers", {"texts": {r.uid: r.text for r in replies}}, model=model_name)

print(f"{correct} of {len(asked)} match exactly, mean F1 {100 * mean_f1:.1f} %")

# %% [markdown]
# A number of that kind invites the sentence "the model can't do it". Look at what the wrong answers hold before you say so: in how many of them does the right value stand somewhere?

# %% tags=["result"]
from labkit import plots

wrong_form = sum(reply.holds_value and not reply.em for reply in replies)
kinds = {
    "scored as right": correct,
    "scored as wrong, holds the right value": wrong_form,
    "scored as wrong, does not hold it": len(asked) - correct - wrong_form,
}
figure, alt = plots.bars(
    kinds, label="questions", title="What the untouched model writes", number="{:.0f}"
)
plots.show(figure, alt=alt)

# %% [markdown]
# ## Explain: format or knowledge?
#
# **What this lesson is about is the middle bar.** The score counts it together with the last one, and the two call for different training. An answer of the middle bar holds the right value in a sentence, or without its scale: the model has read the table and does not keep to the **format**. (Now and then the value stands there by accident.) An answer of the last bar is most often a number from the wrong row, or arithmetic that does not come out: the model has not learned the **task**.
#
# So a model that gains many points in fine-tuning may only have learned to leave out the words around a number and to write its scale. That is why lesson 02 compares with the untouched model *given two worked examples* in its prompt, which shows it the format without any training.

# %% [markdown]
# ## Exercise: when are two answers the same?
#
# *Easy, 10 minutes; useful.* A score compares strings, and strings that mean the same can differ. Write `exact_match(answer, gold)`. It returns `True` when the two are the same after these steps, else `False`:
#
# - capital letters do not matter;
# - white space at the ends does not matter, and inside any amount of it is one space;
# - commas that group digits do not matter: `1,496.5` is `1496.5`; a comma between words stays.
#
# <details><summary>Hint 1: one form for both</summary>
#
# Write a function that brings any string into one form, and compare the two forms. Nothing else needs to know about capital letters.
#
# </details>
# <details><summary>Hint 2: white space and commas</summary>
#
# `str.split()` without an argument cuts at any amount of white space and drops what is at the ends. A regular expression can look at what stands before and after a comma without taking it: `(?<=\d)` and `(?=\d)`.
#
# </details>

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
check.exercise("exact_match", exact_match)

# %% [markdown]
# The official score does more: it reads numbers as numbers, multiplies by the scale, and sorts the values of a list before it compares. `labkit/datasets/score.py` explains it.

# %% [markdown]
# ## Checkpoint
#
# Answer from your own measurements, above. What you write is kept in `answers.json` beside your runs, and it is compared with your measurements, never with somebody else's. The latest answer counts, and so does the latest measurement: when you run a measuring cell again, answer its question again.

# %% [markdown]
# **00.1** How much memory do the weights take as they are stored, and how much would they take in 32-bit floating point? What else does a process that uses them need memory for?

# %%
check("00.1", model=None, weights_bytes=None, float32_bytes=None, explanation=None)

# %% [markdown]
# **00.2** How long did the first answer take, and how many tokens does it have? Measured once more, how long did reading take and how long writing, which of the two took longer, and how many tokens a second were written? What explains the difference from your prediction?

# %%
check(
    "00.2",
    predicted_seconds=predicted_seconds,
    seconds=None,
    tokens=None,
    reading_seconds=None,
    writing_seconds=None,
    longer=None,  # "reading", "writing" or "about the same"
    tokens_per_second=None,
    explanation=None,
)

# %% [markdown]
# **00.3** How many of the questions did the untouched model answer correctly, and how many of its wrong answers hold the right value all the same? What goes wrong in the others?

# %%
check(
    "00.3",
    questions=None,
    correct=None,
    share_percent=None,
    wrong_form=None,
    explanation=None,
)

# %% [markdown]
# ## What to remember
#
# - A kernel has a memory limit, and going past it is silent. `labkit doctor` says where you stand.
# - Weights take parameters times bytes per parameter; GiB and GB are not the same.
# - Reading takes one pass for all tokens of a prompt, writing a pass for each token; which of them takes longer is a matter of the machine and of the two lengths.
# - A right answer in the wrong format and a wrong answer cost the same point, and call for different training.
# - A score sees what the reader made of a model's text. What the reader can't read counts as wrong.

# %% [markdown]
# ## Further reading
#
# - L. B. Allal et al., *SmolLM2: When Smol Goes Big*, 2025, [arXiv:2502.02737](https://arxiv.org/abs/2502.02737): the model and what it was trained on.
# - F. Zhu et al., *TAT-QA: A Question Answering Benchmark on a Hybrid of Tabular and Textual Content in Finance*, ACL 2021, [arXiv:2105.07624](https://arxiv.org/abs/2105.07624): the data set and its score.
# - R. Pope et al., *Efficiently Scaling Transformer Inference*, 2022, [arXiv:2211.05102](https://arxiv.org/abs/2211.05102): why writing is limited by memory.
# - The documentation of JupyterHub, [jupyterhub.readthedocs.io](https://jupyterhub.readthedocs.io): what a hub does for you, and what it stops.
