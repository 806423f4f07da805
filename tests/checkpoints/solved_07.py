"""Lesson 07: right functions, and wrong ones with what is said of them."""

import math
from collections import Counter

import torch
from torch.nn import functional

from labkit.checkpoints.lessons.exercises_07 import (
    reference_answer_logp,
    reference_dpo_loss,
    reference_pull,
)
from labkit.inference.preferences import pair


def by_counting(texts, right):
    sides = [[t for t, r in zip(texts, right, strict=True) if r is side] for side in (True, False)]
    return [max(side, key=side.count) for side in sides] if all(sides) else None


def first_of_each(texts, right):
    if all(right) or not any(right):
        return None
    return texts[right.index(True)], texts[right.index(False)]


def most_frequent_of_all(texts, right):
    if all(right) or not any(right):
        return None
    chosen = texts[right.index(True)]
    return chosen, next(t for t, _ in Counter(texts).most_common() if t != chosen)


def of_either(texts, right, *, chosen=Counter.most_common, rejected=Counter.most_common):
    good = Counter(t for t, r in zip(texts, right, strict=True) if r)
    bad = Counter(t for t, r in zip(texts, right, strict=True) if not r)
    return (chosen(good)[0][0], rejected(bad)[0][0]) if good and bad else None


def last_of_equals(counted):
    places = {text: place for place, text in enumerate(counted)}
    return sorted(counted.items(), key=lambda item: (-item[1], -places[item[0]]))


def rarest(counted):
    return counted.most_common()[::-1]


def gathered(logits, ids, prompt_length):
    of_token = logits.log_softmax(-1)[:-1].gather(1, ids[1:, None])[:, 0]
    return of_token[prompt_length - 1 :].sum()


def token_by_token(logits, ids, prompt_length):
    total = 0.0
    for place in range(prompt_length, len(ids)):
        before = logits[place - 1]
        total = total + before[ids[place]] - before.logsumexp(0)
    return total


def summed(logits, ids, prompt_length, *, shift=1, start=-1, mean=False, log=True):
    """The log-probability; the switches are mistakes."""
    logs = logits.log_softmax(-1) if log else logits.softmax(-1)
    found = logs[: len(ids) - shift].gather(1, ids[shift:, None])[:, 0][prompt_length + start :]
    return found.mean() if mean else found.sum()


def logp_mistake(**switches):
    return lambda logits, ids, prompt_length: summed(logits, ids, prompt_length, **switches)


def sigmoid_of_margin(chosen, rejected, ref_chosen, ref_rejected, beta):
    """Equation 7, its four terms in another order."""
    ratio, ref_ratio = chosen - rejected, ref_chosen - ref_rejected
    return -functional.logsigmoid(beta * (ratio - ref_ratio)).mean()


def two_classes(chosen, rejected, ref_chosen, ref_rejected, beta):
    """Cross-entropy over the two rewards, of which the first is right."""
    rewards = beta * torch.stack([chosen - ref_chosen, rejected - ref_rejected], dim=1)
    return functional.cross_entropy(rewards, torch.zeros(len(rewards), dtype=torch.long))


def margin(c, r, rc, rr):
    return (c - rc) - (r - rr)


RIGHT = {
    "pair_of": [pair, by_counting, of_either],
    "pull": [reference_pull,
             lambda m, b: b / (1 + math.exp(b * m)) if b * m < 500 else 0.0,
             lambda m, b: b * torch.sigmoid(torch.tensor(-b * m, dtype=torch.float64))],
    "answer_logp": [reference_answer_logp, gathered, token_by_token],
    "dpo_loss": [reference_dpo_loss, sigmoid_of_margin, two_classes],
}  # fmt: skip

WRONG = [
    ("pair_of", lambda t, r: by_counting(t, [not each for each in r]), "right one comes first"),
    ("pair_of", lambda t, r: (t[r.index(True)], t[r.index(False)]), "there is no pair.*ValueError"),
    ("pair_of", first_of_each, "the most frequent is rejected"),
    ("pair_of", lambda t, r: of_either(t, r, rejected=rarest), "the most frequent is rejected"),
    ("pair_of", most_frequent_of_all, "the most frequent is (rejected|chosen)"),
    ("pair_of", lambda t, r: of_either(t, r, chosen=rarest), "the most frequent is chosen"),
    ("pair_of", lambda t, r: of_either(t, r, chosen=last_of_equals), "it is the first"),
    ("pull", lambda m, b: 1 / (1 + math.exp(b * m)), "half of beta"),
    ("pull", lambda m, b: b, "half of beta"),
    ("pull", lambda m, b: b / (1 + math.exp(-b * m)), "hardly pulled"),
    ("pull", lambda m, b: b / 2 * (1 if m <= 0 else 0), "with nearly beta"),
    ("pull", lambda m, b: b / (1 + math.exp(m)), "the loss's derivative"),
    ("pull", lambda m, b: b / (1 + math.exp(b * m)), "a margin of thousands.*OverflowError"),
    ("answer_logp", logp_mistake(log=False), "costs log of their number"),
    ("answer_logp", logp_mistake(mean=True), "costs log of their number"),
    ("answer_logp", logp_mistake(start=0), "costs log of their number"),
    ("answer_logp", logp_mistake(start=-2), "costs log of their number"),
    ("answer_logp", logp_mistake(shift=0, start=0), "the position before it"),
    ("answer_logp", lambda logits, ids, n: -gathered(logits, ids, n), "costs log of"),
    ("answer_logp", lambda logits, ids, n: gathered(logits, ids, 1), "costs log of"),
    ("answer_logp", lambda logits, ids, n: gathered(logits, ids, n).item(), "has a gradient"),
    ("dpo_loss", lambda c, r, rc, rr, b: -(b * margin(c, r, rc, rr)).mean(), "a loss of ln 2"),
    ("dpo_loss", lambda c, r, rc, rr, b: functional.softplus(b * margin(c, r, rc, rr)).mean(),
     "as the chosen answer gains"),
    ("dpo_loss", lambda c, r, rc, rr, b: functional.softplus(-b * (c - r)).mean(),
     "a loss of ln 2"),
    ("dpo_loss", lambda c, r, rc, rr, b: functional.softplus(-b * margin(c, r, rr, rc)).mean(),
     "a loss of ln 2"),
    ("dpo_loss", lambda c, r, rc, rr, b: functional.softplus(-b * (c - rc)).mean(),
     "compared with the reference"),
    ("dpo_loss", lambda c, r, rc, rr, b: functional.softplus(-margin(c, r, rc, rr)).mean(),
     "compared with the reference"),
    ("dpo_loss", lambda c, r, rc, rr, b: functional.softplus(-margin(c, r, rc, rr) / b).mean(),
     "compared with the reference"),
    ("dpo_loss", lambda c, r, rc, rr, b: functional.softplus(-b * margin(c, r, rc, rr)).sum(),
     "the mean of their losses"),
    ("dpo_loss", lambda c, r, rc, rr, b: -torch.sigmoid(b * margin(c, r, rc, rr)).log().mean(),
     "a finite loss"),
]  # fmt: skip
