"""Datasets with a name: the embedded digits, and public datasets that are downloaded or read from a folder."""

import gzip
import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .._types import StrPath
from ..configuration.datasets import KNOWN, Known, RemoteFile
from .arrays import ArrayFile, read_array
from .dataset import Data
from .download import DownloadError, fetch
from .integrity import FileError, reading, verify
from .rows import BitRows, shuffled

__all__ = ["CHECKS", "READERS", "download_known", "load_known", "read_idx"]

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: StrPath, checksum: str | None = None) -> np.ndarray:
    """Read a gzipped idx file (the format of MNIST), uint8 or another of its number types.

    Args:
        path: the file.
        checksum: ``"md5:..."`` or ``"sha256:..."`` of the file; None: not verified.

    Raises:
        ValueError: not gzip, a wrong magic number, more or fewer bytes than its header promises, or a wrong checksum.
    """
    raw = Path(path).read_bytes()
    with reading(path, "a gzipped idx file"):
        try:
            content = gzip.decompress(raw)
        except gzip.BadGzipFile as error:
            raise FileError(f"{path} is not a gzip file: {error}") from None
        magic = content[:4]
        if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _DTYPES:
            raise FileError(
                f"{path} is not an idx file: its magic number is 0x{magic.hex()}, expected 0x0000 and a type"
            )
        header = 4 + 4 * magic[3]
        shape = tuple(np.frombuffer(content[4:header], ">u4").tolist()) if len(content) >= header else ()
        dtype = np.dtype(_DTYPES[magic[2]])
        expected = header + math.prod(shape) * dtype.itemsize
        if len(shape) != magic[3] or len(content) != expected:
            raise FileError(f"{path} has {len(content)} bytes where its header promises {expected} for shape {shape}")
        if checksum is not None:
            verify(raw, checksum, path)
        return np.frombuffer(content, dtype, offset=header).reshape(shape)


# Checksums of the pixels and of the bits rather than of a file: the same faces are found as .mat and as .npy, the same
# bits as text and packed.
_FACES_CHECKSUM = "md5:687b39ec28b56c183474c235686975cf"
_BINARIZED_BITS = {
    "train": "sha256:727146c35424b019f3e350e1e69faa05644a0abaf787e3f4e1a9632220a13906",
    "valid": "sha256:a256ac44ae26be720fad8616a05ed6ecfd1619930d9a208379bb2a4405df5b6d",
    "test": "sha256:9fcd8da6f0fdf09b2ba30fe63a0bb784042a0de82563172530229b983e294ff2",
}


def _read_digits(known: Known, *_: object) -> Data:
    with np.load(Path(__file__).parents[1] / "datasets" / "digits.npz") as file:
        counts, labels = shuffled(file["images"]), _labels(shuffled(file["labels"]))
    # Each value counts the dark pixels of a 4 x 4 block of the 32 x 32 scan. Expanded to 16 equal grey pixels, it has
    # the Bernoulli likelihood of the block's own pixels, which is the binomial one of the count up to a constant.
    images = counts.repeat(4, axis=1).repeat(4, axis=2)
    splits = _rows(images[:1500]), _rows(images[1500:])
    return Data(known.name, *splits, 1 / 16, (32, 32), train_labels=labels[:1500], test_labels=labels[1500:])


def _read_idx_images(known: Known, paths: list[Path], label_paths: list[Path | None]) -> Data:
    train, test = (read_idx(path, file.checksum) for path, file in zip(paths, known.files, strict=True))
    train_labels, test_labels = (
        None if path is None else read_idx(path, file.checksum)
        for path, file in zip(label_paths, known.labels, strict=True)
    )
    labels = {}
    if train_labels is not None:
        labels["train_labels"], labels["valid_labels"] = _labels(train_labels).split([50000, 10000])
    if test_labels is not None:
        labels["test_labels"] = _labels(test_labels)
    splits = _rows(train[:50000]), _rows(test)
    return Data(known.name, *splits, 1 / 255, (28, 28), valid=_rows(train[50000:]), **labels)


def _read_freyface(known: Known, paths: list[Path], _: object) -> Data:
    images = shuffled(_faces(*paths))
    return Data(known.name, _rows(images[:1600]), _rows(images[1600:]), 1 / 256, (28, 20))


