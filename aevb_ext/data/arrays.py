"""Data points in NumPy arrays, read into memory or left in their file."""

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

# Dtypes that need no conversion.
NATIVE = {np.dtype(name): getattr(torch, name) for name in ("bool", "uint8", "float16", "float32", "float64")}


def dtype_of(dtype: np.dtype, what: object) -> torch.dtype:
    """The torch dtype of data of a NumPy dtype: the same one, whatever its byte order, and uint8 for other integers.

    Raises:
        FileError: the dtype is not supported; the message names ``what``.
    """
    found = torch.uint8 if dtype.kind in "iu" else NATIVE.get(dtype.newbyteorder("="))
    if found is None:
        raise FileError(
            f"{what} is of {dtype.str}, expected bool, an integer dtype, float16, float32 or float64: save it as "
            "array.astype('float32')"
        )
    return found


def native(array: np.ndarray, what: object) -> np.ndarray:
    """The array converted to the dtype that :func:`dtype_of` gives.

    Raises:
        FileError: integers lie outside of 0 to 255, or booleans are neither 0 nor 1; the message names ``what``.
    """
    kind = array.dtype.kind
    if kind == "b" and array.size and array.view(np.uint8).max() > 1:
        raise FileError(f"{what} is damaged: booleans are bytes of 0 and 1, and it has other bytes")
    if kind not in "iu":
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype != np.uint8 and array.size:
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > 255:
            scaled = f"array / {high}" if low >= 0 else f"(array - {low}) / {high - low}".replace("- -", "+ ")
            raise FileError(
                f"{what} has integers from {low} to {high} ({array.dtype.name}), and integers are read as bytes, from "
                f"0 to 255: save it as floats, ({scaled}).astype('float32'), or as bytes; counts keep their dtype in a "
                "sparse matrix, scipy.sparse.save_npz(path, scipy.sparse.csr_matrix(array))"
            )
    return array.astype(np.uint8, copy=False)


class StoredRows:
    """:class:`~aevb_ext.data.Rows` that stay in their file: gathering reads the requested data points only.

    The file is mapped into memory, so the system caches what was read. Reading beyond the end of a file that was
    truncated meanwhile would kill the process: each gather checks the file's size first.

    Data points are returned flat, images with channels first, integers as bytes.

    Args:
        path, offset: the file, and where in it the array begins, in bytes.
        shape, dtype: those of the array, ``[N, *event]`` in C order.
        channels_last: whether a data point is an image ``[height, width, channels]``.
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
        # Mapped as bytes, since numbers in a file may not be aligned.
        file = np.memmap(path, np.uint8, mode="r", offset=offset, shape=(shape[0], width))
        self._map: mmap.mmap = file._mmap  # type: ignore[attr-defined]  # not in NumPy's stubs
        self._skipped, self._end = offset % mmap.ALLOCATIONGRANULARITY, offset + file.nbytes
        self._is_large = file.nbytes > memory_limit() // 2
        if self._is_large:
            # Minibatches are read in random order: if memory cannot hold the file, read-ahead is wasted.
            self._map.madvise(mmap.MADV_RANDOM)
        with warnings.catch_warnings():
            # Nothing here writes to it.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            self._bytes = torch.from_numpy(file)

    def __len__(self) -> int:
        return len(self._bytes)

    def gather(self, index: Tensor, keys: Tensor | None = None) -> Tensor:
        """Read data points from the file, on the CPU; ``keys`` is ignored.

        Raises:
            ValueError: the file has become shorter, or has integers outside of 0 to 255. The message names the file.
        """
        with reading(self._path, "the file that it was"):
            # The size of the mapped file, even if another file has its name now.
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
        # Pickled without the map: another process maps the file itself.
        return StoredRows, self._given

    def _ask_for(self, index: Tensor) -> None:
        """Ask the system to read these data points at once: touched one by one, each would wait for the one before."""
        width = self._bytes.shape[1]
        begin = self._skipped + np.unique(index.numpy()) * width
        end = begin + width
        begin -= begin % mmap.PAGESIZE
        # Adjacent data points are one request.
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
        path, start: the file to map and where in it the header begins. None: it cannot be mapped.
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
        resident_bytes: a larger array stays in its file, if it can be mapped.
        image_shape: the image shape of a row. None: as its own shape says.

    Raises:
        FileError: it is damaged, or not data. The message names it.
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
            f"image_shape must have as many numbers as a data point of {source.what}, {math.prod(shape[1:])} (shape "
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
    """An array of any dtype; None if it holds Python objects, which are not read.

    Raises:
        FileError: it is damaged. The message names it.
    """
    header = _header(source)
    return None if header[2].hasobject else _content(source, *header)


def _content(source: ArrayFile, shape: tuple[int, ...], in_fortran_order: bool, dtype: np.dtype) -> np.ndarray:
    """The array of a file whose header has been read."""
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes > memory_limit():
        raise FileError(
            f"{source.what} needs {nbytes} bytes of memory, and there are {memory_limit()}: save it uncompressed "
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
        # zipfile verifies the checksum when the end is read.
        source.file.read(1)
        array: np.ndarray = content.view(dtype)
        return array.reshape(shape[::-1]).T if in_fortran_order else array.reshape(shape)


def _header(source: ArrayFile) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, whether in Fortran order, dtype) of a header, after checking that all bytes it promises are there."""
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
    """(image shape, whether channels come last) of a data point; (None, False) if it is not an image."""
    match shape:
        case (height, width) | (1, height, width) | (height, width, 1):
            return (height, width), False
        case (3, _, _):
            return shape, False
        case (height, width, 3):
            return (3, height, width), True
    return None, False
