"""Results of lm-eval as other versions and programs write them."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from labkit.errors import LabkitError
from labkit.significance import compare as significance

compare = significance.compare
TIME = "2026-03-04T05-06-07.123456"


def write(file: Path, values: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
    return file


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def results(
    folder: Path, task: str, row: dict[str, Any], *, name: str = f"results_{TIME}.json",
    **more: Any,
) -> Path:  # fmt: skip
    values = {"results": {task: row}, "versions": {task: 1.0}, "n-shot": {task: 0}, **more}
    return write(folder / name, values)


@pytest.mark.parametrize("place", ["higher_is_better", "configs", "name"])
@pytest.mark.parametrize("worse", ["a", "b"])
def test_a_smaller_perplexity_is_better(tmp_path: Path, place: str, worse: str) -> None:
    said: dict[str, Any] = {
        "higher_is_better": {"higher_is_better": {"cloze": {"perplexity": False}}},
        "configs": {"configs": {"cloze": {"metric_list": [
            {"metric": "perplexity", "higher_is_better": False}]}}},
        "name": {},
    }[place]  # fmt: skip
    for side in "ab":
        value = 12.5 if side == worse else 9.5
        results(tmp_path / side, "cloze",
                {"perplexity,none": value, "perplexity_stderr,none": 0.2}, **said)  # fmt: skip
    outcome = compare(tmp_path / "a", tmp_path / "b", output_dir=tmp_path / "out")
    (row,) = outcome.results
    gain = -3.0 if worse == "a" else 3.0
    assert row["difference"]["value"] == pytest.approx(gain)
    assert row["p_value"] == pytest.approx(2 * scipy_stats.norm.sf(3 / math.hypot(0.2, 0.2)))
    assert ("B is better" in row["sentence"]) is (worse == "a")
    assert "points" not in row["sentence"] and f"{gain:+.4g}" in row["sentence"]
    assert (row["unit"], row["higher_is_better"]) == ("perplexity", False)


def test_what_the_file_says_of_a_direction_is_obeyed(tmp_path: Path) -> None:
    """A name that looks like a share, and is an error rate; and one nobody knows."""
    for metric, said, verdict in (
        ("acc", {"acc": False}, "B is worse"),
        ("steer", {"steer": False}, "B is worse"),
        ("steer", {"steer": None}, "nothing says which way is better"),
        ("steer", {}, "nothing says which way is better"),
        ("bleu", {}, "B is better"),
    ):
        for side, value in (("a", 0.2), ("b", 0.6)):
            results(tmp_path / side, "t", {f"{metric},none": value, f"{metric}_stderr,none": 0.01},
                    higher_is_better={"t": said})  # fmt: skip
        assert verdict in compare(tmp_path / "a", tmp_path / "b").sentence


def rolling(folder: Path, per_word: float, seed: int) -> tuple[list[float], list[int]]:
    """What a rolling log-likelihood task leaves: documents of unequal length."""
    draw = np.random.default_rng(seed)
    words = [int(n) for n in np.random.default_rng(0).integers(20, 400, size=30)]
    logs = [-per_word * n + float(draw.normal(0, 3)) for n in words]
    total = sum(logs) / sum(words)
    sizes = [5 * n for n in words]
    results(folder, "prose", {
        "word_perplexity,none": math.exp(-total), "word_perplexity_stderr,none": "N/A",
        "byte_perplexity,none": math.exp(-total / 5), "byte_perplexity_stderr,none": "N/A",
        "bits_per_byte,none": -total / 5 / math.log(2), "bits_per_byte_stderr,none": "N/A",
    }, name="results.json")  # fmt: skip
    write(folder / "samples_prose.jsonl", lines([
        {"doc_id": i, "filter": "none", "word_perplexity": [log_p, n],
         "byte_perplexity": [log_p, s], "bits_per_byte": [log_p, s]}
        for i, (log_p, n, s) in enumerate(zip(logs, words, sizes, strict=True))]))  # fmt: skip
    return logs, words


def test_perplexities_of_texts_are_paired_by_document(tmp_path: Path) -> None:
    """labkit's own files, and every metric of them; the test is a ratio of sums, by document."""
    x, words = rolling(tmp_path / "a", 3.0, 1)
    y, _ = rolling(tmp_path / "b", 3.01, 2)
    outcome = compare(tmp_path / "a", tmp_path / "b", margin=0.02, output_dir=tmp_path / "out")
    rows = {row["metric"]: row for row in outcome.results}
    assert list(rows) == ["word_perplexity", "byte_perplexity", "bits_per_byte"]
    assert all(row["paired"] and row["n"] == 30 for row in rows.values())
    expected = math.exp(-sum(y) / sum(words)) - math.exp(-sum(x) / sum(words))
    assert rows["word_perplexity"]["difference"]["value"] == pytest.approx(expected)
    bits = (sum(x) - sum(y)) / sum(words) / 5 / math.log(2)
    assert rows["bits_per_byte"]["difference"]["value"] == pytest.approx(bits)
    # Jackknife over documents, another way to the same error.
    ratios = [
        (sum(y) - sum(x) - (y[i] - x[i])) / (sum(words) - words[i]) for i in range(len(words))
    ]
    error = float(np.std(ratios)) * math.sqrt(len(words) - 1)
    mean = (sum(y) - sum(x)) / sum(words)
    p_value = 2 * scipy_stats.t.sf(abs(mean) / error, 29)
    assert rows["word_perplexity"]["p_value"] == pytest.approx(p_value, rel=0.15)
    assert any("--margin" in note for note in outcome.notes)


