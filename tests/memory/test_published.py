"""The trace and the time range against what others measured on cards we do not have."""

import json

import pytest

from labkit.bench.records.memory_validation import DATA, published_rows, time_rows

MEMORY = json.loads((DATA / "memory_published.json").read_text())


@pytest.fixture(scope="module")
def rows():
    return list(published_rows())


def test_every_row_is_within_eight_per_cent_or_explained(rows):
    for row in rows:
        if row["error"] is not None and not row["explain"]:
            assert abs(row["error"]) <= 0.08, row


def test_what_ran_out_of_memory_is_predicted_to(rows):
    from labkit.bench.records.memory_validation import row_settings
    from labkit.memory.estimates import estimate, needed

    (row,) = [row for row in MEMORY["rows"] if row.get("outcome")]
    (traced,) = [each for each in rows if each["outcome"]]
    need = needed(round(traced["traced"] * 1e9), row_settings(row))
    result = estimate("tiny-llama", device="a100-40gb")
    assert need > result.device_bytes


def test_todays_library_takes_less_than_the_rows_it_explains(rows):
    explained = [row for row in rows if row["explain"]]
    assert len(explained) == 6
    assert all(row["method"] == "qlora" and row["error"] < -0.08 for row in explained)


def test_quantising_the_scales_saves_what_was_published(rows):
    """What the library keeps for backward cancels out: the difference is weights alone."""
    pairs = {}
    for row in rows:
        if row["double_quant"] is not None:
            pairs.setdefault(row["model"], {})[row["double_quant"]] = row
    assert len(pairs) == 3
    for pair in pairs.values():
        published, traced = (pair[False][key] - pair[True][key] for key in ("published", "traced"))
        assert traced == pytest.approx(published, abs=0.011)  # printed with two digits


def test_every_choice_is_written_down_beside_its_source():
    wanted = {"dtype", "gradient_checkpointing", "attention", "loss", "upcast_logits", "optim"}
    assert all(each["why"] for each in MEMORY["not_comparable"])
    for row in MEMORY["rows"]:
        assert wanted <= set(row["choices"])
        assert row["source"] in MEMORY["sources"]
        if row["method"] != "full":
            assert {"adapter_dtype", "lora_r", "lora_dropout"} <= set(row["choices"])


def test_published_times_lie_in_a_range_of_at_most_two_and_a_half():
    rows = list(time_rows())
    assert all(row["high_seconds"] <= 2.5 * row["low_seconds"] + 1e-3 for row in rows)
    assert sum(row["held"] for row in rows) >= 0.8 * len(rows)
