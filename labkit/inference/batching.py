"""Put prompts of several lengths into batches of one width, and know what ends an answer."""

from collections.abc import Sequence
from typing import Any

from labkit.errors import LabkitError
from labkit.models.layers import pad_within


def pad_left(rows: Sequence[list[int]], pad: int) -> tuple[Any, Any]:
    """Return token ids [rows, longest] padded on the left, and their mask: 1 where a token is."""
    import torch

    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        if row:
            ids[i, width - len(row) :] = torch.tensor(row)
            mask[i, width - len(row) :] = 1
    return ids, mask


def batches(groups: Sequence[list[int]], size: int) -> list[list[list[int]]]:
    """Put groups together until a batch has about `size` prompts; no group is split."""
    made: list[list[list[int]]] = [[]]
    for group in groups:
        if made[-1] and sum(map(len, made[-1])) + len(group) > size:
            made.append([])
        made[-1].append(group)
    return made


def end_tokens(model: Any) -> list[int]:
    """Return the tokens that end an answer, as `generate` sees them; there may be none."""
    ends = model.generation_config.eos_token_id
    return [] if ends is None else ends if isinstance(ends, list) else [ends]


def end_as_taught(model: Any, tokenizer: Any) -> None:
    """Let a model stop at its tokenizer's end, which may be of another template than its base's."""
    ends = end_tokens(model)
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ends:
        model.generation_config.eos_token_id = [*ends, tokenizer.eos_token_id]


def fit_tokenizer(name: str, tokenizer: Any, model: Any) -> None:
    """Pad with the end token where the model has no embedding for the padding token.

    An adapter may come with a tokenizer that was enlarged, and without the new embeddings.

    Raises:
        LabkitError: there is none for a token that ends answers or that the chat template writes.
    """
    rows = pad_within(tokenizer, model)
    template = str(tokenizer.chat_template or "")
    needed = {token: place for token, place in tokenizer.get_added_vocab().items()
              if token in template or token == tokenizer.eos_token}  # fmt: skip
    lost = sorted(token for token, place in needed.items() if place >= rows)
    if lost:
        raise LabkitError(
            f"the tokenizer of {name} has {', '.join(lost[:3])} from {rows} on, and the model only "
            f"{rows} embeddings: train it with modules_to_save embed_tokens and lm_head, or use "
            "the tokenizer of its base"
        )
