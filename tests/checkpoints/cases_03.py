"""Lesson 03: answers that fit the fixture's points and answers that do not."""

from labkit.files import write_json
from labkit.runs import measurements
from labkit.runs import records as results

BASE = {"model": "m", "method": "lora", "seq_len": 64, "gradient_checkpointing": False,
        "gradient_accumulation_steps": 1}  # fmt: skip
# peak = 1000 + 200·B, time = 1 + 0.25·B: 51.2, 85.3, 128, 170.7 and 204.8 tokens/s
POINTS = [
    {"batch_size": 1, "peak": 1200, "seconds": 1.25},
    {"batch_size": 2, "peak": 1400, "seconds": 1.5},
    {"batch_size": 4, "peak": 1800, "seconds": 2.0},
    {"batch_size": 8, "peak": 2600, "seconds": 2.2},
    {"batch_size": 16, "peak": 4200, "seconds": 4.2},
    {"batch_size": 32, "peak": None, "seconds": None},
    {"batch_size": 4, "peak": 1300, "seconds": 2.7, "gradient_checkpointing": True},
    {"batch_size": 2, "peak": 1450, "seconds": 3.0, "gradient_accumulation_steps": 2},
    *(
        {"batch_size": b, "peak": 1000 + 200 * b, "seconds": 9.0, "seq_len": 32, "limit": 5000}
        for b in (7, 8)
    ),
    {"batch_size": 9, "peak": None, "seconds": None, "seq_len": 32, "limit": 5000},
]
FAST = 64 * 16 / 4.2
BEST = 64 * 8 / 2.2

# Llama-3-8B on A100s with 40 GB, one sample of 1,024 tokens a card, with checkpointing. By hand:
# 8.03e9 frozen weights of 2 bytes are 15.0 GiB, 42e6 adapters of 12 bytes 0.5, the logits in 2 + 4
# bytes with their gradient 1.5, layer inputs 0.25. In full 16 bytes a weight over four cards are
# 29.9 GiB, gathered layers and the embedding about 3.2, a bucket of gradients 0.9. One product more
# is 8/6 of the time, the optimizer's passes over a quarter of its state come on top.
GIB = 2**30
EIGHT = {"seq_len": 1024, "checkpointing": "with", "lora_batch": 12, "full_batch_per_gpu": 2,
         "full_samples_per_step": 8, "lora_bytes": 17.2 * GIB, "full_bytes": 36.5 * GIB,
         "time_ratio": 1.37}  # fmt: skip

# A table of a small card: peak and least time of each row, the first with everything on.
ROWS = {
    "everything on": (1000, 3.0), "checkpointing": (1600, 2.0), "chunked loss": (1300, 2.9),
    "16-bit weights": (1900, 9.0), "small rank": (1010, 3.1), "fused AdamW": (1020, 3.0),
}  # fmt: skip
LEFT_OUT = {"all_on_bytes": 1000, "largest": "16-bit weights", "largest_bytes": 1900,
            "unchanged": "small rank", "slowest": "checkpointing"}  # fmt: skip

