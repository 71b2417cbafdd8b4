"""What a message tells people to type: Python, or within the command ``aevb`` its flags."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["in_shell", "typed"]

_IN_SHELL = ContextVar("in_shell", default=False)


@contextmanager
def in_shell() -> Iterator[None]:
    """A context in which :func:`typed` speaks of flags."""
    before = _IN_SHELL.set(True)
    try:
        yield
    finally:
        _IN_SHELL.reset(before)


def typed(python: str, flags: str) -> str:
    """The one or the other, as whoever reads the message would type it."""
    return flags if _IN_SHELL.get() else python
