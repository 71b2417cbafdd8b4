"""What may happen beside training: printing, logging, pictures, a program's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from .run import Log, Record, Result, Run

__all__ = ["Callback"]


class Callback:
    """Subclass it, and give instances to :func:`aevb_ext.train.fit`; each method does nothing by default.

    ``run`` has what there is to see, and ``run.stop(reason)`` ends training after the step. With several processes only
    the first one calls.
    """

    def on_start(self, run: Run) -> None:
        """Before the first step; after a checkpoint was read, where there is one."""

    def on_log(self, run: Run, log: Log) -> None:
        """The means over the last few steps were read from the device."""

    def on_evaluating(self, run: Run, split: str, done: int, count: int) -> None:
        """In an evaluation that takes long: so many of the split's data points are done."""

    def on_evaluation(self, run: Run, record: Record) -> None:
        """The bounds of the splits were evaluated."""

    def on_checkpoint(self, run: Run, path: Path) -> None:
        """A checkpoint was written."""

    def on_end(self, run: Run, result: Result) -> None:
        """After the last step, whatever ended it but an exception."""
