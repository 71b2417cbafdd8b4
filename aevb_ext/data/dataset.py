"""What a data set is."""

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from .._types import Device
from .rows import Rows, rows_of

__all__ = ["SPLITS", "Data"]

SPLITS = ("train", "test", "valid")


@dataclass(frozen=True)
class Data:
    """Splits of a data set.

    Each split is a tensor ``[N, *event]`` or :class:`~aevb_ext.data.Rows`, of any float dtype, bool or uint8.

    Attributes:
        name: what messages and checkpoints call it, and what :func:`~aevb_ext.data.load` loads it by.
        train, test: the splits that every data set has.
        x_scale: what a value is multiplied by to give the number that the model is about.
        image_shape: ``(height, width)`` or ``(colours, height, width)`` of the pictures, or None when data points are
            not pictures.
        valid: None where the data set has no such split.
        train_labels, test_labels, valid_labels: int64 ``[N]``, a label for each data point of the split; None where
            nobody knows them. They stay on the CPU.
        classes: the names of the classes that labels number from 0; None where labels are but numbers.
        description: what :func:`~aevb_ext.data.load` found in files of one's own: which split is what, the labels, what
            was converted and what was skipped; lines of text.
        source: what :func:`~aevb_ext.data.load` makes it of again: its arguments by name, those that are not as by
            default, with absolute paths. None: it was made otherwise.
    """

    name: str
    train: Tensor | Rows
    test: Tensor | Rows
    x_scale: float = 1.0
    image_shape: tuple[int, ...] | None = None
    valid: Tensor | Rows | None = None
    source: dict[str, Any] | None = None
    train_labels: Tensor | None = None
    test_labels: Tensor | None = None
    valid_labels: Tensor | None = None
    classes: tuple[str, ...] | None = None
    description: str = ""

    @property
    def dim(self) -> int:
        """How many numbers one data point is."""
        return math.prod(rows_of(self.train).event_shape)

    def to(self, device: Device) -> "Data":
        """The same data on ``device``, where it is resident."""
        valid = None if self.valid is None else self.valid.to(device)
        return replace(self, train=self.train.to(device), test=self.test.to(device), valid=valid)

    def split(self, name: str) -> tuple[Tensor | Rows, Tensor | None]:
        """The data points of a split and their labels, None where nobody knows them.

        Args:
            name: ``"train"``, ``"test"`` or ``"valid"``.

        Raises:
            ValueError: there is no such split, or it has not as many labels as data points.
        """
        if name not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {name!r}")
        rows, labels = getattr(self, name), getattr(self, f"{name}_labels")
        if rows is None:
            raise ValueError(f"{self.name} has no {name} split")
        # As replace(data, train=...) leaves them, where nobody thought of labels.
        if labels is not None and labels.shape != (len(rows),):
            raise ValueError(
                f"{self.name} has {name}_labels of shape {list(labels.shape)} for {len(rows)} data points: expected "
                f"[{len(rows)}], or None"
            )
        return rows, labels
