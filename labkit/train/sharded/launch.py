"""Start the processes of a run on this machine, and end them together.

torchrun's own launcher (`torch.distributed.launcher`) starts them, meets those of other machines,
and watches: when one ends badly, it ends the others. Here they are forked from a server that has
imported the libraries once, so that a process costs a moment and not ten seconds, and a mistake
comes back as the one sentence that it is. Processes that torchrun or DeepSpeed's launcher started
find each other without this (`group`).

Nothing outlives the run: the processes end with the server, and the server with who started it.
A Ctrl-C reaches them once; they finish their step, save, and end by themselves.
"""

import contextlib
import gc
import json
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError
from labkit.machine import processes
from labkit.methods import BASES
from labkit.runs import records, task_settings
from labkit.runs.config import RunConfig, from_mapping
from labkit.train.sharded import deepspeed_file, group


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """The machines of a run, each with as many processes."""

    nnodes: int = 1
    node_rank: int = 0
    rdzv_endpoint: str = ""
    """where they meet, HOST:PORT of one of them"""

    def __post_init__(self) -> None:
        if self.nnodes < 1:
            raise LabkitError(f"nnodes must be above 0, got {self.nnodes}")
        if not 0 <= self.node_rank < self.nnodes:
            raise LabkitError(f"node_rank must be from 0 to {self.nnodes - 1}, got "
                              f"{self.node_rank}")  # fmt: skip
        if self.nnodes > 1 and ":" not in self.rdzv_endpoint:
            raise LabkitError(f"{self.nnodes} machines have to meet: set --rdzv-endpoint to "
                              "HOST:PORT of one of them, the same on all")  # fmt: skip


ONE = Nodes()
HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_NODES: ContextVar[Nodes] = ContextVar("nodes", default=ONE)


@contextlib.contextmanager
def over(nodes: Nodes) -> Iterator[None]:
    """Let runs that start inside be one machine's part of a run over several."""
    before = _NODES.set(nodes)
    try:
        yield
    finally:
        _NODES.reset(before)


def as_asked(config: RunConfig) -> RunConfig:
    """Return a run's settings with what its DeepSpeed file and its launcher say.

    Of a run over several machines, nproc becomes the number of all processes.

    Raises:
        LabkitError: they contradict the settings.
    """
    if config.deepspeed:
        asked = f"zero{deepspeed_file.stage_of(config.deepspeed)}"
        if config.sharding not in ("none", asked):
            raise LabkitError(f"{config.deepspeed} asks for {asked}, and sharding is "
                              f"{config.sharding}: leave one of the two out")  # fmt: skip
        config = config.replace(sharding=asked)
    if group.inside() and config.nproc != group.size():
        if config.nproc != 1:
            raise LabkitError(f"nproc is {config.nproc}, and the launcher started {group.size()} "
                              "processes: leave nproc out")  # fmt: skip
        config = config.replace(nproc=group.size())
    elif not group.inside():
        config = config.replace(nproc=config.nproc * _NODES.get().nnodes)
    refuse(config)
    return config


def refuse(config: RunConfig) -> None:
    """Raise a LabkitError for settings whose work processes cannot share."""
    gone = config.sharding in ("fsdp2", "zero3")
    if config.use_switchback and gone:
        raise LabkitError(
            f"use_switchback keeps int8 copies of whole weights, which sharding {config.sharding} "
            "has none of: leave one of the two out"
        )
    shards = BASES[config.base].shards
    if gone and config.sharding not in shards:
        others = " or ".join(("none", *shards))
        raise LabkitError(
            f"weights of base {config.base} cannot be shared by sharding {config.sharding}: use "
            f"sharding {others}, or another base"
        )
    # A reference that was asked before the weights are shared is not asked again.
    if task_settings.reference_of(config) not in ("none", "precomputed") and gone:
        raise LabkitError(
            f"task {config.task} asks the reference outside the pass in which sharding "
            f"{config.sharding} puts weights together: set reference to precomputed, or use "
            "sharding none, zero1 or zero2"
        )


def needed(config: RunConfig) -> bool:
    """Return whether a run needs processes that nobody has started yet."""
    return not group.inside() and (
        config.nproc > 1 or config.sharding != "none" or _NODES.get().nnodes > 1
    )


def launch(train: Callable[..., Any], config: RunConfig, **options: Any) -> records.RunRecord:
    """Train in this machine's part of `config.nproc` processes, and return the record.

    `train(config, **options)` runs in each of them.

    Raises:
        LabkitError: what a process raised, or that one was killed.
    """
    import torch

    nodes = _NODES.get()
    here = config.nproc // nodes.nnodes
    if 0 < (cards := torch.cuda.device_count()) < here:
        raise LabkitError(f"nproc {here} is more than the {cards} GPUs that this machine has")
    with tempfile.TemporaryDirectory(prefix="labkit-") as folder:
        said = Path(folder)
        name = run(_work, train, config.to_dict(), options, said=said, nproc=here, nodes=nodes)
    return records.load(name)


