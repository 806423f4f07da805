"""The harness on made-up clocks with known ratios; what must compute the same; what is kept."""

import importlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from labkit import stats
from labkit.bench import paired
from labkit.bench.paired import Ledger, Plan
from labkit.bench.switchback import grid as bench
from labkit.bench.switchback import layers, model_step, report, ways
from labkit.cli import program
from labkit.errors import LabkitError


class Clock:
    """A machine whose time passes only when a step says so, ever slower, with noise."""

    def __init__(self, drift: float = 0.0, noise: float = 0.0) -> None:
        self.now, self.drift, self.noise, self.calls = 0.0, drift, noise, 0

    def __call__(self) -> float:
        return self.now

    def step(self, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.calls += 1
            # Sums of sines: irregular, and the same every time.
            wobble = self.noise * math.sin(12.9898 * self.calls**2)
            self.now += seconds * (1 + self.drift * self.calls) * (1 + wobble)

        return run


def silent(line: str) -> None:
    pass


# Order and time.


def test_every_second_round_is_the_reverse_of_the_one_before() -> None:
    assert paired.orders(["a", "b"], 4) == [["a", "b"], ["b", "a"], ["b", "a"], ["a", "b"]]
    for arms in (["a", "b", "c"], ["a", "b", "c", "d"]):
        rounds = paired.orders(arms, 10)
        assert all(sorted(order) == arms for order in rounds)
        assert all(second == first[::-1] for first, second in zip(rounds[::2], rounds[1::2]))  # noqa: B905
        places = {arm: sum(order.index(arm) for order in rounds) for arm in arms}
        assert len(set(places.values())) == 1, "all arms have the same mean position"
        assert len({order[0] for order in rounds}) == len(arms)


def test_warm_up_is_dropped_and_what_comes_before_a_step_is_not_timed() -> None:
    clock = Clock()
    seconds = iter([9.0, 5.0, 1.0, 2.0, 3.0, 1.0])
    plan = Plan(warmup=2, steps=3, run_seconds=0.0)

    def step() -> None:
        clock.now += next(seconds)

    def before() -> None:
        clock.now += 100.0

    timed = paired.time_run(step, plan, before=before, clock=clock)
    assert timed == {"seconds": [1.0, 2.0, 3.0], "warmup_seconds": [9.0, 5.0]}


@pytest.mark.parametrize(("run_seconds", "expected"), [(0.0, 2), (1.0, 10), (100.0, 25)])
def test_a_run_goes_on_until_it_is_long_enough(run_seconds: float, expected: int) -> None:
    clock = Clock()
    plan = Plan(warmup=1, steps=2, run_seconds=run_seconds - 1e-9, max_steps=25)
    timed = paired.time_run(clock.step(0.1), plan, clock=clock)
    assert len(timed["seconds"]) == expected


def measured(clock: Clock, arms: dict[str, float], pairs: int = 10) -> list[paired.Run]:
    plan = Plan(warmup=1, steps=3, run_seconds=0.0)
    steps = {arm: clock.step(seconds) for arm, seconds in arms.items()}
    return paired.alternate(
        {arm: lambda s=step: paired.time_run(s, plan, clock=clock) for arm, step in steps.items()},
        pairs,
    )


def test_a_known_ratio_comes_out_on_a_machine_that_grows_slower() -> None:
    """By the end everything takes half as long again; one arm after the other would be fooled."""
    arms = {"a": 1.25, "fast": 1.0, "a_again": 1.25}
    runs = measured(Clock(drift=0.5 / 120, noise=0.01), arms)
    found = paired.conclude(runs, "fast")
    assert found["ratio"]["value"] == pytest.approx(1.25, rel=0.01)
    assert found["ratio"]["low"] < 1.25 < found["ratio"]["high"]
    assert found["p_value"] < 1e-6
    assert found["a_a"]["low"] < 1 < found["a_a"]["high"] and found["a_a_p_value"] > 0.05
    clock = Clock(drift=0.5 / 120)
    plan = Plan(warmup=1, steps=3, run_seconds=0.0)
    blocks = [
        [paired.time_run(clock.step(s), plan, clock=clock) for _ in range(10)] for s in (1.25, 1.0)
    ]
    means = [sum(sum(run["seconds"]) for run in block) for block in blocks]
    assert means[0] / means[1] < 1.15, "this clock does fool the naive order"


def test_equal_arms_are_not_told_apart() -> None:
    found = paired.conclude(measured(Clock(noise=0.05), {"a": 1.0, "b": 1.0, "a_again": 1.0}), "b")
    assert found["p_value"] > 0.05 and found["a_a_p_value"] > 0.05


def test_a_round_s_times_go_to_the_arms_in_the_order_they_were_asked() -> None:
    taken = {"a": 1.0, "b": 2.0, "c": 3.0}
    asked: list[list[str]] = []

    def measure(order: list[str]) -> list[dict[str, list[float]]]:
        asked.append(order)
        return [{"seconds": [taken[arm]], "warmup_seconds": []} for arm in order]

    runs = paired.by_round(measure, list(taken), 4)
    assert asked == paired.orders(list(taken), 4) and asked[0] == asked[1][::-1]
    assert all(run["median"] == taken[run["arm"]] for run in runs)
    assert [run["arm"] for run in runs if run["round"] == 3] == asked[3]
    with pytest.raises(ValueError):
        paired.by_round(lambda order: [], ["a"], 4)


def test_what_is_concluded_is_the_paired_test_of_the_medians() -> None:
    runs = measured(Clock(noise=0.05), {"a": 1.1, "b": 1.0, "a_again": 1.1})
    found = paired.conclude(runs, "b")
    base, other = paired.times(runs, "a"), paired.times(runs, "b")
    assert len(base) == 10 and base != paired.times(runs, "a_again")
    exact = stats.paired_ratio(base, other)
    assert found["ratio"] == exact["ratio"] and found["p_value"] == exact["p_value"]
    detectable = found["detectable"]
    assert stats.power(detectable, spread=exact["spread"], n=10) == pytest.approx(0.8, abs=0.01)
    assert set(found) == {
        "ratio", "p_value", "p_wilcoxon", "a_a", "a_a_p_value", "pairs", "spread", "detectable",
        "seconds", "times",
    }  # fmt: skip
    assert found["times"] == {
        arm: paired.times(runs, name)
        for arm, name in (("baseline", "a"), ("candidate", "b"), ("again", "a_again"))
    }


def test_an_interrupted_comparison_goes_on_where_it_was() -> None:
    arms = {"a": 1.25, "b": 1.0}
    plan = Plan(warmup=0, steps=1, run_seconds=0.0)
    whole = paired.alternate(
        {k: lambda s=s: {"seconds": [s], "warmup_seconds": []} for k, s in arms.items()}, 6
    )
    kept: list[Any] = []

    def stop(runs: list[paired.Run]) -> None:
        kept[:] = json.loads(json.dumps(runs))
        if len(runs) == 5:
            raise KeyboardInterrupt

    calls: list[str] = []

    def runner(arm: str) -> Callable[[], dict[str, list[float]]]:
        def run() -> dict[str, list[float]]:
            calls.append(arm)
            clock = Clock()
            return paired.time_run(clock.step(arms[arm]), plan, clock=clock)

        return run

    runners = {arm: runner(arm) for arm in arms}
    with pytest.raises(KeyboardInterrupt):
        paired.alternate(runners, 6, on_run=stop)
    assert len(calls) == len(kept) == 5
    assert paired.alternate(runners, 6, kept=kept) == whole
    assert len(calls) == 12


def test_a_time_of_nothing_is_refused() -> None:
    nothing = {"seconds": [0.0], "warmup_seconds": []}
    with pytest.raises(ValueError, match="took 0.0 seconds"):
        paired.alternate({"a": lambda: nothing}, 2)


@pytest.mark.parametrize(
    "settings",
    [{"pairs": 3}, {"pairs": 2}, {"pairs": 0}, {"steps": 0}, {"warmup": -1}, {"max_steps": 1}],
)
def test_plans_that_cannot_be_balanced_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(LabkitError):
        Plan(**{"steps": 2, **settings})


@pytest.mark.parametrize(
    "settings",
    [{"tokens": ()}, {"tokens": (0,)}, {"shapes": ((64, 0),)}, {"backend": "cuda"}, {"layers": -1}],
)
def test_grids_of_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(LabkitError):
        bench.Grid(**settings)


# What is kept.


def test_a_ledger_gives_back_what_it_was_given_for_the_same_settings_only(tmp_path: Path) -> None:
    file = tmp_path / "bench" / "x.json"
    Ledger(file, settings={"pairs": (1, 2)}).put("one", {"seconds": [1.0]})
    again = Ledger(file, settings={"pairs": (1, 2)})
    assert again.get("one") == {"seconds": [1.0]} and again.kept == 1
    assert again.get("two") is None
    assert Ledger(file, settings={"pairs": (1, 3)}).kept == 0
    assert Ledger(file, settings={"pairs": (1, 2)}, fresh=True).kept == 0
    file.write_text(file.read_text()[:-30])
    assert Ledger(file, settings={"pairs": (1, 2)}).kept == 0
    assert [p.name for p in file.parent.iterdir()] == ["x.json"]


def test_a_fresh_process_answers_refuses_fails_and_dies() -> None:
    assert paired.in_fresh_process("os:getpid", say=silent) != os.getpid()
    assert paired.in_fresh_process("torch:get_num_threads", say=silent, threads=1) == 1
    with pytest.raises(LabkitError, match="no device is called 'h1000'"):
        paired.in_fresh_process("labkit.machine.datasheets:find", say=silent, name="h1000")
    with pytest.raises(RuntimeError, match="JSONDecodeError"):
        paired.in_fresh_process("json:loads", say=silent, s="{")
    with pytest.raises(LabkitError, match="ended with code 9, most likely for want of memory"):
        paired.in_fresh_process("os:_exit", say=silent, status=9)


# The ways that are compared.

CASE = {"tokens": 24, "in_features": 48, "out_features": 32, "mode": "full"}


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
    return measured(Clock(noise=0.01), taken)


KINDS = ["eager", "float32", "row", "tensor", *(
    name for name, way in ways.WAYS.items()
    if way.packed_by and not way.tiles
    and ways.can_prepack(way.packed_by, way.dtype, torch.device("cpu"))
)]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["full", "frozen"])
def test_a_step_does_all_products_of_its_mode(kind: str, mode: str) -> None:
    step, before = layers.build(kind, CASE | {"mode": mode}, backend="reference")
    closure: Any = step.__closure__  # type: ignore[attr-defined]
    names: Any = step.__code__.co_freevars  # type: ignore[attr-defined]
    cells = {name: cell.cell_contents for name, cell in zip(names, closure, strict=True)}
    version = cells["weight"]._version
    before()
    step()
    assert cells["x"].grad.shape == (24, 48)
    assert (cells["weight"].grad is None) == (mode == "frozen")
    assert (cells["weight"]._version > version) == (mode == "full"), "no copy may be kept"


