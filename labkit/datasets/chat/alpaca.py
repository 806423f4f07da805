"""Alpaca: 52,000 instructions that a model wrote from 175 seeds, some with an input.

    {"instruction": …, "input": "", "output": …}

An input stands under "### Input:" in the user's message. With `template_name: alpaca` this makes
the very prompt that Alpaca was trained with; any other template shows the two as one message.
"""

from typing import Any

from labkit.datasets.chat.source import data_set
from labkit.datasets.chat.turns import Draft, asked, entry
from labkit.datasets.templates import ALPACA_INPUT


def form(row: Any) -> Draft:
    """Return the instruction, with its input where there is one, and the output."""
    question = asked(entry(row, "instruction"), row.get("input"), between=ALPACA_INPUT)
    return Draft(turns=[("user", question), ("assistant", entry(row, "output"))])


ALPACA = data_set(
    "alpaca",
    source="Taori et al. 2023, Stanford Alpaca: huggingface.co/datasets/tatsu-lab/alpaca",
    licence="CC BY-NC 4.0",
    hub="tatsu-lab/alpaca",
    form=form,
)
