"""`labkit stats`: each format read, the right test chosen, and what can't be compared."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from labkit import plots, stats
from labkit.bench.records import equal_quality
from labkit.cli import program
from labkit.errors import LabkitError
from labkit.significance import compare as significance

compare = significance.compare


def write(file: Path, values: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values))
    return file


def record(seconds: Any, *, seed: int = 0, started: str = "", **changes: Any) -> dict[str, Any]:
    """A run record as `labkit train` writes it, as far as it is read."""
    config = {
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "use_switchback": False,
        "seed": seed,
    }
    values = {
        "name": f"run-{seed}", "status": "done", "sha256": "0", "seed": seed,
        "started_at": started, "config": config | changes.pop("config", {}),
        "hardware": {"cpu": "x", "cores": 2, "threads": 2, "gpus": []},
        "model": {"name": "m", "sha256": "m1"}, "data": {"name": "tables", "sha256": "d1"},
        "steps": [{"tokens": 100}, {"tokens": 100}],
        "summary": {"step_seconds_median": seconds},
    }  # fmt: skip
    return values | changes


def log(seconds: Any, *, flos: float = 1e15, step: int = 100) -> dict[str, Any]:
    """A finished training's `trainer_state.json`."""
    rate = 64.0 * step / seconds if isinstance(seconds, float) else None
    return {
        "global_step": step, "train_batch_size": 64,
        "log_history": [
            {"loss": 1.0, "step": 10},
            {"train_runtime": seconds, "train_samples_per_second": rate, "total_flos": flos,
             "epoch": 1.0, "step": step},
        ],
    }  # fmt: skip


