"""Writing arrays and scores to files, a block at a time."""

import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO

import numpy as np
from torch import Tensor

from .._files import atomic_write, errors_name_path, write_csv
from .._types import StrPath

__all__ = ["write_npy", "write_scores", "writing_npz"]

Write = Callable[[str, Iterable[Tensor], int], None]


def write_npy(path: StrPath, blocks: Iterable[Tensor], count: int) -> None:
    """Write a .npy file.

    Args:
        path: the file.
        blocks: the array in consecutive parts, at least one, each ``[*, *event]``, of one dtype, on the CPU.
        count: the length of the array, whose shape is ``[count, *event]``.

    Raises:
        OSError: the file cannot be written; the message names it.
        ValueError: the blocks do not have ``count`` rows together, or differ in shape or dtype.
    """
    with errors_name_path(path), atomic_write(path) as file:
        _write(file, blocks, count)


@contextmanager
def writing_npz(path: StrPath) -> Iterator[Write]:
    """A context for writing an uncompressed .npz file; its value is a function ``write(name, blocks, count)``.

    The file appears when the context ends; after an exception it does not.
    """
    with errors_name_path(path), atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:

        def write(name: str, blocks: Iterable[Tensor], count: int) -> None:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                _write(member, blocks, count)

        yield write


def _write(file: IO[bytes], blocks: Iterable[Tensor], count: int) -> None:
    kind, written = None, 0
    for block in blocks:
        array = np.ascontiguousarray(block.numpy())
        if kind is None:
            kind = array.dtype, array.shape[1:]
            header = {"descr": array.dtype.str, "fortran_order": False, "shape": (count, *array.shape[1:])}
            np.lib.format.write_array_header_1_0(file, header)
        if kind != (array.dtype, array.shape[1:]):
            raise ValueError(f"blocks differ: {kind} and then {(array.dtype, array.shape[1:])}")
        file.write(array.tobytes())
        written += len(array)
    if written != count:
        raise ValueError(f"blocks have {written} rows, expected {count}")


def write_scores(path: StrPath, labels: Tensor | None, scores: dict[str, Tensor]) -> None:
    """Write a CSV file with a line for each data point: its index in the split, its label, its scores.

    Args:
        path: the file.
        labels: int64 ``[N]``, or None if they are unknown: then the column is empty.
        scores: the scores ``[N]`` by column name.

    Raises:
        OSError: the file cannot be written; the message names it.
    """
    columns = [values.tolist() for values in scores.values()]
    names = [""] * len(columns[0]) if labels is None else labels.tolist()
    write_csv(path, ["index", "label", *scores], zip(range(len(names)), names, *columns, strict=True))
