"""Measure what inference costs: weights, KV cache, and time per token.

While a model writes, every token it has read leaves a key and a value in every layer, so that
nothing is read twice. This **KV cache** grows with each token of each sequence:

    bytes = 2 · L · n_kv · d · b · tokens · batch

L layers, n_kv heads of keys and values (fewer than query heads where queries share them, Ainslie
et al. 2023), d numbers per head, b bytes per number. The weights are paid once, the cache for
every conversation, and with long prompts or many users it is the larger of the two.

Fewer bits make the weights smaller: 8 bits with one scale per row (Dettmers et al., LLM.int8(),
2022), 4 bits in the nf4 table with one scale per 64 weights (Dettmers et al., QLoRA, 2023). What
they cost in time depends on the kernel: where the machine cannot multiply the small type, each
weight is widened again at every use.
"""

import gc
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from labkit.datasets.tatqa import Sample
from labkit.errors import LabkitError
from labkit.files import expanded
from labkit.inference.generate import Generator, load_generator
from labkit.models import layers
from labkit.models.layers import weights_bytes
from labkit.runs import measurements

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of one form of a model in memory. Sizes in bytes, rates in tokens per second."""

    label: str
    weights_bytes: int
    kv_cache_bytes: int
    """of one sequence with the prompt's tokens"""
    reading_per_second: float
    writing_per_second: float
    em: float | None
    f1: float | None


def kv_cache_bytes(config: Any, *, tokens: int, batch: int = 1, bytes_per_number: int = 2) -> int:
    """Return the size of the cache by the formula, from a transformers configuration.

    Raises LabkitError for models whose layers do not all keep a key and a value for each token:
    what they keep has no formula here, and `measured_kv_cache_bytes` reads it from the model.
    """
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    kinds = {str(kind) for kind in getattr(config, "layer_types", None) or ["full_attention"]}
    window = getattr(config, "sliding_window", None) or tokens
    if kinds <= {"full_attention", "sliding_attention"} and tokens < window:
        kinds = {"full_attention"}  # a window that is not full yet holds everything
    odd = [key for key in _KEEPS_LESS if getattr(config, key, None)]
    if kinds != {"full_attention"} or odd or not getattr(config, "num_attention_heads", None):
        why = ", ".join([*sorted(kinds - {"full_attention"}), *odd]) or "no attention"
        raise LabkitError(
            f"there is no formula for the cache of a {config.model_type} model ({why}): "
            "measured_kv_cache_bytes reads it from the model, and labkit estimate traces a step"
        )
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return layers.kv_cache_bytes(
        config.num_hidden_layers, kv_heads * head_dim, tokens=tokens, batch=batch,
        bytes_per_number=bytes_per_number,
    )  # fmt: skip


_KEEPS_LESS = (
    "is_encoder_decoder", "kv_lora_rank", "num_kv_shared_layers", "multi_query", "mamba_d_state",
    "layers_block_type", "attn_layer_period", "hybrid_override_pattern", "block_configs",
    "attention_chunk_size", "full_attn_idxs",
)  # fmt: skip


def measured_kv_cache_bytes(model: Any, *, tokens: int, batch: int = 1) -> int:
    """Return the bytes of all keys and values after the model has read `tokens` tokens."""
    import torch

    ids = torch.arange(tokens).repeat(batch, 1).to(model.device) % model.config.vocab_size
    with torch.inference_mode():
        cache = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def variants(model: str, adapter: str) -> Iterator[tuple[str, Generator]]:
    """Yield the ways to hold a fine-tuned model, one at a time, each with its label.

    `model` is the base, `adapter` a LoRA run on it. The merged model is written to a temporary
    folder in bfloat16, from which the quantised ones are read. All compute in the type that is
    fast here; where that is float32, the merged model in bfloat16 is one more, smaller, and slow
    at reading.
    """
    from labkit import methods
    from labkit.console import quiet, quiet_bitsandbytes
    from labkit.machine import arithmetic
    from labkit.models import load

    quiet_bitsandbytes()
    dtype = arithmetic.resolve("auto")
    fast = label_of(dtype)
    yield f"untouched, {fast}", load_generator(model, dtype=dtype)
    tuned = load_generator(adapter, dtype=dtype)
    yield f"LoRA beside the base, {fast}", tuned
    tokenizer = tuned.tokenizer
    del tuned
    with tempfile.TemporaryDirectory() as folder:
        # The sum is made in float32 and rounded once.
        merged = methods.merge(load_generator(adapter, dtype="float32").model)
        with quiet():
            merged.bfloat16().save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        del merged
        gc.collect()
        for each in dict.fromkeys((dtype, "bfloat16")):
            yield f"merged, {label_of(each)}", load_generator(folder, dtype=each)
        for label, to in {"merged, 8-bit": "8bit", "merged, nf4": "nf4"}.items():
            settings = load.quantisation_settings(to, dtype=dtype)
            with quiet():
                small = load.load_model(folder, dtype=dtype, quantization_config=settings)
            yield label, Generator(name=label, tokenizer=tokenizer, model=small)
            del small
            gc.collect()


