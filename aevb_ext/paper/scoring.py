"""Scores of trained models that take a while: computed once, and kept beside the run."""

import json
from collections.abc import Callable
from pathlib import Path

from .. import data as datasets
from .._files import write_whole
from ..bar import bar
from ..runs import SavedRun
from ..train import load_checkpoint
from .planned import split_keys

__all__ = ["kept"]


def kept(run: SavedRun, name: str, score: Callable[..., dict], repeats: int = 1) -> dict:
    """What ``score`` gives of the run's best model; or what it gave before, if the run has not gone on.

    Args:
        run: of which the folder has NAME.json afterwards.
        name: of the score.
        score: called with the model, the test split and ``progress=``; gives what JSON can hold.
        repeats: how often it goes through the test split.
    """
    path, steps = run.folder / f"{name}.json", run.evaluations[-1]["steps"]
    if (found := _read(path)).pop("steps", None) == steps:
        return found
    options, _, _ = split_keys(run.config)
    data = datasets.load(options.pop("data"), **options)
    with bar(f"{run.name}: {name}", repeats * len(data.test)) as progress:
        found = score(load_checkpoint(run.folder).model, data.test, progress=progress)
    write_whole(path, json.dumps({"steps": steps, **found}).encode())
    return found


def _read(path: Path) -> dict:
    """What was kept; nothing where that is not there or was damaged since: it is computed once more."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    numbers = isinstance(found, dict) and all(type(value) in (int, float) for value in found.values())
    return found if numbers else {}
