"""Let an encoder-decoder answer: texts in batches of like length, padded right, greedy.

The encoder reads a whole batch at once and a mask hides the padding, so an answer does not depend
on its batch. Padding stands on the right: T5 measures distances between places, and trained tokens
before the text are at the distance that they were trained at.
"""

from collections.abc import Callable, Sequence
from typing import Any

from labkit.datasets.base import Example
from labkit.errors import LabkitError
from labkit.inference.generate import model_path

MAX_NEW_TOKENS = 16
TEXT_MAX_LENGTH = 512
TEXTS_PER_BATCH = 64


def write(
    name: str,
    examples: Sequence[Example],
    *,
    prompt: Callable[[Any, Example, int], list[int]],
    dtype: str,
    exact: bool = True,
    max_new_tokens: int = MAX_NEW_TOKENS,
    progress: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Return what a model, run or adapter of this name writes for each example, in order.

    `prompt(tokenizer, example, max_length)` gives the token ids that the encoder reads; `exact`
    calculates in float32 on a CPU.

    Raises:
        LabkitError: there is no such model, or it only writes on.
    """
    import torch

    from labkit.models import load

    path = model_path(name)
    model: Any = load.load_model(path, dtype=dtype)
    if not model.config.is_encoder_decoder:
        raise LabkitError(
            f"{name} only writes on, and these texts are for a model with an encoder, which "
            "reads, and a decoder: name a T5 or a run of one"
        )
    cuda = torch.cuda.is_available()
    if exact and not cuda and load.quantisation(path) is None:
        model = model.float()
    tokenizer = load.load_tokenizer(path)
    read = [prompt(tokenizer, example, TEXT_MAX_LENGTH) for example in examples]
    written: dict[int, str] = {}
    order = sorted(range(len(read)), key=lambda index: len(read[index]))
    for start in range(0, len(order), TEXTS_PER_BATCH):
        texts = order[start : start + TEXTS_PER_BATCH]
        padded = tokenizer.pad({"input_ids": [read[index] for index in texts]},
                               padding_side="right", return_tensors="pt")  # fmt: skip
        with torch.inference_mode():
            out = model.generate(
                input_ids=padded["input_ids"].to(model.device),
                attention_mask=padded["attention_mask"].to(model.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
            )
        found = tokenizer.batch_decode(out, skip_special_tokens=True)
        written.update(zip(texts, map(str.strip, found), strict=True))
        progress(len(written))
    return [written[index] for index in range(len(examples))]
