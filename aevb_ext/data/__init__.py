"""Datasets; their data points are in memory, on the device, or in files."""

from .._extras import of_extra

with of_extra("train", __name__):  # NumPy
    from .arrays import StoredRows
    from .counts import CsrRows
    from .dataset import SPLITS, Data
    from .download import DownloadError
    from .images import ImageRows
    from .known import read_idx
    from .loading import BINARIZE, NAMES, RESIDENT_BYTES, download, from_dataset, load
    from .prefetch import chunks, first, prefetch
    from .rows import BinarizedRows, BitRows, Rows, SubsetRows, TensorRows, hold_out, rows_of, subset
    from .torch_dataset import DatasetRows

__all__ = [
    "BINARIZE",
    "NAMES",
    "RESIDENT_BYTES",
    "SPLITS",
    "BinarizedRows",
    "BitRows",
    "CsrRows",
    "Data",
    "DatasetRows",
    "DownloadError",
    "ImageRows",
    "Rows",
    "StoredRows",
    "SubsetRows",
    "TensorRows",
    "chunks",
    "download",
    "first",
    "from_dataset",
    "hold_out",
    "load",
    "prefetch",
    "read_idx",
    "rows_of",
    "subset",
]
