"""Data sets by name; a new one is a line here."""

from labkit.datasets.base import DataSet
from labkit.datasets.report_questions import TABLES, TATQA

DATASETS: dict[str, DataSet] = {dataset.name: dataset for dataset in (TABLES, TATQA)}


def find(data: str) -> tuple[DataSet, str]:
    """Return the data set that `data` names, and the path to read it from.

    `data` is NAME, NAME:PATH, or the path of a file or folder in TAT-QA's form. The path is ""
    for a name alone.
    """
    name, _, path = data.partition(":")
    if name in DATASETS:
        return DATASETS[name], path
    return TATQA, data
