"""Lesson 06: right functions, and wrong ones with what is said of them."""

import math

import torch
from bitsandbytes import functional as bnb
from torch import nn

from labkit.checkpoints.lessons.exercises_06 import (
    NF4,
    reference_bottleneck,
    reference_from_nf4,
    reference_prefix_attention,
    reference_to_nf4,
)

TABLE = torch.tensor(NF4)


def attend(
    q, k, v, prefix_k, prefix_v, *, scale=None, causal=True, whole=True, axis=-2, last=False
):
    """Attention in plain products; the switches are mistakes."""
    both = ([k, prefix_k], [v, prefix_v]) if last else ([prefix_k, k], [prefix_v, v])
    keys, values = (torch.cat(each, axis) for each in both)
    scores = q @ keys.transpose(-1, -2) / (scale or q.shape[-1] ** 0.5)
    if causal:
        behind = prefix_k.shape[-2] if whole else 0
        length = q.shape[-2]
        later = torch.ones(length, keys.shape[-2], dtype=torch.bool).triu(behind + 1)
        scores = scores.masked_fill(later, float("-inf"))
    return scores.softmax(-1) @ values


def mistake(**switches):
    return lambda q, k, v, pk, pv: attend(q, k, v, pk, pv, **switches)


def added_apart(q, k, v, prefix_k, prefix_v):
    """Two softmaxes, one over the prefix and one over the text."""
    text = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    return text + nn.functional.scaled_dot_product_attention(q, prefix_k, prefix_v)


def prefix_in_order(q, k, v, prefix_k, prefix_v):
    """The prefix behind the same triangle as the text."""
    length, behind = q.shape[-2], prefix_k.shape[-2]
    seen = torch.cat([torch.ones(length, n).tril() for n in (behind, length)], -1).bool()
    keys, values = torch.cat([prefix_k, k], -2), torch.cat([prefix_v, v], -2)
    return nn.functional.scaled_dot_product_attention(q, keys, values, attn_mask=seen)


def heads_joined(q, k, v, prefix_k, prefix_v):
    flat = [each.flatten(0, 1)[None] for each in (q, k, v, prefix_k, prefix_v)]
    return attend(*flat)


def first_sample_and_head(q, k, v, prefix_k, prefix_v):
    return attend(q, k, v, prefix_k[:1, :1], prefix_v[:1, :1])


def by_thresholds(weights):
    """Between two neighbours lies a threshold: count those below."""
    absmax = weights.abs().max()
    middles = (TABLE[1:] + TABLE[:-1]) / 2
    scaled = weights / absmax if absmax else weights
    return torch.bucketize(scaled, middles), absmax


def clamped(weights):
    """Return the clamped divisor, which gives back a block of zeros as well."""
    absmax = weights.abs().max().clamp(min=1e-30)
    return (weights[:, None] / absmax - TABLE).abs().argmin(1), absmax


def in_a_loop(weights):
    absmax = max(abs(w) for w in weights.tolist())
    codes = [min(range(16), key=lambda c: abs(w / (absmax or 1) - NF4[c]))
             for w in weights.tolist()]  # fmt: skip
    return torch.tensor(codes), absmax


def even_steps(weights):
    absmax = weights.abs().max().clamp(min=1e-30)
    return ((weights / absmax + 1) * 7.5).round().long(), absmax


def in_place(weights):
    absmax = weights.abs().max()
    weights /= absmax.clamp(min=1e-30)
    return (weights[:, None] - TABLE).abs().argmin(1), absmax


def started(hidden, size, *, up=torch.zeros, down=torch.randn, bias=0.0):
    return down(size, hidden), torch.zeros(size), up(hidden, size), torch.full((hidden,), bias)


def of_pytorch(hidden, size):
    down, up = nn.Linear(hidden, size), nn.Linear(size, hidden)
    nn.init.zeros_(up.weight)
    nn.init.zeros_(up.bias)
    return [each.detach() for each in (down.weight, down.bias, up.weight, up.bias)]


def down_at_zero(hidden, size):
    """GELU of zero is zero, and its slope there is a half: `down` moves first."""
    return started(hidden, size, up=torch.randn, down=torch.zeros)


def near_zero(hidden, size):
    """The published start: both matrices near zero."""
    return (torch.randn(size, hidden) * 1e-2, torch.zeros(size),
            torch.randn(hidden, size) * 1e-2, torch.zeros(hidden))  # fmt: skip


