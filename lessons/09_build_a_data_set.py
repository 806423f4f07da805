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
# # 09 · A data set of your own: from raw text to something worth training on
#
# - **Goal:** build a data set from raw text, say of every filter what it removed and what that may have cost, find duplicates and leaked test items yourself, and measure whether cleaning paid.
# - **Minutes:** 90, of which 20 are waiting
# - **Hardware:** two CPU cores and 6 GiB of memory; a GPU is used when there is one
# - **You need to know:** lesson 02

# %% [markdown]
# ## Raw text first
#
# **What to take from this lesson: look at the text before you write a filter, at what a filter removed before you trust it, and at a measurement before you say that it paid.**
#
# A data set is made by taking away. Pages come with **mojibake**, which is text that was decoded by the wrong table of characters, with menus, the same article four times, telephone numbers, a language nobody asked for, and now and then a question of the test that you mean to score with. Below is a corpus that a program wrote, half Russian and half English: its words mean nothing, its faults are those of real pages, and a list says where each fault is. So you can count what a builder finds.

# %% tags=["parameters"]
from labkit.bench import cleaning
from labkit.runs import profiles, records

sizes = cleaning.sizes_of_profile()
dirty = 25  # one text of so many has each fault; 50 is a cleaner crawl
folder = records.runs_dir() / f"texts-{dirty}-{profiles.current().name}"
corpus = folder / "corpus-0"

# %%
from labkit.datasets.corpus import synthetic

if not corpus.exists():
    synthetic.generate(corpus, sizes["megabytes"], seed=0, every=dirty)
for file in sorted((corpus / "raw").iterdir())[:8]:
    print(file.name)
raw = cleaning.raw_texts(corpus / "raw")
print(f"{len(raw):,} texts, {sum(len(text.encode()) for text in raw) / 1e6:.2f} MB")

# %% [markdown]
# Read some, how they begin and how they end. What is wrong with each, and which rule would find it? Change the names and go on reading: ten minutes here are worth more than any filter below.

# %%
pages = {page["id"]: page for page in cleaning.rows(corpus / "raw" / "web-0000.jsonl")}
for name in ("t0000029", "t0000030", "t0000038", "t0000042", "t0000044", "t0000046", "t0000047"):
    page = pages[name]
    print(f"{name}  {page['title']}\n    {page['text'][:90]!r} …\n    … {page['text'][-90:]!r}\n")

# %% [markdown]
# ## Predict: how much survives
#
# Of a hundred raw texts, how many will be in the data set, and how many are duplicates? And after training on as many tokens of raw and of clean text: which model finds clean text likelier? It is measured in bits, $-\log_2$ of the probability that a model gives to a text, so fewer are better: by how many percent fewer?

# %%
predicted_survivors = None  # of 100
predicted_duplicates = None  # of 100, exact and near
predicted_gain = None  # percent fewer bits after clean text than after raw

# %% [markdown]
# ## Measure: build
#
# `labkit build-dataset SOURCE… OUT` repairs, filters, masks, compares and splits; here it is called from Python. It is built twice: with near-duplicates left in (no two texts are alike by more than 1, so `near=1.01` finds none), and without. Exact copies are removed both times.

# %%
from labkit.datasets.corpus.build import build
from labkit.datasets.corpus.unit import Settings

common = {"form": "text", "languages": ("ru", "en"), "against": ("tables",)}
common |= {"fractions": (1.0, 0.0, 0.0), "licence": "CC0-1.0"}
reports = {
    "filtered": build([corpus / "raw"], folder / "filtered", Settings(near=1.01, **common),
                      workers=1),
    "deduplicated": build([corpus / "raw"], folder / "deduplicated", Settings(**common),
                          workers=1),
}  # fmt: skip

# %%
import pandas

from labkit.runs import measurements

