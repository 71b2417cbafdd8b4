"""The runs that a figure needs, and their estimated time."""

import time
from dataclasses import dataclass, fields
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from .. import data as datasets
from .._types import StrPath
from ..configuration.saved_run import CONFIG, SavedRun, open_run
from ..data import Data, load
from ..models import ARCHITECTURES, make_model
from ..train import Settings
from ..train.run import Run

__all__ = ["PlannedRun", "configured", "estimated_seconds", "evaluation_at", "split_keys"]


@dataclass(frozen=True)
class PlannedRun:
    """A run that a figure needs, trained or not.

    Attributes:
        name: the name of its folder.
        keys: the keys of its configuration file, as for ``aevb train``.
    """

    name: str
    keys: dict[str, Any]

    @classmethod
    def of(cls, name: str, keys: dict[str, Any], data_dir: StrPath | None = None) -> "PlannedRun":
        """A planned run whose keys include ``data_dir``, if one is given."""
        return cls(name, keys if data_dir is None else {**keys, "data_dir": str(data_dir)})

    @property
    def samples_seen(self) -> int:
        """Its length in training samples."""
        samples_seen: int = self.keys["samples_seen"]
        return samples_seen

    def saved(self, folder: Path) -> SavedRun | None:
        """The saved run in ``folder``; None if it was not begun.

        Raises:
            ValueError: the folder has another run; the message names the keys that differ.
        """
        path = folder / self.name
        if not (path / CONFIG).is_file():
            return None
        run = open_run(path)
        there = configured(run)
        differ = [
            f"{key}: {there.get(key)!r} there, {value!r} now"
            for key, value in self.keys.items()
            # A longer run can be resumed, and the same data may have moved.
            if there.get(key) != value and key not in ("samples_seen", "data_dir")
        ]
        if differ:
            raise ValueError(f"{path} is another run than the figure needs ({', '.join(differ)}); give another --out")
        return run

    def is_complete(self, folder: Path) -> bool:
        """Whether it was trained for its whole length, or longer."""
        run = self.saved(folder)
        return run is not None and bool(run.evaluations) and run.evaluations[-1]["samples_seen"] >= self.samples_seen


def configured(run: SavedRun) -> dict:
    """Every key of a run, with defaults for those that its configuration does not have."""
    model = run.config.get("model", {})
    build, _ = ARCHITECTURES[model.get("architecture", "mlp")]
    options = {name: p.default for name, p in signature(build).parameters.items() if p.default is not p.empty}
    return {**Settings().as_dict(), **options, **run.config, **model}


def split_keys(keys: dict) -> tuple[dict, dict, dict]:
    """The keys of a run as arguments of :func:`~aevb_ext.data.load`, of Settings and of the model."""
    kinds = (set(signature(load).parameters), {field.name for field in fields(Settings)})
    data, settings = ({key: value for key, value in keys.items() if key in names} for names in kinds)
    return data, settings, {key: value for key, value in keys.items() if key not in {*data, *settings}}


def evaluation_at(run: SavedRun, samples: float) -> dict | None:
    """The evaluation of a run after ``samples``, up to a step or two; None if there was none."""
    near = [line for line in run.evaluations if abs(line["samples_seen"] / samples - 1) < 0.02]
    return min(near, key=lambda line: abs(line["samples_seen"] - samples), default=None)


_SECONDS = 0.3  # how long the steps of each kind of run are timed
_POINTS = 100  # M for the timing: full-batch steps take many seconds, and the time per data point is the same


def estimated_seconds(runs: list[PlannedRun]) -> float:
    """Seconds that the steps of runs take on one core, estimated by timing a few steps of each kind.

    Evaluations are not included, nor the slowdown of processes that run side by side.

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
        run.step()  # a warm-up: the first step allocates
        times: list[float] = []
        ends = time.perf_counter() + _SECONDS
        while not times or time.perf_counter() < ends:
            began, seen = time.perf_counter(), run.samples_seen
            run.step()
            times.append((time.perf_counter() - began) / (run.samples_seen - seen))
    finally:
        run.leave()
    return min(times)
