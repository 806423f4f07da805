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
# # 07 · Preferences: of two answers, this one
#
# - **Goal:** tune a model on pairs of its own answers, say what that changed and what it did not, and get the reference model for nothing.
# - **Minutes:** 85, of which 20 are waiting
# - **Hardware:** two CPU cores and 6 GiB of memory; a GPU is used when there is one
# - **You need to know:** lesson 02

# %% [markdown]
# ## What fine-tuning does not say
#
# **What to take from this lesson: fine-tuning says what to write; preference tuning also says what not to write, and it knows how far it has gone from where it started.**
#
# Supervised fine-tuning raises the probability of right answers. It never sees a wrong one. A model that is right half of the time has a lot to tell you about being wrong: ask it several times, mark the answers, and you have pairs of a right answer and a wrong one, both its own.
#
# Reinforcement learning from human feedback (RLHF) trains a reward model on such pairs, and then the model on the reward. **Direct preference optimisation** (DPO) needs no reward model. It takes for the reward of an answer $y$ to a prompt $x$ by how much the model that is trained, the **policy** $\pi$, finds it likelier than the model it started from, the **reference** $\pi_{\mathrm{ref}}$:
#
# $$ r(x, y) = \beta \, (\log \pi(y \mid x) - \log \pi_{\mathrm{ref}}(y \mid x)) $$
#
# and trains it to give the chosen answer $c$ the higher one of the two:
#
# $$ \mathrm{loss} = -\log \sigma(r(x, c) - r(x, w)) $$
#
# with $w$ for the rejected answer and $\sigma(z) = 1 / (1 + e^{-z})$. The difference of the two rewards is the **margin**; $\beta$ says what it costs to leave the reference.

# %% tags=["parameters"]
from labkit.runs import profiles

quick = profiles.current().name == "smoke"
data = "tables"
small = {"model": "tiny-llama"} if quick else {}
start_steps, tune_steps = (2, 3) if quick else (60, 40)
asked = {"train": (600, 612), "dev": (0, 6)} if quick else {"train": (600, 840), "dev": (0, 90)}
answers_each = 2 if quick else 4
questions = 8 if quick else 240
betas = (0.1, 0.02)
large_model, card = "llama-3-8b", "a100-40gb"

# %% [markdown]
# ## Predict: four numbers and a word
#
# Write them down before anything runs. What is the loss of the first step? In training, does the chosen answer become likelier or less likely? What share of pairs that it was not trained on will the model tell apart? By how many points will exact match change? And how many MiB does a copy of the model take, as reference?

# %%
predicted_first_loss = None
predicted_chosen = None  # "likelier" or "less likely"
predicted_accuracy = None
predicted_points = None
predicted_copy_mib = None

# %% [markdown]
# ## Measure: a model that knows half of it
#
# Preferences need a model that is right sometimes. The course's model gets a short fine-tune on questions about tables; then its adapter is **merged** into the weights. That makes the fine-tuned model the base, and a new adapter on it can be switched off to have it back. This is the model that all of the lesson starts from.

# %%
from labkit.inference import export
from labkit.runs import records
from labkit.train import train

short = {"max_steps": start_steps, "per_device_train_batch_size": 1, "eval_steps": 0}
start = train(profiles.run_config(
    "lora", **short, data=data, max_train_samples=600, torch_compile="off", **small,
))  # fmt: skip
merged = records.runs_dir() / f"merged-{start.id}"
if not merged.is_dir():
    export.merge(start.name, merged)

# %% [markdown]
# Now it is asked questions that it was not trained on, several times each. An answer is drawn token by token, each with the probability that the model gives it, so answers differ. The official score marks them. Where one was right and one was wrong, that is a pair. Where all were right, or none, there is nothing to prefer.
#
# The labels are true: a right answer is right, whoever likes it. That is what makes the effect measurable here. Preferences of people are opinions, and their effect is another opinion.

# %%
from labkit.inference import preferences, preferences_shown

pairs = preferences.make(
    str(merged), data=data, questions=asked, answers=answers_each, max_new_tokens=40, gold=quick,
)  # fmt: skip
preferences_shown.counts(pairs)

# %% [markdown]
# Two of the pairs, with the beginnings of their answers. Both answers follow the same prompt, and only their tokens count.

# %%
from labkit.datasets import registry

for example in registry.examples(pairs.data, "train")[:2]:
    print(example.messages[-2]["content"].splitlines()[-1])
    print("   chosen   ", " ".join(example.chosen.split())[:70])
    print("   rejected ", " ".join(example.rejected.split())[:70])

