"""Lesson 03: answers that fit the fixture's points and answers that do not."""

from labkit.files import write_json
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
         "share_percent": 100 * BEST / FAST},
        [
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
        {"seq_len": 1024, "checkpointing": "with", "lora_batch": 12, "full_batch_per_gpu": 2,
         "full_samples_per_step": 8},
        [
            ({"lora_batch": 90}, "lora_batch does not fit by the formulas"),
            ({"lora_batch": 1}, "a much larger lora_batch still fits by the formulas"),
            ({"full_samples_per_step": 2}, "full_samples_per_step is below the batch of one"),
            ({"full_samples_per_step": 32}, "full_samples_per_step is above the batch of one"),
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
            ({"largest_batch_size": 0}, "largest_batch_size is not above zero"),
            ({"largest_batch_size": 4}, "a larger batch than largest_batch_size ran"),
            ({"memory_limit_bytes": 0}, "memory_limit_bytes is not above zero"),
        ],
    ),
}  # fmt: skip


def records(a_record):
    """Write the points of a sweep with two variants."""
    for number, given in enumerate(POINTS):
        values = dict(given)
        peak, seconds = values.pop("peak"), values.pop("seconds")
        limit = values.pop("limit", None)
        settings = BASE | values
        tokens = (
            settings["seq_len"] * settings["batch_size"] * settings["gradient_accumulation_steps"]
        )
        point = {
            "settings": settings, "status": "done" if peak else "out of memory",
            "peak_bytes": peak, "step_seconds": seconds, "memory_limit_bytes": limit,
            "tokens_per_second": tokens / seconds if seconds else None,
        }  # fmt: skip
        write_json(results.runs_dir() / "sweeps" / f"point-{number}.json", point)
