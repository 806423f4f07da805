"""Tasks by name; a new one is a line here."""

from labkit.datasets import registry
from labkit.errors import LabkitError, nearest
from labkit.train.tasks.base import Task
from labkit.train.tasks.dpo import DPO
from labkit.train.tasks.pretrain import PRETRAIN
from labkit.train.tasks.seq2seq import SEQ2SEQ
from labkit.train.tasks.sft import SFT

TASKS: dict[str, Task] = {task.name: task for task in (SFT, SEQ2SEQ, PRETRAIN, DPO)}


def task_of(data: str, asked: str | None = None) -> Task:
    """Return the task that a data set, named as in a run's settings, is trained and scored by.

    Raises:
        LabkitError: the data set states a task that there is not, or none that is `asked`.
    """
    dataset, _ = registry.find(data)
    if asked is not None and asked not in TASKS:
        raise LabkitError(f"task {asked!r} is unknown: {nearest(asked, TASKS)}")
    if asked is not None and asked in dataset.also:
        return TASKS[asked]
    if dataset.task not in TASKS:
        raise LabkitError(
            f"the data set {dataset.name} is for the task {dataset.task!r}, which labkit does not "
            f"have: {nearest(dataset.task, TASKS)}"
        )
    if asked not in (None, dataset.task):
        raise LabkitError(
            f"the data set {dataset.name} is for the task {dataset.task!r}, not {asked!r}: set "
            f"task to {dataset.task}, or name other data"
        )
    return TASKS[dataset.task]


def check_model(task: Task, model: str, *, encoder_decoder: bool) -> None:
    """Raise `LabkitError` for an encoder-decoder where the task is to write on, and the reverse."""
    if encoder_decoder == task.encoder_decoder:
        return
    if task.encoder_decoder:
        raise LabkitError(
            f"{model} only writes on, and task {task.name} is for models that read with an encoder "
            "and write with a decoder: use a T5, such as t5-large, or other data"
        )
    others = " or ".join(each.name for each in TASKS.values() if each.encoder_decoder)
    raise LabkitError(
        f"{model} reads with an encoder and writes with a decoder, and task {task.name} is for "
        f"models that only write on: use smollm2-135m-instruct, or data for task {others}"
    )
