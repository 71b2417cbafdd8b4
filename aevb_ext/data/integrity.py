"""Checking that a file is undamaged and the right one."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from .._memory import out_of_memory
from .._types import StrPath

__all__ = ["FileError", "reading", "verify"]


class FileError(ValueError):
    """A file is not what it should be; the message names it."""


@contextmanager
def reading(path: StrPath, kind: str) -> Iterator[None]:
    """A context in which a third-party parser reads a file: any error it raises becomes a FileError that names it.

    Args:
        path: what messages call the file.
        kind: what it should be: "a .npy file".
    """
    try:
        yield
    except FileError:
        raise
    # A damaged file makes parsers raise anything: struct.error, IndexError, SyntaxError, OverflowError, ...
    except Exception as error:
        if out_of_memory(error):  # not the file's fault
            raise
        if isinstance(error, OSError) and error.strerror:
            raise FileError(f"{path} cannot be read: {error.strerror}") from None
        told = " ".join(str(error).split()) or type(error).__name__
        raise FileError(f"{path} is truncated, damaged or not {kind}: {told}") from None


def verify(content: bytes, checksum: str, what: object) -> None:
    """Raise ValueError naming ``what`` unless ``content`` has ``checksum``: ``"md5:..."`` or ``"sha256:..."``."""
    algorithm, _, expected = checksum.partition(":")
    found = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise FileError(f"{what}: its {algorithm} is {found}, expected {expected}: not what it is named after")
