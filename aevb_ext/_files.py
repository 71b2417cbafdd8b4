"""Writing files so that a reader never meets half of one."""

import csv
import io
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ._types import StrPath

# What a file is called until it is whole: .NAME.random.part
_PART = ".part"


@contextmanager
def atomic_write(path: StrPath) -> Iterator[BinaryIO]:
    """A binary file that appears at ``path`` whole or not at all, and is on the disk when the block has ended.

    Written next to ``path``, flushed to the disk, then renamed over it. When the block raises, ``path`` stays as it
    was.
    """
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PART)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files for the owner's eyes only; this one is an ordinary file.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    _sync_folder(path.parent)


@contextmanager
def naming(path: StrPath) -> Iterator[None]:
    """A context of writing ``path`` whose OSErrors say so: that of a disk that is full names no file."""
    try:
        yield
    except OSError as error:
        raise type(error)(error.errno, f"cannot be written: {error.strerror}", str(path)) from None


def write_whole(path: StrPath, raw: bytes) -> None:
    """Write a file, whole or not at all; an OSError says which."""
    with naming(path), atomic_write(path) as file:
        file.write(raw)


def write_csv(path: StrPath, header: Iterable[object], rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file, likewise; numbers as short as they can be read back, None as nothing."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(header)
    lines.writerows(rows)
    write_whole(path, text.getvalue().encode())


def is_partial(path: Path) -> bool:
    """Whether it is what a process left that was killed inside :func:`atomic_write`."""
    return path.name.startswith(".") and path.name.endswith(_PART)


def _sync_folder(path: Path) -> None:
    # A rename is on the disk when the folder is. Not every file system can be asked for that.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
