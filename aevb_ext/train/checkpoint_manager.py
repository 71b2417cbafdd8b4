"""The checkpoint manager: keeps the last few checkpoints of a run and the best model, and checks what is resumed."""

import hashlib
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from .._checks import is_count
from .._messages import python_or_flags
from .._types import StrPath
from ..configuration.saved_run import BEST, checkpoints_of
from ..configuration.settings import Settings
from ..data import SPLITS, BinarizedRows, Data, Rows, SubsetRows, rows_of
from ..models import VAE
from ..noise import keys_at
from .checkpoint import bytes_of, plain, read, save_checkpoint, write
from .run import Run

__all__ = [
    "CheckpointManager",
    "check_resume",
    "newest_intact",
    "run_description",
    "sampled_splits",
    "set_damaged_aside",
]

_DAMAGED = ".damaged"

# A split in memory of up to this many bytes is hashed completely, which takes half a second. Of a larger one, or one
# that stays in files, only this many evenly spaced rows are hashed.
_BYTES, _SAMPLE = 1 << 28, 1000
# Bytes gathered at a time.
_CHUNK_BYTES = 1 << 24
# Older checkpoints do not say how many rows their fingerprint has: it was this many, of drawn values if rows draw.
_ROWS_BEFORE = 16

# Settings that may always differ: they only concern logging, evaluation and failures, and change no step.
_HARMLESS = {"log_every", "evaluate_every", "patience", "non_finite"}

_ABSENT = "nothing"


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


def run_description(model: VAE, data: Data, settings: Settings, like: dict[str, Any] | None = None) -> dict[str, Any]:
    """The description of model, data and settings that a checkpoint contains, as JSON types.

    The fingerprint of a split is the SHA-256 of its rows: of all if the split is in memory and has at most 256 MiB,
    else of 1000 evenly spaced ones. ``like`` is a checkpoint's description: the fingerprints then use as many rows.
    """
    about = {"name": data.name, "x_scale": data.x_scale, "image_shape": data.image_shape}
    theirs = like.get("data") if like else None
    for split in SPLITS:
        rows, their = getattr(data, split), theirs.get(split) if isinstance(theirs, dict) else None
        about[split] = None if rows is None else _split(rows_of(rows), their if isinstance(their, dict) else None)
    described: dict[str, Any] = plain({"model": model.config, "data": about, "settings": settings.as_dict()})
    return described


def sampled_splits(about: dict[str, Any]) -> str:
    """Which splits were compared by a sample of their rows only, from a :func:`run_description`; "" if none."""
    splits = {split: about["data"][split] for split in SPLITS if about["data"][split] is not None}
    counts = {split: (told.get("fingerprint_rows", _ROWS_BEFORE), told["count"]) for split, told in splits.items()}
    return ", ".join(
        f"{rows:,} of {count:,} rows of {split}" for split, (rows, count) in counts.items() if rows < count
    )


