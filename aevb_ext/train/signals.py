"""Ending a run on SIGTERM or SIGINT."""

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["Signals"]

# The default handlers: a signal with another handler belongs to the program.
_DEFAULTS: dict[int, Callable[[int, FrameType | None], Any] | signal.Handlers] = {
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGINT: signal.default_int_handler,
}


class Signals:
    """A context in which SIGTERM and SIGINT are only recorded; a second signal of the same kind acts as usual.

    Signals that the program handles or ignores itself are left alone, and so are both outside the main thread.

    Args:
        once: ignore the second signal of a kind.

    Attributes:
        received: the number of the first signal, or 0.
    """

    def __init__(self, once: bool = False):
        self.received = 0
        self._once = once
        self._taken: list[int] = []

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            self._taken = [number for number, default in _DEFAULTS.items() if signal.getsignal(number) == default]
        for number in self._taken:
            signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number in self._taken:
            signal.signal(number, _DEFAULTS[number])

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.received = self.received or number
        if not self._once:
            signal.signal(number, _DEFAULTS[number])


def exit_as_signalled(number: int, message: str) -> None:
    """End as the signal would have: KeyboardInterrupt, or exit status 128 + its number after printing the message."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt(message)
    print(message, file=sys.stderr, flush=True)
    raise SystemExit(128 + number)