# %% [markdown]
# ## Exercise: a pair
#
# *Easy, 5 minutes; useful.* You have the texts that were drawn for one question, and for each whether it is right. Which two make the pair? Take of each kind the most frequent, since it is what the model says most, and of equally frequent ones the first.
#
# <details><summary>Hint 1: counting</summary>
#
# `collections.Counter` counts, and remembers the order in which it saw things first.
#
# </details>
# <details><summary>Hint 2: two counters</summary>
#
# One counter for right texts, another for wrong ones; `most_common(1)` of each. If one of them is empty there is no pair.
#
# </details>

# %%
from collections import Counter


def pair_of(texts, right):
    """Return (chosen, rejected), or None where all texts are right or none is."""
    ### BEGIN SOLUTION
    good, bad = Counter(), Counter()
    for one_text, is_right in zip(texts, right, strict=True):
        (good if is_right else bad)[one_text] += 1
    if not good or not bad:
        return None
    return good.most_common(1)[0][0], bad.most_common(1)[0][0]
    ### END SOLUTION


# %%
from labkit.checkpoints import check

check.exercise("pair_of", pair_of)

# %% [markdown]
# ## Exercise: how likely is an answer?
#
# *Medium, 10 minutes; very important.* Everything in DPO is made of $\log \pi(y \mid x)$: the sum, over the tokens of the answer, of the log-probability of each after all that stands before it. Write it for one sequence, from the model's logits.
#
# <details><summary>Hint 1: one place earlier</summary>
#
# The logits at a position are about the *next* token. Which position speaks of the answer's first token?
#
# </details>
# <details><summary>Hint 2: picking a token's entry</summary>
#
# `log_softmax` over the vocabulary, without the last position; then for each position the entry of the token that follows, with `gather`. The answer's part begins at `prompt_length - 1`.
#
# </details>

# %%
import torch


def answer_logp(logits, ids, prompt_length):
    """Return log p(answer | prompt): logits are (tokens, vocabulary), ids (tokens,)."""
    ### BEGIN SOLUTION
    log_probabilities = logits[:-1].log_softmax(dim=-1)
    of_next = log_probabilities.gather(1, ids[1:, None]).squeeze(1)
    return of_next[prompt_length - 1 :].sum()
    ### END SOLUTION


# %%
check.exercise("answer_logp", answer_logp)

# %% [markdown]
# ## Exercise: the loss, in five lines
#
# *Medium, 10 minutes; very important.* You have the log-probabilities of both answers, of the policy and of the reference, for a batch of pairs. Write the loss. The check ends with what TRL's own trainer computes.
#
# <details><summary>Hint 1: rewards first</summary>
#
# Two rewards, each a difference; then the difference of those; then $-\log\sigma$ of it, and the mean over pairs.
#
# </details>
# <details><summary>Hint 2: the logarithm</summary>
#
# `torch.nn.functional.logsigmoid` is finite where the logarithm of `torch.sigmoid` is not.
#
# </details>


# %%
def dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta):
    """Return DPO's loss of a batch of pairs; all four are log-probabilities, (pairs,)."""
    ### BEGIN SOLUTION
    chosen_reward = beta * (chosen - ref_chosen)
    rejected_reward = beta * (rejected - ref_rejected)
    reward_margin = chosen_reward - rejected_reward
    return -torch.nn.functional.logsigmoid(reward_margin).mean()
    ### END SOLUTION


# %%
check.exercise("dpo_loss", dpo_loss)

# %% [markdown]
# ## Measure: preference tuning
#
# The adapter starts as nothing: LoRA's matrix $B$ is zero. So at the first step the policy *is* the reference, whatever the pairs.

# %%
settings = {
    "model": str(merged), "data": pairs.data, "max_steps": tune_steps, "eval_steps": tune_steps,
    "max_eval_samples": 4 if quick else 40,
}  # fmt: skip
faster = {**settings, "learning_rate": 2e-4}  # few steps: twice that of dpo.yaml
tuned = train(profiles.run_config("dpo", **faster, beta=betas[0]))

# %%
from math import exp, log, log1p

print(f"first loss {tuned.losses[0]:.6f}, ln 2 is {log(2):.6f}")
print(f"you predicted {predicted_first_loss}")

# %% [markdown]
# Both rewards are differences of a number with itself, so they are 0, the margin is 0, and $-\log \sigma(0) = \ln 2$. A first loss that is something else is a mistake that you see before it costs you anything: a reference that is not the model you start from. An adapter whose start is not zero does that, as a prefix that is drawn at random, and so would dropout in the policy alone, which is why it is off here.

