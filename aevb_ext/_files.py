"""Writing files atomically: a reader never sees half of one."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from ._types import StrPath

# Until a file is complete it is called .NAME.random.part
_PART = ".part"


@contextmanager
def atomic_write(path: StrPath) -> Iterator[BinaryIO]:
    """A binary file that appears at ``path`` complete or not at all, and is on the disk when the block has ended.

    It is written next to ``path``, flushed to the disk, then renamed over it. If the block raises, ``path`` stays as
    it was.
    """
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PART)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp lets only the owner read its files; this one gets an ordinary file's permissions.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    _sync_folder(path.parent)


@contextmanager
def errors_name_path(path: StrPath) -> Iterator[None]:
    """A context of writing ``path``: its OSErrors name the file, which that of a full disk does not by itself."""
    try:
        yield
    except OSError as error:
        raise type(error)(error.errno, f"cannot be written: {error.strerror}", str(path)) from None


def write_whole(path: StrPath, raw: bytes) -> None:
    """Write a file, complete or not at all; an OSError names it."""
    with errors_name_path(path), atomic_write(path) as file:
        file.write(raw)


def write_csv(path: StrPath, header: Iterable[object], rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file, complete or not at all; numbers with the fewest digits that read back exactly, None empty."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(header)
    lines.writerows(rows)
    write_whole(path, text.getvalue().encode())


def is_partial(path: Path) -> bool:
    """Whether the file was left by a process that was killed inside :func:`atomic_write`."""
    return path.name.startswith(".") and path.name.endswith(_PART)


def _sync_folder(path: Path) -> None:
    # A rename is on the disk once the folder is. Not every file system can flush a folder.
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
