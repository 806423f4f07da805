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
# # 05 · Inference: which model answers better, and what holding it costs
#
# - **Goal:** say from single answers and from scores with intervals which of three models is best, and what it costs to hold and to run each form of it; serve the result to others.
# - **Minutes:** 90, of which 15 are waiting
# - **Hardware:** two CPU cores and 6 GiB of memory; a GPU is used when there is one
# - **You need to know:** lessons 00 and 02; what a t-test is

# %% [markdown]
# ## Three models, one question
#
# **What to take from this lesson: two scores whose intervals overlap can still be told apart, if both models answered the same questions.** Two figures of the same answers show both kinds of interval. The second half asks what an answer costs.
#
# Lesson 02 left three models: the untouched one, the one with LoRA adapters, and the one that was fine-tuned in full. The same configurations give the finished runs at once; only where they are missing does training start.

# %% tags=["parameters"]
from labkit.runs import profiles

profile = profiles.current()
quick = profile.name == "smoke"
lora_config = profiles.run_config("lora")
full_config = profiles.run_config("full")
eval_samples = profile.eval_samples
samples_to_guess = [3] if quick else [3, 40, 100]
prompt_tokens, new_tokens, repeats = (32, 4, 1) if quick else (512, 32, 3)
prompt_written = 16 if quick else 128

# %%
from labkit.models import registry
from labkit.train import train

lora = train(lora_config)
full = train(full_config)

# %% [markdown]
# Both learned from questions on reports. The samples below come from the test split, about reports that neither has seen.

# %%
from labkit.inference import generate

labels = {lora_config.model: "untouched", lora.name: "LoRA", full.name: "full"}
rows = generate.compare(list(labels), samples_to_guess, data=lora_config.data)

# %% [markdown]
# ## Predict: who wrote what?
#
# Here are the questions with the answers of the three models, in an order that says nothing. Which is the untouched model's? Which are right? Write your guesses down before you run the cell that tells.

# %%
import hashlib


def shuffled(row):
    """Return a sample's answers in an order that depends on their text alone."""
    return sorted(row["answers"], key=lambda a: hashlib.sha256(a["text"].encode()).hexdigest())


for row in rows:
    print(f"sample {row['sid']}: {row['question']}")
    for letter, answer in zip("ABC", shuffled(row), strict=True):
        print(f"   {letter}: {' '.join(answer['text'].split())[:90]}")

# %%
guesses = {3: None, 40: None, 100: None}  # the letter of the untouched model, for each sample

# %% [markdown]
# ## Measure: look
#
# Each sample with its table, its **gold answer**, which is the right one by the data set, and the score of every answer. A mark in colour shows where the models differ.

# %% tags=["result"]
for row in rows:
    for answer in row["answers"]:
        answer["model"] = labels.get(answer["model"], answer["model"])
rows

# %% [markdown]
# How often did you find the untouched model?

# %%
found = 0
for row in rows:
    letters = dict(zip("ABC", shuffled(row), strict=True))
    guess = letters.get(guesses.get(row["sid"]))
    found += guess is not None and guess["model"] == "untouched"
print(f"{found} of {len(rows)} found")

# %% [markdown]
# ## Explain: format, reading, calculating
#
# An answer fails in one of three ways, and they look different. In the wrong **format**, the number is right and stands in a sentence, or lacks its scale. With wrong **reading**, it is a number of the report, from another row or year. With wrong **calculating**, it is a number of nowhere. Fine-tuning repairs the first in a few steps; the others take more data or a larger model.
#
# A few samples are anecdotes. Two models of equal quality answer single questions differently, and you remember the one that was striking.
#
# ## Measure: two base models
#
# How much of the difference is fine-tuning, and how much is the base? Ask models that nobody has fine-tuned for the task: with the `gpu` profile Llama-2 and Llama-3, where the folder of models has them. Offline there is the course's model, asked as it is and after two worked examples from the training split, which show it the form of an answer; and the same model with its weights in 4 bits, which is another model as far as answers go.

# %%
from pathlib import Path

from labkit.errors import LabkitError
from labkit.inference import export
from labkit.runs import records


def on_this_machine(names):
    """Return those of the models whose weights are here."""
    found = []
    for name in names:
        try:
            registry.resolve(name, fetch=False)
            found.append(name)
        except LabkitError:
            pass
    return found


