"""What a build finds of planted faults, counted from the truth that is known."""

import json

from labkit.bench.records import builder


def test_pairs_and_items_are_counted_by_hand():
    truth = [
        {"id": "a", "kind": "clean", "source": "raw/1"},
        {"id": "b", "kind": "near", "of": "a", "jaccard": 0.9, "source": "raw/2"},
        {"id": "c", "kind": "clean", "source": "raw/3"},
        {"id": "d", "kind": "near", "of": "c", "jaccard": 0.85, "source": "raw/4"},
        {"id": "e", "kind": "near", "of": "c", "jaccard": 0.7, "source": "raw/5"},
        {"id": "f", "kind": "contaminated", "of": "t1", "source": "raw/6"},
        {"id": "g", "kind": "contaminated", "of": "t2", "source": "raw/7"},
        {"id": "i", "kind": "clean", "source": "raw/9"},
        {"id": "h", "kind": "near", "of": "c", "jaccard": 0.6, "source": "raw/8"},
    ]  # fmt: skip
    found = builder.held_against(truth, {"2", "3", "4", "5", "6"}, ["t2", "t9"])
    assert found["kinds"] == {"clean": [3, 1], "contaminated": [2, 1], "near": [4, 3]}
    assert found["pairs"] == {"60": [1, 0], "70": [1, 1], "85": [1, 1], "90": [1, 0]}
    assert found["items"] == [2, 1]
    assert found["lost"] == 1, "the first is gone as well, but its copy stayed"
    assert builder.conclude(found) == {
        "near_recall": 0.5, "near_precision": 0.5, "items_found": 0.5, "good_kept": 1 - 1 / 3,
    }  # fmt: skip


def test_a_small_corpus_is_built_and_held_against_its_truth(tmp_path):
    found = builder.measure(tmp_path, 0.2, every=25)
    counts = found["counts"]
    made = counts["read"] - sum(counts["removed"].values())
    assert made - counts["exact"] - counts["near"] == counts["kept"]
    assert sum(stayed for _, stayed in found["kinds"].values()) == counts["kept"]
    assert found["kinds"]["foreign"][1] == 0 < found["kinds"]["foreign"][0]
    concluded = builder.conclude(found)
    assert concluded["items_found"] == 1.0 and concluded["good_kept"] == 1.0
    assert str(tmp_path) not in json.dumps(found)
    cost = found["cost"]
    assert 0 < cost["cpu_seconds"] < 2 * cost["wall_seconds"] and cost["peak_rss_bytes"] > 2**26
    assert 0.15e6 < cost["bytes"] < 0.4e6 and min(builder.speed(found).values()) > 0