def inner(y, down, bias):
    return y @ down.T + bias


gelu = nn.functional.gelu

RIGHT = {
    "prefix_attention": [reference_prefix_attention, attend],
    "to_nf4": [reference_to_nf4, by_thresholds, clamped, in_a_loop],
    "from_nf4": [reference_from_nf4, lambda codes, absmax: absmax * TABLE[codes],
                 lambda codes, absmax: bnb.get_4bit_type("nf4", device="cpu")[codes] * absmax],
    "bottleneck_adapter": [
        reference_bottleneck,
        lambda y, d, bd, u, bu: y + gelu(inner(y, d, bd)) @ u.T + bu,
    ],
    "start_bottleneck": [started, of_pytorch, near_zero, down_at_zero],
}  # fmt: skip

WRONG = [
    ("prefix_attention", lambda q, k, v, pk, pv: attend(q, k, v, pk[..., :0, :], pv[..., :0, :]),
     "one row of prefix"),
    ("prefix_attention", added_apart, "one row of prefix"),
    ("prefix_attention", mistake(scale=2.0), "root of a head's width"),
    ("prefix_attention", mistake(causal=False), "no query reads a later"),
    ("prefix_attention", mistake(whole=False), "one row of prefix"),
    ("prefix_attention", prefix_in_order, "every query reads the whole prefix"),
    ("prefix_attention", mistake(last=True, whole=False), "one row of prefix|later"),
    ("prefix_attention", first_sample_and_head, "samples and heads stay apart"),
    ("prefix_attention", heads_joined, "samples and heads stay apart"),
    ("to_nf4", lambda w: (reference_to_nf4(w)[0] - 8, w.abs().max()), "places in it"),
    ("to_nf4", lambda w: (reference_to_nf4(w)[0], w.max()), "also of a negative"),
    ("to_nf4", lambda w: reference_to_nf4(w * 1.0)[::-1], "places in it"),
    ("to_nf4", even_steps, "places in it"),
    ("to_nf4", lambda w: (torch.bucketize(w / w.abs().max(), TABLE), w.abs().max()), "nearest"),
    ("to_nf4", lambda w: ((w / w.abs().max())[:, None].sub(TABLE).abs().argmin(1), w.abs().max()),
     "no division by zero"),
    ("to_nf4", in_place, "stays as it is"),
    ("from_nf4", lambda codes, absmax: codes / 15 * absmax, "ends of the table"),
    ("from_nf4", lambda codes, absmax: (codes / 7.5 - 1) * absmax, "ends of the table"),
    ("from_nf4", lambda codes, absmax: TABLE[codes], "the scale multiplies"),
    ("from_nf4", lambda codes, absmax: TABLE.flip(0)[codes] * absmax, "ends of the table"),
    ("from_nf4", lambda codes, absmax: TABLE[codes] / absmax, "the scale multiplies"),
    ("bottleneck_adapter",
     lambda y, d, bd, u, bu: gelu(inner(y, d, bd)) @ u.T + bu, "the output is y"),
    ("bottleneck_adapter",
     lambda y, d, bd, u, bu: y + inner(y, d, bd) @ u.T + bu, "through GELU"),
    ("bottleneck_adapter",
     lambda y, d, bd, u, bu: y + inner(y, d, bd).relu() @ u.T + bu, "through GELU"),
    ("bottleneck_adapter",
     lambda y, d, bd, u, bu: y + gelu(y @ d.T) @ u.T + bu, "through GELU"),
    ("bottleneck_adapter",
     lambda y, d, bd, u, bu: y + torch.einsum("bs,hs->bh", gelu(inner(y, d, bd)), u)
     + bu, "any leading dimensions"),
    ("to_nf4", lambda w: (by_thresholds(w)[0], w.abs().max() or math.inf), "block of zeros"),
    ("to_nf4", lambda w: (by_thresholds(w)[0], w.abs().max() or math.nan), "block of zeros"),
    ("start_bottleneck", lambda h, s: [each.T for each in started(h, s)], "down .size, hidden"),
    ("start_bottleneck", lambda h, s: started(h, s, up=torch.randn), "nearly y"),
    ("start_bottleneck", lambda h, s: started(h, s, bias=1.0), "nearly y"),
    ("start_bottleneck", lambda h, s: started(h, s, down=torch.zeros), "can learn"),
    ("start_bottleneck", lambda h, s: started(h, s, down=torch.ones), "no two rows"),
]  # fmt: skip
