"""The runs that a figure needs, and what they will cost."""

import time
from dataclasses import dataclass, fields
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from .. import data as datasets
from .._types import StrPath
from ..data import Data, load
from ..models import ARCHITECTURES, make_model
from ..train import Settings
from ..train.run import Run
from ..train.saved_run import CONFIG, SavedRun, open_run

__all__ = ["PlannedRun", "configured", "estimated_seconds", "evaluation_at", "split_keys"]


@dataclass(frozen=True)
class PlannedRun:
    """A run to be trained, or that was.

    Attributes:
        name: of its folder.
        keys: what ``aevb train`` is given: the keys of its configuration file.
    """

    name: str
    keys: dict[str, Any]

    @classmethod
    def of(cls, name: str, keys: dict[str, Any], data_dir: StrPath | None = None) -> "PlannedRun":
        """With the place of the data where it is not the usual one."""
        return cls(name, keys if data_dir is None else {**keys, "data_dir": str(data_dir)})

    @property
    def samples_seen(self) -> int:
        """How long it is, in training samples."""
        samples_seen: int = self.keys["samples_seen"]
        return samples_seen

    def saved(self, folder: Path) -> SavedRun | None:
        """What there is of it in ``folder``; None before it was begun.

        Raises:
            ValueError: what is there is another run; says in which keys.
        """
        path = folder / self.name
        if not (path / CONFIG).is_file():
            return None
        run = open_run(path)
        there = configured(run)
        differ = [
            f"{key}: {there.get(key)!r} there, {value!r} now"
            for key, value in self.keys.items()
            # A longer run goes on, and the same data may lie elsewhere.
            if there.get(key) != value and key not in ("samples_seen", "data_dir")
        ]
        if differ:
            raise ValueError(f"{path} is another run than the figure needs ({', '.join(differ)}); give another --out")
        return run

    def is_complete(self, folder: Path) -> bool:
        """Whether it was trained to its end, or further."""
        run = self.saved(folder)
        return run is not None and bool(run.evaluations) and run.evaluations[-1]["samples_seen"] >= self.samples_seen


def configured(run: SavedRun) -> dict:
    """Every key of a run; of what its configuration does not name, the default."""
    model = run.config.get("model", {})
    build, _ = ARCHITECTURES[model.get("architecture", "mlp")]
    options = {name: p.default for name, p in signature(build).parameters.items() if p.default is not p.empty}
    return {**Settings().as_dict(), **options, **run.config, **model}


def split_keys(keys: dict) -> tuple[dict, dict, dict]:
    """Keys of a run as arguments: of :func:`~aevb_ext.data.load`, of Settings, of the model."""
    kinds = (set(signature(load).parameters), {field.name for field in fields(Settings)})
    data, settings = ({key: value for key, value in keys.items() if key in names} for names in kinds)
    return data, settings, {key: value for key, value in keys.items() if key not in {*data, *settings}}


def evaluation_at(run: SavedRun, samples: float) -> dict | None:
    """The evaluation of a run after so many samples, to a step or two; None where there was none."""
    near = [line for line in run.evaluations if abs(line["samples_seen"] / samples - 1) < 0.02]
    return min(near, key=lambda line: abs(line["samples_seen"] - samples), default=None)


_SECONDS = 0.3  # how long steps of each kind of run are timed
_POINTS = 100  # M while they are: steps of a full batch take many seconds, and as long for each data point


def estimated_seconds(runs: list[PlannedRun]) -> float:
    """Processor seconds that the steps of runs take on one core, by timing a few steps of each kind.

    Evaluations are not in it, nor what processes side by side take from each other.

    Raises:
        FileNotFoundError, ValueError: data that a run needs is missing or damaged.
    """
    loaded: dict[tuple[Any, ...], Data] = {}
    rates: dict[tuple[Any, ...], float] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        total = 0.0
        for run in runs:
            kind = tuple(sorted((k, v) for k, v in run.keys.items() if k not in ("seed", "samples_seen")))
            if kind not in rates:
                rates[kind] = _seconds_a_sample(run.keys, loaded)
            total += rates[kind] * run.samples_seen
        return total
    finally:
        torch.set_num_threads(threads)


def _seconds_a_sample(keys: dict[str, Any], loaded: dict[tuple[Any, ...], Data]) -> float:
    source, settings, model = split_keys(keys)
    at = tuple(source.items())
    if at not in loaded:
        options = dict(source)
        loaded[at] = datasets.load(options.pop("data"), **options)
    data = loaded[at]
    settings["batch_size"] = min(settings["batch_size"], _POINTS)
    network = make_model(x_dim=data.dim, image_shape=data.image_shape, x_scale=data.x_scale, **model)
    run = Run(network, data, Settings(**settings))
    try:
        run.step()  # The first one allocates.
        times: list[float] = []
        ends = time.perf_counter() + _SECONDS
        while not times or time.perf_counter() < ends:
            began, seen = time.perf_counter(), run.samples_seen
            run.step()
            times.append((time.perf_counter() - began) / (run.samples_seen - seen))
    finally:
        run.leave()
    return min(times)
