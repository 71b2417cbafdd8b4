"""The folder of a run: made, found, and put in order before training goes on."""

import os
from pathlib import Path

from .._files import is_partial

__all__ = ["clean", "new_folder", "old_folder"]


def new_folder(path) -> Path:
    """A new folder, or an empty one, that was tried by writing to it.

    Raises:
        FileExistsError: the path is a file, or a folder with something in it.
        OSError: the folder cannot be made or written.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"out: {path} is a file, expected a new or an empty folder")
    if path.is_dir() and not _is_empty(path):
        raise FileExistsError(
            f"out: the folder {path} is not empty; give a new one, remove it, or go on with the run in it (resume)"
        )
    return _tried(path)


def old_folder(path) -> Path:
    """The folder of a run that goes on.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be written.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"resume: there is no folder {path}")
    return _tried(path)


def clean(path: Path) -> None:
    """Remove what a process that was killed had not written to the end."""
    for file in _partial(path):
        os.unlink(file)


def _tried(path: Path) -> Path:
    try:
        (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        probe = path / ".probe.part"
        probe.touch()
        os.unlink(probe)
    except OSError as error:
        raise type(error)(error.errno, f"out: the folder cannot be written: {error.strerror}", str(path)) from None
    return path


def _partial(path: Path) -> list[Path]:
    return [file for file in _inside(path) if is_partial(file)]


def _is_empty(path: Path) -> bool:
    # Nothing but what a run left that was killed before its first checkpoint.
    left = {*_partial(path), path / "checkpoints"}
    return left.issuperset(_inside(path))


def _inside(path: Path) -> list[Path]:
    return [file for folder in (path, path / "checkpoints") if folder.is_dir() for file in folder.iterdir()]
