"""Data points in the files of NumPy: .npy and .npz, read into memory or left in the file."""

import math
import mmap
import os
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .memory import memory_limit
from .rows import Rows
from .sets import SPLITS

__all__ = ["StoredRows", "check_finite", "layout", "read_arrays"]

DTYPES = {np.dtype(name): getattr(torch, name) for name in ("bool", "uint8", "float16", "float32", "float64")}
# Bytes before the two lengths in a local header of a zip file, and of all of it but name and extra field.
_ZIP_LENGTHS, _ZIP_HEADER = 26, 30


class StoredRows:
    """:class:`~aevb_ext.data.Rows` that stay in their file: gathering reads those asked for and nothing else.

    The file is mapped into memory: what was read stays there as long as the system has nothing better to do with it.

    Data points are given flat, and pictures with their colours first.

    Args:
        path, offset: the file, and where in it the array begins, in bytes.
        shape, dtype: those of the array, ``[N, *event]`` in C order.
        channels_last: whether a data point is a picture ``[height, width, colours]``.
    """

    resident, draws, device = False, False, torch.device("cpu")

    def __init__(self, path, offset: int, shape: tuple[int, ...], dtype: np.dtype, channels_last: bool = False):
        self._shape, self._channels_last = tuple(shape), channels_last
        self.dtype = DTYPES[dtype]
        self.event_shape = torch.Size([math.prod(shape[1:])])
        width = self.event_shape.numel() * dtype.itemsize
        # Bytes, since in a file numbers may begin anywhere.
        file = np.memmap(path, np.uint8, mode="r", offset=offset, shape=(shape[0], width))
        self._map, self._skipped = None, offset % mmap.ALLOCATIONGRANULARITY
        if file.nbytes > memory_limit() // 2:
            # Where memory cannot hold the file, what is read along with a data point is gone before it is its turn.
            self._map = file._mmap
            self._map.madvise(mmap.MADV_RANDOM)
        with warnings.catch_warnings():
            # Nothing here writes to it.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            self._bytes = torch.from_numpy(file)

    def __len__(self) -> int:
        return len(self._bytes)

    def gather(self, index: Tensor, keys: Tensor | None = None) -> Tensor:
        """The data points read from the file, on the CPU; keys are not looked at."""
        if self._map is not None:
            self._ask_for(index)
        rows = self._bytes.index_select(0, index).view(self.dtype)
        if self._channels_last:
            rows = rows.reshape(-1, *self._shape[1:]).movedim(-1, 1)
        return rows.reshape(len(index), -1)

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

    def to(self, device) -> "StoredRows":
        """Itself: files stay where they are."""
        return self


def read_arrays(path: Path, resident_bytes: int) -> tuple[dict[str, Tensor | Rows], tuple[int, ...] | None]:
    """The splits that are in a .npy or .npz file, flat, and the shape of their pictures.

    An array of more than ``resident_bytes`` stays in the file; a compressed one is read.

    Raises:
        ValueError: the file is damaged, or an array is not data: names the file and the array.
    """
    try:
        splits = _read_npz(path, resident_bytes) if path.suffix == ".npz" else _read_npy(path, resident_bytes)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(f"{path} is truncated, damaged or not a {path.suffix} file: {error}") from None
    shapes = {split: shape for split, (_, shape) in splits.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"{path}: data points differ in shape from split to split: {shapes}")
    return {split: rows for split, (rows, _) in splits.items()}, layout(shapes["train"])[0]


def _read_npy(path: Path, resident_bytes: int):
    with open(path, "rb") as file:
        return {"train": _read(file, path, os.path.getsize(path), path, 0, resident_bytes)}


def _read_npz(path: Path, resident_bytes: int):
    with zipfile.ZipFile(path) as archive:
        members = {Path(member.filename).stem: member for member in archive.infolist()}
        if "train" in members:
            members = {name: member for name, member in members.items() if name in SPLITS}
        elif len(members) == 1:
            members = dict(zip(("train",), members.values(), strict=True))
        else:
            raise ValueError(
                f"{path} has the arrays {', '.join(members) or '(none)'}; expected one, or train and, where there are "
                "such splits, test and valid"
            )
        splits = {}
        for split, member in members.items():
            mappable = member.compress_type == zipfile.ZIP_STORED
            start = _start_of_member(path, member) if mappable else None
            with archive.open(member) as file:
                splits[split] = _read(file, f"{path}: {member.filename}", member.file_size, path, start, resident_bytes)
        return splits


def _start_of_member(path: Path, member: zipfile.ZipInfo) -> int:
    """Where the bytes of an uncompressed member begin: after its local header, name and extra field."""
    with open(path, "rb") as file:
        file.seek(member.header_offset)
        lengths = struct.unpack_from("<HH", file.read(_ZIP_HEADER), _ZIP_LENGTHS)
    return member.header_offset + _ZIP_HEADER + sum(lengths)


def _read(file, what, size: int, path: Path, start: int | None, resident_bytes: int):
    """(data points, shape of one) of the array in a file that is open at its start.

    Args:
        file: binary, where the array is read from.
        what, size: what messages call it, and how many bytes it has.
        path, start: where it can be mapped. None: nowhere.
        resident_bytes: how large an array is read.
    """
    shape, in_fortran_order, dtype, header = _header(file, what)
    channels_last = layout(shape[1:])[1]
    nbytes = math.prod(shape) * dtype.itemsize
    if size - header < nbytes:
        raise ValueError(f"{what} is truncated: it has {size - header} bytes of data, its header promises {nbytes}")
    if nbytes > resident_bytes and start is not None:
        if in_fortran_order:
            raise ValueError(
                f"{what} is in Fortran order, where a data point is scattered over the whole file; save it as "
                "np.ascontiguousarray(array)"
            )
        return StoredRows(path, start + header, shape, dtype, channels_last), shape[1:]
    content = np.empty(nbytes, np.uint8)
    filled = 0
    while filled < nbytes:
        got = file.readinto(memoryview(content)[filled:])
        if not got:
            raise EOFError(f"{what} ends after {filled} of {nbytes} bytes")
        filled += got
    array = content.view(dtype).reshape(shape[::-1]).T if in_fortran_order else content.view(dtype).reshape(shape)
    rows = torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1) if channels_last else array)).flatten(1)
    check_finite(rows, what)
    return rows, shape[1:]


def _header(file, what):
    """(shape, whether in Fortran order, dtype, bytes of the header) of an array that may be data."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, in_fortran_order, dtype = read(file)
    except ValueError as error:
        raise ValueError(f"{what} is truncated or not a .npy file: {error}") from None
    if dtype.hasobject:
        raise ValueError(f"{what} holds Python objects, which are not read: reading them can execute anything")
    if dtype not in DTYPES:
        raise ValueError(f"{what} is of {dtype.str}, expected one of {', '.join(map(str, DTYPES))} of this machine")
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"{what} has shape {shape}, expected [N, *event] with at least one data point")
    return shape, in_fortran_order, dtype, file.tell()


def check_finite(rows: Tensor, what) -> None:
    """Raise ValueError naming the first data point of rows ``[N, D]`` that has a NaN or an infinity."""
    if rows.is_floating_point() and not (finite := rows.isfinite().all(1)).all():
        raise ValueError(f"{what}: data point {int(finite.int().argmin())} has a number that is not finite")


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
