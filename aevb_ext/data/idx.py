"""The format of MNIST's files."""

import gzip
import math
from pathlib import Path

import numpy as np

from .integrity import FileError, reading, verify

__all__ = ["read_idx"]

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path, checksum: str | None = None) -> np.ndarray:
    """Read a gzipped idx file (the format of MNIST), uint8 or another of its number types.

    Args:
        path: the file.
        checksum: ``"md5:..."`` or ``"sha256:..."`` of the file; None: not looked at.

    Raises:
        ValueError: not gzip, another magic number, more or fewer bytes than its header promises, or another checksum.
    """
    raw = Path(path).read_bytes()
    with reading(path, "a gzipped idx file"):
        try:
            content = gzip.decompress(raw)
        except gzip.BadGzipFile as error:
            raise FileError(f"{path} is not a gzip file: {error}") from None
        magic = content[:4]
        if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _DTYPES:
            raise FileError(
                f"{path} is not an idx file: its magic number is 0x{magic.hex()}, expected 0x0000 and a type"
            )
        header = 4 + 4 * magic[3]
        shape = tuple(np.frombuffer(content[4:header], ">u4").tolist()) if len(content) >= header else ()
        dtype = np.dtype(_DTYPES[magic[2]])
        expected = header + math.prod(shape) * dtype.itemsize
        if len(shape) != magic[3] or len(content) != expected:
            raise FileError(f"{path} has {len(content)} bytes where its header promises {expected} for shape {shape}")
        if checksum is not None:
            verify(raw, checksum, path)
        return np.frombuffer(content, dtype, offset=header).reshape(shape)
