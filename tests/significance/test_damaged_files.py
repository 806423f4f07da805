"""Whatever lies in a folder that is compared: a result, or one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
from damaged import damaged, fuzz, one_sentence, written
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.errors import LabkitError
from labkit.significance.compare import compare

TIME = "2026-03-04T05-06-07.123456"
END = {"train_runtime": 50.0, "step": 100, "train_samples_per_second": 16.0, "total_flos": 1e15,
       "epoch": 1.0}  # fmt: skip
STATE = {"global_step": 100, "train_batch_size": 8, "log_history": [
    {"loss": 2.0, "step": 50, "epoch": 0.5}, END, END | {"train_runtime": 0.01}]}  # fmt: skip


def write(file: Path, values: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
    return file


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


LOGGED = [{"doc_id": i, "filter": "none", "acc": float(i % 2), "perplexity": -1.5 - i % 3,
           "word_perplexity": [-30.0 - i, 10]} for i in range(6)]  # fmt: skip
RIGHT: dict[str, tuple[str, Any]] = {
    "lm-eval": (f"results_{TIME}.json", {
        "results": {"quiz": {"alias": "quiz", "acc,none": 0.5, "acc_stderr,none": 0.2,
                             "word_perplexity,none": 20.0, "word_perplexity_stderr,none": "N/A"}},
        "versions": {"quiz": 1.0}, "n-shot": {"quiz": 0}, "task_hashes": {"quiz": "a"},
        "higher_is_better": {"quiz": {"acc": True, "word_perplexity": False}},
        "n-samples": {"quiz": {"original": 6, "effective": 6}},
        "configs": {"quiz": {"metric_list": [{"metric": "acc", "higher_is_better": True}]}},
        "config": {"model_args": "pretrained=m", "num_fewshot": 0},
    }),
    "lm-eval 0.3": ("small.json", {
        "results": {"quiz": {"acc": 0.5, "acc_stderr": 0.2, "ppl": 8.0, "ppl_stderr": 0.1}},
        "versions": {"quiz": 0}, "config": {"num_fewshot": 0, "limit": None}}),
    "state": ("trainer_state.json", STATE),
    "metrics": ("all_results.json", END),
    "history": ("log.json", [{"loss": 2.0, "step": 50}, END]),
    "score": ("score.json", {"per_question": {"q1": {"em": 1.0, "f1": 1.0}, "q2": {"em": 0}}}),
    "record": ("record.json", {
        "id": "a", "name": "x", "status": "done", "started_at": "2026-01-02T03:04:05+00:00",
        "sha256": "0", "seed": 1, "config": {"max_steps": 2, "r": 4, "method": "lora"},
        "hardware": {"cpu": "c", "cores": 2, "threads": 2, "gpus": [{"name": "g"}]},
        "model": {"name": "m", "sha256": "1"}, "data": {"name": "d", "sha256": "2"},
        "steps": [{"step": 1, "tokens": 7}, {"step": 2, "tokens": 9}],
        "summary": {"step_seconds_median": 0.5}}),
}  # fmt: skip


@pytest.mark.parametrize("kind", RIGHT)
@settings(fuzz, max_examples=50)  # each is compared, not only read
@given(data=st.data())
def test_a_damaged_file_of_any_kind_is_a_result_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("fuzz")
    name, right = RIGHT[kind]
    for side in "ab":
        for run in range(2):
            folder = root / side / f"{run}" if kind not in ("lm-eval", "score") else root / side
            write(folder / name, right)
    (folder / name).write_bytes(data.draw(written(right)))
    if kind == "lm-eval":
        for side in "ab":
            rows = data.draw(damaged(LOGGED)) if side == "b" else LOGGED
            text = lines(rows) if isinstance(rows, list) else json.dumps(rows)
            write(root / side / f"samples_quiz_{TIME}.jsonl", text)
    try:
        compare(root / "a", root / "b")
    except LabkitError as error:
        one_sentence(error)


@fuzz
@given(
    header=st.lists(st.sampled_from(["step", "loss", "train_runtime", "_runtime", "Wall time",
                                     "_step", "", "\ufeffstep"]), max_size=4),
    rows=st.lists(st.lists(st.sampled_from(["1", "2.5", "nan", "inf", "-1", "", '"', "x", "1e400",
                                            "\0"]), max_size=5), max_size=4),
    comma=st.sampled_from([",", ";", "\t"]), end=st.sampled_from(["\n", "\r\n", "\r"]),
)  # fmt: skip
def test_any_table_is_a_result_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, header: list[str], rows: list[list[str]],
    comma: str, end: str,
) -> None:  # fmt: skip
    root = tmp_path_factory.mktemp("fuzz")
    text = end.join(comma.join(row) for row in [header, *rows])
    for side in "ab":
        for run in range(2):
            write(root / side / f"{run}.csv", text)
    try:
        compare(root / "a", root / "b")
    except LabkitError as error:
        one_sentence(error)
