"""A T5 of a few million weights, pretrained here, for machines that can get no larger one.

T5 (Raffel et al. 2020, arXiv:1910.10683, section 3.1.4) learns from text by *span corruption*: 15 %
of the tokens are hidden, in spans of three on average, each behind a mark of its own, and the
decoder writes what was there:

    text      a column of words cannot adequately describe his vision
    encoder   a column <extra_id_0> cannot adequately describe <extra_id_1> vision
    decoder   <extra_id_0> of words <extra_id_1> his <end>

The model is what minutes on two cores give: it has read some hundred thousand words, where T5 read
a hundred billion. It shows how methods train an encoder-decoder, and not what a T5 is worth.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labkit.console import quiet
from labkit.errors import LabkitError
from labkit.files import appearing
from labkit.machine import arithmetic
from labkit.runs.progress import Progress

SIZES = {"d_model": 192, "d_kv": 32, "d_ff": 512, "num_layers": 3, "num_heads": 6}
VOCABULARY = 4096
MARKS = 32
PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
HIDDEN_SHARE, MEAN_SPAN = 0.15, 3
TOKENS = 64
"""length of a piece of text"""


def build_tokenizer(lines: Sequence[str], *, vocabulary: int = VOCABULARY) -> Any:
    """Return a tokenizer trained on `lines` (byte-level BPE) with T5's marks; token 0 pads."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    raw.decoder = decoders.ByteLevel()
    marks = [f"<extra_id_{i}>" for i in range(MARKS)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[PAD, END, UNKNOWN, *marks],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    raw.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token=PAD, eos_token=END, unk_token=UNKNOWN,
        additional_special_tokens=marks, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def corrupt(
    ids: Sequence[int], marks: Sequence[int], draw: random.Random
) -> tuple[list[int], list[int]]:
    """Return (what the encoder reads, what the decoder writes) of a text, end tokens left out.

    Lengths of hidden spans, and of what lies between, are a random partition of both totals, as in
    T5's own code; a text begins with a token that is seen.
    """
    hidden = max(1, round(HIDDEN_SHARE * len(ids)))
    spans = max(1, min(round(hidden / MEAN_SPAN), len(ids) - hidden, len(marks)))
    read: list[int] = []
    written: list[int] = []
    rest = iter(ids)
    for mark, seen, gone in zip(marks, _parts(len(ids) - hidden, spans, draw),
                                _parts(hidden, spans, draw), strict=False):  # fmt: skip
        read += [*(next(rest) for _ in range(seen)), mark]
        written += [mark, *(next(rest) for _ in range(gone))]
    return read, written


def _parts(total: int, count: int, draw: random.Random) -> list[int]:
    """Return `count` positive whole numbers with this sum, every such partition as likely."""
    cuts = [0, *sorted(draw.sample(range(1, total), count - 1)), total]
    return [after - before for before, after in zip(cuts, cuts[1:], strict=False)]


def pieces(tokenizer: Any, lines: Sequence[str]) -> list[list[int]]:
    """Return the text in pieces of `TOKENS` token ids, lines one behind the other."""
    ids = [token for each in tokenizer(list(lines), add_special_tokens=False)["input_ids"]
           for token in each]  # fmt: skip
    return [ids[at : at + TOKENS] for at in range(0, len(ids) - TOKENS + 1, TOKENS)]


def pretrain(
    folder: Path,
    lines: Sequence[str],
    *,
    steps: int,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
    seed: int = 0,
    quiet_progress: bool = False,
    **sizes: Any,
) -> list[float]:
    """Pretrain a T5 on `lines`, write it with its tokenizer to `folder`, and return its losses.

    `sizes` replace some of `SIZES`. The folder appears whole or not at all.

    Raises:
        LabkitError: too little text for one batch.
    """
    import torch
    import transformers

    tokenizer = build_tokenizer(lines)
    texts = pieces(tokenizer, lines)
    if len(texts) < batch_size:
        raise LabkitError(f"{len(texts)} pieces of {TOKENS} tokens are too little text to pretrain "
                          f"on: give enough for a batch of {batch_size}")  # fmt: skip
    config = transformers.T5Config(
        **{**SIZES, **sizes}, vocab_size=len(tokenizer), dropout_rate=0.0, pad_token_id=0,
        eos_token_id=tokenizer.eos_token_id, decoder_start_token_id=0,
    )  # fmt: skip
    marks = [tokenizer.convert_tokens_to_ids(f"<extra_id_{i}>") for i in range(MARKS)]
    draw = random.Random(seed)
    torch.manual_seed(seed)
    model = transformers.T5ForConditionalGeneration(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, fused=True)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, steps // 20, steps)
    collate = transformers.DataCollatorForSeq2Seq(tokenizer)
    narrow = arithmetic.resolve("auto") == "bfloat16"
    progress = Progress(total=steps, label="pretraining", quiet=quiet_progress)
    losses = []
    for step in range(steps):
        rows = []
        for text in draw.sample(texts, batch_size):
            read, written = corrupt(text, marks, draw)
            end = tokenizer.eos_token_id
            rows.append({"input_ids": [*read, end], "labels": [*written, end]})
        with quiet(), torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            loss = model(**collate(rows)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        progress.count(step + 1)
    model.config.dropout_rate = 0.1  # as T5 is fine-tuned
    with appearing(folder) as partial, quiet():
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
    return losses
