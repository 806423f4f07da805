"""Data sets by name; a new one is a line here."""

from labkit.datasets import tatqa
from labkit.datasets.base import DataSet
from labkit.datasets.report_questions import TABLES, TATQA
from labkit.datasets.sentiment import IMDB, REVIEWS, SST2
from labkit.datasets.tatqa import Report
from labkit.errors import LabkitError

DATASETS: dict[str, DataSet] = {
    dataset.name: dataset for dataset in (TABLES, TATQA, REVIEWS, SST2, IMDB)
}


def find(data: str) -> tuple[DataSet, str]:
    """Return the data set that `data` names, and the path to read it from.

    `data` is NAME, NAME:PATH, or the path of a file or folder in TAT-QA's form. The path is ""
    for a name alone.
    """
    name, _, path = data.partition(":")
    if name in DATASETS:
        return DATASETS[name], path
    return TATQA, data


def reports(data: str, split: str) -> list[Report]:
    """Return the reports of a split, for what shows their tables.

    Raises:
        LabkitError: there is no such data, or it holds other things than questions on reports.
    """
    dataset, path = find(data)
    if dataset.scored_as != TATQA.scored_as:
        raise LabkitError(
            f"{data} holds no questions on reports: give 'tables', 'tatqa', or a file or folder in "
            "TAT-QA's form"
        )
    return tatqa.load(path or dataset.name, split)
