"""Checks that a resumed run has the settings, the model and the data of its checkpoint."""

import hashlib
from collections.abc import Iterable
from typing import Any

import torch

from .._typed import typed
from .._types import StrPath
from ..data import SPLITS, BinarizedRows, Data, Rows, SubsetRows, rows_of
from ..models import VAE
from ..noise import keys_at
from .checkpoint import bytes_of, is_count, plain
from .settings import Settings

__all__ = ["check_resume", "run_description", "sampled_splits"]

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
            raise ValueError(
                f"{typed('override', '--allow-change')}: there is no {name!r}; there are {', '.join(sorted(new))}"
            )
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
        allowed = typed(f"override={refused}", " ".join(f"--allow-change {name}" for name in refused))
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