large = on_this_machine(["llama-2-7b", "llama-3-8b"]) if profile.name == "gpu" else []
shown = (0,) if len(large) > 1 else (0, 2)
ways = [(name, count) for name in large or [lora_config.model] for count in shown]
if not large and not quick:
    four_bits = records.runs_dir() / f"{Path(lora_config.model).name}-in-4-bits"
    if not four_bits.exists():
        export.quantize(lora_config.model, four_bits, to="nf4")
    ways.append((str(four_bits), 0))
for name, examples in ways:
    print(f"{name!r}, {examples} worked examples")

# %%
base_rows = [{**row, "answers": []} for row in rows]
for name, examples in ways:
    if (name, examples) == (lora_config.model, 0):  # asked above already
        answers = [row["answers"][0] for row in rows]
    else:
        asked_so = generate.compare(
            [name], samples_to_guess, data=lora_config.data, examples=examples
        )  # fmt: skip
        answers = [row["answers"][0] for row in asked_so]
    for row, answer in zip(base_rows, answers, strict=True):
        row["answers"].append({**answer, "model": f"{Path(name).name}, {examples} examples"})
type(rows)(base_rows)

# %% [markdown]
# Compare what each gets wrong: format, reading, calculating. Worked examples mend the first for nothing, and lengthen every prompt. They teach no reading.

# %% [markdown]
# ## Measure: the whole test split

# %%
from labkit.inference.evaluate import evaluate, score_table

scores = {
    "untouched": evaluate(lora_config.model, data=lora_config.data, max_samples=eval_samples),
    "LoRA": evaluate(lora.name, data=lora_config.data, max_samples=eval_samples),
    "full": evaluate(full.name, data=lora_config.data, max_samples=eval_samples),
}
score_table(scores)

# %% tags=["result"]
from labkit import plots

figure, alt = plots.score_bars(scores)
plots.show(figure, alt=alt)

# %% [markdown]
# Intervals of two models may overlap although one of them is clearly better: both intervals carry the difficulty of the questions, which is the same for both. Since every model answered the **same** questions, compare them question by question. What counts is the mean of the differences. Its interval goes by how far reports differ, not questions: a table that is misread is misread for all questions on it.
#
# Beside it stand the questions that only one of the two models got right. If neither were better, each would win half of those, as a coin would; **McNemar's test** gives the probability *p* of a split at least as uneven by chance. It takes every question for a toss of its own. Questions on one report are not that, and the test then calls equal models different too often. So the second *p* counts reports: it comes from the same t-test as the interval, which leaves out zero where this *p* is below 0.05. Where the two disagree, believe the second.

# %%
import json

from labkit.datasets import tatqa
from labkit.inference.compare import compare_predictions

asked = tatqa.samples(tatqa.load(lora_config.data, "test"))[:eval_samples]
predictions = {
    label: json.loads(Path(outcome.predictions).read_text()) for label, outcome in scores.items()
}
compared = compare_predictions(asked, predictions)

# %%
from labkit.runs import measurements

names = {"untouched": lora_config.model, "LoRA": lora.name, "full": full.name}
for pair in compared.pairs:
    found = pair.groups["all"]
    value, low, high = (100 * found.difference[k] for k in ("value", "low", "high"))
    verdict = "better" if low > 0 else "worse" if high < 0 else "not told apart"
    print(f"{pair.b} minus {pair.a}: {value:+.1f} points ({low:+.1f} to {high:+.1f}): {verdict}")
    by_report = "–" if found.p_clustered is None else f"{found.p_clustered:.3g}"
    print(f"   right only in {pair.a}: {found.only_a}, only in {pair.b}: {found.only_b}, "
          f"p = {found.p_mcnemar:.3g} by questions, {by_report} by reports")  # fmt: skip
    measurements.keep(
        "difference", {"value": value, "low": low, "high": high, "n": found.n},
        first=names[pair.a], second=names[pair.b], data=lora_config.data,
    )  # fmt: skip

# %%
import dataclasses

overall = [dataclasses.replace(p, groups={"all": p.groups["all"]}) for p in compared.pairs]
figure, alt = plots.paired_differences(overall)
plots.show(figure, alt=alt)