def test_parts_are_those_of_the_published_table_and_compute_the_product() -> None:
    found = layers.parts({k: v for k, v in CASE.items() if k != "mode"}, "reference")
    published = json.loads(
        (Path(__file__).parents[2] / "data" / "switchback_published.json").read_text()
    )["a100_layer"]["rows"][0]["milliseconds"]
    ours = {name.replace("bf16", "fp16") for name in found}
    wide = layers.parts({k: v for k, v in CASE.items() if k != "mode"}, "reference", torch.float32)
    assert {name.replace("float32", "fp16") for name in wide} == ours - {"tiles_dw"}
    assert {n.removesuffix("_tensor").removesuffix("_row") for n in published} <= {
        n.removesuffix("_tensor").removesuffix("_row") for n in ours
    }
    exact, int8 = found["bf16_y"](), found["int8_y"]()
    assert isinstance(exact, torch.Tensor) and isinstance(int8, torch.Tensor)
    error = (exact.float() - int8.float()).norm() / exact.float().norm()
    assert 0 < error < 0.03


@pytest.mark.parametrize(("layer_count", "dtype"), [(1, "bfloat16"), (3, "float32")])
def test_the_trained_model_is_a_llama_of_the_said_size(layer_count: int, dtype: str) -> None:
    spec = {
        "widths": model_step.TINY, "layers": layer_count, "batch_size": 2, "seq_len": 24,
        "weight_scale": "row", "backend": "reference", "min_features": 0, "compiled": False,
        "weight_gradient": "torch", "dtype": dtype,
    }  # fmt: skip
    plan = Plan(warmup=1, steps=2, run_seconds=0.0, max_steps=2)
    assert model_step.choose(spec)[0] in ("float32", "bfloat16")
    plain = model_step.measure_training(spec, plan, switchback=False)
    int8 = model_step.measure_training(spec, plan, switchback=True)
    assert plain["parameters"] == int8["parameters"]
    assert plain["parameters"] == model_step.parameters(model_step.TINY, layer_count)
    assert (plain["converted"], int8["converted"]) == (0, 7 * layer_count)
    tiles = model_step.measure_training(spec, plan, switchback=False, tiles=True)
    assert (tiles["converted"], tiles["parameters"]) == (0, plain["parameters"])
    assert len(plain["seconds"]) == 2 and len(plain["warmup_seconds"]) == 1


