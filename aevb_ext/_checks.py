"""Checks of the numbers and names that models and training are given."""

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

__all__ = [
    "check_count",
    "check_name",
    "check_positive",
    "check_sizes",
    "is_count",
    "is_python_integer",
    "is_python_number",
]

# Sample counts, steps and seeds are stored in int64 tensors.
_TOO_LARGE = 2**63


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raise ValueError naming ``name`` unless the value is an integer of at least ``least`` that fits int64."""
    if not is_python_integer(value) or value < least:
        raise ValueError(f"{name} must be an integer, at least {least}, got {value!r}")
    if value >= _TOO_LARGE:
        raise ValueError(f"{name} must be an integer below 2**63, got {value!r}")


def check_sizes(**sizes: int) -> None:
    """Raise ValueError naming the first of these that is not an integer of at least 1."""
    for name, size in sizes.items():
        check_count(name, size)


def check_name(name: str, value: object, names: Iterable[str]) -> None:
    """Raise ValueError naming ``name`` unless the value is one of ``names``."""
    if not isinstance(value, str) or value not in names:
        raise ValueError(f"{name} must be one of {', '.join(names)}, got {value!r}")


def check_positive(name: str, value: object) -> None:
    """Raise ValueError naming ``name`` unless the value is a positive, finite number."""
    if not (isinstance(value, Real) and not isinstance(value, bool) and 0 < value < math.inf):  # type: ignore[operator]  # a Real has no order in typeshed
        raise ValueError(f"{name} must be a positive number, got {value!r}")


def is_python_integer(value: object) -> bool:
    """Whether it is an integer of Python's, which True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_python_number(value: object) -> bool:
    """Whether it is an integer or a float, which JSON and TOML can hold."""
    return is_python_integer(value) or isinstance(value, float)


def is_count(value: object) -> bool:
    """Whether a value from JSON is an integer of at least 0."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _TOO_LARGE