# %% [markdown]
# **Here is the point of the lesson.** In the first figure look whether the intervals of LoRA and full fine-tuning overlap, in this one whether their difference leaves out zero. Where they lie apart, both figures say the same, unless there are only a handful of reports; where they overlap, only this one can decide. With two reports, as in the smoke profile, the first figure counts single questions and this one can tell nothing apart. Both are made of the same answers. Both ask about *other* reports: the first how well one model would do, the second how much better one would do than the other on the same ones, and the difficulty of the questions, which both share, has gone out of it.

# %% [markdown]
# ## Explain: why exact match and F1 differ
#
# **Exact match** is 1 when the answer is the gold answer after normalisation, else 0. **F1** gives a part of the point for words in common: with precision $p$, the share of the answer's words that the gold answer has, and recall $r$, the share of the gold answer's words that are found,
#
# $$ F_1 = \frac{2pr}{p + r} $$
#
# So F1 is never below exact match.
#
# ## Exercise: F1
#
# *Medium, 10 minutes; useful.* Write it for two texts. A word is what stands between spaces, capital letters do not matter, and a word counts as often as it stands in both. (The score of TAT-QA, which the tables here show, counts each different word once.)
#
# <details><summary>Hint 1: one formula</summary>
#
# $2pr / (p + r)$ is twice the common words over the words of both texts together. That form needs no special case but one.
#
# </details>
# <details><summary>Hint 2: counts</summary>
#
# For each different word, the common ones are the smaller of its two counts. With nothing in common the answer is 0, also where a text is empty.
#
# </details>


# %%
def word_f1(answer: str, gold: str) -> float:
    """Return the F1 of the words of two texts."""
    ### BEGIN SOLUTION
    answer_words, gold_words = answer.lower().split(), gold.lower().split()
    in_both = 0
    for one_word in set(answer_words):
        in_both += min(answer_words.count(one_word), gold_words.count(one_word))
    if in_both == 0:
        return 0.0
    return 2 * in_both / (len(answer_words) + len(gold_words))
    ### END SOLUTION


# %%
from labkit.checkpoints import check

check.exercise("word_f1", word_f1)

# %% [markdown]
# The two part company where an answer has several words or several values. A number is one word: it is right or wrong, and F1 says nothing that exact match does not. Compare them by type of answer:

# %%
by_type = scores["LoRA"].by_type
for kind, row in by_type.items():
    em, f1 = row["em"]["value"], row["f1"]["value"]
    print(f"{kind:<12} n = {row['n']:>4}   exact match {em:6.1%}   F1 {f1:6.1%}   {f1 - em:+.1%}")

# %%
from labkit.datasets.score import score_answer

halves = []
for s in asked:
    values, scale = predictions["LoRA"][s.question.uid]
    em, f1 = score_answer(values, scale, s.question)
    if em == 0 and 0 < f1 < 1:
        halves.append((f1, s.question.answer, values if isinstance(values, list) else [values]))
print(f"{len(halves)} answers of the LoRA run are partly right")
for f1, wanted, wrote in halves[:3]:
    print(f"F1 {f1:.2f}  wanted {' | '.join(wanted)}")
    print(f"         wrote  {' | '.join(map(str, wrote))}")

# %% [markdown]
# ## Predict: the cache
#
# In attention each token compares a **query**, a vector of its own, with the **keys** of the tokens up to it, and takes in the more of a token's **value** the better its key fits. A layer does so several times side by side, in **heads**; several heads of queries may share one head of keys and values.
#
# While it writes, the model keeps a key and a value of every token it has read, in every layer, for every head of keys and values. How large is this **KV cache** for a conversation of the length below, and how many such conversations take as much memory as the weights? Write both down. You may choose another length.

# %%
conversation = 1000  # tokens

predicted_cache_bytes = None
predicted_conversations = None

# %% [markdown]
# ## Exercise: the size of the cache
#
# *Easy, 5 minutes; important.* Write the formula.
#
# <details><summary>Hint 1: one token</summary>
#
# Begin with one token in one layer: a key and a value for each head of keys and values.
#
# </details>
# <details><summary>Hint 2: everything multiplies</summary>
#
# Everything multiplies. With one of each and one byte a number, two bytes are kept.
#
# </details>


