"""The kinds of values that flags take, as types of argparse: numbers, shapes, files to write."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

__all__ = ["count", "factor", "file_to_write", "shape", "whole"]


def count(text: str) -> int:
    """A whole number of at least 1; 1e6 is one too."""
    value = _integer(text)
    if value is None or not 1 <= value < 1 << 63:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, and less than 2**63, got {text!r}")
    return value


def whole(text: str) -> int:
    """A whole number; 1e6 is one too."""
    value = _integer(text)
    if value is None or not -(1 << 63) <= value < 1 << 64:
        raise argparse.ArgumentTypeError(f"expected a whole number (of 64 bits at most), got {text!r}")
    return value


def _integer(text: str) -> int | None:
    for read in (int, float):
        try:
            value: int | float = read(text)
        except ValueError:
            continue
        # int() of a float is exact.
        return int(value) if isinstance(value, int) or value.is_integer() else None
    return None


def factor(text: str) -> float:
    """A finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a finite number of at least 0, got {text}")
    return value


def shape(text: str) -> tuple[int, ...]:
    """28x28, 3x64x64."""
    sizes = text.lower().split("x")
    if not all(size.strip().isdecimal() for size in sizes):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH, 3xHEIGHTxWIDTH or HEIGHTxWIDTHx3, got {text!r}")
    return tuple(map(int, sizes))


def file_to_write(*suffixes: str) -> Callable[[str], str]:
    """The path of a file with one of these suffixes, in a folder that exists."""

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
            # The name is too long, or has a null character in it.
            raise argparse.ArgumentTypeError(f"{text!r} cannot be a file: {error}") from None
        return text

    return path
