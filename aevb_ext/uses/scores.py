"""Anomaly scores in a file."""

from torch import Tensor

from .._files import write_csv

__all__ = ["write_scores"]


def write_scores(path, labels: Tensor | None, scores: dict[str, Tensor]) -> None:
    """Write a CSV file of a line for each data point: its number in the split, its label, its scores.

    Args:
        path: the file.
        labels: int64 ``[N]``, or None where nobody knows them: then the column is empty.
        scores: the scores ``[N]`` by the names of their columns.

    Raises:
        OSError: the file cannot be written; says which.
    """
    columns = [values.tolist() for values in scores.values()]
    names = [""] * len(columns[0]) if labels is None else labels.tolist()
    write_csv(path, ["index", "label", *scores], zip(range(len(names)), names, *columns, strict=True))
