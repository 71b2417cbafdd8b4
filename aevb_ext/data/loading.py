"""Data sets by name, from files of one's own, and from torch Datasets."""

import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .images import read_images
from .known import KNOWN
from .prefetch import chunks
from .rows import BinarizedRows, BitRows, Rows, rows_of
from .sets import Data
from .splits import SubsetRows, hold_out
from .stored import layout, read_arrays
from .torch_dataset import DatasetRows

__all__ = ["BINARIZE", "NAMES", "RESIDENT_BYTES", "download", "from_dataset", "load"]

NAMES = tuple(KNOWN)
BINARIZE = ("dynamic", "threshold")
_TEST_FRACTION = 0.1
# What a split may take in memory, on the device too, before it stays in its file.
RESIDENT_BYTES = 1 << 30

# Data points looked at together when all of them are.
_CHUNK = 4096


def load(
    data: str | os.PathLike,
    data_dir=None,
    *,
    binarize: str | None = None,
    x_scale: float | None = None,
    test_fraction: float = _TEST_FRACTION,
    train_count: int | None = None,
    colour: bool = False,
    resident_bytes: int = RESIDENT_BYTES,
) -> Data:
    """Load a data set: one that has a name, or one's own files.

    By name, split as the experiments split it that the data is known from:

    - ``"digits"``: 1500 train / 297 test, 32 x 32; comes with the package;
    - ``"mnist"``, ``"fashion_mnist"``: 50000 train / 10000 valid / 10000 test, 28 x 28;
    - ``"freyface"``: 1600 train / 365 test, 28 x 20;
    - ``"binarized_mnist"``: 50000 / 10000 / 10000 of zeros and ones, the binarisation that was drawn once for all
      (Larochelle & Murray 2011), eight pixels in a byte.

    The digits have labels, and so have MNIST and Fashion-MNIST where the files of the labels are beside the images.

    By path, with data points flat:

    - a ``.npy`` file: ``[N, *event]`` of bool, uint8 or a float dtype. Pictures are ``[N, height, width]``,
      ``[N, 3, height, width]`` or ``[N, height, width, 3]``;
    - a ``.npz`` file: one such array, or ``train`` and, where there are such splits, ``test`` and ``valid``;
    - a folder of images, or with the folders ``train`` and, where there are such splits, ``test`` and ``valid``. They
      are decoded to bytes, all of one size; transparency is left out.

    Where the files have no test split, one is held out as :func:`~aevb_ext.data.splits.hold_out` says.

    Args:
        data: a name, or a path; a path that is spelt like a name needs a slash (``"./mnist"``).
        data_dir: where the files of named data are: in it, or in its folder of that name.
        binarize: ``"dynamic"``: the rows are drawn, each number 1 with probability ``x * x_scale``, by the noise keys
            given to ``gather``: anew in each epoch (Burda et al. 2016). ``"threshold"``: 1 where ``x * x_scale`` is at
            least 1/2, kept in bits.
        x_scale: what a value is multiplied by to give the number that the model is about. Default: what named data has;
            1/255 for bytes, 1 for the rest.
        test_fraction: how much is held out for the test where the files have no test split.
        train_count: so many data points of the train split are there, the first ones. None: all.
        colour: whether the pictures of a folder are red, green and blue; otherwise they are made grey.
        resident_bytes: splits that take more stay in their files, if these are mappable (.npy, uncompressed .npz) or
            pictures, and are read as they are gathered. What is read into memory is checked to be finite; what stays
            is checked where training looks at its support.

    Returns:
        :class:`Data` on the CPU.

    Raises:
        ValueError: an unknown name; a file that is damaged, or that is not what it should be; an option out of range.
        FileNotFoundError: a file is missing; says where it was looked for and where it can be had.
    """
    if binarize is not None and binarize not in BINARIZE:
        raise ValueError(f"binarize must be None or one of {', '.join(BINARIZE)}, got {binarize!r}")
    if data in KNOWN:
        loaded = KNOWN[data].load(data_dir)
        if x_scale is not None:
            loaded = replace(loaded, x_scale=x_scale)
    else:
        path = _existing(data)
        if path.is_dir():
            splits, image_shape = read_images(path, colour, resident_bytes)
        elif path.suffix in (".npy", ".npz"):
            splits, image_shape = read_arrays(path, resident_bytes)
        else:
            raise ValueError(f"{path} is neither a folder of images nor a .npy or .npz file")
        loaded = _data(str(path.resolve()), splits, image_shape, x_scale, test_fraction)
    if train_count is not None:
        loaded = _with_train_count(loaded, train_count)
    given = {"binarize": binarize, "x_scale": x_scale, "colour": colour or None, "train_count": train_count}
    given["data_dir"] = None if data_dir is None else str(Path(data_dir).resolve())
    given["test_fraction"] = None if test_fraction == _TEST_FRACTION else test_fraction
    source = {"data": loaded.name} | {key: value for key, value in given.items() if value is not None}
    return replace(loaded if binarize is None else _binarized(loaded, binarize), source=source)


