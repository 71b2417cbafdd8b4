"""What a reader found in the user's own files: data points and labels, and a summary of them in words."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .._messages import python_or_flags
from .integrity import FileError
from .rows import Rows, rows_of

__all__ = ["FoundData", "Labels", "read_labels", "summary"]


class Labels:
    """The labels found for a dataset.

    Attributes:
        splits: the labels of each split that has some, int64 ``[N]``.
        classes: the names of the classes, by label; None: labels have no names.
        unread: why other labels were not read, in words.
    """

    def __init__(
        self,
        splits: dict[str, Tensor] | None = None,
        classes: tuple[str, ...] | None = None,
        unread: Iterable[str] = (),
    ):
        self.splits, self.classes, self.unread = splits or {}, classes, list(unread)

    @classmethod
    def of_names(cls, names: dict[str, list[str]], unread: Iterable[str] = ()) -> "Labels":
        """Labels from a class name for each data point: the sorted names of all splits are numbered from 0."""
        classes = tuple(sorted(set().union(*names.values())))
        number = {name: i for i, name in enumerate(classes)}
        return cls({split: torch.tensor([number[n] for n in of]) for split, of in names.items()}, classes, unread)

    def described(self) -> str:
        """One line: how many classes there are, and their names."""
        if not self.splits:
            return "; ".join(["no labels", *self.unread])
        numbers = torch.cat(list(self.splits.values())).unique().tolist()
        shown = [f"{n}" if self.classes is None else f"{n} {self.classes[n]}" for n in numbers]
        if len(shown) > 12:
            shown[10:-1] = ["..."]
        told = f"labels of {' and '.join(self.splits)}: {len(numbers)} classes ({', '.join(shown)})"
        if "train" in self.splits:
            known = set(self.splits["train"].tolist())
            for split, labels in self.splits.items():
                if new := sorted(set(labels.tolist()) - known):
                    name = new[0] if self.classes is None else self.classes[new[0]]
                    told += f"; {split} has {len(new)} that train has not (such as {name})"
        return "; ".join([told, *self.unread])


def read_labels(arrays: dict[str, tuple[str, np.ndarray | None]], counts: dict[str, int]) -> Labels:
    """Labels from arrays: whole numbers of any dtype, names, or one-hot rows.

    Arrays of anything else are skipped, since training needs no labels.

    Args:
        arrays: for each split, what messages call the array, and the array ``[N]``, ``[N, 1]`` or ``[N, classes]``
            (None if it holds Python objects).
        counts: how many data points each split has.

    Raises:
        FileError: there are more or fewer labels than data points. The message has both numbers.
    """
    found, names, unread = {}, {}, []
    for split, (what, array) in arrays.items():
        if array is None:
            unread.append(f"{what} holds Python objects, which are not read")
            continue
        count = len(array) if array.ndim else 0
        if count != counts[split]:
            raise FileError(f"{what} has {count} labels for the {counts[split]} data points of {split}")
        array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
        if array.ndim == 2 and array.size and array.dtype.kind in "biuf" and _is_one_hot(array):
            array = array.argmax(1)
        if array.ndim != 1:
            unread.append(f"{what} is not one label per data point: it has shape {list(array.shape)}")
        elif array.dtype.kind in "US":
            text = array if array.dtype.kind == "U" else np.char.decode(array, "utf-8", "replace")
            names[split] = text.tolist()
        elif (numbers := _whole(array)) is None:
            unread.append(
                f"{what} is not one label per data point: it is of {array.dtype.name}, and not all whole numbers"
            )
        else:
            found[split] = torch.from_numpy(numbers)
    if names and found:
        told = f"labels of {' and '.join(names)} are names and of {' and '.join(found)} numbers"
        return Labels(unread=[*unread, told])
    return Labels.of_names(names, unread) if names else Labels(found, unread=unread)


def _is_one_hot(array: np.ndarray) -> bool:
    return bool(((array != 0).sum(1) == 1).all() and (array.max(1) == 1).all())


def _whole(array: np.ndarray) -> np.ndarray | None:
    """The array as int64, if it holds whole numbers that int64 can represent."""
    if array.dtype.kind not in "biuf":
        return None
    # Floats that are not whole, too large or NaN convert to another number.
    with np.errstate(invalid="ignore"):
        numbers = array.astype(np.int64)
    return numbers if (numbers == array).all() else None


# How many skipped names a summary lists.
_NAMES = 4
# If all bytes lie below this, 255 is probably not white: the data may be zeros and ones, or 16 or 32 grey levels.
_DARK = 64


@dataclass
class FoundData:
    """What a reader of files found.

    Attributes:
        splits: the data points of each split, flat; ``"train"`` is always there.
        image_shape: the shape of an image; None if data points are not images.
        labels: of the splits.
        origins: the name of each split in the files, if it has one.
        converted: conversions of some data points, in words.
        skipped: names of files or arrays that were not read.
        x_scale: what values are multiplied by; None: 1/255 for bytes, 1 for others.
    """

    splits: dict[str, Tensor | Rows]
    image_shape: tuple[int, ...] | None
    labels: Labels
    origins: dict[str, str] = field(default_factory=dict)
    converted: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    x_scale: float | None = None


def summary(name: str, found: FoundData, held_out: float | None, x_scale: float | None) -> str:
    """The splits, the labels, what was converted and what was skipped: two or three lines.

    Args:
        name: the name of the dataset.
        found: with the splits that are used.
        held_out: the fraction of train that became the test split; None: the files have a test split.
        x_scale: what values are multiplied by; None: the default of the dtype.
    """
    shape = rows_of(found.splits["train"]).event_shape if found.image_shape is None else found.image_shape
    splits = []
    for split, rows in found.splits.items():
        origin = f" ({found.origins[split]})" if split in found.origins else ""
        if split == "test" and held_out is not None:
            origin = f" (held out of train: test_fraction {held_out:g})"
        splits.append(f"{split} {len(rows)}{origin}")
    dtype = str(rows_of(found.splits["train"]).dtype).removeprefix("torch.")
    lines = [f"{name}: {' x '.join(map(str, shape))}, {dtype}: {', '.join(splits)}", found.labels.described()]
    if found.converted:
        lines.append(f"converted: {', '.join(found.converted)}")
    if found.skipped:
        more = len(found.skipped) - _NAMES
        told = ", ".join(found.skipped[:_NAMES]) + (f" and {more} more" if more > 0 else "")
        lines.append(f"skipped: {told}")
    rows = found.splits["train"]
    is_unknown = x_scale is None and found.x_scale is None and rows_of(rows).dtype == torch.uint8
    if is_unknown and isinstance(rows, Tensor) and 0 < (high := int(rows.max())) < _DARK:
        lines.append(
            f"no byte of train is above {high}, and bytes are multiplied by 1/255: if {high} is white, "
            f"{python_or_flags('x_scale', '--x-scale')} is {1 / high:.6g}"
        )
    # A file name may contain newlines and bytes that are not text.
    text = "\n  ".join(" ".join(line.split()) for line in lines)
    return text.encode("utf-8", "replace").decode()