counts = {}
for name, report in reports.items():
    counts[name] = {
        "read": report["read"], "removed": sum(report["removed"].values()),
        "exact": report["exact_duplicates"], "near": report["near_duplicates"],
        "kept": sum(report["records"].values()),
    }  # fmt: skip
    measurements.keep("build", counts[name], megabytes=sizes["megabytes"], dirty=dirty, set=name)
last = counts["deduplicated"]
kept, twice = (100 * n / last["read"] for n in (last["kept"], last["exact"] + last["near"]))
print(f"of 100 texts {kept:.0f} stay, you predicted {predicted_survivors}")
print(f"{twice:.0f} are duplicates, you predicted {predicted_duplicates}")
pandas.DataFrame(counts).T

# %% tags=["result"]
from labkit import plots

steps = counts["deduplicated"]
figure, axes = plots.new_figure(width=6.4, height=2.2)
left = 0
for name in ("kept", "near", "exact", "removed"):
    axes.barh(0, steps[name], left=left, label=f"{name}: {steps[name]}")
    left += steps[name]
axes.set_xlabel("texts that were read")
axes.set_yticks([])
axes.legend(ncols=4, fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0))
alt = f"Of {steps['read']} texts {steps['kept']} stay; filters remove {steps['removed']}."
plots.show(figure, alt=alt)

# %% [markdown]
# ## Measure: what each filter removed, by example
#
# A count says that a filter was busy, and an example whether it was right. Look at one of each before you believe the row above.

# %%
report = reports["deduplicated"]
for name, count in sorted(report["removed"].items(), key=lambda each: -each[1]):
    _, place, text = report["examples"][name][0]
    print(f"{name}: {count}, such as {place}\n     {text[:160]!r}\n")

# %% [markdown]
# Texts were also repaired and masked, which no count of removed ones shows.

# %%
print("repaired:", report["repaired"])
print("masked:", report["masked"])
print("lines dropped:", report["lines"])

# %% [markdown]
# The corpus says what was planted. How much of each kind is gone, and is anything gone that was clean?

# %%
stayed = {row["source"] for row in cleaning.rows(folder / "deduplicated" / "train.jsonl")}
kinds = {}
for each in cleaning.rows(corpus / "truth.jsonl"):
    of_kind = kinds.setdefault(each["kind"], {"planted": 0, "stayed": 0})
    of_kind["planted"] += 1
    of_kind["stayed"] += each["source"] in stayed
pandas.DataFrame(kinds).T

# %% [markdown]
# Texts of mojibake, look-alike letters and personal data should stay, repaired. A text of `clean` is missing only where a copy stayed in its place: of a pair of duplicates one stays, and it need not be the one that was written first. Many of `near` stay rightly: the builder removes one of two texts from a likeness of 0.8 on, and these are less alike. `bad` are files that cannot be read. What to do with `questions` depends on the purpose: text for pretraining keeps them, a set of instructions is made from them.
#
# ## Explain: near-duplicates without comparing all pairs
#
# Two texts are alike by the Jaccard index of their sets of five words in a row: what both have, over what either has. With a million texts there are half a million million pairs. **MinHash** signs each set with a few numbers: for each of many functions $a_i x + b_i$ the least value that any member gets. Two sets have the same least value exactly when the member that has it is in both, which happens with the probability of their Jaccard index $s$. The share of places that agree estimates it, with a standard deviation of $\sqrt{s(1-s)/k}$ for $k$ places.
#
# **Bands** save the comparing. Cut the signature into $b$ bands of $r$ places and put each text into a bucket a band. Only texts that share a bucket are compared: a pair becomes a candidate with probability $1-(1-s^r)^b$, a curve as steep as a step.

# %% tags=["nbval-check-output"]
print("likeness   16 × 5    5 × 16    40 × 2")
for tenth in range(1, 11):
    s = tenth / 10
    found = [1 - (1 - s**r) ** b for b, r in ((16, 5), (5, 16), (40, 2))]
    print(f"{s:>8.1f}" + "".join(f"{each:>9.1%} " for each in found))

