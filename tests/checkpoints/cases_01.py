"""Lesson 01: answers that fit and answers that do not."""

from labkit.machine.datasheets import DEVICES
from labkit.memory.estimates import needed
from labkit.memory.formula import analytic
from labkit.memory.settings import StepSettings
from labkit.runs import measurements

LLAMA_3_8B = 8_030_261_248  # as its model card's configuration gives


def step(**fields) -> StepSettings:
    return StepSettings(**{"model": "llama-3-8b", "seq_len": 512, **fields})


def largest(seq_len: int = 512, loss: str = "full") -> int:
    """Return the largest batch by trying one after the other."""
    batch = 1
    while True:
        settings = step(
            method="qlora",
            gradient_checkpointing=True,
            batch_size=batch,
            seq_len=seq_len,
            loss=loss,
        )
        if needed(analytic(settings).peak_bytes, settings) > DEVICES["rtx-3090"].usable_bytes:
            return batch - 1
        batch += 1


LARGEST = largest()
SMOLLM2 = 134_515_008  # the same, embedding and head being one matrix


def small_step(**changes) -> StepSettings:
    """Return the settings of a step that the lesson measures."""
    chosen = {"method": "lora", "batch_size": 2, "seq_len": 128, **changes}
    return StepSettings(model="smollm2-135m-instruct", target="cpu", **chosen)


PEAK = analytic(small_step()).peak_bytes
FULL = analytic(small_step(method="full", batch_size=4, seq_len=256)).peak_bytes
ONE = analytic(small_step(batch_size=1, seq_len=64)).peak_bytes
WIDE = analytic(small_step(batch_size=4, seq_len=256, dtype="float32")).peak_bytes
"""where a machine computes in float32"""


def records(a_record) -> None:
    """Keep what the lesson's cell keeps, for three steps."""
    for peak, traced, measured, settings in (
        (PEAK, PEAK * 1.01, PEAK * 1.02, ("lora", 2, 128)),
        (FULL, FULL * 0.97, FULL * 0.975, ("full", 4, 256)),
        (ONE, ONE, ONE, ("lora", 1, 64)),
        (WIDE, WIDE * 1.01, WIDE * 1.02, ("lora", 4, 256)),
    ):
        method, batch_size, seq_len = settings
        measurements.keep(
            "step_memory",
            {"analytic_bytes": peak, "traced_bytes": traced, "measured_bytes": measured},
            model="smollm2-135m-instruct", method=method, batch_size=batch_size, seq_len=seq_len,
        )  # fmt: skip


TABLE = {
    "01.1": (
        {"model": "llama-3-8b", "parameters": LLAMA_3_8B, "rule_bytes": 18 * LLAMA_3_8B}
        | {"states_bytes": 16 * LLAMA_3_8B, "states_gb": 128.5, "states_gib": 119.7}
        | {"line_that_leaves": "copy", "eight_bit_bytes_per_parameter": 6.0},
        [
            ({"states_bytes": 18 * LLAMA_3_8B}, "states_bytes is above what is there of the rule"),
            ({"states_bytes": 12 * LLAMA_3_8B}, "states_bytes is below what is there of the rule"),
            ({"rule_bytes": 16 * LLAMA_3_8B}, "rule_bytes is below the rule"),
            ({"states_gib": 128.5}, "states_gib is not states_bytes in that unit"),
            ({"states_gb": 119.7}, "states_gb is not states_bytes in that unit"),
            ({"line_that_leaves": "gradient"}, "line_that_leaves is there when the optimizer"),
            ({"line_that_leaves": "second moment"}, "line_that_leaves is there when"),
            ({"eight_bit_bytes_per_parameter": 4.0}, "parameter is below what weights, gradients"),
            ({"parameters": 7_000_000_000}, "parameters is below the count of the model's"),
            # The name's number in place of the model's own.
            ({"model": "llama-2-7b", "parameters": 7_000_000_000, "rule_bytes": 126e9,
              "states_bytes": 112e9, "states_gb": 112, "states_gib": 104.3},
             "parameters is above the count of the model's"),
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
            # Invented, and in itself without a contradiction.
            ({"traced_bytes": PEAK * 1.09, "measured_bytes": PEAK * 1.1,
              "worst_error_percent": 9.1}, "measured_bytes is above what was kept"),
            ({"measured_bytes": PEAK * 0.95, "worst_error_percent": 6.3},
             "measured_bytes is below what was kept"),
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
            ({"model": "smollm2-135m-instruct"}, "model has less than a billion"),
            ({"method": "full", "largest_batch_size": 1, "largest_part": "optimizer state"},
             "largest_batch_size is more than"),
        ],
    ),
}  # fmt: skip

HONEST = {
    "01.1": [
        {"model": "smollm2-135m-instruct", "parameters": SMOLLM2, "rule_bytes": 18 * SMOLLM2,
         "states_bytes": 16 * SMOLLM2, "states_gb": 2.152, "states_gib": 2.004},
        {"states_bytes": 129e9, "states_gb": 129, "states_gib": 120},
        {"eight_bit_bytes_per_parameter": 6.03},
    ],
    "01.2": [
        {"method": "full", "batch_size": 4, "seq_len": 256, "analytic_bytes": FULL,
         "traced_bytes": FULL * 0.97, "measured_bytes": FULL * 0.975,
         "worst_error_percent": 2.56},
        {"batch_size": 1, "seq_len": 64, "analytic_bytes": ONE, "traced_bytes": ONE,
         "measured_bytes": ONE, "worst_error_percent": 0},
        {"analytic_bytes": float(f"{PEAK:.3g}"), "worst_error_percent": 2},
        {"batch_size": 4, "seq_len": 256, "analytic_bytes": WIDE, "traced_bytes": WIDE * 1.01,
         "measured_bytes": WIDE * 1.02, "worst_error_percent": 2},
    ],
    "01.3": [
        {"method": "full", "largest_batch_size": 0, "largest_part": "optimizer state"},
        {"largest_batch_size": LARGEST - 1},
        {"loss": "chunked", "seq_len": 8192, "largest_batch_size": largest(8192, "chunked"),
         "largest_part": "activations"},
    ],
}  # fmt: skip
