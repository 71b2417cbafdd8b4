"""What a run measures, line by line."""

import json
import math
from dataclasses import asdict
from pathlib import Path

from .._files import naming, write_whole
from .callbacks import Callback

__all__ = ["MetricsFile"]


class MetricsFile(Callback):
    """A line of JSON for each look at the running bound and for each evaluation.

    ``"event"`` is ``"log"`` or ``"evaluation"``; the rest is what :class:`~aevb_ext.train.Log` and
    :class:`~aevb_ext.train.Record` have, null where a number is not finite. A run that goes on from a checkpoint
    takes back the lines about steps after it, which it will write again, and writes a line ``"resumed"``, with what has
    ``"changed"``: name to ``[old, new]``.

    Args:
        path: the file. Default: metrics.jsonl in the run's folder.

    Raises:
        ValueError: (at the start) there is neither a path nor a folder.
    """

    def __init__(self, path=None):
        self._path = path

    def on_start(self, run) -> None:
        self.path = path_in(run, self._path, "metrics.jsonl", "MetricsFile")
        _rewind(self.path, run.steps)
        if run.changed is not None:
            at = {"samples_seen": run.samples_seen, "steps": run.steps, "seconds": run.seconds}
            self._write({"event": "resumed", **at, "changed": run.changed})

    def on_log(self, run, log) -> None:
        self._write({"event": "log", **_numbers(log)})

    def on_evaluation(self, run, record) -> None:
        self._write({"event": "evaluation", **_numbers(record)})

    def _write(self, line: dict) -> None:
        with naming(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")


def _numbers(what) -> dict:
    values = {key: value for key, value in asdict(what).items() if value is not None}
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


def _rewind(path: Path, steps: int) -> None:
    """Take back the lines about steps after ``steps``, and those that a process that was killed did not finish."""
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


def path_in(run, path, name: str, who: str) -> Path:
    """``path``; or where it is None, ``name`` in the run's folder."""
    if path is not None:
        return Path(path)
    if run.folder is None:
        raise ValueError(f"{who} needs a path: this run has no folder (fit(out=...)) to put {name} into")
    return Path(run.folder) / name
