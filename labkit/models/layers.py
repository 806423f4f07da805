"""Names and sizes of what a model is made of, and how many tokens and positions it knows."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def linear_names(model: "nn.Module") -> "list[tuple[str, nn.Module]]":
    """Return the linear layers of the model's blocks; the output head is not one of them."""
    from torch import nn

    head = getattr(model, "get_output_embeddings", lambda: None)()
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    ]


def pad_within(tokenizer: Any, model: "nn.Module") -> int:
    """Pad with the end token where the padding token has no embedding; return how many there are.

    Padding is masked, so that any token does.
    """
    embedding: Any = model.get_input_embeddings()
    rows = int(embedding.weight.shape[0])
    if (tokenizer.pad_token_id or 0) >= rows:
        tokenizer.pad_token = tokenizer.eos_token
    return rows


def positions(model: "nn.Module") -> int | None:
    """Return how many positions a model has a table for; None without one.

    Rotary positions and biases by distance have none, and that of an image's patches stands
    elsewhere than the words' embedding. OPT's first two rows are nobody's, as are RoBERTa's up to
    that of padding.
    """
    from torch import nn

    words: Any = model.get_input_embeddings()
    place = next((name for name, module in model.named_modules() if module is words), "")
    trunk = place[: place.rfind(".") + 1]
    tables = [module for name, module in model.named_modules() if isinstance(module, nn.Embedding)
              and name.startswith(trunk) and any(map(_says_position, name.split(".")))]  # fmt: skip
    return min((table.num_embeddings - _unused(table) for table in tables), default=None)


def _says_position(part: str) -> bool:
    return part == "wpe" or ("position" in part and "relative" not in part)


def _unused(table: "nn.Embedding") -> int:
    padding = -1 if table.padding_idx is None else table.padding_idx
    return int(getattr(table, "offset", padding + 1))


def count_parameters(model: "nn.Module") -> tuple[int, int]:
    """Return (trainable, total) numbers of parameters; tied weights count once.

    A byte of bitsandbytes' 4-bit weights holds two.
    """
    parameters = list(model.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    packed = sum(p.numel() for p in parameters if type(p).__name__ == "Params4bit")
    return trainable, sum(p.numel() for p in parameters) + packed


def weights_bytes(model: "nn.Module") -> int:
    """Return the bytes of a model's tensors; shared ones count once, scales of quantised ones too.

    bitsandbytes keeps the scales beside the weight, in no buffer.
    """
    tensors = [*model.parameters(), *model.buffers()]
    for parameter in model.parameters():
        for holder in (parameter, getattr(parameter, "quant_state", None)):
            tensors += [t for t in _tensors_of(holder) if t is not parameter]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def _tensors_of(holder: Any) -> list[Any]:
    import torch

    found = []
    for value in getattr(holder, "__dict__", {}).values():
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif hasattr(value, "absmax"):  # the scales of nf4 are quantised once more
            found += _tensors_of(value)
    return found


def kv_cache_bytes(
    layers: int, keys: int, *, tokens: int, batch: int = 1, bytes_per_number: int = 2
) -> int:
    """Return the bytes of all keys and values of `batch` sequences of `tokens` tokens.

    `keys` is the width of a token's keys in a layer: its heads of keys times a head's width.
    """
    return 2 * layers * keys * bytes_per_number * tokens * batch