def check_resume(
    path: StrPath, content: dict[str, Any], now: dict[str, Any], override: Iterable[str] = ()
) -> dict[str, list[Any]]:
    """Compare a checkpoint's content with the :func:`run_description` of the present run, made ``like`` it.

    Names are those of settings, and ``model.X`` and ``data.X``. ``log_every``, ``evaluate_every``, ``patience`` and
    ``non_finite`` may differ, and ``samples_seen`` if the schedule is constant: the steps are the same. The name of the
    data, which may be a path, may differ if the data is the same. Names in ``override`` may differ too; ``"model"`` and
    ``"data"`` stand for all names that begin so.

    Returns:
        The permitted differences: name to ``[old, new]``.

    Raises:
        ValueError: something else differs (the message has each name with the old and the new value); ``override`` has
            an unknown name; the checkpoint holds a model only.
    """
    if not all(isinstance(content.get(key), dict) for key in ("settings", "data", "run")):
        raise ValueError(f"{path} holds a model only: training cannot be resumed from it")
    try:
        # A setting that did not exist yet when the checkpoint was written had its present default.
        old = {**content, "settings": Settings(**content["settings"]).as_dict()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} has other settings than this version knows: {error}") from None
    old, new = _flat(old), _flat(now)
    override = [override] if isinstance(override, str) else list(override)
    for name in override:
        if not any(_covers(name, known) for known in [*old, *new]):
            argument = python_or_flags("override", "--allow-change")
            raise ValueError(f"{argument}: there is no {name!r}; there are {', '.join(sorted(new))}")
    harmless = _HARMLESS | ({"samples_seen"} if old["schedule"] == new["schedule"] == "constant" else set())
    changed = {
        name: [old.get(name, _ABSENT), new.get(name, _ABSENT)]
        for name in dict.fromkeys([*new, *old])
        if old.get(name, _ABSENT) != new.get(name, _ABSENT)
    }
    if not any(_covers("data", name) for name in changed if name != "data.name"):
        harmless |= {"data.name"}
    refused = [n for n in changed if n not in harmless and not any(_covers(o, n) for o in override)]
    if refused:
        told = ", ".join(f"{name}: {changed[name][0]!r} -> {changed[name][1]!r}" for name in refused)
        allowed = python_or_flags(f"override={refused}", " ".join(f"--allow-change {name}" for name in refused))
        raise ValueError(f"the run of {path} is another one ({told}); if that is to change all the same: {allowed}")
    return changed


def _split(rows: Rows, like: dict[str, Any] | None) -> dict[str, Any]:
    about = {
        "count": len(rows),
        "shape": list(rows.event_shape),
        "dtype": str(rows.dtype).removeprefix("torch."),
    }
    if like is not None and "fingerprint_rows" not in like:
        return {**about, "fingerprint": _fingerprint(rows, min(_ROWS_BEFORE, len(rows)))}
    rows = _undrawn(rows)
    count = like["fingerprint_rows"] if like is not None else _fingerprint_rows(rows)
    count = min(count, len(rows)) if is_count(count) else len(rows)
    return {**about, "fingerprint": _fingerprint(rows, count), "fingerprint_rows": count}


def _fingerprint_rows(rows: Rows) -> int:
    small = rows.resident and len(rows) * _bytes_each(rows) <= _BYTES
    return len(rows) if small else min(_SAMPLE, len(rows))


def _fingerprint(rows: Rows, count: int) -> str:
    """The SHA-256 of ``count`` evenly spaced rows, the first and the last included."""
    last = max(0, len(rows) - 1)
    index = torch.arange(count) if count == len(rows) else torch.linspace(0, last, count).long().clamp(max=last)
    digest = hashlib.sha256()
    for part in index.split(max(1, _CHUNK_BYTES // _bytes_each(rows))):
        part = part.to(rows.device)
        some = rows.gather(part, keys_at(0, "evaluation binarize", part)).cpu().contiguous()
        digest.update(bytes_of(some))
    return digest.hexdigest()[:16]


def _bytes_each(rows: Rows) -> int:
    return max(1, rows.event_shape.numel() * rows.dtype.itemsize)


def _undrawn(rows: Rows) -> Rows:
    """The rows that binarised rows are drawn from: a change of the data may not show in a draw."""
    if isinstance(rows, BinarizedRows):
        return rows.rows
    if isinstance(rows, SubsetRows):
        return SubsetRows(_undrawn(rows.rows), rows.index)
    return rows


def _flat(about: dict[str, Any]) -> dict[str, Any]:
    flat = dict(about["settings"])
    for key in ("model", "data"):
        for name, value in (about.get(key) or {}).items():
            # The description of a split is itself a dict.
            parts = value.items() if isinstance(value, dict) else [("", value)]
            flat |= {f"{key}.{name}.{part}".rstrip("."): v for part, v in parts}
    return flat


def _covers(name: str, full: str) -> bool:
    return full == name or full.startswith(f"{name}.")
