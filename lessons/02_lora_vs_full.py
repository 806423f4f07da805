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
# - **Goal:** write a fine-tune yourself, down to the labels and the loop; then train the same model through small adapters and in full, and say from your own records what each costs in time and memory and what it learns; know what every setting of a run does.
# - **Minutes:** 130, of which 40 are waiting; about twice the wait on a processor without 16-bit units, as `labkit doctor` says
# - **Hardware:** two CPU cores and 9 GiB of memory; a GPU is used when there is one
# - **You need to know:** lesson 00; tensors and `nn.Module` in PyTorch; what a gradient and an optimizer are

# %% [markdown]
# ## Two ways to change a model
#
# **Full fine-tuning** changes every weight. For each one the process holds the weight, its gradient, and the two running means that AdamW keeps of the gradient and of its square.
#
# **LoRA** leaves the pretrained weight $W_0$ as it is and learns a product of two thin matrices beside it:
#
# $$ y = W_0 x + \frac{\alpha}{r} B A x $$
#
# $A$ has $r$ rows and starts random, $B$ has $r$ columns and starts at zero. So the first step sees exactly the pretrained model, and only $A$ and $B$ have gradients and optimizer state. The pair is called an **adapter**, $r$ its **rank**; $\alpha$ is a constant that says how much the update counts.
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
# ## The task, token by token
#
# Before anything is trained, look at what it is trained on. The model reads a report and a question, and writes either a value or a formula such as `= 44.1 - 56.7 # million`, which a calculator works out: lesson 00 shows whole prompts and targets. Here is the first training sample as tokens. The first column is the token's number, its **id**. In the second stands the **label**: the same id where the model is trained to write this token, and – where it is not.

# %%
from labkit.train import samples_shown

shown = samples_shown.show(lora_config, count=1)
lines = samples_shown.render(shown).splitlines()
print("\n".join([*lines[:10], f"    … {len(lines) - 40} tokens of the prompt …", *lines[-30:]]))

# %% [markdown]
# The whole prompt has no labels, the answer has, and so has the end token: a model that is not taught to stop writes on. `labkit data show lora` prints this, for any configuration in place of `lora`, and warns of mistakes that raise no error: labels nowhere or everywhere, an end token without one, a question that stands in the test split too. An answer inside the prompt you have to see for yourself.

# %% [markdown]
# ## Predict: how many numbers are trained?
#
# An adapter of rank $r$ on a layer with $n$ inputs and $m$ outputs has $r(n + m)$ numbers, where the layer itself has $nm$. A model is a stack of equal **blocks**, each with an attention and an MLP. These are the linear layers of one:

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
del model, layers, layer  # what stays would count towards later peaks

# %% [markdown]
# Write your predictions down before you train anything. How many parameters does a LoRA run with the rank below train? How much longer does a step of full fine-tuning take than a step of LoRA, and how much more memory does it need at its peak?

# %%
print("rank", lora_config.r)

predicted_lora_parameters = None
predicted_time_ratio = None
predicted_memory_ratio = None

# %% [markdown]
# ## Exercise: fine-tune by hand
#
# A fine-tune is four things: labels, an adapted layer, the layer put into the model, and a loop. You write them now, in about thirty lines, and then take the first steps of a real run with them. What that run recorded says whether your losses are right.
#
# ### Tokens and labels
#
# *Easy, 5 minutes; very important.* Many fine-tunes that go wrong without an error go wrong here. `prompt` and `answer` are texts, the prompt with all marks of the chat template. Return two lists of the same length: the ids of prompt, answer and end token, and the labels. Labels are the ids themselves, and −100 on the prompt, which the loss skips. That loss is **cross-entropy**: −log of the probability that the model gives to the right token.
#
# <details><summary>Hint 1: two texts, two calls</summary>
#
# `tokenizer(text, add_special_tokens=False)["input_ids"]` gives the ids of a text and adds nothing of its own. Call it for the prompt and for the answer, so that you know where one ends.
#
# </details>
# <details><summary>Hint 2: the end</summary>
#
# `tokenizer.eos_token` is the end token as text, `tokenizer.eos_token_id` as an id. It belongs to the answer.
#
# </details>


