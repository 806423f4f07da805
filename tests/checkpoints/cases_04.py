"""Lesson 04: answers that fit and answers that do not."""

TABLE = {
    "04.1": (
        {"absmax": 8.0, "spread": 2.0, "outlier_factor": 4.0, "snr_db": 37.8},
        [
            ({"outlier_factor": 0.25}, "outlier_factor is below what absmax and spread give"),
            ({"snr_db": 46.8}, "snr_db is above what the formula gives"),
            ({"spread": 0.0}, "spread is not above zero"),
            ({"absmax": 16.0}, "outlier_factor is below what absmax"),
            ({"snr_db": 3.78}, "snr_db is below what the formula gives"),
        ],
    ),
    "04.2": (
        {"tokens_few": 16, "tokens_many": 512, "int8_few_percent": 0.3, "int8_many_percent": 1.0}
        | {"sixteen_bit_percent": 0.05, "growth": 3.33},
        [
            ({"growth": 0.3}, "growth is below what int8_many_percent and int8_few_percent"),
            ({"tokens_many": 8}, "tokens_many is not above tokens_few"),
            ({"int8_many_percent": 0.1}, "int8_many_percent is not above int8_few_percent"),
            ({"sixteen_bit_percent": 5.0}, "sixteen_bit_percent is not below int8_many_percent"),
            ({"int8_few_percent": 0.0}, "int8_few_percent is not above zero"),
        ],
    ),
    "04.3": (
        {"layer": "model.layers.2.mlp.down_proj", "row_db": 38.0, "tensor_db": 24.0}
        | {"lost_db": 14.0, "noise_factor": 25.0},
        [
            ({"lost_db": -14.0}, "lost_db is below row_db less tensor_db"),
            ({"noise_factor": 5.0}, "noise_factor is below what lost_db means"),
            ({"noise_factor": 14.0}, "noise_factor is below what lost_db means"),
            ({"tensor_db": 28.0}, "lost_db is above row_db less tensor_db"),
            ({"row_db": 24.0, "tensor_db": 38.0}, "lost_db is above row_db less tensor_db"),
        ],
    ),
    "04.4": (
        {"rate": 4.0, "full_ceiling": 2.0, "frozen_ceiling": 4.0},
        [
            ({"full_ceiling": 4.0}, "full_ceiling is above three products over two in int8"),
            ({"frozen_ceiling": 2.0}, "frozen_ceiling is below two products over two in int8"),
            ({"rate": 0.0}, "rate is not above zero"),
            ({"rate": 2.0}, "full_ceiling is above three products"),
            ({"full_ceiling": 1.5}, "full_ceiling is below three products"),
        ],
    ),
    "04.5": (
        {"baseline_seconds": 2.2, "switchback_seconds": 2.0, "ratio": 1.1, "low": 1.05}
        | {"high": 1.15, "control_low": 0.98, "control_high": 1.02, "verdict": "faster"},
        [
            ({"ratio": 0.91}, "ratio is below what baseline_seconds and switchback_seconds"),
            ({"low": 1.2}, "low, ratio, high are not in ascending order"),
            ({"verdict": "slower"}, "verdict is not what low and high say"),
            ({"low": 0.97}, "verdict is not what low and high say"),
            ({"control_low": 1.01}, "verdict trusts a machine whose control misses 1"),
            ({"verdict": "cannot be told"}, "verdict gives up although the control holds 1"),
            ({"switchback_seconds": 0.0}, "switchback_seconds is not above zero"),
        ],
    ),
}
