"""`labkit bench switchback` and `kernels`: their sizes, their JSON, and what they refuse."""

import importlib
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from labkit import plots, stats
from labkit.bench import paired
from labkit.bench.paired import Plan
from labkit.bench.switchback import grid as bench
from labkit.bench.switchback import layers, report, ways
from labkit.cli import program
from labkit.errors import LabkitError

CASE = {"tokens": 24, "in_features": 48, "out_features": 32, "mode": "full"}


@pytest.mark.parametrize(
    "settings",
    [{"tokens": ()}, {"tokens": (0,)}, {"shapes": ((64, 0),)}, {"backend": "cuda"}, {"layers": -1}],
)
def test_grids_of_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(LabkitError):
        bench.Grid(**settings)


def test_what_tiles_give_is_the_ratio_of_the_opponent_without_them() -> None:
    taken = {"a": 1.0, "a_again": 1.0, "row": 0.8, "tensor": 0.5, "plain": 1.2}
    measured = {
        "baseline": ways.TILES, "plain": "eager", "baselines": {}, "backend": "cpu",
        "dtype": "bfloat16", "candidates": {}, "left_out": {},
        "runs": measured_with_noise(taken),
    }  # fmt: skip
    row, tensor = bench._rows(CASE, measured)
    assert row["split"]["int8"] == row["ratio"]
    assert row["ratio"]["value"] == pytest.approx(1.25, 0.05)
    assert row["split"]["tiles"]["value"] == pytest.approx(1.2, 0.05)
    (line, _) = report.split_lines([row, tensor])
    assert "int8 gives 1.2" in line and "without tiles for the opponent 1." in line
    del taken["plain"]
    row, _ = bench._rows(CASE, measured | {"runs": measured_with_noise(taken)})
    assert row["split"]["tiles"] is None and report.split_lines([row]) == []


def measured_with_noise(taken: dict[str, float]) -> list[paired.Run]:
    """Return ten rounds of these times with a hundredth of noise, the same every time."""
    turn = itertools.count(1)

    def measure(order: list[str]) -> list[dict[str, list[float]]]:
        # Irregular, and the same every time.
        wobble = [1 + 0.01 * math.sin(12.9898 * next(turn) ** 2) for _ in order]
        return [{"seconds": [taken[arm] * w]} for arm, w in zip(order, wobble, strict=True)]

    return paired.by_round(measure, list(taken), 10)


@pytest.mark.parametrize("tiles", [0.9, 1.4])
def test_what_is_printed_is_what_the_kept_times_say_and_the_figure_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiles: float
) -> None:
    """Where tiles lose, the opponent is plain, while the control repeats the arm with tiles."""
    turn = itertools.count(1)

    def call(target: str, **given: Any) -> Any:
        if target.endswith(":choose"):
            return ["bfloat16", True]
        seconds = 1.0 if given["switchback"] else tiles if given["tiles"] else 1.1
        seconds *= 1 + 0.01 * math.sin(12.9898 * next(turn) ** 2)
        return {"seconds": [seconds], "warmup_seconds": [], "parameters": 10**6, "converted": 4}

    monkeypatch.setattr(paired, "in_fresh_process", call)
    ledger = paired.Ledger(tmp_path / "x.json", settings={})
    found = bench.end_to_end(bench.quick_grid(), ledger, lambda line: None)
    assert found["baseline"] == ("plain" if tiles > 1.1 else "tiles")
    assert found["ratio"]["value"] == pytest.approx(min(tiles, 1.1), 0.05)
    assert found["a_a"]["value"] == pytest.approx(1.0, abs=0.05)
    kept = found["times"]
    control = kept.get("first", kept["baseline"])
    assert stats.paired_ratio(kept["baseline"], kept["candidate"])["ratio"] == found["ratio"]
    assert stats.paired_ratio(control, kept["again"])["ratio"] == found["a_a"]
    figure, ax = plots.new_figure()
    report.draw_pairs(ax, found)
    drawn = [line.get_xdata() for line in ax.lines if len(line.get_xdata()) == found["pairs"]]
    for points, name in zip(drawn, ("ratio", "a_a"), strict=True):
        assert math.prod(points) ** (1 / len(points)) == pytest.approx(found[name]["value"])


