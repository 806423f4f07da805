"""LoRA by hand: all of supervised fine-tuning in a page of plain PyTorch.

    y = W·x + (α/r)·B·A·x        A: (r, in), random      B: (out, r), zero

`labkit train` computes these losses, faster. A test holds the first of them against it.

Shapes: B samples, L tokens, V entries of the vocabulary, N = B·(L - 1) predictions;
I and O a layer's inputs and outputs.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

IGNORED = -100
"""The label that cross-entropy skips."""


def tokens_and_labels(tokenizer: Any, prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """Return the token ids of prompt and answer, and labels that skip the prompt."""
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer_ids = tokenizer(answer + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
    return prompt_ids + answer_ids, [IGNORED] * len(prompt_ids) + answer_ids


def batch(samples: list[tuple[list[int], list[int]]], pad: int) -> tuple[torch.Tensor, ...]:
    """Return ids, labels and mask, each (B, L), padded on the right; padding has no label."""
    longest = max(len(ids) for ids, _ in samples)
    gaps = [longest - len(ids) for ids, _ in samples]
    ids_BL = [ids + [pad] * gap for (ids, _), gap in zip(samples, gaps, strict=True)]
    labels_BL = [labels + [IGNORED] * gap for (_, labels), gap in zip(samples, gaps, strict=True)]
    mask_BL = [[1] * (longest - gap) + [0] * gap for gap in gaps]
    return torch.tensor(ids_BL), torch.tensor(labels_BL), torch.tensor(mask_BL)


class LoRALinear(nn.Module):
    """A frozen linear layer with a low-rank update beside it."""

    def __init__(self, linear: nn.Linear, r: int, lora_alpha: float) -> None:
        super().__init__()
        self.linear, self.scale = linear, lora_alpha / r
        self.A = nn.Parameter(torch.empty(r, linear.in_features))
        self.B = nn.Parameter(torch.zeros(linear.out_features, r))
        nn.init.kaiming_uniform_(self.A, a=5**0.5)

    def forward(self, x_BLI: torch.Tensor) -> torch.Tensor:
        """Return W·x + (α/r)·B·A·x, of shape (B, L, O)."""
        return self.linear(x_BLI) + self.scale * (x_BLI @ self.A.T @ self.B.T)


def add_lora(model: nn.Module, r: int, lora_alpha: float) -> list[nn.Parameter]:
    """Freeze the model, wrap its linear layers but the output head, return what is trained."""
    model.requires_grad_(False)
    linear = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    for name, layer in linear:
        if name != "lm_head":
            model.set_submodule(name, LoRALinear(layer, r, lora_alpha))
    return [weight for weight in model.parameters() if weight.requires_grad]


def train(
    model: nn.Module,
    weights: list[nn.Parameter],
    batches: Iterable[tuple[torch.Tensor, ...]],
    learning_rate: float,
) -> list[float]:
    """Take a step for each batch; return the mean loss per label before each step."""
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.0)
    losses = []
    for ids_BL, labels_BL, mask_BL in batches:
        logits_BLV = model(input_ids=ids_BL, attention_mask=mask_BL).logits
        # The token at one position is predicted from the position before it.
        logits_NV, labels_N = logits_BLV[:, :-1].flatten(0, 1), labels_BL[:, 1:].flatten()
        loss = functional.cross_entropy(logits_NV, labels_N)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses
