"""Time two ways to do the same thing so that the difference is due to them alone.

A shared machine is never quiet, a processor warms up, a neighbour starts a job. Four habits keep
that out of the result:

* **The unit is the run.** A run drops its first steps (they allocate, choose kernels, compile) and
  is worth one number, the median of its other steps. Steps of one run are alike for reasons that
  have nothing to do with what is compared, so they don't count as repetitions.
* **Pairs, in alternating order.** A round runs every arm once, and every second round runs them in
  reverse: A B, B A. What drifts in a straight line cancels, and what slows down one round slows
  down both arms of its pair.
* **A control.** The baseline takes part twice, built twice: A and A'. Their ratio has to come out
  as 1, by the same test on the same rounds. If it doesn't, nothing else in that table counts.
* **Fresh processes.** A benchmarked thing runs in a process of its own. It is forked from a small
  server that has imported the libraries and done nothing else, so it starts in a fraction of a
  second and in the same state every time.

What is concluded is `stats.paired_ratio` of the rounds' times: baseline over candidate, above 1
where the candidate is faster.

Source: Kalibera and Jones 2013, "Rigorous Benchmarking in Reasonable Time", for the levels of
repetition; Mytkowicz et al. 2009, "Producing Wrong Data Without Doing Anything Obviously Wrong!",
for what order and environment do.
"""

import hashlib
import importlib
import json
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from labkit import stats
from labkit.errors import LabkitError
from labkit.files import write_json
from labkit.machine import hardware
from labkit.machine.processes import end_with_parent
from labkit.memory.process.shortage import is_shortage
from labkit.runs import records

BASELINE, CONTROL = "a", "a_again"
FEWER = "use fewer --tokens or fewer --layers"
SAY_EVERY_SECONDS = 45.0
PRELOADED = ["labkit.bench.switchback.layers", "transformers.models.llama.modeling_llama"]
"""What the server of fresh processes imports: what takes seconds, and starts no threads."""
Say = Callable[[str], None]
Run = dict[str, Any]
"""One run of one arm: round, position (in its round), arm, seconds, warmup_seconds, median."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How often and how long is measured."""

    pairs: int = 10
    """rounds, in each of which every arm runs once; even, so that order is balanced"""
    warmup: int = 1
    """steps that are dropped at the beginning of every run"""
    steps: int = 2
    """timed steps of a run, at least"""
    run_seconds: float = 0.1
    """a run of fast steps goes on for so long"""
    max_steps: int = 40
    """timed steps of a run, at most"""

    def __post_init__(self) -> None:
        if self.pairs < 4 or self.pairs % 2:
            raise LabkitError(
                f"pairs={self.pairs} can't be balanced: use an even number of pairs, at least 4"
            )
        if self.warmup < 0 or not 1 <= self.steps <= self.max_steps:
            raise LabkitError(
                f"warmup={self.warmup}, steps={self.steps}, max_steps={self.max_steps} is not "
                "a plan: use warmup ≥ 0 and 1 ≤ steps ≤ max_steps"
            )


