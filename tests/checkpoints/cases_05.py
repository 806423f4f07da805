"""Lesson 05: answers that fit the fixture's runs and answers that do not."""

SAMPLE = {"sid": 3, "lora_run": "lora", "full_run": "full"}
SAMPLE |= {"untouched_em": 0, "untouched_f1": 0.2, "lora_em": 1, "lora_f1": 1.0}
SAMPLE |= {"full_em": 0, "full_f1": 0.5, "best": "lora"}

SCORES = {"lora_run": "lora", "full_run": "full", "lora_em_percent": 60.0}
SCORES |= {"full_em_percent": 66.0, "difference_low": 2.0, "difference_high": 10.0}
SCORES |= {"verdict": "full is better"}

# SmolLM2-135M: 30 layers, 3 heads of keys and values, 64 numbers each; 134,515,008 parameters.
CACHE = {"model": "smollm2-135m-instruct", "tokens": 1000, "kv_cache_bytes": 23_040_000}
CACHE |= {"weights_bytes": 269_030_016, "conversations": 11.68}

BITS = {"bf16_bytes": 269, "int8_bytes": 163, "nf4_bytes": 113}
BITS |= {"bf16_tokens_per_second": 40.0, "int8_tokens_per_second": 11.0}
BITS |= {"nf4_tokens_per_second": 16.0, "fastest": "bf16"}

TABLE = {
    "05.1": (
        SAMPLE,
        [
            ({"best": "full"}, "best is not what the scores say"),
            ({"lora_em": 0, "lora_f1": 0.5}, "best is not what the scores say"),
            ({"untouched_em": 0.4}, "untouched_em is neither 0 nor 1"),
            ({"lora_f1": 0.7}, "lora_f1 is not between lora_em and 1"),
            ({"full_run": "lora"}, "full_run is not a run with method: full"),
            ({"full_run": "other-model"}, "the runs are of different models"),
            ({"sid": -1}, "sid is not an id"),
        ],
    ),
    "05.2": (
        SCORES,
        [
            ({"lora_em_percent": 0.6}, "lora_em_percent is below the exact match in its record"),
            ({"full_em_percent": 72.0}, "full_em_percent is above the exact match"),
            ({"verdict": "not told apart"}, "verdict is not what the interval says"),
            ({"difference_low": -1.0}, "verdict is not what the interval says"),
            ({"difference_low": 7.0}, "full minus LoRA does not lie between"),
            ({"difference_low": 11.0}, "difference_low is above difference_high"),
            ({"lora_run": "full", "full_run": "lora"}, "lora_run is not a run with method: lora"),
        ],
    ),
    "05.3": (
        CACHE,
        [
            ({"kv_cache_bytes": 69_120_000}, "kv_cache_bytes is above what the formula gives"),
            ({"kv_cache_bytes": 11_520_000}, "kv_cache_bytes is below what the formula gives"),
            ({"tokens": 2000}, "kv_cache_bytes is below what the formula"),
            ({"weights_bytes": 538_060_032}, "weights_bytes is above two bytes for each"),
            ({"conversations": 0.0856}, "conversations is below what weights_bytes and"),
            ({"tokens": 0}, "tokens is not above zero"),
        ],
    ),
    "05.4": (
        BITS,
        [
            ({"fastest": "nf4"}, "fastest is not the one with the highest rate"),
            ({"int8_bytes": 100}, "the sizes do not fall from bf16 over int8 to nf4"),
            ({"nf4_bytes": 60}, "nf4_bytes is less than its bits alone take"),
            ({"int8_bytes": 130}, "int8_bytes is less than its bits alone take"),
            ({"nf4_tokens_per_second": 0}, "nf4_tokens_per_second is not above zero"),
            ({"nf4_tokens_per_second": 50.0}, "fastest is not the one with the highest rate"),
        ],
    ),
}


def records(a_record):
    """Save a LoRA run and a full run with scores, and a run of another model."""

    def scored(em: float) -> dict:
        interval = {"value": em, "low": em - 0.03, "high": em + 0.03}
        few = {"n": 8, "metrics": {"em": {"value": 0.1, "low": 0.0, "high": 0.2}}}
        return {"few/test": few, "tables/test": {"n": 720, "metrics": {"em": interval}}}

    a_record("lora", peak=1000, scores=scored(0.60))
    a_record("full", peak=2500, method="full", scores=scored(0.66))
    a_record("other-model", peak=2500, method="full", model="tiny-llama")
