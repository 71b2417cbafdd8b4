"""``Data``: a dataset with its splits and labels."""

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from .._types import Device
from ..configuration.choices import SPLITS
from .rows import Rows, rows_of

__all__ = ["SPLITS", "Data"]


@dataclass(frozen=True)
class Data:
    """The splits of a dataset.

    Each split is a tensor ``[N, *event]`` or :class:`~aevb_ext.data.Rows`, of any float dtype, bool or uint8;
    for likelihoods of counts and classes also of int16, int32 or int64.

    Attributes:
        name: what messages and checkpoints call it, and what :func:`~aevb_ext.data.load` loads it by.
        train, test: the splits that every dataset has.
        x_scale: what a stored value is multiplied by to give the model's x.
        image_shape: ``(height, width)`` or ``(channels, height, width)`` of an image; None if data points are not
            images.
        valid: None if the dataset has no such split.
        train_labels, test_labels, valid_labels: int64 ``[N]``, a label for each data point of the split; None if they
            are unknown. They stay on the CPU.
        classes: the names of the classes, by label from 0; None if labels have no names.
        description: what :func:`~aevb_ext.data.load` found in your own files: the splits, the labels, what was
            converted and what was skipped; lines of text.
        source: the arguments with which :func:`~aevb_ext.data.load` loads it again, by name, defaults left out, with
            absolute paths. None: it was not made by ``load``.
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
        """The data points of a split and their labels, or None if these are unknown.

        Args:
            name: ``"train"``, ``"test"`` or ``"valid"``.

        Raises:
            ValueError: there is no such split, or it does not have as many labels as data points.
        """
        if name not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {name!r}")
        rows, labels = getattr(self, name), getattr(self, f"{name}_labels")
        if rows is None:
            raise ValueError(f"{self.name} has no {name} split")
        # dataclasses.replace(data, train=...) leaves the old labels behind.
        if labels is not None and labels.shape != (len(rows),):
            raise ValueError(
                f"{self.name} has {name}_labels of shape {list(labels.shape)} for {len(rows)} data points: expected "
                f"[{len(rows)}], or None"
            )
        return rows, labels
