"""How many positions a model reads, compared with what its forward pass takes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from labkit.models import layers, load

SMALL = {"vocab_size": 100, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
ATTENTION = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TABLES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_positions": 12, "n_embd": 16, "n_layer": 1, "n_head": 2},
    "gpt_neo": {"max_position_embeddings": 12, "hidden_size": 16, "num_layers": 1, "num_heads": 2,
                "attention_types": [[["global"], 1]]},
    "openai-gpt": {"n_positions": 12, "n_embd": 16, "n_layer": 1, "n_head": 2},
    "opt": {**ATTENTION, "max_position_embeddings": 12, "word_embed_proj_dim": 16, "ffn_dim": 16},
    "biogpt": {**ATTENTION, "max_position_embeddings": 12, "intermediate_size": 16},
    "roberta": {**ATTENTION, "max_position_embeddings": 14, "intermediate_size": 16,
                "is_decoder": True},
}  # fmt: skip


@pytest.mark.parametrize("architecture", TABLES)
def test_a_table_of_positions_is_as_long_as_the_longest_text(architecture: str) -> None:
    config = transformers.AutoConfig.for_model(architecture, **SMALL, **TABLES[architecture])
    model: Any = transformers.AutoModelForCausalLM.from_config(config).eval()
    assert layers.positions(model) == 12
    model(input_ids=torch.full((1, 12), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, 13), 5))


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-phi", "tiny-bloom", "tiny-t5", "tiny-mamba"])
def test_other_positions_have_no_table(tiny_model: Callable[[str], Path], name: str) -> None:
    assert layers.positions(load.load_model(tiny_model(name), dtype="float32")) is None


def test_the_table_of_an_image_s_patches_is_none_of_the_text_s() -> None:
    config = transformers.Gemma3Config(
        text_config={**ATTENTION, "vocab_size": 100, "intermediate_size": 16, "head_dim": 8,
                     "num_key_value_heads": 1},
        vision_config={**ATTENTION, "intermediate_size": 16, "image_size": 28, "patch_size": 14},
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config)
    assert any("position_embedding" in name for name, _ in model.named_modules())
    assert layers.positions(model) is None
