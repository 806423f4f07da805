"""A table of settings left out: rows as they are asked for, each an estimate, each kept."""

import pytest

from labkit import plots
from labkit.errors import LabkitError
from labkit.memory.estimates import estimate
from labkit.runs import measurements
from labkit.sweep import leave_one_out, left_out

GIB = 2**30
ON = {"method": "lora", "seq_len": 64, "gradient_checkpointing": True}
WITHOUT = {"checkpointing": {"gradient_checkpointing": False}, "one sample": {"batch_size": 4}}


def test_each_row_is_the_step_with_one_thing_changed_and_is_kept(runs):
    rows = list(leave_one_out("tiny-llama", device="t4", on=ON, left_out=WITHOUT))
    assert [row.label for row in rows] == [left_out.ALL_ON, *WITHOUT]
    for row, change in zip(rows, ({}, *WITHOUT.values()), strict=True):
        expected = estimate("tiny-llama", device="t4", **{**ON, **change})
        assert row.peak_bytes == expected.peak_bytes["traced"] == sum(row.at_peak.values())
        assert row.step_seconds == expected.step_seconds[0]
    kept = {each["settings"]["label"]: each for each in measurements.read_all()}
    assert sorted(kept) == sorted([left_out.ALL_ON, *WITHOUT])
    for row in rows:
        values = kept[row.label]["values"]
        assert values["peak_bytes"] == row.peak_bytes and values["least_time_s"] == row.step_seconds
        assert not any("seconds" in name for name in values), "the same for all: no fingerprint"
    assert kept["one sample"]["settings"]["without"] == {"batch_size": 4}


def test_a_wrong_setting_is_a_sentence_before_anything_is_traced(runs):
    for wrong in ({"bath_size": 4}, {"sharding": "zero3"}):
        with pytest.raises(LabkitError):
            leave_one_out("tiny-llama", device="t4", on=ON, left_out={"it": wrong})
    assert not runs.exists()


def row(label, gib, seconds):
    return left_out.Row(
        label=label, peak_bytes=int(gib * GIB), at_peak={"weights": 1, "activations": 2},
        step_seconds=seconds, largest_batch_size=0, fits=True,
    )  # fmt: skip


def test_the_table_compares_with_everything_on():
    head, first, second = left_out.render([row("all", 10, 2.0), row("less", 12.5, 1.0)]).split("\n")
    assert first.split() == ["all", "10.0", "+0.0", "1.00×", "0", "activations", "kept", "for",
                             "backward"]  # fmt: skip
    assert second.split()[:5] == ["less", "12.5", "+2.5", "0.50×", "0"]
    assert len(head.split("largest part")[0]) == len(first.split("activations")[0])


def test_the_figure_sorts_what_is_left_out_and_marks_what_does_not_fit():
    values = {"all": 2 * GIB, "small": GIB, "large": 5 * GIB, "middle": 3 * GIB}
    figure, alt = plots.peaks(values, limit=4 * GIB, limit_label="the card", title="Left out")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        "small", "middle", "large", "all",
    ]  # fmt: skip
    assert [bar.get_width() for bar in axes.patches] == [1, 3, 5, 2]
    colours = [bar.get_facecolor() for bar in axes.patches]
    assert colours[2] != colours[0] == colours[1] == colours[3]
    assert {float(line.get_xdata()[0]) for line in axes.get_lines()} == {2.0, 4.0}
    assert "the card: 4.0 GiB" in alt and plots.png(figure, alt=alt).startswith(b"\x89PNG")
