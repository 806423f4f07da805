"""Random models of every architecture, small enough to build and train in a second.

A test of a training loop, a memory trace or a merge does not need a model that knows
anything; it needs the real class with the real layer names. Two layers and a hidden width
of 64 give about 0.15 M parameters and every code path of the 8-billion one. The tokenizer
is real as well: byte-level BPE (Sennrich et al. 2016, over bytes as in GPT-2), trained on
lines generated here, so any text round-trips and chat templates work.

Everything is seeded: the same name gives the same bytes.
"""

import random
from pathlib import Path
from typing import Any

from labkit.console import quiet
from labkit.errors import LabkitError, nearest
from labkit.files import appearing

VOCAB_SIZE = 768
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_ITEMS = """revenue income expense assets liabilities equity cash inventories goodwill tax
depreciation interest services products software licences segment operations securities
receivables dividends shares costs margin sales research development marketing"""
_MOVES = """increased decreased rose fell remained amounted declined grew changed was were
compared represented included reflected exceeded totalled"""
_WORDS = """total net gross average annual quarterly deferred current other operating fiscal
consolidated estimated reported financial statements report question answer assistant system
user million thousand billion percent percentage difference between ratio higher lower same
from the and for with year ended December September March June compared previous period
primarily due partially offset which what how much many did company management believes
Europe Asia Americas customers employees foreign currency exchange rates fair value"""

_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
_ATTENTION = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 2048,
}

TINY: dict[str, dict[str, Any]] = {
    "tiny-llama": {
        **_ATTENTION,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "rope_parameters": _ROPE,
    },
    "tiny-gemma": {
        **_ATTENTION,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "tie_word_embeddings": True,
        "rope_parameters": _ROPE,
    },
    "tiny-mamba": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "state_size": 8,
        "time_step_rank": 4,
        "tie_word_embeddings": True,
    },
    "tiny-t5": {
        "d_model": 64,
        "d_kv": 16,
        "d_ff": 160,
        "num_layers": 2,
        "num_heads": 4,
        "tie_word_embeddings": True,
        "decoder_start_token_id": 0,
    },
    "tiny-phi": {
        **_ATTENTION,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
        "rope_parameters": {**_ROPE, "partial_rotary_factor": 0.5},
    },
    "tiny-bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4, "tie_word_embeddings": True},
}
"""Name → numbers of its configuration; the architecture is the part after `tiny-`."""


def build_tiny(name: str, directory: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Write the random model `name` with its tokenizer to `directory` and return it.

    `changes` are other numbers of its configuration. The folder appears whole or not at all. Raises
    `LabkitError` on an unknown name.
    """
    if name not in TINY:
        raise LabkitError(f"no tiny model is called {name!r}: {nearest(name, TINY)}")
    import torch
    import transformers

    tokenizer = build_tokenizer()
    config = transformers.AutoConfig.for_model(
        name.removeprefix("tiny-"),
        **{**TINY[name], **changes},
        vocab_size=VOCAB_SIZE,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    auto: Any = transformers.AutoModelForCausalLM
    if config.is_encoder_decoder:
        auto = transformers.AutoModelForSeq2SeqLM
    # A generator of our own would not reach the models' initialisers: fork the global one.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with quiet():
            model = auto.from_config(config, dtype=torch.float32)

    directory = Path(directory)
    with appearing(directory, keep_first=True) as partial, quiet():
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
    return directory


def build_tokenizer() -> Any:
    """Train the byte-level BPE tokenizer of the tiny models and return it, set up like SmolLM2's.

    `<|im_end|>` ends a turn and pads, `<|im_start|>` opens one.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(training_lines(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token=SPECIAL_TOKENS[0],
        bos_token=SPECIAL_TOKENS[1],
        eos_token=SPECIAL_TOKENS[2],
        pad_token=SPECIAL_TOKENS[2],
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def training_lines(count: int = 2000) -> list[str]:
    """Return `count` lines in the manner of a financial report, the same every time."""
    draw = random.Random(0)
    items, moves, words = _ITEMS.split(), _MOVES.split(), _WORDS.split()
    lines = []
    for _ in range(count):
        some = draw.choices(words, k=draw.randint(4, 10))
        year = draw.randint(2009, 2025)
        amount = f"{draw.randint(1, 99_999):,}.{draw.randint(0, 9)}"
        lines.append(
            f"{draw.choice(words).title()} {draw.choice(items)} {draw.choice(moves)} "
            f"{' '.join(some)} in {year} | {draw.choice(items)} | ${amount} million ({year - 1})"
        )
    return lines
