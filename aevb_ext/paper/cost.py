"""What training runs will cost, measured on this machine before it is paid."""

import time

import torch

from .. import data as datasets
from ..data import Data
from ..models import make_model
from ..train import Settings
from ..train.run import Run
from .planned import Planned, split_keys

__all__ = ["seconds"]

_SECONDS = 0.3  # how long steps of each kind of run are timed
_POINTS = 100  # M while they are: steps of a full batch take many seconds, and as long for each data point


def seconds(runs: list[Planned]) -> float:
    """Processor seconds that the steps of runs take on one core, by timing a few steps of each kind.

    Evaluations are not in it, nor what processes side by side take from each other.

    Raises:
        FileNotFoundError, ValueError: data that a run needs is missing or damaged.
    """
    loaded, rates = {}, {}
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


def _seconds_a_sample(keys: dict, loaded: dict[tuple, Data]) -> float:
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
        times, ends = [], time.perf_counter() + _SECONDS
        while not times or time.perf_counter() < ends:
            began, seen = time.perf_counter(), run.samples_seen
            run.step()
            times.append((time.perf_counter() - began) / (run.samples_seen - seen))
    finally:
        run.leave()
    return min(times)
