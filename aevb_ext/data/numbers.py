"""Which numbers data may be of, and what they become."""

import numpy as np
import torch

from .integrity import FileError

__all__ = ["NATIVE", "dtype_of", "native"]

# What is taken as it is.
NATIVE = {np.dtype(name): getattr(torch, name) for name in ("bool", "uint8", "float16", "float32", "float64")}


def dtype_of(dtype: np.dtype, what) -> torch.dtype:
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


def native(array: np.ndarray, what) -> np.ndarray:
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