# %%
def kv_cache_bytes(layers, kv_heads, head_dim, tokens, batch, bytes_per_number):
    """Return the bytes of all keys and values of `batch` sequences of `tokens` tokens."""
    ### BEGIN SOLUTION
    return 2 * layers * kv_heads * head_dim * tokens * batch * bytes_per_number
    ### END SOLUTION


# %%
check.exercise("kv_cache_bytes", kv_cache_bytes)

# %% [markdown]
# ## Measure: the cache
#
# Let the model read sequences of several lengths and count the bytes of what it keeps.

# %%
from labkit.inference import cost
from labkit.machine import arithmetic

generator = generate.load_generator(lora_config.model)
config = generator.model.config
measured = {
    n: cost.measured_kv_cache_bytes(generator.model, tokens=n) for n in (16, 64, prompt_tokens)
}
for n, size in measured.items():
    formula = cost.kv_cache_bytes(config, tokens=n, bytes_per_number=generator.model.dtype.itemsize)
    print(f"{n:>5} tokens: {size / 2**20:7.2f} MiB measured, {formula / 2**20:7.2f} MiB by formula")

weights = cost.weights_bytes(generator.model)
per_token = cost.kv_cache_bytes(config, tokens=1, bytes_per_number=generator.model.dtype.itemsize)
print(f"{generator.model.dtype}: {per_token:,} bytes a token, {weights:,} bytes of weights")
print(f"{conversation:,} tokens: {per_token * conversation:,} bytes, "
      f"predicted: {predicted_cache_bytes}")  # fmt: skip
print(f"the weights are as large as {weights / (per_token * conversation):.1f} of them, "
      f"predicted: {predicted_conversations}")  # fmt: skip

# %% [markdown]
# Query heads that share their keys and values make the cache smaller. Without sharing, as many heads of keys and values would be kept as there are query heads:

# %% tags=["nbval-check-output"]
from labkit.models import load

for name in ("smollm2-135m-instruct", "llama-2-7b", "llama-3-8b"):
    other = load.config_of(name)
    heads, kv_heads = other.num_attention_heads, other.num_key_value_heads
    size = cost.kv_cache_bytes(other, tokens=4096)
    print(f"{name}: {heads} query heads, {kv_heads} of keys and values")
    print(f"   {size / 2**30:.2f} GiB for 4096 tokens, {heads // kv_heads} times that unshared")

# %% [markdown]
# ## Exercise: write, without a cache and with one
#
# *Medium, 10 minutes; very important.* **Greedy decoding** takes the most likely next token, again and again, until the end token comes or there are enough. `model(ids, cache)` reads token ids and returns the logits of the next token, as a list of numbers, and a cache. First leave the cache out: for every token, read everything from the beginning. The end token is not part of the answer.
#
# <details><summary>Hint 1: the largest</summary>
#
# The most likely token is the index of the largest logit: `max(range(len(logits)), key=logits.__getitem__)`.
#
# </details>
# <details><summary>Hint 2: what is read</summary>
#
# What the model reads is the prompt followed by what you have written so far. Make that list anew each time, so that the prompt stays as it is.
#
# </details>


# %%
def write(model, prompt, new_tokens, end):
    """Return up to `new_tokens` token ids that follow the prompt, without `end`."""
    ### BEGIN SOLUTION
    written_ids = []
    for _ in range(new_tokens):
        next_logits, _ = model(list(prompt) + written_ids)
        likeliest = max(range(len(next_logits)), key=next_logits.__getitem__)
        if likeliest == end:
            break
        written_ids.append(likeliest)
    return written_ids
    ### END SOLUTION


# %%
plain_written = check.exercise("write", write)
plain_written

# %% [markdown]
# *Hard, 20 minutes; very important.* Now with the cache: the keys and values of what was read are in what the model returned last, so nothing needs to be read twice. Write the same tokens. The check counts what the model reads.
#
# <details><summary>Hint 1: calls</summary>
#
# The first call reads the prompt with no cache. Each further call reads one token: the one you have just written.
#
# </details>
# <details><summary>Hint 2: two names</summary>
#
# Keep two names, what is to be read next and the cache, and renew both after every call. No call is needed after the last token.
#
# </details>


