"""Tasks by name; a new one is a line here."""

from labkit.datasets import registry
from labkit.errors import LabkitError, nearest
from labkit.train.tasks.base import Task
from labkit.train.tasks.sft import SFT

TASKS: dict[str, Task] = {task.name: task for task in (SFT,)}


def task_of(data: str) -> Task:
    """Return the task that a data set, named as in a run's settings, is trained and scored by.

    Raises:
        LabkitError: the data set states a task that there is not.
    """
    dataset, _ = registry.find(data)
    if dataset.task not in TASKS:
        raise LabkitError(
            f"the data set {dataset.name} is for the task {dataset.task!r}, which labkit does not "
            f"have: {nearest(dataset.task, TASKS)}"
        )
    return TASKS[dataset.task]
