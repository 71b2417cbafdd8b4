"""Data points and labels of a torch Dataset."""

from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from .._arguments import DATA, INTEGERS
from .._extras import of_extra
from .._types import Device
from .arrays import dtype_of, native
from .own_data import Labels

__all__ = ["DatasetRows", "dataset_labels"]

# Items that are read between two updates of the progress bar.
_CHUNK = 64


class DatasetRows:
    """:class:`~aevb_ext.data.Rows` of a map-style :class:`torch.utils.data.Dataset`: gathering reads its items.

    Data points are returned flat, integers as bytes. If an item is a tuple or a list, its first entry is the data
    point.

    Args:
        dataset: has ``len()`` and returns tensors or arrays of one shape and a supported dtype.
        name: what messages call it.

    Attributes:
        item_shape: the shape of an item.

    Raises:
        TypeError: the dataset has no length, or its items are neither tensors nor arrays.
        ValueError: the dataset or its items are empty, or the dtype is not supported.
    """

    resident, draws, device = False, False, torch.device("cpu")

    def __init__(self, dataset: Dataset[Any], name: str = "dataset"):
        self._name = name
        if _length(dataset, name) == 0:
            raise ValueError(f"{name} must have at least one item, got none")
        self.dataset = dataset
        try:
            first = dataset[0]
        except (KeyError, NotImplementedError) as error:
            raise TypeError(
                f"{name} must have items by number, and {name}[0] raised {type(error).__name__}: {error}"
            ) from None
        example = self._point(first, 0)
        self.dtype, self.item_shape = example.dtype, example.shape
        self.event_shape = torch.Size([example.numel()])
        if example.numel() == 0:
            raise ValueError(f"{name}[0] has shape {list(example.shape)}, expected numbers")

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # __init__ has checked that it has a length

    def gather(self, index: Tensor, keys: Tensor | None = None) -> Tensor:
        """The items, flat, on the CPU; ``keys`` is ignored.

        Raises:
            ValueError: an item differs from the first in shape or dtype, or has integers outside of 0 to 255.
        """
        numbers = index.tolist()
        rows = torch.empty(len(numbers), *self.event_shape, dtype=self.dtype)
        for row, i, item in zip(rows, numbers, self.items(numbers), strict=True):
            x = self._point(item, i)
            if x.shape != self.item_shape or x.dtype != self.dtype:
                raise ValueError(
                    f"{self._name}[{i}] is {x.dtype} of shape {list(x.shape)}, {self._name}[0] {self.dtype} of "
                    f"{list(self.item_shape)}: all must be alike"
                )
            row.copy_(x.flatten())
        return rows

    def items(self, numbers: list[int]) -> Iterator[object]:
        """The items at these indices, as the dataset returns them.

        Raises:
            ValueError: the dataset has fewer items than its length says.
        """
        many = getattr(self.dataset, "__getitems__", None)
        if many:
            items = list(many(numbers))
            if len(items) != len(numbers):
                raise ValueError(f"{self._name} was asked for {len(numbers)} items and gave {len(items)}")
            yield from items
            return
        for i in numbers:
            try:
                yield self.dataset[i]
            except IndexError as error:
                raise ValueError(
                    f"{self._name} says that it has {len(self)} items, and {self._name}[{i}] raised IndexError: {error}"
                ) from error

    def _point(self, item: Any, i: int) -> Tensor:
        x, what = (item[0] if isinstance(item, (tuple, list)) and item else item), f"{self._name}[{i}]"
        if isinstance(x, np.ndarray):
            dtype_of(x.dtype, what)
            return torch.from_numpy(np.ascontiguousarray(native(x, what)))
        if not isinstance(x, Tensor):
            raise TypeError(
                f"{what} is {type(x).__name__}, expected a tensor or an array, or a tuple that begins with one (a "
                "transform such as torchvision's PILToTensor makes one of a picture)"
            )
        if x.layout != torch.strided or x.dtype not in (*DATA, *INTEGERS):
            raise ValueError(
                f"{what} is of {x.dtype} ({x.layout}), expected bool, an integer dtype, float16, bfloat16, float32 or "
                "float64, in a dense tensor"
            )
        x = x.detach().cpu()
        return x if x.dtype in DATA else torch.from_numpy(native(x.numpy(), what))

    def to(self, device: Device) -> "DatasetRows":
        """Itself: items stay on the CPU."""
        return self


def dataset_labels(splits: dict[str, DatasetRows]) -> Labels:
    """Labels from the second entries of items, if those are whole numbers; all items of a split are read once.

    A TensorDataset's labels are its second tensor: no items are read.

    Raises:
        ValueError: the first item has a label and another one has not.
    """
    found = {}
    for split, rows in splits.items():
        labels = _labels(rows.dataset, rows, split)
        if labels is not None:
            found[split] = labels
    return Labels(found)


def _labels(dataset: Dataset[Any], rows: DatasetRows, split: str) -> Tensor | None:
    if (at_hand := _labels_tensor(dataset)) is not None:
        return at_hand
    if _label(rows.dataset[0]) is None:
        return None
    with of_extra("train", "a dataset with labels"):
        from tqdm import tqdm

    labels = torch.empty(len(rows), dtype=torch.int64)
    for index in tqdm(torch.arange(len(rows)).split(_CHUNK), f"reading labels of {split}", disable=None):
        for i, item in zip(index.tolist(), rows.items(index.tolist()), strict=True):
            label = _label(item)
            if label is None:
                raise ValueError(
                    f"{split}[{i}] has no whole number as its second entry, and {split}[0] has: expected labels"
                )
            labels[i] = label
    return labels


def _labels_tensor(dataset: Any) -> Tensor | None:
    """The labels of a TensorDataset, or of a Subset of one."""
    if type(dataset) is Subset:
        labels = _labels_tensor(dataset.dataset)
        return None if labels is None else labels[torch.as_tensor(dataset.indices)]
    if type(dataset) is TensorDataset and _label(dataset[0]) is not None:
        return dataset.tensors[1].detach().cpu().reshape(-1).long()
    return None


def _label(item: Any) -> int | None:
    """The second entry of an item, if it is a whole number."""
    if not isinstance(item, (tuple, list)) or len(item) < 2:
        return None
    label = item[1]
    if isinstance(label, (Tensor, np.ndarray)):
        if tuple(label.shape) not in ((), (1,)):
            return None
        label = label.item()
    return int(label) if isinstance(label, (int, np.integer)) else None


def _length(dataset: object, name: str) -> int:
    try:
        if isinstance(dataset, Sized) and hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset):
            return len(dataset)
    except (TypeError, ValueError, NotImplementedError):
        # torch's own wrappers raise this if what they wrap has no length.
        pass
    raise TypeError(f"{name} must have len() and items by number (a map-style Dataset), got {type(dataset).__name__}")