# %% [markdown]
# ## Exercise: near-duplicates by hand
#
# *Easy, 5 minutes; important.* What two texts are compared by: n words in a row, as a set.
#
# <details><summary>Hint 1: words</summary>
#
# `re.findall(r"\w+", text.lower())` gives the words of a text in any alphabet.
#
# </details>
# <details><summary>Hint 2: how many places</summary>
#
# A list of m words has m − n + 1 places at which n in a row begin; a shorter one has all its words as the only one.
#
# </details>

# %%
import re


def shingles(text, n):
    """Return the set of tuples of n words in a row, in small letters without punctuation."""
    ### BEGIN SOLUTION
    found = re.findall(r"\w+", text.lower())
    return {tuple(found[i : i + n]) for i in range(max(1, len(found) - n + 1))}
    ### END SOLUTION


# %%
from labkit.checkpoints import check

check.exercise("shingles", shingles)

# %% [markdown]
# *Medium, 10 minutes; very important.* The signature. `numbers` are what a hash makes of the shingles, from 0 to 2³² − 1; for each pair of `a` and `b`, of all $a x + b$ modulo 2³² the least.
#
# <details><summary>Hint 1: two loops</summary>
#
# Two loops, one in the other: over the pairs of a and b outside, over the numbers inside.
#
# </details>
# <details><summary>Hint 2: remainder, then minimum</summary>
#
# `zip(a, b)` walks over both lists; take `% 2**32` before the minimum, not after it.
#
# </details>


# %%
def signature(numbers, a, b):
    """Return for each a and b the least (a x + b) modulo 2**32 over all numbers x."""
    ### BEGIN SOLUTION
    return [min((x * k + plus) % 2**32 for x in numbers) for k, plus in zip(a, b, strict=True)]
    ### END SOLUTION


# %%
check.exercise("signature", signature)

# %% [markdown]
# *Easy, 3 minutes; important.* The estimate, from two signatures. The check holds it against datasketch, the library that the builder uses.
#
# <details><summary>Hint 1: when a place counts</summary>
#
# A place counts when both signatures have the same number in it.
#
# </details>
# <details><summary>Hint 2: a share</summary>
#
# The share of places that count: their number over the length of a signature.
#
# </details>


# %%
def likeness(one, other):
    """Return the Jaccard index that two signatures estimate."""
    ### BEGIN SOLUTION
    return sum(x == y for x, y in zip(one, other, strict=True)) / len(one)
    ### END SOLUTION


# %%
check.exercise("likeness", likeness)

# %% [markdown]
# *Medium, 10 minutes; important.* And the candidates, without comparing every text with every other.
#
# <details><summary>Hint 1: the key</summary>
#
# A dictionary of buckets: what is its key, so that only the same band of two texts meets?
#
# </details>
# <details><summary>Hint 2: pairs of a bucket</summary>
#
# The key is the place at which the band starts and its numbers as a tuple. `itertools.combinations(bucket, 2)` gives the pairs of a bucket, and a set holds a pair once.
#
# </details>

# %%
from itertools import combinations


def candidates(signatures, rows):
    """Return the pairs (i, j), i < j, of signatures that agree in a whole band of `rows` places."""
    ### BEGIN SOLUTION
    buckets = {}
    for number, each in enumerate(signatures):
        for start in range(0, len(each), rows):
            buckets.setdefault((start, tuple(each[start : start + rows])), []).append(number)
    return {pair for bucket in buckets.values() for pair in combinations(bucket, 2)}
    ### END SOLUTION


# %%
check.exercise("candidates", candidates)

# %% [markdown]
# Now on texts of the corpus: the pairs that your functions find, what they estimate, and what the two texts really share.

# %%
from labkit.checkpoints.lessons.exercises_09 import factors, hashed

