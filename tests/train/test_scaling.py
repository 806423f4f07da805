"""What processes share is shown as records have it, and a run that loses a process says so."""

import json
import os
import re
from pathlib import Path

import pytest

from labkit import plots
from labkit.machine.datasheets import DEVICES
from labkit.memory.estimates import needed
from labkit.memory.formula import analytic
from labkit.memory.settings import StepSettings
from labkit.runs import records
from labkit.runs.profiles import DEFAULT_MODEL
from labkit.runs.records import RunRecord
from labkit.runs.run_folder import COMPLETE
from labkit.train import scaling

ROWS = json.loads(
    (Path(__file__).parents[2] / "data" / "results" / "sharded_runs.json").read_text()
)["rows"]
MIB = 2**20


@pytest.fixture
def a_run():
    """Return a maker of records of a model of 2**20 parameters in float32."""

    def made(name: str, *, seconds: float, parts: int | None = None) -> RunRecord:
        held = {"weights": 4 * MIB, "gradients": 4 * MIB, "optimizer_state": 8 * MIB}
        summary = {"total_parameters": MIB, "step_seconds_median": seconds}
        if parts:
            each = {part: size // parts for part, size in held.items()}
            summary["sharding"] = {"ran": name, "held_bytes": [each] * 2,
                                   "sent_bytes": {"step": 12 * MIB}}  # fmt: skip
        return RunRecord(
            id=name, sha256=name, name=f"run-{name}", status="done",
            started_at="2026-01-01T00:00:00+00:00", config={}, seed=1, versions={}, hardware={},
            data={}, model={}, steps=[{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}],
            summary=summary,
        )  # fmt: skip

    return made


@pytest.fixture
def three(a_run):
    return a_run("alone", seconds=1.0), {
        "none": a_run("none", seconds=1.25, parts=1), "fsdp2": a_run("fsdp2", seconds=1.5, parts=2)
    }  # fmt: skip


@pytest.mark.parametrize(("cards", "profile", "changes"), [
    (0, "gpu", {}), (2, "gpu", {}), (1, "cpu", {}), (1, "gpu", {"model": DEFAULT_MODEL}),
])  # fmt: skip
def test_one_card_is_left_alone(monkeypatch, cards, profile, changes):
    monkeypatch.setattr("torch.cuda.device_count", lambda: cards)
    monkeypatch.setenv("LABKIT_PROFILE", profile)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert scaling.settings_here() == changes
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ("" if cards == 1 else "0,1")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0 if cards == 1 else cards)
    assert scaling.settings_here() == changes  # the cell is run again


def test_the_table_says_what_is_held_sent_and_waited_for(three):
    found = scaling.table(*three).to_dict("index")
    assert list(found) == ["one process", "none", "fsdp2"]
    assert found["fsdp2"] == {
        "tensors show": "fsdp2", "weights, MiB": "2.00", "gradients, MiB": "2.00",
        "optimizer state, MiB": "4.00", "of all": "50%", "sent in a step, MiB": "12.00",
        "step, s": "1.500", "last loss": "1.50000",
    }  # fmt: skip
    assert found["none"]["of all"] == "100%" and found["one process"]["of all"] == "–"
    assert found["one process"]["step, s"] == "1.000"


def test_what_is_held_is_drawn_with_its_unit(three):
    figure, alt = scaling.held(*three)
    left, right = figure.axes
    tops = {bar.get_y() + bar.get_height() for bar in left.patches}
    assert max(tops) == 16 and 8 in tops
    assert "MiB" in left.get_ylabel() and "(s)" in right.get_ylabel()
    assert [bar.get_height() for bar in right.patches] == [1.0, 1.25, 1.5]
    assert "none 16.00 MiB, fsdp2 8.00 MiB" in alt and plots.png(figure, alt=alt)


def test_cards_that_share_need_what_the_formula_says():
    step = {"model": "llama-3-8b", "method": "full", "seq_len": 512}
    cards, card = (2, 8), DEVICES["a100-80gb"]
    figure, alt = scaling.by_cards(step, ("zero1", "fsdp2"), cards, card)
    (axes,) = figure.axes
    lines = {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
    for name in ("zero1", "fsdp2"):
        settings = [StepSettings(**step, sharding=name, num_gpus=n) for n in cards]
        assert lines[name] == [needed(analytic(s).peak_bytes, s) / 2**30 for s in settings]
    assert f"The card has {card.usable_bytes / 2**30:.1f}." in alt


def test_which_stages_fit_is_that_of_the_record():
    rows = [row for row in ROWS["fits"] if row["num_gpus"] == 4]
    found = scaling.fits(rows)
    shown = [cell for column in found for cell in found[column]]
    assert len(shown) == len(rows)
    assert sum("fits" in cell for cell in shown) == sum(row["fits"] for row in rows)


def test_published_times_are_told_from_those_outside_their_range():
    first, *others = (row for row in ROWS["time"] if row["held"])
    figure, alt = scaling.published([{**first, "published_seconds": 2 * first["high_seconds"]},
                                     *others])  # fmt: skip
    (axes,) = figure.axes
    assert [len(line.get_xdata()) for line in axes.get_lines()] == [len(others), 1]
    assert f"{len(others)} of the published times are inside" in alt
    (axes,) = scaling.published(others)[0].axes
    assert [len(line.get_xdata()) for line in axes.get_lines()] == [len(others)]


def test_a_run_that_loses_a_process_says_so_and_leaves_its_checkpoint(tiny_run, runs):
    config = tiny_run(name="lost", nproc=2, sharding="fsdp2", per_device_train_batch_size=1,
                      max_steps=200, save_steps=4)  # fmt: skip
    for _ in range(2):  # what an earlier one left does not count
        said = scaling.lose(config, rank=1)
        # Which of them is heard first is a matter of milliseconds.
        assert re.match("process 1 was killed by SIGKILL|process 0 of 2 lost another one", said)
        assert "\n" not in said
        saved = [int(each.name[11:]) for each in (runs / "lost" / "checkpoints").iterdir()
                 if (each / COMPLETE).exists()]  # fmt: skip
        assert saved and max(saved) < 100
        assert records.load("lost").status != "done"


def test_a_run_that_ends_before_anybody_was_killed_says_so(tiny_run, runs):
    said = scaling.lose(tiny_run(name="short", max_steps=1), rank=7)
    assert "was over before" in said and records.load("short").status == "done"
