"""Whether a run that goes on is the run that was begun."""

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

# A split of so many bytes, in memory, is hashed wholly: half a second. Of one that is larger, or that is read from
# files as it is gathered, so many rows, evenly spread, stand for all of them.
_BYTES, _SAMPLE = 1 << 28, 1000
# Gathered at a time.
_CHUNK_BYTES = 1 << 24
# What checkpoints had that do not say of how many rows their fingerprint is: as they are drawn, where they are drawn.
_ROWS_BEFORE = 16

# What may differ without a word: what is looked at, and what is done when something is wrong. The steps are the same.
_HARMLESS = {"log_every", "evaluate_every", "patience", "non_finite"}

_ABSENT = "nothing"


def run_description(model: VAE, data: Data, settings: Settings, like: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a checkpoint says of the model, the data and the settings; JSON knows all of it.

    The fingerprint of a split is the SHA-256 of its rows: of all where the split is in memory and has at most 256 MiB,
    else of 1000, evenly spread. ``like`` is what a checkpoint says: the fingerprints are then of as many rows as its.
    """
    about = {"name": data.name, "x_scale": data.x_scale, "image_shape": data.image_shape}
    theirs = like.get("data") if like else None
    for split in SPLITS:
        rows, their = getattr(data, split), theirs.get(split) if isinstance(theirs, dict) else None
        about[split] = None if rows is None else _split(rows_of(rows), their if isinstance(their, dict) else None)
    described: dict[str, Any] = plain({"model": model.config, "data": about, "settings": settings.as_dict()})
    return described


def sampled_splits(about: dict[str, Any]) -> str:
    """Which splits are known by a sample of their rows alone, by what :func:`described` gave; "" where none is."""
    splits = {split: about["data"][split] for split in SPLITS if about["data"][split] is not None}
    counts = {split: (told.get("fingerprint_rows", _ROWS_BEFORE), told["count"]) for split, told in splits.items()}
    return ", ".join(
        f"{rows:,} of {count:,} rows of {split}" for split, (rows, count) in counts.items() if rows < count
    )


def check_resume(
    path: StrPath, content: dict[str, Any], now: dict[str, Any], override: Iterable[str] = ()
) -> dict[str, list[Any]]:
    """Compare what a checkpoint says with what :func:`described` gives now, ``like`` it.

    Names are those of settings, and ``model.X`` and ``data.X``. ``log_every``, ``evaluate_every``, ``patience`` and
    ``non_finite`` may differ, and ``samples_seen`` where the schedule is constant: the steps are the same. The name of
    the data, which is the path of one's own files, may differ where the data is the same. What ``override`` names may
    differ too, ``"model"`` and ``"data"`` meaning all that begins so.

    Returns:
        What differs and may: name to ``[old, new]``.

    Raises:
        ValueError: something else differs, with each name, the old and the new value; ``override`` names what there is
            not; the checkpoint holds a model alone.
    """
    if not all(isinstance(content.get(key), dict) for key in ("settings", "data", "run")):
        raise ValueError(f"{path} holds a model alone: training does not go on from it")
    try:
        # A setting that there was not yet when it was written was as its default is.
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
    """The SHA-256 of so many rows: of the first, the last, and some evenly between them."""
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
    """What rows are drawn from, where it is known: a draw shows little of a change."""
    if isinstance(rows, BinarizedRows):
        return rows.rows
    if isinstance(rows, SubsetRows):
        return SubsetRows(_undrawn(rows.rows), rows.index)
    return rows


def _flat(about: dict[str, Any]) -> dict[str, Any]:
    flat = dict(about["settings"])
    for key in ("model", "data"):
        for name, value in (about.get(key) or {}).items():
            # A split is told in numbers of its own.
            parts = value.items() if isinstance(value, dict) else [("", value)]
            flat |= {f"{key}.{name}.{part}".rstrip("."): v for part, v in parts}
    return flat


def _covers(name: str, full: str) -> bool:
    return full == name or full.startswith(f"{name}.")
