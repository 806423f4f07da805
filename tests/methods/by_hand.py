"""Llama and the methods on it, written out in plain PyTorch: what the tests compare with.

No line of transformers, PEFT or labkit is called. A method is a change of a linear layer, of the
input, or of attention, each a function that is given here.

Shape suffixes: B sequences, L tokens, N virtual tokens, H heads, D width of a head, E hidden width.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional as F

Weights = Mapping[str, torch.Tensor]
Linear = Callable[[str, torch.Tensor], torch.Tensor]


def plain(weights: Weights) -> Linear:
    """Return y = W·x for the layer of a name."""
    return lambda name, x: x @ weights[f"{name}.weight"].T


def norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return weight * x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def rotate(x_BHLD: torch.Tensor, first: int, theta: float) -> torch.Tensor:
    """Turn the pairs (i, i + D/2) of each head by position·theta^(−2i/D)."""
    length, width = x_BHLD.shape[-2:]
    position = torch.arange(first, first + length)[:, None]
    angle = position * theta ** (-torch.arange(0, width, 2) / width)[None, :]
    left, right = x_BHLD[..., : width // 2], x_BHLD[..., width // 2 :]
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


def llama(
    weights: Weights,
    config: Any,
    ids_BL: torch.Tensor,
    *,
    linear: Linear | None = None,
    prompt_NE: torch.Tensor | None = None,
    prefix: list[tuple[torch.Tensor, torch.Tensor]] | None = None,
    gated: list[tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> torch.Tensor:
    """Return the logits (B, L, V) of a Llama whose head is tied to its embedding.

    `prompt_NE` stands before the embeddings; `prefix` holds keys and values (heads, N, D) for every
    layer; `gated` holds LLaMA-Adapter's tokens (N, E) and gate for every layer.
    """
    linear = linear or plain(weights)
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    width = config.hidden_size // heads
    theta, eps = config.rope_parameters["rope_theta"], config.rms_norm_eps
    x = weights["model.embed_tokens.weight"][ids_BL]
    if prompt_NE is not None:
        x = torch.cat([prompt_NE.expand(len(x), -1, -1), x], dim=1)
    batch, length, _ = x.shape
    first = prefix[0][0].shape[1] if prefix else 0

    def split(flat: torch.Tensor, count: int) -> torch.Tensor:
        return flat.view(*flat.shape[:-1], count, width).transpose(-3, -2)

    def shared(keys: torch.Tensor) -> torch.Tensor:
        return keys.repeat_interleave(heads // kv_heads, dim=-3)

    for layer in range(config.num_hidden_layers):
        at = f"model.layers.{layer}"
        h = norm(x, weights[f"{at}.input_layernorm.weight"], eps)
        q = rotate(split(linear(f"{at}.self_attn.q_proj", h), heads), first, theta)
        k = rotate(split(linear(f"{at}.self_attn.k_proj", h), kv_heads), first, theta)
        v = split(linear(f"{at}.self_attn.v_proj", h), kv_heads)
        seen = torch.ones(length, length).tril().bool()
        if prefix:
            keys, values = (each.expand(batch, -1, -1, -1) for each in prefix[layer])
            k, v = torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)
            seen = torch.cat([torch.ones(length, first).bool(), seen], dim=1)
        scores = q @ shared(k).transpose(-1, -2) / math.sqrt(width)
        read = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ shared(v)
        if gated:
            tokens_NE, gate = gated[layer]
            own_k = split(linear(f"{at}.self_attn.k_proj", tokens_NE), kv_heads)
            own_v = split(linear(f"{at}.self_attn.v_proj", tokens_NE), kv_heads)
            own = (q @ shared(own_k).transpose(-1, -2) / math.sqrt(width)).softmax(-1)
            read = read + gate * own @ shared(own_v)
        x = x + linear(f"{at}.self_attn.o_proj", read.transpose(1, 2).reshape(batch, length, -1))
        h = norm(x, weights[f"{at}.post_attention_layernorm.weight"], eps)
        inner = F.silu(linear(f"{at}.mlp.gate_proj", h)) * linear(f"{at}.mlp.up_proj", h)
        x = x + linear(f"{at}.mlp.down_proj", inner)
    x = norm(x, weights["model.norm.weight"], eps)
    extra = 0 if prompt_NE is None else len(prompt_NE)
    return x[:, extra:] @ weights["model.embed_tokens.weight"].T