@pytest.fixture
def sides(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Return a function that writes two folders of records with a true ratio of 1 + effect."""

    def make(effect: float, n: int = 12, seed: int = 1, **b_changes: Any) -> tuple[Path, Path]:
        rng = np.random.default_rng(seed)
        for i in range(n):
            shared = math.exp(rng.normal(0, 0.2))
            minute = (
                f"2026-01-01T00:{2 * i:02d}:00+00:00",
                f"2026-01-01T00:{2 * i + 1:02d}:00+00:00",
            )
            first, second = minute if i % 2 else minute[::-1]
            a = shared * (1 + effect) * math.exp(rng.normal(0, 0.01))
            b = shared * math.exp(rng.normal(0, 0.01))
            write(tmp_path / "a" / f"r{i}" / "record.json", record(a, seed=i, started=first))
            write(tmp_path / "b" / f"r{i}" / "record.json",
                  record(b, seed=i, started=second, **b_changes))  # fmt: skip
        return tmp_path / "a", tmp_path / "b"

    return make


def test_records_are_paired_by_seed_and_a_speed_up_is_found(sides, tmp_path: Path) -> None:
    a, b = sides(0.1, config={"use_switchback": True})
    outcome = compare(a, b, output_dir=tmp_path / "out")
    (row,) = outcome.results
    times = {
        side: [
            json.loads((tmp_path / side / f"r{i}" / "record.json").read_text())["summary"][
                "step_seconds_median"
            ]
            for i in range(12)
        ]
        for side in "ab"
    }
    exact = scipy_stats.ttest_rel(np.log(times["a"]), np.log(times["b"]))
    assert row["paired"] and row["p_value"] == pytest.approx(exact.pvalue)
    assert row["ratio"]["value"] == pytest.approx(
        scipy_stats.gmean(times["a"]) / scipy_stats.gmean(times["b"])
    )
    assert row["significant"] and 1.05 < row["ratio"]["low"] < 1.1 < row["ratio"]["high"] < 1.15
    assert "B takes" in outcome.sentence and "less time than A" in outcome.sentence
    assert outcome.notes == ["A and B differ in use_switchback (False against True)"]
    assert outcome.a_a["a"]["n"] == 6
    assert json.loads((tmp_path / "out" / "stats.json").read_text()) == outcome.to_json()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["stats.json", "stats.png"]


def test_no_difference_is_not_called_equality(sides) -> None:
    outcome = compare(*sides(0.0))
    assert not outcome.results[0]["significant"]
    assert "no difference was found" in outcome.sentence
    assert "does not show there is none" in outcome.sentence
    assert 0 < outcome.results[0]["power_at_3_percent"] <= 1


def test_all_of_one_side_before_the_other_is_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for i, side in enumerate("ab"):
        for seed in range(4):
            started = f"2026-01-0{i + 1}T00:0{seed}:00+00:00"
            write(tmp_path / side / f"{seed}.json",
                  record(float(rng.uniform(1, 1.1)), seed=seed, started=started))  # fmt: skip
    note = compare(tmp_path / "a", tmp_path / "b").notes[0]
    assert "before those of B" in note and "alternate" in note


def test_a_control_that_fails_is_said(tmp_path: Path) -> None:
    """Runs of A in turn fast and slow, so that their halves differ."""
    rng = np.random.default_rng(4)
    for seed in range(12):
        slow = 1.5 if seed % 4 in (1, 2) else 1.0
        for side, factor in (("a", slow), ("b", 1.0)):
            started = f"2026-01-01T00:{seed:02d}:00+00:00"
            seconds = factor * math.exp(rng.normal(0, 0.01))
            write(tmp_path / side / f"{seed}.json", record(seconds, seed=seed, started=started))
    outcome = compare(tmp_path / "a", tmp_path / "b")
    assert outcome.a_a["a"]["p_value"] < 0.001
    assert any("trust no ratio here" in note for note in outcome.notes)


@pytest.mark.parametrize("form", ["state", "history", "results"])
def test_trainer_logs_are_compared_data_set_by_data_set(form: str, tmp_path: Path) -> None:
    """Names do not pair, so Welch's test; three data sets, so Holm."""
    rng = np.random.default_rng(7)
    times: dict[tuple[str, str], list[float]] = {}
    for data, ratio in (("longform", 1.10), ("oasst1", 1.08), ("russian", 1.0)):
        for side in "ab":
            for i in range(8):
                seconds = 4000 * (ratio if side == "a" else 1) * math.exp(rng.normal(0, 0.01))
                times.setdefault((data, side), []).append(seconds)
                state = log(seconds)
                values = {"state": state, "history": state["log_history"],
                          "results": {"epoch": 1.0, "train_runtime": seconds}}[form]  # fmt: skip
                write(tmp_path / side / data / f"{side}{i}.json", values)
    outcome = compare(tmp_path / "a", tmp_path / "b")
    assert outcome.unit == "seconds a training"
    found = {row["name"]: row for row in outcome.results}
    exact = {
        data: scipy_stats.ttest_ind(
            np.log(times[data, "a"]), np.log(times[data, "b"]), equal_var=False
        ).pvalue
        for data in found
    }
    assert {name: row["p_value"] for name, row in found.items()} == pytest.approx(exact)
    assert [row["p_holm"] for row in found.values()] == pytest.approx(
        stats.holm(list(exact.values()))
    )
    assert [name for name, row in found.items() if row["significant"]] == ["longform", "oasst1"]
    assert "after Holm's adjustment for 3 questions" in outcome.sentence
    assert not found["oasst1"]["paired"]


def test_a_training_counts_once_whatever_it_left_behind(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for side in "ab":
        for i in range(3):
            folder, seconds = tmp_path / side / f"run{i}", float(rng.uniform(50, 60))
            write(folder / "trainer_state.json", log(seconds))
            write(folder / "all_results.json", {"train_runtime": seconds})
            write(folder / "eval_results.json", {"eval_loss": 1.0})
            unfinished = {"log_history": [{"loss": 1.0}], "global_step": 50}
            write(folder / "checkpoint-50" / "trainer_state.json", unfinished)
    (row,) = compare(tmp_path / "a", tmp_path / "b").results
    assert row["n"] == 3 and row["paired"]


def lm_eval(folder: Path, scores: list[float], *, log_samples: bool = True, shots: int = 0) -> Path:
    mean = float(np.mean(scores))
    error = float(np.std(scores, ddof=1)) / len(scores) ** 0.5
    file = write(
        folder / "results_2026-01-01T00-00-00.json",
        {
            "results": {"arc": {"alias": "arc", "acc,none": mean, "acc_stderr,none": error}},
            "versions": {"arc": 1.0}, "n-shot": {"arc": shots},
            "n-samples": {"arc": {"original": len(scores), "effective": len(scores)}},
        },
    )  # fmt: skip
    if log_samples:
        lines = [
            json.dumps({"doc_id": i, "filter": "none", "acc": s}) for i, s in enumerate(scores)
        ]
        (folder / "samples_arc_2026-01-01T00-00-00.jsonl").write_text("\n".join(lines))
    return file


def test_lm_eval_answers_are_paired_and_tested_by_mcnemar(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    x = rng.binomial(1, 0.5, size=300).astype(float)
    y = np.where(rng.random(300) < 0.15, 1.0, x)
    a, b = lm_eval(tmp_path / "a", list(x)), lm_eval(tmp_path / "b", list(y))
    (row,) = compare(a.parent, b.parent, margin=0.05).results
    better, worse = int(((y - x) == 1).sum()), int(((y - x) == -1).sum())
    assert row["p_value"] == pytest.approx(scipy_stats.binomtest(worse, better + worse).pvalue)
    assert row["difference"]["value"] == pytest.approx(float((y - x).mean()))
    assert "B is better" in row["sentence"] and "not shown" in row["sentence"]


def test_equal_quality_is_claimed_within_the_margin_only(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    x = rng.binomial(1, 0.5, size=2000).astype(float)
    y = np.where(rng.random(2000) < 0.02, 1 - x, x)
    a, b = lm_eval(tmp_path / "a", list(x)), lm_eval(tmp_path / "b", list(y))
    shown = {
        margin: compare(a, b, margin=margin).results[0]["equivalence"]["equivalent"]
        for margin in (0.05, 0.002)
    }
    assert shown == {0.05: True, 0.002: False}


def test_without_questions_it_goes_by_the_standard_errors_and_says_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    x, y = rng.binomial(1, 0.5, size=400), rng.binomial(1, 0.65, size=400)
    a = lm_eval(tmp_path / "a", list(x), log_samples=False)
    b = lm_eval(tmp_path / "b", list(y), log_samples=False)
    outcome = compare(a, b)
    (row,) = outcome.results
    z = (y.mean() - x.mean()) / math.hypot(x.std(ddof=1) / 20, y.std(ddof=1) / 20)
    assert row["p_value"] == pytest.approx(2 * scipy_stats.norm.sf(z))
    assert "--log_samples" in outcome.notes[0]


def test_labkit_s_own_scores_are_read(tmp_path: Path) -> None:
    per = {f"q{i}": {"em": float(i % 3 == 0), "f1": 1.0} for i in range(60)}
    more = {uid: {"em": 1.0, "f1": 1.0} for uid in per}
    a = write(tmp_path / "a.json", {"n": 60, "em": 1 / 3, "f1": 1.0, "per_question": per})
    b = write(tmp_path / "b.json", {"n": 60, "em": 1.0, "f1": 1.0, "per_question": more})
    (row,) = compare(a, b).results
    assert (row["n"], row["only_a"], row["only_b"]) == (60, 0, 40)


# What cannot be compared: (files of A, files of B, what the sentence says).
OK = [record(1.0, seed=0), record(1.1, seed=1), record(1.07, seed=2)]
REFUSED: dict[str, tuple[list[Any], list[Any], str]] = {
    "one run": (OK[:1], OK, "A has one run of tables"),
    "one run of B": (OK, OK[:1], "B has one run of tables"),
    "nothing": ([{"x": 1}], OK, "A: .* holds none of"),
    "mixed formats": ([*OK, log(10.0)], OK, "labkit run records and Trainer logs"),
    "unequal formats": ([log(10.0), log(11.0)], OK, "compare two of a kind"),
    "NaN": ([*OK, record(float("nan"), seed=3)], OK, "its time is nan"),
    "no time": ([*OK, record(None, seed=3)], OK, "its time is None"),
    "text for a time": ([log("10"), log(11.0)], [log(9.0), log(9.1)], "its time is '10'"),
    "an unfinished run": ([*OK, record(1.0, seed=3, status="failed")], OK, "failed, not done"),
    "two models on a side": (
        [*OK, record(1.0, seed=3, model={"name": "n", "sha256": "m2"})], OK, "differ in model"),
    "another model": (
        OK, [r | {"model": {"name": "n", "sha256": "m2"}} for r in OK], "differ in model"),
    "other data": (OK, [r | {"data": {"name": "x", "sha256": "d2"}} for r in OK],
                   "trained on tables and B on x"),
    "the same name, other data": (
        OK, [r | {"data": {"name": "tables", "sha256": "d2"}} for r in OK], "differ in data"),
    "unequal steps": (
        OK, [record(1.0, seed=i, config={"per_device_train_batch_size": 4}) for i in range(3)],
        "differ in per_device_train_batch_size"),
    "unequal tokens": (OK, [r | {"steps": [{"tokens": 200}]} for r in OK],
                       "differ in tokens a step"),
    "other threads": (OK, [r | {"hardware": {"cpu": "x", "cores": 2, "threads": 1}} for r in OK],
                      "differ in threads"),
    "two settings on a side": (
        [*OK, record(1.0, seed=3, config={"use_switchback": True})], OK,
        "runs of A differ in use_switchback"),
    "unequal trainings": ([log(10.0), log(11.0)], [log(9.0, step=50), log(9.5, step=50)],
                          "differ in steps"),
    "other FLOPs": ([log(10.0), log(11.0)], [log(9.0, flos=3e15), log(9.5, flos=3e15)],
                    "differ in FLOPs"),
    "copies": (OK, [r | {"name": "copy"} for r in OK], "all pairs have the same ratio"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_what_cannot_be_compared_is_one_sentence(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, sentence = REFUSED[case]
    for side, files in (("a", a), ("b", b)):
        for i, values in enumerate(files):
            write(tmp_path / side / f"{i}.json", values)
    out = tmp_path / "out"
    with pytest.raises(LabkitError, match=sentence):
        compare(tmp_path / "a", tmp_path / "b", output_dir=out)
    with pytest.raises(SystemExit) as exit_:
        program.main(["stats", str(tmp_path / "a"), str(tmp_path / "b"), "--output-dir", str(out)])
    assert exit_.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"alpha": 0.0}, "not an error rate"), ({"alpha": 2.0}, "not an error rate"),
     ({"margin": 5.0}, "not a share"), ({"margin": 0.02}, "for scores")],
)  # fmt: skip
def test_settings_that_make_no_sense(sides, options, sentence) -> None:
    with pytest.raises(LabkitError, match=sentence):
        compare(*sides(0.0, n=4), **options)


def test_a_side_with_itself_or_that_is_not_there(sides, tmp_path: Path) -> None:
    a, _ = sides(0.0, n=4)
    with pytest.raises(LabkitError, match="A and B are both"):
        compare(a, a)
    with pytest.raises(LabkitError, match="B: there is no"):
        compare(a, tmp_path / "nowhere")
    damaged = tmp_path / "b" / "r0" / "record.json"
    damaged.write_text("{")
    with pytest.raises(LabkitError, match="is not valid JSON"):
        compare(a, tmp_path / "b")


@pytest.mark.parametrize("what", ["shots", "questions", "twice", "tasks", "nan"])
def test_other_questions_are_no_comparison(what: str, tmp_path: Path) -> None:
    x = [0.0, 1.0, 1.0, 0.0]
    lm_eval(tmp_path / "a", x)
    lm_eval(tmp_path / "b", x[:3] if what == "questions" else x, shots=5 if what == "shots" else 0)
    if what == "twice":
        lm_eval(tmp_path / "a" / "again", x)
    if what in ("tasks", "nan"):
        file = tmp_path / "b" / "results_2026-01-01T00-00-00.json"
        old, new = ("arc", "boolq") if what == "tasks" else ('"acc,none": 0.5', '"acc,none": NaN')
        file.write_text(file.read_text().replace(old, new))
    sentence = {"shots": "differ in examples", "questions": "differ in questions",
                "twice": "more than one result", "tasks": "only one side has",
                "nan": "not a number"}[what]  # fmt: skip
    with pytest.raises(LabkitError, match=sentence):
        compare(tmp_path / "a", tmp_path / "b")


def test_the_command_prints_one_object(
    sides, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = sides(0.1)
    arguments = ["stats", str(a), str(b), "--output-dir", str(tmp_path / "o"), "--json"]
    with pytest.raises(SystemExit) as exit_:
        program.main(arguments)
    assert exit_.value.code == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["results"][0]["significant"]
    assert set(outcome) == {
        "kind", "alpha", "margin", "a", "b", "unit", "results", "a_a", "notes", "sentence",
    }  # fmt: skip
    with pytest.raises(SystemExit):
        program.main(arguments[:-1])
    out = capsys.readouterr().out
    assert outcome["sentence"] in out and "A/A control, A against itself" in out


def bits(draw: random.Random, share: float) -> str:
    return "".join("1" if draw.random() < share else "0" for _ in range(600))


@pytest.mark.parametrize(("share", "equal"), [(0.60, True), (0.45, False)])
def test_equal_quality_over_seeds_is_shown_or_not(share: float, equal: bool) -> None:
    draw = random.Random(1)
    runs = {
        side: [{"right": bits(draw, each)} for _ in range(3)]
        for side, each in (("a", 0.6), ("b", share))
    }
    reports = [f"report {i // 6}" for i in range(600)]
    found = equal_quality.conclude(runs, reports, 0.05)
    assert found["all"]["equivalent"] is equal
    assert found["em"]["b"] == pytest.approx(
        sum(run["right"].count("1") for run in runs["b"]) / 1800
    )
    each = [seed["difference"]["value"] for seed in found["seeds"]]
    assert found["all"]["difference"]["value"] == pytest.approx(sum(each) / 3)
    # Three seeds say more than one.
    width = [
        test["difference"]["high"] - test["difference"]["low"]
        for test in [found["all"], *found["seeds"]]
    ]
    assert width[0] < min(width[1:])


def test_a_kept_comparison_is_concluded_anew_and_shown(tmp_path: Path) -> None:
    draw = random.Random(1)
    kept: dict[str, Any] = {"margin": 0.05, "reports": [f"report {i // 6}" for i in range(600)]}
    for side in ("a", "b"):
        kept[side] = [{"seed": seed, "right": bits(draw, 0.6)} for seed in (42, 43)]
    kept |= {"em": {"a": 0.99, "b": 0.1}, "seeds": [], "all": {"equivalent": False}}  # made up
    (tmp_path / "kept.json").write_text(json.dumps(kept))
    found = equal_quality.read(tmp_path / "kept.json")
    assert found["em"]["b"] == pytest.approx(
        sum(run["right"].count("1") for run in kept["b"]) / 1200
    )
    said = equal_quality.sentence(found, a="one", b="other")
    assert f"one {100 * found['em']['a']:.1f} %" in said
    assert ("not shown" in said) is not found["all"]["equivalent"]
    figure, axes = plots.new_figure()
    alt = equal_quality.draw(axes, found, a="one", b="other")
    assert said in alt
    points = [container.lines[0].get_xdata()[0] for container in axes.containers]
    expected = [100 * test["difference"]["value"] for test in [*found["seeds"], found["all"]]]
    assert points == pytest.approx(expected)
    assert "other minus one" in axes.get_xlabel() and "90 %" in axes.get_xlabel()


@pytest.mark.parametrize("own_name", [True, False], ids=["two data sets", "one data set twice"])
def test_pairs_are_compared_each_for_itself_and_adjusted_together(
    own_name: bool, sides, tmp_path: Path
) -> None:
    pairs, alone = [], []
    for number, effect in enumerate((0.1, 0.0)):
        for side in sides(effect, config={"use_switchback": True}, seed=number):
            moved = side.rename(tmp_path / f"{side.name}{number}")
            pairs.append(moved)
            for file in moved.rglob("record.json"):
                values = json.loads(file.read_text())
                values["data"]["name"] = f"set{number * own_name}"
                write(file, values)
        alone += compare(*pairs[-2:]).results
    outcome = compare(*pairs)
    found = {row["name"]: row for row in outcome.results}
    expected = ["set0", "set1"] if own_name else ["A/B set0", "C/D set0"]
    assert list(found) == expected
    for row, name in zip(alone, expected, strict=True):
        for key in ("ratio", "p_value", "seconds", "n"):
            assert found[name][key] == row[key]
    assert [row["p_holm"] for row in outcome.results] == stats.holm([r["p_value"] for r in alone])
    assert outcome.a.split() == [str(pairs[0]), str(pairs[2])]


def test_pairs_are_two_sides_each_and_of_one_kind(sides, tmp_path: Path) -> None:
    a, b = sides(0.1)
    other = write(tmp_path / "log" / "trainer_state.json", log(60.0)).parent
    with pytest.raises(LabkitError, match="3 sides are no pairs: give A B"):
        compare(a, b, a)
    with pytest.raises(LabkitError, match="C and D are both"):
        compare(a, b, b, b)
    with pytest.raises(LabkitError, match="A holds labkit run records and D holds Trainer logs"):
        compare(a, b, a, other)


def test_what_one_side_lacks_is_not_taken_from_another_pair(sides, tmp_path: Path) -> None:
    a, b = sides(0.1)
    c, d = (side.rename(tmp_path / f"{side.name}2") for side in (a, b))
    a, b = sides(0.1, seed=2)
    for folder in (a, d):
        for file in folder.rglob("record.json"):
            values = json.loads(file.read_text())
            values["data"]["name"] = "other"
            write(file, values)
    with pytest.raises(
        LabkitError, match="A was trained on A/B other, C/D tables and B on A/B tab"
    ):
        compare(a, b, c, d)
