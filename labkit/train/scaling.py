"""Show what processes of a run share and what that costs, and what a run does that loses one.

What is held and sent is read from records, where the tensors were counted (`train.sharded.held`,
`train.sharded.traffic`); for cards that are not here it comes from the formula.
"""

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from labkit import plots
from labkit.errors import LabkitError
from labkit.machine.datasheets import Device
from labkit.memory.estimates import needed
from labkit.memory.formula import analytic
from labkit.memory.settings import StepSettings
from labkit.runs import profiles, records
from labkit.runs.config import RunConfig
from labkit.runs.records import RunRecord
from labkit.runs.run_folder import COMPLETE
from labkit.train.run import train

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

MIB, GIB = 2**20, 2**30
PARTS = {"weights": "weights", "gradients": "gradients", "optimizer_state": "optimizer state"}
BYTES = 16
"""of a weight that is trained in float32: itself, its gradient, and Adam's two moments"""
LOOK_SECONDS = 0.02


def settings_here() -> dict[str, Any]:
    """Return what a run over processes has to change on this machine, before anything trains.

    Processes cannot share one card: where there is no second, they compute on the processor, and
    a model for cards would take minutes a step there.
    """
    import torch

    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""  # by this function, or by somebody
    if torch.cuda.device_count() != 1 and not hidden:
        return {}
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return {"model": profiles.DEFAULT_MODEL} if profiles.current().name == "gpu" else {}


def table(alone: RunRecord, runs: Mapping[str, RunRecord]) -> "pandas.DataFrame":
    """Return what process 0 of each labelled run holds and sends, and its time, beside `alone`.

    `alone` ran in one process, where nothing is counted: it holds all and sends nothing.
    """
    import pandas

    rows = {"one process": _measured(alone)}
    for label, run in runs.items():
        found = run.summary["sharding"]
        first = found["held_bytes"][0]
        whole = BYTES * run.summary["total_parameters"]
        rows[label] = {
            "tensors show": found["ran"],
            **{f"{said}, MiB": f"{first[part] / MIB:.2f}" for part, said in PARTS.items()},
            "of all": f"{held_bytes(run) / whole:.0%}",
            "sent in a step, MiB": f"{found['sent_bytes']['step'] / MIB:.2f}",
            **_measured(run),
        }
    found = pandas.DataFrame(rows).T.fillna("–")
    return found[[*rows[next(iter(runs))]]]


def held_bytes(run: RunRecord) -> int:
    """Return the bytes of weights, gradients and optimizer state of process 0."""
    first = run.summary["sharding"]["held_bytes"][0]
    return sum(first[part] for part in PARTS)


def _measured(run: RunRecord) -> dict[str, str]:
    return {"step, s": f"{run.summary['step_seconds_median']:.3f}",
            "last loss": f"{run.steps[-1]['loss']:.5f}"}  # fmt: skip


def held(alone: RunRecord, runs: Mapping[str, RunRecord]) -> tuple["Figure", str]:
    """Draw what process 0 of each labelled run holds, and the time of a step beside `alone`.

    Returns the figure and its alternative text.
    """
    figure, (left, right) = plots.new_figure(1, 2, width=8.0, height=3.4)
    labels, said = list(runs), []
    bottom = [0.0] * len(labels)
    for (part, name), colour, hatch in zip(
        PARTS.items(), plots.COLOURS.values(), ("", "///", "..."), strict=False
    ):
        sizes = [run.summary["sharding"]["held_bytes"][0][part] / MIB for run in runs.values()]
        left.bar(labels, sizes, bottom=bottom, color=colour, hatch=hatch, edgecolor="white",
                 label=name, width=0.6)  # fmt: skip
        bottom = [below + size for below, size in zip(bottom, sizes, strict=True)]
    left.set_ylabel("held by process 0 (MiB)")
    left.set_title("What is shared is divided")
    left.set_ylim(0, 1.45 * max(bottom))  # room for the legend
    left.legend(loc="upper right", fontsize="small")
    timed = {"one process": alone, **runs}
    seconds = [run.summary["step_seconds_median"] for run in timed.values()]
    right.bar(list(timed), seconds, color=plots.COLOURS["orange"], width=0.6)
    right.set_ylabel("median time of a step (s)")
    right.set_title("The same samples a step")
    for label, size in zip(labels, bottom, strict=True):
        said.append(f"{label} {size:.2f} MiB")
    alt = (f"Weights, gradients and optimizer state of process 0: {', '.join(said)}. A step takes "
           + ", ".join(f"{each:.3f} s in {label}"
                       for label, each in zip(timed, seconds, strict=True)) + ".")  # fmt: skip
    return figure, alt


