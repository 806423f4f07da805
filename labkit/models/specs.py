"""What each named model is made of: the numbers that decide its memory and its time.

To *estimate* memory or time you need numbers only: layers, widths, vocabulary. They are
written down here, so that `labkit estimate llama-3-70b` needs neither weights nor network.

    parameters of a Llama block = h·(h + 2·h·kv/heads + h) + 3·h·m + 2·h

with hidden width h, MLP width m, `kv` key-value heads; add vocabulary × h for the embedding,
and once more for the head when it is not tied to the embedding, as in the large Llamas.

The numbers are those of each model's `config.json` on the Hub, under the names that
transformers' configuration classes use; the tests build each model without memory for its
weights and compare the number of parameters with the published one.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One model: its place on the Hub, its architecture, and the numbers of its configuration."""

    name: str
    hub_id: str | None
    architecture: str  # model_type of transformers: llama, gemma, mamba, t5, phi, bloom
    config: dict[str, Any]
    gated: bool
    licence: str


def _llama(
    hidden: int, mlp: int, layers: int, heads: int, kv_heads: int, vocab: int, **others: Any
) -> dict[str, Any]:
    rope_theta = others.pop("rope_theta", 10_000.0)
    rope = {"rope_type": "default", "rope_theta": rope_theta, **others.pop("rope", {})}
    return {
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_parameters": rope,
        "tie_word_embeddings": False,
        **others,
    }


_LLAMA_3_TOKENS = {"bos_token_id": 128_000, "eos_token_id": 128_001}
_LLAMA_3_2 = {
    **_LLAMA_3_TOKENS,
    "max_position_embeddings": 131_072,
    "tie_word_embeddings": True,
    "rope_theta": 500_000.0,
    "rope": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}


def _mamba(hidden: int, layers: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "vocab_size": 50_280,
        "state_size": 16,
        "expand": 2,
        "conv_kernel": 4,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_rank": hidden // 16,
        "layer_norm_epsilon": 1e-5,
        "residual_in_fp32": True,
        "tie_word_embeddings": True,
    }


def _spec(
    name: str,
    hub_id: str | None,
    architecture: str,
    licence: str,
    config: dict[str, Any],
    gated: bool = False,
) -> ModelSpec:
    return ModelSpec(
        name=name,
        hub_id=hub_id,
        architecture=architecture,
        config=config,
        gated=gated,
        licence=licence,
    )


_ALL = [
    _spec(
        "smollm2-135m-instruct",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "llama",
        "Apache-2.0",
        _llama(
            *(576, 1536, 30, 9, 3, 49_152),
            max_position_embeddings=8192,
            rope_theta=100_000.0,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=2,
        ),
    ),
    _spec(
        "tinyllama-1.1b",
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        "llama",
        "Apache-2.0",
        _llama(2048, 5632, 22, 32, 4, 32_000, max_position_embeddings=2048),
    ),
    _spec(
        "llama-2-7b",
        "meta-llama/Llama-2-7b-hf",
        "llama",
        "Llama 2 Community",
        _llama(4096, 11_008, 32, 32, 32, 32_000, max_position_embeddings=4096),
        gated=True,
    ),
    _spec(
        "llama-2-13b",
        "meta-llama/Llama-2-13b-hf",
        "llama",
        "Llama 2 Community",
        _llama(5120, 13_824, 40, 40, 40, 32_000, max_position_embeddings=4096),
        gated=True,
    ),
    _spec(
        "llama-3-8b",
        "meta-llama/Meta-Llama-3-8B",
        "llama",
        "Llama 3 Community",
        _llama(
            *(4096, 14_336, 32, 32, 8, 128_256),
            max_position_embeddings=8192,
            rope_theta=500_000.0,
            **_LLAMA_3_TOKENS,
        ),
        gated=True,
    ),
    _spec(
        "llama-3-70b",
        "meta-llama/Meta-Llama-3-70B",
        "llama",
        "Llama 3 Community",
        _llama(
            *(8192, 28_672, 80, 64, 8, 128_256),
            max_position_embeddings=8192,
            rope_theta=500_000.0,
            **_LLAMA_3_TOKENS,
        ),
        gated=True,
    ),
    _spec(
        "llama-3.2-1b",
        "meta-llama/Llama-3.2-1B",
        "llama",
        "Llama 3.2 Community",
        _llama(2048, 8192, 16, 32, 8, 128_256, head_dim=64, **_LLAMA_3_2),
        gated=True,
    ),
    _spec(
        "llama-3.2-3b",
        "meta-llama/Llama-3.2-3B",
        "llama",
        "Llama 3.2 Community",
        _llama(3072, 8192, 28, 24, 8, 128_256, head_dim=128, **_LLAMA_3_2),
        gated=True,
    ),
    _spec(
        "gemma-2b",
        "google/gemma-2b",
        "gemma",
        "Gemma Terms of Use",
        {
            "hidden_size": 2048,
            "intermediate_size": 16_384,
            "num_hidden_layers": 18,
            "num_attention_heads": 8,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "vocab_size": 256_000,
            "max_position_embeddings": 8192,
            "hidden_act": "gelu_pytorch_tanh",
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
            "tie_word_embeddings": True,
        },
        gated=True,
    ),
    _spec("mamba-1.4b", "state-spaces/mamba-1.4b-hf", "mamba", "Apache-2.0", _mamba(2048, 48)),
    _spec("mamba-2.8b", "state-spaces/mamba-2.8b-hf", "mamba", "Apache-2.0", _mamba(2560, 64)),
    _spec(
        "t5-large",
        "google-t5/t5-large",
        "t5",
        "Apache-2.0",
        {
            "d_model": 1024,
            "d_kv": 64,
            "d_ff": 4096,
            "num_layers": 24,
            "num_heads": 16,
            "vocab_size": 32_128,
            "feed_forward_proj": "relu",
            "dropout_rate": 0.1,
            "tie_word_embeddings": True,
            "decoder_start_token_id": 0,
        },
    ),
    _spec(
        "phi-1.5",
        "microsoft/phi-1_5",
        "phi",
        "MIT",
        {
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 24,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "vocab_size": 51_200,
            "max_position_embeddings": 2048,
            "hidden_act": "gelu_new",
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "partial_rotary_factor": 0.5,
            },
            "tie_word_embeddings": False,
        },
    ),
    _spec(
        "bloom-3b",
        "bigscience/bloom-3b",
        "bloom",
        "BigScience RAIL 1.0",
        {
            "hidden_size": 2560,
            "n_layer": 30,
            "n_head": 32,
            "vocab_size": 250_880,
            "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": True,
        },
    ),
]
MODELS: dict[str, ModelSpec] = {spec.name: spec for spec in _ALL}
"""Name → specification, in the order of the course."""
