"""Matrices of counts: sparse ones (CSR) in .npz files, as scipy.sparse.save_npz writes them, and AnnData's .h5ad.

A sparse matrix stays sparse in memory: its rows are made dense a minibatch at a time.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._extras import of_extra
from .._types import Device
from .arrays import check_finite
from .integrity import FileError, reading
from .own_data import FoundData, Labels
from .rows import Rows

__all__ = ["CSR", "CsrRows", "csr_data", "is_sparse", "read_h5ad"]

# The arrays of a CSR matrix in a .npz file.
CSR = ("data", "indices", "indptr", "shape", "format")
# NumPy's dtypes that have no counterpart among those of data, with the smallest that holds their numbers.
_WIDER = {"int8": "int16", "uint16": "int32", "uint32": "int64"}
# What data may be.
_DTYPES = ("bool", "uint8", "int16", "int32", "int64", "float16", "float32", "float64")


class CsrRows:
    """:class:`~aevb_ext.data.Rows` of a sparse matrix in compressed rows: gathering makes only those asked for dense.

    Arguments are the arrays of a CSR matrix as SciPy has them; numbers of the same place are added. They are checked:
    indexing by damaged ones would read elsewhere in memory.

    Args:
        data: ``[nonzero]``, of a dtype of :func:`aevb_ext.poisson_log_prob`'s x, or one that converts to it.
        indices: the column of each number.
        indptr: ``[N + 1]``, where each row begins in these.
        shape: ``(N, columns)``.
        what: what messages call the matrix.

    Raises:
        FileError: they are not a CSR matrix, or a number is not finite. The message names the matrix and the row.
    """

    resident, draws, device = False, False, torch.device("cpu")

    def __init__(
        self, data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, int], what: object = "matrix"
    ):
        _check_csr(data, indices, indptr, shape, what)
        self._values = torch.from_numpy(_of_known_dtype(data, what))
        self._columns = torch.from_numpy(indices.astype(indices.dtype.newbyteorder("="), copy=False))
        self._starts = torch.from_numpy(indptr.astype(np.int64, copy=False))
        self._shape = shape
        self.event_shape, self.dtype = torch.Size(shape[1:]), self._values.dtype
        finite = self._values.isfinite() if self.dtype.is_floating_point else None
        if finite is not None and not finite.all():
            at = int(finite.int().argmin())
            row = int(torch.searchsorted(self._starts, at, right=True)) - 1
            raise FileError(
                f"{what}: row {row}, column {int(self._columns[at])} is {self._values[at].item()}, expected a finite "
                "number"
            )

    def __len__(self) -> int:
        return self._shape[0]

    def gather(self, index: Tensor, keys: Tensor | None = None) -> Tensor:
        """The rows at these indices, dense, on the CPU; ``keys`` is ignored."""
        starts = self._starts[index]
        lengths = self._starts[index + 1] - starts
        # Where the numbers of these rows are: each row's run of places, one after another.
        ends = lengths.cumsum(0)
        places = torch.arange(int(lengths.sum())) + (starts - ends + lengths).repeat_interleave(lengths)
        width = self._shape[1]
        flat = self._columns[places].long() + (torch.arange(len(index)) * width).repeat_interleave(lengths)
        values = self._values[places]
        if self.dtype == torch.bool:
            return torch.zeros(len(index) * width, dtype=torch.bool).index_fill_(0, flat[values], True).view(-1, width)
        return torch.zeros(len(index) * width, dtype=self.dtype).scatter_add_(0, flat, values).view(-1, width)

    def to(self, device: Device) -> "CsrRows":
        """Itself: the matrix stays on the CPU."""
        return self


def _check_csr(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, int], what: object) -> None:
    """Raise FileError unless the arrays are those of a CSR matrix of that shape."""
    rows, columns = shape
    if rows < 1 or columns < 1:
        raise FileError(f"{what} has shape {list(shape)}, expected [N, columns] with at least one of each")
    for name, array in (("data", data), ("indices", indices), ("indptr", indptr)):
        if array.ndim != 1:
            raise FileError(f"{what}: {name} has shape {list(array.shape)}, expected one dimension")
        if name != "data" and array.dtype.kind != "i":
            raise FileError(f"{what}: {name} is of {array.dtype.name}, expected int32 or int64")
    if len(indptr) != rows + 1:
        raise FileError(f"{what}: indptr has {len(indptr)} numbers for {rows} rows, expected {rows + 1}")
    if len(indices) != len(data):
        raise FileError(f"{what}: indices has {len(indices)} numbers and data {len(data)}, expected as many")
    if indptr[0] != 0 or indptr[-1] != len(data):
        raise FileError(
            f"{what}: indptr goes from {indptr[0]} to {indptr[-1]}, expected from 0 to {len(data)}, the length of data"
        )
    if (falls := np.flatnonzero(indptr[1:] < indptr[:-1])).size:
        raise FileError(
            f"{what}: indptr falls from {indptr[falls[0]]} to {indptr[falls[0] + 1]} at row {falls[0]}, expected that "
            "it never falls"
        )
    if indices.size and not (0 <= indices.min() and indices.max() < columns):
        at = int(np.flatnonzero((indices < 0) | (indices >= columns))[0])
        row = int(np.searchsorted(indptr, at, side="right")) - 1
        raise FileError(
            f"{what}: row {row} has a number in column {indices[at]}, expected columns from 0 to {columns - 1}"
        )


def _of_known_dtype(array: np.ndarray, what: object) -> np.ndarray:
    """The array in this machine's byte order, and in a dtype of data that has room for its numbers."""
    name = array.dtype.name
    if name == "uint64" and (not array.size or array.max() < 1 << 63):
        name = "int64"
    name = _WIDER.get(name, name)
    if name not in _DTYPES:
        raise FileError(f"{what} is of {array.dtype.name}, expected one of {', '.join(_DTYPES)}")
    return np.ascontiguousarray(array.astype(name, copy=False))


