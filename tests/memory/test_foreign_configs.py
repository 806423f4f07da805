"""Configurations that others wrote: old, minimal, of a variant, or of no model at all."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from damaged import fuzz, one_sentence, written
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import LabkitError
from labkit.inference.cost import kv_cache_bytes, measured_kv_cache_bytes
from labkit.memory.architectures import parameters, shape_of
from labkit.memory.estimates import estimate
from labkit.memory.formula import analytic
from labkit.memory.report import render
from labkit.memory.settings import StepSettings

LLAMA = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 300,
         "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip


def folder(path: Path, config: Any) -> str:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return str(path)


def count(config: dict[str, Any]) -> int:
    """Return the parameters of the model that transformers builds from a configuration."""
    made = transformers.AutoConfig.for_model(**config)
    kind = (transformers.AutoModelForSeq2SeqLM if made.is_encoder_decoder
            else transformers.AutoModelForCausalLM)  # fmt: skip
    with torch.device("meta"):
        return sum(p.numel() for p in kind.from_config(made).parameters())


GATED = {"model_type": "t5", "d_model": 64, "d_ff": 96, "d_kv": 16, "num_heads": 4,
         "num_layers": 2, "vocab_size": 300, "feed_forward_proj": "gated-gelu",
         "decoder_start_token_id": 0}  # fmt: skip
VARIANTS = {
    "gated T5": GATED,
    "gated T5 with a head of its own": GATED | {"tie_word_embeddings": False},
    "T5 with a short decoder": GATED | {"feed_forward_proj": "relu", "num_decoder_layers": 1},
    "Llama with biases": LLAMA | {"model_type": "llama", "attention_bias": True},
    "Llama with biases in the MLP": LLAMA | {"model_type": "llama", "mlp_bias": True},
    "Phi with grouped heads": LLAMA | {"model_type": "phi"},
    "Mamba with biases": {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 2,
                          "vocab_size": 300, "use_bias": True},
}  # fmt: skip

PHI = LLAMA | {"model_type": "phi", "num_key_value_heads": 4}
PLAIN_T5 = {k: v for k, v in GATED.items() if k != "feed_forward_proj"}
OTHERS = {
    "Phi-2's dropout": PHI | {"resid_pdrop": 0.1},
    "dropout behind Phi's embedding": PHI | {"embd_pdrop": 0.1},
    "BLOOM with dropout": {"model_type": "bloom", "hidden_size": 64, "n_layer": 2, "n_head": 4,
                           "vocab_size": 300, "hidden_dropout": 0.1},
    "Llama with dropout in attention": LLAMA | {"model_type": "llama", "attention_dropout": 0.1},
    "Phi with another activation": PHI | {"hidden_act": "quick_gelu"},
    "Gemma with another activation": LLAMA | {"model_type": "gemma", "hidden_act": "relu"},
    "Gemma that reads both ways": LLAMA | {"model_type": "gemma",
                                           "use_bidirectional_attention": True},
    "T5 of 64 distances": PLAIN_T5 | {"relative_attention_num_buckets": 64},
    "T5 with GELU": PLAIN_T5 | {"feed_forward_proj": "gelu"},
    "T5 gated by SiLU": PLAIN_T5 | {"feed_forward_proj": "gated-silu"},
    "Mamba's residual in 16 bit": {"model_type": "mamba", "hidden_size": 32, "vocab_size": 300,
                                   "num_hidden_layers": 2, "residual_in_fp32": False},
    "the T5 of many languages": GATED | {"model_type": "mt5"},
}  # fmt: skip


@pytest.mark.parametrize("variant", OTHERS)
def test_what_the_formulas_leave_out_has_none(variant: str, tmp_path: Path) -> None:
    settings = {"batch_size": 1, "seq_len": 8, "method": "full"}
    config = OTHERS[variant]
    assert shape_of(StepSettings(model=folder(tmp_path / "m", config), **settings)) is None
    plain = {k: v for k, v in config.items() if k not in (
        "resid_pdrop", "embd_pdrop", "hidden_dropout", "attention_dropout", "hidden_act",
        "relative_attention_num_buckets", "feed_forward_proj", "residual_in_fp32",
        "use_bidirectional_attention")}  # fmt: skip
    if plain["model_type"] != "mt5":  # without that one setting they have a formula
        assert shape_of(StepSettings(model=folder(tmp_path / "p", plain), **settings)) is not None


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_traced_and_no_formula_is_given(variant: str, tmp_path: Path) -> None:
    config = VARIANTS[variant]
    name = folder(tmp_path / "m", config)
    step = {"batch_size": 1, "seq_len": 8, "method": "full"}
    assert analytic(StepSettings(model=name, **step)) is None
    if config["model_type"] == "mamba":  # its scan takes long to trace
        return
    found = estimate(name, device="a100-80gb", **step)
    assert found.peak_bytes["analytic"] is None and found.peak_bytes["traced"] > 0
    assert found.kv_cache_bytes is None and found.largest_batch_size is None
    assert found.total_parameters == count(config)
    assert "no formula for this architecture: the trace says" in render(found)


PLAIN: dict[str, dict[str, Any]] = {
    "by its class alone": LLAMA | {"architectures": ["LlamaForCausalLM"]},
    "T5 by its class": {k: v for k, v in GATED.items() if k not in ("model_type",
                                                                    "feed_forward_proj")}
    | {"architectures": ["T5ForConditionalGeneration"]},
    "BLOOM of old": {"model_type": "bloom", "n_embed": 64, "n_layer": 2,
                     "num_attention_heads": 4, "vocab_size": 300},
    "without key-value heads": {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"}
    | {"model_type": "llama"},
    "a size and no more": {"model_type": "llama", "num_hidden_layers": 1},
    "a name and no more": {"model_type": "gemma"},
    "Mamba of another rank": {"model_type": "mamba", "hidden_size": 40, "num_hidden_layers": 1,
                              "vocab_size": 300, "time_step_rank": "auto"},
}  # fmt: skip


@pytest.mark.parametrize("kind", PLAIN)
def test_what_an_old_or_minimal_configuration_leaves_out_is_its_class_s(
    kind: str, tmp_path: Path
) -> None:
    config = PLAIN[kind]
    shape = shape_of(StepSettings(model=folder(tmp_path / "it's a 'model' 🙂", config)))
    kinds = {"LlamaForCausalLM": "llama", "T5ForConditionalGeneration": "t5"}
    known = {"model_type": kinds[config["architectures"][0]]} if "architectures" in config else {}
    assert shape is not None
    assert parameters(shape) == count({**config, **known})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([LLAMA], r"it holds \[.*where a model has an object"),
        ("null", "it holds None"),
        ({}, "model_type is missing"),
        ({"model_type": ["llama"]}, "model_type is missing"),
        ({"architectures": "LlamaForCausalLM"}, "model_type is missing"),
        (LLAMA | {"model_type": "llama", "quantization_config": {"load_in_4bit": True}}, "qlora"),
        ('{"model_type": "llama", ', "is not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        (LLAMA | {"model_type": "no_such_kind"}, "not one of no_such_kind"),
        ({"model_type": "llama", "hidden_size": "wide"}, "not one of llama"),
    ],
)
def test_what_is_no_configuration_is_one_sentence(content: Any, says: str, tmp_path: Path) -> None:
    name = folder(tmp_path, content)
    with pytest.raises(LabkitError, match=says) as caught:
        estimate(name, device="a100-80gb", batch_size=1, seq_len=8)
    assert "\n" not in str(caught.value)


RIGHT = [
    LLAMA | {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "rope_scaling": None,
             "quantization_config": {"load_in_8bit": True}, "layer_types": ["full_attention"] * 2},
    GATED, PLAIN["BLOOM of old"], PLAIN["Mamba of another rank"], PLAIN["a name and no more"],
    {"model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_layer": 2, "vocab_size": 300},
]  # fmt: skip


@fuzz
@given(content=st.sampled_from(RIGHT).flatmap(written))
def test_any_configuration_has_a_shape_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    root = tmp_path_factory.mktemp("fuzz")
    (root / "config.json").write_bytes(content)
    try:
        shape_of(StepSettings(model=str(root)))
    except LabkitError as error:
        one_sentence(error)


SMALL = LLAMA | {"pad_token_id": None}
CACHES: dict[str, dict[str, Any]] = {
    "a window not yet full": SMALL | {"model_type": "gemma2", "head_dim": 16, "sliding_window": 64},
    "all attention": SMALL | {"model_type": "qwen2"},
    "Llama": SMALL | {"model_type": "llama"},
    "a window that is full": SMALL | {"model_type": "gemma2", "head_dim": 16, "sliding_window": 8},
    "linear attention": SMALL | {"model_type": "qwen3_next", "head_dim": 16},
    "shared keys": SMALL | {"model_type": "gemma3n_text"},
    "one key for all queries": SMALL | {"model_type": "falcon", "multi_query": True},
    "a state space": {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 1},
    "compressed keys": {"model_type": "deepseek_v3"},
}  # fmt: skip


@pytest.mark.parametrize("kind", list(CACHES)[:3])
def test_the_cache_by_formula_is_the_cache_measured(kind: str) -> None:
    config = transformers.AutoConfig.for_model(**CACHES[kind])
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    for tokens in (5, 20):
        assert kv_cache_bytes(config, tokens=tokens) == measured_kv_cache_bytes(
            model, tokens=tokens)  # fmt: skip


@pytest.mark.parametrize("kind", list(CACHES)[3:])
def test_a_cache_that_the_formula_does_not_describe_is_refused(kind: str) -> None:
    config = transformers.AutoConfig.for_model(**CACHES[kind])
    with pytest.raises(LabkitError, match="no formula for the cache"):
        kv_cache_bytes(config, tokens=32)
