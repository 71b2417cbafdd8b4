"""Loading datasets by name, from your own files, and from torch Datasets."""

import os
from dataclasses import replace
from numbers import Real
from operator import index
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .._arguments import described
from .._types import Device, Shape, StrPath
from ..configuration.choices import BINARIZE, SPLITS
from ..configuration.datasets import KNOWN, NAMES, own_path
from .archive import read_arrays
from .arrays import layout
from .counts import read_h5ad
from .dataset import Data
from .images import read_images
from .known import download_known, load_known
from .own_data import FoundData, summary
from .prefetch import chunks
from .rows import BinarizedRows, BitRows, Rows, SubsetRows, hold_out, rows_of
from .torch_dataset import DatasetRows, dataset_labels

__all__ = ["BINARIZE", "NAMES", "RESIDENT_BYTES", "download", "from_dataset", "load"]

_TEST_FRACTION = 0.1
# A split that needs more memory, on the CPU or on the device, stays in its file.
RESIDENT_BYTES = 1 << 30

# Data points per chunk when all of them are checked or converted.
_CHUNK = 4096


def load(
    data: StrPath,
    data_dir: StrPath | None = None,
    *,
    binarize: str | None = None,
    x_scale: float | None = None,
    test_fraction: float = _TEST_FRACTION,
    train_count: int | None = None,
    colour: bool = False,
    image_shape: tuple[int, ...] | None = None,
    array: str | None = None,
    resident_bytes: int = RESIDENT_BYTES,
) -> Data:
    """Load a dataset by name, or from your own files.

    By name, with the splits of the experiments that made the dataset known:

    - ``"digits"``: 1500 train / 297 test, 32 x 32; comes with the package;
    - ``"mnist"``, ``"fashion_mnist"``: 50000 train / 10000 valid / 10000 test, 28 x 28;
    - ``"freyface"``: 1600 train / 365 test, 28 x 20;
    - ``"binarized_mnist"``: 50000 / 10000 / 10000 of zeros and ones, the fixed binarisation of Larochelle & Murray
      (2011), eight pixels in a byte.

    The digits have labels. MNIST and Fashion-MNIST have them if the files of labels are beside the images.

    By path, with data points flat:

    - a ``.npy`` file: ``[N, *event]`` of bool, an integer or a float dtype, in either byte order. Images are
      ``[N, height, width]``, ``[N, 3, height, width]`` or ``[N, height, width, 3]``. Integers are read as bytes; values
      outside of 0 to 255 raise an error;
    - a ``.npz`` file: one such array, or arrays ``train`` and optionally ``test`` and ``valid``, with these names or
      similar ones such as ``x_train`` or ``train_images``. Arrays of labels are called ``y_train``, ``train_labels``
      and so on, or ``labels`` or ``y`` beside a single array;
    - a ``.npz`` file of ``scipy.sparse.save_npz`` in the format CSR, and a ``.h5ad`` file of AnnData, whose X is read:
      counts, integers or floats. A sparse matrix stays sparse in memory, and its rows are made dense as they are
      gathered;
    - a folder of images, or one with the folders ``train`` and optionally ``test`` and ``valid`` (also ``training``,
      ``testing``, ``val``, ``validation``, in any letter case). A folder in these is a class. Hidden files and folders
      are ignored. All images must have one size after they are put upright as their EXIF says. Transparent ones are
      laid on white, and 16-bit values become bytes (``/ 257``, rounded).

    The ``description`` of the data says what was found, converted and skipped.

    If the files have no test split, one is held out by :func:`~aevb_ext.data.rows.hold_out`.

    Args:
        data: a name, or a path; a path that is spelt like a name needs a slash (``"./mnist"``).
        data_dir: the folder that has the files of named data, directly or in a subfolder of that name.
        binarize: ``"dynamic"``: each value becomes 1 with probability ``x * x_scale``, drawn by the noise keys given to
            ``gather``, anew in each epoch (Burda et al. 2016). ``"threshold"``: 1 where ``x * x_scale`` is at least
            1/2, kept in bits.
        x_scale: what a stored value is multiplied by to give the model's x. Default: that of named data; 1/255 for
            bytes, 1 for other dtypes, and for sparse matrices and .h5ad files.
        test_fraction: the fraction held out as test split if the files have none.
        train_count: use only the first ``train_count`` data points of the train split. None: all.
        colour: read the images of a folder as RGB; otherwise they are converted to grey.
        image_shape: ``(height, width)``, ``(3, height, width)`` or ``(height, width, 3)``: the image shape of a row of
            arrays ``[N, D]``, in that order. None: as the shapes of the arrays say.
        array: the name of the array of a .npz file that is the data. None: found by common names.
        resident_bytes: larger splits stay in their files, if these are images or can be mapped (.npy, uncompressed
            .npz), and are read as they are gathered. What is read into memory is checked to be finite; what stays in
            files is checked when training checks the likelihood's support.

    Returns:
        :class:`Data` on the CPU.

    Raises:
        TypeError: data is neither a name nor a path, or an option is of another type.
        ValueError: an unknown name; a file that is damaged or the wrong one; an option out of range.
        FileNotFoundError: a file is missing. The message says where it was searched and where to download it.
    """
    _check_options(binarize, x_scale, test_fraction)
    _check_type("data", data, (str, os.PathLike), "a name or a path (of what is in memory, make a Data)")
    _check_type("data_dir", data_dir, (str, os.PathLike, type(None)), "a path")
    _check_type("array", array, (str, type(None)), "a name")
    _check_type("resident_bytes", resident_bytes, Real, "a number")
    image_shape = _image_shape(image_shape)
    if isinstance(data, str) and data in KNOWN:
        _check_unused(data, image_shape, array)
        loaded = load_known(data, data_dir)
        if x_scale is not None:
            loaded = replace(loaded, x_scale=x_scale)
    else:
        path = own_path(data)
        if path.is_dir():
            _check_unused(f"the folder {data}", image_shape, array)
            found = read_images(path, colour, resident_bytes)
        elif path.suffix.lower() == ".h5ad":
            _check_unused(data, image_shape, array)
            found = read_h5ad(path)
        else:
            found = read_arrays(path, resident_bytes, image_shape, array)
        loaded = _data(str(path.resolve()), found, x_scale, test_fraction)
    if train_count is not None:
        loaded = _with_train_count(loaded, train_count)
    given: dict[str, object] = {
        "binarize": binarize,
        "x_scale": x_scale,
        "colour": colour or None,
        "train_count": train_count,
    }
    given |= {"image_shape": None if image_shape is None else list(image_shape), "array": array}
    given["data_dir"] = None if data_dir is None else str(Path(data_dir).resolve())
    given["test_fraction"] = None if test_fraction == _TEST_FRACTION else test_fraction
    source = {"data": loaded.name} | {key: value for key, value in given.items() if value is not None}
    return replace(loaded if binarize is None else _binarized(loaded, binarize), source=source)


