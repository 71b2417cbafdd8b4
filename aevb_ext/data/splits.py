"""Which data points are for training and which for the test."""

import numpy as np
import torch
from torch import Tensor

from .rows import Rows, TensorRows, rows_of

__all__ = ["SubsetRows", "hold_out", "shuffled", "subset"]


class SubsetRows:
    """:class:`~aevb_ext.data.Rows`: some of other rows.

    Args:
        rows: the other rows.
        index: int64 ``[N]``: their numbers there.
    """

    def __init__(self, rows: Rows, index: Tensor):
        self.rows, self.index = rows, index.to(rows.device)
        self.event_shape, self.dtype, self.device = rows.event_shape, rows.dtype, rows.device
        self.resident, self.draws = rows.resident, rows.draws

    def __len__(self) -> int:
        return len(self.index)

    def gather(self, index: Tensor, keys: Tensor | None = None) -> Tensor:
        """What the other rows give of ``self.index[index]``."""
        return self.rows.gather(self.index.index_select(0, index), keys)

    def to(self, device) -> "SubsetRows":
        """The same, of the other rows on ``device`` where they are resident."""
        return SubsetRows(self.rows.to(device), self.index)


def hold_out(data: Tensor | Rows, fraction: float) -> tuple[Tensor | Rows, Tensor | Rows]:
    """(train, test): a test split for data that has none, the same each time.

    ``round(fraction * N)`` data points, at least one and at most ``N - 1``: the first of NumPy's
    ``RandomState(0).permutation(N)``, a stream that NumPy has frozen. Each split keeps the order of the data.

    Raises:
        ValueError: the fraction is not between 0 and 1, or there are fewer than two data points.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"test_fraction must lie between 0 and 1, got {fraction}")
    rows = rows_of(data)
    if len(rows) < 2:
        raise ValueError(f"data must have at least two data points to hold one out for the test, got {len(rows)}")
    permutation = _permutation(len(rows))
    count = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
    test, train = (torch.from_numpy(np.sort(part)) for part in (permutation[:count], permutation[count:]))
    return subset(data, train), subset(data, test)


def subset(data: Tensor | Rows, index: Tensor) -> Tensor | Rows:
    """The data points of these numbers, int64 ``[N]``: of a tensor a tensor, of other rows rows."""
    rows = rows_of(data)
    if isinstance(rows, TensorRows):
        return rows.gather(index.to(rows.device))
    return SubsetRows(rows, index)


def shuffled(images: np.ndarray) -> np.ndarray:
    """In another order, the same each time."""
    return images[_permutation(len(images))]


def _permutation(count: int) -> np.ndarray:
    return np.random.RandomState(0).permutation(count)
