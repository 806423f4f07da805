"""`labkit bench switchback` and `kernels`: compare int8 by size with the fastest way without it.

The grid is tokens × shapes × mode × weight scale (see `layers.py`), then a whole training step (see
`model_step.py`). A round is a process of its own, where the baseline, the baseline again and both
scales take turns on layers made for it; every training run is a process. Where in memory a layer
happens to lie changes its time for as long as it lives, by more than a tenth now and then, so
layers that are made once and timed often would show a difference between a thing and itself.

48 ratios are 48 chances to be misled: p-values are adjusted for that (Holm), and of 24 controls one
or two may exclude 1 by chance. What is measured is kept at once, so a second call goes on where the
first was stopped. With default settings all of it takes about a quarter of an hour on two cores.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labkit import stats
from labkit.bench import paired
from labkit.bench.paired import BASELINE, CONTROL, Ledger, Plan, Run, Say
from labkit.console import say as print_line
from labkit.errors import LabkitError, nearest
from labkit.files import write_json

MODES = ("full", "frozen")
SCALES = ("row", "tensor")
PLAIN = "plain"
"""The arm without tiles, where the baseline has them."""
TINYLLAMA_SHAPES = ((2048, 2048), (2048, 256), (2048, 5632), (5632, 2048))
WEIGHT_GRADIENTS = ("torch", "tiles")
BACKENDS = ("auto", "triton", "cpu", "onednn", "reference")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What is measured: sizes, the training step, and how often."""

    tokens: tuple[int, ...] = (256, 1024, 4096)
    shapes: tuple[tuple[int, int], ...] = TINYLLAMA_SHAPES
    """in and out features"""
    backend: str = "auto"
    layers: int = 2
    """of the model that is trained end to end; 0 leaves that out"""
    batch_size: int = 8
    seq_len: int = 256
    compiled: bool = False
    """decoder layers of both sides compiled, as labkit does in long runs"""
    weight_scale: str = "row"
    """of the model that is trained end to end"""
    weight_gradient: str = "tiles"
    """SwitchBack's 16-bit product for dW: torch's, or the backend's own where it has one"""
    tiny: bool = False
    """a model of toy widths end to end"""
    plan: Plan = field(default_factory=lambda: Plan(steps=3, run_seconds=0.2))
    training_plan: Plan = field(
        default_factory=lambda: Plan(warmup=2, steps=3, run_seconds=0.0, max_steps=3)
    )
    parts_plan: Plan = field(default_factory=lambda: Plan(run_seconds=0.03))

    def __post_init__(self) -> None:
        for key, value in (("tokens", self.tokens), ("shapes", sum(self.shapes, ()))):
            if not value or min(value) < 1:
                raise LabkitError(f"{key}={value} is nothing to measure: give numbers above 0")
        if self.backend not in BACKENDS:
            raise LabkitError(f"backend={self.backend!r} is unknown: "
                              f"{nearest(self.backend, BACKENDS)}")  # fmt: skip
        if self.weight_gradient not in WEIGHT_GRADIENTS:
            raise LabkitError(f"weight_gradient={self.weight_gradient!r} is unknown: "
                              f"{nearest(self.weight_gradient, WEIGHT_GRADIENTS)}")  # fmt: skip
        if self.layers < 0:
            raise LabkitError(f"layers={self.layers}: give 0 or more")


QUICK = {
    "tokens": (16, 48),
    "shapes": ((64, 64), (64, 96)),
    "layers": 1,
    "batch_size": 2,
    "seq_len": 16,
    "tiny": True,
    "plan": Plan(pairs=4, steps=1, run_seconds=0.002, max_steps=4),
    "parts_plan": Plan(pairs=4, steps=1, run_seconds=0.0, max_steps=2),
    "training_plan": Plan(pairs=4, warmup=1, steps=2, run_seconds=0.0, max_steps=2),
}
"""Settings that prove everything runs, in seconds; what they measure says nothing."""


def quick_grid(**changes: Any) -> Grid:
    """Return a grid with the settings of QUICK."""
    return Grid(**{**QUICK, **changes})


def cases(grid: Grid) -> list[dict[str, Any]]:
    """Return the sizes and modes of the grid, small ones first."""
    return [
        {"tokens": tokens, "in_features": width, "out_features": out, "mode": mode}
        for tokens in grid.tokens
        for width, out in grid.shapes
        for mode in MODES
    ]


def name_of(case: dict[str, Any]) -> str:
    """Return a case's name: tokens, shape, mode."""
    shape = f"{case['in_features']}→{case['out_features']}"
    return " ".join(filter(None, (f"{case['tokens']:,} tokens", shape, case.get("mode"))))