# %% tags=["nbval-check-output"]
for size in (-40, -10, 0, 10, 40):
    loss = log1p(exp(-0.1 * size))
    print(f"{size:>4} nats before beta, at beta 0.1 a margin of {0.1 * size:+.0f}: loss {loss:.4f}")

# %% tags=["result"]
from labkit import plots

figure, alt = preferences_shown.rewards(tuned)
plots.show(figure, alt=alt)

# %%
print(f"you predicted that the chosen answer becomes {predicted_chosen}, "
      f"and {predicted_accuracy} of the development pairs")  # fmt: skip
preferences_shown.tuned({"DPO": tuned})

# %% [markdown]
# **Development pairs** are the share of pairs, from questions that were not trained on, whose chosen answer has the higher reward. Before training every reward is 0 and no pair is told apart, so the record's first step says 0 %; a model that moves at random tells about half of them apart. At most the first 40 are looked at (4 in the smoke profile); the table above says whether there are fewer. One pair is worth about 100 points over their number.
#
# ## Explain: where a margin comes from
#
# A margin grows in two ways, and the loss does not care which: the chosen answer gains, or the rejected one loses. To lose is easier. The rejected answer becomes less likely as soon as *anything* else becomes likelier; the chosen one becomes likelier only if the probability goes to it. Look at the two curves: which of them makes the margin? Often both fall, the rejected one faster. Then the probability went to answers that are in no pair, and nothing in the loss says what those are.
#
# So a falling loss and a growing margin are no proof of better answers. Only answers are.
#
# ## Exercise: who is pulled at?
#
# *Medium, 7 minutes; important.* The derivative of the loss by $\log \pi(c \mid x)$ says how hard a pair pulls. Work it out, and write it as a function of the margin in nats, before $\beta$: $m = \log\frac{\pi(c)}{\pi_{\mathrm{ref}}(c)} - \log\frac{\pi(w)}{\pi_{\mathrm{ref}}(w)}$. Return the pull, which is positive.
#
# <details><summary>Hint 1: the chain rule</summary>
#
# The derivative of $\log \sigma(z)$ is $\sigma(-z)$; and $z = \beta m$.
#
# </details>
# <details><summary>Hint 2: two signs</summary>
#
# `math.exp` of a large number is an error. Which of $e^{z}$ and $e^{-z}$ is small depends on the sign of $z$.
#
# </details>


# %%
import math


def pull(margin, beta):
    """Return minus the derivative of a pair's loss by log p of its chosen answer."""
    ### BEGIN SOLUTION
    exponent = beta * margin
    if exponent > 0:
        return beta * math.exp(-exponent) / (1 + math.exp(-exponent))
    return beta / (1 + math.exp(exponent))
    ### END SOLUTION


# %%
check.exercise("pull", pull)

# %% [markdown]
# Pairs that are told apart well stop pulling. What is left to pull are pairs that the model holds the wrong way round, some of which are mislabelled. Here none is; with people's preferences many are, and those end up with most of the gradient.
#
# ## Measure: fine-tuning on the chosen answers alone
#
# What do the rejected answers add? The same pairs, the same steps, without them: supervised fine-tuning on what was chosen. One more setting differs. It keeps the learning rate of `lora.yaml`, and DPO had that of `faster`: each is near its usual rate, so two runs are compared, and not two losses alone.

# %%
learning = {"task": "sft", "share_prompts": False, "torch_compile": "off"}
alone = train(profiles.run_config("lora", **{**settings, **learning}))

# %%
from labkit.inference.compare import compare_scores

labels = {str(merged): "start", alone.name: "chosen alone", tuned.name: "DPO"}
compared = compare_scores(list(labels), data=data, max_samples=questions)

# %%
import dataclasses

from labkit.inference.evaluate import score_table

score_table({labels[name]: outcome for name, outcome in compared.scores.items()})

# %% [markdown]
# Each model answered the same questions, so compare by question. For each two models the first row is all questions, and those below it say what kind got better and what got worse. In a row "DPO − start" the first is start, which is subtracted.

# %%
named = [dataclasses.replace(p, a=labels[p.a], b=labels[p.b]) for p in compared.pairs]
preferences_shown.differences(named)

# %%
from labkit.runs import measurements

run_of = {str(merged): start.name, alone.name: alone.name, tuned.name: tuned.name}
for pair in compared.pairs:
    points = {key: 100 * value for key, value in pair.groups["all"].difference.items()}
    first, second = run_of[pair.a], run_of[pair.b]
    measurements.keep("difference", {**points, "n": compared.n}, first=first, second=second,
                      data=data)  # fmt: skip
    print(f"{second} minus {first}: {points['value']:+.1f} points "
          f"({points['low']:+.1f} to {points['high']:+.1f})")  # fmt: skip
