"""Several processes that train together, forked from a server that has imported the libraries."""

import contextlib
import json
import multiprocessing
import os
import shutil
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PRELOADED = ["labkit.train.run", "labkit.train.trainer", "labkit.train.sharded.engines"]


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start(
    function: Callable[..., Any], *args: Any, nproc: int, said: Path, **environment: str
) -> list[BaseProcess]:
    """Start `function(*args)` in `nproc` processes; what each returns is in `said`/RANK.json."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    shared = {**environment, "WORLD_SIZE": str(nproc), "LOCAL_WORLD_SIZE": str(nproc),
              "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
              "OMP_NUM_THREADS": "1"}  # fmt: skip
    started = []
    for rank in range(nproc):
        own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        process = context.Process(target=_begin, args=(own, sys.path, said, function, args))
        process.start()
        started.append(process)
    return started


def start_machines(values: dict[str, Any], *, said: Path, **environment: str) -> list[BaseProcess]:
    """Start `labkit train` of `values` as two machines do that meet on this one, for `finish`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    endpoint = f"127.0.0.1:{free_port()}"
    started = []
    for rank in range(2):
        own = {**environment, "RANK": str(rank)}
        args = (own, sys.path, said, _train_on_machine, (rank, endpoint, values))
        process = context.Process(target=_begin, args=args)
        process.start()
        started.append(process)
    return started


def _train_on_machine(rank: int, endpoint: str, values: dict[str, Any]) -> dict[str, Any]:
    from labkit.runs.config import from_mapping
    from labkit.train.run import train
    from labkit.train.sharded import launch

    del os.environ["RANK"]  # a launcher's word, and nothing has launched this
    with launch.over(launch.Nodes(nnodes=2, node_rank=rank, rdzv_endpoint=endpoint)):
        record = train(from_mapping(values, where="test"), quiet=True)
    return {"losses": record.losses, "sharding": record.summary["sharding"]}


def _begin(
    environment: dict[str, str], path: list[str], said: Path, function: Any, args: Any
) -> None:
    import torch

    os.environ.update(environment)
    sys.path[:] = path
    torch.set_num_threads(1)
    rank = environment["RANK"]
    try:
        result: Any = function(*args)
    except BaseException:
        result = {"error": traceback.format_exc()}
    (said / f"{rank}.json").write_text(json.dumps(result))


def finish(started: list[BaseProcess], said: Path, seconds: float = 600) -> list[Any]:
    """Return what the processes returned, once all have ended; what still runs is killed."""
    for process in started:
        process.join(seconds)
    for process in started:
        if process.is_alive():
            process.kill()
            process.join()
    found = [json.loads((said / f"{rank}.json").read_text()) for rank in range(len(started))]
    for each in found:
        assert not (isinstance(each, dict) and "error" in each), each["error"]
    return found


@contextlib.contextmanager
def keeping_what_was_trained() -> Iterator[dict[str, Any]]:
    """Yield the weights of the run inside, once it has ended, of the type that they trained in.

    The run's checkpoints, which it removes then, stay in `kept` of its folder.
    """
    from labkit.train.trainer import LabTrainer

    original, found = LabTrainer.gathered, {}

    def gathered(self: Any) -> bool:
        for name, each in self.model.state_dict().items():
            found[name] = each.detach().clone()
        folder = Path(self.args.output_dir)
        if self.is_world_process_zero():
            shutil.copytree(folder, folder.with_name("kept"))
        return original(self)

    LabTrainer.gathered = gathered
    try:
        yield found
    finally:
        LabTrainer.gathered = original


def train_all(settings: list[dict[str, Any]], runs: str, stop_at: int = 0) -> list[dict[str, Any]]:
    """Train each of `settings` in this process group; return what their records say.

    `stop_at`: a Ctrl-C comes in process 1, or in the only one, in that step.
    """
    import signal

    from labkit.runs.config import from_mapping
    from labkit.train import trainer
    from labkit.train.run import train
    from labkit.train.sharded import group

    os.environ["LABKIT_RUNS"] = runs
    original = trainer.LabTrainer.training_step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step + 1 == stop_at and group.rank() == group.size() - 1:
            signal.raise_signal(signal.SIGINT)
        return original(self, *args, **kwargs)

    trainer.LabTrainer.training_step = step
    found = []
    try:
        for each in settings:
            with keeping_what_was_trained():
                record = train(from_mapping(each, where="test"), quiet=True)
            said = ("name", "losses", "summary", "predicted", "steps", "status")
            found.append({name: getattr(record, name) for name in said})
    finally:
        trainer.LabTrainer.training_step = original
        group.leave()
    return found