# %%
def tokens_and_labels(tokenizer, prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """Return the token ids of prompt, answer and end, and the labels."""
    ### BEGIN SOLUTION
    head = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    tail = tokenizer(answer, add_special_tokens=False)["input_ids"]
    tail = [*tail, tokenizer.eos_token_id]
    return head + tail, len(head) * [-100] + tail
    ### END SOLUTION


# %%
from labkit.checkpoints import check

labels_written = check.exercise("tokens_and_labels", tokens_and_labels)
labels_written

# %% [markdown]
# ### One adapted layer
#
# *Easy, 10 minutes; very important.* Write the forward pass of one adapted layer. `x` has shape (…, n), `W` is (m, n), `A` is (r, n), `B` is (m, r). Rows of `x` are samples, so the layer computes `x @ W.T`. Never build the full update `B @ A`: it is as large as `W`.
#
# <details><summary>Hint 1: two thin products</summary>
#
# Go down to r numbers first, then up to m. Which of the two matrices has n columns?
#
# </details>
# <details><summary>Hint 2: rows and transposes</summary>
#
# `x @ W.T` is the layer's own part. Each of A and B is transposed in the same way, and the factor stands before both.
#
# </details>


# %%
def lora_forward(x, W, A, B, alpha, r):
    """Return W x + (alpha / r) B A x for each row of x; shape (…, m)."""
    ### BEGIN SOLUTION
    narrow = x @ A.T
    return x @ W.T + (alpha / r) * (narrow @ B.T)
    ### END SOLUTION


# %%
forward_written = check.exercise("lora_forward", lora_forward)
forward_written

# %% [markdown]
# *Easy, 5 minutes; useful.* Count what an adapter of rank `r` trains on layers with the given (inputs, outputs).
#
# <details><summary>Hint 1: one layer</summary>
#
# How many numbers are in a matrix of r rows and n columns, and in one of m rows and r columns?
#
# </details>
# <details><summary>Hint 2: all layers</summary>
#
# Layers add up, whatever their shapes. `shapes` is a list of pairs; no layers give 0.
#
# </details>


# %%
def count_lora_parameters(shapes: list[tuple[int, int]], r: int) -> int:
    """Return the number of trained parameters of LoRA of rank r on layers (n, m)."""
    ### BEGIN SOLUTION
    return sum(r * (n + m) for n, m in shapes)
    ### END SOLUTION


# %%
count_written = check.exercise("count_lora_parameters", count_lora_parameters)
count_written

# %% [markdown]
# ### Into the model
#
# *Medium, 15 minutes; very important.* `LoRALinear` makes a layer of your function. Write `add_lora`: freeze the whole model, replace every linear layer but the output head `lm_head` by a `LoRALinear`, and return the list of the parameters that are trained. $A$ starts as in PEFT, the library that `train()` takes its adapters from: by `torch.nn.init.kaiming_uniform_(A, a=5**0.5)`, and $B$ at zero.
#
# <details><summary>Hint 1: walk and replace</summary>
#
# `model.named_modules()` yields names such as `model.layers.0.mlp.up_proj` with their modules; `model.set_submodule(name, new)` replaces one. Make a list of the modules first: what you walk over changes while you replace.
#
# </details>
# <details><summary>Hint 2: what is trained</summary>
#
# `requires_grad_(False)` of the model freezes what is there at that moment. A `torch.nn.Parameter` that you make afterwards is trained. Its shape follows from `in_features` and `out_features` of the layer it stands beside.
#
# </details>


# %%
import torch


class LoRALinear(torch.nn.Module):
    """A linear layer without bias, and an adapter beside it."""

    def __init__(self, linear, A, B, alpha):
        super().__init__()
        self.linear, self.A, self.B, self.alpha = linear, A, B, alpha

    def forward(self, x):
        """Return the adapted layer's output, of shape (…, m)."""
        return lora_forward(x, self.linear.weight, self.A, self.B, self.alpha, len(self.A))


def add_lora(model, r: int, lora_alpha: float) -> list[torch.nn.Parameter]:
    """Freeze the model, adapt its linear layers but lm_head, return what is trained."""
    ### BEGIN SOLUTION
    model.requires_grad_(False)
    trained = []
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            like = {"dtype": module.weight.dtype}
            A = torch.nn.Parameter(torch.empty(r, module.in_features, **like))
            B = torch.nn.Parameter(torch.zeros(module.out_features, r, **like))
            torch.nn.init.kaiming_uniform_(A, 5**0.5)
            model.set_submodule(name, LoRALinear(module, A, B, lora_alpha))
            trained += [A, B]
    return trained
    ### END SOLUTION


# %%
adapters_written = check.exercise("add_lora", add_lora)
adapters_written

# %% [markdown]
# ### The loop
#
# *Hard, 20 minutes; very important.* `batches` yields (ids, labels, mask), each of shape (batch, length); the mask is 1 on tokens and 0 on what fills a shorter sample up. For each batch: the mean cross-entropy over the places that have a label, backward, the gradients of all `weights` together scaled down to length 1 where they are longer, one step of AdamW without weight decay, and the gradients cleared. Return the loss of each batch, taken before its step, as floats. The model is called as `model(input_ids=ids, attention_mask=mask).logits`; **logits** are a score for each token of the vocabulary, and those at a place predict the token *after* it.
#
# <details><summary>Hint 1: the shift</summary>
#
# Leave out the last place of the logits and the first of the labels: `logits[:, :-1]` and `labels[:, 1:]` stand side by side then. `torch.nn.functional.cross_entropy` wants (N, vocabulary) and (N), and skips −100 by itself.
#
# </details>
# <details><summary>Hint 2: the order of a step</summary>
#
# Loss, backward, `torch.nn.utils.clip_grad_norm_`, step, clear. The optimizer is made once, before the first batch: its running means live in it.
#
# </details>


# %%
def train_by_hand(model, weights, batches, learning_rate: float) -> list[float]:
    """Take a step of AdamW for each batch; return the loss before each step."""
    ### BEGIN SOLUTION
    adamw = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.0)
    history = []
    for ids, labels, mask in batches:
        logits = model(input_ids=ids, attention_mask=mask).logits
        before, wanted = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        loss = torch.nn.functional.cross_entropy(before, wanted)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        adamw.step()
        adamw.zero_grad()
        history.append(loss.item())
    return history
    ### END SOLUTION


