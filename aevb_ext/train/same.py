"""Whether a run that goes on is the run that was begun."""

import hashlib
from collections.abc import Iterable

import torch

from ..data import Data, Rows, rows_of
from ..models import VAE
from ..noise import keys_at
from .checkpoint import bytes_of, plain
from .settings import Settings

__all__ = ["check_same", "described"]

# Of each split so many rows stand for all of them.
_ROWS = 16

# What may differ without a word: what is looked at, and what is done when something is wrong. The steps are the same.
_HARMLESS = {"log_every", "evaluate_every", "patience", "non_finite"}

_ABSENT = "nothing"


def described(model: VAE, data: Data, settings: Settings) -> dict:
    """What a checkpoint says of the model, the data and the settings; JSON knows all of it."""
    about = {"name": data.name, "x_scale": data.x_scale, "image_shape": data.image_shape}
    for split in ("train", "test", "valid"):
        rows = getattr(data, split)
        about[split] = None if rows is None else _split(rows_of(rows))
    return plain({"model": model.config, "data": about, "settings": settings.as_dict()})


def check_same(path, content: dict, now: dict, override: Iterable[str] = ()) -> dict[str, list]:
    """Compare what a checkpoint says with what :func:`described` gives now.

    Names are those of settings, and ``model.X`` and ``data.X``. ``log_every``, ``evaluate_every``, ``patience`` and
    ``non_finite`` may differ, and ``samples_seen`` where the schedule is constant: the steps are the same. What
    ``override`` names may differ too, ``"model"`` and ``"data"`` meaning all that begins so.

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
            raise ValueError(f"override: there is no {name!r}; there are {', '.join(sorted(new))}")
    harmless = _HARMLESS | ({"samples_seen"} if old["schedule"] == new["schedule"] == "constant" else set())
    changed = {
        name: [old.get(name, _ABSENT), new.get(name, _ABSENT)]
        for name in dict.fromkeys([*new, *old])
        if old.get(name, _ABSENT) != new.get(name, _ABSENT)
    }
    refused = [n for n in changed if n not in harmless and not any(_covers(o, n) for o in override)]
    if refused:
        told = ", ".join(f"{name}: {changed[name][0]!r} -> {changed[name][1]!r}" for name in refused)
        raise ValueError(
            f"the run of {path} is another one ({told}); name in override (--allow-change) what is to change all the "
            "same"
        )
    return changed


def _split(rows: Rows) -> dict:
    index = torch.linspace(0, max(0, len(rows) - 1), min(_ROWS, len(rows))).long().to(rows.device)
    some = rows.gather(index, keys_at(0, "evaluation binarize", index)).cpu().contiguous()
    return {
        "count": len(rows),
        "shape": list(rows.event_shape),
        "dtype": str(rows.dtype).removeprefix("torch."),
        "fingerprint": hashlib.sha256(bytes_of(some)).hexdigest()[:16],
    }


def _flat(about: dict) -> dict:
    flat = dict(about["settings"])
    for key in ("model", "data"):
        for name, value in (about.get(key) or {}).items():
            # A split is told in numbers of its own.
            parts = value.items() if isinstance(value, dict) else [("", value)]
            flat |= {f"{key}.{name}.{part}".rstrip("."): v for part, v in parts}
    return flat


def _covers(name: str, full: str) -> bool:
    return full == name or full.startswith(f"{name}.")
