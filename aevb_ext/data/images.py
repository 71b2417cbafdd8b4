"""Data points in image files, one data point a file: folders of images."""

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from .._extras import of_extra
from .._types import Device
from .folders import find_pictures
from .integrity import FileError, reading
from .own_data import FoundData
from .rows import Rows

if TYPE_CHECKING:
    from PIL import Image, ImageFile

__all__ = ["ImageRows", "read_images"]

# Pillow releases the GIL while it decodes.
_THREADS = 8
# The transformation (PIL.Image.Transpose) that puts an image upright, by its EXIF orientation.
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_GREY = ("1", "L", "LA", "La")
# Of 16-bit colours Pillow keeps the upper byte. These raw modes make it unpack the lower byte instead.
_LOWER = {
    "RGB;16B": "RGB;16L",
    "RGB;16L": "RGB;16B",
    "RGB;16N": f"RGB;16{'B' if sys.byteorder == 'little' else 'L'}",
    "RGBA;16B": "RGBA;16L",
    "RGBA;16L": "RGBA;16B",
    "RGBA;16N": f"RGBA;16{'B' if sys.byteorder == 'little' else 'L'}",
}
# Pillow opens this mode as RGBA, 4 bytes a pixel, which is also the size of a pixel in the file: both bytes of grey and
# of alpha.
_GREY_AND_ALPHA = "LA;16B"
# Conversions of an image that is not 8-bit grey or RGB already, in the order in which they are reported.
_TURNED = "turned upright as their EXIF says"
_DEEP = "of 16 bits a number made 8"
_WHITE = "with transparency laid on white"
_TO_GREY = "of colours made grey"
_FRAMES = "of several frames, of which the first is taken"


class ImageRows:
    """:class:`~aevb_ext.data.Rows` that stay in their files: gathering decodes the requested images.

    Images are put upright as their EXIF says; transparent ones are laid on white; 16-bit values are divided by 257 and
    rounded; only the first of several frames is read.

    Args:
        paths: the files, one for each data point.
        shape: of every image: ``(height, width)`` for grey or ``(3, height, width)`` for colour.
    """

    resident, draws, device, dtype = False, False, torch.device("cpu"), torch.uint8

    def __init__(self, paths: list[Path], shape: tuple[int, ...]):
        self.paths, self._shape = paths, shape
        self.event_shape = torch.Size([math.prod(shape)])

    def __len__(self) -> int:
        return len(self.paths)

    def gather(self, index: Tensor, keys: Tensor | None = None) -> Tensor:
        """Decode images, flat, on the CPU; ``keys`` is ignored.

        Raises:
            ValueError: a file is gone, damaged, or of another size. The message names it.
        """
        rows = torch.empty(len(index), *self.event_shape, dtype=self.dtype)
        with ThreadPoolExecutor(_THREADS) as pool:
            for row, picture in zip(rows, pool.map(self._decode, index.tolist()), strict=True):
                row.copy_(picture)
        return rows

    def _decode(self, i: int) -> Tensor:
        return torch.from_numpy(_decode(self.paths[i], self._shape)[0]).flatten()

    def to(self, device: Device) -> "ImageRows":
        """Itself: files stay where they are."""
        return self


def read_images(folder: Path, colour: bool, resident_bytes: int) -> FoundData:
    """The splits in a folder of images, flat uint8, as :func:`~aevb_ext.data.folders.find_pictures` finds them.

    A split of more than ``resident_bytes`` is decoded as it is gathered, a smaller one now.

    Args:
        folder: searched with all its subfolders.
        colour: convert images to RGB; otherwise to grey.
        resident_bytes: the most that a split takes in memory.

    Raises:
        ValueError: there are no images, one is damaged, or two differ in size. The message names them.
    """
    pictures = find_pictures(folder)
    height, width = _look(pictures.paths["train"][0])[0]
    shape = (3, height, width) if colour else (height, width)
    done: Counter[str] = Counter()
    splits: dict[str, Tensor | Rows] = {
        split: _rows(paths, shape, resident_bytes, done) for split, paths in pictures.paths.items()
    }
    told = [_TURNED, _DEEP, _WHITE, *([] if colour else [_TO_GREY]), _FRAMES]
    converted = [f"{done[kind]} {kind}" for kind in told if done[kind]]
    origins = {
        split: f"{origin.relative_to(folder)}/" for split, origin in pictures.origins.items() if origin != folder
    }
    return FoundData(splits, shape, pictures.labels, origins, converted, pictures.skipped)


def _rows(paths: list[Path], shape: tuple[int, ...], resident_bytes: int, done: Counter[str]) -> Tensor | ImageRows:
    """The images of these files; ``done`` counts their conversions."""
    if len(paths) * math.prod(shape) > resident_bytes:
        for path, (size, kinds) in zip(paths, _in_threads(_look, paths, "looking at images"), strict=True):
            _check_size(path, size, shape)
            done.update(kinds)
        return ImageRows(paths, shape)
    rows = torch.empty(len(paths), math.prod(shape), dtype=torch.uint8)
    decode = partial(_decode, shape=shape)
    for row, (pixels, kinds) in zip(rows, _in_threads(decode, paths, "decoding images"), strict=True):
        row.copy_(torch.from_numpy(pixels).flatten())
        done.update(kinds)
    return rows


T = TypeVar("T")