# %%
loop_written = check.exercise("train_by_hand", train_by_hand)
loop_written

# %% [markdown]
# ## Measure: the same steps three times
#
# First the run that yours is held against: `train()` of labkit, with the same few questions in every step, in float32, so that nothing is rounded away. It always takes the embedded model. A run is a configuration in and a **record** out: every step's loss, seconds and tokens, and the peak of memory.

# %%
from labkit.train import train

few = profile.hand_samples
hand_config = profiles.probe_config(
    "lora",
    model=profiles.DEFAULT_MODEL,
    dtype="float32",
    max_length=1024,
    max_steps=3,
    max_train_samples=few,
    per_device_train_batch_size=few,
    share_prompts=False,
    lr_scheduler_type="constant",
    warmup_steps=0,
)
theirs = train(hand_config, quiet=True)
print(f"{theirs.summary['trainable_parameters']:,} trained, losses", theirs.losses)

# %% [markdown]
# Now yours. $A$ is random, and PEFT, the library that `train()` takes its adapters from, draws it in an order of its own; to compare number for number, your layers start from the values that the run started from. While one of the four functions is still open, the next cells do nothing.

# %%
from labkit import methods
from labkit.checkpoints.lessons.same_run import against
from labkit.console import quiet
from labkit.datasets import encode, tatqa
from labkit.datasets.answers import format_answer
from labkit.datasets.registry import reports
from labkit.train import by_hand

verdict = None
tokenizer = load.load_tokenizer(hand_config.model)
questions = tatqa.samples(reports(hand_config.data, "train"))[:few]
all_written = labels_written and forward_written and adapters_written and loop_written
if all_written:
    encoded = [
        tokens_and_labels(tokenizer, encode.prompt_text(tokenizer, q), format_answer(q.question))
        for q in questions
    ]
    inputs = by_hand.batch(encoded, pad=tokenizer.pad_token_id)

# %%
if all_written:
    mine = load.load_model(hand_config.model, dtype="float32")
    weights = add_lora(mine, hand_config.r, hand_config.lora_alpha)

    torch.manual_seed(hand_config.seed)
    attached = load.load_model(hand_config.model, dtype="float32")
    with quiet():
        attached = methods.METHODS["lora"].attach(attached, hand_config)
    starts = [value for name, value in attached.named_parameters() if ".lora_A." in name]
    adapted = [layer for layer in mine.modules() if isinstance(layer, LoRALinear)]
    for layer, start in zip(adapted, starts, strict=True):
        layer.A.data.copy_(start)

    steps = [inputs] * hand_config.max_steps
    hand_losses = train_by_hand(mine, weights, steps, hand_config.learning_rate)
    numbers = sum(weight.numel() for weight in weights)
    verdict = against(theirs, trained=numbers, losses=hand_losses)
    del mine, attached, weights, adapted, starts, layer, start
