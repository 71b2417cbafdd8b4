"""The checkpoint manager: keeps the last few checkpoints of a run, and the best model."""

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
    """Writes ``checkpoints/STEPS.safetensors``, of which the last ``keep`` are kept, and ``best.safetensors``.

    Args:
        run: the run to write. With several processes only the first one writes.
        folder: the folder of the run.
        keep: how many checkpoints are kept.
    """

    def __init__(self, run: Run, folder: Path, keep: int):
        self._run, self._folder, self._keep = run, folder, keep
        # Computed once, since hashing large data takes a while.
        self._about = run_description(run.model, run.data, run.settings) if run.processes.is_first else {}

    def save(self) -> Path | None:
        """Write a checkpoint of the run, then remove the oldest; None in all processes but the first, which writes.

        Raises:
            OSError: it cannot be written; earlier checkpoints are unchanged.
            FloatingPointError: a parameter is not finite; nothing is written.
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
        """Write the model as the best one so far."""
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
    """The newest intact checkpoint, its tensors and its content; warns of newer ones, which are damaged.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: none is intact.
    """
    found = checkpoints_of(folder)
    if not found:
        raise FileNotFoundError(f"resume: there is no checkpoint in {folder / 'checkpoints'} to resume from")
    reasons = []
    for path in reversed(found):
        try:
            tensors, content = read(path)
        except (ValueError, FileNotFoundError) as error:
            reasons.append(str(error))
            continue
        if reasons:
            warnings.warn(f"{'; '.join(reasons)}. The run resumes from {path}, the one before", stacklevel=4)
        return path, tensors, content
    raise ValueError(f"resume: no checkpoint of {folder} is intact: {'; '.join(reasons)}")


def set_damaged_aside(folder: Path, whole: Path) -> None:
    """Rename checkpoints newer than the newest intact one: else they would be kept instead of those written now."""
    for path in checkpoints_of(folder):
        if int(path.stem) > int(whole.stem):
            os.replace(path, path.with_name(path.name + _DAMAGED))
