"""Representations: ``aevb encode`` and ``aevb probe``."""

import argparse
from functools import partial

from torch import Tensor

from ... import plots
from ..._files import write_whole
from ...progress_bar import bar
from ...uses import L2S, probe_latents, probe_pixels, writing_npz
from .common import model_and_data

__all__ = ["encode", "probe"]


def encode(a: argparse.Namespace) -> None:
    """Write the posteriors of the data points of a split, or a plot of their means."""
    model, data = model_and_data(a)
    x, labels = data.split(a.split)
    with bar("encoding", len(x)) as told:
        mean, logvar = model.encode(x, seed=a.seed, progress=told)
    if a.out.lower().endswith(".png"):
        dims = _dims(a.dims, mean)
        names = dict(enumerate(data.classes)) if data.classes else None
        write_whole(a.out, plots.latents(mean, labels, dims, names))
        return print(f"written to {a.out}: the means of z{dims[0]} and z{dims[1]} of {len(x)} data points")
    arrays = {"mean": mean, "logvar": logvar} | ({} if labels is None else {"labels": labels})
    with writing_npz(a.out) as write:
        for name, array in arrays.items():
            write(name, [array], len(x))
    print(f"written to {a.out}: {', '.join(f'{name} {list(array.shape)}' for name, array in arrays.items())}")


def _dims(asked: list[int] | None, mean: Tensor) -> tuple[int, int]:
    latent = mean.shape[1]
    if asked is None and latent >= 2:
        right, up = mean.var(0).topk(2).indices.sort().values.tolist()
        return right, up
    if asked is None or asked[0] == asked[1] or not all(0 <= dim < latent for dim in asked):
        raise ValueError(f"--dims: a picture is of two of the {latent} dimensions of z, 0 to {latent - 1}, got {asked}")
    return asked[0], asked[1]


def probe(a: argparse.Namespace) -> None:
    """Print the accuracies of linear classifiers."""
    model, data = model_and_data(a)
    for name, run in (("latent means", partial(probe_latents, model)), ("pixels", probe_pixels)):
        with bar(f"a classifier of {name}", len(L2S)) as told:
            found = run(data, progress=told)
        features = found.classifier.weight.shape[1]
        print(f"{name}: accuracy {found} ({found.count} points; {features} features, l2 {found.l2:g})", flush=True)
