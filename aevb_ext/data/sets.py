"""Data sets: the embedded digits, MNIST and Frey Face, as bytes.

Pixels stay bytes: ``x_scale`` goes to the likelihood, which multiplies inside its kernel, and to the encoder's input.
"""

import gzip
import hashlib
import math
import urllib.request
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .._files import atomic_write

__all__ = ["NAMES", "Data", "download", "load"]

NAMES = ("digits", "mnist", "freyface")

MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
}
FREYFACE_URL = "https://cs.nyu.edu/~roweis/data/frey_rawface.mat"
# Of the pixels and not of a file: the same faces go round as .mat and as .npy.
FREYFACE_MD5 = "687b39ec28b56c183474c235686975cf"

_IDX_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


@dataclass(frozen=True)
class Data:
    """Splits of a data set.

    Attributes:
        name: what messages and checkpoints call it.
        train, test: ``[N, *event]``: any float dtype, bool or uint8.
        x_scale: what a value is multiplied by to give the number that the model is about.
        image_shape: ``(height, width)`` of the pictures, or None when data points are not pictures.
        valid: ``[N, *event]``, or None where the data set has no such split.
    """

    name: str
    train: Tensor
    test: Tensor
    x_scale: float = 1.0
    image_shape: tuple[int, int] | None = None
    valid: Tensor | None = None

    @property
    def dim(self) -> int:
        """How many numbers one data point is."""
        return math.prod(self.train.shape[1:])

    def to(self, device) -> "Data":
        """The same data on ``device``."""
        valid = None if self.valid is None else self.valid.to(device)
        return replace(self, train=self.train.to(device), test=self.test.to(device), valid=valid)


def load(name: str, data_dir=None) -> Data:
    """Load a data set, split as the paper's experiments split it.

    Args:
        name: ``"digits"`` (1500 train / 297 test, 32 x 32; comes with the package), ``"mnist"`` (50000 train / 10000
            valid / 10000 test, 28 x 28) or ``"freyface"`` (1600 train / 365 test, 28 x 20).
        data_dir: where the files are: those of MNIST in it or in its folder ``mnist``, those of Frey Face in it or in
            its folder ``freyface``. Not used by ``"digits"``.

    Returns:
        :class:`Data` with flat uint8 rows on the CPU.

    Raises:
        ValueError: an unknown name; a file that is truncated, or that is not what it should be.
        FileNotFoundError: a file is missing; says where it was looked for and where it can be had.
    """
    match name:
        case "digits":
            return _digits()
        case "mnist":
            return _mnist(data_dir)
        case "freyface":
            return _freyface(data_dir)
    raise ValueError(f"data must be one of {', '.join(NAMES)}, got {name!r}")


def download(name: str, data_dir) -> None:
    """Fetch what is missing of MNIST or Frey Face into a folder of that name in ``data_dir``; checksums are verified.

    Raises:
        ValueError: the checksum of what arrived is wrong.
        OSError: the network or the folder said no.
    """
    if name == "mnist":
        for file, md5 in MNIST_MD5.items():
            if not _find(data_dir, "mnist", file):
                _fetch(MNIST_URL + file, Path(data_dir) / "mnist" / file, lambda raw, md5=md5: _md5(raw) == md5)
    elif name == "freyface":
        # Its checksum is that of its pixels, so it is verified where it is read.
        if not _find_freyface(data_dir):
            _fetch(FREYFACE_URL, Path(data_dir) / "freyface" / "frey_rawface.mat", lambda raw: raw[:6] == b"MATLAB")


def read_idx(path, md5: str | None = None) -> np.ndarray:
    """Read a gzipped idx file (the format of MNIST), uint8 or another of its number types.

    Raises:
        ValueError: not gzip, another magic number, more or fewer bytes than its header promises, or another checksum.
    """
    raw = Path(path).read_bytes()
    try:
        content = gzip.decompress(raw)
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{path} is truncated or damaged: {error}") from None
    except gzip.BadGzipFile as error:
        raise ValueError(f"{path} is not a gzip file: {error}") from None
    magic = content[:4]
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _IDX_DTYPES:
        raise ValueError(f"{path} is not an idx file: its magic number is 0x{magic.hex()}, expected 0x0000 and a type")
    header = 4 + 4 * magic[3]
    shape = tuple(np.frombuffer(content[4:header], ">u4").tolist()) if len(content) >= header else ()
    dtype = np.dtype(_IDX_DTYPES[magic[2]])
    expected = header + math.prod(shape) * dtype.itemsize
    if len(shape) != magic[3] or len(content) != expected:
        raise ValueError(f"{path} has {len(content)} bytes where its header promises {expected} for shape {shape}")
    if md5 is not None and _md5(raw) != md5:
        raise ValueError(f"{path} has md5 {_md5(raw)}, expected {md5}: it is not the file that it is named after")
    return np.frombuffer(content, dtype, offset=header).reshape(shape)