def test_a_perplexity_of_last_words_is_paired(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    logs = {"a": draw.normal(-2.4, 1, size=200)}
    logs["b"] = logs["a"] + draw.normal(0.1, 0.2, size=200)
    for side, each in logs.items():
        results(tmp_path / side, "cloze", {"perplexity,none": math.exp(-each.mean()),
                                           "perplexity_stderr,none": 5.0})  # fmt: skip
        write(tmp_path / side / f"samples_cloze_{TIME}.jsonl", lines(
            [{"doc_id": i, "perplexity": float(v)} for i, v in enumerate(each)]))  # fmt: skip
    (row,) = compare(tmp_path / "a", tmp_path / "b").results
    assert row["p_value"] == pytest.approx(scipy_stats.ttest_rel(logs["b"], logs["a"]).pvalue)
    assert row["difference"]["value"] == pytest.approx(
        math.exp(-logs["b"].mean()) - math.exp(-logs["a"].mean()))  # fmt: skip
    assert row["difference"]["low"] < row["difference"]["value"] < row["difference"]["high"] < 0
    assert "B is better" in row["sentence"]


def test_every_filter_of_a_task_is_compared(tmp_path: Path) -> None:
    draw = np.random.default_rng(4)
    filters = {"strict-match": 0.3, "flexible-extract": 0.7}
    for side in "ab":
        row, rows = {}, []
        for name, share in filters.items():
            right = draw.binomial(1, share, size=150)
            row |= {f"exact_match,{name}": float(right.mean()),
                    f"exact_match_stderr,{name}": 0.03}  # fmt: skip
            rows += [{"doc_id": i, "filter": name, "exact_match": float(v)}
                     for i, v in enumerate(right)]  # fmt: skip
        results(tmp_path / side, "sums", row)
        write(tmp_path / side / f"samples_sums_{TIME}.jsonl", lines(rows))
    found = compare(tmp_path / "a", tmp_path / "b").results
    assert [row["name"] for row in found] == [f"sums: exact_match,{name}" for name in filters]
    assert all(row["paired"] for row in found)
    assert all(row["p_holm"] >= row["p_value"] for row in found)


def old_rows(filters: dict[str, list[float]], *, named: bool) -> list[dict[str, Any]]:
    return [{"doc_id": i, "acc": v} | ({"filter": name} if named else {})
            for name, right in filters.items() for i, v in enumerate(right)]  # fmt: skip


LAYOUTS: dict[str, tuple[str, str, bool, bool]] = {
    # results, questions, one JSON list, filters named
    "0.4.0": ("results.json", "pretrained__me__small,dtype__float32_quiz.jsonl", True, False),
    "0.4.1 to a file": ("mine.json", "pretrained__me__small,dtype__float32_quiz.jsonl", True,
                        False),
    "0.4.3": (f"results_{TIME}.json", f"samples_quiz_{TIME}.json", True, True),
    "0.4.9": (f"results_{TIME}.json", f"samples_quiz_{TIME}.jsonl", False, True),
    "to a file": (f"mine_{TIME}.json", f"samples_quiz_{TIME}.jsonl", False, True),
    "written a moment later": (
        f"results_{TIME}.json", "samples_quiz_2026-03-04T05-06-09.000001.jsonl", False, True),
    "labkit": ("results.json", "samples_quiz.jsonl", False, True),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_questions_are_found_whatever_version_wrote_them(tmp_path: Path, layout: str) -> None:
    name, questions, as_list, named = LAYOUTS[layout]
    draw = np.random.default_rng(6)
    right = {s: {f: list(map(float, draw.binomial(1, p, size=80)))
                 for f, p in (("none", 0.4), ("loose", 0.6))} for s in "ab"}  # fmt: skip
    for side, filters in right.items():
        row: dict[str, Any] = {"alias": "quiz"}
        for each, values in filters.items():
            row |= {f"acc,{each}": float(np.mean(values)), f"acc_stderr,{each}": 0.05}
        results(tmp_path / side / "me__small", "quiz", row, name=name,
                config={"model_args": "pretrained=me/small,dtype=float32"})  # fmt: skip
        rows = old_rows(filters, named=named)
        text = json.dumps(rows, indent=2) if as_list else lines(rows)
        write(tmp_path / side / "me__small" / questions, text)
    found = compare(tmp_path / "a", tmp_path / "b").results
    assert len(found) == 2
    for row, each in zip(found, ("none", "loose"), strict=True):
        x, y = right["a"][each], right["b"][each]
        only_b = sum(v > u for u, v in zip(x, y, strict=True))
        assert row["paired"] and row["only_b"] == only_b


def test_the_files_of_lm_eval_0_3(tmp_path: Path) -> None:
    """No filters, no directions, numbers as text; a task without an error is left out, and said."""
    draw = np.random.default_rng(8)
    right = {side: draw.binomial(1, 0.5, size=60) for side in "ab"}
    for side, each in right.items():
        write(tmp_path / side / "small.json", {
            "results": {
                "quiz": {"acc": float(each.mean()), "acc_stderr": 0.06,
                         "acc_norm": 0.5, "acc_norm_stderr": 0.06},
                "prose": {"word_perplexity": 20.0, "bits_per_byte": 0.9},
                "last": {"ppl": 8.0 if side == "a" else 4.0, "ppl_stderr": 0.1},
            },
            "versions": {"quiz": 0, "prose": 1, "last": 0},
            "config": {"model": "hf-causal", "num_fewshot": 0, "limit": None},
        })  # fmt: skip
        write(tmp_path / side / "quiz_write_out_info.json", {
            str(i): {"doc_id": i, "acc": str(bool(v)) if i % 2 else str(float(v))}
            for i, v in enumerate(each)})  # fmt: skip
    outcome = compare(tmp_path / "a", tmp_path / "b", output_dir=tmp_path / "out")
    rows = {row["name"]: row for row in outcome.results}
    assert set(rows) == {"quiz: acc", "quiz: acc_norm", "last"}
    assert rows["quiz: acc"]["paired"] and rows["quiz: acc"]["n"] == 60
    assert not rows["quiz: acc_norm"]["paired"]
    assert "B is better" in rows["last"]["sentence"]
    assert sum("prose" in note for note in outcome.notes) == 2
    write(tmp_path / "b" / "small.json", json.loads((tmp_path / "b" / "small.json").read_text())
          | {"config": {"num_fewshot": 5}})  # fmt: skip
    with pytest.raises(LabkitError, match="differ in examples"):
        compare(tmp_path / "a", tmp_path / "b")


def test_questions_of_another_run_are_not_used(tmp_path: Path) -> None:
    for side in "ab":
        results(tmp_path / side, "quiz", {"acc,none": 0.75, "acc_stderr,none": 0.05})
        write(tmp_path / side / f"samples_quiz_{TIME}.jsonl",
              lines([{"doc_id": i, "acc": float(i % 2)} for i in range(20)]))  # fmt: skip
    outcome = compare(tmp_path / "a", tmp_path / "b")
    assert not outcome.results[0]["paired"]
    assert any("give 0.5, not the 0.75" in note for note in outcome.notes)


@pytest.mark.parametrize("values", [
    {"results": {}, "versions": {}}, {"results": {"t": {"acc,none": "N/A"}}, "versions": {}},
    {"results": {"t": [1]}, "versions": {}},
    {"results": {"t": {"acc,none": 0.5}}, "versions": 3, "n-samples": [], "config": "x"},
])  # fmt: skip
def test_results_without_anything_to_compare_are_one_sentence(tmp_path: Path, values: Any) -> None:
    for side in "ab":
        write(tmp_path / side / "results_x.json", values)
    with pytest.raises(LabkitError):
        compare(tmp_path / "a", tmp_path / "b")