TABLE = {
    "03.1": (
        {"small_batch": 2, "large_batch": 8, "small_bytes": 1400, "large_bytes": 2600,
         "bytes_per_sample": 200, "constant_bytes": 1000},
        [
            ({"bytes_per_sample": 325}, "bytes_per_sample is above what the two peaks give"),
            ({"constant_bytes": 1400}, "constant_bytes is above what the two peaks give"),
            ({"large_batch": 2}, "large_batch is not above small_batch"),
            ({"small_bytes": 1200}, "no sweep of yours has these peaks"),
            ({"large_batch": 32}, "no sweep of yours has these peaks"),
            ({"small_bytes": -1400}, "small_bytes is not above zero"),
        ],
    ),
    "03.2": (
        {"highest_tokens_per_second": FAST, "best_batch_size": 8, "best_tokens_per_second": BEST,
         "share_percent": 100 * BEST / FAST, "highest_bytes": 4200, "best_bytes": 2600,
         "held_bytes": 3400},
        [
            ({"highest_bytes": 2600}, "highest_bytes is below the peak of the batch with"),
            ({"best_bytes": 4200}, "best_bytes is above the peak of best_batch_size"),
            ({"held_bytes": 9000}, "held_bytes is not what the process of best_batch_size held"),
            ({"held_bytes": 2600}, "held_bytes is not what the process of best_batch_size held"),
            ({"best_batch_size": 16, "best_tokens_per_second": FAST, "share_percent": 100},
             "a batch smaller than best_batch_size is within a tenth"),
            ({"best_batch_size": 4, "best_tokens_per_second": 128, "share_percent": 52.5},
             "best_batch_size is more than a tenth below"),
            ({"highest_tokens_per_second": 2 * FAST}, "is not the highest of any of your sweeps"),
            ({"best_tokens_per_second": 128}, "best_tokens_per_second is below what the sweep has"),
            ({"share_percent": 0.95}, "share_percent is below what best_tokens_per_second and"),
            ({"best_batch_size": 7}, "best_batch_size is not a batch of that sweep"),
        ],
    ),
    "03.3": (
        {"checkpointing_memory": "shrinks", "checkpointing_time": "grows",
         "accumulation_memory": "shrinks"},
        [
            ({"checkpointing_memory": "grows"}, "checkpointing_memory: your points show otherwise"),
            ({"checkpointing_memory": "no change"}, "checkpointing_memory: your points show"),
            ({"checkpointing_time": "shrinks"}, "checkpointing_time: your points show otherwise"),
            ({"checkpointing_time": "no change"}, "checkpointing_time: your points show otherwise"),
            ({"accumulation_memory": "grows"}, "accumulation_memory: your points show otherwise"),
        ],
    ),
    "03.4": (
        EIGHT,
        [
            ({"lora_batch": 90}, "lora_batch does not fit by the formulas"),
            ({"lora_batch": 1}, "a much larger lora_batch still fits by the formulas"),
            ({"lora_batch": 0}, "a much larger lora_batch still fits by the formulas"),
            ({"full_batch_per_gpu": 400, "full_samples_per_step": 1600},
             "full_batch_per_gpu does not fit by the formulas"),
            ({"full_batch_per_gpu": 8, "full_samples_per_step": 32},
             "full_batch_per_gpu does not fit by the formulas"),
            ({"full_batch_per_gpu": -4, "full_samples_per_step": -16},
             "full_batch_per_gpu is below zero"),
            ({"full_batch_per_gpu": 0, "full_samples_per_step": 0},
             "full_batch_per_gpu is 0, but one sample fits"),
            ({"full_samples_per_step": 4}, "full_samples_per_step is below the batch of one"),
            ({"full_samples_per_step": 64}, "full_samples_per_step is above the batch of one"),
            ({"lora_bytes": 33.1 * GIB}, "lora_bytes is above what the formulas give"),
            ({"full_bytes": 4 * 33.1 * GIB}, "full_bytes is above what the formulas give"),
            ({"time_ratio": 1 / 1.37}, "time_ratio is below the ratio of the least times"),
            ({"seq_len": 0}, "seq_len is not above zero"),
            ({"checkpointing": "without"}, "lora_batch does not fit by the formulas"),
        ],
    ),
    "03.5": (
        {"memory_limit_bytes": 5000, "largest_batch_size": 8, "predicted_batch_size": 7},
        [
            ({"largest_batch_size": 9}, "your own points ran out of memory at largest_batch_size"),
            ({"largest_batch_size": 16}, "your own points ran out of memory at largest_batch_size"),
            ({"largest_batch_size": 7}, "a larger batch than largest_batch_size ran"),
            ({"largest_batch_size": 0}, "a larger batch than largest_batch_size ran"),
            ({"largest_batch_size": -8}, "largest_batch_size is below zero"),
            ({"largest_batch_size": 4}, "a larger batch than largest_batch_size ran"),
            ({"memory_limit_bytes": 0}, "memory_limit_bytes is not above zero"),
            ({"predicted_batch_size": 8}, "predicted_batch_size is not what was predicted"),
            ({"predicted_batch_size": 4}, "predicted_batch_size is not what was predicted"),
        ],
    ),
    "03.6": (
        LEFT_OUT,
        [
            ({"all_on_bytes": 1600}, "all_on_bytes is not the peak of a table of yours"),
            ({"largest": "checkpointing", "largest_bytes": 1600}, "largest is not the row with"),
            ({"largest_bytes": 1600}, "largest_bytes is below the peak of the row"),
            ({"largest_bytes": 900}, "largest_bytes is below the peak of the row"),
            ({"unchanged": "chunked loss"}, "the peak changes without what unchanged names"),
            ({"slowest": "16-bit weights"}, "another row is shorter than the one without"),
        ],
    ),
}  # fmt: skip


# A machine a thousand times slower, whose throughput is highest with one sample: another length, so
# another sweep. Nothing was predicted to fit and one sample did; not even one fitted. A length at
# which nearly all memory is there for any batch, so that accumulation saves nothing.
SLOW = [
    {"batch_size": b, "peak": 1000 + 100 * b, "seconds": 800.0 * b, "seq_len": 48}
    for b in (1, 2, 4)
]
EDGES = [
    {"batch_size": 1, "peak": 900, "seconds": 9.0, "seq_len": 16, "limit": 1000},
    {"batch_size": 2, "peak": None, "seconds": None, "seq_len": 16, "limit": 1000},
    {"batch_size": 1, "peak": None, "seconds": None, "seq_len": 16, "limit": 900},
    # Two searches under one limit, of which this has fewer points.
    {"batch_size": 3, "peak": 4900, "seconds": 9.0, "seq_len": 96, "limit": 5000},
    {"batch_size": 4, "peak": None, "seconds": None, "seq_len": 96, "limit": 5000},
]
# A search under a limit, of another length, nearly as fast as the sweep; its files come first.
NEAR = [
    {"batch_size": b, "peak": 1000 + 200 * b, "seconds": b / 10, "seq_len": 24, "limit": 7000}
    for b in (3, 4)
]
TIES = [
    {"batch_size": 2, "peak": 9000, "seconds": 2.0, "seq_len": 8},
    {"batch_size": 1, "peak": 8950, "seconds": 3.9, "seq_len": 8,
     "gradient_accumulation_steps": 2},
]  # fmt: skip
SEARCHES = {(5000, 32): (7, 8), (1000, 16): (0, 1), (900, 16): (0, 0), (5000, 96): (4, 3)}
"""What was predicted and measured, by limit and length."""