def test_the_grid_s_shapes_are_tinyllama_s() -> None:
    shapes = {(2048, 2048), (2048, 256), (2048, 5632), (5632, 2048)}
    assert set(bench.TINYLLAMA_SHAPES) == shapes


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run what would be benchmarked here, without compiling; return what was run."""
    ran: list[str] = []

    def call(target: str, *, say: paired.Say, **arguments: Any) -> Any:
        ran.append(target)
        module, _, function = target.partition(":")
        return getattr(importlib.import_module(module), function)(**arguments)

    monkeypatch.setattr(paired, "in_fresh_process", call)
    monkeypatch.setattr(torch, "compile", lambda module: module)
    return ran


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[Any, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        program.main([*arguments, "--json"])
    assert exit_.value.code == 0
    captured = capsys.readouterr()
    (line,) = captured.out.splitlines()
    return json.loads(line), captured.err


def test_bench_switchback_keeps_its_keys_and_its_results(
    in_this_process: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("bench", "switchback", "--quick", "--tokens", "16", "--backend", "reference",
               "--output-dir", str(tmp_path))  # fmt: skip
    outcome, progress = run(capsys, *command)
    assert len(outcome["rows"]) == 2 * 2 * 2  # shapes × modes × scales
    for row in outcome["rows"]:
        assert {"tokens", "in_features", "out_features", "mode", "baseline", "backend"} <= set(row)
        assert row["ratio"]["low"] <= row["ratio"]["value"] <= row["ratio"]["high"]
        assert set(row["a_a"]) == {"value", "low", "high"}
        kind = ways.WAYS[row["baseline"]].dtype
        taken = {w: s for w, s in row["baselines"].items() if ways.WAYS[w].dtype == kind}
        assert row["baseline"] == min(taken, key=lambda way: taken[way])
        assert row["dtype"] == min(row["candidates"], key=lambda name: row["candidates"][name])
        assert row["split"] == {"int8": row["ratio"], "tiles": None} or row["split"]["tiles"]
        assert not set(row["baselines"]) & set(row["left_out"])
        assert row["backend"] == "reference"
    assert [r["p_holm"] for r in outcome["rows"]] == pytest.approx(
        stats.holm([r["p_value"] for r in outcome["rows"]])
    )
    end = outcome["end_to_end"]
    assert {"ratio", "p_value", "a_a", "split", "dtype", "baseline"} <= set(end)
    arms = len({run["arm"] for run in end["runs"]})
    assert len(end["runs"]) == 4 * arms and arms == (4 if end["baseline"] == "tiles" else 3)
    assert {"cpu", "cores"} <= set(outcome["facts"]["hardware"])
    assert "torch" in outcome["facts"]["versions"]
    assert "[4/4]" in progress and f"[run {4 * arms}/{4 * arms}]" in progress
    pictures = {"switchback.png", "switchback_end_to_end.png"}
    assert {p.name for p in tmp_path.iterdir()} == pictures | {
        "switchback.json", "switchback.result.json"
    }  # fmt: skip
    ran = len(in_this_process)
    # A process to choose the baseline, and one a round; one to choose the type, and one a run.
    assert ran == 4 * (1 + 4) + 1 + 4 * arms
    again, _ = run(capsys, *command)
    assert len(in_this_process) == ran and again == outcome


def test_bench_kernels_times_every_part(
    in_this_process: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome, _ = run(capsys, "bench", "kernels", "--quick", "--tokens", "16", "--backend",
                     "reference", "--output-dir", str(tmp_path))  # fmt: skip
    assert [(r["in_features"], r["out_features"]) for r in outcome["rows"]] == [(64, 64), (64, 96)]
    for row in outcome["rows"]:
        kind = report.float_type(row)
        assert {f"{kind}_y", f"{kind}_dw", "quantize_x", "quantize_wt_row", "int8_y"} <= set(
            row["seconds"]
        )
        for part, seconds in row["seconds"].items():
            low, high = row["spread"][part]
            assert 0 < low <= seconds <= high
        assert row["a_a"]["low"] <= row["a_a"]["value"] <= row["a_a"]["high"]


def test_an_interrupted_benchmark_goes_on_case_by_case(
    in_this_process: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = bench.QUICK | {"tokens": (16,), "layers": 0, "backend": "reference"}
    measure, seen = layers.measure_parts, []

    def once(case: dict[str, Any], plan: Plan, backend: str) -> Any:
        if seen:
            raise KeyboardInterrupt
        seen.append(case)
        return measure(case, plan, backend)

    monkeypatch.setattr(layers, "measure_parts", once)
    with pytest.raises(KeyboardInterrupt):
        bench.kernels(bench.Grid(**settings), output_dir=tmp_path, quiet=True)
    monkeypatch.setattr(layers, "measure_parts", measure)
    bench.kernels(bench.Grid(**settings), output_dir=tmp_path, quiet=True)
    assert len(in_this_process) == 3, "the first size is not measured again"


@pytest.mark.parametrize(
    "arguments",
    [["--pairs", "3"], ["--tokens", "x"], ["--tokens", "0"], ["--backend", "cuda"],
     ["--layers", "-1"]],
)  # fmt: skip
def test_mistakes_are_one_line(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as exit_:
        program.main(["bench", "switchback", "--output-dir", str(out), *arguments])
    assert exit_.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not out.exists()
