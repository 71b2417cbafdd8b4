"""What a run tells: the progress bar, and the files of its folder."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from .._files import atomic_write
from .checkpoint import save_checkpoint

__all__ = ["Progress", "RunFolder"]


class Progress:
    """The running bound on a terminal; a line an evaluation where output goes to a file."""

    def __init__(self, samples: int, show: bool):
        on_terminal = sys.stderr.isatty()
        self._lines = show and not on_terminal
        self._bar = tqdm(total=samples, unit=" samples", unit_scale=True, disable=not (show and on_terminal))
        self._evaluated = ""

    def update(self, samples: int, running: float) -> None:
        """``samples`` more were seen, with the mean bound ``running``."""
        self._bar.set_postfix_str(f"bound {running:.1f}{self._evaluated}", refresh=False)
        self._bar.update(samples)

    def evaluated(self, record) -> None:
        """The train and test bound were evaluated."""
        self._evaluated = f", test {record.test:.1f}"
        if self._lines:
            print(
                f"{record.samples_seen:>11,} samples  {record.seconds:6.1f} s  "
                f"train {record.train:9.2f}  test {record.test:9.2f} nats",
                file=sys.stderr,
                flush=True,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._bar.close()


class RunFolder:
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

    def write(self, record, model, data, config: dict) -> None:
        """An evaluation's line of metrics.jsonl, and checkpoint.pt as of now in place of the one before.

        The first one writes config.json too, so that a run that comes to nothing leaves an empty folder.
        """
        if not (self.path / "config.json").exists():
            with atomic_write(self.path / "config.json") as file:
                file.write(json.dumps(config, indent=2).encode() + b"\n")
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record)) + "\n")
        save_checkpoint(
            self.path / "checkpoint.pt",
            model,
            data=data.name,
            image_shape=data.image_shape,
            samples_seen=record.samples_seen,
        )
