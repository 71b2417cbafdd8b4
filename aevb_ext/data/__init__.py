"""Data sets, and where their data points are: bytes in memory, on the device, or in files."""

from .download import DownloadError
from .idx import read_idx
from .images import ImageRows
from .loading import BINARIZE, NAMES, RESIDENT_BYTES, download, from_dataset, load
from .prefetch import chunks, first, prefetch
from .rows import BinarizedRows, BitRows, Rows, TensorRows, rows_of
from .sets import SPLITS, Data
from .splits import SubsetRows, hold_out, subset
from .stored import StoredRows
from .torch_dataset import DatasetRows

__all__ = [
    "BINARIZE",
    "NAMES",
    "RESIDENT_BYTES",
    "SPLITS",
    "BinarizedRows",
    "BitRows",
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
