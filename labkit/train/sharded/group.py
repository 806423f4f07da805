"""What a process knows of the others that train with it, and says to them.

A launcher (`launch`, torchrun, DeepSpeed's own) starts the processes and says in the environment
of each who it is: RANK of WORLD_SIZE, and where the others are met. Outside such a launch there is
one process, and everything here answers for it without asking anybody. Process 0 alone writes into
the run's folder; what it decides there, the others are told.

Processes talk by gloo between CPUs and by NCCL between GPUs.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from labkit.errors import LabkitError

SAID_BY_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
LONGEST_WAIT = timedelta(minutes=10)
"""A process that hangs is given up after this; saving a large checkpoint has to be faster."""
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting",
        "connectFullMesh", "Connection was likely closed", "NCCL communicator was aborted",
        "Socket closed", "failed to recv", "remote process exited")  # fmt: skip
"""What libraries say when another process is gone."""
T = TypeVar("T")


class LostError(LabkitError):
    """Another process of the group is gone; it, not this one, knows why."""


def inside() -> bool:
    """Return whether a launcher started this process as one of several."""
    return all(name in os.environ for name in SAID_BY_LAUNCHER)


def rank() -> int:
    """Return this process's number, 0 where it is alone."""
    return int(os.environ["RANK"]) if inside() else 0


def size() -> int:
    """Return how many processes train together, 1 where this one is alone."""
    return int(os.environ["WORLD_SIZE"]) if inside() else 1


def first() -> bool:
    """Return whether this process is the one that writes."""
    return rank() == 0


def join() -> None:
    """Meet the other processes, unless that was done before; nothing where there are none."""
    if not inside():
        return
    import torch
    import torch.distributed as dist

    if dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    else:
        backend = "gloo"
        # accelerate imports DeepSpeed where it is, which would warn that it found no GPU.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        if "OMP_NUM_THREADS" not in os.environ:
            from labkit.machine import hardware

            here = int(os.environ.get("LOCAL_WORLD_SIZE", size()))
            os.environ["OMP_NUM_THREADS"] = str(max(1, hardware.cores() // here))
            torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    with explained():
        dist.init_process_group(backend, timeout=LONGEST_WAIT)


def leave() -> None:
    """Part from the others, so that no port stays open."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def wait() -> None:
    """Return when all processes have come here."""
    if size() > 1:
        import torch.distributed as dist

        with explained():
            dist.barrier()


def as_first(function: Callable[[], T]) -> T:
    """Return what `function` returns in process 0; a LabkitError that it raises there, all raise.

    What it returns goes to the others by pickle.
    """
    if size() == 1:
        return function()
    import torch.distributed as dist

    said: list[Any] = [None, None]
    if first():
        try:
            said[0] = function()
        except LabkitError as error:
            said[1] = str(error)
    with explained():
        dist.broadcast_object_list(said)
    if said[1] is not None:
        raise LabkitError(said[1])
    result: T = said[0]
    return result


def rows(values: Sequence[float]) -> list[list[float]]:
    """Return every process's values, as many in each, in the order of their ranks."""
    if size() == 1:
        return [list(values)]
    import torch
    import torch.distributed as dist

    own = torch.tensor(values, dtype=torch.float64)
    found = [torch.empty_like(own) for _ in range(size())]
    with explained():
        dist.all_gather(found, own)
    return [each.tolist() for each in found]


def totals(values: Sequence[float]) -> list[float]:
    """Return the sum over all processes of each value, in float64."""
    return [sum(each) for each in zip(*rows(values), strict=True)]


def of_all(value: T) -> list[T]:
    """Return every process's value, in the order of their ranks."""
    if size() == 1:
        return [value]
    import torch.distributed as dist

    found: list[Any] = [None] * size()
    with explained():
        dist.all_gather_object(found, value)
    return found


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn what libraries raise when another process is gone into one sentence."""
    try:
        yield
    except LabkitError:
        raise
    except Exception as error:
        if size() == 1 or not any(sign in str(error) for sign in LOST):
            raise
        raise LostError(
            f"process {rank()} of {size()} lost another one, which ended or stood still: look at "
            "what that one said, and run it again to go on from the last checkpoint"
        ) from error
