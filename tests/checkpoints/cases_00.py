"""Lesson 00: answers that fit and answers that do not."""

from labkit.datasets import tatqa
from labkit.datasets.answers import format_answer
from labkit.runs import measurements

ASKED = 40
SPEED = {"seconds": 2.6, "tokens": 21, "reading_seconds": 0.5, "writing_seconds": 2.0}
SLOW = {"seconds": 260.0, "tokens": 64, "reading_seconds": 210.0, "writing_seconds": 45.0}
TIE = {"seconds": 1.3, "tokens": 9, "reading_seconds": 0.62, "writing_seconds": 0.6}
NOTHING = {"seconds": 0.31, "tokens": 0, "reading_seconds": 0.3, "writing_seconds": 0.0}


def texts(right: int, held: int, asked: int = ASKED) -> dict[str, str]:
    """Return answers to the first questions: right ones, right values in a sentence, and others."""
    found = {}
    for place, sample in enumerate(tatqa.samples(tatqa.load("tables", "test"))[:asked]):
        value = " and ".join(sample.question.answer)
        said = f"The report says that it was {value}, as far as I can tell."
        if place < right:
            said = format_answer(sample.question)
        elif place >= right + held:
            said = "I am a language model."
        found[sample.question.uid] = said
    return found


def records(a_record) -> None:
    """Keep what the lesson's cells keep, for a fast machine, a slow one, and odd answers."""
    for number, speed in enumerate((SLOW, TIE, NOTHING, SPEED)):
        measurements.keep("answer_speed", speed, model=number)
    for number, kept in enumerate((texts(0, 0), texts(8, 0, 8), texts(5, 10))):
        measurements.keep("answers", {"texts": kept}, model=number)


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
        {**SPEED, "predicted_seconds": 30, "longer": "writing", "tokens_per_second": 10.5},
        [
            ({"tokens_per_second": 21 / 2.6}, "tokens_per_second is below what tokens and writing"),
            ({"tokens_per_second": 2 / 21}, "tokens_per_second is below what tokens and writing"),
            ({"seconds": 20.0}, "seconds is above what was measured"),
            ({"seconds": 4.0, "reading_seconds": 1.0, "writing_seconds": 3.0,
              "tokens_per_second": 7.0}, "writing_seconds is above what was measured"),
            ({"tokens": 64, "tokens_per_second": 32.0}, "tokens are not those of the answer"),
            ({"longer": "reading"}, "longer is not what reading_seconds and writing_seconds say"),
            ({"longer": "about the same"}, "longer is not what reading_seconds"),
            ({"seconds": -2.0}, "seconds is not above zero"),
            ({"predicted_seconds": 0}, "predicted_seconds is not above zero"),
        ],
    ),
    "00.3": (
        {"questions": 40, "correct": 5, "share_percent": 12.5, "wrong_form": 10},
        [
            ({"share_percent": 0.125}, "share_percent looks like a fraction"),
            ({"share_percent": 87.5}, "share_percent is above what correct and questions give"),
            ({"correct": 41, "share_percent": 102.5}, "correct is not between none and all"),
            ({"correct": 15, "share_percent": 37.5}, "correct is above what the answers"),
            ({"correct": 0}, "share_percent is above"),
            ({"questions": 516, "share_percent": 0.97}, "questions is above what the answers"),
            ({"wrong_form": 15}, "wrong_form is above what the answers"),
            ({"wrong_form": 0}, "wrong_form is below what the answers"),
            ({"questions": 0}, "questions is not above zero"),
        ],
    ),
}  # fmt: skip

HONEST = {
    "00.1": [
        {"weights_bytes": 143, "float32_bytes": 286},
        {"weights_bytes": 137},
        {"explanation": "Ein Prozess hält auch Aktivierungen, Schlüssel und Werte, und Programme."},
    ],
    "00.2": [
        {**SLOW, "longer": "reading", "tokens_per_second": 64 / 45},
        {**TIE, "longer": "about the same", "tokens_per_second": 15.0},
        {**TIE, "longer": "reading", "tokens_per_second": 15.0},
        {**NOTHING, "longer": "reading", "tokens_per_second": 0},
        {"predicted_seconds": 4000, "seconds": 2.62, "reading_seconds": 0.51},
    ],
    "00.3": [
        {"correct": 0, "share_percent": 0, "wrong_form": 0},
        {"questions": 8, "correct": 8, "share_percent": 100, "wrong_form": 0},
        {"share_percent": 12.6},
    ],
}
