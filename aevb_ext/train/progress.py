"""How training goes, on stderr."""

import time

from rich.console import Console

from ..bar import training_bar
from .callbacks import Callback

__all__ = ["Progress"]


class Progress(Callback):
    """A bar with the running bound, KL, rate and time left on a terminal; elsewhere a line an evaluation.

    It is a context manager: leaving it gives the terminal back, also after an exception.

    Args:
        show: whether there is anything to be seen at all.
        console: where. Default: stderr.
    """

    def __init__(self, show: bool = True, console: Console | None = None):
        self._console = console or Console(stderr=True)
        on_terminal = show and self._console.is_terminal
        self._lines = show and not on_terminal
        self._bar = training_bar(self._console, on_terminal)
        self._evaluated, self._log, self._skipped = "", None, ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._bar.stop()

    def on_start(self, run) -> None:
        self._total = run.settings.steps * run.settings.samples_per_step
        self._first, self._started = run.samples_seen, time.perf_counter()
        self._task = self._bar.add_task("training", total=self._total, completed=run.samples_seen, state="")
        if run.sampled:
            self._print(f"the data was compared with the checkpoint's by a sample: {run.sampled}")
        self._bar.start()

    def on_log(self, run, log) -> None:
        self._log = log
        self._skipped = f"  {run.skipped:,} skipped" if run.skipped else ""
        self._bar.update(self._task, completed=log.samples_seen, state=f"{self._state()}{self._evaluated}")

    def on_evaluating(self, run, split, done, count) -> None:
        state = "" if self._log is None else f"{self._state()}  "
        self._bar.update(self._task, state=f"{state}evaluating {split}: {done:,} of {count:,}")

    def on_evaluation(self, run, record) -> None:
        splits = [name for name in ("train", "valid", "test") if getattr(record, name) is not None]
        told = "  ".join(_bound(record, name) for name in splits)
        self._evaluated = f"  {_bound(record, 'test')}"
        if self._lines:
            seen = f"{record.samples_seen:>{len(f'{self._total:,}')},} of {self._total:,} samples"
            self._print(f"{seen}  {self._state()}  {self._left(record.samples_seen)} left  {told} nats")

    def on_end(self, run, result) -> None:
        if result.stopped:
            self._print(f"stopped: {result.stopped}")
        if run.is_silent:
            self._print(f"not trained: none of the {run.steps} steps changed a parameter")
        if result.skipped:
            self._print(f"skipped: {result.skipped:,} updates of the parameters, whose gradient was not finite")
        self._bar.stop()

    def _print(self, line: str) -> None:
        if self._lines or not self._bar.disable:
            # Numbers in colours are for terminals, and so is a line's end where the window ends.
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _left(self, seen: int) -> str:
        taken = time.perf_counter() - self._started
        seconds = round(taken * (self._total - seen) / max(seen - self._first, 1))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"

    def _state(self) -> str:
        log = self._log
        return f"bound {log.bound:.2f}  KL {log.kl:.2f}  {log.rate:,.0f}/s{self._skipped}"


def _bound(record, split: str) -> str:
    skipped = getattr(record, f"{split}_skipped")
    return f"{split} {getattr(record, split):.2f}" + (f" ({skipped} skipped)" if skipped else "")