print(f"you predicted {predicted_points}")

# %% [markdown]
# An interval that holds zero does not say that nothing happened: look at how many questions changed sides. With a few dozen pairs and a few dozen steps a small effect is what you should expect, and a model that was taught to prefer its own right answers cannot learn what it never got right.
#
# ## Measure: beta
#
# The same run with a lower $\beta$, which makes it cheap to leave the reference; a higher one holds the model there. Learning rate and data stay. Put 0.5 into `betas` for a third run, if you have minutes to spare. Or double the learning rate in `faster`: what becomes of the development pairs, and what of exact match?

# %%
by_beta = {f"beta {betas[0]}": tuned}
for beta in betas[1:]:
    by_beta[f"beta {beta}"] = train(profiles.run_config("dpo", **faster, beta=beta))
preferences_shown.tuned(by_beta)

# %% [markdown]
# Rewards are in units of $\beta$ and cannot be compared across rows; nats can. The **odds** of the chosen answer against the rejected one are the ratio of their probabilities. A margin over $\beta$ is in nats, and $e^{\mathrm{margin}/\beta}$ is the factor by which those odds have grown. How far did each go, and what became of the *form* of answers: how long are they, and how many are still one line and, where it begins with "=", can be calculated?

# %%
import pandas

looked_at = {"start": str(merged), **{label: run.name for label, run in by_beta.items()}}
forms = {}
for label, name in looked_at.items():
    form = preferences.form_of(name, data=data, split="dev", max_samples=6 if quick else 60)
    forms[label] = {"words": f"{form['words']:.2f}", "in form": f"{form['well_formed']:.0%}"}
    if name != str(merged):
        measurements.keep("answers_of", form, run=name, data=data)
        print(f"{label}: {name}, {form['words']:.2f} words")
pandas.DataFrame(forms).T

# %% [markdown]
# **Reward hacking** is what this looks like when it goes wrong. The loss asks for a margin, and there are cheap ways to one: if rejected answers tend to be longer, shorter is better, whatever it says; if they share a token, avoid the token. Far from the reference nothing else holds the answers together. The reward goes on rising while they become worse, and a figure of rewards shows nothing of it. What shows it is length, form, and a score on questions that have nothing to do with the pairs.
#
# ## Measure: what the reference costs
#
# DPO reads each pair twice, with the policy and with the reference. Where does the reference come from?
#
# | reference | memory | time |
# |---|---|---|
# | **adapter off**: the same weights, the adapter switched off | none | one more forward pass |
# | **copy**: a second model | its weights once more | one more forward pass |
# | **precomputed**: all log-probabilities, once before the first step | none | nothing in a step |
#
# Three short runs that differ in that alone. Beside the tiny model of the smoke profile what a step works with is larger than the weights, and hides the difference:

# %%
measure = {**settings, "eval_steps": 0, "max_steps": 4, "keep_weights": False}
by_reference = {
    kind: train(profiles.run_config("dpo", **measure, reference=kind))
    for kind in ("adapter_off", "copy", "precomputed")
}

# %%
mib = 2**20
peaks = {kind: run.summary["peak_bytes"]["allocated"] for kind, run in by_reference.items()}
for kind, run in by_reference.items():
    more = (peaks[kind] - peaks["adapter_off"]) / mib
    print(f"{kind:<12}{peaks[kind] / mib:9.1f} MiB  {more:+8.1f}  "
          f"{run.summary['step_seconds_median']:.2f} s a step   {run.name}")  # fmt: skip
of_model = tuned.summary["total_parameters"] - tuned.summary["trainable_parameters"]
width = 2 if tuned.summary["arithmetic"] == "bfloat16" else 4
print(f"the weights are {of_model * width / mib:.1f} MiB; you predicted {predicted_copy_mib}")

# %% [markdown]
# The copy costs the weights, and nothing else: it keeps nothing for a backward pass. At eight billion parameters that decides which card you need. The next cell traces a step there without allocating it.

# %%
from labkit.memory import estimates

rows = {}
for kind in peaks:
    found = estimates.estimate(large_model, device=card, method="lora", batch_size=2,
                               seq_len=512, reference=kind)  # fmt: skip
    rows[kind] = {
        "traced peak": f"{found.peak_bytes['traced'] / 1e9:.1f} GB", "fits": found.fits,
        "seconds a step": f"{found.step_seconds[0]:.2f} to {found.step_seconds[1]:.2f}",
    }  # fmt: skip
pandas.DataFrame(rows).T