texts = cleaning.built_texts(folder / "filtered")[: sizes["compared"]]
try:
    signed = [signature(hashed(text), *factors()) for text in texts]
    pairs = sorted(candidates(signed, 5))
    for i, j in pairs[:8]:
        one, other = shingles(texts[i], 5), shingles(texts[j], 5)
        shared = len(one & other) / len(one | other)
        print(f"{i:>3} and {j:>3}: estimated {likeness(signed[i], signed[j]):.2f}, is {shared:.2f}")
    print(f"{len(pairs)} of {len(texts) * (len(texts) - 1) // 2:,} pairs were compared")
except NotImplementedError:
    print("write the four functions first")

# %% [markdown]
# An estimate of 0.75 may be a pair of 0.82. The builder therefore counts what candidates really share before it removes one: bands may miss a pair, and they never remove a wrong one.
#
# ## Measure: does cleaning pay?
#
# Three runs of **continued pretraining**, in which every token of a text is learned and none is a question, read as many tokens of raw, filtered and de-duplicated text, but for the last sequence, which need not be full: the counts stand below. Equal tokens, because tokens are what training costs; that the raw set has more of them is its one advantage, and it is not asked about here. All else is the same: paragraphs in a seeded order, the same steps, the same rate.

# %%
from labkit.models import load, registry

tokenizer = load.load_tokenizer(registry.resolve(sizes["model"]))
sources = {"raw": raw} | {
    name: cleaning.built_texts(folder / name) for name in ("filtered", "deduplicated")
}
for name, found in sources.items():
    have = cleaning.write_tokens(folder / f"{name}.jsonl", cleaning.paragraphs(found, seed=1),
                                 tokenizer, sizes["tokens"])  # fmt: skip
    print(f"{name:<13}{len(found):>6,} texts, {have:,} tokens written")

# %%
from labkit.train import train

runs = {}
for name in sources:
    file = folder / f"{name}.jsonl"
    runs[name] = train(cleaning.config(file, sizes["model"], sizes["tokens"]), quiet=True)
    read = sum(step["tokens"] for step in runs[name].steps)
    print(f"{runs[name].name}: {len(runs[name].steps)} steps, {read:,} tokens")

# %% [markdown]
# Judged on clean text that no run has read: a corpus of another seed. The measure is **bits per byte**: −log₂ of the probability that a model gives to a text, over its bytes; fewer are better. It is taken text by text, since the same text is hard or easy for all three, and the difference of a pair says more than two means.

# %%
import gc

from labkit.inference.generate import load_generator

judged = cleaning.held_out(sizes["texts"], seed=7)
asked = cleaning.items(sizes["items"])


def read_by(model):
    """Return the bits of each clean text, and which choices are right."""
    gc.collect()
    generator = load_generator(model, exact=True)
    return cleaning.bits(generator, judged), cleaning.choose(generator, asked)


found = {"untouched": read_by(sizes["model"])}
found |= {name: read_by(run.name) for name, run in runs.items()}

# %%
for first, second in combinations(("raw", "filtered", "deduplicated"), 2):
    values = cleaning.compare_bits(found[first][0], found[second][0], judged)
    names = {"first": runs[first].name, "second": runs[second].name}
    measurements.keep("cleaning", values, **names)
    ends = f"{values['low']:+.4f} to {values['high']:+.4f}"
    print(f"{names['first']} → {names['second']}: change {values['value']:+.4f} ({ends})")
    print(f"   {values['first']:.4f} → {values['second']:.4f} bits per byte")
before = cleaning.compare_bits(found["untouched"][0], found["raw"][0], judged)
print(f"untouched: {before['first']:.4f}")
after = cleaning.compare_bits(found["raw"][0], found["deduplicated"][0], judged)
print(f"{100 * (1 - after['second'] / after['first']):+.2f} % fewer bits after clean text than "
      f"after raw, you predicted {predicted_gain}")  # fmt: skip

