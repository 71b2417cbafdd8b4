"""Which checkpoints a run keeps: the last few, and the best model."""

import os
import warnings
from pathlib import Path

import torch

from .checkpoint import BEST, checkpoints_of, read, save_checkpoint, write
from .resume_check import run_description
from .run import Run

__all__ = ["CheckpointManager", "newest_intact", "set_damaged_aside"]

_DAMAGED = ".damaged"


class CheckpointManager:
    """Writes ``checkpoints/STEPS.safetensors``, of which the last ``keep`` stay, and ``best.safetensors``.

    Args:
        run: what is written. With several processes only the first one writes.
        folder: of the run.
        keep: how many checkpoints stay.
    """

    def __init__(self, run: Run, folder: Path, keep: int):
        self._run, self._folder, self._keep = run, folder, keep
        # Of large data it takes a while.
        self._about = run_description(run.model, run.data, run.settings) if run.processes.is_first else {}

    def save(self) -> Path | None:
        """Write a checkpoint of the run as it is now, then remove the oldest; None where another process does that.

        Raises:
            OSError: it cannot be written; those before are as they were.
            FloatingPointError: a parameter is not finite: the checkpoints before are better.
        """
        run = self._run
        if not run.processes.is_first:
            return None
        parameters = [p.isfinite().all() for p in run.model.parameters()]
        if not torch.stack(parameters).all():
            raise FloatingPointError("a parameter is not finite")
        path = self._folder / "checkpoints" / f"{run.steps:09d}.safetensors"
        tensors, values = run.state()
        write(path, tensors, {**self._about, "samples_seen": run.samples_seen, "run": values})
        for old in checkpoints_of(self._folder)[: -self._keep]:
            os.unlink(old)
        run.checkpoint = path
        best = run.history.best()
        if best is not None and best.steps == run.steps:
            self.save_best()
        return path

    def save_best(self) -> None:
        """Write the model as the one with the best bound until now."""
        run = self._run
        with run.averaged():
            save_checkpoint(
                self._folder / BEST,
                run.model,
                data=run.data.name,
                image_shape=run.data.image_shape,
                samples_seen=run.samples_seen,
            )


def newest_intact(folder: Path) -> tuple[Path, dict, dict]:
    """The newest checkpoint that is whole, its tensors and the rest of it; warns of newer ones, which are damaged.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: none is whole.
    """
    found = checkpoints_of(folder)
    if not found:
        raise FileNotFoundError(f"resume: there is no checkpoint in {folder / 'checkpoints'} to go on from")
    reasons = []
    for path in reversed(found):
        try:
            tensors, content = read(path)
        except (ValueError, FileNotFoundError) as error:
            reasons.append(str(error))
            continue
        if reasons:
            warnings.warn(f"{'; '.join(reasons)}. The run goes on from {path}, the one before", stacklevel=4)
        return path, tensors, content
    raise ValueError(f"resume: no checkpoint of {folder} is whole: {'; '.join(reasons)}")


def set_damaged_aside(folder: Path, whole: Path) -> None:
    """Give checkpoints newer than the newest whole one another name: they would outlive those that are written now."""
    for path in checkpoints_of(folder):
        if int(path.stem) > int(whole.stem):
            os.replace(path, path.with_name(path.name + _DAMAGED))
