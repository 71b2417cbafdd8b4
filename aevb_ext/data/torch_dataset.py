"""Data points of a torch Dataset."""

from collections.abc import Sized

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["DatasetRows"]

_DTYPES = (torch.bool, torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)


class DatasetRows:
    """:class:`~aevb_ext.data.Rows` of a map-style :class:`torch.utils.data.Dataset`: gathering asks it for items.

    Data points are given flat. Of an item that is a tuple or a list the first entry is the data point.

    Args:
        dataset: has ``len()`` and gives tensors or arrays of one shape, and of a dtype that data may have.

    Attributes:
        item_shape: the shape of an item.

    Raises:
        TypeError: the dataset has no length, or its items are neither.
        ValueError: it is empty, or its items are of another dtype.
    """

    resident, draws, device = False, False, torch.device("cpu")

    def __init__(self, dataset: Dataset):
        if not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
            raise TypeError(
                f"dataset must have len() and items by number (a map-style Dataset), got {type(dataset).__name__}"
            )
        if len(dataset) == 0:
            raise ValueError("dataset must have at least one item, got none")
        self.dataset = dataset
        example = _tensor(dataset[0], 0)
        if example.dtype not in _DTYPES:
            raise ValueError(f"dataset has items of {example.dtype}, expected bool, uint8 or a float dtype")
        self.dtype, self.item_shape = example.dtype, example.shape
        self.event_shape = torch.Size([example.numel()])

    def __len__(self) -> int:
        return len(self.dataset)

    def gather(self, index: Tensor, keys: Tensor | None = None) -> Tensor:
        """The items, flat, on the CPU; keys are not looked at.

        Raises:
            ValueError: an item differs from the first in shape or dtype.
        """
        numbers = index.tolist()
        many = getattr(self.dataset, "__getitems__", None)
        items = many(numbers) if many else (self.dataset[i] for i in numbers)
        rows = torch.empty(len(numbers), *self.event_shape, dtype=self.dtype)
        for row, i, item in zip(rows, numbers, items, strict=True):
            x = _tensor(item, i)
            if x.shape != self.item_shape or x.dtype != self.dtype:
                raise ValueError(
                    f"dataset[{i}] is {x.dtype} of shape {list(x.shape)}, dataset[0] {self.dtype} of "
                    f"{list(self.item_shape)}: all must be alike"
                )
            row.copy_(x.flatten())
        return rows

    def to(self, device) -> "DatasetRows":
        """Itself: items are made on the CPU."""
        return self


def _tensor(item, i: int) -> Tensor:
    x = item[0] if isinstance(item, (tuple, list)) else item
    if isinstance(x, np.ndarray):
        x = torch.from_numpy(x)
    if not isinstance(x, Tensor):
        raise TypeError(
            f"dataset[{i}] is {type(x).__name__}, expected a tensor or an array, or a tuple that begins with one (a "
            "transform such as torchvision's PILToTensor makes one of a picture)"
        )
    return x
