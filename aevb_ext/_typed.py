"""Messages tell people what to type: Python, or flags if they use the command ``aevb``."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["in_shell", "typed"]

_IN_SHELL = ContextVar("in_shell", default=False)


@contextmanager
def in_shell() -> Iterator[None]:
    """A context in which :func:`typed` returns flags."""
    before = _IN_SHELL.set(True)
    try:
        yield
    finally:
        _IN_SHELL.reset(before)


def typed(python: str, flags: str) -> str:
    """``flags`` within the command ``aevb``, else ``python``."""
    return flags if _IN_SHELL.get() else python