def run(function: Callable[..., Any], *args: Any, said: Path, nproc: int, nodes: Nodes) -> Any:
    """Return what `function(*args)` returns in process 0 of `nproc` on each of `nodes`.

    `said` is an empty folder in which processes leave word.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # They would print a page for each process that ends badly.
    for name in ("torch.distributed.elastic", "torch.multiprocessing.spawn"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    multiprocessing.set_forkserver_preload(["labkit.train.sharded.preloaded"])
    alone = nodes.nnodes == 1
    how = LaunchConfig(
        min_nodes=nodes.nnodes,
        max_nodes=nodes.nnodes,
        nproc_per_node=nproc,
        logs_specs=DefaultLogsSpecs(log_dir=str(said / "log")),
        run_id=uuid.uuid4().hex if alone else "labkit",
        rdzv_backend="c10d" if alone else "static",
        rdzv_endpoint="127.0.0.1:0" if alone else nodes.rdzv_endpoint,
        rdzv_configs={} if alone else {"rank": nodes.node_rank, "timeout": 600},
        local_addr="127.0.0.1" if alone else None,
        max_restarts=0,  # a new start goes on from the checkpoint, and all of them have to
        monitor_interval=0.1,
        start_method="forkserver",
        signals_to_handle="SIGTERM,SIGHUP",
        shutdown_timeout=5,
    )
    try:
        with _passed_on(said), _script_left_alone():
            results = elastic_launch(how, _begin)(dict(os.environ), os.getcwd(), said, function,
                                                  args)  # fmt: skip
    except ChildFailedError as error:
        failures = error.failures
    except SignalException as ended:
        name = signal.Signals(ended.sigval).name
        raise LabkitError(f"ended by {name}, and all its processes with it: run it again, and it "
                          "goes on from its last checkpoint") from None  # fmt: skip
    else:
        return results[min(results)]
    gc.collect()  # what the error held, the ports where processes met among it, is closed now
    raise _why(failures, said)


@contextlib.contextmanager
def _script_left_alone() -> Iterator[None]:
    """Start processes without the caller's script, which multiprocessing would run in each again.

    A script that trains at its top level would start more processes in every process.
    """
    script = vars(sys.modules["__main__"])
    kept: dict[str, Any] = {
        name: script.pop(name) for name in ("__spec__", "__file__") if name in script
    }
    script["__spec__"] = None
    try:
        yield
    finally:
        script.update(kept)


def _begin(
    environment: dict[str, str], folder: str, said: Path, function: Callable[..., Any],
    args: tuple[Any, ...],
) -> Any:  # fmt: skip
    """Run in a new process: become one of the run's, and leave word of what goes wrong."""
    processes.end_with_parent()
    os.setpgid(0, 0)  # a Ctrl-C in a terminal comes from who started this, and once
    ours = {name: os.environ[name] for name in os.environ if _from_launcher(name)}
    os.environ.clear()
    os.environ.update({**environment, **ours})
    os.chdir(folder)
    _leave_word(said / f"{group.rank()}.pid", str(os.getpid()))
    try:
        return function(*args)
    except BaseException as error:
        kind = ("lost" if isinstance(error, group.LostError) else
                "mistake" if isinstance(error, LabkitError) else
                "interrupted" if isinstance(error, KeyboardInterrupt) else "crash")  # fmt: skip
        text = str(error) if kind in ("lost", "mistake") else traceback.format_exc()
        _leave_word(said / f"{group.rank()}.json", json.dumps([kind, text]))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(2)  # what was said need not be printed as well
    finally:
        group.leave()


def _leave_word(file: Path, text: str) -> None:
    """Write a file that its readers see whole or not at all."""
    partial = file.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.rename(file)


def _from_launcher(name: str) -> bool:
    return name.startswith("TORCHELASTIC_") or name in (
        *group.SAID_BY_LAUNCHER, "GROUP_RANK", "GROUP_WORLD_SIZE", "LOCAL_WORLD_SIZE", "ROLE_RANK",
        "ROLE_NAME", "ROLE_WORLD_SIZE", "TORCH_NCCL_ASYNC_ERROR_HANDLING",
    )  # fmt: skip


def _work(train: Callable[..., Any], settings: dict[str, Any], options: dict[str, Any]) -> str:
    record: records.RunRecord = train(from_mapping(settings, where="launcher"), **options)
    return record.name


@contextlib.contextmanager
def _passed_on(said: Path) -> Iterator[None]:
    """Hand a Ctrl-C to the processes, which stop by themselves after their step.

    Signals that the launcher takes for itself, and keeps, are given back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def hand_on(signum: int, frame: Any) -> None:
        for file in said.glob("*.pid"):
            with contextlib.suppress(OSError):
                os.kill(int(file.read_text(encoding="utf-8")), signal.SIGINT)

    before = {each: signal.getsignal(each) for each in HANDLED}
    signal.signal(signal.SIGINT, hand_on)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _why(failures: Any, said: Path) -> BaseException:
    """Return what ended a run: the signal that killed a process, or what one said."""
    words: dict[int, tuple[str, str]] = {
        int(file.stem): tuple(json.loads(file.read_text(encoding="utf-8")))
        for file in said.glob("*.json")
    }
    codes = {rank: failure.exitcode for rank, failure in failures.items()}
    for rank, code in sorted(codes.items()):
        if code < 0 and -code != signal.SIGTERM:
            name = signal.Signals(-code).name
            memory = ", as the system does where memory runs out" if name == "SIGKILL" else ""
            return LabkitError(f"process {rank} was killed by {name}{memory}: the others were "
                               "ended; run it again to go on from the last checkpoint")  # fmt: skip
    # Who lost another process says only that: look for one that knows more.
    for kind in ("mistake", "interrupted", "crash", "lost"):
        for rank, (found, text) in sorted(words.items()):
            if found == kind:
                if kind == "crash":
                    return RuntimeError(f"process {rank} failed:\n{text}")
                return KeyboardInterrupt() if kind == "interrupted" else LabkitError(text)
    rank, code = min(codes.items())
    return LabkitError(f"process {rank} ended with exit code {code} and said nothing: run it again "
                       "to go on from the last checkpoint")  # fmt: skip