def _digits() -> Data:
    with np.load(Path(__file__).parents[1] / "datasets" / "digits.npz") as file:
        counts = _shuffled(file["images"])
    # Each value counts the dark pixels of a 4 x 4 block of the 32 x 32 scan. Given back as 16 grey pixels, it has the
    # Bernoulli likelihood of the block's own pixels: the binomial one of the count, but for a constant.
    images = counts.repeat(4, axis=1).repeat(4, axis=2)
    return Data("digits", _rows(images[:1500]), _rows(images[1500:]), 1 / 16, (32, 32))


def _mnist(data_dir) -> Data:
    images = []
    for file, md5 in MNIST_MD5.items():
        path = _find(data_dir, "mnist", file)
        if not path:
            raise FileNotFoundError(_missing("MNIST", file, data_dir, "mnist", MNIST_URL))
        images.append(read_idx(path, md5))
    train, test = images
    return Data("mnist", _rows(train[:50000]), _rows(test), 1 / 255, (28, 28), valid=_rows(train[50000:]))


def _freyface(data_dir) -> Data:
    path = _find_freyface(data_dir)
    if not path:
        files = "freyfaces_u8.npy or frey_rawface.mat"
        raise FileNotFoundError(_missing("Frey Face", files, data_dir, "freyface", FREYFACE_URL))
    images = _read_mat(path, "ff").T if path.suffix == ".mat" else _read_npy(path)
    images = np.ascontiguousarray(images)
    if images.dtype != np.uint8 or images.size != 1965 * 560:
        raise ValueError(f"{path} holds {images.dtype} of shape {images.shape}, expected uint8, 1965 images of 28 x 20")
    if _md5(images.tobytes()) != FREYFACE_MD5:
        raise ValueError(f"{path}: its pixels have md5 {_md5(images.tobytes())}, expected {FREYFACE_MD5}")
    images = _shuffled(images.reshape(1965, 560))
    return Data("freyface", _rows(images[:1600]), _rows(images[1600:]), 1 / 256, (28, 20))


def _find_freyface(data_dir) -> Path | None:
    return _find(data_dir, "freyface", "freyfaces_u8.npy") or _find(data_dir, "freyface", "frey_rawface.mat")


def _read_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is truncated or not a .npy file: {error}") from None


def _read_mat(path: Path, key: str) -> np.ndarray:
    try:
        from scipy.io import loadmat
    except ImportError:
        raise ImportError(f"reading {path} needs scipy: pip install scipy") from None
    try:
        return loadmat(path)[key]
    # scipy has no exception of its own for a damaged file: it raises whatever its parser stumbles over.
    except Exception as error:
        raise ValueError(f"{path} is truncated or not a MATLAB file with the variable {key}: {error}") from None


def _find(data_dir, folder: str, file: str) -> Path | None:
    return next((path for place in _places(data_dir, folder) if (path := place / file).is_file()), None)


def _places(data_dir, folder: str) -> list[Path]:
    return [] if data_dir is None else [Path(data_dir) / folder, Path(data_dir)]


def _missing(what: str, file: str, data_dir, folder: str, url: str) -> str:
    places = " and ".join(str(place) for place in _places(data_dir, folder))
    looked = f"{file} was looked for in {places}" if places else "no data_dir was given (--data-dir)"
    return f"{what} is not there: {looked}. It can be had from {url}; `aevb train --download` fetches it."


def _fetch(url: str, path: Path, is_right) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with urllib.request.urlopen(url, timeout=60) as response, atomic_write(path) as file:
        total = int(response.headers.get("Content-Length") or 0) or None
        received = bytearray()
        with tqdm(total=total, unit="B", unit_scale=True, desc=path.name) as bar:
            while chunk := response.read(1 << 16):
                received += chunk
                bar.update(len(chunk))
        if not is_right(bytes(received)):
            raise ValueError(f"{url} sent {len(received)} bytes with md5 {_md5(received)}, which is not {path.name}")
        file.write(received)


def _shuffled(images: np.ndarray) -> np.ndarray:
    return images[np.random.RandomState(0).permutation(len(images))]


def _rows(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images.reshape(len(images), math.prod(images.shape[1:])).copy())


def _md5(content) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
