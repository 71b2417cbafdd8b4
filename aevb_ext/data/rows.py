"""Data points by number, wherever they are."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["Rows", "TensorRows", "rows_of"]


@runtime_checkable
class Rows(Protocol):
    """Data points by number: what a trainer draws minibatches from.

    Attributes:
        event_shape: of one data point.
        dtype: of what :meth:`gather` gives: any float dtype, bool or uint8.
        device: where :meth:`gather` takes numbers, and gives data points.
        resident: whether gathering is work of the device alone, so that a CUDA graph may capture it.
        draws: whether gathering draws, and needs noise keys (dynamic binarisation).
    """

    event_shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    resident: bool
    draws: bool

    def __len__(self) -> int:
        """How many data points there are."""

    def gather(self, index: Tensor, keys: Tensor | None = None) -> Tensor:
        """The data points of these numbers.

        Args:
            index: int64 ``[B]``, each in ``[0, len(self))``, on ``device``.
            keys: int64 ``[B, 2]``, a noise key for each: needed by rows that draw.

        Returns:
            ``[B, *event_shape]`` on ``device``.
        """

    def to(self, device) -> "Rows":
        """The same data points, on ``device`` where they are resident."""


class TensorRows:
    """:class:`Rows` of a tensor ``[N, *event]``."""

    resident, draws = True, False

    def __init__(self, tensor: Tensor):
        if tensor.dim() < 1:
            raise ValueError(f"tensor must be [N, *event], got a scalar of {tensor.dtype}")
        self.tensor = tensor
        self.event_shape, self.dtype, self.device = tensor.shape[1:], tensor.dtype, tensor.device

    def __len__(self) -> int:
        return len(self.tensor)

    def gather(self, index: Tensor, keys: Tensor | None = None) -> Tensor:
        """``tensor[index]``; keys are not looked at."""
        return self.tensor.index_select(0, index)

    def to(self, device) -> "TensorRows":
        """The same on ``device``."""
        return TensorRows(self.tensor.to(device))


def rows_of(data: Tensor | Rows) -> Rows:
    """What a tensor ``[N, *event]`` or :class:`Rows` are as Rows.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(data, Tensor):
        return TensorRows(data)
    if isinstance(data, Rows):
        return data
    raise TypeError(f"data must be a tensor [N, *event] or Rows (aevb_ext.data), got {type(data).__name__}")
