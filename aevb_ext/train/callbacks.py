"""Callbacks: the base class, early stopping, log files, progress bar, pictures, TensorBoard."""

from __future__ import annotations

import json
import math
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import plots
from .._extras import of_extra
from .._files import errors_name_path, write_whole
from .._library import build_info
from .._types import StrPath
from .._version import __version__
from ..progress_bar import training_bar

__all__ = ["Callback", "ConfigFile", "EarlyStopping", "MetricsFile", "Pictures", "Progress", "TensorBoard"]

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from .run import Log, Record, Result, Run


class Callback:
    """The base class of callbacks: pass instances of a subclass to :func:`aevb_ext.train.fit`. Methods do nothing here.

    ``run`` has the state of the run, and ``run.stop(reason)`` ends training after the step. With several processes only
    the first one calls callbacks.
    """

    def on_start(self, run: Run) -> None:
        """Called before the first step, and after the checkpoint was read if the run is resumed."""

    def on_log(self, run: Run, log: Log) -> None:
        """Called when the means over the last steps were read from the device."""

    def on_evaluating(self, run: Run, split: str, done: int, count: int) -> None:
        """Called during a long evaluation: ``done`` of the split's ``count`` data points are done."""

    def on_evaluation(self, run: Run, record: Record) -> None:
        """Called when the bounds of the splits were evaluated."""

    def on_checkpoint(self, run: Run, path: Path) -> None:
        """Called when a checkpoint was written."""

    def on_end(self, run: Run, result: Result) -> None:
        """Called after the last step, unless an exception ended training."""


class EarlyStopping(Callback):
    """Ends a run after ``evaluations`` evaluations without a better held-out bound (:meth:`.Record.held_out`).

    It depends on the history alone: a resumed run ends where it would have ended without interruption.
    """

    def __init__(self, evaluations: int):
        self._evaluations = evaluations

    def on_start(self, run: Run) -> None:
        self._look(run)

    def on_evaluation(self, run: Run, record: Record) -> None:
        self._look(run)

    def _look(self, run: Run) -> None:
        best = run.history.best()
        if best is None:
            return
        # Adagrad's silent steps cannot improve the bound.
        since = max(best.steps, run.learner.schedule.silent)
        if sum(record.steps > since for record in run.history) >= self._evaluations:
            run.stop(
                f"no better bound in {self._evaluations} evaluations: the best was {best.held_out:.2f} nats after "
                f"{best.samples_seen} samples"
            )