def test_tinyllama_s_widths_are_tinyllama_s() -> None:
    from labkit.models.specs import MODELS

    config = MODELS["tinyllama-1.1b"].config
    assert {key: config[key] for key in model_step.TINYLLAMA} == model_step.TINYLLAMA
    assert config["num_hidden_layers"] == model_step.TINYLLAMA_LAYERS
    assert model_step.parameters(model_step.TINYLLAMA, 22) == 1_100_048_384


def test_a_shallow_model_keeps_the_vocabulary_s_share() -> None:
    def share(layers: int) -> float:
        table = (
            model_step.vocabulary(model_step.TINYLLAMA, layers)
            * model_step.TINYLLAMA["hidden_size"]
        )
        return 2 * table / model_step.parameters(model_step.TINYLLAMA, layers)

    whole = 2 * model_step.TINYLLAMA["vocab_size"] * model_step.TINYLLAMA["hidden_size"]
    shrunk = (
        2 * model_step.vocabulary(model_step.TINYLLAMA, 2) * model_step.TINYLLAMA["hidden_size"]
    )
    layers_alone = model_step.parameters(model_step.TINYLLAMA, 2) - shrunk
    assert whole / (whole + layers_alone) > 0.5
    assert share(22) == pytest.approx(1 / 8, abs=0.01)
    assert share(2) == pytest.approx(share(22), rel=0.03)
    assert share(1) == pytest.approx(share(22), rel=0.03)


