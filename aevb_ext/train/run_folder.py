"""The folder of a run while it is written: new or gone on with, and locked."""

import fcntl
import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .._files import is_partial
from .._typed import typed
from .._types import StrPath

__all__ = ["remove_partial_files", "run_folder"]

_LOCK = ".lock"


@contextmanager
def run_folder(path: StrPath, *, resume: bool) -> Iterator[None]:
    """A context of training in a folder, which is locked meanwhile and was tried by writing to it.

    The lock is the system's, on the file .lock, which says whose it is: it ends with this process, however that ends.
    On a file system that has no locks there is a warning instead.

    Args:
        path: a new folder, or an empty one; with ``resume`` that of a run, which goes on.
        resume: which of the two.

    Raises:
        FileExistsError: the path is a file, or a folder with something in it.
        FileNotFoundError: there is no folder to resume in.
        BlockingIOError: a run that is alive is in the folder.
        OSError: the folder cannot be made or written.
    """
    path = Path(path)
    if not resume:
        _check_new(path)
    elif not path.is_dir():
        raise FileNotFoundError(f"resume: there is no folder {path}")
    _make(path)
    with _locked(path):
        if not resume:
            # A run may have begun in it, and ended, since it was found to be empty.
            _check_new(path)
        yield


def remove_partial_files(path: Path) -> None:
    """Remove what a process that was killed had not written to the end."""
    for file in _partial(path):
        os.unlink(file)


def _check_new(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"out: {path} is a file, expected a new or an empty folder")
    if path.is_dir() and not _is_empty(path):
        raise FileExistsError(
            f"out: the folder {path} is not empty; give a new one, remove it, or go on with the run in it "
            f"({typed('resume=True', '--resume')})"
        )


def _make(path: Path) -> None:
    try:
        (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        probe = path / ".probe.part"
        probe.touch()
        # Of another process that does the same, it may be gone.
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
        # In this order: nobody can lock what is about to be removed.
        with suppress(OSError):
            if _is_at(descriptor, file):
                os.unlink(file)
        os.close(descriptor)


def _lock(file: Path) -> int:
    """A descriptor of the file, locked where the file system can."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            whose = os.pread(descriptor, 256, 0).decode(errors="replace").strip() or "process unknown"
            os.close(descriptor)
            raise BlockingIOError(
                f"out: a run is alive in the folder {file.parent} ({whose}): wait until it has ended, or end it; it "
                "goes on from its last checkpoint"
            ) from None
        except OSError as error:
            warnings.warn(
                f"out: the file system of {file.parent} has no locks ({error.strerror}): see to it yourself that no "
                "other run writes there",
                stacklevel=2,
            )
            return descriptor
        if _is_at(descriptor, file):
            break
        # Removed by a run that ended between our opening and our locking it.
        os.close(descriptor)
    # A disk that is full: the lock is a lock all the same.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
    return descriptor


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one that the path names."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _partial(path: Path) -> list[Path]:
    return [file for file in _inside(path) if is_partial(file)]


def _is_empty(path: Path) -> bool:
    # Nothing but what a run left that was killed before its first checkpoint.
    left = {*_partial(path), path / "checkpoints", path / _LOCK}
    return left.issuperset(_inside(path))


def _inside(path: Path) -> list[Path]:
    return [file for folder in (path, path / "checkpoints") if folder.is_dir() for file in folder.iterdir()]
