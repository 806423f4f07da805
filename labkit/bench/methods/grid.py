"""Run a grid of methods: search a learning rate, train with each seed, score what came out.

A call begins nothing that is there already. Training runs are found by their content hash, scores
by that of weights and questions, so a grid that was killed goes on where it was, and one with more
seeds or more questions runs what is new. All of it lies among the runs: there is no state here.

Seeds are the outer loop: after the first there is a whole table, and what makes the machine slower
for an hour does not fall on one method.
"""

import dataclasses
import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labkit import methods
from labkit.bench import paired
from labkit.bench.methods.plan import FACTOR, Arm, Grid
from labkit.datasets import registry as datasets
from labkit.errors import LabkitError
from labkit.inference.evaluate import evaluate
from labkit.inference.lm_eval_tasks.run import evaluate_tasks
from labkit.models import load, registry
from labkit.runs.config import RunConfig
from labkit.runs.records import RunRecord
from labkit.train.run import train
from labkit.train.tasks import task_of

SCHEMA = 1
Say = Callable[[str], None]


def measure(grid: Grid, *, say: Say = lambda line: None) -> dict[str, Any]:
    """Run what is missing of a grid and return its record: every measurement, no conclusion.

    schema, facts, grid, against, reports [questions], base {general_text, tables_choice} of the
    untouched model, and arms: [{arm, settings, reason, search, runs}]. An arm that cannot be had
    has no runs, and the reason.

    Raises:
        LabkitError: no such model or data.
    """
    arms = grid.chosen
    dataset, path = datasets.find(grid.data)
    examples = dataset.load(path, "test")[: grid.questions]
    found: dict[str, dict[str, Any]] = {
        arm.name: {"arm": arm.name, "group": arm.group, "settings": dict(arm.settings),
                   "reason": impossible(grid, arm), "search": None, "runs": []}
        for arm in arms
    }  # fmt: skip
    base = _texts(grid.model, grid, choices=True)
    wanted = [(seed, arm) for seed in grid.seeds_of(arms[0]) for arm in arms
              if seed in grid.seeds_of(arm)]  # fmt: skip
    for number, (seed, arm) in enumerate(wanted, start=1):
        entry = found[arm.name]
        if entry["reason"]:
            continue
        label = f"{number} of {len(wanted)}: {arm.name}, seed {seed}"
        try:
            if entry["search"] is None:
                entry["search"] = search(grid, arm, say=say)
            entry["runs"].append(_run(grid, arm, seed, rate=entry["search"]["chosen"]))
        except LabkitError as error:
            entry["reason"] = str(error)
            say(f"{label}: {error}")
            continue
        right = entry["runs"][-1]["em"]
        say(f"{label}: {right.count('1')} of {len(right)} right")
    return {
        "schema": SCHEMA, "facts": paired.facts(), "grid": dataclasses.asdict(grid),
        "against": grid.against, "reports": [example.group for example in examples],
        "base": base, "arms": list(found.values()),
    }  # fmt: skip


def impossible(grid: Grid, arm: Arm) -> str | None:
    """Return why an arm cannot be had with the grid's model; None if it can."""
    path = registry.resolve(grid.model)
    try:
        config = grid.config(arm, seed=grid.first_seed, rate=arm.rates[0], steps=grid.steps)
        methods.check_architecture(
            config.method, load.config_of(str(path)).model_type, model=config.model,
            names=methods.in_training(), base=methods.BASES[config.base],
        )  # fmt: skip
    except LabkitError as error:
        return str(error)
    return None


def search(grid: Grid, arm: Arm, *, say: Say = lambda line: None) -> dict[str, Any]:
    """Return the rate with the lowest loss on the development split after a short run, and all.

    chosen, at_end (whether the best is still at an end), tried: [{rate, loss, seconds, tokens,
    reason}], the loss null for a rate at which training failed. One rate is taken as it is.

    Raises:
        LabkitError: training fails at every rate.
    """
    if arm.name in grid.rates or len(arm.rates) == 1:
        known = grid.rates.get(arm.name, arm.rates[0])
        return {"chosen": known, "at_end": False, "tried": []}
    tried = {rate: _tried(grid, arm, rate, say=say) for rate in arm.rates}
    for _ in range(grid.extended + 1):
        works = {rate: row["loss"] for rate, row in tried.items() if row["loss"] is not None}
        if not works:
            raise LabkitError(next(iter(tried.values()))["reason"])
        best = min(works, key=lambda rate: works[rate])
        at_end = best in (min(tried), max(tried))
        if not at_end or len(tried) == len(arm.rates) + grid.extended:
            break
        further = best * FACTOR if best == max(tried) else best / FACTOR
        further = float(f"{further:.2g}")
        tried[further] = _tried(grid, arm, further, say=say)
    return {"chosen": best, "at_end": at_end, "tried": [tried[rate] for rate in sorted(tried)]}


