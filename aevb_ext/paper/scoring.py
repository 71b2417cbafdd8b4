"""Scores of trained models that take a while: computed once, and kept beside the run."""

import json
from collections.abc import Callable

from .. import data as datasets
from ..data import Data
from ..models import VAE
from ..runs import SavedRun
from ..train import load_checkpoint
from .page import write
from .planned import split_keys

__all__ = ["kept"]


def kept(run: SavedRun, name: str, score: Callable[[VAE, Data], dict]) -> dict:
    """What ``score`` gives of the run's best model and its data; of what it gave before, if the run has not gone on.

    Args:
        run: of which the folder has NAME.json afterwards.
        name: of the score.
        score: gives what JSON can hold.
    """
    path, steps = run.folder / f"{name}.json", run.evaluations[-1]["steps"]
    if path.is_file() and (found := json.loads(path.read_text(encoding="utf-8"))).pop("steps", None) == steps:
        return found
    options, _, _ = split_keys(run.config)
    data = datasets.load(options.pop("data"), **options)
    found = score(load_checkpoint(run.folder).model, data)
    write(path, json.dumps({"steps": steps, **found}).encode())
    return found
