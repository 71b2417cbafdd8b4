"""Messages: what to type, in Python or as flags of the command ``aevb``; errors and warnings that say all by theirs."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["PlainError", "RepeatedWarning", "first_line", "in_shell", "python_or_flags"]


class PlainError(Exception):
    """An error whose message says what is wrong and what helps: the command ``aevb`` prints no traceback of it."""


class RepeatedWarning(UserWarning):
    """A warning that the command ``aevb`` prints each time, though it comes from the same place."""


_IN_SHELL = ContextVar("in_shell", default=False)


@contextmanager
def in_shell() -> Iterator[None]:
    """A context in which :func:`python_or_flags` returns flags."""
    before = _IN_SHELL.set(True)
    try:
        yield
    finally:
        _IN_SHELL.reset(before)


def python_or_flags(python: str, flags: str) -> str:
    """``flags`` within the command ``aevb``, else ``python``."""
    return flags if _IN_SHELL.get() else python


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if there is no message."""
    return next(iter(str(error).splitlines()), type(error).__name__)