def orders(arms: Sequence[str], rounds: int) -> list[list[str]]:
    """Return the order of the arms in every round: each odd one is the reverse of the one before.

    The pairs of rounds begin with another arm each, so that none is always in the middle.
    """
    found = []
    for pair in range((rounds + 1) // 2):
        shift = pair % len(arms)
        order = [*arms[shift:], *arms[:shift]]
        found += [order, order[::-1]]
    return found[:rounds]


def time_run(
    step: Callable[[], object],
    plan: Plan,
    *,
    before: Callable[[], object] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Run `step` again and again; return {seconds, warmup_seconds}, one entry a step.

    `before` is called before every step, outside its time (new data, an optimizer's update).
    """
    taken: list[float] = []
    while True:
        if before is not None:
            before()
        start = clock()
        step()
        taken.append(clock() - start)
        timed = taken[plan.warmup :]
        enough = len(timed) >= plan.steps and sum(timed) >= plan.run_seconds
        if enough or len(timed) >= plan.max_steps:
            return {"seconds": timed, "warmup_seconds": taken[: plan.warmup]}


def alternate(
    runners: Mapping[str, Callable[[], Mapping[str, list[float]]]],
    pairs: int,
    *,
    kept: Sequence[Run] = (),
    on_run: Callable[[list[Run]], None] = lambda runs: None,
) -> list[Run]:
    """Call every arm's runner once a round, in alternating order; return all runs.

    Runners return what `time_run` does. `kept` are runs of an interrupted call, which are not made
    again; `on_run` is called with all runs after each. ValueError for a time that is none.
    """
    runs = list(kept)
    done = {(run["round"], run["arm"]) for run in runs}
    for number, order in enumerate(orders(list(runners), pairs)):
        for position, arm in enumerate(order):
            if (number, arm) in done:
                continue
            runs.append(_run(number, position, arm, runners[arm]()))
            on_run(runs)
    return runs


def by_round(
    measure: Callable[[list[str]], Sequence[Mapping[str, list[float]]]],
    arms: Sequence[str],
    pairs: int,
) -> list[Run]:
    """Call `measure` once a round with the arms in that round's order; return all runs.

    It returns what `time_run` does for each, in the same order. ValueError for a time that is none.
    """
    return [
        _run(number, position, arm, timed)
        for number, order in enumerate(orders(arms, pairs))
        for position, (arm, timed) in enumerate(zip(order, measure(order), strict=True))
    ]


def _run(number: int, position: int, arm: str, timed: Mapping[str, list[float]]) -> Run:
    middle = median(timed["seconds"])
    if not middle > 0:
        raise ValueError(f"a run of {arm} took {middle} seconds")
    return {"round": number, "position": position, "arm": arm, "median": middle, **timed}


def times(runs: Sequence[Run], arm: str) -> list[float]:
    """Return an arm's time in each round, in the order of rounds."""
    return [r["median"] for r in sorted(runs, key=lambda r: r["round"]) if r["arm"] == arm]


def conclude(
    runs: Sequence[Run],
    candidate: str,
    *,
    baseline: str = BASELINE,
    again: str = CONTROL,
    first: str | None = None,
    alpha: float = 0.05,
) -> dict[str, Any]:
    """Return what the rounds say about one arm: baseline time / candidate time, and the control.

    `again` is the second build of `first`, which is the baseline where nothing else is said.

    Keys: ratio and a_a {value, low, high}, p_value, a_a_p_value, pairs, spread (of log ratios),
    detectable (the smallest ratio that so many pairs find in 80 of 100 repetitions, or null),
    seconds {baseline, candidate} (medians over rounds), and times {baseline, candidate, again, and
    first where it is another arm}, the seconds of every round, which the rest can be computed from.
    """
    base, other, control = (times(runs, arm) for arm in (baseline, candidate, again))
    found = stats.paired_ratio(base, other, alpha=alpha)
    twice = {} if first is None else {"first": times(runs, first)}
    same = stats.paired_ratio(twice.get("first", base), control, alpha=alpha)
    return {
        "ratio": found["ratio"],
        "p_value": found["p_value"],
        "p_wilcoxon": found["p_wilcoxon"],
        "a_a": same["ratio"],
        "a_a_p_value": same["p_value"],
        "pairs": found["n"],
        "spread": found["spread"],
        "detectable": detectable(found["spread"], n=found["n"], alpha=alpha),
        "seconds": {"baseline": median(base), "candidate": median(other)},
        "times": {"baseline": base, "candidate": other, "again": control, **twice},
    }


def detectable(spread: float, *, n: int, alpha: float = 0.05, wanted: float = 0.8) -> float | None:
    """Return the smallest effect that n pairs find with probability `wanted`; None above 100 %."""
    low, high = 0.0, 1.0
    if stats.power(high, spread=spread, n=n, alpha=alpha) < wanted:
        return None
    while high - low > 1e-4:
        middle = (low + high) / 2
        enough = stats.power(middle, spread=spread, n=n, alpha=alpha) >= wanted
        low, high = (low, middle) if enough else (middle, high)
    return high


def default_threads() -> int:
    """Return how many threads a measured process uses: OMP_NUM_THREADS, or the cores it may use."""
    return hardware.thread_count()


def facts() -> dict[str, Any]:
    """Return what a reader needs to judge the times: machine, versions, and how busy it is."""
    machine = {**hardware.describe(), "threads": default_threads()}
    return {"started_at": records.now(), "hardware": machine, "versions": records.versions(),
            "load_average": os.getloadavg()[0]}  # fmt: skip


class Ledger:
    """Keep what has been measured in one JSON file, so that an interrupted benchmark goes on.

    `file` names it. Where what stands there is of other settings it is left alone, and these have
    a file beside it, with a hash of their own in its name.
    """

    def __init__(self, file: Path, *, settings: dict[str, Any], fresh: bool = False) -> None:
        """Read what is kept of these settings, or start anew where it is missing or damaged."""
        found = facts()
        same = {
            "settings": settings,
            "versions": found["versions"],
            "machine": {k: found["hardware"][k] for k in ("cpu", "flags", "cores", "threads")},
        }
        # As JSON will give it back: tuples are lists there.
        self.values: dict[str, Any] = json.loads(
            json.dumps({"key": same, "facts": found, "cases": {}})
        )
        key = self.values["key"]
        number = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:8]
        beside = file.with_name(f"{file.stem}-{number}{file.suffix}")
        named = self._read(file)
        self.file = beside if beside.is_file() or (named and named["key"] != key) else file
        kept = None if fresh else self._read(self.file)
        if kept and kept["key"] == key:
            self.values = kept
        self.kept = len(self.values["cases"])

    @staticmethod
    def _read(file: Path) -> dict[str, Any] | None:
        """Return a ledger's values, or None where they are missing or damaged."""
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            return values if "key" in values and isinstance(values["cases"], dict) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def get(self, case: str) -> Any:
        """Return what is known of a case, or None."""
        return self.values["cases"].get(case)

    def put(self, case: str, value: Any) -> None:
        """Keep what is known of a case, at once."""
        self.values["cases"][case] = value
        write_json(self.file, self.values)


def in_fresh_process(target: str, *, say: Say, threads: int | None = None, **arguments: Any) -> Any:
    """Call `module:function` with keyword arguments in a new process; return its result.

    Arguments and result are pickled. `say` gets a line when it takes long. Raises LabkitError where
    the function does, or the process is killed or refused memory; RuntimeError with the traceback
    for other errors.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    ours, theirs = context.Pipe(duplex=False)
    given = theirs, target, threads or default_threads(), arguments
    process = context.Process(target=_child, args=given, daemon=True)
    process.start()
    theirs.close()
    started = time.monotonic()
    try:
        while not ours.poll(SAY_EVERY_SECONDS):
            say(f"  still measuring ({time.monotonic() - started:.0f} s)")
        kind, value = ours.recv()
    except EOFError:
        process.join()
        why = f"most likely for want of memory: {FEWER}"
        if process.exitcode == 1:  # Python itself ended it, so it never came to what was asked
            why = ("before it measured anything, as its own error says: in a script, calls stand "
                   'below `if __name__ == "__main__":`; a notebook needs no such line')  # fmt: skip
        raise LabkitError(
            f"a benchmark process ended with code {process.exitcode}, {why}"
        ) from None
    except BaseException:
        process.terminate()
        raise
    finally:
        ours.close()
    process.join()
    if kind == "short":
        raise LabkitError(f"a benchmark process was refused memory: {FEWER}")
    if kind == "refused":
        raise LabkitError(value)
    if kind == "failed":
        raise RuntimeError(f"a benchmark process failed:\n{value}")
    return value


def _child(answer: Connection, target: str, threads: int, arguments: dict[str, Any]) -> None:
    end_with_parent()  # the server, which ends with the benchmark
    try:
        import torch

        from labkit.machine.heap import keep_heap, keeps_heap

        torch.set_num_threads(threads)
        # As `labkit train` does by default; without it large blocks are cleared anew at every step.
        if keeps_heap():
            keep_heap()
        module, _, function = target.partition(":")
        answer.send(("done", getattr(importlib.import_module(module), function)(**arguments)))
    except LabkitError as error:
        answer.send(("refused", str(error)))
    except Exception as error:
        answer.send(("short" if is_shortage(error) else "failed", traceback.format_exc()))
    finally:
        answer.close()


def interval(ratio: dict[str, float]) -> str:
    """Return a ratio with its 95 % interval as text."""
    return f"{ratio['value']:.2f}× ({ratio['low']:.2f} to {ratio['high']:.2f})"
