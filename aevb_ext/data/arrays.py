"""Data points in the files of NumPy: an array, read into memory or left in the file."""

import io
import math
import mmap
import warnings
import zipfile
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .._memory import memory_limit
from .._types import Device, StrPath
from .integrity import FileError, reading
from .rows import Rows

__all__ = [
    "NATIVE",
    "ArrayFile",
    "StoredRows",
    "check_finite",
    "dtype_of",
    "layout",
    "native",
    "read_array",
    "read_rows",
]

# What is taken as it is.
NATIVE = {np.dtype(name): getattr(torch, name) for name in ("bool", "uint8", "float16", "float32", "float64")}


def dtype_of(dtype: np.dtype, what: object) -> torch.dtype:
    """What data of these numbers is of: itself in this machine's byte order, or bytes, of any other integers.

    Raises:
        FileError: they are no numbers that data may be of; names ``what``.
    """
    found = torch.uint8 if dtype.kind in "iu" else NATIVE.get(dtype.newbyteorder("="))
    if found is None:
        raise FileError(
            f"{what} is of {dtype.str}, expected bool, an integer dtype, float16, float32 or float64: save it as "
            "array.astype('float32')"
        )
    return found


def native(array: np.ndarray, what: object) -> np.ndarray:
    """The numbers as :func:`dtype_of` says.

    Raises:
        FileError: integers lie outside of 0 to 255, or booleans are neither 0 nor 1; names ``what``.
    """
    kind = array.dtype.kind
    if kind == "b" and array.size and array.view(np.uint8).max() > 1:
        raise FileError(f"{what} is damaged: it is of booleans, which are bytes of 0 and 1, and has others")
    if kind not in "iu":
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype != np.uint8 and array.size:
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > 255:
            scaled = f"array / {high}" if low >= 0 else f"(array - {low}) / {high - low}".replace("- -", "+ ")
            raise FileError(
                f"{what} has integers from {low} to {high} ({array.dtype.name}), and integers are taken as bytes, from "
                f"0 to 255: save it as floats, ({scaled}).astype('float32'), or as bytes"
            )
    return array.astype(np.uint8, copy=False)


class StoredRows:
    """:class:`~aevb_ext.data.Rows` that stay in their file: gathering reads those asked for and nothing else.

    The file is mapped into memory: what was read stays there as long as the system has nothing better to do with it.
    To read where a file that became shorter has ended would kill the process: each gather looks at its size before.

    Data points are given flat, and pictures with their colours first; integers as bytes.

    Args:
        path, offset: the file, and where in it the array begins, in bytes.
        shape, dtype: those of the array, ``[N, *event]`` in C order.
        channels_last: whether a data point is a picture ``[height, width, colours]``.
    """

    resident, draws, device = False, False, torch.device("cpu")

    def __init__(
        self, path: StrPath, offset: int, shape: tuple[int, ...], dtype: np.dtype, channels_last: bool = False
    ):
        self._given = path, offset, tuple(shape), dtype, channels_last
        self._path, self._shape, self._stored, self._channels_last = path, tuple(shape), dtype, channels_last
        self.dtype = dtype_of(dtype, path)
        self.event_shape = torch.Size([math.prod(shape[1:])])
        width = self.event_shape.numel() * dtype.itemsize
        # Bytes, since in a file numbers may begin anywhere.
        file = np.memmap(path, np.uint8, mode="r", offset=offset, shape=(shape[0], width))
        self._map: mmap.mmap = file._mmap  # type: ignore[attr-defined]  # not in NumPy's stubs
        self._skipped, self._end = offset % mmap.ALLOCATIONGRANULARITY, offset + file.nbytes
        self._is_large = file.nbytes > memory_limit() // 2
        if self._is_large:
            # Where memory cannot hold the file, what is read along with a data point is gone before it is its turn.
            self._map.madvise(mmap.MADV_RANDOM)
        with warnings.catch_warnings():
            # Nothing here writes to it.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            self._bytes = torch.from_numpy(file)

    def __len__(self) -> int:
        return len(self._bytes)

    def gather(self, index: Tensor, keys: Tensor | None = None) -> Tensor:
        """The data points read from the file, on the CPU; keys are not looked at.

        Raises:
            ValueError: the file has become shorter, or there are integers that are no bytes: names it.
        """
        with reading(self._path, "the file that it was"):
            # Of the file that is mapped, also where another has its name now.
            if (size := self._map.size()) < self._end:
                raise FileError(
                    f"{self._path} was changed while it was in use: it has {size} bytes, and {self._end} are needed"
                )
        if self._is_large:
            self._ask_for(index)
        rows = self._bytes.index_select(0, index)
        if self._stored in NATIVE and self.dtype != torch.bool:
            rows = rows.view(self.dtype)
        else:
            rows = torch.from_numpy(native(rows.numpy().view(self._stored), self._path))
        if self._channels_last:
            rows = rows.reshape(-1, *self._shape[1:]).movedim(-1, 1)
        return rows.reshape(len(index), -1)

    def __reduce__(self) -> tuple[type["StoredRows"], tuple[object, ...]]:
        # Another process maps the file for itself.
        return StoredRows, self._given

    def _ask_for(self, index: Tensor) -> None:
        """Have the system read these all at once: touched one after another, each would wait for the one before."""
        width = self._bytes.shape[1]
        begin = self._skipped + np.unique(index.numpy()) * width
        end = begin + width
        begin -= begin % mmap.PAGESIZE
        # What lies side by side is one request.
        apart = np.flatnonzero(begin[1:] > end[:-1])
        begin, end = begin[np.insert(apart + 1, 0, 0)], end[np.append(apart, -1)]
        for start, length in zip(begin.tolist(), (end - begin).tolist(), strict=True):
            self._map.madvise(mmap.MADV_WILLNEED, start, length)

    def to(self, device: Device) -> "StoredRows":
        """Itself: files stay where they are."""
        return self


