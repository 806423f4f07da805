"""Lesson 00: answers that fit and answers that do not."""

TABLE = {
    "00.1": (
        {"model": "{model}", "weights_bytes": 140, "float32_bytes": 280},
        [
            ({"weights_bytes": 280}, "weights_bytes is above the size of the weights"),
            ({"weights_bytes": 70}, "weights_bytes is below the size of the weights"),
            ({"weights_bytes": 0}, "weights_bytes is not above zero"),
            ({"float32_bytes": 140}, "float32_bytes is below four bytes for each"),
            ({"float32_bytes": 560}, "float32_bytes is above four bytes for each"),
        ],
    ),
    "00.2": (
        {"predicted_seconds": 30, "seconds": 2.0, "tokens": 21, "tokens_per_second": 10.5},
        [
            ({"tokens_per_second": 2 / 21}, "tokens_per_second is below what tokens and seconds"),
            ({"tokens_per_second": 21}, "tokens_per_second is above what tokens and seconds"),
            ({"seconds": 2000.0}, "tokens_per_second is above what"),
            ({"seconds": -2.0}, "seconds is not above zero"),
            ({"predicted_seconds": 0}, "predicted_seconds is not above zero"),
        ],
    ),
    "00.3": (
        {"questions": 40, "correct": 5, "share_percent": 12.5},
        [
            ({"share_percent": 0.125}, "share_percent looks like a fraction"),
            ({"share_percent": 87.5}, "share_percent is above what correct and questions give"),
            ({"correct": 41, "share_percent": 102.5}, "correct is not between none and all"),
            ({"correct": 0}, "share_percent is above"),
            ({"questions": 0}, "questions is not above zero"),
        ],
    ),
}
