"""Data points in files of pictures, one each: folders of images."""

import math
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from .rows import Rows
from .sets import SPLITS

__all__ = ["ImageRows", "read_images"]

# Decoding leaves Python to other threads.
_THREADS = 8
# Pictures that are decoded between two looks at the progress bar.
_CHUNK = 1024
# Pictures of more than 8 bits a number: Pillow would cut off what does not fit.
_DEEP = ("I", "F")


class ImageRows:
    """:class:`~aevb_ext.data.Rows` that stay in their files: gathering decodes those asked for.

    Args:
        paths: the files, one for each data point.
        shape: ``(height, width)``: grey, or ``(3, height, width)``: colour; of every picture.
    """

    resident, draws, device, dtype = False, False, torch.device("cpu"), torch.uint8

    def __init__(self, paths: list[Path], shape: tuple[int, ...]):
        self.paths, self._shape = paths, shape
        self.event_shape = torch.Size([math.prod(shape)])

    def __len__(self) -> int:
        return len(self.paths)

    def gather(self, index: Tensor, keys: Tensor | None = None) -> Tensor:
        """The pictures decoded, flat, on the CPU; keys are not looked at.

        Raises:
            ValueError: a file is damaged, or of another size: names it.
        """
        rows = torch.empty(len(index), *self.event_shape, dtype=self.dtype)
        with ThreadPoolExecutor(_THREADS) as pool:
            for row, picture in zip(rows, pool.map(self._decode, index.tolist()), strict=True):
                row.copy_(picture)
        return rows

    def _decode(self, i: int) -> Tensor:
        return torch.from_numpy(_decode(self.paths[i], self._shape)).flatten()

    def to(self, device) -> "ImageRows":
        """Itself: files stay where they are."""
        return self


def read_images(folder: Path, colour: bool, resident_bytes: int) -> tuple[dict[str, Tensor | Rows], tuple[int, ...]]:
    """The splits in a folder of images, flat uint8, and the shape of the pictures.

    The splits are the folder's ``train`` and, where they are there, ``test`` and ``valid``; all of it is ``"train"``
    when it has no folder ``train``. The order is that of the sorted paths. A split of more than ``resident_bytes`` is
    decoded as it is gathered, a smaller one now.

    Args:
        folder: looked through with all its folders, for every file whose name ends as one that Pillow reads.
        colour: whether pictures are made red, green and blue, or grey.
        resident_bytes: the most that a split takes in memory.

    Raises:
        ValueError: there are no images, one is damaged, or two differ in size: names them.
    """
    folders = {"train": folder}
    if (folder / "train").is_dir():
        folders = {split: folder / split for split in SPLITS if (folder / split).is_dir()}
    paths = {split: _images_in(place) for split, place in folders.items()}
    width, height = _size(paths["train"][0])
    shape = (3, height, width) if colour else (height, width)
    return {split: _rows(files, shape, resident_bytes) for split, files in paths.items()}, shape


def _rows(paths: list[Path], shape: tuple[int, ...], resident_bytes: int) -> Tensor | ImageRows:
    rows = ImageRows(paths, shape)
    if len(rows) * rows.event_shape.numel() > resident_bytes:
        with ThreadPoolExecutor(_THREADS) as pool:
            sizes = tqdm(pool.map(_size, paths), "looking at images", len(paths), disable=None)
            for path, size in zip(paths, sizes, strict=True):
                _check_size(path, size, shape)
        return rows
    chunks = torch.arange(len(rows)).split(_CHUNK)
    return torch.cat([rows.gather(index) for index in tqdm(chunks, "decoding images", disable=None)])


def _images_in(folder: Path) -> list[Path]:
    Image.init()
    endings = {ending for ending, name in Image.registered_extensions().items() if name in Image.OPEN}
    # Hidden files are not pictures, whatever their names say.
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in endings and not path.name.startswith(".") and path.is_file()
    )
    if not paths:
        raise ValueError(f"{folder} has no images: no file in it, or in its folders, ends in .png, .jpg or their like")
    return paths


def _size(path: Path) -> tuple[int, int]:
    """(width, height), without decoding."""
    with _opened(path) as image:
        return image.size


def _decode(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    with _opened(path) as image:
        _check_size(path, image.size, shape)
        if image.mode.startswith(_DEEP):
            raise ValueError(f"{path} has numbers of more than 8 bits (mode {image.mode}), expected a picture of bytes")
        pixels = np.array(image.convert("RGB" if len(shape) == 3 else "L"))
    return np.moveaxis(pixels, -1, 0) if len(shape) == 3 else pixels


def _check_size(path: Path, size: tuple[int, int], shape: tuple[int, ...]) -> None:
    height, width = shape[-2:]
    if size != (width, height):
        raise ValueError(
            f"{path} is {size[0]} pixels wide and {size[1]} high, the first image {width} and {height}: expected "
            "images of one size"
        )


@contextmanager
def _opened(path: Path):
    try:
        with Image.open(path) as image:
            yield image
    # Pillow's plugins raise these for a file that ends too early, or is not what its name says.
    except (OSError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is damaged or not an image: {error}") from None