# %%
def write_with_cache(model, prompt, new_tokens, end):
    """Return what `write` does, and read nothing twice."""
    ### BEGIN SOLUTION
    answer_ids, to_read, past = [], list(prompt), None
    while len(answer_ids) < new_tokens:
        token_logits, past = model(to_read, past)
        chosen_token = max(range(len(token_logits)), key=token_logits.__getitem__)
        if chosen_token == end:
            break
        answer_ids.append(chosen_token)
        to_read = [chosen_token]
    return answer_ids
    ### END SOLUTION


# %%
cached_written = check.exercise("write_with_cache", write_with_cache)
cached_written

# %% [markdown]
# Let the real model write with both, after a short prompt and after a long one. On a CPU its arithmetic is in float32, where the order of a sum hardly ever decides between two tokens. Before you run the cell: which part of the time does the cache save, and after which of the two prompts is it more?

# %%
import time

import torch

exact = generator
if generator.model.dtype != torch.float32:
    exact = generate.load_generator(lora_config.model, exact=True)


def read(ids, cache=None):
    """Return the logits of the token after `ids`, and the keys and values of all that was read."""
    with torch.inference_mode():
        out = exact.model(
            input_ids=torch.tensor([ids]).to(exact.model.device), past_key_values=cache,
            use_cache=True, logits_to_keep=1,
        )  # fmt: skip
    return out.logits[0, -1].tolist(), out.past_key_values


end = exact.tokenizer.eos_token_id
prompt = exact.tokenizer("The revenue of the company grew, because")["input_ids"]
prompt = (prompt * prompt_written)[:prompt_written]

