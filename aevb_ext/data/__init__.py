"""Data sets, and where their data points are: bytes in memory, on the device, or in files."""

from .rows import BinarizedRows, BitRows, Rows, TensorRows, rows_of
from .sets import NAMES, Data, download, load, read_idx

__all__ = ["NAMES", "BinarizedRows", "BitRows", "Data", "Rows", "TensorRows", "download", "load", "read_idx", "rows_of"]