def _tried(grid: Grid, arm: Arm, rate: float, *, say: Say) -> dict[str, Any]:
    config = grid.config(
        arm, seed=grid.first_seed, rate=rate, steps=grid.search_steps, keep_weights=False,
        eval_steps=grid.search_steps, max_eval_samples=grid.dev_samples,
    )  # fmt: skip
    row: dict[str, Any] = {"rate": rate, "loss": None, "seconds": 0.0, "tokens": 0, "reason": None}
    try:
        done = _trained(config)
    except LabkitError as error:
        return {**row, "reason": str(error)}
    row["loss"] = done.summary["eval_losses"][-1]["loss"]
    say(f"  {arm.name}, rate {rate:g}: development loss {row['loss']:.3f}")
    return {**row, "seconds": done.summary["wall_seconds"],
            "tokens": sum(step["tokens"] for step in done.steps)}  # fmt: skip


def _run(grid: Grid, arm: Arm, seed: int, *, rate: float) -> dict[str, Any]:
    """Train an arm with a seed, score it, and return every measurement of it."""
    done = _trained(grid.config(arm, seed=seed, rate=rate, steps=grid.steps))
    weights = [*done.model_path.glob("*.safetensors"), *done.model_path.glob("*.bin")]
    return {
        "seed": seed, "run": done.name, "id": done.id,
        **_answers(done.name, grid),
        **_texts(done.name, grid, choices=seed == grid.first_seed),
        "tokens": sum(step["tokens"] for step in done.steps),
        "train_seconds": done.summary["train_seconds"],
        "step_seconds": done.summary["step_seconds_median"],
        "peak_bytes": done.summary["peak_bytes"]["allocated"],
        "trained_parameters": done.summary["trainable_parameters"],
        "saved_bytes": sum(file.stat().st_size for file in weights),
        "arithmetic": done.summary["arithmetic"],
        "losses": [round(loss, 4) for loss in done.losses],
    }  # fmt: skip


def _trained(config: RunConfig) -> RunRecord:
    """Return the finished run of a configuration. KeyboardInterrupt where Ctrl-C ended it."""
    gc.collect()  # what the last model left counts as memory of the next
    done = train(config, quiet=True)
    if done.status != "done":
        raise KeyboardInterrupt
    return done


def _answers(model: str, grid: Grid) -> dict[str, Any]:
    """Return {em, f1} of every question in order: a string of digits, and fractions."""
    outcome = evaluate(model, data=grid.data, max_samples=grid.questions, exact=grid.exact,
                       quiet=True)  # fmt: skip
    dataset, path = datasets.find(grid.data)
    given = json.loads(Path(outcome.predictions).read_text(encoding="utf-8"))
    score = task_of(grid.data).score
    scores = [score(dataset, example, given[example.uid])
              for example in dataset.load(path, "test")[: grid.questions]]  # fmt: skip
    return {"em": "".join(str(int(each["em"])) for each in scores),
            "f1": [round(each["f1"], 4) for each in scores]}  # fmt: skip


def _texts(model: str, grid: Grid, *, choices: bool) -> dict[str, Any]:
    """Return what lm-eval says: [log p, bytes] of general passages, and choices right or wrong."""
    (prose,) = evaluate_tasks(model, ["general_text"], quiet=True)
    found: dict[str, Any] = {"general_text": [row["bits_per_byte"] for row in _rows(prose)],
                             "tables_choice": ""}  # fmt: skip
    if choices and datasets.find(grid.data)[0].scored_as:  # it asks about reports
        (chosen,) = evaluate_tasks(model, ["tables_choice"], data=grid.data,
                                   max_samples=grid.choices, quiet=True)  # fmt: skip
        found["tables_choice"] = "".join(str(int(row["acc"])) for row in _rows(chosen))
    return found


def _rows(outcome: Any) -> list[dict[str, Any]]:
    """Return lm-eval's samples of a task, in the order of its documents."""
    lines = Path(outcome.predictions).read_text(encoding="utf-8").splitlines()
    return sorted(map(json.loads, lines), key=lambda row: row["doc_id"])
