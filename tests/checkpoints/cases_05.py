"""Lesson 05: answers that fit the fixture's runs and answers that do not."""

from labkit.runs import measurements

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

BASES = {"sid": 3, "first_model": "a", "first_examples": 0, "first_em": 0, "first_f1": 0.2}
BASES |= {"second_model": "a", "second_examples": 2, "second_em": 1, "second_f1": 1.0}
BASES |= {"best": "second"}

BASE = "smollm2-135m-instruct"
REPLIES = {
    # (model, sample, worked examples): (exact match, F1)
    (BASE, 3, 0): (0, 0.2), ("lora", 3, 0): (1, 1.0), ("full", 3, 0): (0, 0.5),
    (BASE, 0, 0): (0, 0.0), ("lora", 0, 0): (0, 0.0), ("full", 0, 0): (0, 0.0),
    (BASE, 7, 0): (1, 1.0), ("lora", 7, 0): (1, 1.0), ("full", 7, 0): (0, 0.0),
    ("a", 3, 0): (0, 0.2), ("a", 3, 2): (1, 1.0), ("b", 3, 0): (0, 0.2),
    ("b", 0, 0): (1, 1.0), ("a", 0, 0): (0, 0.3333333),
}  # fmt: skip
# (form, bytes, tokens per second) of two adapters: one machine is quick, the other crawls
COSTS = {
    "lora": [("bf16", 269, 40.0), ("8-bit", 163, 11.0), ("nf4", 113, 16.0)],
    "slow": [("bf16", 269, 0.5), ("8-bit", 163, 0.02), ("nf4", 113, 0.5)],
}

TABLE = {
    "05.1": (
        SAMPLE,
        [
            ({"best": "full"}, "best is not what the scores say"),
            ({"lora_em": 0, "lora_f1": 0.5}, "best is not what the scores say"),
            ({"untouched_em": 0.4}, "untouched_em is neither 0 nor 1"),
            ({"untouched_em": 1, "untouched_f1": 1.0, "best": "none"},
             "untouched_em and untouched_f1 are not those of the reply"),
            ({"untouched_f1": 0.9}, "untouched_em and untouched_f1 are not those of the reply"),
            ({"full_em": 1, "full_f1": 1.0, "best": "none"}, "full_em and full_f1 are not those"),
            ({"sid": 7}, "untouched_em and untouched_f1 are not those of the reply"),
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
            ({"difference_low": 0.5}, "difference_low is not the low end of the interval"),
            ({"difference_high": 30.0}, "difference_high is not the high end of the interval"),
            ({"difference_low": 0.02, "difference_high": 0.1}, "difference_low is not the low end"),
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
            ({"bf16_tokens_per_second": 400.0}, "bf16_tokens_per_second is above what was"),
            ({"nf4_tokens_per_second": 1.6}, "nf4_tokens_per_second is below what was measured"),
            ({"int8_bytes": 140}, "int8_bytes is below what was measured"),
            ({"bf16_bytes": 1000, "int8_bytes": 600, "nf4_bytes": 300}, "bf16_bytes is above what"),
        ],
    ),
    "05.5": (
        BASES,
        [
            ({"best": "first"}, "best is not what the scores say"),
            ({"second_examples": 0}, "first and second are the same model, asked the same way"),
            ({"first_em": 1, "first_f1": 1.0, "best": "none"}, "first_em and first_f1 are not"),
            ({"second_f1": 0.5}, "second_f1 is not between second_em and 1"),
            ({"first_model": "lora"}, "first_model is a run: name a base model"),
            ({"first_f1": 0.4}, "first_em and first_f1 are not those of the reply"),
            ({"second_examples": -2}, "second_examples is below zero"),
            ({"sid": -3}, "sid is not an id"),
        ],
    ),
}  # fmt: skip

HONEST = {
    "05.1": [
        # All three are wrong and equal; two are right and equal.
        {"sid": 0, "untouched_f1": 0, "lora_em": 0, "lora_f1": 0, "full_f1": 0, "best": "none"},
        {"sid": 7, "untouched_em": 1, "untouched_f1": 1, "full_f1": 0.0, "best": "none"},
        {"untouched_f1": 0.2049},
    ],
    "05.2": [
        {"lora_em_percent": 60.04, "full_em_percent": 65.97, "difference_low": 1.96},
        {"difference_low": -1.0, "verdict": "not told apart", "full_run": "again"},
        {"difference_high": 10.04},
    ],
    "05.3": [
        {"tokens": 1, "kv_cache_bytes": 23_040, "conversations": 11_677},
        {"tokens": 100_000, "kv_cache_bytes": 2_304_000_000, "conversations": 0.1168},
        {"kv_cache_bytes": 23_000_000, "weights_bytes": 269_000_000, "conversations": 11.7},
    ],
    "05.4": [
        # Two forms are equally fast, and either is an answer; the machine is a slow one.
        {"bf16_tokens_per_second": 0.5, "int8_tokens_per_second": 0.02,
         "nf4_tokens_per_second": 0.5},
        {"bf16_tokens_per_second": 0.5, "int8_tokens_per_second": 0.02,
         "nf4_tokens_per_second": 0.5, "fastest": "nf4"},
        {"bf16_bytes": 270, "nf4_bytes": 112, "int8_tokens_per_second": 11.3},
    ],
    "05.5": [
        {"second_model": "b", "second_examples": 0, "second_em": 0, "second_f1": 0.2,
         "best": "none"},
        {"sid": 0, "first_model": "b", "first_em": 1, "first_f1": 1, "second_examples": 0,
         "second_em": 0, "second_f1": 0.33, "best": "first"},
        {"first_model": "b"},
    ],
}  # fmt: skip


def records(a_record):
    """Save runs with scores, and keep replies, costs and the comparison of the runs."""

    def scored(em: float) -> dict:
        interval = {"value": em, "low": em - 0.03, "high": em + 0.03}
        few = {"n": 8, "metrics": {"em": {"value": 0.1, "low": 0.0, "high": 0.2}}}
        return {"few/test": few, "tables/test": {"n": 720, "metrics": {"em": interval}}}

    a_record("lora", peak=1000, scores=scored(0.60))
    a_record("full", peak=2500, method="full", scores=scored(0.66))
    a_record("again", peak=2500, method="full", scores=scored(0.66), seed=2)
    a_record("other-model", peak=2500, method="full", model="tiny-llama")
    for (model, sid, examples), (em, f1) in REPLIES.items():
        measurements.keep("reply", {"em": em, "f1": f1, "text": "x"}, model=model, sid=sid,
                          data="tables", split="test", examples=examples)  # fmt: skip
    for second, low in {"full": 2.0, "again": -1.0}.items():
        values = {"value": 6.0, "low": low, "high": 10.0, "n": 720}
        measurements.keep("difference", values, first="lora", second=second, data="tables")
    for adapter, rows in COSTS.items():
        for form, size, rate in rows:
            values = {"weights_bytes": size, "writing_per_second": rate}
            measurements.keep("cost", values, label=f"merged, {form}", model=BASE, adapter=adapter)
