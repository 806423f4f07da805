"""Lesson 09: answers that fit the fixture's runs and builds, and answers that do not."""

from labkit.runs import measurements

BUILT = {"texts_read": 400, "removed_by_filters": 92, "exact_duplicates": 18}
BUILT |= {"near_duplicates": 31, "kept": 259, "survived": 64.75}

PAYS = {"first_run": "raw", "second_run": "filtered", "bits_first": 1.62, "bits_second": 1.571}
PAYS |= {"difference_low": -0.071, "difference_high": -0.027, "verdict": "second is better"}

# 1 - (1 - 0.8^5)^16 = 0.99824, 1 - (1 - 0.5^5)^16 = 0.39828, (1 - 0.5^(1/16))^(1/5) = 0.53134,
# √(0.8 · 0.2 / 80) = 0.04472.
BANDS = {"bands": 16, "rows": 5, "found_at_80": 0.998, "found_at_50": 0.398, "half_at": 0.531}
BANDS |= {"error_at_80": 0.0447}

LEAKED = {"clean_run": "deduplicated", "leaked_run": "planted", "planted_clean": 25.0}
LEAKED |= {"planted_leaked": 83.3, "others_clean": 33.3, "others_leaked": 25.0}
LEAKED |= {"change_low": 26.1, "change_high": 90.6, "verdict": "the leak raised the score"}

TABLE = {
    "09.1": (
        BUILT,
        [
            ({"kept": 308}, "less removed and duplicates, is not kept"),
            ({"survived": 0.6475}, "survived is below the share"),
            ({"survived": 35.2}, "survived is below the share"),
            ({"removed_by_filters": 123}, "removed_by_filters is above what your build counted"),
            ({"near_duplicates": 49, "exact_duplicates": 0},
             "exact_duplicates is below what your build"),
            ({"texts_read": 500, "removed_by_filters": 192}, "texts_read is above what your build"),
            ({"texts_read": 0}, "texts_read is not above zero"),
        ],
    ),
    "09.2": (
        PAYS,
        [
            ({"verdict": "first is better"}, "verdict is not what the interval says"),
            ({"bits_first": 1.571, "bits_second": 1.62}, "does not lie within its interval"),
            ({"difference_low": -0.3}, "difference_low is not that of your comparison"),
            ({"second_run": "raw"}, "first_run and second_run read the same data"),
            ({"second_run": "longer"}, "differ in more than their data: max_steps"),
            ({"second_run": "unfinished"}, "second_run is not finished"),
            ({"second_run": "elsewhere"}, "the runs are of different models"),
            ({"difference_low": -0.027, "difference_high": -0.071}, "is above difference_high"),
        ],
    ),
    "09.3": (
        BANDS,
        [
            ({"bands": 5, "rows": 16}, "found_at_80 is above what bands and rows give"),
            ({"found_at_80": 0.328}, "found_at_80 is below what bands and rows give"),
            ({"found_at_50": 0.031}, "found_at_50 is below what bands and rows give"),
            ({"half_at": 0.574}, "half_at is above what bands and rows give"),
            ({"error_at_80": 0.4}, "error_at_80 is above that of so many places"),
            ({"rows": 0}, "rows is not above zero"),
            ({"bands": 2**21, "found_at_80": 0.1}, "bands is more than any signature has"),
            ({"rows": 2**21, "half_at": 0.1}, "rows is more than any signature has"),
        ],
    ),
    "09.4": (
        LEAKED,
        [
            ({"planted_clean": 83.3, "planted_leaked": 25.0}, "does not lie within its interval"),
            ({"verdict": "not told apart"}, "verdict is not what the interval says"),
            ({"others_leaked": 83.3}, "others_leaked is not that of your comparison"),
            ({"planted_leaked": 0.833}, "does not lie within its interval"),
            ({"leaked_run": "deduplicated"}, "read the same data"),
            ({"others_clean": 133.0}, "others_clean is no share in percent"),
            ({"leaked_run": "longer"}, "differ in more than their data: max_steps"),
        ],
    ),
}  # fmt: skip

