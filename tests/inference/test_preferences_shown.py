"""Tables and the figure of preference tuning say what the records hold."""

from typing import Any

import pytest

from labkit.inference import preferences_shown as shown
from labkit.inference.compare import Difference
from labkit.inference.preferences import Counts, Preferences
from labkit.runs.records import RunRecord

INTERVAL = {"value": 0.125, "low": -0.25, "high": 0.5}


@pytest.fixture
def run() -> RunRecord:
    """Return a run of twelve steps: two at 0, ten whose rewards are 1 and -3 on average."""
    rewards = [(0.0, 0.0)] * 2 + [(0.5, -2.5), (1.5, -3.5)] * 5
    return RunRecord(
        id="x", sha256="x", name="mine", status="done", started_at="", config={"beta": 0.2},
        seed=1, versions={}, hardware={}, model={}, data={},
        steps=[{"step": i, "loss": 0.7, "rewards": {
                    "chosen": a, "rejected": b, "margins": a - b, "accuracies": 1.0}}
               for i, (a, b) in enumerate(rewards, start=1)],
        summary={"eval_losses": [{"step": 6, "loss": 0.6, "preference_accuracy": 0.5},
                                 {"step": 12, "loss": 0.4, "preference_accuracy": 0.75}]},
    )  # fmt: skip


def test_rewards_are_means_of_the_last_ten_steps_and_nats_are_over_beta(run: RunRecord) -> None:
    row: dict[str, Any] = shown.tuned({"DPO": run}).loc["DPO"].to_dict()
    assert row == {
        "first loss": "0.7000", "chosen": "+1.00", "rejected": "-3.00", "margin": "+4.00",
        "nats, chosen": "+5.0", "nats, rejected": "-15.0", "development pairs": "75%",
    }  # fmt: skip
    alone = shown.tuned({"DPO": run.replace(summary={})}).loc["DPO"]
    assert alone["development pairs"] == "–", "what was not measured is no number"


def test_the_figure_has_a_line_for_each_reward_and_words_for_it(run: RunRecord) -> None:
    figure, alt = shown.rewards(run)
    (axes,) = figure.axes
    bold = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    assert {"chosen", "rejected", "margin"} <= set(bold)
    # The mean of the last five: 1.5, 0.5, 1.5, 0.5, 1.5 and their opposites.
    assert bold["chosen"][-1] == pytest.approx(1.1) and bold["margin"][-1] == pytest.approx(4.2)
    assert "chosen ends at +1.10" in alt and "margin ends at +4.20" in alt


def test_what_became_of_the_questions_is_a_row_for_each_split() -> None:
    counts = Counts(questions=20, right=0.25, pairs=7, always_right=1, never_right=12, too_long=0)
    found = Preferences(model="m", source="tables", data="jsonl:x", answers=4, temperature=1.0,
                        splits={"train": counts})  # fmt: skip
    assert shown.counts(found).loc["train"].to_dict() == {
        "questions": "20", "answers right": "25%", "always right": "1", "never right": "12",
        "pairs": "7",
    }  # fmt: skip


def test_differences_are_in_points_for_all_questions_and_each_kind() -> None:
    class Pair:
        a, b = "start", "DPO"
        groups = {name: Difference(n=8, reports=2, difference=INTERVAL, f1_difference=INTERVAL,
                                   only_a=1, only_b=2, p_mcnemar=1.0, p_clustered=None)
                  for name in ("all", "span")}  # fmt: skip

    table = shown.differences([Pair()])
    assert list(table.index) == ["DPO − start: all", "DPO − start: span"]
    assert table.loc["DPO − start: all"].to_dict() == {
        "n": 8, "points": "+12.5", "interval": "-25.0 to +50.0", "only first right": 1,
        "only second right": 2,
    }  # fmt: skip