def test_the_grid_s_shapes_are_tinyllama_s() -> None:
    shapes = {(2048, 2048), (2048, 256), (2048, 5632), (5632, 2048)}
    assert set(bench.TINYLLAMA_SHAPES) == shapes


def test_a_model_that_does_not_fit_is_refused_before_anything_runs() -> None:
    with pytest.raises(LabkitError, match="use fewer --layers"):
        model_step.check_memory({"widths": model_step.TINYLLAMA, "layers": 4000})


# The commands.


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


# What is said about it.


def row(ratio: float, p: float, **changes: Any) -> dict[str, Any]:
    interval = {"value": ratio, "low": ratio - 0.01, "high": ratio + 0.01}
    values = {
        "tokens": 16, "in_features": 64, "out_features": 64, "mode": "full", "weight_scale": "row",
        "baseline": "eager", "backend": "cpu", "ratio": interval, "p_value": p, "p_holm": p,
        "a_a": {"value": 1.0, "low": 0.99, "high": 1.01}, "a_a_p_value": 0.5,
        "seconds": {"baseline": 2e-3, "candidate": 1e-3},
    }  # fmt: skip
    return values | changes


def test_a_size_is_won_or_lost_only_where_the_test_says_so() -> None:
    assert report.verdict(row(1.3, 0.001)) == "faster"
    assert report.verdict(row(0.7, 0.001)) == "slower"
    assert report.verdict(row(1.3, 0.001, p_holm=0.2)) == "≈"


def test_a_control_that_fails_is_said() -> None:
    sizes = [row(1.0, 0.5, tokens=t, a_a_p_value=p) for t, p in enumerate([0.5, 0.04, 0.3], 1)]
    (line,) = report.control_lines(sizes)
    assert "1 of 3 sizes" in line and "0 after Holm" in line and "do not trust" not in line
    (line,) = report.control_lines([*sizes, row(1.0, 0.5, tokens=9, a_a_p_value=1e-5)])
    assert "do not trust this table" in line


def test_the_parts_of_a_step_add_up() -> None:
    seconds = {
        "bf16_y": 1.0, "bf16_dx": 2.0, "bf16_dw": 4.0, "quantize_x": 8.0, "quantize_g": 16.0,
        "quantize_w_row": 32.0, "quantize_wt_row": 64.0, "int8_y": 128.0, "int8_dx": 256.0,
    }  # fmt: skip
    plain = report.step_parts({"seconds": seconds}, int8=False)
    assert sum(plain.values()) == 7
    assert sum(report.step_parts({"seconds": seconds}, int8=True).values()) == 4 + 504
    frozen = report.step_parts({"seconds": seconds}, int8=True, frozen=True)
    assert sum(frozen.values()) == 8 + 16 + 128 + 256
    packs = {"pack_w_row": 0.5, "pack_wt_row": 0.25, "packed_y": 0.125, "packed_dx": 0.0625}
    ordered = report.step_parts({"seconds": seconds | packs}, int8=True)
    assert sum(ordered.values()) == 4 + 24 + sum(packs.values())


def test_the_end_to_end_line_says_when_its_control_failed() -> None:
    found = row(1.1, 0.001) | {"layers": 2, "parameters": 2_500_000, "tokens": 64, "pairs": 10}
    line = report.end_to_end_line(found)
    assert "2 layers with 2.5 M parameters" in line and "0.002 s in 16 bit" in line
    assert "failed" not in line
    failed = {"a_a": {"value": 1.1, "low": 1.05, "high": 1.15}, "a_a_p_value": 0.001}
    assert "the control failed" in report.end_to_end_line(found | failed)