def from_dataset(
    train: Dataset,
    test: Dataset | None = None,
    valid: Dataset | None = None,
    *,
    name: str | None = None,
    binarize: str | None = None,
    x_scale: float | None = None,
    test_fraction: float = _TEST_FRACTION,
) -> Data:
    """A data set out of map-style torch Datasets, which are asked for their items as they are gathered.

    An item is a tensor or an array of one shape, or a tuple that begins with one (what else is in it is left out).
    Pictures are ``[height, width]``, ``[1, height, width]`` or ``[3, height, width]``.

    Args:
        train, test, valid: the splits.
        name: what messages and checkpoints call it. Default: that of the class of ``train``.
        binarize, x_scale, test_fraction: as in :func:`load`.

    Raises:
        TypeError, ValueError: a dataset or its items are not as :class:`~aevb_ext.data.DatasetRows` needs them.
    """
    if binarize is not None and binarize not in BINARIZE:
        raise ValueError(f"binarize must be None or one of {', '.join(BINARIZE)}, got {binarize!r}")
    given = {"train": train, "test": test, "valid": valid}
    splits = {split: DatasetRows(dataset) for split, dataset in given.items() if dataset is not None}
    image_shape, channels_last = layout(tuple(splits["train"].item_shape))
    loaded = _data(name or type(train).__name__, splits, None if channels_last else image_shape, x_scale, test_fraction)
    return loaded if binarize is None else _binarized(loaded, binarize)


def download(name: str, data_dir) -> None:
    """Fetch the files of named data that are not there into a folder of that name in ``data_dir``; verify checksums.

    Raises:
        ValueError: the name is unknown.
        DownloadError: no mirror had a file; says for each why.
        OSError: the folder cannot be written.
    """
    if name not in KNOWN:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
    KNOWN[name].download(data_dir)


def _existing(data) -> Path:
    path = Path(data)
    if not path.exists():
        kinds = "a folder of images, or a .npy or .npz file"
        if os.path.sep in str(data) or path.suffix:
            raise FileNotFoundError(f"there is no {path}: expected {kinds}; if it was moved, say where it is (--data)")
        raise ValueError(f"data must be the path of {kinds}, or one of {', '.join(NAMES)}, got {str(data)!r}")
    return path


def _data(name: str, splits: dict[str, Tensor | Rows], image_shape, x_scale, test_fraction: float) -> Data:
    """Data of these splits, whose points must be alike."""
    kinds = {split: (rows_of(rows).dtype, rows_of(rows).event_shape) for split, rows in splits.items()}
    if len(set(kinds.values())) > 1:
        kinds = ", ".join(f"{split}: {dtype} {list(shape)}" for split, (dtype, shape) in kinds.items())
        raise ValueError(f"{name}: data points differ from split to split: {kinds}")
    if x_scale is None:
        x_scale = 1 / 255 if rows_of(splits["train"]).dtype == torch.uint8 else 1.0
    if "test" not in splits:
        splits["train"], splits["test"] = hold_out(splits["train"], test_fraction)
    return Data(name, x_scale=x_scale, image_shape=image_shape, **splits)


def _with_train_count(data: Data, count: int) -> Data:
    if not isinstance(count, int) or not 1 <= count <= len(data.train):
        raise ValueError(f"train_count must be an integer between 1 and {len(data.train)}, got {count!r}")
    rows = rows_of(data.train)
    labels = None if data.train_labels is None else data.train_labels[:count]
    first = data.train[:count] if isinstance(data.train, Tensor) else SubsetRows(rows, torch.arange(count))
    return replace(data, train=first, train_labels=labels)


def _binarized(data: Data, how: str) -> Data:
    splits = {split: getattr(data, split) for split in ("train", "test", "valid") if getattr(data, split) is not None}
    for split, rows in splits.items():
        _check_probabilities(rows, data.x_scale, f"{data.name}: {split}")
        if how == "dynamic":
            splits[split] = BinarizedRows(rows, data.x_scale)
        else:
            splits[split] = BitRows.of(_AtLeastHalf(rows, data.x_scale))
    return replace(data, x_scale=1.0, **splits)


def _check_probabilities(data: Tensor | Rows, x_scale: float, what: str) -> None:
    if rows_of(data).dtype == torch.uint8 and 0 <= x_scale <= 1 / 255:
        return
    for x in chunks(data, _CHUNK):
        low, high = (bound.item() * x_scale for bound in x.float().aminmax())
        # Written so that a NaN fails; 1e-6 for rounding.
        if not (low >= 0 and high <= 1 + 1e-6):
            raise ValueError(
                f"{what} * x_scale has values in [{low:.6g}, {high:.6g}], which are no probabilities to binarize by "
                f"(x_scale is {x_scale:.6g}; it should map the largest value to 1)"
            )


class _AtLeastHalf:
    """Rows: whether ``x * x_scale`` is at least 1/2."""

    draws, dtype = False, torch.bool

    def __init__(self, data: Tensor | Rows, x_scale: float):
        self._rows, self._x_scale = rows_of(data), x_scale
        self.event_shape, self.device, self.resident = (
            self._rows.event_shape,
            self._rows.device,
            self._rows.resident,
        )

    def __len__(self) -> int:
        return len(self._rows)

    def gather(self, index: Tensor, keys: Tensor | None = None) -> Tensor:
        return self._rows.gather(index) * self._x_scale >= 0.5

    def to(self, device) -> "_AtLeastHalf":
        return _AtLeastHalf(self._rows.to(device), self._x_scale)
