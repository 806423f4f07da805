"""FineTome-100k, and whatever else is in ShareGPT's form.

{"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}], "source": …}
"""

from typing import Any

from labkit.datasets.chat.source import data_set
from labkit.datasets.chat.turns import Draft, pairs


def form(row: Any) -> Draft:
    """Return the turns of a conversation in ShareGPT's form."""
    return Draft(turns=pairs(row, "conversations", "from", "value"), kind=row.get("source"))


FINETOME = data_set(
    "finetome",
    source="mlabonne, FineTome-100k, chosen from arcee-ai/The-Tome: huggingface.co/datasets/"
    "mlabonne/FineTome-100k",
    licence="see its page and those of the sets that it was chosen from",
    hub="mlabonne/FineTome-100k",
    form=form,
)
