"""Self-Instruct: instructions that a model wrote from its own, in the three forms of its files.

    {"instruction": …, "input": …, "output": …}                        all instances
    {"prompt": "…\\n\\nOutput:", "completion": " …<|endoftext|>"}         for GPT-3's fine-tuning
    {"instruction": …, "instances": [{"input": …, "output": …}]}       the seed tasks

The marks of GPT-3's fine-tuning are no part of what was said and are taken off.
"""

from typing import Any

from labkit.datasets.chat.source import data_set
from labkit.datasets.chat.turns import Draft, asked, entry
from labkit.errors import LabkitError

PROMPT_ENDS = "\n\nOutput:"
COMPLETION_ENDS = "<|endoftext|>"


def form(row: Any) -> Draft:
    """Return the instruction and its answer; of several instances of one, the first."""
    if isinstance(row, dict) and "prompt" in row:
        prompt, answer = row["prompt"], entry(row, "completion")
        if isinstance(prompt, str):
            prompt = prompt.removesuffix(PROMPT_ENDS)
        if isinstance(answer, str):
            answer = answer.strip().removesuffix(COMPLETION_ENDS).rstrip()
        return Draft(turns=[("user", prompt), ("assistant", answer)])
    instruction = entry(row, "instruction")
    if "instances" in row:
        instances = entry(row, "instances", list)
        if not instances:
            raise LabkitError("instances is empty")
        row = instances[0]
    answer = entry(row, "output")
    return Draft(turns=[("user", asked(instruction, row.get("input"))), ("assistant", answer)])


SELF_INSTRUCT = data_set(
    "self-instruct",
    source="Wang et al. 2022, Self-Instruct: github.com/yizhongw/self-instruct",
    licence="Apache-2.0",
    hub="yizhongw/self_instruct",
    form=form,
)