def from_dataset(
    train: Dataset[Any],
    test: Dataset[Any] | None = None,
    valid: Dataset[Any] | None = None,
    *,
    name: str | None = None,
    binarize: str | None = None,
    x_scale: float | None = None,
    test_fraction: float = _TEST_FRACTION,
) -> Data:
    """A dataset from map-style torch Datasets; their items are read as they are gathered.

    An item is a tensor or an array, of the same shape for all items, or a tuple that begins with one. Images are
    ``[height, width]``, ``[1, height, width]`` or ``[3, height, width]``. Integers are read as bytes, as in
    :func:`load`. The second entry of an item is its label, if it is a whole number. All items of a split are read once
    to collect labels, except for a TensorDataset, whose labels are one tensor.

    Args:
        train, test, valid: the splits.
        name: what messages and checkpoints call it. Default: the class name of ``train``.
        binarize, x_scale, test_fraction: as in :func:`load`.

    Raises:
        TypeError, ValueError: a dataset or its items are not as :class:`~aevb_ext.data.DatasetRows` needs them.
    """
    _check_options(binarize, x_scale, test_fraction)
    splits = {"train": DatasetRows(train, "train")}
    splits |= {s: DatasetRows(dataset, s) for s, dataset in (("test", test), ("valid", valid)) if dataset is not None}
    image_shape, channels_last = layout(tuple(splits["train"].item_shape))
    found = FoundData(dict(splits), None if channels_last else image_shape, dataset_labels(splits))
    loaded = _data(name or type(train).__name__, found, x_scale, test_fraction)
    return loaded if binarize is None else _binarized(loaded, binarize)