class MetricsFile(Callback):
    """Writes a line of JSON for each log of the running bound and for each evaluation.

    ``"event"`` is ``"log"`` or ``"evaluation"``; the other keys are the fields of :class:`~aevb_ext.train.Log` and
    :class:`~aevb_ext.train.Record`, null for a number that is not finite. A resumed run removes the lines of steps
    after its checkpoint, which it will write again, and adds a line ``"resumed"`` with the settings that ``"changed"``:
    name to ``[old, new]``.

    Args:
        path: the file. Default: metrics.jsonl in the run's folder.

    Raises:
        ValueError: (at the start) there is neither a path nor a folder.
    """

    def __init__(self, path: StrPath | None = None):
        self._path = path

    def on_start(self, run: Run) -> None:
        self.path = path_in(run, self._path, "metrics.jsonl", "MetricsFile")
        _rewind(self.path, run.steps)
        if run.changed is not None:
            at = {"samples_seen": run.samples_seen, "steps": run.steps, "seconds": run.seconds}
            self._write({"event": "resumed", **at, "changed": run.changed})

    def on_log(self, run: Run, log: Log) -> None:
        self._write({"event": "log", **_finite_numbers(log)})

    def on_evaluation(self, run: Run, record: Record) -> None:
        self._write({"event": "evaluation", **_finite_numbers(record)})

    def _write(self, line: dict[str, Any]) -> None:
        with errors_name_path(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")


def _finite_numbers(what: Log | Record) -> dict[str, Any]:
    values = {key: value for key, value in asdict(what).items() if value is not None}
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


def _rewind(path: Path, steps: int) -> None:
    """Remove the lines of steps after ``steps``, and an incomplete last line that a killed process left."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["steps"] <= steps:
                kept.append(line)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    write_whole(path, "".join(f"{line}\n" for line in kept).encode())


def path_in(run: Run, path: StrPath | None, name: str, who: str) -> Path:
    """``path``, or ``name`` in the run's folder if it is None."""
    if path is not None:
        return Path(path)
    if run.folder is None:
        raise ValueError(f"{who} needs a path: this run has no folder (fit(out=...)) to put {name} into")
    return Path(run.folder) / name


class ConfigFile(Callback):
    """Writes config.toml (source of the data, settings, model) and environment.json (versions, device)."""

    def on_start(self, run: Run) -> None:
        source = run.data.source or {"data": run.data.name}
        config = {**source, **run.settings.as_dict(), "model": run.model.config or {}}
        environment = {
            "aevb_ext": __version__,
            "commit": build_info()["commit"],
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": str(next(run.model.parameters()).device),
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            "processes": run.processes.world_size,
        }
        for name, text in (("config.toml", _toml(config)), ("environment.json", json.dumps(environment, indent=2))):
            write_whole(path_in(run, None, name, "ConfigFile"), text.encode() + b"\n")


def _toml(table: dict[str, Any]) -> str:
    """A table as TOML. JSON's strings, numbers, booleans and lists are valid TOML; None is left out."""
    lines = [f"{key} = {_value(value)}" for key, value in table.items() if value is not None and not _is_table(value)]
    for key, inner in table.items():
        if _is_table(inner):
            lines += ["", f"[{key}]", _toml(inner)]
    return "\n".join(lines)


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _value(value: object) -> str:
    # DEL is the only character that JSON allows unescaped and TOML does not.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


class Progress(Callback):
    """A bar with the running bound, KL, rate and time left on a terminal; elsewhere a line for each evaluation.

    It is a context manager: leaving it restores the terminal, also after an exception.

    Args:
        console: where it is shown. Default: stderr.
    """

    def __init__(self, console: Console | None = None):
        if console is None:
            with of_extra("train", "a progress bar"):
                from rich.console import Console

            console = Console(stderr=True)
        self._console = console
        on_terminal = self._console.is_terminal
        self._lines = not on_terminal
        self._bar = training_bar(self._console, on_terminal)
        self._evaluated, self._skipped = "", ""
        self._log: Log | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def on_start(self, run: Run) -> None:
        self._total = run.settings.steps * run.settings.samples_per_step
        self._first, self._started = run.samples_seen, time.perf_counter()
        self._task = self._bar.add_task("training", total=self._total, completed=run.samples_seen, state="")
        if run.sampled:
            self._print(f"the data was compared with the checkpoint's by a sample: {run.sampled}")
        self._bar.start()

    def on_log(self, run: Run, log: Log) -> None:
        self._log = log
        self._skipped = f"  {run.skipped:,} skipped" if run.skipped else ""
        self._bar.update(self._task, completed=log.samples_seen, state=f"{self._state()}{self._evaluated}")

    def on_evaluating(self, run: Run, split: str, done: int, count: int) -> None:
        state = "" if self._log is None else f"{self._state()}  "
        self._bar.update(self._task, state=f"{state}evaluating {split}: {done:,} of {count:,}")

    def on_evaluation(self, run: Run, record: Record) -> None:
        splits = [name for name in ("train", "valid", "test") if getattr(record, name) is not None]
        told = "  ".join(_bound(record, name) for name in splits)
        self._evaluated = f"  {_bound(record, 'test')}"
        if self._lines:
            seen = f"{record.samples_seen:>{len(f'{self._total:,}')},} of {self._total:,} samples"
            self._print(f"{seen}  {self._state()}  {self._left(record.samples_seen)} left  {told} nats")

    def on_end(self, run: Run, result: Result) -> None:
        if result.stopped:
            self._print(f"stopped: {result.stopped}")
        if run.is_silent:
            self._print(f"not trained: none of the {run.steps} steps changed a parameter")
        if result.skipped:
            self._print(f"skipped: {result.skipped:,} updates of the parameters, whose gradient was not finite")
        self._bar.stop()

    def _print(self, line: str) -> None:
        if self._lines or not self._bar.disable:
            # Neither coloured numbers nor line breaks at the width of a window.
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _left(self, seen: int) -> str:
        taken = time.perf_counter() - self._started
        seconds = round(taken * (self._total - seen) / max(seen - self._first, 1))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"

    def _state(self) -> str:
        log = self._log
        if log is None:
            return ""
        return f"bound {log.bound:.2f}  KL {log.kl:.2f}  {log.rate:,.0f}/s{self._skipped}"


def _bound(record: Record, split: str) -> str:
    skipped = getattr(record, f"{split}_skipped")
    return f"{split} {getattr(record, split):.2f}" + (f" ({skipped} skipped)" if skipped else "")


class Pictures(Callback):
    """Draws the curve of the bound, reconstructions, samples and the latent manifold, from time to time and at the end.

    Args:
        folder: the folder for the pictures. Default: the run's folder.
        every: the least seconds between two evaluations that draw them; drawing takes about one second.

    Raises:
        ValueError: (at the start) there is neither a folder nor one of the run.
    """

    def __init__(self, folder: StrPath | None = None, every: float = 30.0):
        self._folder, self._every, self._drawn = folder, every, time.perf_counter()

    def on_start(self, run: Run) -> None:
        self.folder = path_in(run, self._folder, "", "Pictures")
        self.folder.mkdir(parents=True, exist_ok=True)

    def on_evaluation(self, run: Run, record: Record) -> None:
        if time.perf_counter() - self._drawn >= self._every:
            self._draw(run)

    def on_end(self, run: Run, result: Result) -> None:
        self._draw(run)

    def _draw(self, run: Run) -> None:
        with run.averaged():
            encodes, settings = run.learner.TRAITS.encodes, run.settings
            plots.save_all(self.folder, run.model, run.data, run.history, settings.seed, encodes, settings.score)
        self._drawn = time.perf_counter()


class TensorBoard(Callback):
    """Writes scalars and pictures for TensorBoard, over training samples seen.

    ``training/...`` is written at each log of the running bound; ``bound/...`` and the pictures at each evaluation. A
    resumed run removes what was written after its checkpoint. Needs the package tensorboard:
    ``pip install tensorboard``.

    Args:
        folder: of the event files. Default: tensorboard in the run's folder.

    Raises:
        ImportError: the package is not installed.
        ValueError: (at the start) there is neither a folder nor one of the run.
    """

    def __init__(self, folder: StrPath | None = None):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ImportError("TensorBoard needs the package tensorboard: pip install tensorboard") from None
        self._make_writer, self._folder = SummaryWriter, folder

    def on_start(self, run: Run) -> None:
        folder = path_in(run, self._folder, "tensorboard", "TensorBoard")
        self._writer = self._make_writer(folder, purge_step=run.samples_seen + 1 if run.steps else None)

    def on_log(self, run: Run, log: Log) -> None:
        for name in ("bound", "reconstruction", "kl", "lr", "beta", "rate"):
            self._writer.add_scalar(f"training/{name}", getattr(log, name), log.samples_seen)

    def on_evaluation(self, run: Run, record: Record) -> None:
        for name in ("train", "valid", "test"):
            if getattr(record, name) is not None:
                self._writer.add_scalar(f"{run.settings.score}/{name}", getattr(record, name), record.samples_seen)
        with run.averaged():
            canvases = plots.canvases(run.model, run.data, run.settings.seed, run.learner.TRAITS.encodes)
        for name, canvas in canvases.items():
            layout = "HW" if canvas.dim() == 2 else "HWC"
            self._writer.add_image(name, canvas.nan_to_num(1), record.samples_seen, dataformats=layout)
        self._writer.flush()

    def on_end(self, run: Run, result: Result) -> None:
        self._writer.close()