def _in_threads(function: Callable[[Path], T], paths: list[Path], title: str) -> Iterator[T]:
    with of_extra("train", "a folder of images"):
        from tqdm import tqdm

    with ThreadPoolExecutor(_THREADS) as pool:
        yield from tqdm(pool.map(function, paths), title, len(paths), disable=None)


def _look(path: Path) -> tuple[tuple[int, int], list[str]]:
    """((height, width), conversions that the image needs), without decoding it."""
    with _opened(path) as image:
        return _size(image), _kinds(path, image)


@contextmanager
def _opened(path: Path) -> "Iterator[ImageFile.ImageFile]":
    from PIL import Image

    # Given a path, Pillow would map the file into memory: it then rotates TIFFs wrongly, and a file that is truncated
    # meanwhile would kill the process.
    with reading(path, "an image"), open(path, "rb") as file, Image.open(file) as image:
        yield image


def _kinds(path: Path, image: "Image.Image") -> list[str]:
    kinds = {
        _TURNED: _orientation(image) in _UPRIGHT,
        _DEEP: _is_deep(path, image),
        _WHITE: image.has_transparency_data,
        _TO_GREY: image.mode not in _GREY and not image.mode.startswith("I"),
        _FRAMES: getattr(image, "is_animated", False),
    }
    return [kind for kind, is_so in kinds.items() if is_so]


def _orientation(image: "Image.Image") -> int:
    from PIL import ExifTags

    # Pillow decodes a whole PNG to look for EXIF after its pixels, where PNGs hardly ever have it.
    if image.format == "PNG" and not image.info.keys() & {"exif", "Raw profile type exif"}:
        return 1
    orientation: int = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation


def _size(image: "Image.Image") -> tuple[int, int]:
    """(height, width), upright."""
    width, height = image.size
    # Pillow rotates TIFFs by itself.
    return (width, height) if _orientation(image) >= 5 and image.format != "TIFF" else (height, width)


def _decode(path: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, list[str]]:
    """(uint8 of this shape, the conversions made)."""
    from PIL import Image

    image: Image.Image
    with _opened(path) as image:
        _check_size(path, _size(image), shape)
        kinds = _kinds(path, image)
        turn = None if image.format == "TIFF" else _UPRIGHT.get(_orientation(image))
        if _DEEP in kinds:
            image = Image.fromarray(_made_bytes(path, image))
        elif _WHITE in kinds:
            white = Image.new("RGBA", image.size, "white")
            white.alpha_composite(image.convert("RGBA"))
            image = white
        if turn is not None:
            image = image.transpose(Image.Transpose[turn])
        pixels = np.array(image.convert("RGB" if len(shape) == 3 else "L"))
    return (np.moveaxis(pixels, -1, 0) if len(shape) == 3 else pixels), kinds


def _is_deep(path: Path, image: "Image.Image") -> bool:
    """Whether the image has 16 bits per channel.

    Raises:
        FileError: its values are signed or of more bits, so that the values of black and white are unknown.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return True
    if image.mode.startswith(("I", "F")):
        raise FileError(
            f"{path} has values that are not pixels of 8 or 16 bits (mode {image.mode}): save them as an array (.npy)"
        )
    return _packing(image) in (*_LOWER, _GREY_AND_ALPHA)


def _packing(image: "Image.Image") -> str | None:
    """The raw mode with which Pillow unpacks the file."""
    from PIL import ImageFile

    tile = image.tile if isinstance(image, ImageFile.ImageFile) else None
    packed = tile[0].args if tile else None
    packed = packed[0] if isinstance(packed, tuple) and packed else packed
    return packed if isinstance(packed, str) else None


def _made_bytes(path: Path, image: "Image.Image") -> np.ndarray:
    """uint8 ``[height, width]`` or ``[height, width, 3]`` of a 16-bit image, laid on white."""
    clear, packing = image.info.get("transparency"), _packing(image)
    pixels = np.asarray(image).astype(np.int64)
    if pixels.ndim == 3:
        with _opened(path) as other:
            other.tile = [tile._replace(args=_with_lower(tile.args)) for tile in other.tile]
            lower = np.asarray(other).astype(np.int64)
        if packing == _GREY_AND_ALPHA:
            pixels = lower[..., 0::2] * 256 + lower[..., 1::2]
        else:
            pixels = pixels * 256 + lower
    if pixels.ndim == 3 and pixels.shape[-1] in (2, 4):
        colours, alpha = pixels[..., :-1], pixels[..., -1:]
        pixels = ((colours * alpha + 65535 * (65535 - alpha) + 32767) // 65535).squeeze(
            -1 if colours.shape[-1] == 1 else ()
        )
    elif clear is not None:
        is_clear = pixels == np.array(clear)
        pixels[is_clear.all(-1) if pixels.ndim == 3 else is_clear] = 65535
    return ((pixels + 128) // 257).astype(np.uint8)


def _with_lower(args: Any) -> Any:
    if isinstance(args, tuple):
        return (_LOWER[args[0]], *args[1:])
    return "RGBA" if args == _GREY_AND_ALPHA else _LOWER[args]


def _check_size(path: Path, size: tuple[int, int], shape: tuple[int, ...]) -> None:
    expected = shape[-2:]
    if size != expected:
        raise FileError(
            f"{path} is {size[1]} pixels wide and {size[0]} high, the first image {expected[1]} and {expected[0]}: "
            "expected images of one size"
        )
