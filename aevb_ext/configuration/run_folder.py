"""The folder of a run while it trains: checked, created and locked."""

from __future__ import annotations

import fcntl
import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .._files import is_partial
from .._messages import python_or_flags

if TYPE_CHECKING:
    from .._types import StrPath

__all__ = ["check_run_folder", "remove_partial_files", "run_folder"]

_LOCK = ".lock"


@contextmanager
def run_folder(path: StrPath, *, resume: bool) -> Iterator[None]:
    """A context of training in a folder: it is created, tested for writing, and locked for the context.

    The lock is a system lock on the file .lock, which names its process. It ends with this process, however that ends.
    On a file system without locks there is a warning instead.

    Args:
        path: a new or empty folder; with ``resume``, the folder of a run.
        resume: whether the run is resumed.

    Raises:
        FileExistsError: the path is a file, or a folder that is not empty.
        FileNotFoundError: there is no folder to resume in.
        BlockingIOError: another run is active in the folder.
        OSError: the folder cannot be made or written.
    """
    path = Path(path)
    _check(path, resume)
    _make(path)
    with _locked(path):
        if not resume:
            # Another run may have started here, and ended, since the folder was checked.
            _check_new(path)
        yield


def check_run_folder(path: StrPath, *, resume: bool) -> None:
    """Raise what :func:`run_folder` would, and leave nothing behind; whether a run is active is not asked."""
    path = Path(path)
    _check(path, resume)
    missing = [folder for folder in (path / "checkpoints", path, *path.parents) if not folder.exists()]
    try:
        _make(path)
    finally:
        for folder in missing:
            with suppress(OSError):  # it could not be made
                folder.rmdir()


def remove_partial_files(path: Path) -> None:
    """Remove incomplete files that a killed process left."""
    for file in _partial(path):
        os.unlink(file)


def _check(path: Path, resume: bool) -> None:
    if not resume:
        _check_new(path)
    elif not path.is_dir():
        raise FileNotFoundError(f"resume: there is no folder {path}")


def _check_new(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"out: {path} is a file, expected a new or an empty folder")
    if path.is_dir() and not _is_empty(path):
        raise FileExistsError(
            f"out: the folder {path} is not empty; give a new one, remove it, or resume the run in it "
            f"({python_or_flags('resume=True', '--resume')})"
        )


def _make(path: Path) -> None:
    try:
        (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        probe = path / ".probe.part"
        probe.touch()
        # Another process that does the same may have removed it.
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise type(error)(error.errno, f"out: the folder cannot be written: {error.strerror}", str(path)) from None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    file = folder / _LOCK
    descriptor = _lock(file)
    try:
        yield
    finally:
        # Removed before it is unlocked, so that nobody locks a file that is about to be removed.
        with suppress(OSError):
            if _is_at(descriptor, file):
                os.unlink(file)
        os.close(descriptor)


def _lock(file: Path) -> int:
    """A descriptor of the file, locked if the file system has locks."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            whose = os.pread(descriptor, 256, 0).decode(errors="replace").strip() or "process unknown"
            os.close(descriptor)
            raise BlockingIOError(
                f"out: a run is active in the folder {file.parent} ({whose}): wait until it has ended, or end it; it "
                "can be resumed from its last checkpoint"
            ) from None
        except OSError as error:
            warnings.warn(
                f"out: the file system of {file.parent} has no locks ({error.strerror}): make sure yourself that no "
                "other run writes there",
                stacklevel=2,
            )
            return descriptor
        if _is_at(descriptor, file):
            break
        # Another run ended, and removed the file, between our opening and our locking it.
        os.close(descriptor)
    # If the disk is full, the lock works without the name of its process.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
    return descriptor


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at the path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _partial(path: Path) -> list[Path]:
    return [file for file in _inside(path) if is_partial(file)]


def _is_empty(path: Path) -> bool:
    # A run that was killed before its first checkpoint leaves only these.
    left = {*_partial(path), path / "checkpoints", path / _LOCK}
    return left.issuperset(_inside(path))


def _inside(path: Path) -> list[Path]:
    return [file for folder in (path, path / "checkpoints") if folder.is_dir() for file in folder.iterdir()]