# %% [markdown]
# Compare the differences with what *any* of the three runs gained over the untouched model, and with your prediction. Where an interval holds zero, this many tokens did not show that a step of cleaning pays, and no more than that: in a small sample of a large corpus two copies of a text seldom meet, and a run that reads the same page a hundred times is another matter (Lee et al. 2022). Where it does pay, the reason is plain: a token of German or of mojibake taught nothing about this text.
#
# One seed each, so the interval is about these weights, and about other *texts*.
#
# ## Measure: a leak, and what it does to a score
#
# A test is only a test while nobody has read it. Here its items are sentences of the course's own test split, each with three others in which a number is exchanged; a choice is right when the model holds the true one for the likeliest. Half of the items are planted in the training text, the other half are not.

# %%
hidden = [place % 2 == 0 for place in range(len(asked))]
passages = [item.passage for item, yes in zip(asked, hidden, strict=True) if yes]
some = cleaning.paragraphs(sources["deduplicated"], seed=1)
leaks = cleaning.planted([text.split(". ")[0] + "." for text in some], passages,
                         sizes["copies"], seed=2)  # fmt: skip
have = cleaning.write_tokens(folder / "leaked.jsonl", [*leaks, *some], tokenizer,
                             round(1.1 * sizes["tokens"]))  # fmt: skip
cleaning.write_texts(folder / "suspects.jsonl", leaks)
print(f"{len(passages)} passages, {len(leaks)} texts that hold one; for example:\n{leaks[0]}")

# %% [markdown]
# Would the builder have found them? It looks for 13 words in a row of a test item, as GPT-3's authors did, or for a shorter item whole.

# %%
checked = build([folder / "suspects.jsonl"], folder / f"checked-{len(leaks)}",
                Settings(**{**common, "limits": {}, "languages": ()}), workers=1)  # fmt: skip
print(f"{checked['removed'].get('contaminated', 0)} of {len(leaks)} texts removed as contaminated")

# %% [markdown]
# *Medium, 10 minutes; very important.* Write that search. Its words are without punctuation, in small letters; an item of 8 to n − 1 words is looked for whole, and one of fewer could be anybody's sentence and counts as not found.
#
# <details><summary>Hint 1: what two sets share</summary>
#
# You have a function that makes the set of n words in a row. What do text and item have in common?
#
# </details>
# <details><summary>Hint 2: short items</summary>
#
# For an item of m < n words compare sets of m words in a row, if m is 8 or more.
#
# </details>


# %%
def contaminated(text, item, n):
    """Say whether a text holds n words in a row of a test item, or all of a shorter one."""
    ### BEGIN SOLUTION
    n = min(n, len(re.findall(r"\w+", item)))
    return n >= 8 and bool(shingles(item, n) & shingles(text, n))
    ### END SOLUTION


# %%
check.exercise("contaminated", contaminated)

# %% [markdown]
# Now train on the text with the leak, as many tokens as before, and ask both kinds of items of both models.

# %%
leaked_file = cleaning.config(folder / "leaked.jsonl", sizes["model"], sizes["tokens"])
runs["leaked"] = train(leaked_file, quiet=True)
found["leaked"] = read_by(runs["leaked"].name)
clean, leak = found["deduplicated"][1], found["leaked"][1]
scores = cleaning.compare_choices(clean, leak, hidden)
names = {"clean": runs["deduplicated"].name, "leaked": runs["leaked"].name}
measurements.keep("leak", scores, **names)
for kind in ("planted", "others"):
    print(f"{kind:<8}{names['clean']}: {scores[kind + '_clean']:.1f} %, {names['leaked']}: "
          f"{scores[kind + '_leaked']:.1f} % right")  # fmt: skip
print(f"change on planted items: {scores['low']:+.1f} to {scores['high']:+.1f} points")

