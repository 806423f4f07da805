"""Conversion of a small GGUF file written here with the reference implementation of its format."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize

from labkit.models import load, tiny
from labkit.models.convert import convert_gguf

LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    **{f"model.layers.{i}.{a}": f"blk.{i}.{b}" for i in range(2) for a, b in LAYER.items()},
}
CONFIG = {
    **tiny.TINY["tiny-llama"],
    "vocab_size": tiny.VOCAB_SIZE,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """Order the rows as llama.cpp rotates them: pairs (2i, 2i+1) instead of (i, i + d/2)."""
    rows = weight.reshape(heads, 2, -1, weight.shape[1])
    return rows.swapaxes(1, 2).reshape(weight.shape)


@pytest.fixture
def gguf_file(tiny_llama: Path, tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """A Q4_1 file of the tiny model, and the weights that reading it back must give."""
    state = load.load_model(tiny_llama, dtype="float32").state_dict()
    path = tmp_path / "tiny.Q4_1.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(CONFIG["max_position_embeddings"])
    writer.add_embedding_length(CONFIG["hidden_size"])
    writer.add_feed_forward_length(CONFIG["intermediate_size"])
    writer.add_head_count(CONFIG["num_attention_heads"])
    writer.add_head_count_kv(CONFIG["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(CONFIG["rms_norm_eps"])
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(tiny.VOCAB_SIZE)

    model = json.loads((tiny_llama / "tokenizer.json").read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    special, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([special if t in tiny.SPECIAL_TOKENS else normal for t in tokens])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(tiny.CHAT_TEMPLATE)

    expected = {}
    q4_1 = gguf.GGMLQuantizationType.Q4_1
    for ours, theirs in NAMES.items():
        weight = state[f"{ours}.weight"].numpy()
        if weight.ndim == 1:  # norms stay in full precision
            writer.add_tensor(f"{theirs}.weight", weight)
            expected[ours] = weight
            continue
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(
            ours.rsplit(".", 1)[-1]
        )
        stored = quantize(interleave(weight, CONFIG[heads]) if heads else weight, q4_1)
        writer.add_tensor(f"{theirs}.weight", stored, raw_dtype=q4_1)
        # Blocks run along a row, so exchanging rows and quantising commute.
        expected[ours] = dequantize(quantize(weight, q4_1), q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, expected


def test_weights_are_the_files_rounded_to_bf16(
    gguf_file: tuple[Path, dict[str, np.ndarray]], tiny_llama: Path, tmp_path: Path
) -> None:
    path, expected = gguf_file
    folder = tmp_path / "converted"
    convert_gguf(path, folder, CONFIG)
    model = load.load_model(folder)
    state = model.state_dict()
    assert {name.removesuffix(".weight") for name in state} == {*expected, "lm_head"}
    for name, weight in expected.items():
        exact = torch.from_numpy(weight.copy()).to(torch.bfloat16)
        assert torch.equal(state[f"{name}.weight"], exact), name
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not hasattr(model.config, "quantization_config")

    text = "Total revenue in 2019 was $1,496.5 million"
    ours, original = load.load_tokenizer(folder), load.load_tokenizer(tiny_llama)
    assert ours(text).input_ids == original(text).input_ids
    assert ours.chat_template == original.chat_template
    assert ours.model_max_length == CONFIG["max_position_embeddings"]
    assert (ours.bos_token_id, ours.eos_token_id, ours.pad_token_id) == (1, 2, 2)


def test_other_architecture_is_refused(
    gguf_file: tuple[Path, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    path, _ = gguf_file
    with pytest.raises(ValueError, match="does not hold the model expected"):
        convert_gguf(path, tmp_path / "converted", {**CONFIG, "num_hidden_layers": 3})
    assert not (tmp_path / "converted" / "model.safetensors").exists()