# %% [markdown]
# The notes from which this course grew repeat a claim of TRL's authors: a model of **20 billion** parameters, tuned with RLHF on a card with 24 GB. They merged a first adapter, stored the base in 8 bits, took it for the reference with the second adapter switched off, tried that on such a card, and ran the whole training on an A100. Arithmetic first: how many GB is a byte for each of 20 billion parameters, and how much does that leave? Then the trace of a DPO step, which has no reward model and writes no answers, of a model as wide as Llama 2 13B and deep enough, in 8 bits and in nf4, a format of 4 bits (the smoke profile traces the first row only):

# %%
twenty = {"config_overrides": {"num_hidden_layers": 62}, "gradient_checkpointing": True}
rows = {}
for base, length in (("8bit", 512), ("8bit", 64), ("nf4", 512))[: 1 if quick else None]:
    found = estimates.estimate("llama-2-13b", device="rtx-3090", method="lora", base=base,
                               batch_size=1, seq_len=length, reference="adapter_off",
                               **twenty)  # fmt: skip
    rows[f"{base}, {length} tokens"] = {
        "parameters": f"{found.total_parameters / 1e9:.1f} billion",
        "traced peak": f"{found.peak_bytes['traced'] / 1e9:.1f} GB",
        "of the card's": f"{found.device_bytes / 1e9:.1f} GB", "fits": found.fits,
        "a second base": f"{found.at_peak['weights'] / 1e9:.1f} GB more",
    }  # fmt: skip
pandas.DataFrame(rows).T

# %% [markdown]
# Whether even this step fits in 8 bits hangs on what the claim does not say, the length of an answer with its prompt; in 4 bits there is room. A copied reference would add the last column: in 8 bits that is out of reach at any length, and in 4 bits it fills nearly all of the card. The trick is not quantisation alone: it is that **the reference is already there**.

# %% [markdown]
# ## Checkpoint
#
# **07.1** Which of the two answers moved?

# %%
check(
    "07.1",
    run=None,
    first_loss=None,
    margin=None,
    odds_factor=None,
    moved_further=None,
    explanation=None,
)

# %% [markdown]
# **07.2** Is preference tuning better than fine-tuning on the chosen answers alone, as far as your questions can say?

# %%
check(
    "07.2",
    first_run=None,
    second_run=None,
    difference=None,
    difference_low=None,
    difference_high=None,
    verdict=None,
    explanation=None,
)

# %% [markdown]
# **07.3** What does the reference cost?

# %%
check(
    "07.3",
    off_run=None,
    copy_run=None,
    copy_mib=None,
    share_of_weights=None,
    large_parameters=None,
    large_bits=None,
    large_copy_gb=None,
    explanation=None,
)

# %% [markdown]
# **07.4** What does beta hold back?

# %%
check(
    "07.4",
    low_run=None,
    high_run=None,
    low_nats=None,
    high_nats=None,
    low_words=None,
    high_words=None,
    went_further=None,
    explanation=None,
)

# %% [markdown]
# ## What to remember
#
# - The first loss is $\ln 2$. If it is not, the reference is not the model you start from.
# - A margin grows by what is rejected as well as by what is chosen. Watch the two apart.
# - Rewards, margins and preference accuracy are about pairs; only answers, scored and compared by question, are about answers.
# - $\beta$ is the price of leaving the reference. Where it is low, watch length and form.
# - With an adapter the reference is free: switch it off. A copy costs the weights; log-probabilities that were computed before cost neither memory nor time in a step.

# %% [markdown]
# ## Further reading
#
# - R. Rafailov et al., *Direct Preference Optimization: Your Language Model is Secretly a Reward Model*, 2023, [arXiv:2305.18290](https://arxiv.org/abs/2305.18290).
# - R. Y. Pang et al., *Iterative Reasoning Preference Optimization*, 2024, [arXiv:2404.19733](https://arxiv.org/abs/2404.19733): pairs of a model's own answers, labelled by whether they are right.
# - M. G. Azar et al., *A General Theoretical Paradigm to Understand Learning from Human Preferences*, 2023, [arXiv:2310.12036](https://arxiv.org/abs/2310.12036): what happens where preferences are certain, and IPO.
# - E. Beeching et al., *Fine-tuning 20B LLMs with RLHF on a 24GB consumer GPU*, 2023, [huggingface.co/blog/trl-peft](https://huggingface.co/blog/trl-peft).
# - L. Gao et al., *Scaling Laws for Reward Model Overoptimization*, 2022, [arXiv:2210.10760](https://arxiv.org/abs/2210.10760).
# - L. Ouyang et al., *Training language models to follow instructions with human feedback*, 2022, [arXiv:2203.02155](https://arxiv.org/abs/2203.02155).