def is_sparse(names: list[str]) -> bool:
    """Whether a .npz file with these arrays is a sparse matrix of SciPy's."""
    return {"data", "shape", "format"} <= set(names)


def csr_data(arrays: dict[str, np.ndarray | None], path: Path) -> FoundData:
    """The data points of a sparse matrix in a .npz file, given its arrays.

    Raises:
        FileError: it is of another format than CSR, or damaged. The message names the file.
    """
    with reading(path, "a sparse matrix as scipy.sparse.save_npz writes it"):
        form: Any = arrays["format"]
        kind = form.item().decode() if form.dtype.kind == "S" else str(form.item())
        if kind != "csr":
            raise FileError(
                f"{path} is a sparse matrix of format {kind!r}, expected 'csr': scipy.sparse.save_npz(path, "
                "matrix.tocsr())"
            )
        if absent := [name for name in CSR if arrays.get(name) is None]:
            raise FileError(f"{path} is a sparse matrix without {', '.join(absent)}, expected {', '.join(CSR)}")
        data, indices, indptr, shape = (np.asarray(arrays[name]) for name in CSR[:4])
        if shape.shape != (2,) or shape.dtype.kind not in "iu":
            raise FileError(f"{path}: shape is {shape.tolist()}, expected two whole numbers")
        return _found(CsrRows(data, indices, indptr, (int(shape[0]), int(shape[1])), path))


@of_extra("anndata", "a .h5ad file")
def read_h5ad(path: Path) -> FoundData:
    """The data points of an AnnData file: the rows of X, dense or sparse.

    Raises:
        ImportError: anndata is not installed; the message says what to type.
        FileError: the file is damaged, or X is not a matrix of numbers. The message names it.
    """
    import anndata

    with reading(path, "a .h5ad file"):
        matrix: Any = anndata.read_h5ad(path).X
        what = f"{path}: X"
        if matrix is None:
            raise FileError(f"{what} is not there, expected a matrix of counts")
        if hasattr(matrix, "tocsr"):
            csr = matrix.tocsr()
            return _found(CsrRows(csr.data, csr.indices, csr.indptr, tuple(csr.shape), what))
        dense = np.asarray(matrix)
        if dense.ndim != 2 or min(dense.shape) < 1:
            raise FileError(f"{what} has shape {list(dense.shape)}, expected [N, columns] with at least one of each")
        rows = torch.from_numpy(_of_known_dtype(dense, what))
        check_finite(rows, what)
        return _found(rows)


def _found(rows: Tensor | Rows) -> FoundData:
    return FoundData({"train": rows}, None, Labels(), x_scale=1.0)
