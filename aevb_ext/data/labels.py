"""Labels of one's own data: whole numbers, names, or a column for each class."""

import numpy as np
import torch
from torch import Tensor

from .integrity import FileError

__all__ = ["Labels", "read_labels"]


class Labels:
    """What is known of the labels of a data set.

    Attributes:
        splits: of each split that has some: int64 ``[N]``.
        classes: the names that the numbers stand for, in their order; None: they are numbers.
        unread: why there are not more, in words.
    """

    def __init__(self, splits: dict[str, Tensor] | None = None, classes: tuple[str, ...] | None = None, unread=()):
        self.splits, self.classes, self.unread = splits or {}, classes, list(unread)

    @classmethod
    def of_names(cls, names: dict[str, list[str]], unread=()) -> "Labels":
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
