"""Lesson 06: answers that fit the fixture's runs and answers that do not."""

from labkit.runs import measurements

COST = {"lora_run": "lora", "other_run": "ia3", "trained_ratio": 0.0118, "memory_ratio": 0.9}
COST |= {"time_ratio": 0.8}

BETTER = {"first_run": "lora", "second_run": "prefix", "difference": -8.3}
BETTER |= {"difference_low": -14.1, "difference_high": -2.5, "verdict": "first is better"}

# SmolLM2-135M: 30 layers, hidden 576, keys 3·64, MLP 1536. Prefix 20·30·2·192, (IA)³
# 30·(2·192 + 1536), LoRA 16·30·(2·1152 + 2·768 + 3·2112), bottleneck 30·2·(2·576·64 + 64 + 576).
COUNTS = {"model": "smollm2-135m-instruct", "prefix_tokens": 20, "prefix_parameters": 230_400}
COUNTS |= {"ia3_parameters": 57_600, "lora_rank": 16, "lora_parameters": 4_884_480}
COUNTS |= {"bottleneck_width": 64, "bottleneck_parameters": 4_462_080, "fewest": "ia3"}

FORGOT = {"run": "lora", "bits_before": 1.31, "bits_after": 1.402, "change_low": 0.05}
FORGOT |= {"change_high": 0.134, "verdict": "it forgot"}

TABLE = {
    "06.1": (
        COST,
        [
            ({"trained_ratio": 84.8}, "trained_ratio is above the ratio of the trained"),
            ({"memory_ratio": 1.11}, "memory_ratio is above the ratio of the peak"),
            ({"memory_ratio": 0.0118}, "memory_ratio is below the ratio of the peak"),
            ({"time_ratio": 1.25}, "time_ratio is above the ratio of the median"),
            ({"other_run": "again"}, "other_run is of the same method as lora_run"),
            ({"other_run": "longer"}, "differ in more than their method: max_length"),
            ({"other_run": "unfinished"}, "other_run is not finished"),
            ({"lora_run": "ia3", "other_run": "lora"}, "lora_run is not a run with method: lora"),
            ({"other_run": "elsewhere"}, "the runs are of different models"),
        ],
    ),
    "06.2": (
        BETTER,
        [
            ({"difference": 8.3}, "the difference does not lie within its interval"),
            ({"difference": -0.083}, "the difference does not lie within its interval"),
            ({"verdict": "not told apart"}, "verdict is not what the interval says"),
            ({"verdict": "second is better"}, "verdict is not what the interval says"),
            ({"first_run": "prefix", "second_run": "lora"},
             "difference_low is not that of your comparison"),
            ({"difference_low": -20.0}, "difference_low is not that of your comparison"),
            ({"difference_high": -14.1, "difference_low": -2.5}, "is above difference_high"),
            ({"second_run": "lora"}, "first_run and second_run are the same run"),
        ],
    ),
    "06.3": (
        COUNTS,
        [
            ({"prefix_parameters": 115_200}, "prefix_parameters is below what the formula"),
            ({"prefix_parameters": 691_200}, "prefix_parameters is above what the formula"),
            ({"ia3_parameters": 1_920}, "ia3_parameters is below what the formula"),
            ({"lora_parameters": 2_442_240}, "lora_parameters is below what the formula"),
            ({"lora_rank": 8}, "lora_parameters is above what the formula"),
            ({"bottleneck_parameters": 2_231_040}, "bottleneck_parameters is below what"),
            ({"fewest": "prefix"}, "fewest is not the smallest of the four"),
            ({"prefix_tokens": 0}, "prefix_tokens is not above zero"),
        ],
    ),
    "06.4": (
        FORGOT,
        [
            ({"bits_before": 1.402, "bits_after": 1.31}, "does not lie within its interval"),
            ({"bits_after": 2.4, "change_high": 2.0}, "bits_after is not that of your"),
            ({"verdict": "not told apart"}, "verdict is not what the interval says"),
            ({"verdict": "it improved"}, "verdict is not what the interval says"),
            ({"change_low": 0.134, "change_high": 0.05}, "change_low is above change_high"),
            ({"change_low": -0.05, "verdict": "not told apart"}, "change_low is not that of your"),
            ({"bits_before": 0.0}, "bits_before is not above zero"),
        ],
    ),
}  # fmt: skip