# %% [markdown]
# One in four is right by chance. What the planted items gained and the others did not is the leak: the number was read, not worked out. The items that were not planted are what lets you say so, and in somebody else's model you do not have them. There you look at the data, or at items written after it.
#
# ## Explain: the data card
#
# What a data set is of, what was removed and why, whom it belongs to: the builder writes it beside the data, in the form that the Hugging Face Hub reads. Its steps from read to kept are the counts above; languages, lengths and checksums come on top.

# %%
card = (folder / "deduplicated" / "README.md").read_text(encoding="utf-8")
print(card[: card.index("## Filters")])

# %% [markdown]
# With documents of your own, in Russian or not, it is one command, and `labkit data audit FILE` asks the same of a set that you were given:
#
# ```sh
# labkit build-dataset my-documents my-set --languages ru --licence CC-BY-4.0
# labkit train --config lora --data my-set
# ```
#
# Real pages break other rules than these. Read what was removed, switch off the rule that takes what you need (`--rule gopher_min_words=20`, `--rule c4_sentences=off`), and build again.

# %% [markdown]
# ## Checkpoint
#
# **09.1** What became of the raw texts?

# %%
check(
    "09.1",
    texts_read=None,
    removed_by_filters=None,
    exact_duplicates=None,
    near_duplicates=None,
    kept=None,
    survived=None,
    explanation=None,
)

# %% [markdown]
# **09.2** Does cleaning pay?

# %%
check(
    "09.2",
    first_run=None,
    second_run=None,
    bits_first=None,
    bits_second=None,
    difference_low=None,
    difference_high=None,
    verdict=None,
    explanation=None,
)

# %% [markdown]
# **09.3** Which pairs does a choice of bands and rows find?

# %%
check(
    "09.3",
    bands=None,
    rows=None,
    found_at_80=None,
    found_at_50=None,
    half_at=None,
    error_at_80=None,
    explanation=None,
)

# %% [markdown]
# **09.4** What did the leak do to the score?

# %%
check(
    "09.4",
    clean_run=None,
    leaked_run=None,
    planted_clean=None,
    planted_leaked=None,
    others_clean=None,
    others_leaked=None,
    change_low=None,
    change_high=None,
    verdict=None,
    explanation=None,
)

# %% [markdown]
# ## What to remember
#
# - Read raw text before you filter, and examples of what a filter removed before you believe its count.
# - A signature of a few numbers stands for a whole text; bands make candidates of pairs that are alike, and counting decides about them.
# - Cleaning is judged like anything else: equal tokens, text that none has read, an interval.
# - A leak lifts the score on what leaked and on nothing else. Keep the test out by its 13-grams, and keep items back that nobody has seen.
# - A data set without a card is a folder of text: say where it is from, whose it is, and what was taken away.

# %% [markdown]
# ## Further reading
#
# - J. Rae et al., *Scaling Language Models: Methods, Analysis & Insights from Training Gopher*, 2021, [arXiv:2112.11446](https://arxiv.org/abs/2112.11446), appendix A: the rules for quality.
# - C. Raffel et al., *Exploring the Limits of Transfer Learning*, 2020, [arXiv:1910.10683](https://arxiv.org/abs/1910.10683): C4.
# - G. Penedo et al., *The FineWeb Datasets*, 2024, [arXiv:2406.17557](https://arxiv.org/abs/2406.17557): every filter judged by training on what it leaves.
# - A. Broder, *On the resemblance and containment of documents*, 1997: MinHash.
# - K. Lee et al., *Deduplicating Training Data Makes Language Models Better*, 2022, [arXiv:2107.06499](https://arxiv.org/abs/2107.06499).
# - T. Brown et al., *Language Models are Few-Shot Learners*, 2020, [arXiv:2005.14165](https://arxiv.org/abs/2005.14165), appendix C: contamination by 13-grams.
# - A. Köksal et al., *LongForm*, 2023, [arXiv:2304.08460](https://arxiv.org/abs/2304.08460): instructions made backwards from texts.
