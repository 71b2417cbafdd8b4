"""What a run tells: the progress bar, and the files of its folder."""

import json
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from .. import __version__, plots
from .._files import atomic_write
from .callbacks import Callback
from .checkpoint import save_checkpoint

__all__ = ["Progress", "RunFolder"]


class Progress(Callback):
    """The running bound on a terminal; a line an evaluation where output goes to a file."""

    def __init__(self, show: bool):
        on_terminal = sys.stderr.isatty()
        self._lines, self._shows_bar = show and not on_terminal, show and on_terminal
        self._evaluated = ""

    def on_start(self, run) -> None:
        total = run.settings.steps * run.settings.batch_size
        self._bar = tqdm(
            total=total, initial=run.samples_seen, unit=" samples", unit_scale=True, disable=not self._shows_bar
        )

    def on_log(self, run, log) -> None:
        self._bar.set_postfix_str(f"bound {log.bound:.1f}{self._evaluated}", refresh=False)
        self._bar.update(log.samples_seen - self._bar.n)

    def on_evaluation(self, run, record) -> None:
        self._evaluated = f", test {record.test:.1f}"
        if self._lines:
            print(
                f"{record.samples_seen:>11,} samples  {record.seconds:6.1f} s  "
                f"train {record.train:9.2f}  test {record.test:9.2f} nats",
                file=sys.stderr,
                flush=True,
            )

    def on_end(self, run, result) -> None:
        self._bar.close()


class RunFolder(Callback):
    """The folder of a run. Made (or found empty) and tried before any training.

    Raises:
        FileExistsError: the path is a file, or a folder with something in it.
        OSError: the folder cannot be made or written.
    """

    def __init__(self, path):
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"out: {self.path} is a file, expected a new or an empty folder")
        if self.path.is_dir() and any(self.path.iterdir()):
            raise FileExistsError(f"out: the folder {self.path} is not empty; give a new one, or remove it")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".probe"
            probe.touch()
            os.unlink(probe)
        except OSError as error:
            raise type(error)(
                error.errno, f"out: the folder cannot be written: {error.strerror}", str(self.path)
            ) from None

    def on_evaluation(self, run, record) -> None:
        """An evaluation's line of metrics.jsonl, and checkpoint.pt as of now in place of the one before.

        The first one writes config.json too, so that a run that comes to nothing leaves an empty folder.
        """
        if not (self.path / "config.json").exists():
            versions = {"aevb_ext": __version__, "torch": torch.__version__, "python": platform.python_version()}
            config = {"data": run.data.name, "model": run.model.config, **run.settings.as_dict(), **versions}
            with atomic_write(self.path / "config.json") as file:
                file.write(json.dumps(config, indent=2).encode() + b"\n")
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record)) + "\n")
        with run.averaged():
            save_checkpoint(
                self.path / "checkpoint.pt",
                run.model,
                data=run.data.name,
                image_shape=run.data.image_shape,
                samples_seen=record.samples_seen,
            )

    def on_end(self, run, result) -> None:
        with run.averaged():
            plots.save_all(self.path, run.model, run.data, run.history, run.settings.seed)