HONEST = {
    "03.1": [
        {"small_batch": 1, "large_batch": 16, "small_bytes": 1200, "large_bytes": 4200},
        {"small_bytes": 1412.0, "large_bytes": 2589.0, "bytes_per_sample": 196.2,
         "constant_bytes": 1019.6},
        {"small_batch": 1, "large_batch": 4, "small_bytes": 1100, "large_bytes": 1400,
         "bytes_per_sample": 100, "constant_bytes": 1000},
    ],
    "03.2": [
        {"highest_tokens_per_second": 0.06, "best_batch_size": 1, "best_tokens_per_second": 0.06,
         "share_percent": 100, "highest_bytes": 1100, "best_bytes": 1100, "held_bytes": 1900},
        {"held_bytes": 3000},
        {"highest_tokens_per_second": 244, "best_tokens_per_second": 233, "share_percent": 95.5},
    ],
    "03.3": [
        {"accumulation_memory": "no change"},
        {"accumulation_memory": "no change", "explanation": "bei kurzen Sequenzen liegt fast alles "
         "in den Gewichten, da spart es nichts"},
        {"explanation": "checkpointing pays with time, accumulation with more passes a step"},
    ],
    "03.4": [
        # Without checkpointing not one sample fits on each of four cards: an honest 0.
        {"checkpointing": "without", "lora_batch": 2, "full_batch_per_gpu": 0,
         "full_samples_per_step": 0, "lora_bytes": 23.6 * GIB, "full_bytes": 40 * GIB,
         "time_ratio": 1.52},
        {"lora_batch": 11, "full_batch_per_gpu": 3, "full_samples_per_step": 12},
        {"full_batch_per_gpu": 3, "full_samples_per_step": 12, "time_ratio": 1.3708},
        # So short that the cards wait: 36 GB at four fifths of 300 GB/s take longer than products.
        {"seq_len": 256, "checkpointing": "without", "lora_batch": 10, "full_batch_per_gpu": 3,
         "full_samples_per_step": 12, "lora_bytes": 17.5 * GIB, "full_bytes": 36.5 * GIB,
         "time_ratio": 1.12},
    ],
    "03.5": [
        {"memory_limit_bytes": 1000, "largest_batch_size": 1, "predicted_batch_size": 0},
        {"largest_batch_size": 3, "predicted_batch_size": 4},
        {"memory_limit_bytes": 900, "largest_batch_size": 0, "predicted_batch_size": 0},
        {"explanation": "interpreter, libraries and stacks count as well as every tensor"},
    ],
    "03.6": [
        # A tie: two rows of this table are equally high, and either is an answer.
        {"all_on_bytes": 500, "unchanged": "fused AdamW"},
        {"all_on_bytes": 500, "unchanged": "fused AdamW", "largest": "checkpointing"},
        {"unchanged": "fused AdamW", "all_on_bytes": 1010},
    ],
}  # fmt: skip


def records(a_record):
    """Write points of sweeps, searches under a limit, and two tables of settings left out."""
    for number, given in enumerate([*NEAR, *POINTS, *SLOW, *EDGES, *TIES]):
        put(number, dict(given))
    for (limit, length), (predicted, measured) in SEARCHES.items():
        values = {"predicted": predicted, "measured": measured}
        measurements.keep("largest_batch", values, memory_limit_bytes=limit, seq_len=length)
    table(ROWS, model="m")
    tie = {"everything on": (500, 3.0), "checkpointing": (1900, 2.0), "fused AdamW": (505, 3.0)}
    table({**ROWS, **tie}, model="another")


def table(rows, **settings):
    """Keep a table of steps with one thing left out."""
    for label, (peak, least) in rows.items():
        values = {"label": label, "peak_bytes": peak, "least_time_s": least}
        measurements.keep("left_out", values, label=label, device="a", on={"r": 1}, **settings)


def put(number, values):
    """Write a point of a sweep."""
    peak, seconds = values.pop("peak"), values.pop("seconds")
    limit = values.pop("limit", None)
    settings = BASE | values
    tokens = settings["seq_len"] * settings["batch_size"] * settings["gradient_accumulation_steps"]
    point = {
        "settings": settings, "status": "done" if peak else "out of memory",
        "peak_bytes": peak, "step_seconds": seconds, "memory_limit_bytes": limit,
        "resident_bytes": peak and peak + 800, "process_peak_bytes": peak and peak + 400,
        "tokens_per_second": tokens / seconds if seconds else None,
    }  # fmt: skip
    write_json(results.runs_dir() / "sweeps" / f"point-{number}.json", point)
