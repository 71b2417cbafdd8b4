"""Datasets with a name: the embedded digits, and public datasets that are downloaded or read from a folder."""

import gzip
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._messages import python_or_flags
from .._types import StrPath
from .arrays import ArrayFile, read_array
from .dataset import Data
from .download import DownloadError, RemoteFile, fetch
from .integrity import FileError, reading, verify
from .rows import BitRows, shuffled

__all__ = ["KNOWN", "Known", "read_idx"]

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


@dataclass(frozen=True)
class Known:
    """A dataset with a name.

    Attributes:
        name: the name that ``load`` takes, and the name of its folder.
        title: its usual name, for messages.
        read: makes the dataset from this object, the paths of ``files`` and those of ``labels`` (None if missing).
        files: the files that are needed, and where to download them.
        labels: files of labels; they are read if they are there.
    """

    name: str
    title: str
    read: Callable[["Known", list[Path], list[Path | None]], Data]
    files: tuple[RemoteFile, ...] = ()
    labels: tuple[RemoteFile, ...] = ()

    def load(self, data_dir: StrPath | None = None) -> Data:
        """Read from ``data_dir/name`` or ``data_dir``.

        Raises:
            FileNotFoundError: a file is missing. The message says where it was searched and where to download it.
            ValueError: a file is damaged or the wrong one.
        """
        paths = []
        for file in self.files:
            path = self._find(data_dir, file)
            if path is None:
                raise FileNotFoundError(self._missing(data_dir, file))
            paths.append(path)
        return self.read(self, paths, [self._find(data_dir, file) for file in self.labels])

    def download(self, data_dir: StrPath) -> None:
        """Download files that are missing or damaged into ``data_dir/name``.

        Training needs no labels: if no mirror has them, there is a warning.

        Raises:
            DownloadError: no mirror had a file.
            OSError: the folder cannot be written.
        """
        for file in self.files:
            self._fetch(data_dir, file)
        try:
            for file in self.labels:
                self._fetch(data_dir, file)
        except DownloadError as error:
            warnings.warn(f"{self.title} is used without its labels: {error}", stacklevel=3)

    def _fetch(self, data_dir: StrPath, file: RemoteFile) -> None:
        path = self._find(data_dir, file)
        if path is None or not file.may_be(path):
            fetch(file, Path(data_dir) / self.name)

    def _find(self, data_dir: StrPath | None, file: RemoteFile) -> Path | None:
        paths = (place / name for place in self._places(data_dir) for name in (*file.other_names, file.name))
        return next((path for path in paths if path.is_file()), None)

    def _places(self, data_dir: StrPath | None) -> list[Path]:
        return [] if data_dir is None else [Path(data_dir) / self.name, Path(data_dir)]

    def _missing(self, data_dir: StrPath | None, file: RemoteFile) -> str:
        places = " and ".join(str(place) for place in self._places(data_dir))
        names = " or ".join((*file.other_names, file.name))
        looked = f"{names} was looked for in {places}" if places else "no data_dir was given"
        return (
            f"{self.title} is not there: {looked}. Say where it is ({python_or_flags('data_dir=...', '--data-dir')}). "
            f"It is available from {file.urls[0]}; `aevb train --download` downloads it."
        )


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


def _mirrored(mirrors: tuple[str, ...], name: str, checksum: str | None = None, **options: Any) -> RemoteFile:
    """A file that all ``mirrors`` have; each is the URL of a folder."""
    return RemoteFile(name, tuple(mirror + name for mirror in mirrors), checksum, **options)


_MNIST = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
_FASHION = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)
_FACES = ("https://cs.nyu.edu/~roweis/data/", "http://www.cs.nyu.edu/~roweis/data/")
_BINARIZED = (
    "https://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
    "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
)
# The checksums of files are those that torchvision verifies; for binarised MNIST, those of TensorFlow Datasets.
_BINARIZED_FILES = {
    "train": "sha256:ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    "valid": "sha256:1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    "test": "sha256:e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
}
KNOWN = {
    known.name: known
    for known in (
        Known("digits", "The digits", _read_digits),
        Known(
            "mnist",
            "MNIST",
            _read_idx_images,
            (
                _mirrored(_MNIST, "train-images-idx3-ubyte.gz", "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873"),
                _mirrored(_MNIST, "t10k-images-idx3-ubyte.gz", "md5:9fb629c4189551a2d022fa330f9573f3"),
            ),
            (
                _mirrored(_MNIST, "train-labels-idx1-ubyte.gz", "md5:d53e105ee54ea40749a09fcbcd1e9432"),
                _mirrored(_MNIST, "t10k-labels-idx1-ubyte.gz", "md5:ec29112dd5afa0611ce80d1b7f02629c"),
            ),
        ),
        Known(
            "fashion_mnist",
            "Fashion-MNIST",
            _read_idx_images,
            (
                _mirrored(_FASHION, "train-images-idx3-ubyte.gz", "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
                _mirrored(_FASHION, "t10k-images-idx3-ubyte.gz", "md5:bef4ecab320f06d8554ea6380940ec79"),
            ),
            (
                _mirrored(_FASHION, "train-labels-idx1-ubyte.gz", "md5:25c81989df183df01b3e8a0aad5dffbe"),
                _mirrored(_FASHION, "t10k-labels-idx1-ubyte.gz", "md5:bb300cfdad3c16e7a12a480ee83cd310"),
            ),
        ),
        Known(
            "freyface",
            "Frey Face",
            _read_freyface,
            (_mirrored(_FACES, "frey_rawface.mat", check=_faces, other_names=("freyfaces_u8.npy",)),),
        ),
        # The fixed binarisation by Larochelle: text, one line per image.
        Known(
            "binarized_mnist",
            "Binarised MNIST",
            _read_binarized_mnist,
            tuple(
                _mirrored(
                    _BINARIZED,
                    f"binarized_mnist_{split}.amat",
                    checksum,
                    other_names=(f"binarized_mnist_{split}_packed.npy",),
                )
                for split, checksum in _BINARIZED_FILES.items()
            ),
        ),
    )
}