@dataclass
class ArrayFile:
    """An array in the format of .npy, before it is read.

    Attributes:
        file: binary, where its bytes are read from.
        what: what messages call it.
        size: how many bytes there are from the beginning of its header.
        path, start: where it can be mapped: the file, and where in it the header begins. None: nowhere.
    """

    file: io.BufferedReader | zipfile.ZipExtFile
    what: str
    size: int
    path: StrPath | None = None
    start: int | None = None


def read_rows(
    source: ArrayFile, resident_bytes: int, image_shape: tuple[int, ...] | None = None
) -> tuple[Tensor | Rows, tuple[int, ...]]:
    """(data points, shape of one) of an array that is data.

    Args:
        source: the array.
        resident_bytes: how large an array is read; a larger one stays where it can be mapped.
        image_shape: of the pictures that its rows are. None: as its own shape says.

    Raises:
        FileError: it is damaged, or not data: names it.
    """
    shape, in_fortran_order, dtype = _header(source)
    if dtype.hasobject:
        raise FileError(f"{source.what} holds Python objects, which are not read: reading them can execute anything")
    dtype_of(dtype, source.what)
    if len(shape) < 2 or min(shape) < 1:
        raise FileError(f"{source.what} has shape {shape}, expected [N, *event] with at least one data point")
    event = shape[1:] if image_shape is None else image_shape
    if math.prod(event) != math.prod(shape[1:]):
        raise FileError(
            f"image_shape must be of as many numbers as a data point of {source.what}, {math.prod(shape[1:])} (shape "
            f"{list(shape)}), got {'x'.join(map(str, event))}"
        )
    channels_last = layout(event)[1]
    if math.prod(shape) * dtype.itemsize > resident_bytes and source.path is not None and source.start is not None:
        if in_fortran_order:
            raise FileError(
                f"{source.what} is in Fortran order, where a data point is scattered over the whole file; save it as "
                "np.ascontiguousarray(array)"
            )
        offset = source.start + source.file.tell()
        return StoredRows(source.path, offset, (shape[0], *event), dtype, channels_last), event
    array = native(_content(source, shape, in_fortran_order, dtype), source.what).reshape(shape[0], *event)
    rows = torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1) if channels_last else array)).flatten(1)
    check_finite(rows, source.what)
    return rows, event


def read_array(source: ArrayFile) -> np.ndarray | None:
    """An array of any dtype; None: it is of Python objects, which are not read.

    Raises:
        FileError: it is damaged: names it.
    """
    header = _header(source)
    return None if header[2].hasobject else _content(source, *header)


def _content(source: ArrayFile, shape: tuple[int, ...], in_fortran_order: bool, dtype: np.dtype) -> np.ndarray:
    """The array of a file of which the header was read."""
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes > memory_limit():
        raise FileError(
            f"{source.what} takes {nbytes} bytes in memory, of which there are {memory_limit()}: save it uncompressed "
            "(np.save, np.savez), then it stays in its file"
        )
    with reading(source.what, "an array"):
        content = np.empty(nbytes, np.uint8)
        filled = 0
        while filled < nbytes:
            got = source.file.readinto(content.data[filled:])
            if not got:
                raise FileError(f"{source.what} is truncated: it ends after {filled} of {nbytes} bytes")
            filled += got
        # A zip file's checksum is looked at behind the last byte.
        source.file.read(1)
        array: np.ndarray = content.view(dtype)
        return array.reshape(shape[::-1]).T if in_fortran_order else array.reshape(shape)


def _header(source: ArrayFile) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, whether in Fortran order, dtype); reading goes on behind it, where all bytes are that it promises."""
    what = source.what
    with reading(what, "a .npy file"):
        version = np.lib.format.read_magic(source.file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, in_fortran_order, dtype = read(source.file)
    if dtype.hasobject:
        return shape, in_fortran_order, dtype
    have, promised = source.size - source.file.tell(), math.prod(shape) * dtype.itemsize
    if have < promised or min(shape, default=0) < 0:
        raise FileError(f"{what} is truncated: it has {have} bytes of data, its header promises {promised}")
    return shape, in_fortran_order, dtype


def check_finite(rows: Tensor, what: object) -> None:
    """Raise ValueError naming the first data point of rows ``[N, D]`` that has a NaN or an infinity."""
    if rows.is_floating_point() and not (finite := rows.isfinite().all(1)).all():
        raise FileError(f"{what}: data point {int(finite.int().argmin())} has a number that is not finite")


def layout(shape: tuple[int, ...]) -> tuple[tuple[int, ...] | None, bool]:
    """(shape of the picture, whether its colours come last) of a data point; (None, False) when it is no picture."""
    match shape:
        case (height, width) | (1, height, width) | (height, width, 1):
            return (height, width), False
        case (3, _, _):
            return shape, False
        case (height, width, 3):
            return (3, height, width), True
    return None, False