def download(name: str, data_dir: StrPath) -> None:
    """Download the missing files of named data into the subfolder ``name`` of ``data_dir``, and verify checksums.

    Raises:
        ValueError: the name is unknown.
        DownloadError: no mirror had a file; the message says why for each.
        OSError: the folder cannot be written.
    """
    if name not in KNOWN:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
    download_known(name, data_dir)


def _data(name: str, found: FoundData, x_scale: float | None, test_fraction: float) -> Data:
    """The dataset of these splits, after checking that their data points have the same shape and dtype."""
    splits = found.splits
    kinds = {split: (rows_of(rows).dtype, rows_of(rows).event_shape) for split, rows in splits.items()}
    if len(set(kinds.values())) > 1:
        told = ", ".join(f"{split}: {dtype} {list(shape)}" for split, (dtype, shape) in kinds.items())
        raise ValueError(f"{name}: data points differ from split to split: {told}")
    labels: dict[str, Any] = dict(found.labels.splits)
    has_test = "test" in splits
    if not has_test:
        if len(splits["train"]) < 2:
            raise ValueError(
                f"{name} has one data point: expected at least two data points to hold one out for the test"
            )
        splits["train"], splits["test"] = hold_out(splits["train"], test_fraction)
        if "train" in labels:
            # The same data points are held out, in the same order.
            labels["train"], labels["test"] = hold_out(labels["train"], test_fraction)
    found.splits = splits = {split: splits[split] for split in SPLITS if split in splits}
    description = summary(name, found, None if has_test else test_fraction, x_scale)
    if x_scale is None:
        x_scale = found.x_scale
    if x_scale is None:
        x_scale = 1 / 255 if rows_of(splits["train"]).dtype == torch.uint8 else 1.0
    of_splits: dict[str, Any] = dict(splits)
    return Data(
        name,
        x_scale=x_scale,
        image_shape=found.image_shape,
        classes=found.labels.classes,
        description=description,
        **of_splits,
        **{f"{split}_labels": of for split, of in labels.items()},
    )


def _check_options(binarize: object, x_scale: object, test_fraction: object) -> None:
    if binarize is not None and binarize not in BINARIZE:
        raise ValueError(f"binarize must be None or one of {', '.join(BINARIZE)}, got {binarize!r}")
    _check_type("x_scale", x_scale, (Real, type(None)), "a number")
    _check_type("test_fraction", test_fraction, Real, "a number")


def _check_type(name: str, value: object, kinds: type | tuple[type, ...], expected: str) -> None:
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise TypeError(f"{name} must be {expected}, got {described(value)}")


def _check_unused(what: object, image_shape: Shape | None, array: str | None) -> None:
    for name, value in (("image_shape", image_shape), ("array", array)):
        if value is not None:
            raise ValueError(
                f"{name} must be left out for {what}: it is of arrays in files (.npy, .npz), got {value!r}"
            )


def _image_shape(shape: Shape | None) -> tuple[int, ...] | None:
    """The shape as a tuple, if it is an image shape."""
    if shape is None:
        return None
    expected = "(height, width), (3, height, width) or (height, width, 3)"
    try:
        whole = tuple(index(size) for size in shape)
    except TypeError:
        raise TypeError(f"image_shape must be {expected}, got {described(shape)}") from None
    if layout(whole)[0] is None or min(whole) < 1:
        raise ValueError(f"image_shape must be {expected}, got {shape!r}")
    return whole


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
        # Written so that a NaN fails; 1e-6 allows for rounding.
        if not (low >= 0 and high <= 1 + 1e-6):
            raise ValueError(
                f"{what} * x_scale has values in [{low:.6g}, {high:.6g}], expected probabilities to binarize by, in "
                f"[0, 1] (x_scale is {x_scale:.6g}; it should map the largest value to 1)"
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

    def to(self, device: Device) -> "_AtLeastHalf":
        return _AtLeastHalf(self._rows.to(device), self._x_scale)
