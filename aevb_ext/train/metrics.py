"""What a run measures, line by line."""

import json
import math
from dataclasses import asdict
from pathlib import Path

from .._files import atomic_write
from .callbacks import Callback

__all__ = ["MetricsFile"]


class MetricsFile(Callback):
    """A line of JSON for each look at the running bound and for each evaluation.

    ``"event"`` is ``"log"`` or ``"evaluation"``; the rest is what :class:`~aevb_ext.train.Log` and
    :class:`~aevb_ext.train.Record` have, null where a number is not finite. A run that goes on from a checkpoint
    takes back the lines about steps after it, which it will write again.

    Args:
        path: the file. Default: metrics.jsonl in the run's folder.

    Raises:
        ValueError: (at the start) there is neither a path nor a folder.
    """

    def __init__(self, path=None):
        self._path = path

    def on_start(self, run) -> None:
        self.path = path_in(run, self._path, "metrics.jsonl", "MetricsFile")
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").split("\n")[:-1]
        kept = [line for line in lines if json.loads(line)["steps"] <= run.steps]
        with atomic_write(self.path) as file:
            file.write("".join(line + "\n" for line in kept).encode())

    def on_log(self, run, log) -> None:
        self._write("log", log)

    def on_evaluation(self, run, record) -> None:
        self._write("evaluation", record)

    def _write(self, event: str, what) -> None:
        values = {key: value for key, value in asdict(what).items() if value is not None}
        values = {key: value if math.isfinite(value) else None for key, value in values.items()}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, **values}, allow_nan=False) + "\n")


def path_in(run, path, name: str, who: str) -> Path:
    """``path``; or where it is None, ``name`` in the run's folder."""
    if path is not None:
        return Path(path)
    if run.folder is None:
        raise ValueError(f"{who} needs a path: this run has no folder (fit(out=...)) to put {name} into")
    return Path(run.folder) / name