verdict

# %% [markdown]
# The same in the libraries of the field, PEFT for the adapters and TRL for the loop. Every line of it has its counterpart in what you wrote:

# %%
from tempfile import TemporaryDirectory

from datasets import Dataset
from peft import LoraConfig
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

torch.manual_seed(hand_config.seed)
with TemporaryDirectory() as folder, quiet():
    if all_written:
        trainer = SFTTrainer(
            model=load.load_model(hand_config.model, dtype="float32"),
            processing_class=tokenizer,
            train_dataset=Dataset.from_list([{"input_ids": i, "labels": n} for i, n in encoded]),
            peft_config=LoraConfig(r=hand_config.r, lora_alpha=hand_config.lora_alpha,
                                   target_modules="all-linear", task_type="CAUSAL_LM"),
            args=SFTConfig(max_steps=hand_config.max_steps, per_device_train_batch_size=few,
                           learning_rate=hand_config.learning_rate, lr_scheduler_type="constant",
                           max_length=None, activation_checkpointing=False, bf16=False,
                           use_cpu=True, logging_steps=1, save_strategy="no", report_to=[],
                           disable_tqdm=True, output_dir=folder),
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        _ = trainer.train()
        trl_losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        del trainer

# %%
if all_written:
    print("step    by hand       TRL    labkit")
    for row in zip(range(1, 4), hand_losses, trl_losses, theirs.losses, strict=True):
        print("{:>4} {:>10.4f}{:>10.4f}{:>10.4f}".format(*row))

# %% [markdown]
# The libraries add what stands around the computation: checkpoints to go on from, a meter, faster kernels. `train()` leaves the logits out where there is no label and computes in the type that is fast here; [the appendix on the time of a step](A1_step_time.ipynb) takes it apart.

# %% [markdown]
# ## Measure: two runs
#
# One sequence of a batch is a report with *all* its questions, as far as they fit into twice `max_length`; the others follow in another sequence. Tokens of a question attend to the report and to their own question only, so the loss is the same as if each question came with a copy of the report, for a fraction of the work.
#
# Records are kept on disk. If the kernel stops in the middle, run the notebook again from its first cell: finished runs come back at once, and this one goes on from its last checkpoint, if it had reached one. Run a finished cell again, and the record comes back at once. Every `eval_steps` steps the loss is also measured on questions of the **development split**, which is never trained on.

# %%
lora = train(lora_config)

# %%
full = train(full_config)

# %% [markdown]
# Do the losses behave as they should? The loss is the mean of −log of the probability that the model gives to each token of the right answer; the logarithm is the natural one, whose unit is the **nat**. Single steps are noisy, because each sees other questions; the trend is what counts. The axis is logarithmic: equal distances are equal ratios, near zero as well. On a linear axis, curves like these end as one line.

# %%
from labkit import plots


def development(record):
    """Return (step, development loss) for each evaluation of a run."""
    return [(each["step"], each["loss"]) for each in record.summary["eval_losses"]]


figure, alt = plots.loss_curves(
    {"LoRA": lora.losses, "full": full.losses},
    development={"LoRA": development(lora), "full": development(full)},
)
plots.show(figure, alt=alt)

# %% [markdown]
# The marks tell what the lines can't: where the training loss falls on and the development loss does not, the model learns the training questions by heart, which is called **overfitting**.

# %% [markdown]
# ## Measure: did they learn the task?
#
# A falling loss says that the right answers became likelier, token by token. Whether the model can answer questions on reports it has never seen is another question, and it needs two yardsticks. The **majority** answer is the most frequent answer of the training split: it shows what can be had without reading. The **untouched model with two worked examples** in its prompt knows the answer format from them: what fine-tuning adds beyond it is the task.

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
# The bars carry 95 % intervals. They come from drawing whole reports again and again with replacement, because questions on one report stand and fall together. Where all reports score alike, as where a bar is 0, drawing again would always give the same number; there the interval is that of a share of so many single questions (the exact binomial one). Where two intervals do not overlap, the difference is hardly an accident of which reports were asked. Where they do, nothing is decided: lesson 05 compares two models question by question, which can tell apart what the intervals can't.

# %%
lora_em, full_em = (scores[k].metrics["em"] for k in ("LoRA", "full"))
untouched_em = scores["untouched, 2 examples"].metrics["em"]
for label, em in (("LoRA", lora_em), ("full", full_em)):
    word = "better" if em["low"] > untouched_em["high"] else "not told apart"
    word = "worse" if em["high"] < untouched_em["low"] else word
    print(f"{label} against the untouched model:", word)
apart = lora_em["low"] > full_em["high"] or full_em["low"] > lora_em["high"]
print("LoRA against full:", "told apart" if apart else "not told apart")

# %% [markdown]
# ## Explain: a small difference of losses, n times
#
# Exact match has no point for an answer that is nearly right, and one wrong token most often makes another value. A loss of $\ell$ per token is a probability of $e^{-\ell}$ for each, and over $n$ tokens of $e^{-n\ell}$ for the answer as it is written in the data. So a small difference of two losses counts $n$ times:

# %%
from math import exp

answered = tatqa.samples(reports(data, "dev"))[: lora_config.max_eval_samples]
own = load.load_tokenizer(lora_config.model)
written = [own(format_answer(q.question), add_special_tokens=False) for q in answered]
lengths = [len(answer["input_ids"]) + 1 for answer in written]
n = sum(lengths) / len(lengths)
losses = {label: development(run)[-1][1] for label, run in (("LoRA", lora), ("full", full))}

print(f"an answer has {n:.1f} tokens, with its end")
for label, loss in losses.items():
    print(f"{label}: development loss {loss:.3f}, a whole answer {exp(-n * loss):.0%} likely")
ratio = exp(n * (losses["LoRA"] - losses["full"]))
print(f"a whole answer is {ratio:.2f} times as likely with full as with LoRA")
print(f"exact match: LoRA {lora_em['value']:.0%}, full {full_em['value']:.0%}")

# %% [markdown]
# This is no forecast of the score: a model writes its most likely token, so it is right more often than it is sure. But it says why two losses that look alike can belong to different scores.
#
# Is full fine-tuning better, then? What was compared is two *runs*: one **seed**, from which all that is random in a run is drawn, and one learning rate each. A rate that does not suit one of the two could make the whole difference. A short probe says how much it matters. Before you run it: which of the three rates below gives LoRA the lowest development loss after a few steps?

# %%
rates = [lora_config.learning_rate * factor for factor in (1 / 3, 1, 3)]
rate_records = {
    f"rate {rate:.1e}": train(
        profiles.probe_config("lora", learning_rate=rate, max_steps=profile.rate_steps,
                              eval_steps=profile.rate_steps,
                              max_eval_samples=lora_config.max_eval_samples),
        quiet=True,
    )
    for rate in rates
}  # fmt: skip

# %%
figure, alt = plots.bars(
    {label: development(record)[-1][1] for label, record in rate_records.items()},
    label=f"development loss after {profile.rate_steps} steps",
    title="LoRA: three learning rates, one seed",
    number="{:.3f}",
)
plots.show(figure, alt=alt)

# %% [markdown]
# If the bars differ, the rate alone makes a difference. These runs are much shorter than the two above, so do not set its size beside theirs. A claim about the *methods* needs the best rate of each and several seeds. `labkit bench methods --arms lora,full` does that: it searches the rate of each, trains each with three seeds, and its intervals count seeds as well as questions; lesson 06 shows a record of it. From what you have here, say what you saw and no more.

# %% [markdown]
# ## Explain: what does each cost?
#
# Read the table from top to bottom: what is trained, how long a step takes, how many tokens go through in a second, and how much memory the tensors of a step need at its **peak**, its highest moment. *Resident* is what the operating system gave the process; it also holds Python, the libraries, and memory that was freed and kept. Beside the time and the peak stands what labkit predicted before the first step, by the formulas of lesson 01 and this machine's measured rates.

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
trained, total = (lora.summary[k] for k in ("trainable_parameters", "total_parameters"))
base = total - trained

print(f"time of a step, full over LoRA: {time_ratio:.2f}   predicted: {predicted_time_ratio}")
print(f"peak memory, full over LoRA:    {memory_ratio:.2f}   predicted: {predicted_memory_ratio}")
counted = f"{count_lora_parameters(shapes, lora_config.r):,}" if count_written else "–"
print(f"trained by LoRA: {trained:,}   counted: {counted}   predicted: {predicted_lora_parameters}")
print(f"that is {base / trained:.0f} times fewer than in full fine-tuning")

# %%
needed = {
    "numbers that are trained": 100 * trained / base,
    "peak of memory": 100 / memory_ratio,
    "matrix products of a step": 100 * 2 / 3,
    "time of a step": 100 / time_ratio,
}
figure, alt = plots.bars(
    dict(sorted(needed.items(), key=lambda item: item[1])),
    label="LoRA, in percent of full fine-tuning",
    title="What LoRA saves, and what it does not",
    number="{:.0f} %",
)
plots.show(figure, alt=alt)

# %% [markdown]
# **This figure is the lesson.** LoRA trains a few percent of the numbers; the other bars are not a few percent, and from the shortest one you could not have told them. What is trained decides about gradients and optimizer state alone; a step also has a forward pass, a backward pass and **activations**, what the forward pass keeps for the backward pass, and these are there for frozen weights too.
#
# **Time.** For each linear layer a step computes three matrix products of one size: forward, backward to the layer's input, and backward to its weights. LoRA skips the last for every frozen weight, so two products of three are left; the adapters and everything that is not a matrix product come on top.
#
# **Memory.** Here the states of the optimizer count. In bytes per trained number there are 4 for the weight, 8 for AdamW's two means and 4 for the gradient. LoRA holds them for the adapters only, and keeps 2 bytes for a frozen weight (4 where your machine computes in float32). A step's peak lies at the end of the forward pass, where all activations are there and the gradients are not yet; where products are in 16 bits, a 16-bit copy of every trained weight is there too. Take these away, and what is left of the peak is activations:

# %%
half = lora.config["dtype"] == "bfloat16"
for label, kept in (("LoRA", base), ("full", 0)):
    numbers = trained if kept else base
    held = (2 if half else 4) * kept + 12 * numbers
    copies = 2 * numbers if half else 0
    rest = (peaks[label] - held - copies) / GIB
    print(f"{label}: weights and means {(held + copies) / GIB:.2f} GiB, activations {rest:.2f} GiB")
    if held + 4 * numbers > 0.95 * peaks[label]:
        print(
            "    the update, with gradients and without activations, needs as much: no conclusion"
        )

# %% [markdown]
# Activations depend on the batch and the length of its samples, and hardly on the method. With a small model and a large batch they can outweigh all that LoRA saves; with billions of weights and a small batch it is the other way round. Lesson 01 computes both.

# %% [markdown]
# ## Measure: which settings change memory?
#
# One setting is changed at a time (in the probe that accumulates, two), and a few steps are run. The first step gets the longest samples, when AdamW has no means yet; the steps after it have the means, and samples that are a little shorter. The peak of a probe is the highest of these steps. That is enough to compare probes, which all see their samples in this way. Do not set a probe's peak beside that of a whole run above: there the longest samples come again beside the means, which adds to the peak, and on a processor the layers of so long a run are compiled, several operations into one, which keeps fewer activations and can take off more than that. The last two probes are small steps in two types: the one that is fast on this machine and the other, which may be many times slower.

# %%
from labkit.machine import arithmetic

baseline = profiles.probe_config("lora", r=16)
computes_in = arithmetic.resolve(baseline.dtype)
other_type = "bfloat16" if computes_in == "float32" else "float32"
small = {"max_length": 192, "per_device_train_batch_size": 1, "max_steps": 2}
batch = baseline.per_device_train_batch_size

probes = {
    f"rank 16, batch {batch}": {},
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
small_peaks = {k: lora_peaks.pop(k) for k in list(lora_peaks) if k.startswith("small step")}
figure, alt = plots.bars(
    lora_peaks,
    label="peak of allocated tensors in a step (GiB)",
    title="LoRA: one setting changed",
    compared=True,
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
    compared=True,
)
plots.show(figure, alt=alt)

# %% [markdown]
# ## Explain: what the probes show
#
# The dotted line is the first bar: compare each with it. The others differ from it in one setting; only the probe that accumulates differs in two, so compare it with the one of half the batch as well, from which it differs in accumulation alone. The two small steps are too different from the first bar and are compared with each other.


# %%
def change(label: str, probes: dict[str, float]) -> str:
    """Return how far a probe's peak is from the first probe's, in percent."""
    first = next(iter(probes.values()))
    return f"{100 * (probes[label] / first - 1):+.0f} %"


for label in list(lora_peaks)[1:]:
    print(f"{label:<34} {change(label, lora_peaks):>7}")
for label in list(full_peaks)[1:]:
    print(f"full: {label:<28} {change(label, full_peaks):>7}")
wide, narrow = (small_peaks[f"small step, {dtype}"] for dtype in ("float32", "bfloat16"))
print(f"small step: float32 over bfloat16  {wide / narrow - 1:>+6.0%}")

# %% [markdown]
# - **Rank** adds 16 bytes of weight, gradient and means for each number it adds. At the peak, where the gradients are not there yet, 12 of them count, and 2 for the 16-bit copy where products are in 16 bits; a few activations of width $r$ come on top. Next to the frozen model that is little, until the rank is large.
# - **Target modules**: fewer adapters mean fewer trained numbers and fewer activations kept for them.
# - **Precision**: in float32 the frozen weights and the activations take twice the bytes.
# - **Gradient checkpointing** keeps one activation per block and computes the forward pass a second time while going backward. That is one more product on top of three in full fine-tuning, and on top of two in LoRA.
# - **Length and batch** scale the activations; weights and optimizer stay. A batch half as large with two accumulated passes trains on as many sequences per step with half the activations; the gradients of the first pass stay there during the second.
# - **Optimizer**: AdamW keeps two numbers per trained weight, Adafactor about one row and one column per matrix, plain SGD none.
#
# Checkpointing and the smaller batch cost time instead. The products say how much to expect, the records how much it was:


# %%
def token_time(record) -> float:
    """Return milliseconds per token of a probe, without its first step."""
    timed = record.steps[1:]
    return 1000 * sum(s["seconds"] for s in timed) / sum(s["tokens"] for s in timed)


plain = {"LoRA": probe_records[f"rank 16, batch {batch}"], "full": optimizer_records["AdamW"]}
again = {"LoRA": probe_records["gradient checkpointing"]}
again["full"] = optimizer_records["AdamW, gradient checkpointing"]
for label, products in (("LoRA", 2), ("full", 3)):
    took = token_time(again[label]) / token_time(plain[label]) - 1
    print(f"checkpointing, {label}: {1 / products:.0%} more products, {took:+.0%} time")
halves = token_time(probe_records[f"batch {batch // 2}, 2 accumulated"])
print(f"batch {batch // 2}, 2 accumulated: {halves / token_time(plain['LoRA']) - 1:+.0%} time")

# %% [markdown]
# A probe is a few steps long, and times of so few steps scatter by several percent. Peaks do not: they are counted, to the byte.

# %% [markdown]
# ## Every setting in one table
#
# | setting | what it does | memory |
# |---|---|---|
# | `r` | inner size of the update $BA$; more can express more, and overfit sooner | 16 bytes per trained number; at the peak 14, or 12 in float32 |
# | `lora_alpha` | the update is scaled by α/r, so α sets its weight independently of r | none |
# | `lora_dropout` | drops inputs of the adapters while training, against overfitting | masks, and a copy of the input for each adapter |
# | `target_modules` | which linear layers get an adapter; all of them usually beats a larger rank on two | with the adapters |
# | `bias` | trains bias vectors too; then the base differs from the original even with adapters off | hardly any |
# | `use_rslora` | scales by $\alpha / \sqrt{r}$, so that the update does not shrink as r grows | none |
# | `init_lora_weights` with `loftq_config` | rounds a plain base to few bits, and starts $BA$ at what it can hold of the rounding error, and not at zero | none while training |
# | `gradient_checkpointing` | keeps block inputs only, computes the rest again | far fewer activations |
# | `per_device_train_batch_size` | sequences per forward pass; a sequence is a report with its questions | activations grow with it |
# | `gradient_accumulation_steps` | passes summed before a step: a larger batch for the optimizer, not for memory | the gradients of trained weights stay from pass to pass |
# | `learning_rate` | size of a step; LoRA wants a larger one than full fine-tuning: compare the two printed above | none |
# | `lr_scheduler_type` | how the rate falls: linearly, along a cosine, or not at all | none |
# | `warmup_steps` | steps over which the rate rises from zero, while AdamW's means settle | none |
# | `weight_decay` | pulls trained weights towards zero at every step; on A and B it pulls towards the base model | none |
# | `max_length` | longest sample, a question with its report; longer ones lose paragraphs; a sequence of several questions has up to twice as many tokens | activations grow with it |
# | `dtype`, `optim` | number format of the products; the rule that turns gradients into steps | see the probes |
#
# Each is a field of `RunConfig` with a line of explanation: `labkit train --settings` lists them all.

# %% [markdown]
# ### Somebody else's run, on cards of their own
#
# `finetome` is a shipped configuration of a chat run on FineTome's conversations; its file says what each setting is for. The lab that it comes from noted how many steps a minute its cards took (`data/time_published.json` has the notes), and nothing about the length of a conversation. Turn the question round: at which length would that be so? Steps a minute, as a range from arithmetic and traffic:

# %% tags=["nbval-check-output"]
from labkit.machine.datasheets import DEVICES
from labkit.memory.architectures import shape_of
from labkit.memory.of_run import of_run
from labkit.memory.step_time import step_seconds
from labkit.runs.config import load_config

chat = load_config("finetome").replace(base="nf4")
noted = {
    "rtx-2060s": ("llama-3.2-1b", 24),
    "rtx-3070": ("llama-3.2-1b", 26),
    "quadro-rtx-5000": ("llama-3.2-3b", 3),
}
for card, (name, a_minute) in noted.items():
    print(f"{card}, {name}: noted {a_minute} steps a minute")
    for length in (256, 512, 768, 1024, 2048):
        step = of_run(chat.replace(model=name), seq_len=length, dtype="float16")
        low, high = step_seconds(shape_of(step), step, DEVICES[card])
        print(f"   {length:>5} tokens: {60 / high:5.1f} to {60 / low:5.1f}")

# %% [markdown]
# Two of the notes are what conversations of a few hundred tokens take. The third is in no row. The same notes say that an **epoch**, one pass over all its conversations, has 12,500 steps and took 18 hours: divide, and you have another number of steps a minute. Which of the two lies in a row that the other cards agree with?

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
# **02.1** Do the losses of your two runs behave as expected? `lora.losses` are those of the steps, `development(lora)` those of the evaluations.

# %%
check(
    "02.1",
    run=None,
    full_run=None,
    first_loss=None,
    last_loss=None,
    full_last_loss=None,
    dev_loss=None,
    full_dev_loss=None,
    behaviour=None,
    dev_behaviour=None,
    explanation=None,
)

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
    target_modules=None,
    optim=None,
    explanation=None,
)

# %% [markdown]
# **02.4** What share of the parameters does your LoRA run train, and what does AdamW keep for them?

# %%
check(
    "02.4",
    run=None,
    trainable_parameters=None,
    total_parameters=None,
    share_percent=None,
    optimizer_bytes=None,
    explanation=None,
)

# %% [markdown]
# ## What to remember
#
# - A fine-tune is labels, adapters and a loop. First losses that equal those of a known run test all three.
# - LoRA trains $r(n + m)$ numbers per layer instead of $nm$, and starts exactly at the pretrained model.
# - It saves the gradients and the optimizer's state, not the activations; and one of three matrix products.
# - Look at losses on a logarithmic axis and at the development split: a small difference of losses counts once for each token of an answer.
# - A score needs yardsticks and an interval, and two runs are two runs: rates and seeds come before a claim about methods.
# - Memory is changed by batch, length, checkpointing, precision, optimizer and by what is trained, each for its own reason. Learning rate, schedule, α and decay change what is learned, not what it costs.

# %% [markdown]
# ## Further reading
#
# - E. Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, 2021, [arXiv:2106.09685](https://arxiv.org/abs/2106.09685).
# - D. Kalajdzievski, *A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA*, 2023, [arXiv:2312.03732](https://arxiv.org/abs/2312.03732): the scaling of `use_rslora`.
# - Y. Li et al., *LoftQ: LoRA-Fine-Tuning-Aware Quantization*, 2023, [arXiv:2310.08659](https://arxiv.org/abs/2310.08659).
# - D. Biderman et al., *LoRA Learns Less and Forgets Less*, 2024, [arXiv:2405.09673](https://arxiv.org/abs/2405.09673): where full fine-tuning is worth its price.
# - T. Chen et al., *Training Deep Nets with Sublinear Memory Cost*, 2016, [arXiv:1604.06174](https://arxiv.org/abs/1604.06174): gradient checkpointing.