def switchback(
    grid: Grid, *, output_dir: Path, fresh: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """Measure the grid and the training step; return the JSON of `labkit bench switchback`.

    rows: tokens, in_features, out_features, mode, weight_scale, baseline, backend, ratio {value,
    low, high} (baseline time / SwitchBack time), p_value, p_holm, a_a, a_a_p_value, pairs, seconds
    {baseline, candidate}, baselines {way: seconds}, left_out {way: why}, dtype (SwitchBack's),
    candidates {type: seconds}, split {int8, tiles}: the ratio, and what the baseline has of a
    weight gradient on tiles (null where it has none); both multiplied are the ratio to the fastest
    way without. end_to_end: ratio, p_value, a_a and more, or
    null. Results are kept as they come, in output_dir/switchback.json or, where that is of other
    settings, in a file beside it (records).

    Raises LabkitError for a backend that is not there or a model that doesn't fit.
    """
    _check_level(grid)
    say: Say = _silent if quiet else print_line
    work = cases(grid)
    ledger = _ledger(output_dir / "switchback.json", grid, fresh=fresh, say=say)
    started, did = time.monotonic(), 0
    for index, case in enumerate(work):
        name = name_of(case)
        if ledger.get(name) is None:
            measured = _measure(case, grid, say)
            ledger.put(name, measured)
            did += 1
            left = (time.monotonic() - started) / did * (len(work) - index - 1)
            say(f"[{index + 1}/{len(work)}] {name}: {_in_short(measured)}; "
                f"layers done in about {left / 60:.0f} min")  # fmt: skip
    rows = [row for case in work for row in _rows(case, ledger.get(name_of(case)))]
    for row, adjusted in zip(rows, stats.holm([r["p_value"] for r in rows]), strict=True):
        row["p_holm"] = adjusted
    outcome = {
        "rows": rows,
        "end_to_end": end_to_end(grid, ledger, say) if grid.layers else None,
        "facts": ledger.values["facts"],
        "settings": ledger.values["key"]["settings"],
        "records": str(ledger.file),
    }
    write_json(output_dir / "switchback.result.json", outcome)
    return outcome


def _measure(case: dict[str, Any], grid: Grid, say: Say) -> dict[str, Any]:
    """Time one size and mode: the fastest way twice and both scales, in every process."""
    tried = paired.in_fresh_process(
        "labkit.bench.switchback.layers:measure_baselines", say=say, case=case,
        backend=grid.backend, weight_gradient=grid.weight_gradient,
    )  # fmt: skip
    kinds = {BASELINE: tried["baseline"], CONTROL: tried["baseline"], **{s: s for s in SCALES}}
    if tried["plain"] != tried["baseline"]:
        kinds[PLAIN] = tried["plain"]

    def measure(order: list[str]) -> Any:
        return paired.in_fresh_process(
            "labkit.bench.switchback.layers:measure_round", say=say, case=case, plan=grid.plan,
            kinds=[kinds[arm] for arm in order], backend=grid.backend,
            weight_gradient=grid.weight_gradient, dtype=tried["dtype"],
        )  # fmt: skip

    runs = paired.by_round(measure, list(kinds), grid.plan.pairs)
    return {**tried, "runs": runs}


def _rows(case: dict[str, Any], measured: dict[str, Any]) -> list[dict[str, Any]]:
    kept = {k: value for k, value in measured.items() if k != "runs"}
    rows = []
    for scale in SCALES:
        found = paired.conclude(measured["runs"], scale)
        split = {"int8": found["ratio"], "tiles": _tiles(measured["runs"])}
        rows.append({**case, "weight_scale": scale, **kept, **found, "split": split})
    return rows


def _tiles(runs: list[Run], fair: str = BASELINE, plain: str = PLAIN) -> dict[str, float] | None:
    """Return what tiles give the baseline: the ratio of its time without them to that with."""
    without = paired.times(runs, plain)
    return stats.paired_ratio(without, paired.times(runs, fair))["ratio"] if without else None


def _in_short(measured: dict[str, Any]) -> str:
    said = []
    for scale in SCALES:
        ratio = paired.conclude(measured["runs"], scale)["ratio"]
        said.append(f"{scale} {ratio['value']:.2f}× ({ratio['low']:.2f} to {ratio['high']:.2f})")
    return f"{', '.join(said)} of {measured['baseline']}"


def end_to_end(grid: Grid, ledger: Ledger, say: Say) -> dict[str, Any]:
    """Fine-tune with and without SwitchBack, a process a run; return what the runs say.

    The baseline has SwitchBack's weight gradient on tiles where there is one; a third arm has not.
    Both sides compute in the type that multiplies faster here.

    Keys: ratio, p_value, a_a {value, low, high}, a_a_p_value, pairs, seconds, layers, parameters,
    converted (layers in int8), tokens (of a step), weight_scale, compiled, dtype, baseline (plain
    or tiles), split (as in rows) and runs.
    """
    from labkit.bench.switchback import model_step

    spec = {
        "widths": model_step.TINY if grid.tiny else model_step.TINYLLAMA,
        "layers": grid.layers, "batch_size": grid.batch_size, "seq_len": grid.seq_len,
        "weight_gradient": grid.weight_gradient,
        "weight_scale": grid.weight_scale, "backend": grid.backend, "compiled": grid.compiled,
        "min_features": 0 if grid.tiny else 1024,
    }  # fmt: skip
    plan = grid.training_plan
    known: list[Run] = ledger.get("end to end") or []
    dtype, tiles = ledger.get("end to end in") or paired.in_fresh_process(
        "labkit.bench.switchback.model_step:choose", say=say, spec=spec
    )
    spec["dtype"] = dtype
    ledger.put("end to end in", [dtype, tiles])
    number = (4 if tiles else 3) * plan.pairs
    if len(known) < number:
        model_step.check_memory(spec)
        say(f"end to end: {number} training runs, a process each")

    def runner(arm: str) -> Any:
        return lambda: paired.in_fresh_process(
            "labkit.bench.switchback.model_step:measure_training", say=say, spec=spec, plan=plan,
            switchback=arm == "switchback", tiles=arm == "tiles",
        )  # fmt: skip

    def keep(runs: list[Run]) -> None:
        ledger.put("end to end", runs)
        last = runs[-1]
        say(f"[run {len(runs)}/{number}] {last['arm']}: {last['median']:.3f} s a step")

    fair = "tiles" if tiles else "plain"
    runners = {BASELINE: runner(fair), "switchback": runner("switchback"), CONTROL: runner(fair)}
    if tiles:
        runners[PLAIN] = runner("plain")
    runs = paired.alternate(runners, plan.pairs, kept=known, on_run=keep)
    (converted,) = {run["converted"] for run in runs if run["arm"] == "switchback"}
    found = paired.conclude(runs, "switchback")
    given = _tiles(runs)
    if given is not None and given["value"] < 1:  # tiles lose here: the fair opponent is without
        found = paired.conclude(runs, "switchback", baseline=PLAIN, first=BASELINE)
        fair, given = "plain", None
    return {
        **found,
        "layers": grid.layers,
        "parameters": runs[0]["parameters"],
        "converted": converted,
        "tokens": grid.batch_size * grid.seq_len,
        "weight_scale": grid.weight_scale,
        "compiled": grid.compiled,
        "dtype": dtype,
        "baseline": fair,
        "split": {"int8": found["ratio"], "tiles": given},
        "runs": runs,
    }


def kernels(
    grid: Grid, *, output_dir: Path, fresh: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """Time quantising, packing, matmuls and scaling back apart: the JSON of `bench kernels`.

    rows: tokens, in_features, out_features, backend, seconds {part: median over rounds}, spread
    {part: [lowest, highest]}, a_a {value, low, high} of the 16-bit matmul timed twice. Parts are
    those of `layers.parts`. Raises LabkitError for a backend that is not there.
    """
    _check_level(grid)
    say: Say = _silent if quiet else print_line
    ledger = _ledger(output_dir / "kernels.json", grid, fresh=fresh, say=say)
    work = [case for case in cases(grid) if case["mode"] == MODES[0]]
    rows = []
    for index, case in enumerate(work):
        case = {key: value for key, value in case.items() if key != "mode"}
        name = name_of(case)
        measured = ledger.get(name)
        if measured is None:
            measured = paired.in_fresh_process(
                "labkit.bench.switchback.layers:measure_parts", say=say, case=case,
                plan=grid.parts_plan, backend=grid.backend,
            )  # fmt: skip
            ledger.put(name, measured)
            say(f"[{index + 1}/{len(work)}] {name}")
        rows.append({**case, **summarise_parts(measured)})
    outcome = {"rows": rows, "facts": ledger.values["facts"],
               "settings": ledger.values["key"]["settings"]}  # fmt: skip
    write_json(output_dir / "kernels.result.json", outcome)
    return outcome


def summarise_parts(measured: dict[str, Any]) -> dict[str, Any]:
    """Return backend, seconds and spread of every part, and the control."""
    from statistics import median

    runs: Sequence[Run] = measured["runs"]
    names = [n for n in dict.fromkeys(run["arm"] for run in runs) if n not in (BASELINE, CONTROL)]
    taken = {name: paired.times(runs, name) for name in names}
    same = stats.paired_ratio(paired.times(runs, BASELINE), paired.times(runs, CONTROL))
    return {
        "backend": measured["backend"],
        "seconds": {name: median(values) for name, values in taken.items()},
        "spread": {name: [min(values), max(values)] for name, values in taken.items()},
        "a_a": same["ratio"],
        "a_a_p_value": same["p_value"],
    }


def _check_level(grid: Grid) -> None:
    """Refuse a level of int8 that isn't there before a process meets it."""
    from labkit.switchback import levels

    if grid.backend in ("auto", "cpu"):
        levels.chosen()


def _silent(line: str) -> None:
    """Say nothing."""


def _ledger(file: Path, grid: Grid, *, fresh: bool, say: Say) -> Ledger:
    import dataclasses

    ledger = Ledger(file, settings=dataclasses.asdict(grid), fresh=fresh)
    if ledger.kept:
        say(f"{ledger.kept} cases are kept in {ledger.file} (--fresh measures them again)")
    busy = ledger.values["facts"]["load_average"]
    if busy > 0.5:
        say(f"the machine is busy (load average {busy:.1f}): intervals will be wide")
    return ledger
