"""Tiny models: reproducible to the byte, with a tokenizer that behaves like the real one's."""

from collections.abc import Callable
from pathlib import Path

import pytest

from labkit.errors import LabkitError
from labkit.models import load, tiny

TEXT = "Revenue rose 12.5 % to $1,496.5 million in 2019 (2018: €1,202) – naïve, 東京 🙂\n\tend"


@pytest.mark.parametrize("name", tiny.TINY)
def test_same_name_same_bytes(name: str, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    again = tiny.build_tiny(name, tmp_path / "again")
    for path in tiny_model(name).iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name
    other = tiny.build_tiny(name, tmp_path / "other", seed=1)
    weights = "model.safetensors"
    assert (other / weights).read_bytes() != (again / weights).read_bytes()


def test_building_leaves_the_random_state_alone(tmp_path: Path) -> None:
    import torch

    state = torch.get_rng_state()
    tiny.build_tiny("tiny-llama", tmp_path / "tiny-llama")
    assert torch.equal(torch.get_rng_state(), state)
    assert [p.name for p in tmp_path.iterdir()] == ["tiny-llama"]


def test_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(LabkitError, match="did you mean 'tiny-llama'"):
        tiny.build_tiny("tiny-lama", tmp_path / "x")


def test_tokenizer_reads_back_any_text(tiny_llama: Path) -> None:
    tokenizer = load.load_tokenizer(tiny_llama)
    ids = tokenizer(TEXT).input_ids
    assert tokenizer.decode(ids) == TEXT
    assert max(ids) < tiny.VOCAB_SIZE == len(tokenizer)
    # Merges were learnt, so this is not one token per byte.
    assert len(tokenizer("total revenue increased").input_ids) <= 6
    # Digits stay apart, as in SmolLM2: numbers of any length are sums of ten tokens.
    assert len(tokenizer("1234567").input_ids) == 7


def test_special_tokens_are_those_of_the_embedded_model(
    tiny_llama: Path, embedded_model: Path
) -> None:
    small, real = load.load_tokenizer(tiny_llama), load.load_tokenizer(embedded_model)
    for attribute in ("bos_token", "eos_token", "pad_token", "unk_token", "padding_side"):
        assert getattr(small, attribute) == getattr(real, attribute)
        if attribute.endswith("token"):
            assert getattr(small, f"{attribute}_id") == getattr(real, f"{attribute}_id")


def test_chat_template_is_the_embedded_models_without_its_default_system_message(
    tiny_llama: Path, embedded_model: Path
) -> None:
    small, real = load.load_tokenizer(tiny_llama), load.load_tokenizer(embedded_model)
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "And 3 + 3?"},
    ]
    for prompt in (True, False):
        options = {"tokenize": False, "add_generation_prompt": prompt}
        assert small.apply_chat_template(chat, **options) == real.apply_chat_template(
            chat, **options
        )
    text = small.apply_chat_template(chat[1:3], tokenize=False)
    assert text == "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n"
    ids = small(text).input_ids
    assert ids.count(small.eos_token_id) == 2
