"""Lesson 01: answers that fit and answers that do not."""

from labkit.machine.datasheets import DEVICES
from labkit.memory.estimates import needed
from labkit.memory.formula import analytic
from labkit.memory.settings import StepSettings

LLAMA_3_8B = 8_030_261_248  # as its model card's configuration gives


def step(**fields) -> StepSettings:
    return StepSettings(**{"model": "llama-3-8b", "seq_len": 512, **fields})


def largest() -> int:
    """Return the largest batch by trying one after the other."""
    batch = 1
    while True:
        settings = step(method="qlora", gradient_checkpointing=True, batch_size=batch)
        if needed(analytic(settings).peak_bytes, settings) > DEVICES["rtx-3090"].usable_bytes:
            return batch - 1
        batch += 1


LARGEST = largest()
PEAK = analytic(
    step(model="smollm2-135m-instruct", method="lora", batch_size=2, seq_len=128, target="cpu")
).peak_bytes

TABLE = {
    "01.1": (
        {"model": "llama-3-8b", "parameters": LLAMA_3_8B, "states_bytes": 18 * LLAMA_3_8B}
        | {"states_gb": 144.5, "states_gib": 134.6, "eight_bit_bytes_per_parameter": 6.0},
        [
            ({"states_bytes": 16 * LLAMA_3_8B}, "states_bytes is below the rule"),
            ({"states_gib": 144.5}, "states_gib is not states_bytes in that unit"),
            ({"states_gb": 134.6}, "states_gb is not states_bytes in that unit"),
            ({"eight_bit_bytes_per_parameter": 4.0}, "parameter is below what weights, gradients"),
            ({"parameters": 7_000_000_000}, "parameters is below the count of the model's"),
            ({"model": "lama-3-8b"}, "llama-3-8b"),
            ({"states_gb": -1.0}, "states_gb is not above zero"),
        ],
    ),
    "01.2": (
        {"model": "smollm2-135m-instruct", "method": "lora", "batch_size": 2, "seq_len": 128}
        | {"analytic_bytes": PEAK, "traced_bytes": PEAK * 1.01, "measured_bytes": PEAK * 1.02}
        | {"worst_error_percent": 2.0},
        [
            ({"analytic_bytes": PEAK * 2}, "analytic_bytes is above what the formulas give"),
            ({"measured_bytes": PEAK * 1.3}, "traced_bytes and measured_bytes are far apart"),
            ({"worst_error_percent": 5.0}, "worst_error_percent is not what the three"),
            ({"worst_error_percent": 0.02}, "worst_error_percent is not what the three"),
            ({"seq_len": 1024}, "analytic_bytes is below what the formulas give"),
            ({"batch_size": 0}, "batch_size is not above zero"),
        ],
    ),
    "01.3": (
        {"model": "llama-3-8b", "device": "rtx-3090", "method": "qlora", "loss": "full"}
        | {"gradient_checkpointing": "on", "seq_len": 512, "largest_batch_size": LARGEST}
        | {"largest_part": "logits and loss"},
        [
            ({"largest_batch_size": 2 * LARGEST + 2}, "largest_batch_size is more than"),
            ({"largest_batch_size": LARGEST // 2 - 1}, "largest_batch_size is less than"),
            ({"largest_part": "optimizer state"}, "largest_part takes less there than another"),
            ({"gradient_checkpointing": "off"}, "largest_batch_size is more than"),
            ({"device": "rtx-3900"}, "rtx-3090"),
            ({"seq_len": 64}, "largest_batch_size is less than"),
        ],
    ),
}
