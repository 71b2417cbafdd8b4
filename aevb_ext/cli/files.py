"""The files that verbs write: what they may be called is looked at before anything is computed."""

import argparse
from collections.abc import Callable
from pathlib import Path

__all__ = ["file_to_write"]


def file_to_write(*suffixes: str) -> Callable[[str], str]:
    """A type of argparse: the path of a file of one of these kinds, in a folder that there is."""

    def path(text: str) -> str:
        found = Path(text)
        if found.suffix.lower() not in suffixes:
            kinds = " or ".join(f"FILE{suffix}" for suffix in suffixes)
            raise argparse.ArgumentTypeError(f"expected {kinds}, got {text!r}")
        try:
            if found.is_dir():
                raise argparse.ArgumentTypeError(f"{text} is a folder, expected a file to write")
            if not found.parent.is_dir():
                raise argparse.ArgumentTypeError(f"there is no folder {found.parent} to write {found.name} into")
        except (OSError, ValueError) as error:
            # A name that is too long, or has a null in it.
            raise argparse.ArgumentTypeError(f"{text!r} cannot be a file: {error}") from None
        return text

    return path
