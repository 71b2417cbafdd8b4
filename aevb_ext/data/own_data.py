"""What was found in files of one's own: data points and labels, and how it is told."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .._typed import typed
from .integrity import FileError
from .rows import Rows, rows_of

__all__ = ["FoundData", "Labels", "read_labels", "summary"]


class Labels:
    """What is known of the labels of a data set.

    Attributes:
        splits: of each split that has some: int64 ``[N]``.
        classes: the names that the numbers stand for, in their order; None: they are numbers.
        unread: why there are not more, in words.
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
        """Of a name for each data point: names are numbered in their order, over all splits."""
        classes = tuple(sorted(set().union(*names.values())))
        number = {name: i for i, name in enumerate(classes)}
        return cls({split: torch.tensor([number[n] for n in of]) for split, of in names.items()}, classes, unread)

    def described(self) -> str:
        """One line: how many classes there are, and what their numbers stand for."""
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
    """Labels out of arrays: whole numbers of any dtype, names, or a column for each class with a single 1 in each row.

    Others are left out, since training needs none.

    Args:
        arrays: of each split, what messages call the array, and itself: ``[N]``, ``[N, 1]`` or ``[N, classes]``;
            None: it holds Python objects.
        counts: how many data points each split has.

    Raises:
        FileError: there are not as many as data points; names both.
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
            unread.append(f"{what} is no label for each: it has shape {list(array.shape)}")
        elif array.dtype.kind in "US":
            text = array if array.dtype.kind == "U" else np.char.decode(array, "utf-8", "replace")
            names[split] = text.tolist()
        elif (numbers := _whole(array)) is None:
            unread.append(f"{what} is no label for each: it is of {array.dtype.name}, and not all whole numbers")
        else:
            found[split] = torch.from_numpy(numbers)
    if names and found:
        told = f"labels of {' and '.join(names)} are names and of {' and '.join(found)} numbers"
        return Labels(unread=[*unread, told])
    return Labels.of_names(names, unread) if names else Labels(found, unread=unread)


def _is_one_hot(array: np.ndarray) -> bool:
    return bool(((array != 0).sum(1) == 1).all() and (array.max(1) == 1).all())


def _whole(array: np.ndarray) -> np.ndarray | None:
    """As int64, if they are whole numbers that int64 has."""
    if array.dtype.kind not in "biuf":
        return None
    # Of floats that are not whole, or too large, and of NaN, what comes back is another number.
    with np.errstate(invalid="ignore"):
        numbers = array.astype(np.int64)
    return numbers if (numbers == array).all() else None


# So many names of what was skipped are told.
_NAMES = 4
# Bytes that all lie below count something else than 255 steps from black to white: zeros and ones, 16 or 32 steps.
_DARK = 64


@dataclass
class FoundData:
    """What a reader of files found.

    Attributes:
        splits: the data points of each split, flat; there is ``"train"``.
        image_shape: of the pictures, or None when data points are not pictures.
        labels: of the splits.
        origins: what the files call each split, where they call it something.
        converted: what was done to some data points, in words.
        skipped: names of what was not read.
    """

    splits: dict[str, Tensor | Rows]
    image_shape: tuple[int, ...] | None
    labels: Labels
    origins: dict[str, str] = field(default_factory=dict)
    converted: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def summary(name: str, found: FoundData, held_out: float | None, x_scale: float | None) -> str:
    """Which split is what, what the labels are, what was converted and skipped: two or three lines.

    Args:
        name: what the data is called.
        found: with the splits that are used.
        held_out: which fraction of train the test split was made of; None: it was there.
        x_scale: what values are multiplied by; None: what the dtype says.
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
    is_unknown = x_scale is None and rows_of(rows).dtype == torch.uint8
    if is_unknown and isinstance(rows, Tensor) and 0 < (high := int(rows.max())) < _DARK:
        lines.append(
            f"no byte of train is above {high}, and bytes are multiplied by 1/255: if {high} is white, "
            f"{typed('x_scale', '--x-scale')} is {1 / high:.6g}"
        )
    # Names of files may be no text at all.
    text = "\n  ".join(" ".join(line.split()) for line in lines)
    return text.encode("utf-8", "replace").decode()