def by_cards(
    step: Mapping[str, Any], shardings: Iterable[str], cards: Sequence[int], device: Device
) -> tuple["Figure", str]:
    """Draw the memory that each of `cards` must have for a step, by sharding, from the formula.

    `step` are settings of `StepSettings`. Returns the figure and its alternative text.
    """
    figure, axes = plots.new_figure(width=6.4, height=3.6)
    said = []
    # One on the other where they are equal: every second line is thin with a large hollow mark.
    for place, name in enumerate(shardings):
        colour, line, marker = plots.look(place)
        sizes = [_needed(StepSettings(**step, sharding=name, num_gpus=n)) / GIB for n in cards]
        axes.plot(cards, sizes, color=colour, linestyle=line, marker=marker, label=name,
                  markersize=9 if place % 2 else 5, fillstyle="none" if place % 2 else "full",
                  )  # fmt: skip
        said.append(f"{name} {sizes[0]:.0f} to {sizes[-1]:.0f}")
    room = device.usable_bytes / GIB
    axes.axhline(room, color="#333333", linewidth=0.9, linestyle=":")
    axes.annotate(f"{device.label}: {room:.1f} GiB", (cards[-1], room), ha="right", va="bottom",
                  fontsize="small")  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks(cards, [str(n) for n in cards])
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("cards that share")
    axes.set_ylabel("needed on each card (GiB)")
    axes.set_title(f"{step['model']} in full: below the dotted line it fits")
    axes.legend(ncols=2, fontsize="small")
    alt = (f"GiB that each card needs, with {cards[0]} to {cards[-1]} cards: {', '.join(said)}. "
           f"The card has {room:.1f}.")  # fmt: skip
    return figure, alt


def _needed(step: StepSettings) -> int:
    found = analytic(step)
    assert found is not None, f"no formula describes {step.model}"
    return needed(found.peak_bytes, step)


def fits(rows: Iterable[Mapping[str, Any]]) -> "pandas.DataFrame":
    """Return traced peaks by sharding, batch and checkpointing, and which of them fit the card."""
    import pandas

    found: dict[str, dict[str, str]] = {}
    for row in rows:
        recomputed = "checkpointing" if row["gradient_checkpointing"] else "no checkpointing"
        column = f"batch {row['batch_size']}, {recomputed}"
        size = f"{row['peak_bytes'] / GIB:.1f} GiB"
        found.setdefault(column, {})[row["sharding"]] = size + ", fits" * row["fits"]
    return pandas.DataFrame(found)


def published(rows: Iterable[Mapping[str, Any]]) -> tuple["Figure", str]:
    """Draw published times of a step on several cards inside the ranges predicted for them.

    Returns the figure and its alternative text.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    shown = sorted(rows, key=lambda row: -row["published_seconds"])
    figure, axes = plots.new_figure(width=7.2, height=0.4 + 0.21 * len(shown))
    places = range(len(shown))
    axes.hlines(places, [row["low_seconds"] for row in shown],
                [row["high_seconds"] for row in shown], color=plots.COLOURS["sky"], linewidth=5,
                label="predicted range")  # fmt: skip
    for inside, marker, colour in ((True, "o", "blue"), (False, "D", "vermilion")):
        mine = [place for place in places if _inside(shown[place]) == inside]
        if mine:
            axes.plot([shown[place]["published_seconds"] for place in mine], mine, marker,
                      color=plots.COLOURS[colour], linestyle="", markersize=4,
                      label=f"published, {'inside' if inside else 'outside'}")  # fmt: skip
    axes.set_yticks(places, [
        f"{row['model']}, {row['num_gpus']} × {row['device']}, "
        f"{row['batch_size']} × {row['seq_len']:,}" for row in shown
    ], fontsize="x-small")  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("time of a step (s)")
    count = sum(map(_inside, shown))
    axes.set_title(f"{count} of {len(shown)} published times are inside")
    axes.legend(loc="lower left", fontsize="small")
    alt = (f"Ranges predicted for the time of a step of {len(shown)} published runs: {count} of "
           "the published times are inside.")  # fmt: skip
    return figure, alt


def _inside(row: Mapping[str, Any]) -> bool:
    return bool(row["low_seconds"] <= row["published_seconds"] <= row["high_seconds"])


def lose(config: RunConfig, *, rank: int = 1) -> str:
    """Train `config`, which has a name, from nothing; kill process `rank` by SIGKILL after a save.

    Returns the sentence with which the run ends, and leaves its checkpoint.
    """
    checkpoints = records.runs_dir() / config.name / "checkpoints"
    shutil.rmtree(checkpoints, ignore_errors=True)
    over = threading.Event()

    def kill() -> None:
        while not over.wait(LOOK_SECONDS):
            if any(checkpoints.glob(f"*/{COMPLETE}")) and (found := _process(rank)):
                found.kill()
                return

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        train(config, fresh=True, quiet=True)
    except LabkitError as error:
        return str(error)
    finally:
        over.set()
        killer.join()
    return "it was over before a process could be killed: let it take more steps"


def _process(rank: int) -> psutil.Process | None:
    """Return a process of a run that this one started, by the word that its launcher has of it."""
    for file in Path(tempfile.gettempdir()).glob(f"labkit-*/{rank}.pid"):
        with contextlib.suppress(OSError, psutil.Error):
            found = psutil.Process(int(file.read_text(encoding="utf-8")))
            if os.getpid() in (each.pid for each in found.parents()):
                return found
    return None