def _faces(path: Path) -> np.ndarray:
    """The faces in chronological order, uint8 ``[1965, 560]``."""
    images = _read_npy(path) if path.suffix == ".npy" else _read_mat(path, "ff").T
    images = np.ascontiguousarray(images)
    if images.dtype != np.uint8 or images.size != 1965 * 560:
        raise ValueError(f"{path} holds {images.dtype} of shape {images.shape}, expected uint8, 1965 images of 28 x 20")
    verify(images.tobytes(), _FACES_CHECKSUM, f"the pixels of {path}")
    return images.reshape(1965, 560)


def _read_binarized_mnist(known: Known, paths: list[Path], _: object) -> Data:
    splits: dict[str, BitRows] = {}
    for path, (split, checksum) in zip(paths, _BINARIZED_BITS.items(), strict=True):
        packed = _read_npy(path) if path.suffix == ".npy" else _read_amat(path)
        verify(np.ascontiguousarray(packed).tobytes(), checksum, f"the bits of {path}")
        splits[split] = BitRows(torch.from_numpy(packed.reshape(-1, 98)), (784,))
    return Data(known.name, splits["train"], splits["test"], image_shape=(28, 28), valid=splits["valid"])


def _read_amat(path: Path) -> np.ndarray:
    """Parse text lines of 784 zeros and ones separated by spaces, and pack the bits: uint8 ``[N, 98]``."""
    text = np.fromfile(path, np.uint8)
    if text.size % (2 * 784):
        raise ValueError(f"{path} has {text.size} bytes, expected lines of 784 digits, each followed by one character")
    return np.packbits(text.reshape(-1, 784, 2)[:, :, 0] == ord("1"), axis=1)


def _read_npy(path: Path) -> np.ndarray:
    with open(path, "rb") as file:
        array = read_array(ArrayFile(file, str(path), os.path.getsize(path)))
    if array is None:
        raise FileError(f"{path} holds Python objects, which are not read: reading them can execute anything")
    return array


def _read_mat(path: Path, key: str) -> np.ndarray:
    try:
        from scipy.io import loadmat
    except ImportError:
        raise ImportError(f"reading {path} needs scipy: pip install scipy") from None
    with reading(path, f"a MATLAB file with the variable {key}"):
        variable: np.ndarray = loadmat(path)[key]
        return variable


def _rows(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images.reshape(len(images), math.prod(images.shape[1:])).copy())


def _labels(labels: np.ndarray) -> Tensor:
    return torch.from_numpy(labels.astype(np.int64))


READERS: dict[str, Callable[[Known, list[Path], list[Path | None]], Data]] = {
    "digits": _read_digits,
    "mnist": _read_idx_images,
    "fashion_mnist": _read_idx_images,
    "freyface": _read_freyface,
    "binarized_mnist": _read_binarized_mnist,
}
# What verifies a download whose file has no checksum.
CHECKS: dict[str, Callable[[Path], object]] = {"freyface": _faces}


def load_known(name: str, data_dir: StrPath | None = None) -> Data:
    """Read the dataset with a name from ``data_dir/name`` or ``data_dir``.

    Raises:
        FileNotFoundError: a file is missing. The message says where it was searched and where to download it.
        ValueError: a file is damaged or the wrong one.
    """
    known = KNOWN[name]
    paths = known.paths(data_dir)
    return READERS[name](known, paths, [known.find(data_dir, file) for file in known.labels])


def download_known(name: str, data_dir: StrPath) -> None:
    """Download files of the dataset with a name that are missing or damaged into ``data_dir/name``.

    Training needs no labels: if no mirror has them, there is a warning.

    Raises:
        DownloadError: no mirror had a file.
        OSError: the folder cannot be written.
    """
    known = KNOWN[name]
    for file in known.files:
        _fetch(known, data_dir, file)
    try:
        for file in known.labels:
            _fetch(known, data_dir, file)
    except DownloadError as error:
        warnings.warn(f"{known.title} is used without its labels: {error}", stacklevel=3)


def _fetch(known: Known, data_dir: StrPath, file: RemoteFile) -> None:
    path = known.find(data_dir, file)
    if path is None or not file.may_be(path):
        fetch(file, Path(data_dir) / known.name, check=CHECKS.get(known.name))
