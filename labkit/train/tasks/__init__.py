"""Tasks: how an example becomes what a model is trained on, and how its answer is marked.

base        what a task is
sft         supervised fine-tuning on the last turn of a conversation
pretrain    every token of running text, several texts in a sequence
dpo         the better of two answers, against a reference
seq2seq     a model that reads with an encoder and writes with a decoder
registry    tasks by name
"""

from labkit.train.tasks.base import Task
from labkit.train.tasks.registry import TASKS, check_model, task_of

__all__ = ["TASKS", "Task", "check_model", "task_of"]