# %%
for length in (prompt_written // 4, prompt_written) if plain_written and cached_written else ():
    written = {}
    for label, function in {"without": write, "with": write_with_cache}.items():
        began = time.perf_counter()
        written[label] = function(read, prompt[:length], new_tokens // 2, end)
        seconds = time.perf_counter() - began
        print(f"prompt of {length} tokens, {label} a cache: "
              f"{len(written[label])} tokens in {seconds:.2f} s")  # fmt: skip
    print("the same tokens:", written["without"] == written["with"])

# %% [markdown]
# ## Measure: five ways to hold a fine-tuned model
#
# An adapter can stay **beside** its base, where each adapted layer computes two more thin products, or be **merged** into the weights, $W_0 + \frac{\alpha}{r} BA$, where nothing is left to compute. The merged weights can then be **quantised**: to 8 bits with a scale per row (bitsandbytes' layer of **LLM.int8()**), or to 4 bits in **nf4**, a table of 16 values that lie as densely as the numbers of a bell curve, with a scale for every 64 weights. The untouched model is the fifth, to compare with. All compute in the type that is fast on this machine; where that is float32, the merged model in bfloat16 is a sixth way, which takes half the memory and is too slow here to be scored. Which is the smallest, and which writes fastest?

# %%
predicted_smallest = None
predicted_fastest = None

# %%
costs = []
scored = [] if quick else asked[:120]
computes_in = cost.label_of(arithmetic.resolve("auto"))
for label, variant in cost.variants(lora_config.model, lora.name):
    imitated = label.endswith("bf16") and computes_in != "bf16"
    asking = [] if imitated else scored
    settings = {"prompt_tokens": prompt_tokens, "new_tokens": new_tokens}
    settings["repeats"] = 1 if imitated else repeats
    costs.append(cost.cost(label, variant, asking, **settings))
    cost.keep(costs[-1], model=lora_config.model, adapter=lora.name)
    print(label, "is measured")
cost.cost_table(costs)

# %%
figure, alt = plots.bars(
    {c.label: c.weights_bytes / 2**20 for c in sorted(costs, key=lambda c: -c.weights_bytes)},
    number="{:.0f}",
    label="weights (MiB)",
    title="What each form takes",
)
plots.show(figure, alt=alt)

# %%
figure, alt = plots.bars(
    {c.label: c.writing_per_second for c in sorted(costs, key=lambda c: -c.writing_per_second)},
    number="{:.1f}",
    label="tokens written per second, one sequence",
    title="How fast each form writes",
)
plots.show(figure, alt=alt)
print("predicted:", predicted_smallest, "and", predicted_fastest)

# %% [markdown]
# ## Explain: is smaller faster?
#
# **Merged or beside.** The answers should be the same up to rounding: the sum is rounded to 16 bits when it is stored, so a small update can lose digits. What merging saves is the time of the thin products, which are small in arithmetic and many in number. How many answers stay the same, letter by letter, depends less on the weights than on the arithmetic, as the next section shows.
#
# **Sizes.** Only the linear layers are quantised. The embedding, which a small model with a large vocabulary spends much of its weights on, is not, so the model shrinks by less than the ratio of the bits. It is held in the type that the form computes in: where that is float32, the 8-bit and nf4 forms hold it in twice the bytes that `merged, bf16` does.
#
# **Scores.** They are those of some of the questions, each form in its own arithmetic: where the label says `bf16`, that is not the float32 in which `evaluate` scores on a CPU. So a few points of difference are noise. And the embedded model came in 4 bits, by another table than nf4 (lesson 00): what rounding costs a model that was never rounded is not to be seen here.
#
# **Speed.** A multiplication in 8 or 4 bits is fast where the processor and the library have one for it. Elsewhere each weight is widened before every use, and that can cost more than the fewer bytes save. On a GPU with one sequence at a time and a large model, reading the weights is what takes the time, so a **kernel**, here a program that the GPU runs (not the process of a notebook), that reads 4-bit weights and widens them on the way gains from fewer bytes. The 8-bit layer does not: it looks for **outliers**, numbers far larger than the others, in every input, multiplies them apart in 16 bits, and starts several kernels for each layer, which takes longer with one sequence at a time than the fewer bytes save (the authors of LLM.int8() report inference slower than in 16 bits for small models). In a small model the time goes into starting the many small operations of a pass (lesson 00), and fewer bytes save little: compare your rate with the bound of lesson 00 to see which of the two yours is.

# %%
by_label = {c.label: c for c in costs}
reference = by_label[f"merged, {computes_in}"]
for c in costs:
    size = c.weights_bytes / reference.weights_bytes
    speed = c.writing_per_second / reference.writing_per_second
    print(f"{c.label:<28} {size:5.2f} of the size, {speed:5.2f} of the speed of the merged model")

# %% [markdown]
# ## Explain: which answers stay the same
#
# A model answers in batches or one question at a time, with its adapter merged or beside the base, today or after it was loaded again. None of this should change an answer. A record of the course counts, on a LoRA run like yours, how many answers are the same, letter by letter, as those of the adapter beside its base, asked in batches:

# %%
record = json.loads((tatqa.data_dir() / "results" / "answering.json").read_text())
for row in record["identical"]:
    print(f"{row['arithmetic']:<38} {row['pair']:<11} {row['same']:>4} of {row['n']}")

# %% [markdown]
# A bfloat16 number has 8 bits of precision. Where two next tokens are almost equally likely, the order of a sum decides between them, and that order changes with the batch. Multiplying the same 16-bit weights in float32 settles all of them in this record; that is how `evaluate` computes scores on a CPU.

# %% [markdown]
# ## The large models
#
# With the `gpu` profile and a folder of models in `LABKIT_MODELS`, the test split is also scored for every base model that has fine-tuned ones beside it: `NAME`, `NAME-Lora` and `NAME-FFT`, such as Llama-2-7B-chat and Llama-3-8B-Instruct. `labkit infer FOLDER FOLDER --all` compares two of them question by question. The questions below are about your own runs. On a small machine this cell only says so.

# %%
import os

families = cost.families(os.environ.get("LABKIT_MODELS")) if profile.name == "gpu" else {}
family_scores = {}
for base, folders in families.items():
    family_scores[base] = {
        label: evaluate(str(folder), data=lora_config.data, max_samples=eval_samples)
        for label, folder in folders.items()
    }
    print(base, "scored:", ", ".join(folders))
if not families:
    print("no large models here")

# %%
import pandas

family_table = {
    f"{base}, {label}": outcome
    for base, outcomes in family_scores.items()
    for label, outcome in outcomes.items()
}
score_table(family_table) if family_table else pandas.DataFrame()

# %% [markdown]
# ## Checkpoint
#
# **05.1** (with 05.2 question 5 of the assignment) What do the three models answer to a sample of your choice, and which is best? Take any sample of the table above, or another by `labkit infer`.

# %%
check(
    "05.1",
    sid=None,
    lora_run=None,
    full_run=None,
    untouched_em=None,
    untouched_f1=None,
    lora_em=None,
    lora_f1=None,
    full_em=None,
    full_f1=None,
    best=None,
    explanation=None,
)

# %% [markdown]
# **05.2** (question 5 of the assignment) Over all questions, which is better, LoRA or full fine-tuning, and is the difference real?

# %%
check(
    "05.2",
    lora_run=None,
    full_run=None,
    lora_em_percent=None,
    full_em_percent=None,
    difference_low=None,
    difference_high=None,
    verdict=None,
    explanation=None,
)

# %% [markdown]
# **05.3** How large is the KV cache for a conversation, beside the weights, both in bfloat16? The cell under "Measure: the cache" printed both sizes; where it printed `torch.float32`, take half of each.

# %%
check(
    "05.3",
    model=None,
    tokens=None,
    kv_cache_bytes=None,
    weights_bytes=None,
    conversations=None,
    explanation=None,
)

# %% [markdown]
# **05.4** What do 8-bit and nf4 weights save here, and what do they cost?

# %%
check(
    "05.4",
    bf16_bytes=None,
    int8_bytes=None,
    nf4_bytes=None,
    bf16_tokens_per_second=None,
    int8_tokens_per_second=None,
    nf4_tokens_per_second=None,
    fastest=None,
    explanation=None,
)

# %% [markdown]
# **05.5** (question 4 of the assignment) How do two base models answer a sample of your choice? Their names are in `ways`.

# %%
check(
    "05.5",
    sid=None,
    first_model=None,
    first_examples=None,
    first_em=None,
    first_f1=None,
    second_model=None,
    second_examples=None,
    second_em=None,
    second_f1=None,
    best=None,
    explanation=None,
)

# %% [markdown]
# ## Optional: serve it, and talk to it
#
# In a terminal, with the names of your runs from `labkit runs list`:
#
# ```sh
# labkit serve smollm2-135m-instruct NAME_OF_YOUR_LORA_RUN --port 8123
# ```
#
# This is a server with OpenAI's API, on this machine only. It loads the named models and no others, answers waiting requests in one batch, and refuses what is too large. Any client speaks to it:
#
# ```python
# from openai import OpenAI
#
# client = OpenAI(base_url="http://127.0.0.1:8123/v1", api_key="none")
# answer = client.chat.completions.create(
#     model="smollm2-135m-instruct",
#     messages=[{"role": "user", "content": "What is a balance sheet?"}],
# )
# print(answer.choices[0].message.content)
# ```
#
# For a conversation in the browser, with both models side by side and, at the switch, answers read aloud:
#
# ```sh
# labkit chat smollm2-135m-instruct NAME_OF_YOUR_LORA_RUN
# ```
#
# On a hub the page lies at `/user/YOUR_NAME/proxy/7860/`. Ask both models something that has nothing to do with reports. What has the fine-tuned one forgotten? To serve on a rented GPU, `labkit/serve/modal_app.py` is a short example.

# %% [markdown]
# ## What to remember
#
# - Look at samples first, then at scores, and believe the scores. Compare models question by question, with an interval of the difference.
# - Exact match is strict and easy to explain; F1 credits parts. They differ on words and lists, not on single numbers.
# - The KV cache grows with tokens, sequences, layers and heads of keys and values; the weights are paid once.
# - Merging makes an adapter free to use. Quantising makes weights smaller; whether it makes them faster depends on the machine, so measure it.

# %% [markdown]
# ## Further reading
#
# - F. Zhu et al., *TAT-QA*, ACL 2021, [arXiv:2105.07624](https://arxiv.org/abs/2105.07624): the data set and both scores.
# - Q. McNemar, *Note on the sampling error of the difference between correlated proportions or percentages*, Psychometrika 12, 1947.
# - J. Ainslie et al., *GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints*, 2023, [arXiv:2305.13245](https://arxiv.org/abs/2305.13245): query heads that share keys and values.
# - T. Dettmers et al., *LLM.int8()*, 2022, [arXiv:2208.07339](https://arxiv.org/abs/2208.07339), and *QLoRA*, 2023, [arXiv:2305.14314](https://arxiv.org/abs/2305.14314): 8 bits and nf4.
# - G. Yu et al., *Orca: A Distributed Serving System for Transformer-Based Generative Models*, OSDI 2022: batches whose places are filled again at once.
