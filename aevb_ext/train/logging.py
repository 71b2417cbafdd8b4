"""What a run tells: the progress bar, and the files of its folder."""

import json
import platform
import sys
from dataclasses import asdict

import torch
from tqdm import tqdm

from .. import __version__, plots
from .._files import atomic_write
from .callbacks import Callback

__all__ = ["Progress", "RunFiles"]


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


class RunFiles(Callback):
    """What a run's folder has beside checkpoints: config.json, metrics.jsonl, and the pictures at the end."""

    def on_start(self, run) -> None:
        versions = {"aevb_ext": __version__, "torch": torch.__version__, "python": platform.python_version()}
        config = {"data": run.data.name, "model": run.model.config, **run.settings.as_dict(), **versions}
        with atomic_write(run.folder / "config.json") as file:
            file.write(json.dumps(config, indent=2).encode() + b"\n")

    def on_evaluation(self, run, record) -> None:
        with open(run.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"event": "evaluation", **asdict(record)}) + "\n")

    def on_end(self, run, result) -> None:
        with run.averaged():
            plots.save_all(run.folder, run.model, run.data, run.history, run.settings.seed)