HONEST = {
    "06.1": [
        {"trained_ratio": 0.012, "memory_ratio": 0.9, "time_ratio": 0.81},
        # A method that trains everything, and one that takes as long as LoRA.
        {"other_run": "full", "trained_ratio": 27.5, "memory_ratio": 2.2, "time_ratio": 1.3},
        {"other_run": "seeded"},
    ],
    "06.2": [
        {"second_run": "ia3", "difference": 0.0, "difference_low": -5.2, "difference_high": 5.2,
         "verdict": "not told apart"},
        {"difference": -8.33, "difference_low": -14.12, "difference_high": -2.46},
        {"second_run": "full", "difference": 4.2, "difference_low": 0.1, "difference_high": 8.3,
         "verdict": "second is better"},
    ],
    "06.3": [
        {"prefix_tokens": 1, "prefix_parameters": 11_520, "fewest": "prefix"},
        {"lora_rank": 1, "lora_parameters": 305_280},
        {"model": "llama-2-7b", "prefix_tokens": 10, "prefix_parameters": 2_621_440,
         "ia3_parameters": 614_400, "lora_rank": 8, "lora_parameters": 19_988_480,
         "bottleneck_width": 8, "bottleneck_parameters": 4_456_960},
    ],
    "06.4": [
        {"bits_before": 1.3104, "bits_after": 1.4016, "change_low": 0.0502},
        {"run": "ia3", "bits_after": 1.311, "change_low": -0.004, "change_high": 0.006,
         "verdict": "not told apart"},
        {"run": "prefix", "bits_after": 1.3, "change_low": -0.018, "change_high": -0.002,
         "verdict": "it improved"},
    ],
}  # fmt: skip

CHANGES = {
    # run: bits after, and the interval of the change from 1.31
    "lora": (1.402, 0.05, 0.134), "ia3": (1.311, -0.004, 0.006), "prefix": (1.3, -0.018, -0.002),
}  # fmt: skip
DIFFERENCES = {
    "prefix": (-8.3, -14.1, -2.5), "ia3": (0.0, -5.2, 5.2), "full": (4.2, 0.1, 8.3),
}  # fmt: skip


def records(a_record):
    """Save runs of several methods, their comparisons with LoRA, and what they forgot."""
    a_record("lora", peak=1000, trainable=4_884_480, step=1.0)
    a_record("again", peak=1000, trainable=4_884_480, step=1.0)
    a_record("ia3", peak=900, trainable=57_600, step=0.8, method="ia3")
    a_record("seeded", peak=900, trainable=57_600, step=0.8, method="ia3", seed=7)
    a_record("prefix", peak=950, trainable=230_400, step=0.9, method="prefix")
    a_record("full", peak=2200, trainable=134_515_008, step=1.3, method="full")
    a_record("longer", peak=900, trainable=57_600, step=0.8, method="ia3", max_length=512)
    a_record("unfinished", peak=900, trainable=57_600, step=0.8, method="ia3", status="cancelled")
    a_record("elsewhere", peak=900, trainable=57_600, step=0.8, method="ia3", model="tiny-llama")
    for second, (value, low, high) in DIFFERENCES.items():
        measurements.keep("difference", {"value": value, "low": low, "high": high, "n": 240},
                          first="lora", second=second, data="tables")  # fmt: skip
    measurements.keep("difference", {"value": 8.3, "low": 2.5, "high": 14.1, "n": 240},
                      first="prefix", second="lora", data="tables")  # fmt: skip
    for run, (after, low, high) in CHANGES.items():
        values = {"before": 1.31, "after": after, "low": low, "high": high}
        measurements.keep("forgetting", values, run=run)