def label_of(dtype: str) -> str:
    """Return what a type is called in tables: bf16, float32."""
    return {"bfloat16": "bf16"}.get(dtype, dtype)


def cost(
    label: str, generator: Generator, samples: Sequence[Sample] = (), *,
    prompt_tokens: int = 512, new_tokens: int = 32, repeats: int = 3,
) -> Cost:  # fmt: skip
    """Measure one variant: memory, prefill and decoding rates, and its score on `samples`.

    Rates are medians of `repeats` passes over one sequence, after one that is not counted.
    """
    from labkit.console import quiet

    model = generator.model
    with quiet():  # int8 says at every layer that it computes in another type
        seconds = {n: _seconds(model, prompt_tokens, n, repeats) for n in (1, 1 + new_tokens)}
        replies = generator.answer(samples) if samples else []
    writing = (seconds[1 + new_tokens] - seconds[1]) / new_tokens
    return Cost(
        label=label,
        weights_bytes=weights_bytes(model),
        kv_cache_bytes=measured_kv_cache_bytes(model, tokens=prompt_tokens),
        reading_per_second=prompt_tokens / seconds[1],
        writing_per_second=1 / max(writing, 1e-9),
        em=sum(r.em for r in replies) / len(replies) if replies else None,
        f1=sum(r.f1 for r in replies) / len(replies) if replies else None,
    )


def _seconds(model: Any, prompt_tokens: int, new_tokens: int, repeats: int) -> float:
    import torch

    ids = torch.arange(prompt_tokens)[None].to(model.device) % model.config.vocab_size
    times = []
    for _ in range(1 + repeats):
        started = time.perf_counter()
        with torch.inference_mode():
            model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False,
                min_new_tokens=new_tokens, max_new_tokens=new_tokens, pad_token_id=0,
            )  # fmt: skip
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return median(times[1:])


def keep(measured: Cost, *, model: str, adapter: str) -> None:
    """Keep the cost of one form of a fine-tuned model as a measurement, `cost`."""
    values = asdict(measured)
    # Two machines never take the same time: equal seconds are a copied file.
    values["writing_seconds_per_token"] = 1 / measured.writing_per_second
    measurements.keep("cost", values, label=measured.label, model=model, adapter=adapter)


def cost_table(costs: Sequence[Cost]) -> "pandas.DataFrame":
    """Return the costs of variants as a table for people."""
    import pandas

    def percent(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f} %"

    rows = {
        c.label: {
            "weights (MiB)": f"{c.weights_bytes / 2**20:,.0f}",
            "KV cache (MiB)": f"{c.kv_cache_bytes / 2**20:,.1f}",
            "reading (tokens/s)": f"{c.reading_per_second:,.0f}",
            "writing (tokens/s)": f"{c.writing_per_second:,.1f}",
            "exact match": percent(c.em),
            "F1": percent(c.f1),
        }
        for c in costs
    }
    return pandas.DataFrame(rows).T


def families(folder: str | Path | None) -> dict[str, dict[str, Path]]:
    """Return base models that have fine-tuned ones beside them: {base: {label: folder}}.

    What was made from `NAME` lies beside it as `NAME-Lora` and `NAME-FFT`, in any case.
    """
    root = expanded(folder) if folder else None
    if root is None or not root.is_dir():
        return {}
    by_name = {p.name.lower(): p for p in sorted(root.iterdir()) if p.is_dir()}
    found = {}
    for name, path in by_name.items():
        beside = {"LoRA": by_name.get(f"{name}-lora"), "full": by_name.get(f"{name}-fft")}
        tuned = {label: p for label, p in beside.items() if p is not None}
        if tuned:
            found[path.name] = {"untouched": path, **tuned}
    return found
