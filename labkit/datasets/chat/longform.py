"""LongForm: long answers from corpora, with instructions that a model wrote for them.

    {"input": …, "output": …, "source": "Wikipedia", "subset": …}

It has train, validation and test splits of its own.
"""

from typing import Any

from labkit.datasets.chat.source import data_set
from labkit.datasets.chat.turns import Draft, entry


def form(row: Any) -> Draft:
    """Return the instruction and the text it was written for."""
    turns = [("user", entry(row, "input")), ("assistant", entry(row, "output"))]
    return Draft(turns=turns, kind=row.get("source"))


LONGFORM = data_set(
    "longform",
    source="Köksal et al. 2023, LongForm: huggingface.co/datasets/akoksal/LongForm",
    licence="MIT, with the limits of its sources and of the model that wrote the instructions",
    hub="akoksal/LongForm",
    form=form,
)
