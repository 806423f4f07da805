"""Logs of trainings as Trainers and other loggers leave them: sessions, tables, encodings."""

import json
from pathlib import Path
from typing import Any

import pytest

from labkit.errors import LabkitError
from labkit.significance import trainer_log
from labkit.significance.compare import compare


def write(file: Path, values: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
    return file


def state(*entries: dict[str, Any], step: int = 100) -> dict[str, Any]:
    return {"global_step": step, "train_batch_size": 8, "log_history": list(entries)}


def end(seconds: float, step: int = 100, **more: Any) -> dict[str, Any]:
    return {"train_runtime": seconds, "step": step, "train_samples_per_second": 800 / seconds,
            "total_flos": 1e15, "epoch": 1.0} | more  # fmt: skip


def test_sessions_of_a_resumed_run_add_up(tmp_path: Path) -> None:
    """The last session's file says 100 s; the state knows of 300, 50 and 100."""
    for side, factor in (("a", 1.0), ("b", 0.5)):
        for i in range(3):
            folder = tmp_path / side / f"run{i}"
            more = 1 + i / 100 if side == "a" else 1.01
            sessions = [end(300 * factor * more, 60), {"loss": 1.0, "step": 70},
                        end(50 * factor * more, 80), end(100 * factor * more)]  # fmt: skip
            write(folder / "trainer_state.json", state(*sessions))
            write(folder / "train_results.json", end(100 * factor * more))
            write(folder / "all_results.json", end(100 * factor * more))
    outcome = compare(tmp_path / "a", tmp_path / "b")
    (row,) = outcome.results
    assert row["seconds"]["a"] == pytest.approx([450, 454.5, 459])
    assert row["ratio"]["value"] == pytest.approx(2, rel=1e-3)
    assert any("3 sessions" in note for note in outcome.notes)


def test_one_entry_written_twice_is_one_session_and_two_trainings_are_two() -> None:
    twice = trainer_log.training(Path("x"), state(end(70.0), end(70.0)))
    assert twice["seconds"] == 70
    with pytest.raises(LabkitError, match="more than one training"):
        trainer_log.training(Path("x"), [end(70.0), {"loss": 2.0, "step": 10}, end(75.0, 60)])


def test_a_state_saved_too_early_says_where_the_time_is(tmp_path: Path) -> None:
    early = state({"loss": 1.0, "step": 50}, step=50)
    for i in range(3):
        write(tmp_path / "a" / f"{i}" / "trainer_state.json", early)
        write(tmp_path / "b" / f"{i}" / "trainer_state.json", early)
        write(tmp_path / "b" / f"{i}" / "train_results.json", end(50.0 + i))
        write(tmp_path / "c" / f"{i}" / "checkpoint-50" / "trainer_state.json", early)
    for side, other in (("a", "b"), ("b", "a"), ("b", "c")):
        with pytest.raises(LabkitError, match=r"train_results\.json"):
            compare(tmp_path / side, tmp_path / other)
    with pytest.raises(LabkitError, match="no train_runtime"):
        compare(tmp_path / "c" / "0" / "checkpoint-50", tmp_path / "b")


def test_losses_that_are_no_numbers_are_said(tmp_path: Path) -> None:
    for side in "ab":
        for i in range(3):
            loss = float("nan") if (side, i) == ("b", 1) else 1.0
            write(tmp_path / side / f"{i}" / "trainer_state.json",
                  state({"loss": loss, "step": 10}, end(50.0 + i + (side == "b") * i)))  # fmt: skip
    notes = compare(tmp_path / "a", tmp_path / "b").notes
    assert sum("not a number at 1 of the logged steps (first at step 10)" in n for n in notes) == 1


TABLES = {
    "a Trainer's": "step,loss,train_runtime\n10,2.0,\n20,1.5,\n20,,{0}\n",
    "Weights & Biases": "_step,train/loss,_runtime\n0,2.0,{1}\n1,NaN,\n2,1.5,{0}\n",
    "TensorBoard": "Wall time,Step,Value\n1000,10,2.0\n{2},20,1.5\n",
    "with a byte-order mark": "\ufeffstep,train_runtime\n20,{0}\n",
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_of_other_loggers(tmp_path: Path, kind: str) -> None:
    for side, factor in (("a", 2.0), ("b", 1.0)):
        for i in range(3):
            seconds = factor * (40 + i) + (side == "a") * i * i
            write(tmp_path / side / f"{i}.csv",
                  TABLES[kind].format(seconds, seconds / 2, 1000 + seconds))  # fmt: skip
    (row,) = compare(tmp_path / "a", tmp_path / "b").results
    assert row["seconds"]["b"] == pytest.approx([40, 41, 42])


def test_a_training_resumed_after_its_end_is_one_training(tmp_path: Path) -> None:
    """A second session of no steps logs the same step; a second training logs its first again."""
    log = [{"loss": 2.0, "step": 50}, end(70.0), {"eval_loss": 1.0, "step": 100}]
    found = trainer_log.training(Path("x"), [*log, end(0.5), {"eval_loss": 1.0, "step": 100}])
    assert found["seconds"] == pytest.approx(70.5) and "2 sessions" in found["notes"][0]
    with pytest.raises(LabkitError, match="more than one training"):
        trainer_log.training(Path("x"), [*log, *log])


@pytest.mark.parametrize("beside", ["state", "results", "neither"])
def test_losses_in_a_table_do_not_hide_the_time_beside_them(tmp_path: Path, beside: str) -> None:
    for side in "ab":
        for i in range(3):
            folder = tmp_path / side / f"{i}"
            write(folder / "losses.csv", "step,loss\n10,2.0\n20,1.5\n")
            if beside == "state":
                write(folder / "trainer_state.json", state(end(50.0 + i + (side == "b") * i)))
        if beside == "results":
            write(tmp_path / side / "results_x.json",
                  {"results": {"quiz": {"acc,none": 0.5, "acc_stderr,none": 0.05}},
                   "versions": {}})  # fmt: skip
    if beside == "neither":
        with pytest.raises(LabkitError, match="no time"):
            compare(tmp_path / "a", tmp_path / "b")
    else:
        assert compare(tmp_path / "a", tmp_path / "b").results[0]["n"] in (3, None)


@pytest.mark.parametrize("text", ["epoch,step,train_loss\n0,10,2.0\n0,20,1.5\n",
                                  "step,loss,lr\n1,nan,0.1\n"])  # fmt: skip
def test_a_table_without_a_time_is_one_sentence(tmp_path: Path, text: str) -> None:
    for side in "ab":
        write(tmp_path / side / "metrics.csv", text)
    with pytest.raises(LabkitError, match="no time"):
        compare(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32-le"])
def test_logs_in_other_encodings_are_not_passed_over(tmp_path: Path, encoding: str) -> None:
    for side in "ab":
        for i in range(3):
            file = tmp_path / side / f"{i}" / "train_results.json"
            write(file, "")
            file.write_bytes(json.dumps(end(50.0 + i * (side == "a"))).encode(encoding))
    (row,) = compare(tmp_path / "a", tmp_path / "b").results
    assert row["seconds"]["a"] == [50, 51, 52]


@pytest.mark.parametrize("key", ["train_runtime", "step", "total_flos", "epoch"])
def test_a_number_that_no_float_holds_is_not_calculated_with(tmp_path: Path, key: str) -> None:
    for side in "ab":
        for i in range(3):
            write(tmp_path / side / f"{i}" / "trainer_state.json",
                  state(end(50.0 + i + (side == "b") * i) | {key: 10**400}))  # fmt: skip
    if key == "train_runtime":
        with pytest.raises(LabkitError, match="not a number of seconds"):
            compare(tmp_path / "a", tmp_path / "b")
    else:
        assert compare(tmp_path / "a", tmp_path / "b").results[0]["n"] == 3


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"seed": []}, "seed is a list"), ({"started_at": 5}, "started_at is a int"),
     ({"data": {"name": {}}}, "data.name is a dict"), ({"config": [1]}, "damaged run record"),
     ({"data": {}}, "KeyError: 'name'"), ({"steps": [1]}, "damaged run record")],
)  # fmt: skip
def test_a_run_record_of_another_shape_is_one_sentence(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    right = {"status": "done", "config": {}, "sha256": "0", "steps": [{"tokens": 7}],
             "model": {"name": "m"}, "data": {"name": "d"},
             "summary": {"step_seconds_median": 0.5}}  # fmt: skip
    for side, values in (("a", right | changes), ("b", right)):
        write(tmp_path / side / "record.json", values)
    with pytest.raises(LabkitError, match=says):
        compare(tmp_path / "a", tmp_path / "b")