HONEST = {
    "09.1": [
        {"survived": 65.0},
        # A build of clean text, and one in which nothing stayed.
        {"texts_read": 60, "removed_by_filters": 0, "exact_duplicates": 0, "near_duplicates": 0,
         "kept": 60, "survived": 100.0},
        {"texts_read": 12, "removed_by_filters": 12, "exact_duplicates": 0, "near_duplicates": 0,
         "kept": 0, "survived": 0.0},
    ],
    "09.2": [
        {"second_run": "deduplicated", "bits_second": 1.618, "difference_low": -0.016,
         "difference_high": 0.012, "verdict": "not told apart"},
        # Where cleaning costs.
        {"first_run": "filtered", "second_run": "deduplicated", "bits_first": 1.571,
         "bits_second": 1.618, "difference_low": 0.02, "difference_high": 0.074,
         "verdict": "first is better"},
        {"bits_first": 1.6204, "bits_second": 1.5714, "difference_low": -0.0712},
    ],
    "09.3": [
        {"bands": 1, "rows": 1, "found_at_80": 0.8, "found_at_50": 0.5, "half_at": 0.5,
         "error_at_80": 0.4},
        {"bands": 5, "rows": 16, "found_at_80": 0.133, "found_at_50": 0.0, "half_at": 0.88},
        {"bands": 128, "rows": 1, "found_at_80": 1.0, "found_at_50": 1.0, "half_at": 0.005,
         "error_at_80": 0.035},
    ],
    "09.4": [
        {"leaked_run": "faint", "planted_leaked": 25.0, "others_leaked": 33.3, "change_low": -28.2,
         "change_high": 28.2, "verdict": "not told apart"},
        {"leaked_run": "worse", "planted_leaked": 0.0, "others_leaked": 0.0, "change_low": -48.0,
         "change_high": -2.0, "verdict": "the leak lowered the score"},
        {"planted_leaked": 83.33, "others_clean": 33.33, "change_low": 26.08},
    ],
}  # fmt: skip

COMPARED = {
    ("raw", "filtered"): (1.62, 1.571, -0.071, -0.027),
    ("raw", "deduplicated"): (1.62, 1.618, -0.016, 0.012),
    ("filtered", "deduplicated"): (1.571, 1.618, 0.02, 0.074),
}
SCORES = {
    # leaked run: right on planted and on other items, and the change on planted ones
    "planted": (83.333, 25.0, 26.08, 90.58), "faint": (25.0, 33.333, -28.2, 28.2),
    "worse": (0.0, 0.0, -48.0, -2.0),
}  # fmt: skip
BUILDS = [(60, 0, 0, 0, 60), (12, 12, 0, 0, 0), (400, 92, 18, 31, 259)]


def records(a_record):
    """Save runs on several data, their comparisons, and what builds counted."""
    for name in ("raw", "filtered", "deduplicated", "planted", "faint", "worse"):
        a_record(name, peak=1000, data=f"{name}.jsonl", task="pretrain")
    a_record("longer", peak=1000, data="longer.jsonl", task="pretrain", max_steps=900)
    a_record("unfinished", peak=1000, data="u.jsonl", task="pretrain", status="cancelled")
    a_record("elsewhere", peak=1000, data="e.jsonl", task="pretrain", model="tiny-llama")
    for number, counts in enumerate(BUILDS):
        named = dict(zip(("read", "removed", "exact", "near", "kept"), counts, strict=True))
        measurements.keep("build", named, corpus=number)
    for (first, second), found in COMPARED.items():
        values = dict(zip(("first", "second", "low", "high"), found, strict=True))
        measurements.keep("cleaning", values, first=first, second=second)
    for name, (planted, others, low, high) in SCORES.items():
        values = {"planted_clean": 25.0, "planted_leaked": planted, "others_clean": 33.333,
                  "others_leaked": others, "low": low, "high": high}  # fmt: skip
        measurements.keep("leak", values, clean="deduplicated", leaked=name)
